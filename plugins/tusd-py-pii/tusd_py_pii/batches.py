"""What a reader hands to the detector: a buffer of many cells, and where each of them came from."""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from tusd_py_pii.text import encode, fold, irregular

# Another name of a column is none: it may be a value, and values are never shown.
_NAME = re.compile(r"[A-Za-z_\u00c0-\uffff][\w .:/-]{0,63}")
_DIGITS = re.compile(r"\d{5}|\d[\d .-]{6}")
MAX_DEPTH = 32
MAX_PATH = 200


class Place(NamedTuple):
    """Where a cell stands."""

    column: str
    """Name of a column, or the path in JSON: `messages[].content`; empty in plain text."""
    row: int
    """Counted from 0 at the first row of the task."""
    offset: int | None
    """Bytes from the start of the file (of what it holds, if it is compressed); None in Parquet."""
    in_string: bool = True
    """Whether it is within quotes, in JSON."""


class Cell(NamedTuple):
    """A cell as it stands in the file: its bytes, and the text they mean."""

    start: int
    stop: int
    text: str


class Batch(NamedTuple):
    """Cells with a NUL before and behind each."""

    data: bytes
    place: Callable[[int], Place]
    """Tells where the byte at this index of `data` stands."""
    cell: Callable[[int], Cell] | None = None
    """Tells the cell that the byte belongs to; None if `data` is the file's own bytes, one for one."""
    column_alone: Callable[[int], str] | None = None
    """Tells the column and nothing else, if that is faster."""

    def column(self, index: int) -> str:
        """Return the column of the byte at this index."""
        return self.column_alone(index) if self.column_alone else self.place(index).column


class Lines:
    """Where the lines of a block begin."""

    def __init__(self, block: bytes, end: bytes = b"\n") -> None:
        self._block = block
        self._end = end
        self._number = self._counted = 0

    def start(self, place: int) -> int:
        """Return the start of the line that holds a place."""
        return self._block.rfind(self._end, 0, place) + 1

    def at(self, place: int) -> tuple[int, int]:
        """Return number and start of the line that holds a place; rising places cost one pass in all."""
        if place < self._counted:
            self._number = self._counted = 0
        self._number += self._block.count(self._end, self._counted, place)
        self._counted = place
        return self._number, self.start(place)


class Cells:
    """Builds a batch out of cells that had to be decoded."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [b""]
        self._starts: list[int] = []
        self._spans: list[tuple[int, int, str, object]] = []
        self._size = 1

    def add(self, text: str, start: int, stop: int, key: object) -> None:
        """Add the text of the bytes `[start, stop)`; `key` is given back to find the place."""
        data = encode(text)
        if b"\0" in data or (not data.isascii() and irregular().search(data)):
            data = encode(fold(text))
        self._parts.append(data)
        self._starts.append(self._size)
        self._spans.append((start, stop, text, key))
        self._size += len(data) + 1

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, place: Callable[[int, object], Place]) -> Batch:
        """Return the batch; `place` tells where the cell that starts at a byte, with its key, stands."""

        def number(index: int) -> int:
            return bisect_right(self._starts, index) - 1

        def place_at(index: int) -> Place:
            start, _, _, key = self._spans[number(index)]
            return place(start, key)

        def cell_at(index: int) -> Cell:
            start, stop, text, _ = self._spans[number(index)]
            return Cell(start, stop, text)

        self._parts.append(b"")
        return Batch(b"\0".join(self._parts), place_at, cell_at)


@functools.lru_cache(10_000)
def column_name(name: str) -> str:
    """Return a name as it may be shown: `*` if it could be a value."""
    return name if _NAME.fullmatch(name) and not _DIGITS.search(name) and "@" not in name else "*"
