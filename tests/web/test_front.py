"""The data plane, over real connections: where a body begins and ends, and who holds what."""

import asyncio
import os
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tusd_py.body import BUFFER_BYTES, Memory
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess
from tusd_py.web.front import BODY_LENGTH, Front, Receiver


def patch(tus: RawClient, url: str, offset: int, body: bytes, **headers: str | int | list[str] | None) -> bytes:
    """Return a PATCH as bytes."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return tus.message(
        "PATCH",
        url,
        {"Content-Type": OFFSET_STREAM, "Upload-Offset": offset, "Content-Length": len(body), **fields},
        body,
    )


async def test_two_patches_sent_at_once_are_answered_in_order(tus: RawClient) -> None:
    """Pipelined bodies are told apart, and the connection lives on."""
    data = os.urandom(200_000)
    url = await tus.create(len(data))
    async with tus.connect() as connection:
        first, second = patch(tus, url, 0, data[:120_000]), patch(tus, url, 120_000, data[120_000:])
        await connection.send(first + second + tus.message("HEAD", url))
        assert [(await connection.answer("PATCH")).offset for _ in range(2)] == [120_000, 200_000]
        assert (await connection.answer("HEAD")).offset == 200_000
    assert (await tus.get(url)).body == data


async def test_a_refused_body_does_not_spoil_the_connection(tus: RawClient) -> None:
    """The rest of a body that nobody reads is dropped, and the next request is understood."""
    data = os.urandom(1_000_000)
    url = await tus.create(len(data))
    async with tus.connect() as connection:
        await connection.send(patch(tus, url, 7, data))
        assert (await connection.answer("PATCH")).status == 409
        await connection.send(patch(tus, url, 0, data))
        assert (await connection.answer("PATCH")).offset == len(data)


async def test_a_body_on_a_page_that_takes_none_is_dropped(tus: RawClient) -> None:
    """A request for another page may carry a body, too."""
    async with tus.connect() as connection:
        for target in ("/healthz", "/api/uploads", "/nowhere"):
            await connection.send(tus.message("GET", target, {}, b"x" * 100_000))
            assert (await connection.answer("GET")).status in (200, 404)


async def test_a_client_that_never_sends_its_refused_body_is_disconnected(tus: RawClient) -> None:
    """A refused connection is not held open for a body that does not come."""
    url = await tus.create(1000)
    async with tus.connect() as connection:
        await connection.send(patch(tus, url, 7, b"", Content_Length=1000))
        assert (await connection.answer("PATCH")).status == 409
        assert await connection.rest(timeout=10) == b""


@pytest.mark.parametrize("cut", [1, 17, 60_000, 299_999])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_every_byte_before_a_cut_is_kept(tus: RawClient, cut: int, how: str) -> None:
    """However a connection breaks, what the server's machine received counts; a reset may take what was not read."""
    data = os.urandom(300_000)
    url = await tus.create(len(data))
    async with tus.connect() as connection:
        await connection.send(patch(tus, url, 0, b"", Content_Length=len(data)) + data[:cut])
        if how == "reset":
            # What is still in flight when the reset comes is lost on the way; wait until it has been received.
            await _until_received(tus, url, cut)
            connection.reset()
        else:
            connection.end()
            await connection.rest()
    offset = await tus.offset(url)
    assert offset == cut
    assert (await tus.patch(url, cut, data[cut:])).offset == len(data)
    assert (await tus.get(url)).body == data


async def _until_received(tus: RawClient, url: str, count: int) -> None:
    """Wait until the server has written `count` bytes of an upload whose PATCH goes on."""
    path = f"/api/uploads/{urlsplit(url).path.rpartition('/')[2]}"

    async def is_written() -> bool:
        return f'"offset":{count},' in (await tus.get(path)).body.decode()

    await wait_until(is_written)


@pytest.mark.parametrize(
    "length",
    [
        ["5", "5"],
        "+5",
        "5_0",
        "0x5",
        "-5",
        "5,5",
        "\N{ARABIC-INDIC DIGIT FIVE}",
        "9" * 30,
        "",
    ],
)
async def test_an_odd_content_length_is_refused(tus: RawClient, length: str | list[str]) -> None:
    """What is not one plain number is left to aiohttp, which refuses it, and nothing is stored."""
    url = await tus.create(10)
    answer = await tus.request(
        "PATCH", url, {"Content-Type": OFFSET_STREAM, "Upload-Offset": 0, "Content-Length": length}, b"hello"
    )
    assert answer.status == 400
    assert await tus.offset(url) == 0


async def test_both_kinds_of_framing_at_once_are_refused(tus: RawClient) -> None:
    """Content-Length beside Transfer-Encoding is how requests are smuggled past proxies."""
    url = await tus.create(10)
    answer = await tus.request(
        "PATCH",
        url,
        {"Content-Type": OFFSET_STREAM, "Upload-Offset": 0, "Content-Length": 5, "Transfer-Encoding": "chunked"},
        b"5\r\nhello\r\n0\r\n\r\n",
    )
    assert answer.status == 400
    assert await tus.offset(url) == 0


