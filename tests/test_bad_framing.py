"""Requests whose bytes are no good HTTP: it is never in doubt where a body ends, and nothing of them is done."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import CHUNKED, Headers, RawClient, chunked
from tusd_py.testing.server import ServerProcess


@pytest.mark.parametrize("body", [b"hello!", b"h" * 100_000])
async def test_longer_than_the_upload(tus: RawClient, body: bytes) -> None:
    """A body with more bytes than the upload has left is refused as a whole, announced or not."""
    url = await tus.create(8, body=b"abc")
    assert (await tus.patch(url, 3, body)).refused("ERR_UPLOAD_SIZE_EXCEEDED")
    assert (await tus.patch(url, 3, chunked(body), CHUNKED)).refused("ERR_UPLOAD_SIZE_EXCEEDED")
    assert await tus.offset(url) == 3
    assert (await tus.patch(url, 3, b"hello")).status == 204
    assert (await tus.get(url)).body == b"abchello"


async def test_longer_than_announced(tus: RawClient) -> None:
    """What comes behind the announced length is the next request, and not part of the body."""
    url = await tus.create(8)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 0, b"hello, world", {"Content-Length": 5}))
        assert (await connection.answer()).offset == 5
        assert b" 400 " in await connection.rest()
    assert await tus.offset(url) == 5


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: SIZE",
        b"Content-Length: 5\r\ncontent-length: SIZE",
        b"Content-Length: 5, SIZE",
        b"Content-Length: +SIZE",
        b"Content-Length: -SIZE",
        b"Content-Length: 0xSIZE",
        b"Content-Length: 1_0",
        b"Content-Length: \xd9\xa5",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length:",
        b"Content-Length: five",
        b"Content-Length: SIZE\x0b",
        b"Content-Length: SIZE\x00",
        b"Content-Length : SIZE",
        b"Content-Length\t: SIZE",
        b" Content-Length: SIZE",
        b"X: y\r\n Content-Length: SIZE",
        b"Content-Length: 0\r\n\tSIZE",
        b"X: y\nContent-Length: SIZE",
        b"X: y\rContent-Length: SIZE",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
        b"Content-Length: SIZE\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: SIZE",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding: \xffchunked",
        b": SIZE",
        b"no colon",
        b"X\x00: y",
        b"X: \x00",
        b"X y: z",
    ],
)
async def test_ambiguous_framing(tus: RawClient, fields: bytes) -> None:
    """Where it is not clear where a body ends nothing is done, least of all what stands in it."""
    url = await tus.create(1000)
    smuggled = tus.message("DELETE", url)
    head = tus.patch_message(url, 0, headers={"Content-Length": None})[:-2]
    head += fields.replace(b"SIZE", b"%d" % len(smuggled)) + b"\r\n\r\n"
    async with tus.connect() as connection:
        await connection.send(head + smuggled)
        assert (await connection.answer()).refused()
        connection.end()
        assert b"HTTP/1.1 2" not in await connection.rest()
    assert await tus.offset(url) == 0


@pytest.mark.parametrize("field", ["Tusd-Py-Body-Length: 5", "tusd-py-body-length : 5"])
async def test_header_between_layers(tus: RawClient, field: str) -> None:
    """A header that the server uses between its own layers means nothing when a client sends it."""
    url = await tus.create(5)
    for own, body in (({"Content-Length": None}, b""), ({}, b"hello"), (CHUNKED, chunked(b"hello"))):
        message = tus.patch_message(url, 0, body, own).replace(b"\r\n\r\n", f"\r\n{field}\r\n\r\n".encode(), 1)
        async with tus.connect() as connection:
            await connection.send(message)
            answer = await connection.answer()
        assert answer.status in (204, 400)
        assert await tus.offset(url) == (answer.offset or 0)
        assert answer.offset in (None, 0, 5 if body else 0)
        if answer.offset == 5:
            url = await tus.create(5)


MALFORMED_CHUNKS = [
    b"zz\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhelloworld\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello\r\nzz\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
]


@pytest.mark.parametrize("chunks", MALFORMED_CHUNKS)
async def test_malformed_chunks(tus: RawClient, chunks: bytes) -> None:
    """A body in malformed chunks is refused; the upload can go on from wherever HEAD says."""
    url = await tus.create(10)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 0, chunks, CHUNKED))
        assert (await connection.answer()).refused()
    offset = await tus.offset(url)
    assert offset in (0, 5)
    assert (await tus.patch(url, offset, b"helloworld"[offset:])).status == 204
    assert (await tus.get(url)).body == b"helloworld"


@pytest.mark.parametrize("chunks", MALFORMED_CHUNKS[::3])
async def test_chunks_that_become_malformed(server_with: Callable[..., ServerProcess], chunks: bytes) -> None:
    """So is one whose first chunks were right; those are kept, at the latest when the read time-out ends the wait."""
    waits = ["--read-timeout", "500ms", "--keepalive-timeout", "500ms", "--progress-interval", "50ms"]
    tus = RawClient(server_with(*waits).url)
    url = await tus.create(20)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 0, headers={**CHUNKED, "Expect": "100-continue"}))
        assert (await connection.answer()).status == 100
        await connection.send(b"3\r\nabc\r\n")
        await connection.send(chunks)
        answer = await connection.answer()
        assert answer.refused() or answer.code == "ERR_READ_TIMEOUT"
    offset = await tus.offset(url)
    assert offset in (3, 8)
    assert (await tus.patch(url, offset, bytes(20 - offset))).status == 204
    assert (await tus.get(url)).body[:offset] == b"abchello"[:offset]


# Requests in pieces


async def test_a_byte_at_a_time(tus: RawClient) -> None:
    """A request that arrives byte by byte is the same request."""
    url = await tus.create(5)
    async with tus.connect() as connection:
        for byte in tus.patch_message(url, 0, b"hello"):
            await connection.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await connection.answer()).offset == 5


async def six_of_twelve_are_served(tus: RawClient, url: str) -> bool:
    """Return whether of twelve connections at once six are served, and six told to come back."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(tus.connect()) for _ in range(12)]
        for connection in connections:
            await connection.send(tus.message("HEAD", url))
        statuses = [(await connection.answer("HEAD")).status for connection in connections]
    return sorted(statuses) == [200] * 6 + [503] * 6


