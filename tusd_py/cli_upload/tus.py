"""tuspy with time-outs, kept connections, progress inside a chunk, and errors that know if a retry helps."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.request import TusRequest
from tusclient.uploader.uploader import Uploader

# Seconds to connect or to get one block of bytes away, and seconds to wait for an answer.
TIMEOUTS = (30.0, 120.0)
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_REQUESTED_PAUSE = 0.5, 30.0, 300.0

# The answers after which the same request can succeed: time-out, wrong offset, locked, too early,
# too many requests, checksum mismatch. So it can after any 5xx, and after a lost connection.
RETRYABLE = frozenset({408, 409, 423, 425, 429, 460})


class StoppedError(Exception):
    """The user asked to stop; what the server has is kept."""


class FileChangedError(Exception):
    """The file is not the one any more that the upload was created for."""


class RequestError(TusCommunicationError):
    """One request failed: the server refused it, or (status None) did not answer."""

    def __init__(self, message: str, status: int | None = None, retry_after: float = 0, final: bool = False) -> None:
        """`retry_after` is the pause the server asked for; `final` means that no retry can help."""
        super().__init__(message, status)  # type: ignore[no-untyped-call]
        self.status = status
        self.retry_after = retry_after
        self.is_refusal = status is not None and 400 <= status < 500
        self.retryable = not final and (status is None or status >= 500 or status in RETRYABLE)


class Patience:
    """Failures in a row and the growing pauses after them; `reset` whenever bytes have arrived."""

    def __init__(self, retries: int, stop: threading.Event, note: Callable[[str], None]) -> None:
        """`note` is told about every pause; setting `stop` ends one at once."""
        self._retries = retries
        self._stop = stop
        self._note = note
        self._failures = 0

    def wait(self, error: RequestError) -> None:
        """Pause before the next try, or raise the error if there is to be none."""
        if not error.retryable or self._failures >= self._retries:
            raise error
        # Random, so that the files of one command do not all come back in the same moment.
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE) * random.uniform(0.6, 1)  # noqa: S311 - no secret
        pause = max(pause, min(error.retry_after, LONGEST_REQUESTED_PAUSE))
        self._failures += 1
        self._note(f"{error}; trying again in {pause:.1f} s ({self._failures} of {self._retries})")
        if self._stop.wait(pause):
            raise StoppedError

    def reset(self) -> None:
        """Forget past failures."""
        self._failures = 0


def ask(
    http: requests.Session, method: str, url: str, headers: Mapping[str, str], body: io.BytesIO | None = None
) -> requests.Response:
    """Send one request and return its answer if that is a success, or raise `RequestError`."""
    try:
        # No redirects: requests would turn a POST into a GET, and take the user's headers elsewhere.
        answer = http.request(method, url, headers=dict(headers), data=body, timeout=TIMEOUTS, allow_redirects=False)
    except requests.RequestException as error:
        cause = _innermost(error)
        # ValueError: what requests says of an address that it cannot use at all.
        final = isinstance(cause, ssl.SSLCertVerificationError) or isinstance(error, ValueError)
        raise RequestError(_no_answer(error, cause), final=final) from error
    if answer.ok and not answer.is_redirect:
        return answer
    retry_after = answer.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdecimal() and retry_after.isascii() else 0.0
    raise RequestError(_refusal(answer), answer.status_code, seconds)


class FileUploader(Uploader):
    """The upload of one file: tuspy makes the tus headers, metadata and checksums, and keeps the offset."""

    url: str | None  # type: ignore[assignment]  # tuspy starts with None and does not say what follows
    offset: int

    def __init__(
        self,
        http: requests.Session,
        endpoint: str,
        path: Path,
        *,
        chunk_size: int,
        metadata: Mapping[str, str],
        checksum: str | None,
        on_position: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        """Remember the file as it is now; no request is made yet."""
        self._http = http
        self._endpoint = endpoint
        self._path = path
        self._on_position = on_position
        self._stop = stop
        status = path.stat()
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns
        if checksum:
            # tuspy knows sha1 only, but takes another algorithm in this attribute.
            digest = functools.partial(hashlib.new, checksum, usedforsecurity=False)
            self.CHECKSUM_ALGORITHM_PAIR = (checksum, digest)
        super().__init__(
            file_path=os.fspath(path),
            client=TusClient(endpoint),
            chunk_size=chunk_size,
            metadata=dict(metadata),
            upload_checksum=checksum is not None,
        )

    def get_file_size(self) -> int:
        """The size when the upload began: if the file grows, the upload does not."""
        return self.size

    def check_unchanged(self) -> None:
        """Raise `FileChangedError` if the file is not the one that the upload was created for."""
        status = self._path.stat()
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise FileChangedError("the file changed while it was being uploaded")

    def create_url(self) -> str:
        """Create the upload and return its URL."""
        headers: dict[str, str] = self.get_url_creation_headers()  # type: ignore[no-untyped-call]
        answer = ask(self._http, "POST", self._endpoint, headers)
        location = answer.headers.get("Location")
        if not location:
            raise RequestError(f"the answer {_title(answer)} has no Location: is this a tus endpoint?", final=True)
        url = urljoin(self._endpoint, location)
        if urlsplit(self._endpoint).scheme == "https" and urlsplit(url).scheme != "https":
            raise RequestError(
                "the server gave out an address without https; its public address is not set", final=True
            )
        return url

    def get_offset(self) -> int:
        """Ask the server how much it has; raise `RequestError` with 404 if that cannot be of this file."""
        headers: dict[str, str] = self.get_headers()  # type: ignore[no-untyped-call]
        answer = ask(self._http, "HEAD", str(self.url), headers)
        length = answer.headers.get("Upload-Length", str(self.size))
        offset = _offset(answer)
        if offset > self.size or length != str(self.size):
            raise RequestError("the upload on the server has another length", HTTPStatus.NOT_FOUND)
        return offset

    def upload_chunk(self) -> None:
        """Send the next chunk; raise `RequestError` if the server did not take any of it."""
        request = _Patch(self)
        offset = _offset(request.send(self._http, self._on_position, self._stop))
        if not self.offset < offset <= self.size:
            raise RequestError(f"the server's offset went from {self.offset} to {offset}")
        self.offset = offset


class _Patch(TusRequest):
    """tuspy's PATCH request, with a body that is sent in blocks."""

    def __init__(self, uploader: FileUploader) -> None:
        super().__init__(uploader)  # type: ignore[no-untyped-call]
        self._uploader = uploader

    def send(
        self, http: requests.Session, on_position: Callable[[int], None], stop: threading.Event
    ) -> requests.Response:
        with self.file:
            chunk: bytes = self.file.read(self._content_length)
        # Between reading and sending: a file that is being written to never arrives half old, half new.
        self._uploader.check_unchanged()
        self.add_checksum(chunk)
        start = self._uploader.offset
        body = _Body(chunk, lambda position: on_position(start + position), stop)
        return ask(http, "PATCH", self._url, self._request_headers, body)


