"""What a scan found: counts and a few masked samples, never a value.

Reports of neighbouring pieces of a file merge into the report of both: `a + (b + c) == (a + b) + c`, so that a file
can be cut anywhere and looked at by many processes. What is kept is bounded: the first samples of each column, and
the columns that come first in the alphabet.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import msgspec

MAX_COLUMNS = 1000
OTHER_COLUMNS = "(other columns)"


class Sample(msgspec.Struct, frozen=True):
    """One value, masked."""

    row: int
    """From 0."""
    offset: int
    """Bytes from the start of the file; -1 in Parquet."""
    masked: str
    hash: str
    """Tells equal values within a report; it is salted, so that nobody can find the value by trying."""


class Found(msgspec.Struct, frozen=True):
    """Values of one type in one column."""

    count: int
    rules: dict[str, int]
    samples: tuple[Sample, ...]
    """The first ones."""

    def plus(self, other: Found, samples: int) -> Found:
        """Return both together."""
        rules = dict(self.rules)
        for name, count in other.rules.items():
            rules[name] = rules.get(name, 0) + count
        return Found(
            self.count + other.count,
            dict(sorted(rules.items())),
            # Stable: values of one cell stay in their order.
            tuple(sorted(self.samples + other.samples, key=_place)[:samples]),
        )

    def shifted(self, rows: int) -> Found:
        """Return the same, that many rows further down."""
        moved = (msgspec.structs.replace(sample, row=sample.row + rows) for sample in self.samples)
        return Found(self.count, self.rules, tuple(moved))


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What a model thinks that a sample of the cells holds; it may be wrong, and decides nothing."""

    model: str
    cells: int = 0
    """So many were looked at."""
    found: dict[str, dict[str, Found]] = {}
    """By type, then by column; the row of a sample is -1 where it is not known."""
    failed: str = ""
    """Why the model could not look."""


def _place(sample: Sample) -> tuple[int, int]:
    return sample.row, sample.offset


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a file, or in a piece of it."""

    format: str = ""
    rows: int = 0
    bytes: int = 0
    """Bytes that were looked at, after decompression."""
    invalid_lines: int = 0
    """Lines with bytes that are not UTF-8."""
    samples: int = 3
    """So many samples are kept of each type in each column."""
    found: dict[str, dict[str, Found]] = {}
    """By type, then by column."""
    advice: Advice | None = None
    """Only of a whole file, and only if a model was asked."""

    def __add__(self, other: Report) -> Report:
        """Return the report of both pieces, of which `other` comes second."""
        found: dict[str, dict[str, Found]] = {}
        for kind in sorted(self.found.keys() | other.found.keys()):
            columns = dict(self.found.get(kind, {}))
            for column, more in other.found.get(kind, {}).items():
                more = more.shifted(self.rows)
                columns[column] = columns[column].plus(more, self.samples) if column in columns else more
            found[kind] = bounded(columns, self.samples)
        return Report(
            format=self.format or other.format,
            rows=self.rows + other.rows,
            bytes=self.bytes + other.bytes,
            invalid_lines=self.invalid_lines + other.invalid_lines,
            samples=self.samples,
            found=found,
        )

    def count(self, kind: str) -> int:
        """Return how many values of a type there are."""
        return sum(found.count for found in self.found.get(kind, {}).values())

    def counts(self) -> dict[str, int]:
        """Return how many values there are of each type that there is."""
        return {kind: self.count(kind) for kind in self.found}


def bounded(columns: dict[str, Found], samples: int) -> dict[str, Found]:
    """Return the columns in order; those beyond the first `MAX_COLUMNS` of the alphabet become one.

    A column that is among the first in the end was so in every piece, so this too does not depend on the pieces.
    """
    names = sorted(columns.keys() - {OTHER_COLUMNS})
    result = {name: columns[name] for name in names[:MAX_COLUMNS]}
    rest = [columns[name] for name in names[MAX_COLUMNS:]]
    if OTHER_COLUMNS in columns:
        rest.append(columns[OTHER_COLUMNS])
    if rest:
        total = rest[0]
        for found in rest[1:]:
            total = total.plus(found, samples)
        result[OTHER_COLUMNS] = total
    return result


def mask(kind: str, value: bytes) -> str:
    """Return what may be shown of a value: its form, and so little of it that nobody can tell which it is."""
    text = value.decode("utf-8", "replace")
    if kind == "email":
        local, _, domain = text.rpartition("@")
        return f"{'*' * min(len(local), 8)}@{'*' * min(len(domain.rpartition('.')[0]), 8)}.{domain.rpartition('.')[2]}"
    if kind in ("card", "phone", "iban"):
        kept = {"card": 4, "phone": 2, "iban": 2}[kind]
        return re.sub(r"\w", "*", text[:-kept]) + text[-kept:] if len(text) > 3 * kept else "*" * len(text)
    if kind == "credential":
        return re.sub(r"[^\s:=-]", "*", text[:24]) + ("…" if len(text) > 24 else "")
    return re.sub(r"[^\s.\-/:,()]", "*", text[:60])


def digest(salt: bytes, kind: str, value: bytes) -> str:
    """Return the salted hash of a value, the same however the value is written."""
    plain = re.sub(rb"[\s.\-/()]", b"", value).lower() if kind != "credential" else value
    return hmac.new(salt, kind.encode() + b"\0" + plain, hashlib.sha256).hexdigest()[:16]