async def created(tus: RawClient) -> str | None:
    """Create an upload; the connections of a former test with the same server may not all be closed yet."""
    answer = await tus.post({"Upload-Length": 5})
    assert answer.status in (201, 503), answer
    return answer.headers.get("Location")


@pytest.mark.parametrize("ending", ["end", "reset"])
async def test_cut_at_every_byte_of_the_head(server_with: Callable[..., ServerProcess], ending: str) -> None:
    """Connections that break anywhere in a head do nothing, leave nothing behind, and stop nobody."""
    tus = RawClient(server_with("--max-connections", "6").url)

    async def listing() -> bytes | None:
        answer = await tus.request("GET", "/api/uploads")
        assert answer.status in (200, 503), answer
        return answer.body if answer.status == 200 else None

    url = await wait_until(partial(created, tus))
    listed = await wait_until(listing)
    heads = [
        tus.message("POST", headers={"Upload-Length": 5, "X-HTTP-Method-Override": "POST"}),
        tus.patch_message(url, 0, headers={"Content-Length": 5, "Expect": "100-continue"}),
        tus.message("DELETE", url),
    ]
    for head in heads:
        for count in range(len(head)):
            async with tus.connect() as connection:
                await connection.send(head[:count])
                if ending == "reset":
                    connection.reset()
                else:
                    connection.end()
                    answer = await connection.rest()
                    assert not answer or b" 400 " in answer or b" 503 " in answer

    async def nothing_was_done() -> bool:
        return await listing() == listed

    await wait_until(nothing_was_done)
    await wait_until(partial(six_of_twelve_are_served, tus, url))


async def test_a_connection_too_many_is_told_so(server_with: Callable[..., ServerProcess]) -> None:
    """Connections beyond the limit get a 503 that they can read, even if their request comes late."""
    tus = RawClient(server_with("--max-connections", "6").url)
    url = await wait_until(partial(created, tus))
    await wait_until(partial(six_of_twelve_are_served, tus, url))  # connections of others may still be about to end


async def test_cut_at_every_byte_of_the_body(tus: RawClient) -> None:
    """Of a body that is cut anywhere every byte that arrived is kept, also if the end comes with the head."""
    content = b"0123456789" * 4
    for count in range(1, len(content)):
        url = await tus.create(len(content))
        async with tus.connect() as connection:
            await connection.send(tus.patch_message(url, 0, content)[: count - len(content)])
            connection.end()
            await connection.rest()

        async def kept(url: str = url, count: int = count) -> bool:
            return await tus.offset(url) == count

        await wait_until(kept)
        assert (await tus.patch(url, count, content[count:])).status == 204
        assert (await tus.get(url)).body == content


# Heads that are too much


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("", {"X-Large": "x" * 70_000}),
        ("", {"X-Large": "x" * 2_000_000}),
        ("", {"x" * 70_000: "y"}),
        ("", {"X-Many": ["y"] * 20_000}),
        ("/files/" + "x" * 70_000, {}),
        ("/files/?" + "x" * 70_000, {}),
        ("", {"Upload-Metadata": "name " + "YWFh" * 20_000}),
    ],
)
async def test_large_heads(tus: RawClient, target: str, headers: Headers) -> None:
    """A head of more than 64 KiB is refused in so many words, and nothing is made."""
    async with tus.connect() as connection:
        await connection.send(tus.message("POST", target, {"Upload-Length": 5, **headers}))
        answer = await connection.answer()
        assert answer.refused()
        assert len(answer.body) < 1000
    assert (await tus.post({"Upload-Length": 5})).status == 201


async def test_head_below_the_limit(tus: RawClient) -> None:
    """One of 50,000 bytes is taken."""
    assert (await tus.post({"Upload-Length": 5, "Authorization": "Bearer " + "x" * 50_000})).status == 201


# What is no HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\0" * 1000,
        b"\xff" * 1000,
        b"POST\r\n\r\n",
        b"POST /files/\r\n\r\n",
        b"POST /files/ HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\r\n",
        b"POST /files/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\r\n",
        b"POST /files/ HTTP/1.1\nHost: a\nTus-Resumable: 1.0.0\nUpload-Length: 5\n\n",
        b"POST /files/ HTTP/1.1\rHost: a\rTus-Resumable: 1.0.0\rUpload-Length: 5\r\r\r\n\r\n",
        b"POST /files/ HTTP/9.9\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\r\n",
        b"POST /files/ HTTP/1.1 \r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\r\n",
        b"POST files HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\r\n",
        b"POST http://[/files/ HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\r\n",
    ],
)
async def test_no_http(tus: RawClient, data: bytes) -> None:
    """What is no request is refused, whatever protocol it may be of, and makes nothing."""
    listed = (await tus.request("GET", "/api/uploads")).body
    async with tus.connect() as connection:
        await connection.send(data)
        assert (await connection.answer()).refused()
    assert (await tus.request("GET", "/api/uploads")).body == listed
