"""Reads compressed files as streams that end when they become too large: nothing is written, little is kept."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from tusd_py_validate.settings import Archives

BLOCK = 256 * 1024
LZMA_MEMORY = 128 * 2**20
ZSTD_WINDOW = 128 * 2**20
FREE = 2**20
"""So many bytes may come out of any file, whatever the ratio."""


class Unfit(Exception):
    """An archive is broken, or more than it may be."""


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def can_unpack(name: str) -> bool:
    """Return whether a compressed type can be looked into; zst needs the extra `zstd`."""
    if name != "zst":
        return name in ("gz", "bz2", "xz")
    try:
        import zstandard  # noqa: F401 - an extra
    except ImportError:
        return False
    return True


class Unpacked:
    """The content of a compressed file, to be read once from start to end.

    Raises `Unfit` while it is read, if it is broken or becomes larger than it may.
    """

    def __init__(
        self, name: str, file: BinaryIO, limits: Archives, read: Callable[[int], None] = lambda _: None
    ) -> None:
        """Unpack `file`, of type `name`; `read` hears how many compressed bytes have been read."""
        self.count = 0
        """Bytes that have come out so far."""
        self._blocks = _bounded(_zst(file, read) if name == "zst" else _stream(name, file, read), limits, self)
        self._left = b""

    def __iter__(self) -> Iterator[bytes]:
        """Yield all that was not read yet."""
        while block := self.read(BLOCK):
            yield block

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or what is left."""
        parts, missing = [self._left], count - len(self._left)
        while missing > 0 and (block := next(self._blocks, b"")):
            parts.append(block)
            missing -= len(block)
        data = b"".join(parts)
        self._left = data[count:]
        return data[:count]


def _bounded(pairs: Iterator[tuple[int, bytes]], limits: Archives, unpacked: Unpacked) -> Iterator[bytes]:
    """Yield blocks as long as they are in proportion to the compressed bytes they came from."""
    for compressed, block in pairs:
        unpacked.count += len(block)
        if unpacked.count > FREE and unpacked.count > compressed * limits.max_ratio:
            raise Unfit(f"it unpacks to more than {limits.max_ratio} times its size")
        if unpacked.count > limits.max_unpacked:
            raise Unfit(f"it unpacks to more than {int(limits.max_unpacked)} bytes")
        if block:
            yield block


def _decompressor(name: str) -> _Decompressor:
    if name == "gz":
        return _Gzip()
    return bz2.BZ2Decompressor() if name == "bz2" else lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY)


class _Gzip:
    """zlib's decompressor with the interface of the other two."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


def _stream(name: str, file: BinaryIO, read: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Yield how many compressed bytes were used, and a block; streams may follow one another."""
    current, compressed, data = _decompressor(name), 0, b""
    try:
        while True:
            if not data and getattr(current, "needs_input", True):
                data = file.read(BLOCK)
                compressed += len(data)
                read(compressed)
                if not data:
                    if not current.eof:
                        raise Unfit("it is cut: its end is missing")
                    return
            block = current.decompress(data, BLOCK)
            data = b""
            yield compressed, block
            if current.eof:
                # Padding may follow, and further streams; what else follows is no part of it.
                data = current.unused_data.lstrip(b"\0")
                if not data:
                    data = file.read(BLOCK).lstrip(b"\0")
                    compressed += len(data)
                if not data:
                    return
                current = _decompressor(name)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise Unfit(f"it cannot be unpacked: {error}") from error


def _zst(file: BinaryIO, read: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(file, read_across_frames=True)
        while block := reader.read(BLOCK):
            read(file.tell())
            yield file.tell(), block
    except zstandard.ZstdError as error:
        raise Unfit(f"it cannot be unpacked: {error}") from error
