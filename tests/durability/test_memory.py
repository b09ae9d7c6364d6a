"""The memory of a server stays bounded whatever clients do."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, Connection, RawClient
from tusd_py.testing.server import ServerProcess

MIB = 1024 * 1024
CLIENTS = 100
SIZE = 2 * MIB
BUFFER_MEMORY = 8 * MIB
# What a connection may hold besides: buffers of asyncio and aiohttp.
PER_CONNECTION = 600 * 1024

SLOW_STORE = """
import asyncio
import pluggy
from tusd_py.stores.file import FileStore

class SlowStore(FileStore):
    async def append(self, upload, body, progress):
        async def slow(offset):
            await asyncio.sleep(0.05)
            await progress(offset)
        return await super().append(upload, body, slow)

@pluggy.HookimplMarker("tusd_py")
def register_stores(register):
    register("store", "slow", "slow_store:SlowStore")
"""


@pytest.fixture
def slow_server(start: Any, data: Path, tmp_path: Path) -> ServerProcess:
    """A server whose store takes its time for every batch."""
    (tmp_path / "slow_store.py").write_text(SLOW_STORE)
    options = ("--plugin", "slow_store", "--store", f"slow:{data}", "--buffer-memory", str(BUFFER_MEMORY))
    server: ServerProcess = start(*options, env={"PYTHONPATH": str(tmp_path)})
    return server


def resident(server: ServerProcess) -> int:
    """The memory that the server's process has now."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def peak(server: ServerProcess) -> AsyncIterator[list[int]]:
    """A list that in the end holds by how many bytes the memory grew at most."""
    before = resident(server)
    most = [0]
    stop = asyncio.Event()

    async def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], resident(server) - before)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        stop.set()
        await watching


async def push(connection: Connection, client: RawClient, url: str, framing: str) -> int:
    """Send a PATCH as fast as the server takes it, and return the status."""
    headers: dict[str, Any] = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM}
    if framing == "length":
        await connection.send(client.message("PATCH", url, {**headers, "Content-Length": SIZE}))
        for _ in range(0, SIZE, 64 * 1024):
            await connection.send(bytes(64 * 1024))
    else:
        await connection.send(client.message("PATCH", url, {**headers, "Transfer-Encoding": "chunked"}))
        # Two bytes of body cost seven of framing: the worst that a client can do to who keeps pieces apart.
        pieces = b"2\r\nxx\r\n" * 8192
        await connection.send(pieces)
        await connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (SIZE - 16384, bytes(SIZE - 16384)))
    return (await connection.answer("PATCH", timeout=60)).status


@pytest.mark.parametrize("framing", ["length", "tiny pieces"])
async def test_slow_store(slow_server: ServerProcess, framing: str) -> None:
    """Many clients that send faster than the store writes wait; their bytes are not piled up."""
    client = RawClient(slow_server.url)
    urls = [await client.create(SIZE) for _ in range(CLIENTS)]
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client.connect()) for _ in urls]
        async with peak(slow_server) as most:
            pushes = [push(c, client, url, framing) for c, url in zip(connections, urls, strict=True)]
            statuses = await asyncio.gather(*pushes)
    assert set(statuses) == {204}
    assert most[0] < BUFFER_MEMORY * 2 + CLIENTS * PER_CONNECTION, f"{most[0] / MIB:.0f} MiB"


async def test_readers_that_do_not_read(start: Any) -> None:
    """Many clients that ask for a large file and do not read it cost little."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(16 * MIB, body=bytes(16 * MIB))
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client.connect()) for _ in range(CLIENTS)]
        async with peak(server) as most:
            for connection in connections:
                await connection.send(client.message("GET", url))
            for connection in connections:
                await wait_until(lambda connection=connection: connection._reader._buffer)
            await asyncio.sleep(0.5)
    assert most[0] < CLIENTS * PER_CONNECTION, f"{most[0] / MIB:.0f} MiB"


async def test_heads_that_never_end(start: Any) -> None:
    """Many clients that send heads without end are refused before they cost much."""
    server = start()
    client = RawClient(server.url)
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client.connect()) for _ in range(CLIENTS)]
        async with peak(server) as most:
            for connection in connections:
                await connection.send(b"POST /files/ HTTP/1.1\r\nX-Long: ")
                for _ in range(16):
                    await connection.send(b"x" * 64 * 1024)
            answers = await asyncio.gather(*(connection.rest() for connection in connections))
    assert most[0] < CLIENTS * PER_CONNECTION, f"{most[0] / MIB:.0f} MiB"
    assert all(answer.startswith(b"HTTP/1.1 400") or not answer for answer in answers)
    assert (await client.request("GET", "/healthz")).status == 200


async def test_bodies_that_nobody_wants(start: Any) -> None:
    """Many clients that send large bodies to what refuses them cost little."""
    server = start()
    client = RawClient(server.url)

    async def send(connection: Connection) -> int:
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": SIZE}
        await connection.send(client.message("PATCH", server.url + "unknown", headers))
        for _ in range(0, SIZE, 64 * 1024):
            await connection.send(bytes(64 * 1024))
        return (await connection.answer("PATCH")).status

    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client.connect()) for _ in range(CLIENTS)]
        async with peak(server) as most:
            statuses = await asyncio.gather(*map(send, connections))
    assert set(statuses) == {404}
    assert most[0] < CLIENTS * PER_CONNECTION, f"{most[0] / MIB:.0f} MiB"
