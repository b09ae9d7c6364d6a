"""Who holds an upload lets go of it: stalled requests soon, dead processes at once, healthy ones not at all."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tusd_py.lockers.file import FileLocker
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, Answer, RawClient
from tusd_py.testing.server import ServerProcess

HANDOVER_SECONDS = 0.2
DATA = bytes(range(256)) * 400
HALF = len(DATA) // 2

# The tests that share a server; what each does to its own upload does not disturb the others.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server in one process, and its directory."""
    data = tmp_path_factory.mktemp("one")
    with ServerProcess("--upload-dir", str(data), "--log-format", "json", "--lock-timeout", "1s") as server:
        yield server, data
    assert "Traceback" not in server.output(), server.output()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with two workers, and its directory."""
    data = tmp_path_factory.mktemp("two")
    options = ("--workers", "2", "--lock-timeout", "1s")
    with ServerProcess("--upload-dir", str(data), "--log-format", "json", *options) as server:
        yield server, data
    assert "Traceback" not in server.output(), server.output()


def size(data: Path, url: str) -> int:
    """How many bytes of an upload are on the disk."""
    return (data / url.rsplit("/", 1)[-1]).stat().st_size


def content(data: Path, url: str) -> bytes:
    """What is stored of an upload."""
    return (data / url.rsplit("/", 1)[-1]).read_bytes()


async def assert_fast(attempt: Callable[[], Any]) -> None:
    """Check that it can be done in time; the fastest of a few attempts counts, for the machine may be busy."""
    seconds = []
    for _ in range(5):
        seconds.append(await attempt())
        if seconds[-1] < HANDOVER_SECONDS:
            return
    pytest.fail(f"took {seconds} seconds")


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
async def test_stalled_patch(one_process: Any, begin_patch: Any, method: str) -> None:
    """A PATCH on a dead connection hands over to the client's next HEAD or PATCH, with its bytes kept."""
    server, data = one_process
    client = RawClient(server.url)

    async def attempt() -> float:
        url = await client.create(len(DATA))
        async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as stalled:
            await wait_until(lambda: size(data, url) == HALF)
            async with client.connect() as connection:
                seconds, answer = await ask(client, connection, method, url)
            assert (await stalled.answer()).code == "ERR_UPLOAD_INTERRUPTED"
        check_taken_over(answer, method)
        if method == "HEAD":
            assert (await client.patch(url, HALF, DATA[HALF:])).status == 204
        assert content(data, url) == DATA
        return seconds

    await assert_fast(attempt)


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
@pytest.mark.parametrize("holder", [0, 1])
async def test_stalled_patch_on_another_worker(
    two_workers: Any, workers: Any, to_worker: Any, begin_patch: Any, method: str, holder: int
) -> None:
    """It does so also if the next request reaches another process, whichever of the two."""
    server, data = two_workers
    client = RawClient(server.url)
    pids = workers(server)
    assert len(pids) == 2

    async def attempt() -> float:
        url = await client.create(len(DATA))
        async with (
            to_worker(client, server, pids[holder]) as first,
            to_worker(client, server, pids[1 - holder]) as second,
            begin_patch(client, url, 0, len(DATA), DATA[:HALF], over=first) as stalled,
        ):
            await wait_until(lambda: size(data, url) == HALF)
            seconds, answer = await ask(client, second, method, url)
            assert (await stalled.answer()).code == "ERR_UPLOAD_INTERRUPTED"
        check_taken_over(answer, method)
        if method == "HEAD":
            assert (await client.patch(url, HALF, DATA[HALF:])).status == 204
        assert content(data, url) == DATA
        assert len(served_by(server, url)) == 2
        return seconds

    await assert_fast(attempt)


async def ask(client: RawClient, connection: Any, method: str, url: str) -> tuple[float, Answer]:
    """Send the client's next request, and return how long the answer took."""
    headers = {"Upload-Offset": HALF, "Content-Type": OFFSET_STREAM, "Content-Length": len(DATA) - HALF}
    message = client.message(method, url, headers if method == "PATCH" else {})
    started = time.monotonic()
    await connection.send(message + (DATA[HALF:] if method == "PATCH" else b""))
    answer = await connection.answer(method)
    return time.monotonic() - started, answer


