"""The body of a request: what it yields, when it ends and why, and that it gives its memory back."""

import asyncio
import hashlib
import time
import weakref
from collections.abc import Callable

import pytest

from tusd_py.body import BATCH_BYTES, BUFFER_BYTES, Body, Memory, Pump
from tusd_py.errors import (
    ChecksumMismatch,
    Interrupted,
    ReadTimeout,
    ShuttingDown,
    SizeExceeded,
    StorageFull,
    UnexpectedEnd,
)
from tusd_py.testing.contracts import Tap, wait_until

KIB = 1024


async def read_all(body: Body) -> bytes:
    """Take all batches."""
    return b"".join([bytes(chunk) async for batch in body.batches() for chunk in batch])


def endless(memory: Memory, piece: bytes = b"x" * 64 * KIB) -> Body:
    """A body whose client sends as fast as it is read, for ever."""

    async def read() -> bytes:
        await asyncio.sleep(0)
        return piece

    return Body(Pump(read, memory))


async def settled(value: Callable[[], int]) -> int:
    """Wait until a number no longer changes, and return it."""
    last = -1
    while (now := value()) != last:
        last = now
        for _ in range(100):
            await asyncio.sleep(0)
    return last


# What comes out


async def test_all_bytes_in_order() -> None:
    """A body that ends well yields all its bytes, and has no error."""
    body = Body.of([b"ab", b"c", b"def"], length=6)
    assert await read_all(body) == b"abcdef"
    assert body.error is None
    assert not body.discard
    assert body.received == 6


async def test_empty_body() -> None:
    """A body without bytes yields nothing, and has no error."""
    body = Body.of()
    assert await read_all(body) == b""
    assert body.error is None


async def test_slow_store_gets_larger_batches() -> None:
    """What arrives while the store works comes as one batch."""
    tap = Tap()
    body = tap.body()
    batches = aiter(body.batches())
    tap.let(b"a")
    assert [bytes(chunk) for chunk in await anext(batches)] == [b"a"]
    tap.let(b"b", b"c", b"")
    await wait_until(lambda: body.received == 3)
    assert [bytes(chunk) for chunk in await anext(batches)] == [b"b", b"c"]
    assert [batch async for batch in batches] == []


# Ends that are too early or too late


async def test_cut_body() -> None:
    """A body that ends before its announced length says so; its bytes count."""
    body = Body.of([b"abc"], length=5)
    assert await read_all(body) == b"abc"
    assert isinstance(body.error, UnexpectedEnd)
    assert not body.discard


async def test_broken_connection() -> None:
    """Bytes that came before the connection broke are yielded, and count."""
    pieces = iter([b"abc", b"de"])

    async def read() -> bytes:
        try:
            return next(pieces)
        except StopIteration:
            raise ConnectionResetError from None

    body = Body(Pump(read, Memory(BATCH_BYTES)))
    assert await read_all(body) == b"abcde"
    assert isinstance(body.error, UnexpectedEnd)
    assert "5 bytes" in body.error.message
    assert not body.discard


async def test_announced_body_is_too_long() -> None:
    """A body that announces more than there is room for is refused before it is read."""
    body = Body.of([b"abc"], length=3)
    with pytest.raises(SizeExceeded):
        body.limit(2)
    assert body.received == 0


async def test_unannounced_body_is_too_long() -> None:
    """Of a body that turns out longer than there is room for, what goes too far is not handed out."""
    body = Body.of([b"abc", b"def"])
    body.limit(5)
    assert await read_all(body) == b""
    assert isinstance(body.error, SizeExceeded)


@pytest.mark.parametrize("limit", [3, None])
async def test_body_that_just_fits(limit: int | None) -> None:
    """A body of exactly the allowed size is no error."""
    body = Body.of([b"ab", b"c"], length=3)
    body.limit(limit)
    assert await read_all(body) == b"abc"
    assert body.error is None


