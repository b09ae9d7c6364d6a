"""When to go on with an upload, when to start anew and when to give up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import requests

from tusd_py.cli_upload.files import LocalFile
from tusd_py.cli_upload.state import UploadState, file_key
from tusd_py.cli_upload.tus import FileChangedError, FileUploader, Patience, RequestError, ask

# What hashlib and tus have in common, cheapest first; a server that verifies checksums always knows sha1.
CHECKSUM_ALGORITHMS = ("sha1", "sha256", "sha512", "md5")
# Not the upload's fault: with other credentials it can go on, so its URL is not forgotten.
ABOUT_CREDENTIALS = frozenset({401, 403, 407})
# Shorter words of a header are found in ordinary text.
SHORTEST_SECRET = 8
GONE = frozenset({404, 410})


@dataclass(frozen=True)
class Sent:
    """A file that has arrived; `resumed_from` is the offset at which this run began."""

    file: LocalFile
    key: str
    url: str
    size: int
    seconds: float
    resumed_from: int


@dataclass(frozen=True)
class Transfer:
    """How files go to one endpoint. Threads share it: it never changes."""

    endpoint: str
    state: UploadState
    chunk_size: int
    retries: int
    resume: bool
    headers: Mapping[str, str] = field(repr=False)
    metadata: Mapping[str, str]
    stop: threading.Event = field(default_factory=threading.Event)

    def without_secrets(self, text: str) -> str:
        """A server may repeat a header's value in what it says; nobody else is to read it."""
        for value in self.headers.values():
            for word in value.split():
                if len(word) >= SHORTEST_SECRET:
                    text = text.replace(word, "***")
        return text

    def session(self) -> requests.Session:
        """Connections for one thread, with the user's headers."""
        http = requests.Session()
        http.headers["User-Agent"] = "tusd-py"
        http.headers.update(self.headers)
        if "authorization" in (name.lower() for name in self.headers):
            # Else requests would replace the given header by an entry of ~/.netrc.
            http.auth = lambda request: request
        return http

    def checksum_algorithms(self, http: requests.Session, note: Callable[[str], None]) -> list[str]:
        """Ask the server which of our checksum algorithms it verifies."""
        patience = Patience(self.retries, self.stop, note)
        while True:
            try:
                answer = ask(http, "OPTIONS", self.endpoint, {})
            except RequestError as error:
                if error.status is not None and not error.retryable:
                    return []  # a server without OPTIONS may take uploads all the same
                patience.wait(error)
            else:
                offered = answer.headers.get("Tus-Checksum-Algorithm", "").lower().replace(" ", "").split(",")
                return [name for name in CHECKSUM_ALGORITHMS if name in offered]

    def send(
        self,
        file: LocalFile,
        http: requests.Session,
        checksum: str | None,
        on_position: Callable[[int], None],
        note: Callable[[str], None],
    ) -> Sent:
        """Send one file and return when the server has all of it.

        Raises `RequestError`, `FileChangedError`, `OSError` or `StoppedError`.
        """
        begin = time.monotonic()
        uploader = FileUploader(
            http,
            self.endpoint,
            file.path,
            chunk_size=self.chunk_size,
            metadata=file.metadata() | dict(self.metadata),
            checksum=checksum,
            on_position=on_position,
            stop=self.stop,
        )
        key = file_key(file.path, uploader.size, uploader.mtime_ns, self.endpoint)
        uploader.url = known = self.state.get(key) if self.resume else None
        patience = Patience(self.retries, self.stop, note)
        offset_is_known = started_anew = False
        resumed_from: int | None = None
        while True:
            try:
                if uploader.url is None:
                    uploader.url = uploader.create_url()
                    # Before any byte goes: if this process is killed, the next one finds them.
                    self.state.put(key, uploader.url)
                elif not offset_is_known:
                    offset = uploader.get_offset()
                    if offset > uploader.offset:
                        patience.reset()
                    uploader.offset = offset
                offset_is_known = True
                if resumed_from is None:
                    resumed_from = uploader.offset
                on_position(uploader.offset)
                while uploader.offset < uploader.size:
                    uploader.upload_chunk()
                    patience.reset()
                uploader.check_unchanged()
                return Sent(file, key, uploader.url, uploader.size, time.monotonic() - begin, resumed_from)
            except RequestError as error:
                offset_is_known = False
                if uploader.url is None or error.retryable:
                    patience.wait(error)
                    continue
                if not error.is_refusal:
                    raise
                if error.status in ABOUT_CREDENTIALS:
                    if known is not None:
                        note("with other credentials this upload can go on; --no-resume begins anew")
                    raise
                # The server does not want this upload any more. Another one may do if this one is from an
                # earlier command, or has vanished; what was refused just now would be refused again.
                self.state.forget([key])
                if started_anew or (known is None and error.status not in GONE):
                    raise
                note(f"{error}; starting anew")
                started_anew, resumed_from = True, None
                uploader.url, uploader.offset = None, 0
            except FileChangedError:
                self.state.forget([key])
                raise
