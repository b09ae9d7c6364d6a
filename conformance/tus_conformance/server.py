"""The server under test, as cases see it."""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

from tus_conformance.wire import Answer, Connection, Headers, NoAnswer, message

OFFSET_STREAM = "application/offset+octet-stream"
# A server that has let so many requests between cases time out is given up.
_MOST_TIMEOUTS = 10


class Outcome(Exception):
    """A case ended without having passed."""


class Failed(Outcome):
    """The rule does not hold."""

    def __init__(self, expected: str, got: str, *answers: Answer) -> None:
        """Say what was expected and what came instead, with the exchanges that show it."""
        super().__init__(f"expected {expected}; got {got}")
        self.expected = expected
        self.got = got
        self.answers = answers


class Blocked(Outcome):
    """Whether the rule holds cannot be found out, because something else does not work that another rule is about."""


class Skipped(Outcome):
    """The rule does not count for this server."""


@dataclass(frozen=True)
class Options:
    """How to talk to a server."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, for authentication."""
    metadata: Mapping[str, str] = field(
        default_factory=lambda: {"filename": "tus-conformance.bin", "filetype": "application/octet-stream"}
    )
    """What every upload is created with, unless a case is about metadata."""
    timeout: float = 10
    """Seconds that an answer may take."""
    patience: float = 3
    """Seconds to wait for what a server does by itself, such as to expire an upload."""
    downloads: bool = True
    """Whether to ask for the bytes of uploads by GET, which is no part of the protocol."""


