"""A raw HTTP client for tests: exact bytes go out, one answer at a time comes back.

A server has to be tested with what a good client library refuses to send, mends or hides: doubled headers, broken
framing, half a request. `Connection` sends any bytes; `RawClient` puts a tus request together from parts of which
each can be replaced, repeated or left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from multidict import CIMultiDict

TIMEOUT_SECONDS = 20.0
OFFSET_STREAM = "application/offset+octet-stream"

Headers = Mapping[str, str | int | list[str] | None]
"""Header fields; a list repeats the field, None leaves out one that is sent by default.

Text goes out as UTF-8, and bytes that are not UTF-8 as surrogate escapes.
"""


CHUNKED: Headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
"""Headers that replace the body's length."""


def chunked(*parts: bytes) -> bytes:
    """Return a body in chunks of HTTP, one for each part."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


@dataclass(frozen=True)
class Answer:
    """One HTTP response; an interim one (1xx) is an answer of its own."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code, `ERR_...`, or nothing."""
        code = self.body.partition(b":")[0].decode(errors="replace")
        return code if code.startswith("ERR_") else ""

    def refused(self, code: str = "") -> bool:
        """Whether it is a 4xx that says why, with this code if one is given, and makes no upload."""
        says_why = self.code == code if code else bool(self.body)
        return 400 <= self.status < 500 and says_why and "Location" not in self.headers

    @property
    def offset(self) -> int | None:
        """Upload-Offset as a number."""
        value = self.headers.get("Upload-Offset")
        return None if value is None else int(value)


class Connection:
    """One connection to a server: `async with Connection.open(url) as connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk over these streams; `Connection.open` makes them."""
        self._reader = reader
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Connect to the server of a URL `http://host:port/...`, and close the connection at the end."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):  # the server may have been faster
                await writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send these bytes; a server that has closed the connection shows in what is read from it."""
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def end(self) -> None:
        """Send no more, but go on reading."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Break the connection as a crash would: the server gets an error instead of an end."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def answer(self, method: str = "GET", timeout: float = TIMEOUT_SECONDS) -> Answer:
        """Read one answer to a request with this method.

        Raises:
            asyncio.IncompleteReadError: the server closed the connection before a whole answer was read.
            TimeoutError: nothing came in time.
        """
        async with asyncio.timeout(timeout):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape")
            status_line, *lines = head[:-4].split("\r\n")
            status = int(status_line.split(" ")[1])
            headers: CIMultiDict[str] = CIMultiDict()
            for name, _, value in (line.partition(":") for line in lines):
                headers.add(name, value.strip(" "))
            if method == "HEAD" or status < 200 or status in (204, 304):
                body = b""
            elif "Content-Length" in headers:
                body = await self._reader.readexactly(int(headers["Content-Length"]))
            else:
                body = await self._reader.read()
            return Answer(status, headers, body)

    async def until(self, text: bytes, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """Wait until the server has sent this, and return all up to its end."""
        async with asyncio.timeout(timeout):
            return await self._reader.readuntil(text)

    async def rest(self, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """Wait until the server closes the connection, and return what it sent before."""
        async with asyncio.timeout(timeout):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""


class RawClient:
    """Makes tus requests to one server, each on a connection of its own, and repairs nothing."""

    def __init__(self, url: str) -> None:
        """Create uploads at `url`."""
        self.url = url

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Open a connection: `async with client.connect() as connection`."""
        return Connection.open(self.url)

    def message(self, method: str, url: str = "", headers: Headers | None = None, body: bytes = b"") -> bytes:
        """Return a request as bytes, with Host, Tus-Resumable, and Content-Length if there is a body.

        `url` is one that the server gave, or a request target that goes out as it is written.
        """
        host = urlsplit(self.url).netloc
        target = (url or self.url).removeprefix("http://" + host)
        fields: dict[str, str | int | list[str] | None] = {
            "Host": host,
            "Tus-Resumable": "1.0.0",
            "Content-Length": len(body) if body else None,
            **(headers or {}),
        }
        lines = [f"{method} {target} HTTP/1.1"]
        for name, value in fields.items():
            if value is not None:
                lines += [f"{name}: {one}" for one in (value if isinstance(value, list) else [value])]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body

    async def exchange(self, data: bytes, method: str = "GET") -> Answer:
        """Send these bytes on a connection of their own, and return the final answer."""
        async with self.connect() as connection:
            await connection.send(data)
            while (answer := await connection.answer(method)).status < 200:
                pass
            return answer

    async def request(self, method: str, url: str = "", headers: Headers | None = None, body: bytes = b"") -> Answer:
        """Send a request made by `message`, and return the final answer."""
        return await self.exchange(self.message(method, url, headers, body), method)

    async def post(self, headers: Headers | None = None, body: bytes = b"") -> Answer:
        """Ask for a new upload; a body is declared as one."""
        content_type: Headers = {"Content-Type": OFFSET_STREAM} if body else {}
        return await self.request("POST", "", {**content_type, **(headers or {})}, body)

    async def create(self, length: int | None = None, headers: Headers | None = None, body: bytes = b"") -> str:
        """Create an upload, and return its URL."""
        answer = await self.post({"Upload-Length": length, **(headers or {})}, body)
        assert answer.status == 201, answer
        return answer.headers["Location"]

    def patch_message(self, url: str, offset: int, body: bytes = b"", headers: Headers | None = None) -> bytes:
        """Return a PATCH as bytes."""
        own: Headers = {"Upload-Offset": offset, "Content-Type": OFFSET_STREAM, "Content-Length": len(body)}
        return self.message("PATCH", url, {**own, **(headers or {})}, body)

    async def patch(self, url: str, offset: int, body: bytes = b"", headers: Headers | None = None) -> Answer:
        """Append bytes."""
        return await self.exchange(self.patch_message(url, offset, body, headers))

    async def head(self, url: str, headers: Headers | None = None) -> Answer:
        """Ask for the offset."""
        return await self.request("HEAD", url, headers)

    async def offset(self, url: str) -> int | None:
        """Return the upload's offset; None if the server tells none."""
        return (await self.head(url)).offset

    async def get(self, url: str, headers: Headers | None = None) -> Answer:
        """Download."""
        return await self.request("GET", url, {"Tus-Resumable": None, **(headers or {})})

    async def delete(self, url: str, headers: Headers | None = None) -> Answer:
        """Terminate."""
        return await self.request("DELETE", url, headers)