async def test_the_internal_header_gives_a_client_nothing(tus: RawClient) -> None:
    """A client that sends the server's own name for Content-Length has a request without a body."""
    url = await tus.create(10)
    answer = await tus.request(
        "PATCH", url, {"Content-Type": OFFSET_STREAM, "Upload-Offset": 0, BODY_LENGTH: 5, "Content-Length": None}, b""
    )
    assert 400 <= answer.status < 500
    assert await tus.offset(url) == 0


async def test_content_length_is_shown_to_plugins_as_it_was_sent(
    server_with: Callable[..., ServerProcess], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nobody behind the front sees that the header was renamed."""
    plugin = tmp_path_factory.mktemp("plugins") / "strict_length.py"
    plugin.write_text(
        "from tusd_py import Reject, hookimpl\n"
        "@hookimpl\n"
        "def authorize(request, action):\n"
        "    names = {name.lower() for name in request.headers}\n"
        "    if action == 'append' and ('content-length' not in names or 'tusd-py-body-length' in names):\n"
        "        raise Reject('no Content-Length')\n"
    )
    tus = RawClient(server_with("--plugin", str(plugin)).url)
    url = await tus.create(5)
    assert (await tus.patch(url, 0, b"hello")).status == 204


async def test_a_head_with_odd_line_ends_is_left_to_aiohttp(tus: RawClient) -> None:
    """Bare line feeds are no HTTP, and are answered at once."""
    async with tus.connect() as connection:
        await connection.send(b"GET /healthz HTTP/1.1\nHost: x\n\n")
        assert (await connection.answer("GET")).status == 400


async def test_a_head_without_end_is_refused(tus: RawClient) -> None:
    """A head of more than 64 KiB gets an answer instead of more memory."""
    async with tus.connect() as connection:
        await connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Long: %s\r\n" % (b"x" * 4000) * 20)
        assert (await connection.answer("GET")).status == 431


class _Inner(asyncio.Protocol):
    """Takes the place of aiohttp's protocol and notes what it gets."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


class _Wire(asyncio.Transport):
    """A transport whose only state is whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return False


def _connected(memory: Memory) -> tuple[Front, _Inner, _Wire]:
    inner, wire = _Inner(), _Wire()
    front = Front(inner, memory)
    front.connection_made(wire)
    return front, inner, wire


def _send(front: Front, wire: _Wire, data: bytes) -> int:
    """Hand over bytes as the event loop would, and return how many were taken before reading was paused."""
    sent = 0
    while sent < len(data) and not wire.paused:
        buffer = front.get_buffer(-1)
        count = min(len(buffer), len(data) - sent)
        buffer[:count] = data[sent : sent + count]
        front.buffer_updated(count)
        sent += count
    return sent


def _received(receiver: Receiver) -> bytes:
    data = b"".join(bytes(chunk) for chunk in receiver.take())
    receiver.give_back()
    return data


HEAD = b"PATCH /files/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 7, 64, 10_000])
async def test_heads_and_bodies_are_told_apart_however_they_are_cut(step: int) -> None:
    """The pieces in which bytes arrive do not matter."""
    front, inner, wire = _connected(Memory(BUFFER_BYTES * 4))
    bodies = [os.urandom(3000), os.urandom(1), os.urandom(500)]
    stream = b"".join(HEAD % len(body) + body for body in bodies) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    found: list[Receiver] = []
    sent = 0
    while sent < len(stream):
        sent += _send(front, wire, stream[sent : sent + step])
        if receiver := front.claim():
            found.append(receiver)
            receiver.start()
    while receiver := front.claim():
        found.append(receiver)
    assert [_received(receiver) for receiver in found] == bodies
    renamed = b"".join((HEAD % len(body)).replace(b"Content-Length", BODY_LENGTH.encode()) for body in bodies)
    assert inner.data == renamed + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_nothing_is_read_before_the_body_is_wanted() -> None:
    """A request that waits for a lock holds no memory."""
    memory = Memory(BUFFER_BYTES * 4)
    front, _, wire = _connected(memory)
    _send(front, wire, HEAD % 1_000_000)
    assert wire.paused
    assert memory.used == 0
    receiver = front.claim()
    assert receiver
    receiver.start()
    assert not wire.paused


async def test_spent_memory_pauses_all_connections_until_some_is_free() -> None:
    """All bodies together stay within the limit, but for one small buffer each."""
    memory = Memory(BUFFER_BYTES * 2)
    bodies = []
    for _ in range(20):
        front, _, wire = _connected(memory)
        _send(front, wire, HEAD % 10_000_000)
        receiver = front.claim()
        assert receiver
        receiver.start()
        _send(front, wire, b"x" * 10_000_000)
        bodies.append((receiver, wire))
    assert all(wire.paused for _, wire in bodies)
    assert memory.used <= BUFFER_BYTES * 2 + 20 * BUFFER_BYTES // 16
    for receiver, _ in bodies:
        _received(receiver)
    assert memory.used == 0
    assert not any(wire.paused for _, wire in bodies)


async def test_a_stopped_body_gives_its_memory_back() -> None:
    """Whoever stops early leaves nothing behind."""
    memory = Memory(BUFFER_BYTES * 4)
    front, _, wire = _connected(memory)
    _send(front, wire, HEAD % 1_000_000)
    receiver = front.claim()
    assert receiver
    receiver.start()
    _send(front, wire, b"x" * 300_000)
    assert memory.used > 0
    receiver.stop()
    _received(receiver)
    assert memory.used == 0
    assert wire.paused