class Server:
    """A tus server, by the URL where uploads are created."""

    def __init__(self, url: str, options: Options) -> None:
        """Talk to the server at `url`."""
        self.url = url
        self.options = options
        self.created: list[str] = []
        """URLs of all uploads that were made."""
        self._patience_left = _MOST_TIMEOUTS
        self.capabilities = Answer(0, (), b"", b"", 0)
        """The answer to OPTIONS."""

    # What the server says of itself

    def discover(self) -> None:
        """Ask for the capabilities.

        Raises:
            NoAnswer: the server does not answer.
            OSError: nobody listens there.
        """
        self.capabilities = self.request("OPTIONS", headers={"Tus-Resumable": None})

    def strange(self) -> str | None:
        """Return what is strange if nothing in the server's answers is of tus, else None.

        Raises:
            NoAnswer: the server does not answer.
        """
        created = self.post({"Upload-Length": 0})
        answers = (self.capabilities, created)
        names = ("Tus-Resumable", "Tus-Version", "Tus-Extension", "Upload-Offset")
        is_tus = any(answer.get(name) is not None for answer in answers for name in names)
        if is_tus or (created.status == 201 and created.get("Location") is not None):
            return None
        return f"OPTIONS gets {self.capabilities.status} and POST {created.status}, without any header of tus"

    def settle(self) -> None:
        """Wait until the server answers, for what a case before did may still keep it busy.

        Raises:
            Blocked: it does not answer any more.
        """
        while self._patience_left:
            try:
                self.request("OPTIONS", headers={"Tus-Resumable": None})
            except NoAnswer:
                self._patience_left -= 1
            except ConnectionRefusedError:
                self._patience_left = 0
            else:
                return
        raise Blocked("the server does not answer any more")

    @property
    def version(self) -> str:
        """The protocol version to speak."""
        return "1.0.0"

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that the server advertises."""
        return frozenset(listed(self.capabilities.get("Tus-Extension")))

    @property
    def algorithms(self) -> list[str]:
        """The checksum algorithms that the server advertises."""
        return listed(self.capabilities.get("Tus-Checksum-Algorithm"))

    @property
    def max_size(self) -> int | None:
        """Tus-Max-Size, or None if there is none that can be understood."""
        value = self.capabilities.get("Tus-Max-Size") or ""
        return int(value) if value.isdecimal() and value.isascii() else None

    # Requests

    def connect(self, url: str | None = None) -> Connection:
        """Open a connection."""
        return Connection.open(url or self.url, self.options.timeout)

    def message(self, method: str, url: str | None = None, headers: Headers | None = None, body: bytes = b"") -> bytes:
        """Return a request as bytes, with Host, Tus-Resumable and, if there is a body, its Content-Length."""
        address = urlsplit(url or self.url)
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        fields: dict[str, str | int | None] = {
            **self.options.headers,
            "Tus-Resumable": self.version,
            "Content-Length": len(body) if body or method in ("POST", "PATCH") else None,
            **(headers or {}),
        }
        return message(method, target, address.netloc, fields, body)

    def request(self, method: str, url: str | None = None, headers: Headers | None = None, body: bytes = b"") -> Answer:
        """Make a request on a connection of its own.

        Raises:
            NoAnswer: there was none.
        """
        with self.connect(url) as connection:
            connection.send(self.message(method, url, headers, body))
            return connection.answer(method)

    def post(self, headers: Headers | None = None, body: bytes = b"") -> Answer:
        """Ask for a new upload, with the usual metadata; it is removed in the end."""
        content_type = {"Content-Type": OFFSET_STREAM} if body else {}
        answer = self.request(
            "POST", None, {"Upload-Metadata": self.metadata(), **content_type, **(headers or {})}, body
        )
        self.remember(answer)
        return answer

    def remember(self, answer: Answer) -> str | None:
        """Note the upload that an answer tells of, so that it is removed in the end, and return its URL."""
        location = answer.get("Location")
        if not answer.is_success or not location:
            return None
        url = urljoin(self.url, location)
        self.created.append(url)
        return url

    def located(self, answer: Answer) -> str:
        """Return the URL of the upload that a successful creation made."""
        url = self.remember(answer)
        if url is None:
            raise Blocked(f"the answer to a creation does not say where the upload is ({answer.status})")
        return url

    def patch_message(self, url: str, offset: int | str, body: bytes = b"", headers: Headers | None = None) -> bytes:
        """Return a PATCH as bytes."""
        own: dict[str, str | int | None] = {"Upload-Offset": offset, "Content-Type": OFFSET_STREAM}
        return self.message("PATCH", url, {**own, **(headers or {})}, body)

    def patch(self, url: str, offset: int | str, body: bytes = b"", headers: Headers | None = None) -> Answer:
        """Append bytes."""
        with self.connect(url) as connection:
            connection.send(self.patch_message(url, offset, body, headers))
            return connection.answer("PATCH")

    def head(self, url: str, headers: Headers | None = None) -> Answer:
        """Ask for the offset."""
        return self.request("HEAD", url, headers)

    def metadata(self, **more: str) -> str:
        """Return an Upload-Metadata header of the usual metadata and more."""
        return ",".join(f"{key} {encoded(value)}" for key, value in {**self.options.metadata, **more}.items())

    # Steps on the way to what a case is about: they raise `Blocked` where another rule is broken

    def create(self, length: int | None = None, headers: Headers | None = None) -> str:
        """Create an upload, and return its URL."""
        with _step("create an upload"):
            answer = self.post({"Upload-Length": length, **(headers or {})})
        url = self.remember(answer)
        if url is None:
            raise Blocked(f"an upload could not be created ({described(answer, 'Location')})")
        return url

    def append(self, url: str, offset: int, body: bytes, headers: Headers | None = None) -> Answer:
        """Append bytes that the server has to take."""
        with _step("send a PATCH"):
            answer = self.patch(url, offset, body, headers)
        if not answer.is_success:
            raise Blocked(f"a PATCH at offset {offset} was refused ({answer.status})")
        return answer

    def finished(self, content: bytes, headers: Headers | None = None) -> str:
        """Create a whole upload, and return its URL."""
        url = self.create(len(content), headers)
        if content:
            self.append(url, 0, content)
        return url

    def offset(self, url: str) -> int:
        """Return the offset that HEAD tells."""
        with _step("ask for the offset"):
            answer = self.head(url)
        offset = number(answer.get("Upload-Offset"))
        if not answer.is_success or offset is None:
            raise Blocked(f"HEAD did not tell an offset ({answer.status})")
        return offset

    def content(self, url: str) -> bytes | None:
        """Return the bytes of an upload, or None if the server does not give them, or never as they were sent.

        That bytes which are sent in peace arrive as they are is a rule of its own; other cases look for what they are
        about, and with such a server only at offsets.
        """
        return self.stored(url) if self._keeps_bytes else None

    @cached_property
    def _keeps_bytes(self) -> bool:
        url = self.create(11)
        self.append(url, 0, b"hello")
        self.append(url, 5, b" world")
        return self.stored(url) == b"hello world"

    def stored(self, url: str) -> bytes | None:
        """Return what GET gives, or None if it gives nothing."""
        with contextlib.suppress(NoAnswer):
            answer = self.request("GET", url) if self.options.downloads else None
            if answer is not None and answer.status == 200:
                return answer.body
        return None

    def unknown(self) -> str:
        """Return a URL like those of uploads, of one that does not exist."""
        url = self.create(1)
        # Of the same form, for a server may answer otherwise to what cannot be one of its names: the last characters
        # are others of that name's own.
        last = re.search(r"\w*$", url)
        assert last is not None
        characters = [character for character in url.rpartition("/")[2] if character.isalnum()] or ["0"]
        while url in self.created:
            url = url[: last.start()] + "".join(secrets.choice(characters) for _ in range(max(len(last[0]), 8)))
        return url

    def forget(self) -> list[str]:
        """Remove all uploads that were made, and return the URLs of those that stay."""
        if "termination" not in self.extensions:
            return list(dict.fromkeys(self.created))
        left = []
        # The last first, for a part may have to stay as long as there is a final upload that waits for it.
        for url in reversed(dict.fromkeys(self.created)):
            try:
                answer = self.request("DELETE", url)
                if not answer.is_success and answer.status not in (404, 410):
                    left.append(url)
            except (NoAnswer, OSError):
                left.append(url)
        return left


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    """Turn the lack of an answer into `Blocked`."""
    try:
        yield
    except NoAnswer as error:
        raise Blocked(f"could not {what}: {error}") from None


def listed(value: str | None) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in (value or "").split(",") if item.strip()]


def number(value: str | None) -> int | None:
    """Return a header's value as a non-negative integer, or None if it is not one."""
    return int(value) if value and value.isascii() and value.isdecimal() else None


