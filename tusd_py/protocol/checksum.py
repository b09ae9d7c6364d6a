"""Extension checksum."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping

import crc32c

from tusd_py.body import Body, Chunk, Hasher
from tusd_py.headers import parse_upload_checksum
from tusd_py.models import Request
from tusd_py.protocol.base import Extension


class Crc32:
    """CRC-32 of zlib as an object like those of `hashlib`; its digest is big-endian."""

    def __init__(self, function: Callable[[Chunk, int], int] = zlib.crc32) -> None:
        """Compute with `function(data, value)`."""
        self._function = function
        self._value = 0

    def update(self, data: Chunk, /) -> None:
        """Add bytes."""
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        """Return the four bytes of the sum."""
        return self._value.to_bytes(4, "big")


def _md5() -> Hasher:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Hasher:
    return hashlib.sha1(usedforsecurity=False)


def _crc32c() -> Hasher:
    return Crc32(lambda data, value: crc32c.crc32c(data, value))


# "The Server MUST support at least the SHA1 checksum algorithm identified by sha1."
ALGORITHMS: dict[str, tuple[Callable[[], Hasher], int]] = {
    "sha1": (_sha1, 20),
    "sha256": (hashlib.sha256, 32),
    "sha512": (hashlib.sha512, 64),
    "md5": (_md5, 16),
    "crc32": (Crc32, 4),
    "crc32c": (_crc32c, 4),
}
_SIZES = {name: size for name, (_, size) in ALGORITHMS.items()}


class Checksum(Extension):
    """Bytes under an Upload-Checksum count only once they are verified."""

    names = ("checksum",)

    def advertise(self) -> Mapping[str, str]:
        """Name the algorithms.

        "The Tus-Checksum-Algorithm header MUST be included in the response to an OPTIONS request."
        """
        return {"Tus-Checksum-Algorithm": ",".join(ALGORITHMS)}

    def wrap_body(self, request: Request, body: Body) -> None:
        """Have the body verified if the request announces a digest."""
        checksum = parse_upload_checksum(request.headers, _SIZES)
        if checksum is not None:
            make, _ = ALGORITHMS[checksum.algorithm]
            body.verify_with(make(), checksum.digest)
