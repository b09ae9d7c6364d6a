"""Tells from its name and its first bytes how a file is to be read."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

import msgspec

HEAD = 64 * 1024
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COMPRESSED = {b"\x1f\x8b": ("gzip", ".gz"), b"\x28\xb5\x2f\xfd": ("zstd", ".zst")}
_BY_NAME = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
}
_BY_MEDIA = {
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/json": "json",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
}


class Format(msgspec.Struct, frozen=True):
    """How to read a file."""

    name: str
    compression: str | None = None
    problem: str | None = None
    """Why it cannot be read as its name says."""


def detect(path: Path, name: str, media: str) -> Format:
    """Return the format of a file: by its bytes where they tell, and else by its name and media type."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    name, compression = name.lower(), None
    for magic, (kind, ending) in _COMPRESSED.items():
        if head.startswith(magic):
            compression, name = kind, name.removesuffix(ending)
    if not head:
        return Format("empty")
    if head.startswith(b"PAR1"):
        return Format("parquet")
    told = _BY_NAME.get(Path(name).suffix) or _BY_MEDIA.get(media.partition(";")[0].strip().lower())
    if compression == "gzip":
        head = _unpacked(path)
    elif compression == "zstd":
        # Nothing in Python's own library looks into it; DuckDB does.
        return Format(told, compression) if told else Format("binary", compression)
    if name.endswith(".parquet"):
        return Format("parquet", compression, "it does not begin like Parquet")
    if head.startswith(_WIDE):
        return Format(told or "text", compression, "it is UTF-16 or UTF-32; only UTF-8 is read")
    head = head.removeprefix(codecs.BOM_UTF8)
    if told:
        return Format(told, compression)
    if b"\0" in head[:8192]:
        return Format("binary", compression)
    if head.lstrip()[:1] in (b"{", b"["):
        first = head.lstrip().partition(b"\n")[0].rstrip()
        return Format("jsonl" if first[:1] == b"{" and first[-1:] == b"}" else "json", compression)
    return Format("text", compression)


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(HEAD)
    except (OSError, EOFError, zlib.error):
        return b""