def encoded(value: str | bytes) -> str:
    """Return text or bytes in Base64."""
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def described(answer: Answer, *headers: str) -> str:
    """Return an answer's status and some of its headers in a few words."""
    return ", ".join([str(answer.status), *(f"{name}: {answer.get(name)}" for name in headers)])


def fail(expected: str, *answers: Answer, got: str | None = None) -> NoReturn:
    """Raise `Failed`; unless told otherwise, what came is the status of the last answer."""
    raise Failed(expected, got or str(answers[-1].status), *answers)


def expect_status(answer: Answer, *statuses: int) -> None:
    """Raise `Failed` unless the answer has one of these statuses."""
    if answer.status not in statuses:
        fail(" or ".join(map(str, statuses)), answer)


def expect_refused(answer: Answer, expected: str = "a refusal") -> None:
    """Raise `Failed` if the request succeeded."""
    if answer.is_success:
        fail(expected, answer)


def expect_header(answer: Answer, name: str, value: str | int | None = None) -> str:
    """Return a header's value, or raise `Failed` if it is not there or not this."""
    got = answer.get(name)
    if got is None or (value is not None and got != str(value)):
        wanted = f"{name}: {value}" if value is not None else name
        fail(
            wanted,
            answer,
            got=f"{answer.status}, {name}: {got}" if got is not None else f"{answer.status} without {name}",
        )
    return got
