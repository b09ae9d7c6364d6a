"""Stage one: where in a buffer could a rule match? Two engines say so, and what is found in the end is the same.

Both return regions: if a rule matches at all, then it matches from a place within one of its
regions. Most rules share a gate: a cheap first look that finds the neighbourhoods which could hold anything, such as
runs of digits and dashes; the triggers of its rules are tried there alone. Hyperscan looks for all gates, and for the
triggers of rules without one, in one pass. Without it, a gate is a few passes of `find` over the buffer, or over a copy
in which all digits look alike: `re` would take ten times as long.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from tusd_py_pii.errors import RuleError
from tusd_py_pii.rules import Rule, compiled

Region = tuple[int, int, int, int]
"""Number of the rule, the range of places where a match could begin, and a place in the cell of all of them or -1."""

_SHAPE = bytes(
    48 if 48 <= byte <= 57 else 65 if 65 <= byte <= 90 else 97 if 97 <= byte <= 122 else byte for byte in range(256)
)
LONGEST_SHAPE = 64
MAX_SHAPES = 100_000
_NUMBER_SIGNS = b" -./()+"
_NUMBER = b"0123456789" + _NUMBER_SIGNS
_LETTERS_AND_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEX = b"0123456789abcdefABCDEF-"
_LONG_TOKEN = re.compile(rb"[A-Za-z0-9+/]{40,}")


class Engine(Protocol):
    """Stage one for a set of rules."""

    name: str

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match."""


class Buffer:
    """The data, and copies of it in which kinds of bytes look alike, made when somebody asks."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._known: dict[Spans, list[tuple[int, int]]] = {}

    def spans(self, find: Spans) -> list[tuple[int, int]]:
        """Return what a first look finds; several gates share one."""
        known = self._known.get(find)
        if known is None:
            known = self._known[find] = list(find(self))
        return known

    @functools.cached_property
    def shape(self) -> bytes:
        """The data with `0` for every digit, `A` for every capital and `a` for every small letter."""
        return self.data.translate(_SHAPE)

    @functools.cached_property
    def lower(self) -> bytes:
        """The data in small letters."""
        return self.data.lower()


Spans = Callable[[Buffer], Iterator[tuple[int, int]]]


def _find(text: bytes, data: bytes) -> Iterator[tuple[int, int]]:
    place = data.find(text)
    while place >= 0:
        yield place, place + len(text)
        place = data.find(text, place + len(text))


def _literals(*texts: bytes) -> Spans:
    return lambda buffer: (span for text in texts for span in _find(text, buffer.data))


def _words(*texts: bytes) -> Spans:
    """Return where one of these is, in capitals or not."""
    return lambda buffer: (span for text in texts for span in _find(text, buffer.lower))


def _shapes(*shapes: bytes) -> Spans:
    return lambda buffer: (span for shape in shapes for span in _find(shape, buffer.shape))


def _shape_matches(pattern: bytes) -> Spans:
    expression = re.compile(pattern)
    return lambda buffer: (match.span() for match in expression.finditer(buffer.shape))


def _matches(pattern: bytes) -> Spans:
    expression = re.compile(pattern)
    return lambda buffer: (match.span() for match in expression.finditer(buffer.data))


def _numbers_behind_words(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return where a space and a digit follow a letter, or a sign that ends a word."""
    shape = buffer.shape
    place = shape.find(b" 0", 1)
    while place >= 0:
        before = shape[place - 1]
        if before in (97, 65, 46, 44, 39, 45) or before > 127:
            yield place - 1, place + 2
        place = shape.find(b" 0", place + 2)


def _runs(members: bytes, least: int) -> Callable[[Buffer], Iterator[tuple[int, int]]]:
    """Return the runs of at least so many of these bytes."""
    table = bytes(97 if byte in members else 32 for byte in range(256))
    run = b"a" * least

    def spans(buffer: Buffer) -> Iterator[tuple[int, int]]:
        flat = buffer.data.translate(table)
        place = flat.find(run)
        while place >= 0:
            end = flat.find(b" ", place)
            end = len(flat) if end < 0 else end
            yield place, end
            place = flat.find(run, end)

    return spans


