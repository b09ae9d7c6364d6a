"""The digest of a whole file that its metadata tells, and whether it is right."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, Protocol

import crc32c

from tusd_py_validate.problems import Watch

BLOCK = 2**20
LENGTHS = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16, "crc32c": 4, "crc32": 4}
"""Bytes of each digest; keys of the metadata are these names. The strongest come first."""


class Digest(NamedTuple):
    """A digest that a file should have."""

    algorithm: str
    value: bytes


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A cyclic redundancy check with the methods of hashlib; its digest is big-endian, as in the tus protocol."""

    def __init__(self, algorithm: str) -> None:
        self._value = 0
        self._add = crc32c.crc32c if algorithm == "crc32c" else zlib.crc32

    def update(self, data: bytes, /) -> None:
        self._value = self._add(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def expected(metadata: Mapping[str, str]) -> list[Digest]:
    """Return the digests in an upload's metadata, given in hexadecimal or Base64, the strongest first.

    Raises:
        ValueError: one is neither, or has another length than the algorithm's.
    """
    digests = []
    for algorithm, length in LENGTHS.items():
        text = metadata.get(algorithm, "").strip()
        if text:
            digests.append(Digest(algorithm, _decode(text, algorithm, length)))
    return digests


def _decode(text: str, algorithm: str, length: int) -> bytes:
    if len(text) == 2 * length:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    try:
        value = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != length:
        raise ValueError(
            f"the metadata's {algorithm} is no digest of {length} bytes, as {2 * length} hexadecimal digits or Base64"
        )
    return value


def verify(file: BinaryIO, size: int, digests: list[Digest], watch: Watch) -> list[str]:
    """Return what is wrong with a file's digests; it is read once, in blocks."""
    hashes: list[_Hash] = [
        _Crc(each.algorithm) if each.algorithm.startswith("crc") else hashlib.new(each.algorithm, usedforsecurity=False)
        for each in digests
    ]
    file.seek(0)
    done = 0
    while block := file.read(BLOCK):
        for each in hashes:
            each.update(block)
        done += len(block)
        watch("checksum", done, size)
    return [
        f"the file's {digest.algorithm} is {found.digest().hex()} and not {digest.value.hex()}, as its metadata says"
        for digest, found in zip(digests, hashes, strict=True)
        if found.digest() != digest.value
    ]
