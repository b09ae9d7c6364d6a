"""Reads CSV as cells.

Where every quote is where RFC 4180 has it, counting quotes tells what is within them, and whole blocks are handed on
as they are, delimiters, quotes and line ends turned into the NUL that separates cells. Fields that have to be decoded,
and blocks with a quote elsewhere, are cut into cells one by one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from itertools import accumulate

from tusd_py_pii.batches import Batch, Cells, Lines, Place, column_name
from tusd_py_pii.readers import Tally, check_utf8, irregular_places
from tusd_py_pii.streams import Carried, Limits, Reader

_FIELD = re.compile(rb'"((?:[^"]|"")*)"([^,\n]*)(,|\n|\Z)|([^,\n]*)(,|\n|\Z)')


def csv_batches(file: Reader, delimiter: str, header: bool, limits: Limits, tally: Tally) -> Iterator[Batch]:
    """Yield the fields of CSV; a `header` names the columns, otherwise they have numbers from 1."""
    comma = delimiter.encode()
    field = re.compile(_FIELD.pattern.replace(b",", re.escape(comma)))
    names: list[str] = []
    carried = Carried(file, limits.max_record)
    for data, offset, is_last in carried:
        if not names and header:
            first = data.find(b"\n") + 1 or len(data)
            names = [_text(match) for match in field.finditer(data, 0, first)]
            names = [column_name(name.strip().lstrip("\ufeff")) for name in names]
        row = tally.rows
        named = functools.partial(_named, names)
        parts = _whole_records(data, comma, is_last)
        if parts is not None:
            block = data[: sum(map(len, parts)) + len(parts) - 1]
            carried.used = len(block)
            where = _Places(block, parts, comma, named, offset, row)
            tally.rows += where.rows
            yield from _bulk(block, parts, comma, where, offset)
        else:
            cells = Cells()
            carried.used, rows = _cells(data, offset, field, cells, is_last, row)
            tally.rows += rows
            if len(cells):
                yield cells.batch(lambda at, key, named=named: Place(named(key[1]), key[0], at))  # type: ignore[misc]
        check_utf8(data[: carried.used], tally)
        tally.bytes += carried.used


def _whole_records(data: bytes, comma: bytes, is_last: bool) -> list[bytes] | None:
    """Return the records that end within the data, split at their quotes: what is outside of quotes and what is within,
    in turn; nothing is outside where two quotes stand for one. None if a quote is where none should be.
    """
    parts = data.split(b'"')
    if is_last:
        if len(parts) % 2 == 0:
            return None  # a quote is left open
    else:
        last = (len(parts) - 1) // 2 * 2
        while last > 0 and b"\n" not in parts[last]:
            last -= 2
        del parts[last + 1 :]
        parts[last] = parts[last][: parts[last].rfind(b"\n") + 1]
    ends = (comma, b"\n")
    starts = (*ends, b"\r\n")
    if all(part.endswith(ends) for part in parts[0:-1:2] if part) and all(
        part.startswith(starts) for part in parts[2::2] if part
    ):
        return parts
    return None


def _bulk(block: bytes, parts: list[bytes], comma: bytes, where: _Places, offset: int) -> Iterator[Batch]:
    """Yield the fields of whole records, all at once but for those that have to be decoded."""
    flat = bytes.maketrans(comma + b"\n\0", b"\0\0 ")
    pieces = [part.translate(flat) for part in parts]
    pieces[1::2] = [part.replace(b"\0", b" ") for part in parts[1::2]]
    data = bytearray(b"\0".join((b"", *pieces, b"")))
    spans = _with_quotes(parts)
    for first, last in spans.items():
        data[first + 1 : last + 1] = b"\n" * (last - first)
    for place in irregular_places(data, b"\0"):
        first = data.rfind(b"\0", 0, place)
        last = spans[first] = data.find(b"\0", place) - 1
        data[first + 1 : last + 1] = b"\n" * (last - first)
    cells = Cells()
    for first, last in sorted(spans.items()):
        is_quoted = block[first - 1 : first] == b'"' and first > 0
        text = block[first:last]
        if is_quoted:
            text = text.replace(b'""', b'"')
        elif text.endswith(b"\r"):
            last -= 1
        cells.add(
            text.decode("utf-8", "replace").rstrip("\r"), offset + first - is_quoted, offset + last + is_quoted, first
        )
    yield Batch(bytes(data), where, None, where.column)
    if len(cells):
        yield cells.batch(lambda _, first: where(first + 1))  # type: ignore[operator]


def _with_quotes(parts: list[bytes]) -> dict[int, int]:
    """Return where the fields begin and end that have quotes within."""
    inner = [number for number in range(2, len(parts) - 1, 2) if not parts[number]]
    spans: dict[int, int] = {}
    if inner:
        starts = list(accumulate((len(part) + 1 for part in parts), initial=0))
        first = -1
        for number in inner:
            if number - 2 != first:
                begin = starts[number - 1]
            first = number
            spans[begin] = starts[number + 2] - 1
    return spans


class _Places:
    """Tells where a byte of whole records stands."""

    def __init__(
        self, block: bytes, parts: list[bytes], comma: bytes, named: Callable[[int], str], offset: int, row: int
    ) -> None:
        self._block, self._comma, self._named, self._offset, self._row = block, comma, named, offset, row
        within = parts[1::2]
        if any(b"\n" in part for part in within):
            parts = parts.copy()
            parts[1::2] = [part.replace(b"\n", b" ") for part in within]
            block = b'"'.join(parts)
        self._lines = Lines(block)
        self.rows = block.count(b"\n") + (block[-1:] not in (b"\n", b""))

    def __call__(self, index: int) -> Place:
        line, first = self._lines.at(index - 1)
        return Place(self._column(first, index - 1), self._row + line, self._offset + index - 1)

    def column(self, index: int) -> str:
        """Return the column alone."""
        return self._column(self._lines.start(index - 1), index - 1)

    def _column(self, first: int, at: int) -> str:
        outside = self._block[first:at].split(b'"')[0::2]
        return self._named(sum(part.count(self._comma) for part in outside))


def _named(names: list[str], column: int) -> str:
    return names[column] if column < len(names) else f"column {column + 1}"


def _cells(
    data: bytes, offset: int, field: re.Pattern[bytes], cells: Cells, is_last: bool, row: int
) -> tuple[int, int]:
    """Add the fields of all records that end within the data; return where the last of them ends, and how many."""
    column, rows, used = 0, 0, 0
    record: list[tuple[str, int, int, tuple[int, int]]] = []
    for match in field.finditer(data):
        start, stop = match.span()
        if start == len(data):
            break
        ending = match[3] if match[3] is not None else match[5]
        is_open = match[1] is None and data[start] == 34
        if (is_open or not ending) and not is_last:
            break  # a quoted field, or a record, that goes on
        if match[4] != b"":
            end = stop - len(ending)
            end -= data[end - 1 : end] == b"\r"
            record.append((_text(match), offset + start, offset + end, (row + rows, column)))
        column += 1
        if ending == b"\n" or (is_last and stop == len(data)):
            for cell in record:
                cells.add(*cell)
            record.clear()
            column, used = 0, stop
            rows += 1
    return used, rows


def _text(match: re.Match[bytes]) -> str:
    """Return what a field says."""
    if match[1] is None:
        return match[4].decode("utf-8", "replace").rstrip("\r")
    return (match[1].replace(b'""', b'"') + match[2]).decode("utf-8", "replace").rstrip("\r")
