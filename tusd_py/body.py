"""The incoming bytes of one request.

A `Body` stands between the connection and the store. Its `Source` takes bytes off the connection as soon as they
arrive, so that what was received before a connection broke is kept, and holds them until the store asks for the next
batch: the slower the store, the larger the batch. All bodies share one `Memory`; when that is spent, or when one body
holds its own share, the connection is not read and the client has to wait.

A store never sees an error of the connection. The batches just end, and `Body.error` says why. `Body.discard` then
tells whether what the request brought counts (a broken connection) or not (a checksum that could not be verified).
Only if the upload's lock is lost the batches end with an error, `Fenced`: another may write now, so the store has to
leave everything as it is, as if the process had died.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from tusd_py.errors import ChecksumMismatch, Fenced, Interrupted, ReadTimeout, SizeExceeded, TusError, UnexpectedEnd

BATCH_BYTES = 2 * 1024 * 1024
BUFFER_BYTES = 256 * 1024
STALL_SECONDS = 0.075

Chunk = bytes | memoryview


class Hasher(Protocol):
    """An object like those of `hashlib`."""

    def update(self, data: Chunk, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the digest of all added bytes."""


class Memory:
    """Memory for received bytes that all bodies of a process share, partly in buffers that are used again."""

    def __init__(self, limit: int) -> None:
        """Hold about `limit` bytes at most."""
        self.limit = limit
        self.used = 0
        self._buffers: list[memoryview] = []
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def is_spent(self) -> bool:
        """Whether nobody should take more for now."""
        return self.used >= self.limit

    def lend(self) -> memoryview:
        """Return a buffer of `BUFFER_BYTES`, or a small one if the memory is spent."""
        if self.is_spent:
            buffer = memoryview(bytearray(BUFFER_BYTES // 16))
        else:
            buffer = self._buffers.pop() if self._buffers else memoryview(bytearray(BUFFER_BYTES))
        self.add(len(buffer))
        return buffer

    def take_back(self, buffer: memoryview) -> None:
        """Take a lent buffer back."""
        # With what is used now, and that includes this one, idle buffers stay within the limit.
        if len(buffer) == BUFFER_BYTES and self.used + len(self._buffers) * BUFFER_BYTES <= self.limit:
            self._buffers.append(buffer)
        self.free(len(buffer))

    def add(self, count: int) -> None:
        """Count bytes as held; idle buffers make room for them."""
        self.used += count
        while self._buffers and self.used + len(self._buffers) * BUFFER_BYTES > self.limit:
            self._buffers.pop()

    def free(self, count: int) -> None:
        """Count bytes as given back, and call those who wait, as long as there is room."""
        self.used -= count
        while self._waiting and not self.is_spent:
            self._waiting.popleft()()

    def when_free(self, callback: Callable[[], None]) -> None:
        """Call back once there is room."""
        self._waiting.append(callback)


class Source(Protocol):
    """Where a body's bytes come from."""

    ended: bool
    """Whether no further bytes will come."""
    error: TusError | None
    """Why it ended, if not at the body's end."""
    received: int
    """How many bytes have come."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is up to the client that bytes come, and not to memory or the store."""

    def start(self) -> None:
        """Begin to take bytes off the connection."""

    async def wait(self) -> None:
        """Return when there is something to take, or when it has ended."""

    def take(self) -> list[Chunk]:
        """Return what has come; it may be used until `give_back`."""

    def give_back(self) -> None:
        """Say that what was taken is no longer used."""

    def stop(self) -> None:
        """Take no more bytes off the connection, and end after what has come."""


class Pump:
    """Takes bytes from a coroutine, such as the read method of a stream."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], memory: Memory) -> None:
        """Read until `read` returns no bytes; what it raises ends the source."""
        self.ended = False
        self.error: TusError | None = None
        self.received = 0
        self.is_waiting = False
        self._read = read
        self._memory = memory
        self._queue: list[Chunk] = []
        self._queued = 0
        self._lent = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start reading."""
        if self._task is None and not self.ended:
            self._task = asyncio.create_task(self._run(), name="body pump")

    async def wait(self) -> None:
        """Wait for bytes or the end."""
        if not self._queue and not self.ended:
            self._arrived.clear()
            await self._arrived.wait()

    def take(self) -> list[Chunk]:
        """Return what was read."""
        taken, self._queue = self._queue, []
        self._lent += self._queued
        self._queued = 0
        self._room.set()
        return taken

    def give_back(self) -> None:
        """Free what was taken."""
        lent, self._lent = self._lent, 0
        self._memory.free(lent)

    def stop(self) -> None:
        """Stop reading."""
        self.ended = True
        if self._task is not None:
            self._task.cancel()
        self._arrived.set()

    async def _run(self) -> None:
        try:
            while chunk := await self._next():
                self.received += len(chunk)
                self._queue.append(chunk)
                self._queued += len(chunk)
                self._memory.add(len(chunk))
                self._arrived.set()
        except Exception as cause:
            # Whatever the connection died of, the bytes before it count.
            self.error = UnexpectedEnd(f"the connection broke after {self.received} bytes ({type(cause).__name__})")
        finally:
            self.ended = True
            self._arrived.set()

    async def _next(self) -> bytes:
        while self._queued >= BATCH_BYTES or self._memory.is_spent:
            self._room.clear()
            if self._memory.is_spent:
                self._memory.when_free(self._room.set)
            await self._room.wait()
        self.is_waiting = True
        try:
            return await self._read()
        finally:
            self.is_waiting = False


class Body:
    """The body of a request: limited, counted, hashed, and closable with a cause."""

    def __init__(self, source: Source, *, length: int | None = None, read_timeout: float = 60) -> None:
        """Take where bytes come from, the announced length, and seconds of silence that are too many."""
        self.length = length
        self.error: TusError | None = None
        self._source = source
        self._read_timeout = read_timeout
        self._limit: int | None = None
        self._head: list[Chunk] = []
        self._is_lost = False
        self._hasher: Hasher | None = None
        self._digest = b""

    @classmethod
    def of(cls, chunks: Iterable[bytes] = (), *, length: int | None = None) -> Body:
        """Return a body that consists of `chunks`."""
        iterator = iter(chunks)

        async def read() -> bytes:
            return next(iterator, b"")

        return cls(Pump(read, Memory(BATCH_BYTES)), length=length)

    @property
    def received(self) -> int:
        """How many bytes have come."""
        return self._source.received

    @property
    def has_checksum(self) -> bool:
        """Whether bytes count only once the whole body is verified."""
        return self._hasher is not None

    @property
    def discard(self) -> bool:
        """Whether the body has ended in a way that none of its bytes may count: they could not be verified."""
        return self.has_checksum and self.error is not None

    def limit(self, count: int | None) -> None:
        """Allow at most `count` bytes.

        Raises:
            SizeExceeded: more bytes than that are announced.
        """
        self._limit = count
        if count is not None and self.length is not None and self.length > count:
            raise SizeExceeded(f"the body has {self.length} bytes, but only {count} are missing from the upload")

    def verify_with(self, hasher: Hasher, digest: bytes) -> None:
        """Require that the whole body has this digest."""
        self._hasher, self._digest = hasher, digest

    def close(self, cause: TusError) -> None:
        """Stop reading now; batches end after what has arrived, with `cause` as their error."""
        self.error = self.error or cause
        self._source.stop()

    def interrupt(self, cause: TusError) -> None:
        """Stop reading now, unless all has arrived."""
        if not self._is_whole():
            self.close(cause)

    def let_go(self, urgent: bool, /, *, lost: bool = False) -> None:
        """Stop for a newer request on the same upload: at once if urgent, else only if no bytes arrive.

        If the upload's lock is `lost`, nothing more may be stored, not even what has arrived.
        """
        if lost:
            self._is_lost = True
            self.close(Fenced())
            return
        if urgent:
            self.interrupt(Interrupted())
            return
        seen = self.received

        def close_if_stalled() -> None:
            if self.received == seen and self._source.is_waiting:
                self.interrupt(Interrupted())

        asyncio.get_running_loop().call_later(STALL_SECONDS, close_if_stalled)

    async def head(self, count: int) -> bytes:
        """Return up to the first `count` bytes, fewer if the body ends; later batches begin with them."""
        self._source.start()
        while sum(map(len, self._head)) < count and (batch := await self._next()):
            # Copied out of the source's memory, because they have to wait; they are few.
            self._head += [bytes(chunk) for chunk in batch]
            self._source.give_back()
        return b"".join(self._head)[:count]

    async def batches(self) -> AsyncIterator[list[Chunk]]:
        """Yield what has arrived, as lists of chunks, until the body ends; then `error` says if it ended well.

        A batch may be used until the next one is asked for.

        Raises:
            Fenced: the upload's lock is lost; nothing may be stored any more.
        """
        self._source.start()
        try:
            while batch := self._head or await self._next():
                self._head = []
                if self._hasher is not None:
                    await asyncio.to_thread(self._hash, self._hasher, batch)
                self._check_held()
                yield batch
                self._source.give_back()
        finally:
            await self.aclose()
        self._check_held()
        if self._hasher is not None and self.error is None and self._hasher.digest() != self._digest:
            self.error = ChecksumMismatch()

    async def aclose(self) -> None:
        """Stop the source and give its memory back."""
        self._source.stop()
        self._source.take()
        self._source.give_back()

    def _is_whole(self) -> bool:
        return self.received == self.length or (self._source.ended and self._source.error is None)

    async def _next(self) -> list[Chunk]:
        """Return what has arrived, after waiting for it if need be; nothing at the end."""
        while not (batch := self._source.take()):
            if self._source.ended:
                self.error = self.error or self._source.error
                if self.error is None and self.length is not None and self.received < self.length:
                    self.error = UnexpectedEnd(f"the body ended after {self.received} of {self.length} bytes")
                break
            try:
                async with asyncio.timeout(self._read_timeout):
                    await self._source.wait()
            except TimeoutError:
                if self._source.is_waiting:
                    self.close(ReadTimeout(f"no data arrived for {self._read_timeout:g} seconds; what arrived is kept"))
        if self._limit is not None and self.received > self._limit:
            # What was stored of it before may have been told as the offset, and stays.
            self.close(SizeExceeded(f"the body has more than the {self._limit} bytes that the upload lacks"))
            return []
        return batch

    def _check_held(self) -> None:
        if self._is_lost:
            raise Fenced()

    @staticmethod
    def _hash(hasher: Hasher, batch: list[Chunk]) -> None:
        for chunk in batch:
            hasher.update(chunk)


class Bodies:
    """The bodies that a process receives, so that all can be stopped."""

    def __init__(self) -> None:
        """Begin with none."""
        self._bodies: set[Body] = set()
        self._cause: TusError | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._bodies)

    @contextlib.contextmanager
    def receiving(self, body: Body) -> Iterator[None]:
        """Count a body in while it is received."""
        self._bodies.add(body)
        self._idle.clear()
        if self._cause is not None:
            body.interrupt(self._cause)
        try:
            yield
        finally:
            self._bodies.discard(body)
            if not self._bodies:
                self._idle.set()

    def stop(self, cause: TusError) -> None:
        """Stop all, and all later ones, that have not arrived as a whole; what arrived is kept."""
        self._cause = cause
        for body in list(self._bodies):
            body.interrupt(cause)

    async def idle(self) -> None:
        """Wait until there is none."""
        await self._idle.wait()