# Checksums


@pytest.mark.parametrize(
    ("sent", "length", "error"),
    [
        pytest.param([b"ab", b"cd"], 4, None, id="right"),
        pytest.param([b"ab", b"cX"], 4, ChecksumMismatch, id="wrong"),
        pytest.param([b"ab"], 4, UnexpectedEnd, id="cut"),
        pytest.param([], None, ChecksumMismatch, id="empty"),
    ],
)
async def test_checksum(sent: list[bytes], length: int | None, error: type[Exception] | None) -> None:
    """Bytes under a checksum count only if all of them came and fit."""
    body = Body.of(sent, length=length)
    body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcd").digest())
    assert await read_all(body) == b"".join(sent)
    assert type(body.error) is (error or type(None))
    assert body.discard is (error is not None)


async def test_checksum_with_head() -> None:
    """The first bytes, looked at before, are part of what is verified."""
    body = Body.of([b"ab", b"cd"])
    body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcd").digest())
    assert await body.head(3) == b"abc"
    assert await read_all(body) == b"abcd"
    assert body.error is None


async def test_failed_storage_discards_unverified_bytes() -> None:
    """If the storage fails after the last byte arrived, a body under a checksum still counts not at all."""
    body = Body.of([b"abcd"])
    body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcd").digest())
    async for _ in body.batches():
        body.close(StorageFull())
        break
    await body.aclose()
    assert isinstance(body.error, StorageFull)
    assert body.discard


# The first bytes


async def test_head_comes_first_again() -> None:
    """The first bytes can be looked at, and batches still begin with them."""
    body = Body.of([b"ab", b"cd", b"ef"])
    assert await body.head(3) == b"abc"
    assert await body.head(1) == b"a"
    assert await read_all(body) == b"abcdef"


async def test_head_of_short_body() -> None:
    """A body shorter than what is asked for gives what it has."""
    body = Body.of([b"ab"])
    assert await body.head(100) == b"ab"
    assert await read_all(body) == b"ab"
    assert body.error is None


async def test_head_waits_for_no_more() -> None:
    """Only as many bytes are waited for as are asked for."""
    tap = Tap()
    body = tap.body()
    tap.let(b"abc")
    async with asyncio.timeout(5):
        assert await body.head(3) == b"abc"
    await body.aclose()


async def test_head_may_be_larger_than_a_batch() -> None:
    """More first bytes can be asked for than a batch holds."""
    piece = bytes(range(256)) * 256
    body = Body.of([piece] * 64)
    async with asyncio.timeout(10):
        assert await body.head(BATCH_BYTES + 5) == (piece * 64)[: BATCH_BYTES + 5]
    assert await read_all(body) == piece * 64


async def test_heads_do_not_starve_each_other() -> None:
    """Bodies that all wait for their first bytes come through with little memory."""
    memory = Memory(8 * KIB)
    taps = [Tap() for _ in range(10)]
    bodies = [Body(Pump(tap._pieces.get, memory)) for tap in taps]
    heads = [asyncio.create_task(body.head(4 * KIB)) for body in bodies]
    for _ in range(4):
        for tap in taps:
            tap.let(b"x" * KIB)
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert {len(head) for head in await asyncio.gather(*heads)} == {4 * KIB}
    for body in bodies:
        await body.aclose()
    assert memory.used == 0


# Memory


def test_idle_buffers_are_within_the_limit():
    """Buffers that wait to be used again are memory as well: with those that are used they stay within the limit."""
    memory = Memory(4 * BUFFER_BYTES)
    lent = [memory.lend() for _ in range(12)]
    large = [buffer for buffer in lent if len(buffer) == BUFFER_BYTES]
    alive = [weakref.ref(buffer) for buffer in large]
    assert (len(large), memory.is_spent) == (4, True)
    while large:
        memory.take_back(large.pop())
    del lent[:4]
    idle = [buffer for ref in alive if (buffer := ref()) is not None]
    assert len(idle) == 3
    assert sum(map(len, idle)) + memory.used <= memory.limit