_number_runs = _runs(_NUMBER, 6)
_token_runs = _runs(_LETTERS_AND_DIGITS + b"_-+/", 16)


def _numbers(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return the runs of digits and their signs, without signs at the ends, that could be something."""
    data = buffer.data
    for start, stop in _number_runs(buffer):
        text = data[start:stop]
        # The byte before is a plus at most, the one behind a letter.
        if (
            len(text.translate(None, _NUMBER_SIGNS)) >= 7
            or text.count(b".") >= 3
            or b"+" in text
            or data[stop : stop + 1] == b"A"
        ):
            yield stop - len(text.lstrip(_NUMBER_SIGNS)), start + len(text.rstrip(_NUMBER_SIGNS))


def _tokens(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return the runs of what tokens are made of, but for numbers in hexadecimal."""
    data = buffer.data
    return (span for span in buffer.spans(_token_runs) if data[slice(*span)].translate(None, _HEX))


def _long_tokens(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return the parts of tokens that are made of their most usual signs."""
    data = buffer.data
    for start, stop in buffer.spans(_tokens):
        if stop - start >= 40:
            yield from (match.span() for match in _LONG_TOKEN.finditer(data, start, stop))


class Gate(NamedTuple):
    """A first look, and what is looked at around what it finds."""

    spans: Spans
    before: int
    """So far before a span a match or its trigger can begin."""
    after: int
    """So far behind a span a trigger can end."""
    by_shape: bool = False
    """Whether triggers take all digits for alike, all capitals and all small letters."""
    pattern: bytes = b""
    """What Hyperscan looks for: it ends at the end of a span, or, for a run, one byte behind. Without it Hyperscan
    looks for the triggers themselves."""
    width: int = 0
    """How long what Hyperscan finds can be; 0 for a run of `members`."""
    members: bytes = b""
    least: int = 0
    """For runs that Hyperscan finds only slowly as a whole: it is stopped when it has seen so many of `members`."""


# Every match of a rule with this gate overlaps a span, or has its trigger near it.
GATES: dict[str, Gate] = {
    "at": Gate(_literals(b"@"), 256, 2),
    # At least seven digits, or six behind a plus or before an A, or four and three dots.
    "digits": Gate(
        _numbers, 3, 6, by_shape=True, members=_NUMBER,
        pattern=rb"(?:[0-9](?:[ \-./()+]*[0-9]){6,}[ \-./()+]*|\+[0-9](?:[ \-./()+]*[0-9]){5}[ \-./()+]*"
        rb"|(?:[0-9]{1,3}\.){3}[0-9][0-9 \-./()+]*)[^0-9 \-./()+]|[0-9]{6}A",
    ),
    "upper": Gate(_shapes(b"AA00", b"AA 00"), 6, 48, pattern=rb"[A-Z]{2} ?[0-9]{2}", width=5),
    "colons": Gate(_matches(rb":[0-9A-Fa-f]{0,4}:"), 20, 20, pattern=rb":[0-9A-Fa-f]{0,4}:", width=6),
    "number_name": Gate(_shape_matches(rb"0[aA]?,? A"), 2, 100, pattern=rb"[0-9][A-Za-z]?,? [A-Z]", width=5),
    "number_word": Gate(_shape_matches(rb"0(?: aaa)?,? aaa"), 2, 16),
    "word_number": Gate(_numbers_behind_words, 12, 1, pattern=rb"[A-Za-z.,'\-\x80-\xff] [1-9]", width=3),
    "unit_number": Gate(_numbers_behind_words, 12, 10),
    "street_name": Gate(_numbers_behind_words, 180, 1),
    "token": Gate(_tokens, 16, 24),
    "token40": Gate(_long_tokens, 2, 2, members=_LETTERS_AND_DIGITS + b"+/", least=40),
    "begin": Gate(_literals(b"-----BEGIN "), 1, 60),
    "secret_word": Gate(_words(b"passw", b"pwd", b"secret", b"key", b"token"), 10, 12),
}  # fmt: skip


class _Group:
    """The rules of one gate."""

    def __init__(self, gate: Gate, members: Sequence[tuple[int, Rule]]) -> None:
        self.gate = gate
        self._triggers = [(number, compiled(rule.trigger or rule.pattern), rule.reach) for number, rule in members]
        # One pattern for the group says quickly that there is nothing.
        either = b"|".join(b"(?:" + _local_flags(trigger.pattern) + b")" for _, trigger, _ in self._triggers)
        self._any = self._triggers[0][1] if len(members) == 1 else re.compile(either)
        self._seen: dict[bytes, tuple[tuple[int, int], ...]] = {}

    def add_regions(self, data: bytes, spans: Iterable[tuple[int, int]], found: list[Region]) -> None:
        """Add the regions of the rules whose triggers are near these spans."""
        gate, seen = self.gate, self._seen
        before, after, by_shape = gate.before, gate.after, gate.by_shape
        for start, stop in spans:
            low, high = start - before if start > before else 0, stop + after
            if by_shape:
                shape = data[low:high].translate(_SHAPE)
                near = seen.get(shape)
                if near is None:
                    near = self._remember(shape)
                # All of these begin in the run, or right before it.
                for number, _ in near:
                    found.append((number, low, high, start))
                continue
            if self._any.search(data, low, high) is not None:
                for number, reach in self._near(data, low, high):
                    found.append((number, low - reach if low > reach else 0, high, -1))

    def _near(self, data: bytes, low: int, high: int) -> tuple[tuple[int, int], ...]:
        return tuple((number, reach) for number, trigger, reach in self._triggers if trigger.search(data, low, high))

    def _remember(self, shape: bytes) -> tuple[tuple[int, int], ...]:
        """Return the rules whose triggers are in a shape: few shapes make up nearly all numbers of a file."""
        near = self._near(shape, 0, len(shape))
        if len(shape) <= LONGEST_SHAPE:
            if len(self._seen) >= MAX_SHAPES:
                self._seen.clear()
            self._seen[shape] = near
        return near


def _grouped(rules: Sequence[Rule]) -> tuple[dict[str, _Group], list[tuple[int, Rule]]]:
    """Return the rules by gate, and those without one."""
    members: dict[str, list[tuple[int, Rule]]] = {}
    for number, rule in enumerate(rules):
        if rule.gate not in GATES and rule.gate:
            raise RuleError(f"rule {rule.name!r}: there is no gate {rule.gate!r}")
        members.setdefault(rule.gate, []).append((number, rule))
    alone = members.pop("", [])
    return {name: _Group(GATES[name], some) for name, some in members.items()}, alone


def _local_flags(pattern: bytes) -> bytes:
    """Return a pattern whose flags hold for itself alone, so that it can be one of several."""
    return b"(?i:" + pattern[4:] + b")" if pattern.startswith(b"(?i)") else pattern


class ReEngine:
    """Stage one with the standard library alone."""

    name = "re"

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._groups, alone = _grouped(rules)
        self._alone = [(number, compiled(rule.trigger or rule.pattern), rule.reach) for number, rule in alone]

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match."""
        found: list[Region] = []
        buffer = Buffer(data)
        for group in self._groups.values():
            group.add_regions(data, buffer.spans(group.gate.spans), found)
        for number, trigger, reach in self._alone:
            found.extend((number, max(0, match.end() - reach), match.end(), -1) for match in trigger.finditer(data))
        return found


class HyperscanEngine:
    """Stage one with Hyperscan: gates and triggers in one pass."""

    name = "hyperscan"

    def __init__(self, rules: Sequence[Rule]) -> None:
        import hyperscan

        groups, alone = _grouped(rules)
        self._long = [(group, _LongRuns(group.gate)) for group in groups.values() if group.gate.least]
        self._by_pattern = [group for group in groups.values() if group.gate.pattern]
        known = {id(group) for group in [*self._by_pattern, *(group for group, _ in self._long)]}
        direct = {rule.gate for rule in rules if rule.gate and id(groups[rule.gate]) not in known}
        alone += [(number, rule) for number, rule in enumerate(rules) if rule.gate in direct]
        self._reach = {number: rule.reach for number, rule in alone}
        self._first = len(rules)
        expressions = [compiled(rule.trigger or rule.pattern).pattern for _, rule in alone]
        # A pattern that looks around is taken for one that finds more: it is verified anyway.
        careful = hyperscan.HS_FLAG_PREFILTER | hyperscan.HS_FLAG_ALLOWEMPTY
        flags = [0 if rule.trigger else careful for _, rule in alone] + [0] * len(self._by_pattern)
        ids = [number for number, _ in alone] + [self._first + place for place in range(len(self._by_pattern))]
        expressions += [group.gate.pattern for group in self._by_pattern]
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            self._database.compile(expressions=expressions, ids=ids, elements=len(expressions), flags=flags)
        except hyperscan.error as error:
            raise RuleError(f"hyperscan cannot use a trigger: {error}") from error

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match."""
        found: list[Region] = []
        ends: list[list[int]] = [[] for _ in self._by_pattern]
        reach, first = self._reach, self._first

        def take(number: int, _start: int, end: int, _flags: int, _context: Any) -> None:
            if number >= first:
                ends[number - first].append(end)
            else:
                found.append((number, max(0, end - reach[number]), end, -1))

        if data:
            self._database.scan(data, match_event_handler=take)
        for group, places in zip(self._by_pattern, ends, strict=True):
            group.add_regions(data, _spans(data, places, group.gate), found)
        for group, runs in self._long:
            group.add_regions(data, runs.spans(data), found)
        return found


class _LongRuns:
    """Finds long runs with a database of their own, which goes on behind each run: one inside reports every byte."""

    def __init__(self, gate: Gate) -> None:
        import hyperscan

        members = b"[" + re.escape(gate.members) + b"]"
        self._stopped = hyperscan.ScanTerminated
        self._least = gate.least
        self._end = re.compile(members + b"*")
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=[members + b"{%d}" % gate.least], ids=[0], elements=1, flags=[hyperscan.HS_FLAG_SINGLEMATCH]
        )

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where the runs are."""
        view = memoryview(data)
        place = 0
        ends: list[int] = []

        def stop(_number: int, _start: int, end: int, _flags: int, _context: Any) -> bool:
            ends.append(end)
            return True

        while place < len(data):
            ends.clear()
            with contextlib.suppress(self._stopped):
                self._database.scan(view[place:], match_event_handler=stop)  # type: ignore[type-var]
            if not ends:
                return
            start = place + ends[0] - self._least
            match = self._end.match(data, start)
            place = match.end() if match else len(data)
            yield start, place


def _spans(data: bytes, ends: list[int], gate: Gate) -> Iterator[tuple[int, int]]:
    """Return the spans of a gate that Hyperscan has found the ends of."""
    if gate.width:
        return ((max(0, end - gate.width), end) for end in ends)
    return _runs_before(data, ends, gate.members)


def _runs_before(data: bytes, ends: list[int], members: bytes) -> Iterator[tuple[int, int]]:
    for end in ends:
        stop = end - 1
        size = 64
        while True:
            low = max(0, stop - size)
            left = len(data[low:stop].rstrip(members))
            if left or not low:
                break
            size *= 8
        start = low + left
        text = data[start:stop]
        yield stop - len(text.lstrip(_NUMBER_SIGNS)), start + len(text.rstrip(_NUMBER_SIGNS))


def has_hyperscan() -> bool:
    """Whether Hyperscan is installed."""
    return importlib.util.find_spec("hyperscan") is not None


def engine_for(rules: Sequence[Rule], name: str = "auto") -> Engine:
    """Return the engine of this name, `re` or `hyperscan`; `auto` takes Hyperscan if it is installed.

    Raises:
        RuleError: it is not installed, or cannot use a rule.
    """
    if name == "re" or (name == "auto" and not has_hyperscan()):
        return ReEngine(rules)
    if not has_hyperscan():
        raise RuleError("hyperscan is not installed: pip install 'tusd-py-pii[hyperscan]'")
    return HyperscanEngine(rules)
