"""aiohttp's requests and responses to those of the protocol, and back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from tusd_py.body import Body, Memory, Pump, Source
from tusd_py.config import Config
from tusd_py.errors import InvalidRequest, TusError
from tusd_py.headers import VERSION, has_body, parse_content_length
from tusd_py.models import Request, Response
from tusd_py.web.front import BODY_LENGTH, Receiver, front_of
from tusd_py.web.proxy import Proxies

LINGER_SECONDS = 2.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# What observers may see of a request's headers: nothing that could be a credential.
_HARMLESS = (
    "User-Agent",
    "Content-Type",
    "Content-Length",
    "Origin",
    "Range",
    "Upload-Length",
    "Upload-Offset",
)


class Adapter:
    """Translates between aiohttp and the protocol."""

    def __init__(self, config: Config) -> None:
        """Follow the settings on proxies, URLs and time-outs."""
        self._config = config
        self._proxies = Proxies(config.behind_proxy)
        self.memory = Memory(config.buffer_memory)

    def request(self, request: web.Request) -> Request:
        """Return the request without its body."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        scheme = "https" if request.secure else "http"
        address = peer[0] if isinstance(peer, tuple) else None
        seen = self._proxies.seen(request.headers, address, scheme, request.headers.get(hdrs.HOST, "localhost"))
        base_url = self._config.public_url or f"{seen.scheme}://{seen.host}{seen.prefix}{self._config.collection_path}"
        given_id = request.headers.get("X-Request-ID", "")
        return Request(
            method=request.method,
            path=request.raw_path.partition("?")[0],
            headers=_with_content_length(request.headers),
            query=request.raw_path.partition("?")[2],
            upload_id=request.match_info.get("upload_id") or None,
            base_url=base_url.rstrip("/") + "/",
            remote=seen.remote,
            id=given_id if _REQUEST_ID.fullmatch(given_id) else secrets.token_hex(8),
            is_local=seen.is_local,
        )

    def body(self, request: web.Request) -> Body:
        """Return the request's body; nothing is read, and no 100 Continue is sent, before its first byte is wanted."""
        own: Request = request["request"]
        if own.headers.get(hdrs.EXPECT, "100-continue").lower() != "100-continue":
            error = InvalidRequest("Expect can only be 100-continue")
            error.status = 417
            raise error
        length = parse_content_length(own.headers) if has_body(own.headers) else 0
        return Body(self._source(request), length=length, read_timeout=self._config.read_timeout.total_seconds())

    def _source(self, request: web.Request) -> Source:
        receiver = claimed(request)
        if receiver is None:
            return Pump(_reader(request), self.memory)
        if hdrs.EXPECT in request.headers:
            receiver.on_start = lambda: _continue(request)
        return receiver

    async def finish(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Send the answer; if the client still sends a body that nobody reads, drop it or close the connection."""
        receiver = claimed(request)
        if receiver is None or not receiver.missing:
            return
        if hdrs.EXPECT in request.headers:
            # Whether the client sends its body after this answer cannot be known (RFC 9110 section 10.1.1).
            answer.force_close()
        with contextlib.suppress(ConnectionError):
            await answer.prepare(request)
            await answer.write_eof()
        # Closing at once would reset the connection and could take the answer away from the client.
        if not await receiver.drop_rest(LINGER_SECONDS) and request.transport is not None:
            request.transport.close()

    async def send(self, request: web.Request, response: Response) -> web.StreamResponse:
        """Return the answer, with its content already sent if it has any."""
        headers = {"X-Request-ID": request["id"], **response.headers}
        if response.content is None:
            return web.Response(status=response.status, headers=headers, body=response.body or None)
        start, stop = response.span
        answer = web.StreamResponse(status=response.status, headers=headers)
        answer.content_length = stop - start
        if request.method == "HEAD":
            await answer.prepare(request)
            return answer
        chunks = response.content.chunks(start, stop)
        try:
            # Before the head, so that a storage that cannot give the bytes can still be told of.
            # In a list, from which it is taken: a reader that does not read shall not hold it to the end.
            first = [await anext(chunks, b"")]
            await answer.prepare(request)
            await self._stream(request, answer, first, chunks)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        return answer

    async def _stream(
        self, request: web.Request, answer: web.StreamResponse, first: list[bytes], chunks: AsyncIterator[bytes]
    ) -> None:
        seconds = self._config.read_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                await answer.write(first.pop())
            async for chunk in chunks:
                async with asyncio.timeout(seconds):
                    await answer.write(chunk)
            await answer.write_eof()
        except (TimeoutError, ConnectionError, TusError):
            # The head is sent, so the only honest end is a broken connection, if there still is one: the reader is too
            # slow or has left, or bytes are missing.
            if request.transport is not None:
                request.transport.abort()


def harmless(request: Request) -> Request:
    """Return the request as observers may see it: without credentials, which a query may hold too."""
    kept = CIMultiDict({name: request.headers[name] for name in _HARMLESS if name in request.headers})
    return replace(request, headers=CIMultiDictProxy(kept), query="")


def error_response(error: TusError, request: web.BaseRequest) -> Response:
    """Return an error as text, or as problem details (RFC 9457) to who asks for them."""
    headers = {**error.headers, "X-Content-Type-Options": "nosniff"}
    if "application/problem+json" in request.headers.get(hdrs.ACCEPT, ""):
        problem = {
            "type": "about:blank",
            "title": error.code,
            "status": error.status,
            "detail": error.message,
        }
        body = msgspec.json.encode(problem)
        headers["Content-Type"] = "application/problem+json"
    else:
        body = f"{error.code}: {error.message}\n".encode("utf-8", "backslashreplace")
        headers["Content-Type"] = "text/plain; charset=utf-8"
    return Response(error.status, headers, body, error=error.code)


def with_version(response: Response) -> Response:
    """Return the response with Tus-Resumable."""
    return replace(response, headers={"Tus-Resumable": VERSION, **response.headers})


async def answer_expectation(request: web.Request) -> None:
    """Send nothing yet: 100 Continue is sent when the body is wanted (RFC 9110 section 10.1.1)."""


def claimed(request: web.Request) -> Receiver | None:
    """Return what receives the request's body, if it is not aiohttp."""
    if "receiver" not in request:
        front = front_of(request)
        request["receiver"] = front.claim() if front and BODY_LENGTH in request.headers else None
    receiver: Receiver | None = request["receiver"]
    return receiver


def _with_content_length(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """Return the headers as the client sent them."""
    if BODY_LENGTH not in headers:
        return headers
    restored = CIMultiDict(headers)
    restored[hdrs.CONTENT_LENGTH] = restored.pop(BODY_LENGTH)
    return CIMultiDictProxy(restored)


def _continue(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _reader(request: web.Request) -> Callable[[], Awaitable[bytes]]:
    is_waiting = hdrs.EXPECT in request.headers

    async def read() -> bytes:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            _continue(request)
        try:
            return await request.content.readany()
        except Exception:
            # When a connection breaks, aiohttp hides what arrived before and was not read yet; it counts all the same.
            if (rest := request.content._read_nowait(-1)) or request.content.is_eof():
                return rest
            raise

    return read
