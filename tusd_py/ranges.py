"""Reads an object over HTTP by ranges, as a file that seeks: with a URL that needs no other credentials.

The standard library's client is used on purpose: it reads from the socket into the caller's memory, takes no time to
import in a process that reads one file, and neither its log nor its errors quote the URL, which is a secret.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import io
import random
import ssl
import time
from collections.abc import Callable, Iterator
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import msgspec

FIRST_BYTES = 256 * 1024
"""What is asked for first and after a seek; also what is rather read and dropped than asked for anew."""
MOST_BYTES = 64 * 1024 * 1024
"""What is asked for at once in the end; it comes as the caller takes it, and is never in memory."""
GROWTH = 4
WAITS = (0.2, 0.8, 3.2)
_REFUSED = frozenset({400, 401, 403})
"""The first for credentials that have expired."""


class Unreachable(OSError):
    """The storage did not answer however often it was asked, or refused to; that says nothing of what it stores."""


class Address(msgspec.Struct, frozen=True):
    """Where an object is, and which one it has to be."""

    url: str
    """With a signature: whoever has it can read the object."""
    size: int
    etag: str | None = None
    """Without quotation marks; an object that has another one is refused."""
    ca_file: str | None = None
    """Certificates of those who may vouch for the server; None for the system's."""
    seconds: float = 30
    """How long the storage may be silent."""
    waits: tuple[float, ...] = WAITS
    """Seconds between attempts that brought nothing."""

    def __repr__(self) -> str:
        """Return nothing that lets anybody read the object."""
        return f"Address({urlsplit(self.url).netloc}, {self.size} bytes)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return nothing that lets anybody read the object."""
        return [("size", self.size)]


class RangeFile(io.RawIOBase):
    """An object's bytes. What is asked for grows while reading goes on where it was, and is little after a seek."""

    def __init__(self, address: Address, renewed: Callable[[], Address] | None = None) -> None:
        """Read at `address`; `renewed` returns another one when that is no longer good."""
        self._address = address
        self._renewed = renewed
        self._connection: http.client.HTTPConnection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._at = 0
        """Where in the object the next byte of the answer is."""
        self._stop = 0
        """Where it ends."""
        self._window = FIRST_BYTES
        self._position = 0

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def seekable(self) -> bool:
        """Return that it is."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; nothing is asked for before it is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._address.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._position = base + offset
        return self._position

    def close(self) -> None:
        """Let go of the connection."""
        self._disconnect()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read what comes next.

        Raises:
            FileNotFoundError: the object is not there any more.
            Unreachable: the storage does not answer, or the address is not good any more.
            OSError: the object is another one now.
        """
        count = min(len(buffer), self._address.size - self._position)
        if count <= 0:
            return 0
        waits = iter(self._address.waits)
        while True:
            try:
                self._move(self._position)
                if self._answer is None:
                    self._ask(count)
                return self._taken(memoryview(buffer)[:count])
            except _Again as again:
                self._disconnect()
                wait = next(waits, None)
                if wait is None:
                    raise Unreachable(errno.EIO, f"the storage does not answer ({again.cause})") from None
            time.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311 - not a secret

    def _taken(self, view: memoryview) -> int:
        """Read from the answer that has been begun."""
        assert self._answer is not None
        with _trying():
            count = self._answer.readinto(view[: self._stop - self._at])
        if not count:
            raise _Again("it broke off")
        self._at += count
        self._position = self._at
        if self._at == self._stop:
            self._answer = None
        return count

    def _move(self, position: int) -> None:
        """Have the answer go on at `position`, or have none."""
        if position == self._at:
            return
        is_near = self._at <= position < min(self._stop, self._at + FIRST_BYTES)
        if self._answer is not None and (is_near or self._stop - self._at <= FIRST_BYTES):
            # What is near, and what ends soon, is read: the connection is worth more.
            with _trying():
                self._answer.read((position if is_near else self._stop) - self._at)
        elif self._answer is not None:
            self._disconnect()
        if not is_near:
            self._answer = None
            self._window = FIRST_BYTES
        self._at = position

    def _ask(self, count: int) -> None:
        """Ask for the range that begins here.

        Raises:
            OSError: the answer is final.
        """
        start = self._position
        stop = min(self._address.size, start + max(self._window, count))
        answer = self._get(start, stop)
        if answer.status in _REFUSED and self._renewed:
            self._disconnect()
            self._address = self._renewed()
            answer = self._get(start, stop)
        try:
            _check(answer, self._address, start, stop)
        except BaseException:
            self._disconnect()
            raise
        self._answer, self._at, self._stop = answer, start, stop
        self._window = min(MOST_BYTES, GROWTH * self._window)

    def _get(self, start: int, stop: int) -> http.client.HTTPResponse:
        headers = {"Range": f"bytes={start}-{stop - 1}", "User-Agent": "tusd-py"}
        if self._address.etag:
            headers["If-Match"] = f'"{self._address.etag}"'
        with _trying():
            if self._connection is None:
                self._connection, self._target, self._more = _connection(self._address)
            self._connection.request("GET", self._target, headers=headers | self._more)
            return self._connection.getresponse()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._answer is not None:
            self._answer.close()
        self._connection, self._answer = None, None


class _Again(Exception):
    """It may be worth another attempt."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@contextlib.contextmanager
def _trying() -> Iterator[None]:
    """Turn what a connection can meet into `_Again`."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _Again(type(error).__name__) from None


def _check(answer: http.client.HTTPResponse, address: Address, start: int, stop: int) -> None:
    """Raise what is wrong with an answer, or nothing if it is the range of the object that was meant."""
    status, etag = answer.status, (answer.headers["ETag"] or "").removeprefix("W/").strip('"')
    if status in (408, 429) or status >= 500:
        raise _Again(f"status {status}")
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, "the storage no longer has this object")
    if status in _REFUSED:
        raise Unreachable(
            errno.EACCES, f"the storage does not give the object (status {status}): the signature may have expired"
        )
    given = answer.headers["Content-Range"]
    is_it = status == 206 and given in (f"bytes {start}-{stop - 1}/{address.size}", f"bytes {start}-{stop - 1}/*")
    if status == 200:  # it does not know ranges, or need not: this was all there is
        is_it = (start, stop) == (0, address.size) and answer.headers["Content-Length"] == str(address.size)
    if status not in (200, 206, 412, 416):
        raise Unreachable(errno.EIO, f"the storage answers {status} to a read")
    if not is_it or (address.etag and etag and etag != address.etag):
        raise OSError(errno.ESTALE, "the object is not the one any more that was uploaded")


def _connection(address: Address) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection, what to ask for on it, and the headers that a proxy wants."""
    url = urlsplit(address.url)
    target = f"{url.path or '/'}?{url.query}"
    host, port, more = url.hostname or "", url.port, dict[str, str]()
    given = None if proxy_bypass(url.netloc) else getproxies_environment().get(url.scheme)
    proxy = urlsplit(given if "//" in given else f"//{given}") if given else None
    if proxy is not None and proxy.username:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        more["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=address.ca_file)
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=address.seconds, context=context), target, {}
        tunnel = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port or 80, timeout=address.seconds, context=context
        )
        tunnel.set_tunnel(host, port or 443, more)
        return tunnel, target, {}
    if proxy is None:
        return http.client.HTTPConnection(host, port, timeout=address.seconds), target, {}
    through = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=address.seconds)
    return through, address.url, more