def check_taken_over(answer: Answer, method: str) -> None:
    """Check that nothing of the first request was lost."""
    assert (answer.status, answer.offset) == ((200, HALF) if method == "HEAD" else (204, len(DATA)))


def served_by(server: ServerProcess, url: str) -> set[int]:
    """The workers that had requests for an upload."""
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    return {line["worker"] for line in lines if line["event"] == "request" and line["path"] in url}


async def flow(sending: Any, rest: bytes, until: asyncio.Event) -> None:
    """Send bytes little by little until told, then all that is left."""
    while not until.is_set() and len(rest) > 1000:
        await sending.send(rest[:100])
        rest = rest[100:]
        await asyncio.sleep(0.01)
    await sending.send(rest)


@pytest.mark.parametrize("where", ["same process", "other worker"])
async def test_healthy_patch_goes_on(
    one_process: Any, two_workers: Any, workers: Any, to_worker: Any, begin_patch: Any, where: str
) -> None:
    """A HEAD during a PATCH whose bytes flow is answered with a recorded offset, and the PATCH goes on."""
    server, _ = one_process if where == "same process" else two_workers
    client = RawClient(server.url)
    pids = workers(server) or [server.pid]
    url = await client.create(len(DATA))
    done = asyncio.Event()
    async with (
        to_worker(client, server, pids[0]) as first,
        to_worker(client, server, pids[-1]) as second,
        begin_patch(client, url, 0, len(DATA), DATA[:1], over=first) as healthy,
    ):
        flowing = asyncio.create_task(flow(healthy, DATA[1:], done))
        offsets = []
        for _ in range(3):
            await second.send(client.message("HEAD", url))
            answer = await second.answer("HEAD", timeout=2)
            assert answer.status == 200
            offsets.append(answer.offset)
        done.set()
        await flowing
        assert (await healthy.answer()).status == 204
    assert offsets == sorted(offsets)
    assert offsets[-1] < len(DATA)


async def test_busy_patch_gives_way_to_a_patch(one_process: Any, begin_patch: Any) -> None:
    """A second PATCH stops the first even if its bytes flow: the client has given that one up."""
    server, data = one_process
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    done = asyncio.Event()
    async with begin_patch(client, url, 0, len(DATA), DATA[:1]) as first:
        await wait_until(lambda: size(data, url) > 0)
        flowing = asyncio.create_task(flow(first, DATA[1:], done))
        answer = await client.patch(url, 0, DATA)
        assert answer.status == 409
        assert (await first.answer()).code == "ERR_UPLOAD_INTERRUPTED"
        done.set()
        await flowing
    assert answer.offset is not None
    assert (await client.patch(url, answer.offset, DATA[answer.offset :])).status == 204


@pytest.mark.parametrize("state", ["stalled", "flowing"])
async def test_delete_during_patch(one_process: Any, begin_patch: Any, state: str) -> None:
    """DELETE stops a PATCH, and the upload with its bytes is gone."""
    server, data = one_process
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    done = asyncio.Event()
    async with begin_patch(client, url, 0, len(DATA), DATA[:100]) as patch:
        await wait_until(lambda: size(data, url) == 100)
        flowing = asyncio.create_task(flow(patch, DATA[100:], done)) if state == "flowing" else None
        assert (await client.delete(url)).status == 204
        assert (await patch.answer()).code == "ERR_UPLOAD_INTERRUPTED"
        done.set()
        if flowing:
            await flowing
    assert (await client.head(url)).status == 410
    assert (await client.patch(url, 100, DATA[100:])).status == 410
    assert list(data.glob(url.rsplit("/", 1)[-1] + "*")) == []


async def test_status_takes_no_lock(one_process: Any, begin_patch: Any) -> None:
    """Whoever looks at an upload through the status API, or tries to read it, leaves a silent PATCH alone."""
    server, data = one_process
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    upload_id = url.rsplit("/", 1)[-1]
    async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as patch:
        await wait_until(lambda: size(data, url) == HALF)
        for _ in range(3):
            for path in (f"/api/uploads/{upload_id}", "/api/uploads"):
                assert (await client.request("GET", path)).status == 200
            assert (await client.get(url)).status == 404
        await patch.send(DATA[HALF:])
        assert (await patch.answer()).status == 204


