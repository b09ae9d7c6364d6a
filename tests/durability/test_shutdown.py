"""SIGTERM: nothing more is accepted, PATCHes finish or are stopped with their bytes kept, and it does not take long."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

DATA = bytes(range(256)) * 400
HALF = len(DATA) // 2
TIMEOUT_SECONDS = 4  # what the fixture `start` sets
# Python and the workers' parent need a moment of their own, on a busy machine.
SLACK_SECONDS = 3


@pytest.fixture(params=["one process", "two workers"])
def server(start: Any, request: pytest.FixtureRequest) -> ServerProcess:
    """A running server."""
    return start(*([] if request.param == "one process" else ["--workers", "2"]))


async def accepts(client: RawClient) -> bool:
    """Whether the server takes a connection and answers on it."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        return (await client.request("OPTIONS")).status == 200
    return False


async def ended(server: ServerProcess) -> int:
    """Wait until the process has ended, and return its exit code."""
    return await asyncio.to_thread(server.process.wait, 20)


async def test_patch_may_finish(server: ServerProcess, begin_patch: Any, stored: Callable[[str], int]) -> None:
    """A PATCH whose client goes on sending is finished, while new connections are not accepted any more."""
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as patch:
        await wait_until(lambda: stored(url) == HALF)
        server.process.terminate()
        await wait_until(lambda: "stopping" in server.output())
        await asyncio.sleep(0.1)
        await patch.send(DATA[HALF:])
        answer = await patch.answer()
        assert (answer.status, answer.offset) == (204, len(DATA))
        assert answer.headers.get("Connection") == "close"
    assert await ended(server) == 0
    assert not await accepts(client)
    assert stored(url) == len(DATA)


async def test_silent_patch_is_stopped(
    server: ServerProcess, begin_patch: Any, stored: Callable[[str], int], workers: Any
) -> None:
    """A PATCH that does not finish in time gets 503 and Retry-After, its bytes count, and the server exits in time."""
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as patch:
        await wait_until(lambda: stored(url) == HALF)
        started = time.monotonic()
        server.process.terminate()
        answer = await patch.answer()
        assert (answer.status, answer.code) == (503, "ERR_SERVER_SHUTDOWN")
        assert "Retry-After" in answer.headers
        assert await ended(server) == 0
        assert time.monotonic() - started < TIMEOUT_SECONDS + SLACK_SECONDS
    assert workers(server) == []
    await asyncio.to_thread(server.start)
    assert (await client.offset(url)) == HALF
    assert (await client.patch(url, HALF, DATA[HALF:])).status == 204
    assert (await client.get(url)).body == DATA


async def test_kept_connections_are_closed(start: Any, begin_patch: Any, stored: Callable[[str], int]) -> None:
    """A connection that is kept open between requests holds up nothing; a request that comes late gets 503."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with client.connect() as idle, begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as patch:
        await idle.send(client.message("OPTIONS"))
        assert (await idle.answer()).status == 200
        await wait_until(lambda: stored(url) == HALF)
        server.process.terminate()
        await wait_until(lambda: "stopping" in server.output())
        await idle.send(client.message("HEAD", url))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # it may be closed already
            assert (await idle.answer("HEAD")).status == 503
        await patch.send(DATA[HALF:])
        assert (await patch.answer()).status == 204
        assert await ended(server) == 0


async def test_readers_do_not_hold_it_up(start: Any) -> None:
    """A client that downloads and does not read is cut off in time."""
    server = start("--shutdown-timeout", "2s")
    client = RawClient(server.url)
    big = os.urandom(20 * 1024 * 1024)
    url = await client.create(len(big), body=big)
    async with client.connect() as connection:
        await connection.send(client.message("GET", url))
        await wait_until(lambda: connection._reader._buffer)
        started = time.monotonic()
        server.process.terminate()
        assert await ended(server) == 0
        assert time.monotonic() - started < 2 + SLACK_SECONDS


async def test_verified_patch_is_stopped_whole(start: Any, begin_patch: Any, data: Path) -> None:
    """Of a PATCH under a checksum that is stopped nothing counts, and the next start begins before it."""
    server = start("--shutdown-timeout", "1s")
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA[:100])
    headers = {"Upload-Offset": 100, "Content-Type": "application/offset+octet-stream", "Content-Length": len(DATA)}
    digest = "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="
    async with client.connect() as connection:
        message = client.message("PATCH", url, {**headers, "Content-Length": 1000, "Upload-Checksum": digest})
        await connection.send(message + DATA[100:600])
        path = data / url.rsplit("/", 1)[-1]
        await wait_until(lambda: path.stat().st_size == 600)
        server.process.terminate()
        assert (await connection.answer("PATCH")).status == 503
    assert await ended(server) == 0
    await asyncio.to_thread(server.start)
    assert (await client.offset(url)) == 100


async def test_second_signal(server: ServerProcess) -> None:
    """Ctrl-C ends it as SIGTERM does, also when it is pressed twice."""
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)
    assert await ended(server) == 0
    assert "Traceback" not in server.output()


async def test_dead_worker_is_replaced(start: Any, workers: Any, begin_patch: Any, stored: Any, to_worker: Any) -> None:
    """When a worker is killed its uploads go on at the other at once, and the parent starts a new one."""
    server = start("--workers", "2")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    first, second = workers(server)
    async with (
        to_worker(client, server, first) as connection,
        begin_patch(client, url, 0, len(DATA), DATA[:HALF], over=connection),
    ):
        await wait_until(lambda: stored(url) == HALF)
        os.kill(first, signal.SIGKILL)
        assert (await client.offset(url)) == HALF
    await wait_until(lambda: len(workers(server)) == 2)
    assert second in workers(server)
    assert first not in workers(server)
    new = next(pid for pid in workers(server) if pid != second)
    await wait_until(lambda: b"spawn_main" in Path(f"/proc/{new}/cmdline").read_bytes())
    assert (await client.patch(url, HALF, DATA[HALF:])).status == 204


async def test_orphaned_workers_end(start: Any, workers: Any, begin_patch: Any, stored: Any) -> None:
    """Workers whose parent was killed stop in good order: a PATCH in progress may finish, and the port is free."""
    server = start("--workers", "2")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with begin_patch(client, url, 0, len(DATA), DATA[:HALF]) as patch:
        await wait_until(lambda: stored(url) == HALF)
        os.kill(server.pid, signal.SIGKILL)
        await wait_until(lambda: "stopping" in server.output())
        await patch.send(DATA[HALF:])
        assert (await patch.answer()).status == 204
    await asyncio.to_thread(server.process.wait)
    await wait_until(lambda: not workers(server))
    await asyncio.to_thread(server.start)
    assert (await client.get(url)).body == DATA
