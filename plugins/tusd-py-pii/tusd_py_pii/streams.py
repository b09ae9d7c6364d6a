"""Bytes as readers want them: decompressed within limits, as UTF-8, and cut at the ends of lines."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from typing import Protocol

import msgspec

from tusd_py_pii.errors import ScanFailed

BLOCK = 512 * 1024
COMPRESSED_BLOCK = 64 * 1024


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file may ask of a scan; beyond that the scan fails with a reason."""

    max_record: int = 16 * 1024 * 1024
    """Bytes of one line, record or JSON string."""
    max_ratio: int = 250
    """Bytes that one compressed byte may become, once a megabyte has come out."""
    max_decompressed: int = 1024**4
    """Bytes that may come out of a compressed file."""
    max_row_group: int = 512 * 1024 * 1024
    """Bytes that one column of a row group of Parquet may become."""
    max_seconds: float = 3600
    """How long a scan may take."""
    memory: int = 2 * 1024**3
    """Bytes of data a process that scans may hold."""


class Reader(Protocol):
    """What can be read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


class Seekable(Reader, Protocol):
    """The same, and from other places too."""

    def seek(self, offset: int, /) -> int:
        """Go on from this byte."""


class Gunzip:
    """What a gzip file holds, as long as it grows within limits.

    Raises `ScanFailed` from `read` for what is broken or beyond the limits.
    """

    def __init__(self, file: Reader, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._inflate = zlib.decompressobj(wbits=31)
        self._taken = 0
        self._given = 0

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""
        while True:
            source = self._inflate.unconsumed_tail
            if not source and not self._inflate.eof:
                source = self._file.read(COMPRESSED_BLOCK)
                self._taken += len(source)
                if not source:
                    raise ScanFailed("the gzip file ends too early")
            elif self._inflate.eof:
                source = self._inflate.unused_data or self._file.read(COMPRESSED_BLOCK)
                self._taken += 0 if self._inflate.unused_data else len(source)
                if not source.strip(b"\0"):
                    return b""  # the end, and the zeros that tapes put there
                self._inflate = zlib.decompressobj(wbits=31)
            try:
                data = self._inflate.decompress(source, size)
            except zlib.error:
                raise ScanFailed("the gzip file is broken", self._taken) from None
            self._given += len(data)
            if self._given > self._limits.max_decompressed:
                raise ScanFailed(f"decompressed, it has more than {self._limits.max_decompressed} bytes")
            if self._given > BLOCK and self._given > self._limits.max_ratio * max(1, self._taken):
                raise ScanFailed(f"a compressed byte becomes more than {self._limits.max_ratio}: a decompression bomb?")
            if data:
                return data


class Transcoded:
    """Text of another encoding as UTF-8."""

    def __init__(self, file: Reader, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int, /) -> bytes:
        """Return about `size` bytes."""
        while True:
            data = self._file.read(size)
            text = self._decoder.decode(data, final=not data)
            if text or not data:
                return text.encode("utf-8", "replace")


def full_read(file: Reader, size: int) -> bytes:
    """Return exactly `size` bytes, fewer only at the end."""
    data = file.read(size)
    if len(data) == size or not data:
        return data
    parts, total = [data], len(data)
    while total < size and (data := file.read(size - total)):
        parts.append(data)
        total += len(data)
    return b"".join(parts)


class Carried:
    """Blocks from front to back; what the consumer does not use of one, as its `used` says, begins the next."""

    def __init__(self, file: Reader, limit: int) -> None:
        self._file = file
        self._limit = limit
        self.used = 0

    def __iter__(self) -> Iterator[tuple[bytes, int, bool]]:
        """Yield `(data, offset, is_last)`.

        Raises:
            ScanFailed: more than `limit` bytes are left over.
        """
        data, offset = b"", 0
        while True:
            chunk = full_read(self._file, BLOCK)
            data += chunk
            if not data:
                return
            self.used = 0
            yield data, offset, not chunk
            if not chunk:
                return
            data = data[self.used :]
            offset += self.used
            if len(data) > self._limit:
                raise ScanFailed(f"a record or string is longer than {self._limit} bytes", offset)


def line_blocks(file: Seekable, start: int, stop: int, limit: int) -> Iterator[tuple[bytes, int]]:
    """Yield `(data, offset)` with whole lines: those that begin in `[start, stop)`.

    Raises:
        ScanFailed: one is longer than `limit`.
    """
    offset = start
    data = b""
    if start:
        file.seek(start - 1)
        offset -= 1
        while True:
            data = full_read(file, BLOCK)
            if not data:
                return
            end = data.find(b"\n") + 1
            if end:
                offset += end
                data = data[end:]
                break
            offset += len(data)
    else:
        file.seek(0)
    while offset < stop:
        cut = data.rfind(b"\n") + 1
        if offset + cut >= stop:
            yield data[: data.find(b"\n", stop - 1 - offset) + 1], offset
            return
        if cut:
            yield data[:cut], offset
            data = data[cut:]
            offset += cut
        if len(data) > limit:
            raise ScanFailed(f"a line is longer than {limit} bytes", offset)
        chunk = full_read(file, BLOCK)
        if not chunk:
            if data:
                yield data, offset
            return
        cut = chunk.rfind(b"\n") + 1
        if cut and offset + len(data) + cut < stop:
            # The usual case, with one copy less.
            block = b"".join((data, memoryview(chunk)[:cut]))
            yield block, offset
            offset += len(block)
            data = chunk[cut:]
        else:
            data += chunk
