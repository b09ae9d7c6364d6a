"""The incoming bytes of one request.

A `Body` stands between the connection and the store. A pump takes bytes off the connection as soon as they arrive,
so that what was received before a connection broke is kept, and holds them until the store asks for the next batch:
the slower the store, the larger the batch. All bodies share one `Budget` of memory; when it is spent, or when one
body holds its own share, the connection is not read and the client has to wait.

A store never sees an error of the connection. The batches just end, and `Body.error` says why. `Body.discard` then
tells whether what the request brought counts (a broken connection) or not (a checksum that could not be verified).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol

from tusd_py.errors import ChecksumMismatch, Interrupted, ReadTimeout, SizeExceeded, TusError, UnexpectedEnd

BATCH_BYTES = 2 * 1024 * 1024
STALL_SECONDS = 0.075

Source = Callable[[], Awaitable[bytes]]
"""Returns the next bytes of a body, or none at its end; raises when the connection breaks."""


class Hasher(Protocol):
    """An object like those of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the digest of all added bytes."""


class Budget:
    """Memory in bytes that all bodies of a process share."""

    def __init__(self, limit: int) -> None:
        """Allow `limit` bytes; a single body may always hold one read."""
        self.limit = limit
        self.used = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def add(self, count: int) -> None:
        """Count bytes as held."""
        self.used += count

    def free(self, count: int) -> None:
        """Count bytes as given back, and wake who waits."""
        self.used -= count
        while self._waiters and self.used < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    async def available(self) -> None:
        """Wait until less than the limit is held."""
        while self.used >= self.limit:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        # One wake-up lets one body go on; it passes the wake-up on while there is room.
        self.free(0)


class Body:
    """The body of a request: limited, counted, hashed, and closable with a cause."""

    def __init__(
        self,
        source: Source,
        *,
        length: int | None = None,
        read_timeout: float = 60,
        budget: Budget | None = None,
    ) -> None:
        """Take where bytes come from, the announced length, and seconds of silence that are too many."""
        self.length = length
        self.received = 0
        self.error: TusError | None = None
        self._source = source
        self._read_timeout = read_timeout
        self._budget = budget or Budget(BATCH_BYTES)
        self._limit: int | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._lent = 0
        self._ended = False
        self._reading = False
        self._pump: asyncio.Task[None] | None = None
        self._wake_reader = asyncio.Event()
        self._wake_pump = asyncio.Event()
        self._hasher: Hasher | None = None
        self._digest = b""

    @classmethod
    def of(cls, chunks: Iterable[bytes] = (), *, length: int | None = None) -> Body:
        """Return a body that consists of `chunks`."""
        iterator = iter(chunks)

        async def source() -> bytes:
            return next(iterator, b"")

        return cls(source, length=length)

    @property
    def has_checksum(self) -> bool:
        """Whether bytes count only once the whole body is verified."""
        return self._hasher is not None

    @property
    def discard(self) -> bool:
        """Whether the body has ended in a way that none of its bytes may count."""
        return isinstance(self.error, SizeExceeded) or (self.has_checksum and self.error is not None)

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
        if not self._ended:
            self.error = self.error or cause
            self._ended = True
            if self._pump is not None:
                self._pump.cancel()
            self._wake_reader.set()

    def let_go(self, urgent: bool) -> None:
        """Stop for a newer request on the same upload: at once if urgent, else only if no bytes arrive."""
        if urgent:
            self.close(Interrupted())
            return
        seen = self.received

        def close_if_stalled() -> None:
            if self.received == seen and self._reading:
                self.close(Interrupted())

        asyncio.get_running_loop().call_later(STALL_SECONDS, close_if_stalled)

    async def head(self, count: int) -> bytes:
        """Return up to the first `count` bytes, fewer if the body ends; later batches begin with them."""
        self._start()
        while self._queued < count and not self._ended:
            await self._woken_reader()
        head = b"".join(self._queue)
        self._queue = deque([head] if head else [])
        return head[:count]

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Yield what has arrived, as lists of chunks, until the body ends; then `error` says if it ended well."""
        self._start()
        try:
            while True:
                while not self._queue and not self._ended:
                    await self._woken_reader()
                if not self._queue:
                    break
                batch = list(self._queue)
                self._queue.clear()
                self._lent, self._queued = self._queued, 0
                self._wake_pump.set()
                if self._hasher is not None:
                    await asyncio.to_thread(self._hash, batch)
                yield batch
                self._give_back()
        finally:
            await self.aclose()
        if self._hasher is not None and self.error is None and self._hasher.digest() != self._digest:
            self.error = ChecksumMismatch()

    async def aclose(self) -> None:
        """Stop the pump and give the memory back."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._ended = True
        self._lent += self._queued
        self._queue.clear()
        self._queued = 0
        self._give_back()

    def _give_back(self) -> None:
        self._budget.free(self._lent)
        self._lent = 0

    def _hash(self, batch: list[bytes]) -> None:
        assert self._hasher is not None
        for chunk in batch:
            self._hasher.update(chunk)

    def _start(self) -> None:
        if self._pump is None and not self._ended:
            self._pump = asyncio.create_task(self._run(), name="body pump")

    async def _woken_reader(self) -> None:
        self._wake_reader.clear()
        await self._wake_reader.wait()

    async def _run(self) -> None:
        error: TusError | None = None
        try:
            error = await self._read_all()
        except Exception as cause:
            # Whatever the connection died of, the bytes before it count.
            error = UnexpectedEnd(f"the connection broke after {self.received} bytes ({type(cause).__name__})")
        finally:
            self.error = self.error or error
            self._ended = True
            self._wake_reader.set()

    async def _read_all(self) -> TusError | None:
        while True:
            if self._queued >= BATCH_BYTES:
                self._wake_pump.clear()
                await self._wake_pump.wait()
            if self._budget.used >= self._budget.limit:
                await self._budget.available()
            self._reading = True
            try:
                async with asyncio.timeout(self._read_timeout):
                    chunk = await self._source()
            except TimeoutError:
                return ReadTimeout(f"no data arrived for {self._read_timeout:g} seconds; what arrived is kept")
            finally:
                self._reading = False
            if not chunk:
                if self.length is not None and self.received < self.length:
                    return UnexpectedEnd(f"the body ended after {self.received} of {self.length} bytes")
                return None
            self.received += len(chunk)
            if self._limit is not None and self.received > self._limit:
                return SizeExceeded(f"the body has more than the {self._limit} bytes that are missing from the upload")
            self._queue.append(chunk)
            self._queued += len(chunk)
            self._budget.add(len(chunk))
            self._wake_reader.set()
