"""A disk that is full, read-only or gone, and files that are missing: a clear answer each time, and nothing lost."""

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess

MIB = 1024 * 1024
DATA = os.urandom(3 * MIB)


def remount(folder: Path, option: str) -> None:
    """Change an option of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def move(source: Path, target: Path) -> None:
    """Give a directory another name."""
    source.rename(target)


def fill(folder: Path) -> None:
    """Leave no free space."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


# A full disk


@pytest.mark.needs_mount
@pytest.mark.parametrize("records", ["same disk", "other disk"])
async def test_full_disk(start: Any, mount: Any, tmp_path: Path, begin_patch: Any, records: str) -> None:
    """A PATCH that no longer fits gets 507; what was acknowledged is intact, and it goes on when there is space."""
    disk = mount("size=8m")
    other = ["--state", f"sqlite:{tmp_path}/records.db", "--locker", f"file:{tmp_path}/locks"]
    server = start(*(other if records == "other disk" else []), data=disk / "data")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    path = disk / "data" / url.rsplit("/", 1)[-1]
    finished = await client.create(1000, body=DATA[:1000])
    assert (await client.patch(url, 0, DATA[:MIB])).status == 204

    async with begin_patch(client, url, MIB, 2 * MIB, DATA[MIB : MIB + 1000]) as patch:
        await wait_until(lambda: path.stat().st_size >= MIB + 1000)
        fill(disk)
        await patch.send(DATA[MIB + 1000 :])
        answer = await patch.answer()
    assert (answer.status, answer.code) == (507, "ERR_STORAGE_FULL")
    assert "Retry-After" in answer.headers

    offset = await client.offset(url)
    assert offset is not None
    assert MIB + 1000 <= offset < len(DATA)
    assert path.read_bytes() == DATA[:offset]
    for _ in range(2):
        assert (await client.patch(url, offset, DATA[offset:])).status == 507
        assert (await client.offset(url)) == offset
    assert (await client.post({"Upload-Length": 5})).status == 507
    assert (await client.get(finished)).body == DATA[:1000]
    assert (await client.head(finished)).offset == 1000
    assert (await client.request("GET", "/healthz")).status == 200

    (disk / "filler").unlink()
    assert (await client.offset(url)) == offset
    assert (await client.patch(url, offset, DATA[offset:])).status == 204
    assert path.read_bytes() == DATA
    assert (await client.create(5, body=b"again")) != url


@pytest.mark.needs_mount
async def test_full_disk_and_checksum(start: Any, mount: Any) -> None:
    """Of a chunk under a checksum that does not fit on the disk nothing counts, however much of it was written."""
    disk = mount("size=8m")
    server = start(data=disk / "data")
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    assert (await client.patch(url, 0, DATA[:1000])).status == 204
    fill(disk)
    with (disk / "filler").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 200 * 1024)
    # All of the body has arrived when the disk turns out to be full.
    checksum = hashlib.sha1(DATA[1000:MIB]).digest()
    headers = {"Upload-Checksum": f"sha1 {base64.b64encode(checksum).decode()}"}
    answer = await client.patch(url, 1000, DATA[1000:MIB], headers)
    assert (answer.status, answer.code) == (507, "ERR_STORAGE_FULL")
    assert (await client.offset(url)) == 1000
    server.kill()
    (disk / "filler").unlink()
    await asyncio.to_thread(server.start)
    assert (await client.offset(url)) == 1000
    assert (await client.patch(url, 1000, DATA[1000:MIB], headers)).status == 204


@pytest.mark.needs_mount
async def test_delete_on_a_full_disk(start: Any, mount: Any) -> None:
    """An upload can be removed when there is no space left, which makes space."""
    disk = mount("size=8m")
    server = start(data=disk / "data")
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA)
    fill(disk)
    assert (await client.delete(url)).status == 204
    assert (await client.head(url)).status == 410
    assert (await client.create(5, body=b"again")) != url


@pytest.mark.needs_mount
async def test_concatenation_on_a_full_disk(start: Any, mount: Any) -> None:
    """A concatenation that does not fit gets 507, keeps its parts, and is done when it is asked for again."""
    disk = mount("size=8m")
    server = start(data=disk / "data")
    client = RawClient(server.url)
    parts = [await client.create(MIB, {"Upload-Concat": "partial"}, DATA[start : start + MIB]) for start in (0, MIB)]
    fill(disk)
    with (disk / "filler").open("r+b") as file:
        file.truncate(file.seek(0, 2) - MIB)
    headers = {"Upload-Concat": f"final;{' '.join(parts)}"}
    assert (await client.post(headers)).status == 507
    for part in parts:
        assert (await client.head(part)).offset == MIB
    (disk / "filler").unlink()
    answer = await client.post(headers)
    assert answer.status == 201
    assert (await client.get(answer.headers["Location"])).body == DATA[: 2 * MIB]


