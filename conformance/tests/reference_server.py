"""A small tus 1.0 server with every extension, in memory: what the suite has to find nothing wrong with.

Its methods are small, so that a server with one defect is this one with one of them replaced (defects.py).
"""

import base64
import hashlib
import json
import re
import secrets
import threading
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urljoin, urlsplit

from raw_http import Gone, HttpServer, Request, Response

BASE_PATH = "/files/"
VERSION = "1.0.0"
OFFSET_STREAM = "application/offset+octet-stream"
METHODS = "HEAD, PATCH, DELETE, GET"
EXPOSED = (
    "Location, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Upload-Offset, "
    "Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Expires, Upload-Concat"
)
DIGESTS = {
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, **headers: object) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Superseded(Gone):
    """Another PATCH took the place of this one."""


@dataclass
class Upload:
    """One upload, or a final one of several."""

    path: str
    length: int | None
    metadata: str | None
    concat: str | None = None
    members: tuple["Upload", ...] = ()
    expires: datetime | None = None
    data: bytearray = field(default_factory=bytearray)
    turn: object = None
    """Whose PATCH may write."""

    @property
    def offset(self) -> int:
        return len(self.data)

    @property
    def is_final(self) -> bool:
        return (self.concat or "").startswith("final")

    @property
    def is_complete(self) -> bool:
        return self.offset == self.length and not self.members


