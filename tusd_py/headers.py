"""One parse or format function per header, the specification's sentence above each.

Everything here is pure, and strict: what the grammar does not allow is an error that says so.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from multidict import CIMultiDictProxy

from tusd_py.errors import (
    InvalidChecksum,
    InvalidConcat,
    InvalidContentType,
    InvalidLength,
    InvalidMetadata,
    InvalidOffset,
    InvalidRequest,
    TusError,
)
from tusd_py.models import UPLOAD_ID, Concat, Upload

VERSION = "1.0.0"
CONTENT_TYPE = "application/offset+octet-stream"
# A length has at most 18 digits: every such number fits a signed 64-bit integer, which all storages can hold.
_INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_METADATA_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+", re.ASCII)

Headers = CIMultiDictProxy[str]


def single(headers: Headers, name: str, error: type[TusError] = InvalidRequest) -> str | None:
    """Return the header's only value, or None without it; a repeated header is an error."""
    values = headers.getall(name, [])
    if len(values) > 1:
        raise error(f"{name} is given {len(values)} times; it may be given once")
    return values[0].strip(" \t") if values else None


def _integer(value: str, name: str, error: type[TusError]) -> int:
    if _INTEGER.fullmatch(value):
        return int(value)
    if _DIGITS.fullmatch(value):
        raise error(f"{name} is too large: at most 18 digits are taken")
    raise error(f"{name} must be a non-negative integer in ASCII digits, not {value[:40]!r}")


def parse_upload_length(headers: Headers) -> int | None:
    """Return the declared size in bytes, or None without the header.

    "The value MUST be a non-negative integer." (Core, Upload-Length)
    """
    value = single(headers, "Upload-Length", InvalidLength)
    return None if value is None else _integer(value, "Upload-Length", InvalidLength)


def parse_upload_offset(headers: Headers) -> int:
    """Return the offset in bytes; the header is required.

    "The value MUST be a non-negative integer." (Core, Upload-Offset)
    """
    value = single(headers, "Upload-Offset", InvalidOffset)
    if value is None:
        raise InvalidOffset("Upload-Offset is required: the number of bytes that the server has")
    return _integer(value, "Upload-Offset", InvalidOffset)


def parse_upload_defer_length(headers: Headers) -> bool:
    """Return whether the length is deferred.

    "If the length [...] is deferred, the value MUST be 1. [...] any other value [...] 400 Bad Request" (Creation)
    """
    value = single(headers, "Upload-Defer-Length", InvalidLength)
    if value not in (None, "1"):
        raise InvalidLength(f"Upload-Defer-Length must be 1, not {value[:40]!r}")
    return value == "1"


def parse_content_length(headers: Headers) -> int | None:
    """Return the announced size of the body, or None if there is none."""
    value = single(headers, "Content-Length")
    return None if value is None else _integer(value, "Content-Length", InvalidRequest)


def has_body(headers: Headers) -> bool:
    """Whether the request announces a body of at least one byte or of unknown size.

    "A server that receives a request message with a transfer coding it does not understand SHOULD respond with 501"
    (RFC 9112 section 6.1); here it is 400, because clients repeat a request that got a 5xx.
    """
    coding = single(headers, "Transfer-Encoding")
    if coding is None:
        return bool(parse_content_length(headers))
    if coding.lower() != "chunked":
        raise InvalidRequest(f"Transfer-Encoding can only be chunked, not {coding[:40]!r}")
    return True


def check_content_type(headers: Headers) -> None:
    """Raise unless the body is declared as bytes of an upload.

    "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise the server SHOULD return a
    415 Unsupported Media Type status." (Core, PATCH)
    """
    value = single(headers, "Content-Type", InvalidContentType)
    if value is None or value.partition(";")[0].strip(" \t").lower() != CONTENT_TYPE:
        given = "missing" if value is None else repr(value[:80])
        raise InvalidContentType(f"Content-Type must be {CONTENT_TYPE}; it is {given}")


def parse_upload_metadata(value: str | None, max_bytes: int) -> dict[str, str]:
    """Return the decoded pairs; bytes that are not UTF-8 become U+FFFD.

    "The Upload-Metadata request and response header MUST consist of one or more comma-separated key-value pairs. The
    key and value MUST be separated by a space. The key MUST NOT contain spaces and commas and MUST NOT be empty. The
    key SHOULD be ASCII encoded and the value MUST be Base64 encoded. All keys MUST be unique. The value MAY be empty.
    In these cases, the space, which would normally separate the key and the value, MAY be left out." (Creation)
    """
    if value is None:
        return {}
    if len(value.encode("utf-8", "surrogateescape")) > max_bytes:
        raise InvalidMetadata(f"Upload-Metadata is longer than the {max_bytes} bytes this server takes")
    metadata: dict[str, str] = {}
    if not value.strip(" \t"):
        return metadata
    for pair in value.split(","):
        key, _, encoded = pair.strip(" \t").partition(" ")
        if not _METADATA_KEY.fullmatch(key):
            what = f"key {key[:40]!r}" if key else "an empty key"
            raise InvalidMetadata(f"Upload-Metadata has {what}; keys are printable ASCII without space and comma")
        if key in metadata:
            raise InvalidMetadata(f"Upload-Metadata has the key {key[:40]!r} twice")
        try:
            metadata[key] = base64.b64decode(encoded.strip(" \t"), validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError) as error:
            raise InvalidMetadata(f"Upload-Metadata's value of {key[:40]!r} is not Base64") from error
    return metadata


