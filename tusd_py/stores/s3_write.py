"""From a body to parts and segments: what is held in memory, and when it goes to S3.

A `Writer` gathers what arrives until it has a part, and sends that while it gathers the next. What is left at the
body's end is too little for a part and becomes a segment, an object of its own, which is there before the client hears
of it. The bytes of a segment may stay in memory until the part that they belong to is complete; if they did not, that
part is sent from S3 to S3, piece by piece through this process.

All writers share one `Budget`. When it is spent, what is kept of segments goes first. Then a writer waits, for bytes
that are on their way to S3 free memory when they have arrived. If none are, everything that is held waits for clients,
and the writer that holds most turns it into a segment: so slow clients cannot stop the others.

Bytes under a checksum must not be found by whoever makes the record again. So they go to objects of another name, and
become parts, by copies inside the storage, once the checksum has proved right.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Protocol

import crc32c

from tusd_py.body import Body, Chunk
from tusd_py.errors import TusError
from tusd_py.models import Part, Segment, Upload
from tusd_py.stores.base import Progress
from tusd_py.stores.s3_parts import MIN_PART, combined, segment_name

MAX_SEGMENTS = 32
"""So many small segments are made into one."""
SPILLS = 16
"""So many writers at once make segments when the memory is spent."""
WAKE_BYTES = 64 * 1024
_JOIN_BYTES = 64 * 1024


class Held:
    """Bytes in memory."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.size = 0
        self.crc: int | None = 0
        self._pieces: list[bytearray] = []
        self._is_sealed = False

    def add(self, chunk: Chunk) -> None:
        """Copy a chunk; small ones are joined."""
        last = self._pieces[-1] if self._pieces and not self._is_sealed else None
        if last is not None and len(last) + len(chunk) <= _JOIN_BYTES:
            last += chunk
        else:
            self._pieces.append(bytearray(chunk))
        self._is_sealed = False
        self.size += len(chunk)
        self.crc = crc32c.crc32c(chunk, self.crc or 0)

    async def chunks(self) -> AsyncIterator[bytearray]:
        """Yield the bytes."""
        self._is_sealed = True
        for piece in list(self._pieces):
            yield piece


Read = Callable[[str, int, int], AsyncIterator[bytes]]
"""Yields the bytes of an object, by key, from an offset up to another."""