class ReferenceServer(HttpServer):
    """The server; a context manager that runs it."""

    extensions = (
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "checksum",
        "checksum-trailer",
        "termination",
        "concatenation",
        "concatenation-unfinished",
    )
    algorithms: tuple[str, ...] = tuple(DIGESTS)
    max_size: int | None = 2**30
    lifetime = timedelta(hours=1)
    """How long an unfinished upload lives after its last byte."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.gone: set[str] = set()
        self.lock = threading.RLock()
        super().__init__()
        self.url += BASE_PATH.removeprefix("/")

    # HTTP

    def respond(self, request: Request) -> Response:
        """Answer a request, with the headers that all answers have."""
        try:
            response = self.dispatch(request)
        except Refusal as refusal:
            response = self.refused(request, refusal)
        if request.method != "OPTIONS":
            response.headers["Tus-Resumable"] = VERSION
        if "origin" in request.headers:
            response.headers |= {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": EXPOSED}
        return response

    def refused(self, request: Request, refusal: Refusal) -> Response:
        if "application/problem+json" in request.headers.get("accept", ""):
            kind, text = "application/problem+json", json.dumps({"status": refusal.status, "title": str(refusal)})
        else:
            kind, text = "text/plain", str(refusal)
        body = b"" if request.method == "HEAD" else text.encode()
        return Response(refusal.status, {"Content-Type": kind, **refusal.headers}, body)

    def dispatch(self, request: Request) -> Response:
        request.method = self.method(request)
        if request.method == "OPTIONS":
            return self.options(request)
        self.check_version(request)
        if request.path == BASE_PATH:
            if request.method != "POST":
                raise Refusal(405, "uploads are created with POST", Allow="POST, OPTIONS")
            return self.post(request)
        if request.method not in METHODS.split(", "):
            raise Refusal(405, f"an upload does not know {request.method}", Allow=METHODS)
        handler = getattr(self, request.method.lower())
        return handler(request, self.find(request.path))

    # What requests have in common

    def method(self, request: Request) -> str:
        return request.headers.get("x-http-method-override", request.sent_method)

    def check_version(self, request: Request) -> None:
        if request.headers.get("tus-resumable") != VERSION:
            raise Refusal(412, "this server speaks tus 1.0.0", Tus_Version=VERSION)

    def find(self, path: str) -> Upload:
        """Return the upload of a path, after what time has done to it."""
        with self.lock:
            upload = self.uploads.get(path)
            if upload is not None and self.is_expired(upload):
                self.remove(upload)
            if path in self.gone:
                raise Refusal(410, "this upload is gone")
            if upload is None:
                raise Refusal(404, "there is no such upload")
            self.assemble(upload)
            return upload

    def is_expired(self, upload: Upload) -> bool:
        return upload.expires is not None and not upload.is_complete and datetime.now(UTC) >= upload.expires

    def remove(self, upload: Upload) -> None:
        upload.turn = None
        self.gone.add(upload.path)
        del self.uploads[upload.path]

    def assemble(self, final: Upload) -> None:
        """Put a final upload together if all its parts are complete."""
        if final.members and None not in (lengths := [member.length for member in final.members]):
            final.length = sum(lengths)
        if final.members and all(member.is_complete for member in final.members):
            final.data, final.members = self.joined(final.members), ()
            final.expires = None

    def joined(self, members: tuple[Upload, ...]) -> bytearray:
        return bytearray().join(member.data for member in members)

    def number(self, request: Request, name: str) -> int | None:
        """Return a header as a number, or None if it is not there."""
        value = request.headers.get(name.lower())
        if value is None:
            return None
        if not re.fullmatch("[0-9]+", value):
            raise Refusal(400, f"{name} is not a number")
        return int(value)

    def check_size(self, length: int) -> None:
        if self.max_size is not None and length > self.max_size:
            raise Refusal(413, "that is too much")

    def expiry(self, upload: Upload) -> str | None:
        if upload.expires is None or upload.is_complete:
            return None
        return upload.expires.strftime("%a, %d %b %Y %H:%M:%S GMT")

    # Methods

    def options(self, request: Request) -> Response:
        headers = {
            "Tus-Version": VERSION,
            "Tus-Extension": ",".join(self.extensions) or None,
            "Tus-Max-Size": self.max_size,
            "Tus-Checksum-Algorithm": ",".join(self.algorithms) or None,
        }
        return Response(204, headers)

    def post(self, request: Request) -> Response:
        upload = self.new_upload(request)
        if request.has_body:
            self.check_type(request)
        with self.lock:
            self.uploads[upload.path] = upload
            self.assemble(upload)
        if request.has_body:
            try:
                self.receive(request, upload, 0, upload.length)
            except Refusal:
                self.remove(upload)
                raise
        headers = {"Location": urljoin(self.url, upload.path), "Upload-Expires": self.expiry(upload)}
        return Response(201, {**headers, "Upload-Offset": upload.offset if request.has_body else None})

    def new_upload(self, request: Request) -> Upload:
        concat, metadata = request.headers.get("upload-concat"), request.headers.get("upload-metadata") or None
        self.check_metadata(metadata)
        members: tuple[Upload, ...] = ()
        length = self.number(request, "Upload-Length")
        if concat is not None and concat != "partial":
            kind, _, urls = concat.partition(";")
            members = self.members(urls.split())
            if kind != "final" or length is not None or not members:
                raise Refusal(400, "a final upload has parts and no Upload-Length")
        else:
            self.check_deferral(request, length)
        self.check_size(length or sum(member.length or 0 for member in members))
        expires = datetime.now(UTC) + self.lifetime
        return Upload(BASE_PATH + secrets.token_hex(8), length, metadata, concat, members, expires)

    def check_metadata(self, metadata: str | None) -> None:
        keys = []
        for pair in metadata.split(",") if metadata else ():
            match = re.fullmatch("([!-+\\--~]+)(?: ([A-Za-z0-9+/]*={0,2}))?", pair.strip())
            if match is None or len(match[2] or "") % 4:
                raise Refusal(400, "Upload-Metadata is malformed")
            keys.append(match[1])
        if len(set(keys)) < len(keys):
            raise Refusal(400, "Upload-Metadata has a key twice")

    def check_deferral(self, request: Request, length: int | None) -> None:
        deferral = request.headers.get("upload-defer-length")
        if deferral not in (None, "1") or (deferral is None) == (length is None):
            raise Refusal(400, "either Upload-Length or Upload-Defer-Length: 1 is needed")

    def members(self, urls: list[str]) -> tuple[Upload, ...]:
        members = []
        for url in urls:
            absolute = urljoin(self.url, url)
            if not absolute.startswith(self.url):
                raise Refusal(400, "a part is of another server")
            try:
                members.append(self.find(urlsplit(absolute).path))
            except Refusal:
                raise Refusal(400, "a part does not exist") from None
        if not all(member.concat == "partial" for member in members):
            raise Refusal(400, "a part is no partial upload")
        return tuple(members)

    def head(self, request: Request, upload: Upload) -> Response:
        headers = {
            "Cache-Control": "no-store",
            "Upload-Offset": None if upload.members else upload.offset,
            "Upload-Length": upload.length,
            "Upload-Defer-Length": None if upload.is_final or upload.length is not None else 1,
            "Upload-Metadata": upload.metadata,
            "Upload-Concat": upload.concat,
            "Upload-Expires": self.expiry(upload),
        }
        return Response(200, headers)

    def patch(self, request: Request, upload: Upload) -> Response:
        if upload.is_final:
            raise Refusal(403, "a final upload is made of its parts")
        self.check_type(request)
        offset = self.number(request, "Upload-Offset")
        if offset is None:
            raise Refusal(400, "Upload-Offset is missing")
        self.receive(request, upload, offset, self.declared(request, upload))
        return Response(204, {"Upload-Offset": upload.offset, "Upload-Expires": self.expiry(upload)})

    def check_type(self, request: Request) -> None:
        if request.headers.get("content-type") != OFFSET_STREAM:
            raise Refusal(415, f"the body has to be {OFFSET_STREAM}")

    def declared(self, request: Request, upload: Upload) -> int | None:
        """Return the length that an upload has after a PATCH, which may tell it."""
        length = self.number(request, "Upload-Length")
        if length is None:
            return upload.length
        if length < upload.offset or upload.length not in (None, length):
            raise Refusal(400, "Upload-Length is another already")
        self.check_size(length)
        return length

    def receive(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
        """Add the body to an upload: piece by piece as it comes, but only the whole if there is a checksum."""
        checksum = request.headers.get("upload-checksum")
        is_verified = checksum is not None or "trailer" in request.headers
        if checksum is not None:
            self.check_algorithm(checksum)
        with self.lock:
            turn = self.begin(upload, offset)
        self.check_room(upload, int(request.headers.get("content-length", 0)), length)
        whole = bytearray()
        for piece in request.body():
            if is_verified:
                whole += piece
            else:
                self.write(upload, turn, piece, length)
        if is_verified:
            self.verify(request.trailers.get("upload-checksum", checksum), whole)
        self.write(upload, turn, bytes(whole), length)

    def begin(self, upload: Upload, offset: int) -> object:
        """Return the right to write, which takes it from whoever has it."""
        if offset != upload.offset:
            raise Refusal(409, "the upload is elsewhere", Upload_Offset=upload.offset)
        upload.turn = object()
        return upload.turn

    def write(self, upload: Upload, turn: object, piece: bytes, length: int | None) -> None:
        with self.lock:
            if upload.turn is not turn:
                raise Superseded
            self.check_room(upload, len(piece), length)
            upload.data += piece
            upload.length = length
            upload.expires = datetime.now(UTC) + self.lifetime

    def check_room(self, upload: Upload, size: int, length: int | None) -> None:
        most = self.max_size if length is None else length
        if most is not None and upload.offset + size > most:
            raise Refusal(413, "that is more than the upload lacks")

    def check_algorithm(self, checksum: str) -> None:
        if checksum.partition(" ")[0] not in self.algorithms:
            raise Refusal(400, "this checksum algorithm is not known")

    def verify(self, checksum: str | None, data: bytes | bytearray) -> None:
        if checksum is None:
            raise Refusal(400, "the checksum is missing")
        self.check_algorithm(checksum)
        algorithm, _, digest = checksum.partition(" ")
        if base64.b64encode(DIGESTS[algorithm](data)).decode() != digest:
            raise Refusal(460, "the checksum is another")

    def delete(self, request: Request, upload: Upload) -> Response:
        with self.lock:
            self.remove(upload)
        return Response(204)

    def get(self, request: Request, upload: Upload) -> Response:
        if not upload.is_complete:
            raise Refusal(404, "this upload is not complete")
        data, match = upload.data, re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if match is None:
            return Response(200, {"Content-Type": "application/octet-stream"}, data)
        start, stop = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
        if start >= stop:
            raise Refusal(416, "there are no such bytes", Content_Range=f"bytes */{len(data)}")
        return Response(206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop])