@pytest.mark.needs_mount
def test_start_on_a_full_disk(start: Any, mount: Any) -> None:
    """A server that cannot even start says that there is no space."""
    disk = mount("size=1m")
    fill(disk)
    with pytest.raises(Exception, match="No space left on device"):
        start(data=disk / "data")


# Too many open files


async def test_too_many_connections(start: Any, begin_patch: Any, stored: Callable[[str], int]) -> None:
    """Connections that the process has no files for get 503; uploads in progress go on, and later ones work."""
    server = start()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (130, 130))
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with contextlib.AsyncExitStack() as stack, begin_patch(client, url, 0, len(DATA), DATA[:MIB]) as patch:
        await wait_until(lambda: stored(url) == MIB)
        kept = []
        for _ in range(40):
            connection = await stack.enter_async_context(client.connect())
            await connection.send(client.message("OPTIONS"))
            kept.append(await connection.answer())
        assert {answer.status for answer in kept} == {200, 503}
        assert kept[-1].body.startswith(b"ERR_UNAVAILABLE")
        assert "Retry-After" in kept[-1].headers
        await patch.send(DATA[MIB : 2 * MIB])
        await wait_until(lambda: stored(url) == 2 * MIB)
        await patch.send(DATA[2 * MIB :])
        assert (await patch.answer()).status == 204
    await works_again(client)
    assert (await client.get(url)).body == DATA


async def test_burst_of_connections(start: Any, begin_patch: Any, stored: Callable[[str], int]) -> None:
    """So many connections at once that even accepting them takes all files: none hangs, and all is well afterwards."""
    server = start()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (100, 100))
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    async with begin_patch(client, url, 0, len(DATA), DATA[:MIB]) as patch:
        await wait_until(lambda: stored(url) == MIB)
        answers = await asyncio.gather(*(client.create(5, body=b"12345") for _ in range(300)), return_exceptions=True)
        unexpected = [
            answer
            for answer in answers
            if not isinstance(answer, str | OSError | asyncio.IncompleteReadError)
            and not (isinstance(answer, AssertionError) and "status=503" in str(answer))
        ]
        assert unexpected == []
        await patch.send(DATA[MIB:])
        assert (await patch.answer()).status in (204, 503)
    await works_again(client)
    for created in answers:
        if isinstance(created, str):
            assert (await client.get(created)).body == b"12345"
    offset = await client.offset(url)
    assert offset is not None
    assert offset >= MIB
    assert (await client.patch(url, offset, DATA[offset:])).status == 204
    assert (await client.get(url)).body == DATA


async def works_again(client: RawClient) -> None:
    """Wait until an upload can be created."""

    async def try_it() -> bool:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            return (await client.post({"Upload-Length": 5}, b"again")).status == 201
        return False

    await wait_until(try_it)


# A directory that cannot be written to


@pytest.mark.needs_mount
async def test_read_only_disk(start: Any, mount: Any, tmp_path: Path) -> None:
    """A disk that turns read-only answers 503 to what needs writing; uploads go on when it is writable again."""
    disk = mount("size=8m")
    server = start("--state", f"sqlite:{tmp_path}/records.db", "--locker", f"file:{tmp_path}/locks", data=disk)
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    assert (await client.patch(url, 0, DATA[:MIB])).status == 204
    finished = await client.create(1000, body=DATA[:1000])
    remount(disk, "ro")
    for answer in (
        await client.patch(url, MIB, DATA[MIB:]),
        await client.post({"Upload-Length": 5}),
        await client.request("GET", "/readyz"),
    ):
        assert answer.status == 503, answer
        assert "Retry-After" in answer.headers
    assert (await client.get(finished)).body == DATA[:1000]
    assert (await client.head(finished)).offset == 1000
    assert (await client.request("GET", "/healthz")).status == 200
    answer = await client.patch(url, MIB, DATA[MIB:])
    assert "read-only" in answer.body.decode()
    assert (await client.offset(url)) == MIB
    remount(disk, "rw")
    assert (await client.patch(url, MIB, DATA[MIB:])).status == 204
    assert (await client.get(url)).body == DATA


# Directories and files that vanish


