"""Looks into archives without writing anything: names, sizes, ratios, and what the members are.

Python's tarfile and zipfile keep what a hostile file tells them to keep: the tar headers are read here, and a zip's
directory is measured before zipfile reads it.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

from tusd_py_validate.detect import HEAD, Found, detect, is_tar_header
from tusd_py_validate.settings import Archives
from tusd_py_validate.unpack import BLOCK, FREE, Unfit, Unpacked, can_unpack

NESTED_SIZE = 64 * 2**20
"""A zip within an archive is looked into up to this size; it is kept in memory for that."""
LONGEST_NAME = 2**16
_PEEK = 4096


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    found: Found


Seen = Callable[[Member], None]
"""Hears of each member and what it is."""
Read = Callable[[int], None]
"""Hears how far the archive has been read, in bytes."""


class Stream:
    """Bytes to be read once, from start to end."""

    def __init__(self, read: Callable[[int], bytes], head: bytes = b"", size: int | None = None) -> None:
        """Read `head`, then from `read`; end after `size` bytes together, if it is given."""
        self._read, self._head = read, BytesIO(head)
        self.left = size

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; fewer at the end."""
        count = count if self.left is None else min(count, self.left)
        data = self._head.read(count)
        while len(data) < count and (more := self._read(count - len(data))):
            data += more
        if self.left is not None:
            self.left -= len(data)
        return data

    def skip(self, count: int) -> None:
        """Leave `count` bytes out."""
        while count > 0 and (data := self.read(min(BLOCK, count))):
            count -= len(data)


class FileStream(Stream):
    """A file that can be skipped in without reading it."""

    def __init__(self, file: BinaryIO, size: int, read: Read) -> None:
        """Read `file`, which has `size` bytes; `read` hears how far it is."""
        super().__init__(file.read)
        self._file, self._size, self._tell = file, size, read

    def skip(self, count: int) -> None:
        """Leave `count` bytes out."""
        self._tell(self._file.seek(min(self._file.tell() + count, self._size)))


def walk(name: str, file: BinaryIO, size: int, limits: Archives, seen: Seen, read: Read, prefix: str = "") -> None:
    """Look at all members of an archive or a compressed file, and of those within.

    Args:
        name: its type.
        file: its bytes, from `file`'s start.
        size: how many there are.
        limits: what it may be.
        seen: hears of each member.
        read: hears how far it is.
        prefix: in which archive it is itself.

    Raises:
        Unfit: it is broken, or more than it may be.
    """
    _walk(name, file, size, limits, seen, read, prefix, 1)


def _walk(
    name: str, file: BinaryIO, size: int, limits: Archives, seen: Seen, read: Read, prefix: str, depth: int
) -> None:
    if name == "tar":
        _tar(FileStream(file, size, read), limits, seen, prefix, depth)
    elif can_unpack(name):
        _compressed(Unpacked(name, file, limits, read), limits, seen, prefix, depth)
    elif is_zip(name):
        _zip(file, size, limits, seen, read, prefix, depth)


def is_zip(name: str) -> bool:
    """Return whether a type is a zip of some kind."""
    return name in ("zip", "npz", "pytorch", "office", "odf", "jar")


def _compressed(unpacked: Unpacked, limits: Archives, seen: Seen, prefix: str, depth: int) -> None:
    """Look at what a compressed file has in it, to its end."""
    head = unpacked.read(HEAD)
    stream = Stream(unpacked.read, head)
    _look(f"{prefix}content", head, None, stream, limits, seen, depth)
    while stream.read(BLOCK):
        pass