class Stored:
    """A range of an object in the storage."""

    def __init__(self, read: Read, key: str, start: int, stop: int, *, crc: int | None = None, name: str = "") -> None:
        """Read it with `read`; `name` is that of a segment."""
        self.key = key
        self.start = start
        self.stop = stop
        self.size = stop - start
        self.crc = crc
        self.name = name
        self._read = read

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes."""
        return self._read(self.key, self.start, self.stop)


Piece = Held | Stored


def crc_of(pieces: Iterable[Piece]) -> int | None:
    """Return the checksum of pieces one after the other, or None if that of one is not known."""
    whole = 0
    for piece in pieces:
        if piece.crc is None:
            return None
        whole = combined(whole, piece.crc, piece.size)
    return whole


class Budget:
    """The memory that all writers share."""

    def __init__(self, limit: int) -> None:
        """Hold about `limit` bytes at most."""
        self.limit = limit
        self.used = 0
        self._writers: set[Writer] = set()
        self._sending = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._kept: OrderedDict[str, Held] = OrderedDict()

    def take(self, count: int) -> None:
        """Count bytes as held."""
        self.used += count
        # Who took the last room may need none for long, and who took less than was free leaves some for others.
        self._changed()

    def free(self, count: int) -> None:
        """Count bytes as given back."""
        self.used -= count
        self._changed()

    def keep(self, name: str, held: Held) -> None:
        """Keep the bytes of a segment, which count as held already, as long as there is room."""
        self._kept[name] = held

    def kept(self, name: str) -> Held | None:
        """Return the bytes of a segment if they are still kept."""
        return self._kept.get(name)

    def release(self, name: str) -> Held | None:
        """Return the bytes of a segment if they are still kept, and leave it to the caller to free them."""
        return self._kept.pop(name, None)

    def forget(self, names: Iterable[str]) -> None:
        """Keep the bytes of these segments no longer."""
        for name in names:
            if held := self._kept.pop(name, None):
                self.free(held.size)

    @contextlib.contextmanager
    def writing(self, writer: Writer) -> Iterator[None]:
        """Count a writer in while it may hold bytes."""
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            self._changed()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Count a call in after which there is more memory."""
        self._sending += 1
        try:
            yield
        finally:
            self._sent()

    async def room(self) -> None:
        """Return when there is room for more."""
        while self.used >= self.limit:
            if self._kept:
                self.forget([next(iter(self._kept))])
                continue
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._relieve()
            await turn

    def _sent(self, task: asyncio.Task[None] | None = None) -> None:
        self._sending -= 1
        self._changed()

    def _changed(self) -> None:
        """Wake as many as there may be room for, the first first."""
        turns = -(-max(0, self.limit - self.used) // WAKE_BYTES)
        while turns and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # who waited may be gone
                turn.set_result(None)
                turns -= 1
        self._relieve()

    def _relieve(self) -> None:
        """See to it that memory will be free, if somebody waits and nothing is on its way to S3."""
        if self._waiting and not self._sending and self.used >= self.limit:
            idle = [writer for writer in self._writers if writer.can_spill]
            for writer in heapq.nlargest(SPILLS, idle, key=lambda writer: writer.held.size):
                self._sending += 1
                writer.spill_soon().add_done_callback(self._sent)


class Target(Protocol):
    """Where a writer's bytes go: the calls that one upload needs."""

    part_size: int
    unit: int
    """A segment is made of so many bytes even if their part is not complete."""
    concurrency: int

    def stored(self, segment: Segment, *, verified: bool = True) -> Stored:
        """Return a segment's bytes as they are stored."""

    async def put_segment(self, name: str, pieces: list[Piece], *, verified: bool = True) -> None:
        """Write a segment."""

    async def put_part(self, number: int, pieces: list[Piece]) -> Part:
        """Write a part, or the whole object if it is not made of parts."""

    async def delete_segments(self, names: Iterable[str], *, verified: bool = True) -> None:
        """Delete segments; a failure is left to the reaper."""


class Writer:
    """Appends one body to one upload."""

    def __init__(self, target: Target, budget: Budget, upload: Upload, body: Body, progress: Progress) -> None:
        """Append `body` behind what `upload` says is stored."""
        self.upload = upload
        self.held = Held()
        """The newest bytes of the current part."""
        self._target = target
        self._budget = budget
        self._body = body
        self._progress = progress
        self._start = _end_of_parts(upload)
        """Where the current part begins."""
        self._size = upload.offset - self._start
        """How much there is of it."""
        self._taken = 0
        """How much of the budget is ours."""
        self._is_verified = not body.has_checksum
        self._staged: list[Stored] = []
        """What a body under a checksum brought, up to `held`."""
        self._closed: list[Piece] = []
        """Of that, what belongs to the current part."""
        self._replaced: list[str] = []
        """Segments that a larger one has replaced or that a part contains."""
        self._error: TusError | None = None
        self._lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(target.concurrency)
        self._last: asyncio.Task[bool] | None = None
        """Records the last part that was begun, after all before it; tells whether it is recorded."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def can_spill(self) -> bool:
        """Whether it holds bytes that wait for the client to send more."""
        return self.held.size > 0 and not self._lock.locked() and self._error is None

    @property
    def error(self) -> TusError | None:
        """What kept it from storing the rest, if anything."""
        return self._error

    @property
    def replaced(self) -> list[str]:
        """Names of segments that the record no longer has."""
        names = {segment.name for segment in self.upload.tail}
        return [name for name in self._replaced if name not in names]

    async def run(self) -> Upload:
        """Store the body, and return the record of what is durable then."""
        with self._budget.writing(self):
            try:
                async for batch in self._body.batches():
                    for chunk in batch:
                        await self._add(memoryview(chunk))
                    if self._error is not None:
                        break
                if not self._body.discard:
                    await self._accept()
                    await self._end()
            except TusError as error:
                self._fail(error)
            finally:
                await self._stop()
        return self.upload

    # What arrives

    async def _add(self, chunk: memoryview) -> None:
        while len(chunk) and self._error is None:
            await self._budget.room()
            count = min(len(chunk), self._target.part_size - self._size)
            self.held.add(chunk[:count])
            self._take(count)
            self._size += count
            chunk = chunk[count:]
            if self._size == self._target.part_size:
                async with self._lock:
                    await self._close_part()
            elif self.held.size >= self._target.unit:
                await self._spill(keep=False)

    async def _close_part(self) -> None:
        if self._is_verified:
            await self._begin_part()
        else:
            await self._stage()
            self._next_part()

    def _next_part(self) -> None:
        self._start += self._size
        self._size = 0

    # Parts

    async def _begin_part(self) -> None:
        """Send the current part while the next one is gathered, unless enough are on their way."""
        await self._slots.acquire()
        number = self._start // self._target.part_size + 1
        self._last = asyncio.create_task(self._send_part(number, self._pieces_of_part(), self._last))
        self._tasks.add(self._last)
        self._next_part()

    def _pieces_of_part(self) -> list[Piece]:
        pieces: list[Piece] = []
        # While an earlier part is on its way, the record still has the segments that are in that one.
        if self._start == _end_of_parts(self.upload):
            for segment in self.upload.tail:
                if kept := self._budget.release(segment.name):
                    self._taken += kept.size
                pieces.append(kept or self._target.stored(segment))
                self._replaced.append(segment.name)
        pieces += self._closed
        self._closed = []
        if self._is_verified and self.held.size:
            pieces.append(self.held)
            self.held = Held()
        return pieces

    async def _send_part(self, number: int, pieces: list[Piece], previous: asyncio.Task[bool] | None) -> bool:
        part: Part | None
        try:
            try:
                with self._budget.sending():
                    part = await self._target.put_part(number, pieces)
            finally:
                self._give_back(pieces)
                pieces.clear()
                self._slots.release()
        except TusError as error:
            part = None
            self._fail(error)
        # A part that failed takes everything behind it with it: only what has no gap before it is recorded.
        if (previous is not None and not await asyncio.shield(previous)) or part is None:
            return False
        offset = _end_of_parts(self.upload) + part.size
        self.upload = self.upload.changed(parts=(*self.upload.parts, part), tail=(), offset=offset)
        await self._progress(self.upload)
        return True

    async def _settled(self) -> None:
        """Wait for the parts that are on their way."""
        if self._last is not None:
            await asyncio.shield(self._last)

    # Segments

    def spill_soon(self) -> asyncio.Task[None]:
        """Turn what is held into a segment, because others need the memory."""
        task = asyncio.create_task(self._spill(keep=False))
        self._tasks.add(task)
        return task

    async def _spill(self, *, keep: bool) -> None:
        """Turn what there is of the current part behind its segments into one more."""
        async with self._lock:
            if self._error is not None or not (self.held.size or self._closed):
                return
            try:
                if self._is_verified:
                    await self._put_segment(keep)
                else:
                    await self._stage()
            except TusError as error:
                self._fail(error)

    async def _put_segment(self, keep: bool) -> None:
        held, self.held = self.held, Held()
        pieces: list[Piece] = [*self._closed, held]
        self._closed = []
        end = self._start + self._size
        try:
            with self._budget.sending():
                await self._settled()
                if self._error is not None:
                    return
                tail, merged = self._mergeable()
                pieces = [*(self._budget.kept(old.name) or self._target.stored(old) for old in merged), *pieces]
                size, crc = sum(piece.size for piece in pieces), crc_of(pieces)
                assert crc is not None
                segment = Segment(size, segment_name(end - size, crc, secrets.token_hex(8)), crc)
                await self._target.put_segment(segment.name, pieces)
            self.upload = self.upload.changed(tail=(*tail, segment), offset=end)
            names = [old.name for old in merged]
            self._replaced += names
            self._budget.forget(names)
            if keep and pieces == [held]:
                self._budget.keep(segment.name, held)
                self._taken -= held.size
                held = Held()
        finally:
            self._give_back([held])
        await self._progress(self.upload)

    def _mergeable(self) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return the segments that stay, and those that become one with the next because there are so many."""
        tail = self.upload.tail
        cut = len(tail)
        while cut and tail[cut - 1].size < self._target.unit and tail[cut - 1].crc is not None:
            cut -= 1
        return (tail, ()) if len(tail) - cut < MAX_SEGMENTS else (tail[:cut], tail[cut:])

    # Bytes under a checksum

    async def _stage(self) -> None:
        """Put what is held where nobody looks for it who makes the record again."""
        held, self.held = self.held, Held()
        if not held.size:
            return
        assert held.crc is not None
        offset = self.upload.offset + sum(piece.size for piece in self._staged)
        segment = Segment(held.size, segment_name(offset, held.crc, secrets.token_hex(8)), held.crc)
        self._staged.append(self._target.stored(segment, verified=False))
        try:
            with self._budget.sending():
                await self._target.put_segment(segment.name, [held], verified=False)
        finally:
            self._give_back([held])

    async def _accept(self) -> None:
        """Let count what was staged: all of it is verified."""
        if self._is_verified:
            return
        self._start = _end_of_parts(self.upload)
        self._size = self.upload.offset - self._start
        for piece in self._staged:
            self._closed.append(piece)
            self._size += piece.size
            if self._size == self._target.part_size:
                await self._begin_part()
        self._is_verified = True
        self._size += self.held.size

    # The end

    async def _end(self) -> None:
        """Store what is left behind the last whole part."""
        if self._error is None and self._start + self._size == self.upload.length:
            if self._size:
                async with self._lock:
                    await self._begin_part()
        else:
            await self._spill(keep=True)
        await self._settled()

    def _fail(self, error: TusError) -> None:
        """Stop the body; what was recorded before stays."""
        if self._error is None:
            self._error = error
            self._body.close(error)

    async def _stop(self) -> None:
        """End what is still under way, and give all memory back."""
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._budget.free(self._taken)
        self._taken = 0
        if self._staged:
            await self._target.delete_segments([piece.name for piece in self._staged], verified=False)

    def _take(self, count: int) -> None:
        self._taken += count
        self._budget.take(count)

    def _give_back(self, pieces: Iterable[Piece]) -> None:
        count = sum(piece.size for piece in pieces if isinstance(piece, Held))
        self._taken -= count
        self._budget.free(count)


def copyable(pieces: list[Piece]) -> Stored | None:
    """Return the one piece of a part that can be copied inside the storage."""
    only = pieces[0] if len(pieces) == 1 else None
    return only if isinstance(only, Stored) and only.size >= MIN_PART else None


def _end_of_parts(upload: Upload) -> int:
    return upload.offset - sum(segment.size for segment in upload.tail)