async def test_vanished_directory(start: Any, data: Path, begin_patch: Any, stored: Callable[[str], int]) -> None:
    """While the directory is away every answer is 503; when it is back, nothing is lost, not even a PATCH meanwhile."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(len(DATA))
    assert (await client.patch(url, 0, DATA[:MIB])).status == 204
    finished = await client.create(1000, body=DATA[:1000])
    other = await client.create(len(DATA))
    away = data.with_name("away")
    async with begin_patch(client, other, 0, len(DATA), DATA[:MIB]) as patch:
        await wait_until(lambda: stored(other) == MIB)
        move(data, away)
        for answer in (
            await client.head(url),
            await client.patch(url, MIB, DATA[MIB:]),
            await client.head(finished),
            await client.get(finished),
            await client.post({"Upload-Length": 5}),
            await client.delete(url),
            await client.head(server.url + "unknown"),
            await client.request("GET", "/readyz"),
        ):
            assert answer.status == 503, answer
        await patch.send(DATA[MIB:])
        assert (await patch.answer()).status == 503
    move(away, data)
    assert (await client.request("GET", "/readyz")).status == 200
    assert (await client.offset(url)) == MIB
    assert (await client.patch(url, MIB, DATA[MIB:])).status == 204
    assert (await client.offset(other)) == len(DATA)
    for whole in (url, other):
        assert (await client.get(whole)).body == DATA
    assert (await client.get(finished)).body == DATA[:1000]


async def test_empty_directory_in_its_place(start: Any, data: Path) -> None:
    """A directory that is empty all at once, as an unmounted volume is, does not pass for one with lost uploads."""
    server = start("--locker", "memory:")
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA[:MIB])
    away = data.with_name("away")
    move(data, away)
    os.mkdir(data)
    for answer in (
        await client.head(url),
        await client.patch(url, MIB, DATA[MIB:]),
        await client.post({"Upload-Length": 5}),
        await client.post({"Upload-Length": 5}, b"12345"),
    ):
        assert answer.status == 503, answer
        assert answer.code in ("", "ERR_STORE_UNAVAILABLE")
    os.rmdir(data)  # nothing was put there
    move(away, data)
    assert (await client.patch(url, MIB, DATA[MIB:])).status == 204
    assert (await client.get(url)).body == DATA


@pytest.mark.parametrize("state", ["unfinished", "finished"])
async def test_lost_file(start: Any, data: Path, state: str) -> None:
    """An upload whose file is gone is lost: 410, its status says so, and others are not concerned."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA if state == "finished" else DATA[:MIB])
    other = await client.create(len(DATA), body=DATA)
    upload_id = url.rsplit("/", 1)[-1]
    (data / upload_id).unlink()
    if state == "finished":
        assert (await client.get(url)).status == 410
    for answer in (await client.head(url), await client.patch(url, MIB, DATA[MIB:]), await client.delete(url)):
        assert answer.status == 410, answer
    details = (await client.request("GET", f"/api/uploads/{upload_id}")).body.decode()
    assert '"status":"lost"' in details
    assert (await client.get(other)).body == DATA


@pytest.mark.parametrize("state", ["unfinished", "finished"])
async def test_shortened_file(start: Any, data: Path, state: str) -> None:
    """An upload that lost acknowledged bytes is lost, not shorter nor filled with zeros; the rest is not removed."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA if state == "finished" else DATA[:MIB])
    path = data / url.rsplit("/", 1)[-1]
    os.truncate(path, 1000)
    offset = len(DATA) if state == "finished" else MIB
    answer = await client.patch(url, offset, DATA[offset:])
    assert answer.status in ((204, 410) if state == "finished" else (410,))
    assert (await client.head(url)).status == 410
    assert (await client.head(url)).status == 410
    assert path.read_bytes() == DATA[:1000]


def test_useless_directory(start: Callable[..., ServerProcess], data: Path) -> None:
    """A directory that cannot be one is named when the server starts."""
    data.write_text("a file")
    with pytest.raises(Exception, match=re.escape(f"cannot use the upload directory {data}")):
        start()


# Bodies that are sent as the upload is created


@pytest.mark.needs_mount
async def test_creation_on_a_full_disk(start: Any, mount: Any) -> None:
    """Creation with bytes that do not fit gets 507, and the server goes on."""
    disk = mount("size=4m")
    server = start(data=disk / "data")
    client = RawClient(server.url)
    headers = {"Upload-Length": 6 * MIB, "Content-Type": OFFSET_STREAM}
    answer = await client.post(headers, os.urandom(6 * MIB))
    assert (answer.status, answer.code) == (507, "ERR_STORAGE_FULL")
    assert (await client.request("GET", "/healthz")).status == 200