def format_upload_metadata(metadata: Mapping[str, str]) -> str | None:
    """Return the header for metadata that the server itself made, or None for none.

    Raises:
        InvalidMetadata: a key is empty, not ASCII, or has a space or comma.
    """
    pairs = []
    for key, value in metadata.items():
        if not _METADATA_KEY.fullmatch(key):
            raise InvalidMetadata(f"metadata key {key[:40]!r} is not printable ASCII without space and comma")
        encoded = base64.b64encode(value.encode()).decode()
        pairs.append(f"{key} {encoded}" if encoded else key)
    return ",".join(pairs) or None


def parse_upload_concat(headers: Headers, max_members: int) -> Concat | None:
    """Return what is to be concatenated, or None without the header.

    "The Upload-Concat request and response header MUST be set in both partial and final upload creation requests. It
    indicates whether the upload is either a partial or final upload. If the upload is a partial one, the header value
    MUST be partial. In the case of a final upload, its value MUST be final followed by a semicolon and a
    space-separated list of partial upload URLs that will be concatenated." (Concatenation)
    """
    value = single(headers, "Upload-Concat", InvalidConcat)
    if value is None:
        return None
    if value == "partial":
        return Concat("partial", value)
    kind, semicolon, urls = value.partition(";")
    if kind.strip(" \t") != "final" or not semicolon:
        raise InvalidConcat("Upload-Concat must be 'partial' or 'final;' and the URLs of partial uploads")
    members = tuple(upload_id_of(url) for url in urls.split())
    if not members:
        raise InvalidConcat("Upload-Concat names no partial upload")
    if len(members) > max_members:
        raise InvalidConcat(f"Upload-Concat names {len(members)} uploads; at most {max_members} are taken")
    return Concat("final", value, members)


def upload_id_of(url: str) -> str:
    """Return the upload id that an absolute or relative URL ends with.

    The id alone decides, because a proxy may show clients another host and prefix than the server sees.
    """
    try:
        upload_id = unquote(urlsplit(url).path.rpartition("/")[2], errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidConcat(f"Upload-Concat has an invalid URL {url[:80]!r}") from error
    if not UPLOAD_ID.fullmatch(upload_id):
        raise InvalidConcat(f"Upload-Concat has a URL without an upload id: {url[:80]!r}")
    return upload_id


class Checksum(NamedTuple):
    """An announced digest of one request's body."""

    algorithm: str
    digest: bytes


def parse_upload_checksum(headers: Headers, sizes: Mapping[str, int]) -> Checksum | None:
    """Return the announced checksum, or None without the header; `sizes` has each algorithm's digest size in bytes.

    "The Upload-Checksum request header contains information about the checksum of the current body payload. The
    header MUST consist of the name of the used checksum algorithm and the Base64 encoded checksum separated by a
    space." (Checksum)
    """
    value = single(headers, "Upload-Checksum", InvalidChecksum)
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    # "400 Bad Request if the checksum algorithm is not supported by the server"
    if algorithm not in sizes:
        raise InvalidChecksum(f"checksum algorithm {algorithm[:40]!r} is not one of {', '.join(sizes)}")
    try:
        digest = base64.b64decode(encoded.strip(" \t"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidChecksum(f"Upload-Checksum's {algorithm} value is not Base64") from error
    if len(digest) != sizes[algorithm]:
        raise InvalidChecksum(f"a {algorithm} checksum has {sizes[algorithm]} bytes, not {len(digest)}")
    return Checksum(algorithm, digest)


def format_http_date(at: datetime) -> str:
    """Return the time as an IMF-fixdate (RFC 9110 section 5.6.7)."""
    return format_datetime(at, usegmt=True)


# What a download says of its content

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}", re.ASCII)
_INLINE = frozenset(
    [
        "text/plain",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/bmp",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/wave",
        "audio/webm",
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
    ]
)
# Types under which a browser would run what it gets.
_ACTIVE = re.compile(r"html|xml|svg|script|ecma|wasm|shockwave|java|message/|multipart/", re.IGNORECASE)


def content_type(upload: Upload) -> str:
    """Return the declared type if it is well-formed and no browser runs it, else application/octet-stream."""
    base = declared_type(upload)
    if _ACTIVE.search(base):
        return "application/octet-stream"
    return f"{base}; charset=utf-8" if base == "text/plain" else base


def declared_type(upload: Upload) -> str:
    """Return the declared type if it is well-formed, else application/octet-stream."""
    declared = upload.metadata.get("filetype") or upload.metadata.get("type") or ""
    base = declared.partition(";")[0].strip().lower()
    return base if _MEDIA_TYPE.fullmatch(base) else "application/octet-stream"


def content_disposition(upload: Upload) -> str:
    """Return inline for harmless types, else attachment, with the file's name in both forms of RFC 6266."""
    kind = "inline" if content_type(upload).partition(";")[0] in _INLINE else "attachment"
    name = (upload.metadata.get("filename") or upload.metadata.get("name") or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in name if character.isprintable())[:200]
    if not name:
        return kind
    plain = "".join(character if character.isascii() and character not in '"\\%' else "_" for character in name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
