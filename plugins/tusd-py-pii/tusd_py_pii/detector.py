"""Stage two: what stage one found is looked at closely.

A buffer holds cells with a NUL between them. A rule is tried from every place of its regions, so that what is found
depends on the text alone and not on the engine, on the size of the buffer, or on where its regions begin. Then
come the check, the context, and the choice between findings that overlap.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tusd_py_pii import checks
from tusd_py_pii.engines import Engine, engine_for
from tusd_py_pii.rules import Rule, compiled

BEFORE = 64
AFTER = 32
NEAR_BEFORE = 24
MARGIN = 8
"""So many bytes behind the longest match a pattern may look ahead."""

_WORD = re.compile(rb"[a-z]+")
_CUT = re.compile(rb"\A[a-z]+")
_SMALL = b"abcdefghijklmnopqrstuvwxyz"
_LETTERS = bytes(byte if 97 <= byte <= 122 else 32 for byte in bytes(range(256)).lower())
MAX_KNOWN_COLUMNS = 10_000
KEPT = 8 * 1024 * 1024

ColumnOf = Callable[[int], str]


class Hit(NamedTuple):
    """A value that was found, as a range of the buffer."""

    start: int
    stop: int
    rule: int


class Detector:
    """Finds values of all rules in a buffer."""

    def __init__(self, rules: Sequence[Rule], engine: str = "auto") -> None:
        # glibc gives large memory back as soon as it is free, and takes it again for the next block of the file: there
        # went one second of twenty. It keeps some after it has seen something larger come and go.
        bytes(KEPT)
        self.rules = tuple(rules)
        self.engine: Engine = engine_for(self.rules, engine)
        self._plans = [
            (
                compiled(rule.pattern).search,
                checks.named(rule.check) if rule.check else None,
                rule.max_length,
                rule.shrink,
            )
            for rule in self.rules
        ]
        self._context = [Words(rule.context) if rule.needs_context else None for rule in self.rules]
        self._reach = AFTER + max((rule.max_length for rule in self.rules if rule.needs_context), default=0)
        self._not_context = [Words(rule.not_context) if rule.not_context else None for rule in self.rules]

    def candidates(self, data: bytes, column_of: ColumnOf | None = None) -> list[Hit]:
        """Return what matches and passes its check, in order, whatever stands around it; of rules that need context,
        `column_of` lets those be left out that have none for sure.
        """
        found: list[Hit] = []
        done = [0] * len(self.rules)
        plans, context = self._plans, self._context
        near, around, column = 0, None, None
        for high, low, number, at in sorted(self.engine.regions(data)):
            place = done[number]
            if place >= high:
                continue
            words = context[number]
            if words is not None and column_of is not None and at >= 0:
                if near != at:
                    if data.find(b"\0", near, at) >= 0:
                        column = None
                    near, around = at, _words_near(data, low, at, high + self._reach)
                if around is not None and around.isdisjoint(words.heads):
                    if column is None:
                        column = column_of(at)
                    if not words.are_in_column(column):
                        continue
            done[number] = high
            place = low if low > place else place
            search, check, longest, shrink = plans[number]
            end = high + longest + MARGIN
            while (match := search(data, place, end)) is not None:
                start, stop = match.span()
                if start >= high:
                    break
                place = start + 1
                if stop - start > longest:
                    continue
                value = match.group()
                if 0 in value:
                    continue
                if check is not None and not check(value):
                    if not shrink:
                        continue
                    value = _shrunk(value, check)
                    if not value:
                        continue
                    stop = start + len(value)
                found.append(Hit(start, stop, number))
        found.sort()
        return found

    def hits(self, data: bytes, column_of: ColumnOf = lambda _: "") -> list[Hit]:
        """Return the values in a buffer, in order and without overlaps; `column_of` names the column at a place."""
        fitting: list[Hit] = []
        around = _Around(data, 0, 0, column_of)
        for hit in self.candidates(data, column_of):
            speaks_for, speaks_against = self._context[hit.rule], self._not_context[hit.rule]
            if speaks_for is not None or speaks_against is not None:
                if hit.start != around.start or hit.stop != around.stop:
                    around = _Around(data, hit.start, hit.stop, column_of)
                if not _fits(around, speaks_for, speaks_against):
                    continue
            fitting.append(hit)
        return _without_overlaps(fitting, self.rules)


class _Around:
    """What stands around a place: several rules ask about the same one."""

    __slots__ = ("_column", "_column_of", "after", "before", "start", "stop", "words")

    def __init__(self, data: bytes, start: int, stop: int, column_of: ColumnOf) -> None:
        self.start, self.stop, self._column_of = start, stop, column_of
        # Both within its cell, in small letters; a word that is cut is none, and stands as an x.
        self.before = _before(data, start - BEFORE, start)
        self.after = _after(data, stop, stop + AFTER)
        self.words = _words(self.before + b" " + self.after)
        self._column: str | None = None

    @property
    def column(self) -> str:
        """Its column, looked for when somebody asks, for that takes longest."""
        if self._column is None:
            self._column = self._column_of(self.start)
        return self._column


def _before(data: bytes, low: int, stop: int) -> bytes:
    """Return what is before a place, at most from `low`."""
    text = data[max(0, low) : stop]
    cell = text.rfind(b"\0") + 1
    if cell or low <= 0:
        return text[cell:].lower()
    text = text.lower()
    return _CUT.sub(b"x", text, 1) if data[low - 1 : low].isalpha() else text


def _after(data: bytes, start: int, high: int) -> bytes:
    """Return what is behind a place, at most up to `high`."""
    text, end, _ = data[start:high].partition(b"\0")
    text = text.lower()
    return text.rstrip(_SMALL) + b"x" if not end and data[high : high + 1].isalpha() else text


def _words(text: bytes) -> frozenset[bytes] | None:
    return frozenset(text.translate(_LETTERS).split()) if text.isascii() else None


def _words_near(data: bytes, low: int, at: int, high: int) -> frozenset[bytes] | None:
    """Return the words that anything could have around it that begins between `low` and `high`."""
    left = max(0, low - BEFORE)
    right = data.find(b"\0", at, high)
    return _words(data[max(left, data.rfind(b"\0", left, at)) : high if right < 0 else right])


class Words:
    """Words that speak for a value, or against it."""

    def __init__(self, words: Sequence[str]) -> None:
        encoded = [word.lower().encode() for word in sorted(words, key=len, reverse=True)]
        alternatives = b"|".join(map(re.escape, encoded))
        self._pattern = re.compile(rb"(?<![a-z])(?:" + alternatives + rb")(?:s|nr|no|number|num)?(?![a-z])")
        # A word that a match begins with. Text without them need not be searched.
        heads = {match.group() for word in encoded if (match := _WORD.match(word))}
        self.heads = heads | {head + ending for head in heads for ending in (b"s", b"nr", b"no", b"number", b"num")}
        self._columns: dict[str, bool] = {}

    def are_near(self, around: _Around, text: bytes, start: int = 0) -> bool:
        """Whether one of them is in a text, which is before or behind a value."""
        if around.words is not None and around.words.isdisjoint(self.heads):
            return False
        return self._pattern.search(text, start) is not None

    def are_in_column(self, column: str) -> bool:
        """Whether one of them is in the name of a column."""
        known = self._columns.get(column)
        if known is None:
            if len(self._columns) >= MAX_KNOWN_COLUMNS:
                self._columns.clear()
            known = self._pattern.search(b" " + _spaced(column).encode() + b" ") is not None
            self._columns[column] = known
        return known


def _fits(around: _Around, speaks_for: Words | None, speaks_against: Words | None) -> bool:
    """Whether the words around a candidate speak for it; `speaks_for` is given if one of them has to."""
    before = around.before
    if speaks_against is not None and speaks_against.are_near(around, before, max(0, len(before) - NEAR_BEFORE)):
        return False
    if speaks_for is not None and not (
        speaks_for.are_near(around, before)
        or speaks_for.are_near(around, around.after)
        or speaks_for.are_in_column(around.column)
    ):
        return False
    return speaks_against is None or not speaks_against.are_in_column(around.column)


class _Kept(threading.local):
    """Detectors that a thread has made: Hyperscan takes a quarter of a second to get ready, and one scan at a time."""

    def __init__(self) -> None:
        self.detectors: dict[tuple[tuple[Rule, ...], str], Detector] = {}


_kept = _Kept()


def detector_for(rules: tuple[Rule, ...], engine: str) -> Detector:
    """Return a detector for these rules that this thread may use.

    Raises:
        RuleError: the engine is not installed, or cannot use a rule.
    """
    key = (rules, engine)
    detector = _kept.detectors.get(key)
    if detector is None:
        if len(_kept.detectors) >= 4:
            _kept.detectors.clear()
        detector = _kept.detectors[key] = Detector(rules, engine)
    return detector


def _spaced(name: str) -> str:
    """Return the words of a column's name: `userPhone_no` is `user phone no`."""
    return re.sub(r"[^a-z\x80-\U0010ffff]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _shrunk(value: bytes, check: checks.Check) -> bytes:
    """Return the longest start of a value that ends before a space or dash and passes the check."""
    while True:
        cut = max(value.rfind(b" "), value.rfind(b"-"))
        if cut <= 0:
            return b""
        value = value[:cut]
        if check(value):
            return value


def _without_overlaps(hits: list[Hit], rules: Sequence[Rule]) -> list[Hit]:
    """Return the hits that win where several overlap: by priority, then length, then place."""
    result: list[Hit] = []
    cluster: list[Hit] = []
    end = -1
    for hit in [*hits, Hit(1 << 62, 1 << 62, 0)]:
        if hit.start >= end and cluster:
            if len(cluster) > 1:
                kept: list[Hit] = []
                cluster.sort(key=lambda hit: (-rules[hit.rule].priority, hit.start - hit.stop, hit.start, hit.rule))
                for each in cluster:
                    if all(each.stop <= other.start or each.start >= other.stop for other in kept):
                        kept.append(each)
                result += sorted(kept)
            else:
                result += cluster
            cluster = []
        cluster.append(hit)
        end = max(end, hit.stop)
    return result
