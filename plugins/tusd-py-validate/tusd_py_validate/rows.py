"""Reads CSV: UTF-8, every row as many cells as the header, no cell that a spreadsheet would run.

Whole blocks of rows are looked at at once, as long as nothing is odd; from there on it is done row by row, which tells
what is wrong and where. What is kept is a block, or one row. Blank lines do not count as rows.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import NamedTuple

import msgspec

from tusd_py_validate.problems import Problem, Problems

BLOCK = 2**20
MOST_COLUMNS = 10_000
_MAY_BE_FORMULA = frozenset("=+-@\t\r")
_SIGNS = b"=+-@\t\r"
_NUMBER = re.compile(r"[+-]?(\d[\d.,_ ]*|\.\d+)([eE][+-]?\d+)?%?", re.ASCII)
# "=" makes any cell a formula; "+", "-" and "@" one that calls a function or another program.
_FORMULA = re.compile(r"[\t\r\n]*(=\s*[\w(+\-@\"'{]|[=+\-@]+[\w.]*\(|[=+\-@].*\|.*!)", re.ASCII)


class Row(NamedTuple):
    """One row, and where it begins."""

    cells: list[str]
    line: int
    offset: int


class BrokenRow(Exception):
    """A row cannot be read, and so none after it."""

    def __init__(self, reason: str, line: int, offset: int, check: str = "structure") -> None:
        """Take the reason and where it is."""
        super().__init__(reason)
        self.problem = Problem(check=check, reason=reason, line=line, offset=offset)


def delimiter_of(head: bytes, *, is_tsv: bool) -> str:
    """Return what separates the cells, by the first line."""
    if is_tsv:
        return "\t"
    # What stands in quotation marks separates nothing.
    line = re.sub(rb'"[^"]*"?', b"", head.removeprefix(codecs.BOM_UTF8)).split(b"\n")[0]
    return max(",;\t|", key=lambda each: line.count(each.encode()))  # the first of those that are equal


class Rows:
    """The rows of a CSV file, without blank lines."""

    def __init__(
        self,
        blocks: Iterable[bytes],
        delimiter: str,
        max_row: int,
        *,
        line: int = 1,
        offset: int = 0,
        columns: int = 0,
    ) -> None:
        """Read blocks of bytes; no row may be longer than `max_row` bytes.

        The first begins at a line and an offset; `columns` is how many there are, if that is known.
        """
        # The limit is one for the whole process, and for any column too low; rows have their own limit here.
        csv.field_size_limit(max(csv.field_size_limit(), max_row))
        self._lines = self._split(blocks, max_row)
        self._reader = csv.reader(self._decoded(max_row), delimiter=delimiter, strict=True)
        self._line = self._row_line = line
        self._offset = self._row_offset = offset
        self._row_size = 0
        self._columns = columns

    def __iter__(self) -> Iterator[Row]:
        columns = self._columns
        try:
            for cells in self._reader:
                columns = columns or len(cells)
                if cells or columns == 1:  # a blank line is an empty cell if there is but one column
                    yield Row(cells or [""], self._row_line, self._row_offset)
                self._row_line, self._row_offset, self._row_size = self._line, self._offset, 0
        except csv.Error as error:
            raise BrokenRow(f"no CSV: {error}", self._row_line, self._row_offset) from error

    def _decoded(self, max_row: int) -> Iterator[str]:
        for line in self._lines:
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                at = self._offset + error.start
                raise BrokenRow(f"it is not UTF-8: {error.reason}", self._line, at) from error
            if "\0" in text:
                raise BrokenRow("it has a byte 0", self._line, self._offset + line.index(b"\0"))
            self._row_size += len(line)
            if self._row_size > max_row:
                reason = f"the row has more than {max_row} bytes; a quotation mark may be missing"
                raise BrokenRow(reason, self._row_line, self._row_offset, "limit")
            self._line += 1
            self._offset += len(line)
            yield text.removeprefix("\ufeff") if self._offset == len(line) else text

    def _split(self, blocks: Iterable[bytes], max_row: int) -> Iterator[bytes]:
        rest: list[bytes] = []
        held = 0
        for block in blocks:
            *lines, tail = block.split(b"\n")
            for line in lines:
                yield b"".join([*rest, line, b"\n"]) if rest else line + b"\n"
                rest, held = [], 0
            if tail:
                rest.append(tail)
                held += len(tail)
            if held > max_row:
                raise BrokenRow(f"the line has more than {max_row} bytes", self._line, self._offset, "limit")
        if rest:
            yield b"".join(rest)


def is_formula(cell: str) -> bool:
    """Return whether a spreadsheet would run a cell.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return cell[:1] in _MAY_BE_FORMULA and not _NUMBER.fullmatch(cell) and _FORMULA.match(cell) is not None


