"""Requests that break off, stall or dawdle: their bytes are kept, and nobody waits for them."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import CHUNKED, Headers, RawClient, chunked
from tusd_py.testing.server import ServerProcess


@pytest.fixture
def impatient(server_with: Callable[..., ServerProcess]) -> RawClient:
    """A client of a server that waits half a second, and records every 50 ms how far an upload is."""
    waits = ["--read-timeout", "500ms", "--keepalive-timeout", "500ms", "--progress-interval", "50ms"]
    return RawClient(server_with(*waits).url)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_cut_body_is_kept(tus: RawClient, framing: str) -> None:
    """What arrived before a connection ended counts."""
    for sent in (1, 3, 100_000):
        url = await tus.create(200_000)
        headers: Headers = {"Content-Length": 200_000}
        body = bytes(sent)
        if framing == "chunked":
            headers = CHUNKED
            body = b"%x\r\n%s\r\n5\r\n" % (sent, body)
        async with tus.connect() as connection:
            await connection.send(tus.patch_message(url, 0, headers=headers) + body)
            connection.end()
            await connection.rest()

        async def kept(url: str = url, sent: int = sent) -> bool:
            return await tus.offset(url) == sent

        await wait_until(kept)
        assert (await tus.patch(url, sent, bytes(200_000 - sent))).status == 204
        assert (await tus.get(url)).body == bytes(200_000)


async def test_complete_body_of_a_client_that_left(tus: RawClient) -> None:
    """A client that closes right after the last byte has uploaded all the same."""
    url = await tus.create(3)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 0, b"abc"))
        connection.end()

    async def complete() -> bool:
        return (await tus.get(url)).body == b"abc"

    await wait_until(complete)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_stalled_patch_hands_over(tus: RawClient, framing: str) -> None:
    """HEAD makes a PATCH stop that receives nothing, and tells the bytes that it brought; a PATCH can follow."""
    url = await tus.create(6)
    async with tus.connect() as connection:
        if framing == "length":
            await connection.send(tus.patch_message(url, 0, headers={"Content-Length": 6}) + b"abc")
        else:
            await connection.send(tus.patch_message(url, 0, headers=CHUNKED) + b"3\r\nabc\r\n")

        async def arrived() -> bool:
            return await tus.offset(url) == 3

        await wait_until(arrived)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (423, "ERR_UPLOAD_INTERRUPTED")
    assert (await tus.patch(url, 3, b"def")).status == 204
    assert (await tus.get(url)).body == b"abcdef"


async def test_offset_that_was_told_stays(impatient: RawClient) -> None:
    """What HEAD told during a PATCH stays true, even if that turns out to bring more than there is room for."""
    url = await impatient.create(300)
    async with impatient.connect() as connection:
        await connection.send(impatient.patch_message(url, 0, headers=CHUNKED))

        async def trickle() -> None:
            while True:
                await connection.send(b"1\r\na\r\n")
                await asyncio.sleep(0.02)  # the client is slow

        trickling = asyncio.create_task(trickle())
        told = await wait_until(lambda: impatient.offset(url))
        trickling.cancel()
        await connection.send(chunked(bytes(300)))
        assert (await connection.answer()).status == 413
    offset = await impatient.offset(url)
    assert offset is not None
    assert offset >= told


async def test_patch_takes_over(tus: RawClient) -> None:
    """A PATCH takes the upload from one that stalls, at the offset that HEAD would tell."""
    url = await tus.create(3)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 0, headers={"Content-Length": 3, "Expect": "100-continue"}))
        assert (await connection.answer()).status == 100
        assert (await tus.patch(url, 0, b"abc")).status == 204
        assert (await connection.answer()).status == 423
    assert (await tus.get(url)).body == b"abc"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_silent_client(impatient: RawClient, framing: str) -> None:
    """A client that stays silent gets 503; its bytes are kept and the upload is free."""
    url = await impatient.create(6)
    async with impatient.connect() as connection:
        if framing == "length":
            await connection.send(impatient.patch_message(url, 0, headers={"Content-Length": 6}) + b"abc")
        else:
            await connection.send(impatient.patch_message(url, 0, headers=CHUNKED) + b"3\r\nabc\r\n2\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.code) == (503, "ERR_READ_TIMEOUT")
        assert "Retry-After" in answer.headers
    assert (await impatient.patch(url, 3, b"def")).status == 204
    assert (await impatient.get(url)).body == b"abcdef"


async def test_slow_client(impatient: RawClient) -> None:
    """The time-out is for silence: a client that takes longer in total, but goes on sending, is served."""
    url = await impatient.create(8)
    started = time.monotonic()
    async with impatient.connect() as connection:
        await connection.send(impatient.patch_message(url, 0, headers={"Content-Length": 8}))
        for _ in range(8):
            await asyncio.sleep(0.1)  # the client is slow
            await connection.send(b"a")
        assert (await connection.answer()).offset == 8
    assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("before", [b"", b"HEAD /files/unknown HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_half_a_head(impatient: RawClient, before: bytes) -> None:
    """A connection on which a head is never completed is closed, no matter how many bytes trickle in."""
    async with impatient.connect() as connection:
        await connection.send(before + b"HEAD /files/unknown HTTP/1.1\r\nHost: a\r\n")
        if before:
            assert (await connection.answer("HEAD")).status == 412
        closed = asyncio.create_task(connection.rest())
        while not closed.done():
            await asyncio.sleep(0.1)  # the client is slow
            await connection.send(b"X: y\r\n")
        assert closed.result() == b""


async def test_silent_connection(impatient: RawClient) -> None:
    """A connection without a request is closed, and so is one after its last answer."""
    async with impatient.connect() as silent, impatient.connect() as idle:
        await idle.send(impatient.message("OPTIONS"))
        assert (await idle.answer()).status == 200
        assert await silent.rest() == b""
        assert await idle.rest() == b""


@pytest.mark.parametrize("ending", ["end", "reset"])
async def test_clients_that_leave(tus: RawClient, server: ServerProcess, ending: str) -> None:
    """A client that does not wait for its answer is no failure of the server, and is not logged as one."""
    url, content = await tus.create(2**22), await tus.create(2**22, body=bytes(2**22))
    messages = [
        tus.patch_message(url, 5, bytes(100_000), {"Content-Length": 2**21}),
        tus.patch_message(url, 5, bytes(10)),
        tus.patch_message(url, 5, chunked(bytes(10)), CHUNKED),
        tus.patch_message(url, 0, headers={"Content-Length": 5, "Expect": "100-continue"}),
        tus.message("GET", content),
        tus.message("HEAD", content),
        tus.message("GET", "/api/uploads"),
        tus.message("GET", f"/api/uploads/{url.rpartition('/')[2]}/events"),
    ]
    for patience in (0, 1, 10, 100):
        for message in messages:
            async with tus.connect() as connection:
                await connection.send(message)
                for _ in range(patience):
                    await asyncio.sleep(0)
                if ending == "end":
                    connection.end()
                    await connection.rest()
                else:
                    connection.reset()
    assert await tus.offset(url) == 0
    assert '"level": "error"' not in server.output()
