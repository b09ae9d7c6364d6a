"""HTTP as bytes: requests go out exactly as written, also those that an HTTP library would repair or refuse.

Answers are read by h11, which knows how they end, and never by this module.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, urlsplit

import h11

Headers = Mapping[str, str | int | None]
"""Header values by name; None leaves a header out that would be sent otherwise."""

_RECEIVE_BYTES = 64 * 1024
_MOST_SHOWN_BYTES = 2000


class NoAnswer(Exception):
    """The server closed the connection, stayed silent, or sent what is no HTTP; the message says which."""


@dataclass(frozen=True)
class Answer:
    """One response of the server, and what it was the answer to."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sent: bytes
    """The request, or as much of it as was sent."""
    seconds: float
    """Time from the first byte sent to the whole answer."""
    informational: tuple[int, ...] = ()
    """Statuses of the 1xx responses before this one."""

    def get(self, name: str) -> str | None:
        """Return a header's value, several of them joined by a comma, or None if there is none."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def is_client_error(self) -> bool:
        """Whether the status is 4xx."""
        return 400 <= self.status < 500

    def __str__(self) -> str:
        """Return the answer's head as people read it."""
        lines = [str(self.status), *(f"{name}: {value}" for name, value in self.headers)]
        return "\n".join(lines) + (f"\n\n{shown(self.body)}" if self.body else "")


def shown(data: bytes) -> str:
    """Return bytes as text for a report; of a body that is long or no text only its size."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if separator:
        text = head.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
        return text + (f"\n\n{shown(body)}" if body else "")
    if len(data) > _MOST_SHOWN_BYTES or not data.isascii() or not data.decode().isprintable():
        return f"[{len(data)} bytes]"
    return data.decode()


@dataclass
class Connection:
    """One connection to a server; a context manager that closes it."""

    address: SplitResult
    timeout: float
    sent: bytearray = field(default_factory=bytearray)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, url: str, timeout: float) -> Self:
        """Connect to the server of a URL.

        Raises:
            OSError: nobody listens there.
        """
        connection = cls(urlsplit(url), timeout)
        address = connection.address
        secure = address.scheme == "https"
        assert address.hostname is not None
        connection._socket = socket.create_connection(
            (address.hostname, address.port or (443 if secure else 80)), timeout=timeout
        )
        connection._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            connection._socket = ssl.create_default_context().wrap_socket(
                connection._socket, server_hostname=address.hostname
            )
        return connection

    def __post_init__(self) -> None:
        self._socket: socket.socket
        self._unread = b""
        self._parser: h11.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed the connection shows in what is read from it."""
        self.sent += data
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
            self._socket.sendall(data)

    def answer(self, method: str) -> Answer:
        """Read the final answer to a request with this method.

        Raises:
            NoAnswer: none came, or it was no HTTP.
        """
        parser = self._parser = h11.Connection(h11.CLIENT)
        # The parser has to know the method to know where the answer ends; what it would send is not sent.
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "ignored")]))
        parser.send(h11.EndOfMessage())
        informational: list[int] = []
        body = bytearray()
        final: h11.Response | None = None
        deadline = time.monotonic() + self.timeout
        while True:
            event = self._next_event(parser, deadline)
            if isinstance(event, h11.InformationalResponse):
                informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                final = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and final is not None:
                headers = tuple(
                    (name.decode("latin-1"), value.decode("latin-1")) for name, value in final.headers.raw_items()
                )
                seconds = time.monotonic() - self.started
                return Answer(final.status_code, headers, bytes(body), bytes(self.sent), seconds, tuple(informational))
            else:
                raise NoAnswer("the server closed the connection without a whole answer")

    def interim(self, seconds: float) -> int | None:
        """Return the status of the first response that comes within `seconds`, interim or final, or None."""
        self._socket.settimeout(seconds)
        try:
            self._unread += self._socket.recv(_RECEIVE_BYTES)
        except OSError:
            return None
        words = self._unread.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

    def is_closed_within(self, seconds: float) -> bool:
        """Wait up to `seconds` for the server to close the connection, and return whether it did."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_RECEIVE_BYTES):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    def end(self) -> None:
        """Send no more, but go on reading (FIN)."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection as a crash would (RST)."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _next_event(self, parser: h11.Connection, deadline: float) -> h11.Event | type[h11.PAUSED]:
        try:
            while (event := parser.next_event()) is h11.NEED_DATA:
                if self._unread:
                    parser.receive_data(self._unread)
                    self._unread = b""
                    continue
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data and parser.their_state is h11.SEND_RESPONSE:
                    raise NoAnswer("the server closed the connection without an answer")
                parser.receive_data(data)
        except TimeoutError:
            raise NoAnswer(f"no whole answer came within {self.timeout:g} seconds") from None
        except OSError as error:
            raise NoAnswer(f"the connection broke before a whole answer came ({error})") from None
        except h11.RemoteProtocolError as error:
            raise NoAnswer(f"the answer is no HTTP: {error}") from None
        assert event is not h11.NEED_DATA
        return event  # type: ignore[return-value]


def message(method: str, target: str, host: str, headers: Headers, body: bytes = b"") -> bytes:
    """Return a request as bytes, its headers in this order and as they are written."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def chunked(pieces: Iterable[bytes], trailers: Mapping[str, str] | None = None) -> bytes:
    """Return pieces of a body in chunked transfer coding, with trailers behind them (RFC 9112, section 7.1)."""
    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    fields = "".join(f"{name}: {value}\r\n" for name, value in (trailers or {}).items())
    return data + b"0\r\n" + fields.encode() + b"\r\n"
