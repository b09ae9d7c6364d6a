"""The data plane: takes bodies off the connection before aiohttp parses them.

aiohttp copies every byte of a body three times and may hold half a mebibyte of it per connection. So a `Front` stands
between each connection and aiohttp's protocol. It reads the head of a request; if the head announces a body with one
plain Content-Length, aiohttp gets the head with that header renamed, which makes it a request without a body, and the
bytes that follow go straight from the socket into buffers of the shared `Memory`, for a `Receiver` to hand out.
Behind the body the next head begins, so connections are kept alive.

Whatever is not that simple (chunked bodies, upgrades, odd line ends, a head that is too long) is given to aiohttp as
it is, for the rest of the connection, and its stream is read with a `Pump`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import cast

from aiohttp import web

from tusd_py.body import BATCH_BYTES, Chunk, Memory
from tusd_py.errors import TusError, UnexpectedEnd

BODY_LENGTH = "Tusd-Py-Body-Length"
"""Stands for Content-Length in heads that aiohttp sees without their body."""

_RENAMED = BODY_LENGTH.encode()
_MAX_HEAD_BYTES = 64 * 1024
# Used by all connections, for heads, which are copied at once, and for bytes that are dropped.
_scratch = memoryview(bytearray(256 * 1024))
_head_scratch = _scratch[: 16 * 1024]
_NOTABLE = re.compile(
    rb"\r\n((?:content-length|transfer-encoding|upgrade|" + _RENAMED.lower() + rb")[ \t]*):[ \t]*([^\r\n]*)",
    re.IGNORECASE,
)
_LENGTH = re.compile(rb"[0-9]{1,18}[ \t]*")
_BARE_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Receiver:
    """A body with a known length, received into buffers; a `Source`."""

    def __init__(self, front: Front, length: int) -> None:
        """Expect `length` bytes."""
        self.ended = False
        self.error: TusError | None = None
        self.received = 0
        self.missing = length
        self._front = front
        self._memory = front.memory
        self._current: memoryview | None = None
        self._filled = 0
        self._queue: list[Chunk] = []
        self._queued = 0
        self._buffers: list[memoryview] = []
        self._lent: list[memoryview] = []
        self._is_started = False
        self._is_paused = False
        self._is_dropping = False
        self.on_start: Callable[[], None] | None = None
        self._arrived: asyncio.Event = asyncio.Event()

    @property
    def is_waiting(self) -> bool:
        """Whether the connection is read."""
        return not self._is_paused and not self.ended

    def start(self) -> None:
        """Begin to read; until then the connection holds what came with the head and nothing more."""
        if not self._is_started:
            self._is_started = True
            if self.on_start is not None:
                self.on_start()
            self._resume()

    async def wait(self) -> None:
        """Wait for bytes or the end."""
        if not self._queue and self._current is None and not self.ended:
            self._arrived.clear()
            await self._arrived.wait()

    def take(self) -> list[Chunk]:
        """Return what was received."""
        self._seal()
        taken, self._queue, self._queued = self._queue, [], 0
        self._lent += self._buffers
        self._buffers = []
        return taken

    def give_back(self) -> None:
        """Free what was taken, and read on."""
        lent, self._lent = self._lent, []
        for buffer in lent:
            self._memory.take_back(buffer)
        if self._is_paused and not self._is_dropping and not self.ended:
            self._resume()

    def stop(self) -> None:
        """Read no more."""
        if not self.ended:
            self.ended = True
            if self.missing:
                self.pause()
            self._arrived.set()

    async def drop_rest(self, seconds: float) -> bool:
        """Read what the client still sends and drop it; return whether that was the whole body."""
        self.stop()
        self._is_dropping = True
        self._arrived.clear()
        if self.missing and self.error is None:
            self._is_paused = False
            self._front.resume()
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return False
        return not self.missing

    # What the front calls

    def buffer(self) -> memoryview:
        """Return where the next bytes go: never more room than bytes are missing."""
        if self._is_dropping or self.ended:
            return _scratch[: self.missing]
        if self._current is None:
            self._current, self._filled = self._memory.lend(), 0
        return self._current[self._filled : self._filled + self.missing]

    def filled(self, count: int) -> None:
        """Count bytes that were written into `buffer`."""
        self.missing -= count
        if self._is_dropping or self.ended:
            if not self.missing:
                self._arrived.set()
            return
        self.received += count
        self._filled += count
        assert self._current is not None
        if self._filled == len(self._current) or not self.missing:
            self._seal()
        self._after_bytes()

    def feed(self, data: bytes) -> None:
        """Take bytes that came together with the head."""
        self.missing -= len(data)
        self.received += len(data)
        self._queue.append(data)
        self.ended = not self.missing

    def broken(self) -> None:
        """Note that the connection is gone."""
        if not self.ended:
            self.error = UnexpectedEnd(f"the connection broke after {self.received} bytes")
            self.ended = True
        self._arrived.set()

    def _after_bytes(self) -> None:
        if not self.missing:
            self.ended = True
        elif self._queued >= BATCH_BYTES or self._memory.is_spent:
            self.pause()
            if self._memory.is_spent:
                self._memory.when_free(self._resume)
        self._arrived.set()

    def _seal(self) -> None:
        """Put the current buffer into the queue."""
        if self._current is not None:
            if self._filled:
                self._queue.append(self._current[: self._filled])
                self._queued += self._filled
            self._buffers.append(self._current)
            self._current = None

    def pause(self) -> None:
        """Leave further bytes in the connection."""
        if not self._is_paused:
            self._is_paused = True
            self._front.pause()

    def _resume(self) -> None:
        if not self._is_paused or self.ended or self._queued >= BATCH_BYTES:
            return
        if self._memory.is_spent:
            self._memory.when_free(self._resume)
            return
        self._is_paused = False
        self._front.resume()


class Front(asyncio.BufferedProtocol):
    """Stands between one connection and aiohttp's protocol."""

    def __init__(self, inner: asyncio.Protocol, memory: Memory) -> None:
        """Pass on to `inner` what is not a body."""
        self.memory = memory
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._receiver: Receiver | None = None
        self._unclaimed: deque[Receiver] = deque()
        self._is_raw = False

    def claim(self) -> Receiver | None:
        """Return the body of the oldest request whose body was not claimed yet."""
        return self._unclaimed.popleft() if self._unclaimed else None

    def pause(self) -> None:
        """Read no more from the connection."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read from the connection again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; what was received of a body stays."""
        self._break()
        self._transport = None
        self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """End the body if the client sends no more."""
        self._break()
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Tell aiohttp that the client reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Tell aiohttp that the client reads again."""
        self._inner.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._receiver.buffer() if self._receiver else _head_scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Look at the bytes that came."""
        if self._receiver is None:
            self._received(bytes(_head_scratch[:nbytes]))
            return
        self._receiver.filled(nbytes)
        if not self._receiver.missing:
            self._receiver = None

    def _break(self) -> None:
        if self._receiver is not None:
            self._receiver.broken()

    def _received(self, data: bytes) -> None:
        """Split heads from bodies."""
        if self._is_raw:
            self._inner.data_received(data)
            return
        self._head += data
        while self._head and not self._is_raw:
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > _MAX_HEAD_BYTES:
                    self._refuse_head()
                # aiohttp says what is wrong with a head that does not begin like one or has other line ends.
                elif not self._head[:1].isalpha() or b"\n\n" in self._head:
                    self._give_up()
                return
            head, rest = bytes(self._head[: end + 4]), self._head[end + 4 :]
            length = _body_length(head)
            if length is None:
                self._give_up()
                return
            self._head = rest
            if length:
                self._begin_body(head, length)
            else:
                self._inner.data_received(head)

    def _begin_body(self, head: bytes, length: int) -> None:
        receiver = Receiver(self, length)
        first = bytes(self._head[:length])
        del self._head[: len(first)]
        if first:
            receiver.feed(first)
        self._unclaimed.append(receiver)
        if receiver.missing:
            self._receiver = receiver
            receiver.pause()
        self._inner.data_received(_NOTABLE.sub(b"\r\n%s: \\2" % _RENAMED, head))

    def _refuse_head(self) -> None:
        """Answer a head that takes too much memory, and close the connection."""
        if self._transport is not None and not self._transport.is_closing():
            text = b"ERR_INVALID_REQUEST: the head of a request may have %d bytes\n" % _MAX_HEAD_BYTES
            self._transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nTus-Resumable: 1.0.0\r\nConnection: close\r\n"
                b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
            )
            self._transport.close()
        self._head.clear()

    def _give_up(self) -> None:
        self._is_raw = True
        data, self._head = bytes(self._head), bytearray()
        self._inner.data_received(data)


def _body_length(head: bytes) -> int | None:
    """Return the size of the body behind a head, or None if that is not for us to say."""
    found = _NOTABLE.findall(head)
    if not head[:1].isalpha() or _BARE_LINE_END.search(head) or len(found) > 1:
        return None
    if not found:
        return 0
    name, value = found[0]
    if name.lower() != b"content-length" or not _LENGTH.fullmatch(value):
        return None
    return int(value)


def front_of(request: web.BaseRequest) -> Front | None:
    """Return the front of the connection that a request came from, or None if there is none."""
    protocol = request.transport.get_protocol() if request.transport else None
    return protocol if isinstance(protocol, Front) else None
