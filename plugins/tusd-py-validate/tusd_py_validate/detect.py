"""Tells the type of a file by its content: by its first bytes, and its last ones if they are there.

No library knows the formats of AI data (magika takes GGUF for NumPy, libmagic knows neither Parquet nor safetensors),
so the table is our own. Sources are the formats' specifications, and the Linux `file` command for the others.
"""

from __future__ import annotations

import csv
import pickletools
import re
import struct
from io import BytesIO
from typing import NamedTuple

import orjson

from tusd_py_validate.filetypes import names_of

HEAD = 64 * 1024
"""So many first bytes tell the type; tar needs 512."""
TAIL = 64 * 1024 + 22
"""So many last bytes tell it; a zip's directory ends within them."""

_AT_START = (
    (b"PAR1", "parquet"),
    (b"PARE", "parquet"),
    (b"ARROW1\0\0", "arrow"),
    (b"FEA1", "feather"),
    (b"ORC", "orc"),
    (b"Obj\x01", "avro"),
    (b"GGUF", "gguf"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"SQLite format 3\0", "sqlite"),
    (b"\x1f\x8b\x08", "gz"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x7fELF", "elf"),
    (b"\xfe\xed\xfa\xce", "macho"),
    (b"\xfe\xed\xfa\xcf", "macho"),
    (b"\xce\xfa\xed\xfe", "macho"),
    (b"\xcf\xfa\xed\xfe", "macho"),
    (b"\0asm", "wasm"),
    (b"dex\n", "dex"),
    (b"L\0\0\0\x01\x14\x02\0", "lnk"),
    (b"#!", "script"),
    (b"\xef\xbb\xbf#!", "script"),
    (b"%PDF-", "pdf"),
    (b"{\\rtf", "rtf"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\xff\xfb", "mp3"),
    *((bytes([0xFF, second]), "mp3") for second in (0xFA, 0xF2, 0xF3, 0xE2, 0xE3)),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"\xff\xfe", "utf16"),
    (b"\xfe\xff", "utf16"),
)
_RIFF = {b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi"}
_HEIF = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"})
_SAFETENSORS = re.compile(rb'\{\s*("|\})')
_HTML = re.compile(rb"\s*(?:<!--.{0,1000}?-->\s*)?<(?:!doctype\s+html|html|head|body|script|iframe)\b", re.I | re.S)
_XML = re.compile(rb"\s*<(?:\?xml\b|svg\b|!DOCTYPE\s+svg)")
_CONTROL = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_DESCR = re.compile(rb"'descr':\s*(.{1,2000}?)'fortran_order'", re.S)
_ZIP_NAME = re.compile(rb"PK\x03\x04.{22}(..)(..)", re.S)


class Found(NamedTuple):
    """What a file is."""

    name: str
    also: tuple[str, ...] = ()
    """What it is at the same time, as a program with a zip at its end."""

    @property
    def types(self) -> tuple[str, ...]:
        """All that it is."""
        return (self.name, *self.also)

    @property
    def is_text(self) -> bool:
        """Whether it is text of some kind."""
        return "text" in names_of(self.name)


def detect(head: bytes, tail: bytes = b"", *, is_whole: bool = False) -> Found:
    """Return the type of a file from its first bytes, and its last ones if they are known.

    `is_whole` says that `head` is all of the file.
    """
    name = _by_head(head, is_whole)
    end = tail or (head if is_whole else b"")
    also = []
    if b"PK\x05\x06" in end and not names_of(name) & {"zip", "pickle"} and _has_directory(end):
        also.append("zip")
    if end.endswith(b"PAR1") and len(end) >= 12 and name != "parquet" and not also:
        also.append("parquet")
    return Found(name, tuple(also))


def _by_head(head: bytes, is_whole: bool) -> str:
    if not head:
        return "empty" if is_whole else "unknown"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return _zip(head)
    if head.startswith(b"\x93NUMPY"):
        return "npy-objects" if has_objects(head) else "npy"
    for magic, name in _AT_START:
        if head.startswith(magic):
            return name
    return _by_structure(head) or _by_pickle(head) or _text(head, is_whole) or "unknown"


def _by_structure(head: bytes) -> str | None:
    """Recognise what no few bytes at the start tell."""
    if head[:4] == b"\xff\xff\xff\xff" and len(head) >= 8 and 0 < struct.unpack_from("<i", head, 4)[0] < 2**30:
        return "arrow-stream"
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bz2"
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[8:12] == b"DUCK":
        return "duckdb"
    if head[:2] == b"MZ" and (_CONTROL.search(head[:64]) or _is_pe(head)):
        return "pe"
    if head[:4] == b"\xca\xfe\xba\xbe" and len(head) >= 8:
        # A class file has its version here, which began at 45; a universal binary its few architectures.
        return "macho" if struct.unpack_from(">I", head, 4)[0] < 40 else "java-class"
    if head[2:4] == b"\r\n" and len(head) >= 17 and 3000 < struct.unpack_from("<H", head)[0] < 4000:
        return "pyc"
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "heif" if head[8:12] in _HEIF else "mp4"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"pnot"):  # QuickTime before there was ftyp
        return "mp4"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "bmp"
    if len(head) >= 10 and 2 <= struct.unpack_from("<Q", head)[0] <= 100_000_000 and _SAFETENSORS.match(head, 8):
        return "safetensors"
    if head[257:262] == b"ustar" or is_tar_header(head[:512]):
        return "tar"
    if b"%PDF-" in head[:1024]:  # readers take what has something before it
        return "pdf"
    for start in (512, 1024, 2048, 4096, 8192):  # a user's block may come first
        if head[start : start + 8] == b"\x89HDF\r\n\x1a\n":
            return "hdf5"
    return None


def _is_pe(head: bytes) -> bool:
    if len(head) < 64:
        return False
    start = struct.unpack_from("<I", head, 60)[0]
    return head[start : start + 4] == b"PE\0\0"


def is_tar_header(block: bytes) -> bool:
    """Return whether 512 bytes are a member's header in a tar, by its checksum."""
    if len(block) != 512 or not block[0]:
        return False
    field = block[148:156].strip(b" \0")
    if not field or not re.fullmatch(rb"[0-7]+", field):
        return False
    return int(field, 8) == sum(block) - sum(block[148:156]) + 8 * 32


def has_objects(head: bytes) -> bool:
    """Return whether a NumPy array holds pickled objects."""
    described = _DESCR.search(head[:4096])
    return bool(described and re.search(rb"['\"][|<>=]?O\d*['\"]", described[1]))


def zip_type(names: list[str]) -> str:
    """Return which kind of zip has members of these names."""
    known = set(names)
    if "META-INF/MANIFEST.MF" in known or "AndroidManifest.xml" in known:
        return "jar"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "pytorch"
    if "[Content_Types].xml" in known or any(name.startswith("_rels/") for name in names):
        return "office"
    if names and names[0] == "mimetype":
        return "odf"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "zip"


def _zip(head: bytes) -> str:
    names = []
    for match in _ZIP_NAME.finditer(head):
        start = match.end()
        names.append(head[start : start + struct.unpack("<H", match[1])[0]].decode("utf-8", "replace"))
    return zip_type(names)


def _has_directory(end: bytes) -> bool:
    """Return whether the end of a zip's directory is there, and ends with the file."""
    at = end.rfind(b"PK\x05\x06")
    return len(end) - at >= 22 and at + 22 + struct.unpack_from("<H", end, at + 20)[0] == len(end)


def _by_pickle(head: bytes) -> str | None:
    """Recognise a pickle by walking through its first instructions; nothing is run."""
    binary = head[0] == 0x80 and len(head) > 2 and head[1] <= 5
    if not binary and head[:1] not in b"(ci]}lIS.NVFd":
        return None
    seen: list[str] = []
    try:
        for opcode, _, _ in pickletools.genops(BytesIO(head[:4096])):
            seen.append(opcode.name)
            if opcode.name == "STOP" or len(seen) > 500:
                break
    except Exception:  # noqa: S110 - whatever is wrong with it, it ends here
        pass
    if binary:
        return "pickle" if len(seen) > 1 else None
    # The old format is text: a list of words may begin like one, but does not go on like one.
    acts = {"REDUCE", "BUILD", "INST", "OBJ", "DICT", "LIST", "TUPLE", "SETITEM", "APPEND", "PUT"}
    return "pickle" if acts & set(seen) and ("STOP" in seen or len(seen) > 8) else None


def _text(head: bytes, is_whole: bool) -> str | None:
    text = head[:16384]
    if _CONTROL.search(text):
        return None
    # Text in another encoding is text too; where it is not UTF-8 is said when all of it is read.
    is_right = is_utf8(text, is_whole=is_whole and len(text) == len(head))
    if not is_right and _NOT_ASCII.subn(b"", text)[1] > len(text) / 3:
        return None
    if _HTML.match(text):
        return "html"
    if _XML.match(text):
        return "xml"
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not (is_whole and len(text) == len(head)):
        del lines[-1]  # it may be cut
    filled = [line for line in lines if line.strip()]
    if text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        values = sum(_is_json(line) for line in filled[:5])
        return "jsonl" if len(filled) > 1 and values >= min(2, len(filled)) else "json"
    for separator, name in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        if _has_columns(filled[:5], separator):
            return name
    return "text"


def is_utf8(data: bytes, *, is_whole: bool) -> bool:
    """Return whether bytes are UTF-8; the last character may be cut unless they are the whole."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not is_whole and error.start >= len(data) - 3 and error.reason == "unexpected end of data"
    return True


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict | list)
    except ValueError:
        return False


def _has_columns(lines: list[bytes], separator: str) -> bool:
    try:
        rows = list(csv.reader([line.decode() for line in lines], delimiter=separator, strict=True))
    except (csv.Error, UnicodeDecodeError):
        return False
    return len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1