async def test_client_waits_for_the_store() -> None:
    """A body holds about one batch; what the store does not take is not read."""
    memory = Memory(100 * BATCH_BYTES)
    body = endless(memory)
    batches = aiter(body.batches())
    await anext(batches)
    read = await settled(lambda: body.received)
    assert BATCH_BYTES <= read <= 2 * BATCH_BYTES + 64 * KIB
    await anext(batches)
    assert await settled(lambda: body.received) > read
    await body.aclose()
    assert memory.used == 0


async def test_all_bodies_share_the_memory() -> None:
    """However many bodies there are, together they hold hardly more than the limit; when one ends, others go on."""
    limit, piece = 1024 * KIB, 16 * KIB
    memory = Memory(limit)
    bodies = [endless(memory, b"x" * piece) for _ in range(20)]
    firsts = [asyncio.ensure_future(anext(aiter(body.batches()))) for body in bodies]
    await settled(lambda: memory.used)
    assert limit <= memory.used <= limit + len(bodies) * piece
    for body in bodies[:-1]:
        await body.aclose()
    assert await firsts[-1]
    await bodies[-1].aclose()
    await asyncio.gather(*firsts, return_exceptions=True)
    assert memory.used == 0


async def test_everybody_gets_on_with_little_memory() -> None:
    """Bodies that want more memory than there is all arrive in the end."""
    memory = Memory(32 * KIB)
    bodies = []
    for number in range(12):
        pieces = iter([bytes([number]) * 8 * KIB] * 32)

        async def read(pieces=pieces) -> bytes:
            await asyncio.sleep(0)
            return next(pieces, b"")

        bodies.append(Body(Pump(read, memory)))
    async with asyncio.timeout(20):
        received = await asyncio.gather(*(read_all(body) for body in bodies))
    assert received == [bytes([number]) * 256 * KIB for number in range(12)]
    assert memory.used == 0


async def test_cancelled_reader_gives_memory_back() -> None:
    """A request that is dropped in the middle leaves no memory behind."""
    memory = Memory(BATCH_BYTES)

    async def store(body: Body) -> None:
        try:
            async for _ in body.batches():
                await asyncio.Event().wait()
        finally:
            await body.aclose()

    tasks = [asyncio.create_task(store(endless(memory))) for _ in range(5)]
    await settled(lambda: memory.used)
    assert memory.used > 0
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert await settled(lambda: memory.used) == 0


async def test_unread_body_takes_no_memory() -> None:
    """A body that nobody wanted is never read, and can be closed, also twice."""
    memory = Memory(BATCH_BYTES)
    body = endless(memory)
    await asyncio.sleep(0)
    await body.aclose()
    await body.aclose()
    assert (body.received, memory.used) == (0, 0)


# Closing


async def test_close_keeps_what_arrived() -> None:
    """A closed body yields what has arrived, then ends with the cause; a second cause changes nothing."""
    tap = Tap()
    body = tap.body()
    batches = aiter(body.batches())
    tap.let(b"a")
    await anext(batches)
    tap.let(b"b")
    await wait_until(lambda: body.received == 2)
    body.close(ShuttingDown())
    body.close(Interrupted())
    tap.let(b"late")
    assert [[bytes(chunk) for chunk in batch] async for batch in batches] == [[b"b"]]
    assert isinstance(body.error, ShuttingDown)
    assert not body.discard


async def test_close_ends_waiting() -> None:
    """A body that waits for bytes ends at once when it is closed."""
    body = Tap().body()
    reading = asyncio.create_task(read_all(body))
    await asyncio.sleep(0)
    body.close(ShuttingDown())
    async with asyncio.timeout(1):
        assert await reading == b""
    assert isinstance(body.error, ShuttingDown)