def _look(name: str, head: bytes, size: int | None, stream: Stream, limits: Archives, seen: Seen, depth: int) -> None:
    """Tell what a member is by its head, and look into it, by `stream`, if it is an archive itself."""
    found = detect(head, is_whole=len(head) == size if size is not None else len(head) < HEAD)
    seen(Member(name, found))
    zipped = is_zip(found.name)
    if not (zipped or can_unpack(found.name) or found.name == "tar"):
        return
    if depth >= limits.max_depth:
        raise Unfit(f"{name!r} is one archive too deep: {limits.max_depth} are allowed within one another")
    if found.name == "tar":
        _tar(stream, limits, seen, f"{name}/", depth + 1)
        return
    # What is compressed twice, or a zip in an archive, is small or suspicious.
    data = stream.read(NESTED_SIZE + 1)
    if len(data) > NESTED_SIZE:
        raise Unfit(f"{name!r} is an archive of more than {NESTED_SIZE} bytes within another one")
    _walk(found.name, BytesIO(data), len(data), limits, seen, lambda _: None, f"{name}/", depth + 1)


def check_name(name: str) -> None:
    """Raise `Unfit` for a name that leads out of the folder where an archive would be extracted."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in parts or "\0" in name:
        raise Unfit(f"the member {name!r} leads out of the folder where the archive is extracted")


def _count(count: int, limits: Archives) -> None:
    if count > limits.max_entries:
        raise Unfit(f"it has more than {limits.max_entries} members")


# tar: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06


def _tar(stream: Stream, limits: Archives, seen: Seen, prefix: str, depth: int) -> None:
    longer: dict[bytes, str] = {}
    size_told: int | None = None
    number = unpacked = 0
    while (header := stream.read(512)).strip(b"\0"):
        if len(header) < 512 or not is_tar_header(header):
            raise Unfit(f"{prefix or 'the tar'} is broken after {number} members: there is no header")
        size, kind = _number(header[124:136]), header[156:157]
        if kind in b"xgLK" and kind:
            if size > LONGEST_NAME * 16:
                raise Unfit("a tar header of more than 1 MiB")
            data = stream.read(size)
            stream.skip(-size % 512)
            if kind == b"x":
                told = dict(_pax(data))
                longer[b"L"] = told.get("path", longer.get(b"L", ""))
                size_told = _decimal(told["size"]) if "size" in told else None
            elif kind in b"LK":
                longer[kind] = data.rstrip(b"\0").decode("utf-8", "replace")
            continue
        number += 1
        _count(number, limits)
        size = size_told if size_told is not None else size
        name = longer.get(b"L") or _tar_name(header)
        check_name(name)
        if kind in (b"1", b"2"):  # links, which lead to files that others wrote
            target = longer.get(b"K") or header[157:257].split(b"\0")[0].decode("utf-8", "replace")
            check_name(target)
            size = 0
        elif kind in (b"3", b"4", b"6"):
            raise Unfit(f"the member {name!r} is a device")
        longer, size_told = {}, None
        unpacked += size
        if unpacked > limits.max_unpacked:
            raise Unfit(f"its members have more than {int(limits.max_unpacked)} bytes together")
        if size and kind != b"5":
            head = stream.read(min(_PEEK, size))
            member = Stream(stream.read, head, size)
            _look(prefix + name, head, size, member, limits, seen, depth)
            assert member.left is not None
            left = min(member.left, size - len(head))
            stream.skip(max(0, left - 1))
            if len(head) < min(_PEEK, size) or (left and not stream.read(1)):
                raise Unfit(f"it is cut in the middle of {name!r}")
        stream.skip(-size % 512)


def _tar_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0].decode("utf-8", "replace")
    folder = header[345:500].split(b"\0")[0].decode("utf-8", "replace") if header[257:263] == b"ustar\0" else ""
    return f"{folder}/{name}" if folder else name


def _number(field: bytes) -> int:
    """Return a number in octal digits, or in binary behind 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise Unfit("a tar header has a size that is no number")
    return int(digits or b"0", 8)


def _decimal(text: str) -> int:
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII):
        raise Unfit("a tar header has a size that is no number")
    return int(text)


