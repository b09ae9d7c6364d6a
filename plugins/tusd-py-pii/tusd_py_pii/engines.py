"""Stage one: where in a buffer could a rule match? Two engines say so, and what is found in the end is the same.

Both return regions `(rule, start, stop)`: if a rule matches at all, then it matches from a place within one of its
regions. Hyperscan looks for the triggers of all rules in one pass. Without it, a few cheap passes (the gates) find the
neighbourhoods that could hold anything, and the triggers are tried there alone: `re` takes a pass per pattern, and one
for each rule would take fifty times as long as the gates.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from tusd_py_pii.errors import RuleError
from tusd_py_pii.rules import Rule, compiled

Region = tuple[int, int, int]
Spans = Callable[[bytes], Iterator[tuple[int, int]]]

_TOKEN = bytes(97 if (chr(byte).isalnum() and byte < 128) or byte in b"_-" else 32 for byte in range(256))
_HEX = b"0123456789abcdefABCDEF-"
_TOKEN_PLUS = bytes(97 if byte in b"+/" else _TOKEN[byte] for byte in range(256))

_SHAPE = bytes(
    48 if 48 <= byte <= 57 else 65 if 65 <= byte <= 90 else 97 if 97 <= byte <= 122 else byte for byte in range(256)
)
LONGEST_SHAPE = 64
MAX_SHAPES = 100_000


class Engine(Protocol):
    """Stage one for a set of rules."""

    name: str

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match: number of the rule, and the range of places where a match could begin."""


def _matches(pattern: bytes, *, shape: bool = False) -> Spans:
    expression = re.compile(pattern)

    def spans(data: bytes) -> Iterator[tuple[int, int]]:
        data = data.translate(_SHAPE) if shape else data
        return (match.span() for match in expression.finditer(data))

    return spans


def _literals(*texts: bytes, lower: bool = False) -> Spans:
    def spans(data: bytes) -> Iterator[tuple[int, int]]:
        data = data.lower() if lower else data
        for text in texts:
            place = data.find(text)
            while place >= 0:
                yield place, place + len(text)
                place = data.find(text, place + len(text))

    return spans


def _shapes(*shapes: bytes) -> Spans:
    """Return where the shape of the data is one of these."""
    find = _literals(*shapes)

    def spans(data: bytes) -> Iterator[tuple[int, int]]:
        return find(data.translate(_SHAPE))

    return spans


def _words(table: bytes, least: int, without: bytes = b"") -> Spans:
    """Return the runs of at least so many bytes that the table turns into `a`, but none of `without` alone."""
    run = b"a" * least

    def spans(data: bytes) -> Iterator[tuple[int, int]]:
        flat = data.translate(table)
        place = flat.find(run)
        while place >= 0:
            end = flat.find(b" ", place)
            end = len(flat) if end < 0 else end
            if not without or data[place:end].translate(None, without):
                yield place, end
            place = flat.find(run, end)

    return spans


class Gate(NamedTuple):
    """A first pass, and what is looked at around what it finds."""

    spans: Spans
    before: int
    """So far before a span a match or its trigger can begin."""
    after: int
    """So far behind a span a trigger can end."""
    by_shape: bool = False
    """Whether triggers take all digits for alike, all capitals and all small letters."""


# Every match of a rule with this gate overlaps a span.
GATES: dict[str, Gate] = {
    "at": Gate(_literals(b"@"), 256, 2),
    "digits": Gate(_matches(rb"[0-9][0-9 \-./()+]{5,}"), 3, 6, by_shape=True),
    "upper": Gate(_shapes(b"AA00", b"AA 00"), 6, 48),
    "colons": Gate(_matches(rb":[0-9A-Fa-f]{0,4}:"), 20, 20),
    "number_name": Gate(_matches(rb"0[aA]?,? A", shape=True), 2, 100),
    "number_word": Gate(_matches(rb"0(?: aaa)?,? aaa", shape=True), 2, 16),
    "word_number": Gate(_shapes(b"a 0", b". 0"), 12, 1),
    "street_name": Gate(
        _literals(
            b"Via", b"Piazza", b"Corso", b"Calle", b"Avda.", b"Avenida", b"Plaza", b"Paseo", b"Rua", b"Pra\xc3\xa7a"
        ),
        1,
        6,
    ),
    "token": Gate(_words(_TOKEN, 16, without=_HEX), 12, 24),
    "token40": Gate(_words(_TOKEN_PLUS, 40), 2, 2),
    "xox": Gate(_literals(b"xox"), 1, 20),
    "hooks": Gate(_literals(b"hooks.slack.com/"), 1, 20),
    "eyj": Gate(_literals(b"eyJ"), 1, 20),
    "account_key": Gate(_literals(b"AccountKey="), 1, 100),
    "begin": Gate(_literals(b"-----BEGIN "), 1, 60),
    "secret_word": Gate(_literals(b"passw", b"pwd", b"secret", b"key", b"token", lower=True), 10, 12),
}