class _Body(io.BytesIO):
    """A chunk in memory that reports how much of it has been read, and breaks off when asked to stop."""

    def __init__(self, chunk: bytes, on_position: Callable[[int], None], stop: threading.Event) -> None:
        super().__init__(chunk)
        self._on_position = on_position
        self._stop = stop

    def read(self, size: int | None = -1, /) -> bytes:
        if self._stop.is_set():
            raise StoppedError
        block = super().read(size)
        self._on_position(self.tell())
        return block


def _offset(answer: requests.Response) -> int:
    value = answer.headers.get("Upload-Offset", "")
    if not (value.isdecimal() and value.isascii()):
        raise RequestError(f"the answer {_title(answer)} has no valid Upload-Offset: is this a tus server?", final=True)
    return int(value)


def _title(answer: requests.Response) -> str:
    return f"{answer.status_code} {answer.reason or ''}".strip()


def _refusal(answer: requests.Response) -> str:
    """The server's own words on one line, without control characters that could play with the terminal."""
    if answer.is_redirect:
        return f"the server sends us to another address: {_printable(answer.headers['Location'])}"
    if "html" in answer.headers.get("Content-Type", ""):  # a proxy's error page
        return _title(answer)
    answer.encoding = answer.encoding or "utf-8"
    text = _printable(answer.text)
    return f"{answer.status_code} {text}" if text else _title(answer)


def _printable(text: str) -> str:
    line = " ".join(text.split())
    return "".join(char for char in line if char.isprintable())[:300]


def _innermost(error: BaseException) -> BaseException:
    """The error at the bottom: requests and urllib3 wrap it several times."""
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None:
            return error
        error = inner


def _no_answer(error: requests.RequestException, cause: BaseException) -> str:
    if isinstance(error, requests.Timeout) or isinstance(cause, TimeoutError):
        return "the server did not answer in time"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, socket.gaierror):
        return f"no server of this name: {cause.strerror}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"no connection: {cause.strerror}"
    if isinstance(error, requests.ConnectionError):
        return f"the connection broke: {cause}"
    return str(cause)