async def test_reading_takes_no_lock(one_process: Any) -> None:
    """A finished upload can be read, and asked for, while somebody holds its lock."""
    server, data = one_process
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA)
    locker = FileLocker(data / ".locks")
    await locker.open()
    lock = await locker.acquire(url.rsplit("/", 1)[-1], timeout=1, let_go=lambda urgent: None)
    answer = await client.get(url)
    assert (answer.status, answer.body) == (200, DATA)
    assert (await client.head(url)).offset == len(DATA)
    assert (await client.delete(url)).status == 423
    await lock.release()
    await locker.aclose()
    assert (await client.delete(url)).status == 204


async def test_silent_client(start: Any, begin_patch: Any, stored: Any) -> None:
    """A client that falls silent is cut after the read time-out; its bytes count and the upload is free."""
    server = start("--read-timeout", "300ms")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as silent:
        answer = await silent.answer()
        assert (answer.status, answer.code) == (503, "ERR_READ_TIMEOUT")
        assert "Retry-After" in answer.headers
        assert stored(url) == HALF
        assert (await client.patch(url, HALF, DATA[HALF:])).status == 204


async def test_broken_connection(one_process: Any, begin_patch: Any) -> None:
    """A connection that breaks frees the upload at once, with every byte that reached the server."""
    server, data = one_process
    client = RawClient(server.url)
    for how in ("reset", "end"):
        url = await client.create(len(DATA))
        async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as patch:
            await wait_until(lambda url=url: size(data, url) == HALF)
            getattr(patch.connection, how)()
        assert (await client.patch(url, HALF, DATA[HALF:])).status == 204
        assert content(data, url) == DATA


async def test_stopped_worker(
    start: Any,
    workers: Any,
    to_worker: Any,
    begin_patch: Any,
    stored: Any,
    stop_process: Callable[..., AbstractContextManager[None]],
) -> None:
    """While a process that holds a lock stands still others are told to wait; when it is dead the lock is free."""
    server = start("--workers", "2", "--lock-timeout", "500ms")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    holder, other = workers(server)
    async with (
        to_worker(client, server, holder) as first,
        to_worker(client, server, other) as second,
        begin_patch(client, url, 0, len(DATA), DATA[:HALF], over=first),
    ):
        await wait_until(lambda: stored(url) == HALF)
        with stop_process(holder):
            started = time.monotonic()
            await second.send(patch_message(client, url, HALF))
            answer = await second.answer("PATCH")
            assert (answer.status, answer.code) == (423, "ERR_UPLOAD_LOCKED")
            assert 0.4 < time.monotonic() - started < 5
            await second.send(client.message("HEAD", url))
            answer = await second.answer("HEAD")
            assert answer.status == 200
            assert answer.offset <= HALF
            os.kill(holder, signal.SIGKILL)
            await wait_until(lambda: holder not in workers(server))
            started = time.monotonic()
            await second.send(client.message("HEAD", url))
            assert (await second.answer("HEAD")).offset == HALF
            assert time.monotonic() - started < 0.5
            await second.send(patch_message(client, url, HALF))
            assert (await second.answer("PATCH")).status == 204
    assert (await client.get(url)).body == DATA


async def test_worker_that_wakes_up(
    start: Any, workers: Any, to_worker: Any, begin_patch: Any, stored: Any, stop_process: Any, data: Path
) -> None:
    """A process that stood still while others asked for its lock hands over when it runs again."""
    server = start("--workers", "2", "--lock-timeout", "20s")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    holder, other = workers(server)
    async with (
        to_worker(client, server, holder) as first,
        to_worker(client, server, other) as second,
        begin_patch(client, url, 0, len(DATA), DATA[:HALF], over=first) as stalled,
    ):
        await wait_until(lambda: stored(url) == HALF)
        with stop_process(holder):
            await second.send(patch_message(client, url, HALF))
            with pytest.raises(TimeoutError):
                await second.answer("PATCH", timeout=0.5)
        assert (await second.answer("PATCH")).status == 204
        assert (await stalled.answer()).code == "ERR_UPLOAD_INTERRUPTED"
    assert content(data, url) == DATA


def patch_message(client: RawClient, url: str, offset: int) -> bytes:
    """A PATCH with all bytes from an offset on."""
    headers = {"Upload-Offset": offset, "Content-Type": OFFSET_STREAM, "Content-Length": len(DATA) - offset}
    return client.message("PATCH", url, headers, DATA[offset:])