class _Group(NamedTuple):
    gate: Gate
    any_trigger: re.Pattern[bytes]
    triggers: list[tuple[int, re.Pattern[bytes], int]]
    seen: dict[bytes, tuple[int, ...]]


class ReEngine:
    """Stage one with the standard library alone."""

    name = "re"

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._reach = [rule.reach for rule in rules]
        groups: dict[str, list[tuple[int, Rule]]] = {}
        for number, rule in enumerate(rules):
            if rule.gate not in GATES and rule.gate:
                raise RuleError(f"rule {rule.name!r}: there is no gate {rule.gate!r}")
            groups.setdefault(rule.gate, []).append((number, rule))
        self._open = [(number, compiled(rule.trigger or rule.pattern)) for number, rule in groups.pop("", [])]
        self._groups = []
        for name, members in groups.items():
            triggers = [(number, compiled(rule.trigger or rule.pattern), rule.reach) for number, rule in members]
            # One pattern for the group says quickly that there is nothing.
            either = b"|".join(b"(?:" + _local_flags(trigger.pattern) + b")" for _, trigger, _ in triggers)
            self._groups.append(_Group(GATES[name], re.compile(either), triggers, {}))

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match."""
        found: list[Region] = []
        reach = self._reach
        for group in self._groups:
            gate, seen = group.gate, group.seen
            before, after, by_shape = gate.before, gate.after, gate.by_shape
            for start, stop in gate.spans(data):
                low, high = start - before if start > before else 0, stop + after
                if by_shape:
                    shape = data[low:high].translate(_SHAPE)
                    numbers = seen.get(shape)
                    if numbers is None:
                        numbers = self._remember(group, shape)
                elif group.any_trigger.search(data, low, high) is None:
                    continue
                else:
                    numbers = tuple(number for number, trigger, _ in group.triggers if trigger.search(data, low, high))
                for number in numbers:
                    found.append((number, max(0, low - reach[number]), high))
        for number, trigger in self._open:
            found.extend((number, max(0, match.end() - reach[number]), match.end()) for match in trigger.finditer(data))
        return found

    def _remember(self, group: _Group, shape: bytes) -> tuple[int, ...]:
        """Return the rules whose triggers are in a shape: few shapes make up nearly all numbers of a file."""
        numbers = tuple(number for number, trigger, _ in group.triggers if trigger.search(shape))
        if len(shape) <= LONGEST_SHAPE:
            if len(group.seen) >= MAX_SHAPES:
                group.seen.clear()
            group.seen[shape] = numbers
        return numbers


def _local_flags(pattern: bytes) -> bytes:
    """Return a pattern whose flags hold for itself alone, so that it can be one of several."""
    return b"(?i:" + pattern[4:] + b")" if pattern.startswith(b"(?i)") else pattern


class HyperscanEngine:
    """Stage one with Hyperscan: all triggers in one pass."""

    name = "hyperscan"

    def __init__(self, rules: Sequence[Rule]) -> None:
        import hyperscan

        self._reach = [rule.reach for rule in rules]
        expressions, flags = [], []
        for rule in rules:
            expressions.append(compiled(rule.trigger or rule.pattern).pattern)
            # A pattern that looks around is taken for one that finds more: it is verified anyway.
            flags.append(0 if rule.trigger else hyperscan.HS_FLAG_PREFILTER | hyperscan.HS_FLAG_ALLOWEMPTY)
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            self._database.compile(
                expressions=expressions, ids=list(range(len(expressions))), elements=len(expressions), flags=flags
            )
        except hyperscan.error as error:
            raise RuleError(f"hyperscan cannot use a trigger: {error}") from error

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match."""
        found: list[Region] = []
        reach = self._reach

        def take(number: int, _start: int, end: int, _flags: int, _context: Any) -> None:
            found.append((number, max(0, end - reach[number]), end))

        if data:
            self._database.scan(data, match_event_handler=take)
        return found


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