class _Plain:
    """Blocks of CSV in which nothing is odd, so that rows need not be told from each other."""

    def __init__(self, delimiter: str, max_row: int, formulas: bool) -> None:
        self._comma, self._max_row, self._formulas = delimiter.encode(), max_row, formulas
        self._ends = (self._comma, b"\n")
        self._starts = (*self._ends, b"\r\n")
        self._kinds = bytes(
            44 if chr(byte) in delimiter + "\n" else 61 if chr(byte) in _MAY_BE_FORMULA else 32 for byte in range(256)
        )

    def whole(self, data: bytes) -> list[bytes] | None:
        """Return the rows that end within the data, split at their quotes: what is outside of them and within, in turn.

        None if a quote is where RFC 4180 has none, or a row may be too long.
        """
        parts = data.split(b'"')
        last = (len(parts) - 1) // 2 * 2
        while last > 0 and b"\n" not in parts[last]:
            last -= 2
        del parts[last + 1 :]
        parts[last] = parts[last][: parts[last].rfind(b"\n") + 1]
        is_well_formed = (
            len(data) <= self._max_row
            and all(part.endswith(self._ends) for part in parts[0:-1:2] if part)
            and all(part.startswith(self._starts) for part in parts[2::2] if part)
        )
        return parts if is_well_formed else None

    def count(self, parts: list[bytes], columns: int) -> int:
        """Return how many rows there are, 0 if one of them may be odd."""
        outside = b'"'.join(parts[0::2])
        lines = outside.split(b"\n")[:-1]
        counts = list(map(bytes.count, lines, repeat(self._comma)))
        rows = counts.count(columns - 1)
        blank = lines.count(b"") + lines.count(b"\r") if columns > 1 and rows < len(lines) else 0
        if (
            rows + blank != len(lines)
            or any(b"\0" in part for part in parts)
            or (b"\r" in outside and outside.count(b"\r") != outside.count(b"\r\n"))
            or not (self._formulas or self._has_no_formulas(outside, parts))
        ):
            return 0
        try:
            b'"'.join(parts).decode()
        except UnicodeDecodeError:
            return 0
        return rows

    def _has_no_formulas(self, outside: bytes, parts: list[bytes]) -> bool:
        outside = outside.removeprefix(codecs.BOM_UTF8)
        kinds = b"," + outside.translate(self._kinds)
        place = kinds.find(b",=")
        while place >= 0:
            end = kinds.find(b",", place + 1)
            if is_formula(outside[place : end - 1].decode(errors="replace")):
                return False
            place = kinds.find(b",=", end)
        # A cell goes on where nothing is between its quotes.
        return not any(
            part and part[0] in _SIGNS and before and (not behind or is_formula(part.decode(errors="replace")))
            for before, part, behind in zip([b",", *parts[2::2]], parts[1::2], parts[2::2], strict=False)
        )


def check(
    blocks: Iterable[bytes],
    delimiter: str,
    problems: Problems,
    *,
    max_row: int,
    formulas: bool,
    read: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Check a whole CSV file, and return its header; `formulas` says whether cells may be formulas.

    Raises:
        Stop: enough is wrong.
    """
    header: list[str] = []
    plain = _Plain(delimiter, max_row, formulas)
    line, offset, rows, data = 1, 0, 0, b""
    blocks = iter(blocks)
    try:
        for block in blocks:
            data += block
            parts = plain.whole(data)
            if parts == [b""]:
                continue  # a row is longer than a block
            if parts is None:
                break
            if not header:
                if data.removeprefix(codecs.BOM_UTF8)[:1] in (b"\r", b"\n"):
                    break
                header = next((row.cells for row in Rows([b'"'.join(parts)], delimiter, max_row)), [])
                _check_header(header, problems)
            found = plain.count(parts, len(header))
            if not found:
                break
            size = sum(map(len, parts)) + len(parts) - 1
            line, offset, rows = line + data.count(b"\n", 0, size), offset + size, rows + found
            data = data[size:]
            read(offset)
        left = Rows(
            chain([data], blocks), delimiter, max_row, line=line, offset=offset, columns=len(header) if rows else 0
        )
        for number, row in enumerate(left, rows):
            cells = row.cells
            if number == 0:
                if not header:
                    header = cells
                    _check_header(header, problems)
            elif len(cells) != len(header):
                reason = f"the row has {len(cells)} cells, the header {len(header)}"
                problems.add(Problem(check="structure", reason=reason, line=row.line, offset=row.offset, row=number))
            if not formulas and not _MAY_BE_FORMULA.isdisjoint([cell[:1] for cell in cells]):
                for name, cell in zip(header, cells, strict=False):
                    if is_formula(cell):
                        problems.add(
                            Problem(
                                check="structure",
                                reason="the cell is a formula, which a spreadsheet would run",
                                line=row.line,
                                offset=row.offset,
                                row=number,
                                path=f"/{name}",
                            )
                        )
            if number % 1000 == 0:
                read(row.offset)
    except BrokenRow as error:
        problems.add(error.problem)
    return header


def _check_header(header: list[str], problems: Problems) -> None:
    if len(header) > MOST_COLUMNS:
        raise BrokenRow(f"it has more than {MOST_COLUMNS} columns", 1, 0, "limit")
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        problems.add(Problem(check="structure", reason=f"the header has {twice!r} twice", line=1, offset=0))


def located(blocks: Iterable[bytes], delimiter: str, max_row: int, problems: list[Problem]) -> list[Problem]:
    """Return problems of rows, which have the row's number, with its line and offset too."""
    wanted = {problem.row for problem in problems if problem.row is not None}
    last, places = max(wanted, default=0), {}
    for number, row in enumerate(Rows(blocks, delimiter, max_row)):
        if number in wanted:
            places[number] = row
        if number >= last:
            break
    return [
        msgspec.structs.replace(problem, line=places[problem.row].line, offset=places[problem.row].offset)
        if problem.row in places
        else problem
        for problem in problems
    ]
