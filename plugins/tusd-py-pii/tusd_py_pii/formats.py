"""Tells from its first bytes how a file is to be read."""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO, Literal

import msgspec

from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.streams import Gunzip, Limits, Reader, Transcoded, full_read

HEAD = 64 * 1024
MAX_NESTED = 2
DELIMITERS = ",\t;|"
Name = Literal["jsonl", "json", "csv", "text", "parquet", "binary", "empty"]
_NUMBER = re.compile(r"[\s\d.,:+-]*")


class Format(msgspec.Struct, frozen=True):
    """How to read a file."""

    name: Name
    gzip: int = 0
    """How often it is compressed."""
    encoding: str = ""
    """UTF-16 or UTF-32; empty for UTF-8 and what is like it."""
    delimiter: str = ","
    header: bool = False

    @property
    def is_splittable(self) -> bool:
        """Whether a reader can begin in the middle."""
        return self.name in ("jsonl", "text") and not self.gzip and not self.encoding

    def stream(self, file: BinaryIO, limits: Limits) -> Reader:
        """Return the file decompressed and in UTF-8, from its start."""
        file.seek(0)
        reader: Reader = file
        for _ in range(self.gzip):
            reader = Gunzip(reader, limits)
        return Transcoded(reader, self.encoding) if self.encoding else reader


def detect(file: BinaryIO, name: str, limits: Limits) -> Format:
    """Return the format of a file, by its bytes first and by its name second.

    Raises:
        ScanFailed: it is compressed, and broken or beyond the limits.
    """
    gzip = 0
    while True:
        file.seek(0)
        head = full_read(Format("text", gzip).stream(file, limits), HEAD)
        if not head.startswith(b"\x1f\x8b\x08"):
            break
        gzip += 1
        if gzip > MAX_NESTED:
            raise ScanFailed(f"it is compressed more than {MAX_NESTED} times")
    name = name.lower().removesuffix(".gz")
    if not head:
        return Format("empty", gzip)
    if head.startswith(b"PAR1"):
        if gzip:
            raise ScanFailed("it is Parquet within gzip")
        return Format("parquet")
    encoding = ""
    for mark, known in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
        if head.startswith(mark):
            encoding = known
            head = head.decode(known, "replace").encode("utf-8", "replace")
            break
    if b"\0" in head[:8192] or _is_noise(head[:8192]):
        return Format("binary", gzip)
    return _text_format(head.removeprefix(codecs.BOM_UTF8), name, gzip, encoding)


def _is_noise(head: bytes) -> bool:
    """Whether there are more control characters than a text has."""
    return len(head.translate(None, bytes(range(7)) + bytes(range(14, 27)) + b"\x7f")) < 0.9 * len(head)


def _text_format(head: bytes, name: str, gzip: int, encoding: str) -> Format:
    lines = [line for line in head.split(b"\n")[:-1] if line.strip()] or [head]
    if head.lstrip()[:1] in (b"{", b"["):
        first = lines[0].strip()
        is_whole = first[-1:] in (b"}", b"]") and len(first) > 2 and b"\n" in head.strip()
        second_opens = len(lines) < 2 or lines[1].lstrip()[:1] in (b"{", b"[")
        if name.endswith((".jsonl", ".ndjson")) or (is_whole and second_opens and not name.endswith(".json")):
            return Format("jsonl", gzip, encoding)
        return Format("json", gzip, encoding)
    if name.endswith((".jsonl", ".ndjson")):
        return Format("jsonl", gzip, encoding)
    counts = {char: [_outside_quotes(line, char) for line in lines[:20]] for char in DELIMITERS}
    if name.endswith((".csv", ".tsv")):
        delimiter = max(DELIMITERS, key=lambda char: (counts[char][0], -DELIMITERS.index(char)))
    elif not name.endswith((".txt", ".md", ".log")) and len(lines) > 1:
        even = [char for char in DELIMITERS if counts[char][0] and len(set(counts[char])) == 1]
        if not even:
            return Format("text", gzip, encoding)
        delimiter = even[0]
    else:
        return Format("text", gzip, encoding)
    fields = [field.strip().strip('"') for field in lines[0].decode("utf-8", "replace").strip().split(delimiter)]
    header = len(set(fields)) == len(fields) and all(
        field and "@" not in field and not _NUMBER.fullmatch(field) and len(field) < 64 for field in fields
    )
    return Format("csv", gzip, encoding, delimiter, header)


def _outside_quotes(line: bytes, delimiter: str) -> int:
    return re.sub(rb'"[^"]*"', b"", line).count(delimiter.encode())
