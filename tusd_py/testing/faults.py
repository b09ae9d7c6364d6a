"""A proxy between a server and the S3 service behind it, which counts calls and breaks those that a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

Kind = Literal["refuse", "answer", "lose", "hang", "reset", "slow", "cut"]
_READ_BYTES = 256 * 1024


class Call(NamedTuple):
    """One call on S3 as its request line and headers tell it."""

    operation: str
    key: str
    part: int | None = None


class Fault(NamedTuple):
    """What is done to a call.

    `refuse` answers `status` without passing the call on; `lose` passes it on and answers `status` in place of what S3
    says; `hang` never answers; `reset` breaks the connection in the middle of the body; `slow` waits before each piece;
    `cut` ends the connection after so many `bytes` of the answer's body.
    """

    kind: Kind
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.1
    bytes: int = 300_000


Choose = Callable[[Call], Fault | None]


class FaultProxy:
    """A proxy on a free port, in a thread of its own; `choose` says what happens to a call, by default nothing."""

    def __init__(self, target: str) -> None:
        """Pass calls on to the service at the URL `target`."""
        address = urlsplit(target)
        self._target = (address.hostname or "127.0.0.1", address.port or 80)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault proxy")
        self._connections: set[asyncio.Task[None]] = set()
        self.choose: Choose = lambda call: None
        self.calls: list[Call] = []
        self.endpoint = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def count(self) -> Counter[str]:
        """Return how often each operation was called."""
        return Counter(call.operation for call in list(self.calls))

    def once(self, fault: Fault, operation: str, part: int | None = None) -> None:
        """Break the next call of this kind, and no other."""
        self.times(1, fault, operation, part)

    def times(self, count: int, fault: Fault, operation: str, part: int | None = None) -> None:
        """Break the next `count` calls of this kind."""
        left = count

        def choose(call: Call) -> Fault | None:
            nonlocal left
            if left and call.operation == operation and part in (None, call.part):
                left -= 1
                return fault
            return None

        self.choose = choose

    def always(self, fault: Fault, operation: str | None = None) -> None:
        """Break every call, or every one of a kind, until `heal`."""
        self.choose = lambda call: fault if operation in (None, call.operation) else None

    def heal(self) -> None:
        """Break nothing any more."""
        self.choose = lambda call: None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_READ_BYTES)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target, limit=_READ_BYTES)
            try:
                while await self._pass_on(reader, writer, up_reader, up_writer):
                    pass
            finally:
                up_writer.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass one request and its answer on; return whether the connection can have another."""
        head = await reader.readuntil(b"\r\n\r\n")
        call = parse_call(head)
        self.calls.append(call)
        fault = self.choose(call)
        method, body = head.split(b" ", 1)[0], _length(head)
        if b"100-continue" in head.lower() and not (fault and fault.kind == "hang"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault is None or fault.kind in ("lose", "slow", "cut"):
            up_writer.write(head)
            if _is_chunked(head):
                await _copy_chunked(reader, up_writer)
            else:
                await _copy(reader, up_writer, body, fault.seconds if fault and fault.kind == "slow" else 0)
            answer = await up_reader.readuntil(b"\r\n\r\n")
            while answer.startswith(b"HTTP/1.1 100"):
                answer = await up_reader.readuntil(b"\r\n\r\n")
            has_body = method != b"HEAD" and answer[9:12] not in (b"204", b"304")
            if fault is None or fault.kind == "slow":
                writer.write(answer)
                await _copy_answer(up_reader, writer, answer, has_body)
                return b"connection: close" not in answer.lower()
            if fault.kind == "cut":
                writer.write(answer)
                await _copy(up_reader, writer, min(_length(answer), fault.bytes), 0)
                return False
            await _copy_answer(up_reader, None, answer, has_body)
            return await self._answer(writer, fault, method)
        if fault.kind == "hang":
            await self._stopped.wait()
        if fault.kind == "reset":
            await reader.readexactly(min(body, 100_000))
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        await _copy(reader, None, body, 0)
        return await self._answer(writer, fault, method)

    async def _answer(self, writer: asyncio.StreamWriter, fault: Fault, method: bytes) -> bool:
        text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>a fault</Message></Error>".encode()
        head = f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + (b"" if method == b"HEAD" else text))
        await writer.drain()
        return True


def parse_call(head: bytes) -> Call:
    """Return what a request asks of S3, in the words of its API."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    address = urlsplit(target)
    query = parse_qs(address.query, keep_blank_values=True)
    key = address.path.partition("/")[2].partition("/")[2]
    is_copy = b"\r\nx-amz-copy-source:" in head.lower()
    if "uploads" in query:
        return Call("CreateMultipartUpload" if method == "POST" else "ListMultipartUploads", key)
    if "uploadId" in query:
        number = int(query["partNumber"][0]) if "partNumber" in query else None
        operation = {
            "PUT": "UploadPartCopy" if is_copy else "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }[method]
        return Call(operation, key, number)
    if "delete" in query:
        return Call("DeleteObjects", key)
    if method == "GET" and not key:
        return Call("ListObjects", key)
    return Call(f"{method.capitalize()}{'Object' if key else 'Bucket'}", key)


def _length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def _is_chunked(head: bytes) -> bool:
    return b"\r\ntransfer-encoding: chunked" in head.lower()


async def _copy_chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        chunk = line + await reader.readexactly(size + 2)
        if writer is not None:
            writer.write(chunk)
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, count: int, seconds: float) -> None:
    while count:
        chunk = await reader.read(min(count, _READ_BYTES))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", count)
        count -= len(chunk)
        if writer is not None:
            writer.write(chunk)
            await writer.drain()
        if seconds:
            await asyncio.sleep(seconds)


async def _copy_answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, head: bytes, has_body: bool
) -> None:
    if not has_body:
        count = 0
    elif _is_chunked(head):
        await _copy_chunked(reader, writer)
        count = 0
    else:
        count = _length(head)
    with contextlib.suppress(asyncio.IncompleteReadError):
        await _copy(reader, writer, count, 0)
    if writer is not None:
        await writer.drain()