async def test_closed_before_it_began() -> None:
    """A body that is closed before it is read yields nothing."""
    body = Body.of([b"abc"])
    body.close(ShuttingDown())
    async with asyncio.timeout(1):
        assert await read_all(body) == b""
    assert isinstance(body.error, ShuttingDown)


# A newer request


async def test_urgent_request_stops_a_flowing_body() -> None:
    """Who needs the upload at once gets it, even if bytes flow."""
    body = endless(Memory(BATCH_BYTES))
    batches = aiter(body.batches())
    await anext(batches)
    body.let_go(True)
    async with asyncio.timeout(1):
        async for _ in batches:
            pass
    assert isinstance(body.error, Interrupted)


@pytest.mark.parametrize("urgent", [True, False])
async def test_whole_body_is_not_interrupted(urgent: bool) -> None:
    """A body that has arrived is not stopped any more: its request is as good as done."""
    body = Body.of([b"abc"], length=3)
    body.verify_with(hashlib.sha256(), hashlib.sha256(b"abc").digest())
    batches = aiter(body.batches())
    assert [bytes(chunk) for chunk in await anext(batches)] == [b"abc"]
    body.let_go(urgent)
    await asyncio.sleep(0.1)
    assert [batch async for batch in batches] == []
    assert body.error is None


async def test_stalled_body_lets_go() -> None:
    """A body whose client has fallen silent ends soon after somebody asks, with its bytes."""
    tap = Tap()
    body = tap.body()
    reading = asyncio.create_task(read_all(body))
    tap.let(b"abc")
    await wait_until(lambda: body.received == 3)
    started = time.monotonic()
    body.let_go(False)
    assert await reading == b"abc"
    assert time.monotonic() - started < 0.2
    assert isinstance(body.error, Interrupted)
    assert not body.discard


async def test_flowing_body_goes_on() -> None:
    """A body whose bytes flow is not stopped by who can wait."""
    body = endless(Memory(BATCH_BYTES))
    reading = asyncio.create_task(read_all(body))
    for _ in range(3):
        body.let_go(False)
        await asyncio.sleep(0.1)
    assert body.error is None
    assert not reading.done()
    body.close(ShuttingDown())
    await reading


async def test_slow_store_is_no_stall() -> None:
    """A body that is not read because the store is slow does not count as stalled."""
    body = endless(Memory(100 * BATCH_BYTES))
    batches = aiter(body.batches())
    await anext(batches)
    await settled(lambda: body.received)
    body.let_go(False)
    await asyncio.sleep(0.15)
    assert body.error is None
    await body.aclose()


# Silence


async def test_silent_client() -> None:
    """A client that sends nothing for the time-out is cut; its bytes count."""
    tap = Tap()
    body = tap.body(read_timeout=0.1)
    tap.let(b"abc")
    started = time.monotonic()
    assert await read_all(body) == b"abc"
    assert 0.09 < time.monotonic() - started < 2
    assert isinstance(body.error, ReadTimeout)
    assert not body.discard


async def test_every_byte_starts_the_time_anew() -> None:
    """A client that keeps sending may take longer than the time-out in all."""
    tap = Tap()
    body = tap.body(read_timeout=0.5)
    reading = asyncio.create_task(read_all(body))
    for _ in range(12):
        tap.let(b"x")
        await asyncio.sleep(0.05)
    tap.let(b"")
    assert await reading == b"x" * 12
    assert body.error is None


async def test_slow_store_is_not_the_clients_fault() -> None:
    """The time does not run while the store keeps the client waiting."""
    memory = Memory(KIB)
    memory.add(KIB)
    tap = Tap()
    body = Body(Pump(tap._pieces.get, memory), read_timeout=0.05)
    tap.let(b"abc", b"")
    reading = asyncio.create_task(read_all(body))
    await asyncio.sleep(0.2)
    memory.free(KIB)
    assert await reading == b"abc"
    assert body.error is None