def _pax(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield keys and values of a pax header: records of "LENGTH KEY=VALUE\\n"."""
    while data.strip(b"\0"):
        match = re.match(rb"(\d{1,7}) ([^=\n]+)=", data)
        length = int(match[1]) if match else 0
        if not match or not match.end() < length <= len(data):
            raise Unfit("a tar header is broken")
        yield match[2].decode("utf-8", "replace"), data[match.end() : length - 1].decode("utf-8", "replace")
        data = data[length:]


# zip: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT


def _zip(file: BinaryIO, size: int, limits: Archives, seen: Seen, read: Read, prefix: str, depth: int) -> None:
    _check_directory(file, size, limits)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _count(len(entries), limits)
            _check_entries(entries, size, limits)
            for entry in entries:
                if entry.is_dir():
                    continue
                with archive.open(entry) as member:
                    head = member.read(_PEEK)  # zipfile gives no more than the directory says
                    stream = Stream(member.read, head)
                    _look(prefix + entry.filename, head, entry.file_size, stream, limits, seen, depth)
                read(min(size, entry.header_offset + entry.compress_size))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise Unfit(f"{prefix or 'the zip'} cannot be read: {error}") from error
    except (ValueError, struct.error, UnicodeError, LookupError, MemoryError) as error:
        raise Unfit(f"{prefix or 'the zip'} is broken: {error}") from error


def zip_names(file: BinaryIO, size: int, limits: Archives) -> list[str]:
    """Return the names in a zip's directory.

    Raises:
        Unfit: it has none that can be read.
    """
    _check_directory(file, size, limits)
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error, LookupError) as error:
        raise Unfit(f"the zip cannot be read: {error}") from error


def _check_directory(file: BinaryIO, size: int, limits: Archives) -> None:
    """Refuse a directory that zipfile would need much memory for."""
    start = max(0, size - 65557)
    file.seek(start)
    end = file.read(65557)
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or len(end) - at < 22:
        raise Unfit("the zip has no directory at its end: it is cut")
    count, length, offset = struct.unpack_from("<HII", end, at + 10)
    if count == 0xFFFF or 0xFFFFFFFF in (length, offset):
        locator = end.rfind(b"PK\x06\x07", 0, at)
        if locator >= 0 and len(end) - locator >= 20:
            file.seek(min(struct.unpack_from("<Q", end, locator + 8)[0], size))
            record = file.read(56)
            if len(record) == 56 and record.startswith(b"PK\x06\x06"):
                count, length = struct.unpack_from("<QQ", record, 32)
    _count(count, limits)
    if length > size or length > max(2**20, limits.max_entries * 512):
        raise Unfit(f"the zip's directory has {length} bytes")


def _check_entries(entries: list[zipfile.ZipInfo], size: int, limits: Archives) -> None:
    total, end = 0, 0
    for entry in sorted(entries, key=lambda each: each.header_offset):
        check_name(entry.filename)
        check_name(entry.orig_filename)
        if entry.flag_bits & 0x1:
            raise Unfit(f"the member {entry.filename!r} is encrypted, so nobody can look into it")
        if entry.external_attr >> 28 == 0xA:
            raise Unfit(f"the member {entry.filename!r} is a symbolic link")
        # https://www.bamsoftware.com/hacks/zipbomb/ lets many members share the same bytes.
        if entry.header_offset < end:
            raise Unfit(f"the member {entry.filename!r} overlaps another one")
        end = entry.header_offset + 30 + entry.compress_size
        if end > size:
            raise Unfit(f"the member {entry.filename!r} ends outside the file")
        if entry.file_size > FREE and entry.file_size > entry.compress_size * limits.max_ratio:
            raise Unfit(f"the member {entry.filename!r} unpacks to more than {limits.max_ratio} times its size")
        total += entry.file_size
        if total > limits.max_unpacked:
            raise Unfit(f"its members have more than {int(limits.max_unpacked)} bytes together")
    if total > FREE and total > size * limits.max_ratio:
        raise Unfit(f"it unpacks to more than {limits.max_ratio} times its size")
