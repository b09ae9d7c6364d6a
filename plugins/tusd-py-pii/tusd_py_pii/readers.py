"""Reads files as cells: JSON, JSON lines and plain text. (CSV and Parquet have modules of their own.)

Most lines are plain: ASCII, or UTF-8 that folding does not change, with no escapes but simple ones. Whole blocks of
them are handed on as they are, quotes and line ends turned into the NUL that separates cells. Only what is irregular
is cut into cells and decoded one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from tusd_py_pii.batches import Batch, Cells, Lines, Place
from tusd_py_pii.jsonpath import STRING, Walk, decode, path_at
from tusd_py_pii.streams import Carried, Limits, Reader, Seekable, line_blocks
from tusd_py_pii.text import irregular

_LINES = bytes.maketrans(b"\n\0", b"\0 ")
_QUOTES_AND_LINES = bytes.maketrans(b'"\n\0\x0b', b"\0\0 \n")
NEAR = 4096
"""So far from the start of a line, what stands before a place is looked at anew for each place."""
_ESCAPES = {bytes([byte]): b"\\" + bytes([byte]) for byte in range(256)} | {b"": b"\\", b"n": b"\x0b\x0b", b'"': b"''"}
"""What a backslash and the byte behind it become: escapes of one character that are common become as many bytes."""
PIECE = 1024
"""So many bytes are asked at a time whether they are ASCII."""


class Tally(msgspec.Struct):
    """What a reader counts besides."""

    rows: int = 0
    bytes: int = 0
    invalid_lines: int = 0
    """Lines with bytes that are not UTF-8; they are searched all the same."""


def text_batches(file: Seekable, start: int, stop: int, limits: Limits, tally: Tally) -> Iterator[Batch]:
    """Yield the lines of plain text that begin in a range; each is a cell."""
    for block, offset in line_blocks(file, start, stop, limits.max_record):
        row = tally.rows
        _count(tally, block)
        places = _irregular_places(block, tally)
        data, lines = without(block, places)
        yield Batch(b"\0" + data.translate(_LINES) + b"\0", _line_place(block, offset, row))
        if lines:
            cells = Cells()
            for first, last in lines:
                cells.add(block[first:last].decode("utf-8", "replace"), offset + first, offset + last, None)
            where = _line_place(block, offset, row)
            yield cells.batch(lambda at, _, where=where, base=offset: where(at - base + 1))  # type: ignore[misc]


def json_line_batches(file: Seekable, start: int, stop: int, limits: Limits, tally: Tally) -> Iterator[Batch]:
    """Yield the strings of JSON lines that begin in a range, and what stands between the strings."""
    for block, offset in line_blocks(file, start, stop, limits.max_record):
        row = tally.rows
        _count(tally, block)
        yield from _json(block, offset, tally, lambda line_start: Walk(), row)


def json_batches(file: Reader, limits: Limits, tally: Tally) -> Iterator[Batch]:
    """Yield the strings of one JSON text, and what stands between them."""
    carried = Carried(file, limits.max_record)
    walk = Walk()
    for data, offset, is_last in carried:
        before = walk.copy()
        end = walk.read(data, 0, len(data))
        carried.used = len(data) if is_last else end
        block = data[: carried.used]
        row = tally.rows
        _count(tally, block)
        yield from _json(block, offset, tally, lambda _, before=before: before.copy(), row, whole=True)  # type: ignore[misc]


def _json(
    block: bytes, offset: int, tally: Tally, walk_at: Callable[[int], Walk], row: int, *, whole: bool = False
) -> Iterator[Batch]:
    """Yield the cells of a block of JSON; a walk begins at each line, or, for a `whole` text, at the block."""
    data = block
    escapes: list[int] = []
    if b"\\" in data:
        data, escapes = _without_plain_escapes(data)
    places = _irregular_places(block, tally)
    places += escapes
    where = _JsonPlaces(block, data, offset, row, walk_at, whole)
    if not places:
        yield Batch(b"".join((b"\0", data.translate(_QUOTES_AND_LINES), b"\0")), where, None, where.column)
        return
    # Strings that have to be decoded are taken out, and so is what is odd between strings.
    cells = Cells()
    bulk = bytearray(data)
    last = -1
    for place in sorted(places):
        if place < last:
            continue
        first = block.rfind(b"\n", 0, place) + 1
        last = block.find(b"\n", place)
        last = len(block) if last < 0 else last
        end = _take_strings(cells, block, data, bulk, first, last, offset)
        for match in STRING.finditer(block, end, last):
            start, stop = match.span()
            _take_gap(cells, block, bulk, end, start, offset)
            end = stop
            raw = match[1]
            if b"\\" in raw or not raw.isascii():
                cells.add(decode(raw), offset + start + 1, offset + stop - 1, True)
                bulk[start:stop] = b"\n" * (stop - start)
        _take_gap(cells, block, bulk, end, last, offset)
    yield Batch(b"".join((b"\0", bulk.translate(_QUOTES_AND_LINES), b"\0")), where, None, where.column)
    if len(cells):
        yield cells.batch(lambda at, _: where(at - offset + 1))


def _without_plain_escapes(data: bytes) -> tuple[bytes, list[int]]:
    """Replace the two escapes that are common, by as many bytes so that places stay; return the places of others, one
    for each line.

    `\\x0b` stands for a line end within a string.
    """
    parts = data.split(b"\\")
    if len(parts) > len(data) // 100:
        plain = data.replace(b"\\n", b"\x0b\x0b").replace(b'\\"', b"''")
    else:
        plain = b"".join([parts[0], *[_ESCAPES[part[:1]] + part[1:] for part in parts[1:]]])
    places = []
    place = plain.find(b"\\")
    while place >= 0:
        places.append(place)
        end = plain.find(b"\n", place)
        place = plain.find(b"\\", end) if end >= 0 else -1
    return plain, places


def _take_strings(cells: Cells, block: bytes, data: bytes, bulk: bytearray, first: int, last: int, offset: int) -> int:
    """Take out the strings of a line that have escapes, as long as it is plain where strings begin and end; return how
    far that is.
    """
    line = block[first:last]
    if not line.isascii() or b"\\\\" in line:
        return first
    end = first
    place = block.find(b"\\", first, last)
    while place >= 0:
        # In `data` quotes within strings are none any more.
        start, stop = data.rfind(b'"', end, place), data.find(b'"', place, last)
        if start < 0 or stop < 0 or data.count(b'"', end, start) % 2:
            return end
        cells.add(decode(block[start + 1 : stop]), offset + start + 1, offset + stop, True)
        end = stop + 1
        bulk[start:end] = b"\n" * (end - start)
        place = block.find(b"\\", end, last)
    return last


class _JsonPlaces:
    """Tells where a byte of a block of JSON stands; rising places cost one walk in all."""

    def __init__(
        self, block: bytes, plain: bytes, offset: int, row: int, walk_at: Callable[[int], Walk], whole: bool
    ) -> None:
        self._block, self._plain = block, plain
        self._offset, self._row, self._walk_at, self._whole = offset, row, walk_at, whole
        self._lines = Lines(block)
        self._first = self._end = -1
        self._walk = Walk()

    def __call__(self, index: int) -> Place:
        at = index - 1
        line, first = self._lines.at(at)
        path, in_string = self._path(first, at)
        return Place(path, self._row + line, self._offset + at, in_string)

    def column(self, index: int) -> str:
        """Return the path alone."""
        return self._path(self._lines.start(index - 1), index - 1)[0]

    def _path(self, first: int, at: int) -> tuple[str, bool]:
        if self._whole or at - first >= NEAR:
            return self._walked(0 if self._whole else first, at)
        before = self._plain[first:at]
        return path_at(self._block[first:at] if b"\\" in before else before)

    def _walked(self, first: int, at: int) -> tuple[str, bool]:
        if first != self._first or at < self._end:
            self._first = self._end = first
            self._walk = self._walk_at(first)
        # Within a string the walk ends before it: what looks like JSON in there is none.
        self._end = self._walk.read(self._block, self._end, at)
        in_string = self._block.find(b'"', self._end, at) >= 0
        return self._walk.path(in_string=in_string), in_string


def _take_gap(cells: Cells, block: bytes, bulk: bytearray, start: int, stop: int, offset: int) -> None:
    """Take out what stands between two strings if it has to be decoded."""
    gap = block[start:stop]
    if b"\\" in gap or not gap.isascii():
        cells.add(gap.decode("utf-8", "replace"), offset + start, offset + stop, False)
        bulk[start:stop] = b"\n" * (stop - start)


def _count(tally: Tally, block: bytes) -> None:
    tally.bytes += len(block)
    tally.rows += block.count(b"\n") + (not block.endswith(b"\n") and bool(block))


def check_utf8(block: bytes, tally: Tally) -> None:
    """Count the lines of a block that are not UTF-8."""
    try:
        block.decode()
    except UnicodeDecodeError:
        for line in block.split(b"\n"):
            try:
                line.decode()
            except UnicodeDecodeError:
                tally.invalid_lines += 1


def _irregular_places(block: bytes, tally: Tally) -> list[int]:
    """Return places of characters that folding changes, at least one on each line that has any."""
    if block.isascii():
        return []
    check_utf8(block, tally)
    return irregular_places(block)


def irregular_places(block: bytes | bytearray, end: bytes = b"\n") -> list[int]:
    """Return a place for each line, or each other piece up to an `end`, with characters that folding changes."""
    places: list[int] = []
    if block.isascii():
        return places
    search = irregular().search
    at = 0
    for start in range(0, len(block), PIECE):
        if block[start : start + PIECE].isascii():
            continue
        at = max(at, start)
        # A character may end in the next piece.
        while (match := search(block, at, start + PIECE + 3)) is not None:
            places.append(match.start())
            at = block.find(end, match.start())
            if at < 0:
                return places
    return places


def without(block: bytes, places: list[int], end: bytes = b"\n") -> tuple[bytes, list[tuple[int, int]]]:
    """Return the block with the lines at these places blanked, and the ranges of those lines."""
    if not places:
        return block, []
    lines: list[tuple[int, int]] = []
    blanked = bytearray(block)
    last = -1
    for place in places:
        if place < last:
            continue
        first = block.rfind(end, 0, place) + 1
        last = block.find(end, place)
        last = len(block) if last < 0 else last
        lines.append((first, last))
        blanked[first:last] = b"\n" * (last - first)
    return bytes(blanked), lines


def _line_place(block: bytes, offset: int, row: int) -> Callable[[int], Place]:
    lines = Lines(block)

    def where(index: int) -> Place:
        return Place("", row + lines.at(index - 1)[0], offset + index - 1)

    return where
