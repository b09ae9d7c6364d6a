"""Stage one: where in a buffer could a rule match? Two engines say so, and what is found in the end is the same.

Both return regions: if a rule matches at all, then it matches from a place within one of its
regions. Most rules share a gate, such as runs of digits and dashes; the triggers of its rules are tried there alone.
Hyperscan looks for all gates, and for the triggers of rules without one, in one pass.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from tusd_py_pii.errors import RuleError
from tusd_py_pii.gates import GATES, NUMBER_SIGNS, SHAPE, Buffer, Gate
from tusd_py_pii.rules import Rule, compiled

Region = tuple[int, int, int, int]
"""End and start of where a match could begin, number of the rule, and a place in the cell of any match or -1."""

LONGEST_SHAPE = 64
MAX_SHAPES = 100_000


class Engine(Protocol):
    """Stage one for a set of rules."""

    name: str

    def regions(self, data: bytes) -> list[Region]:
        """Return where rules could match."""


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
                shape = data[low:high].translate(SHAPE)
                near = seen.get(shape)
                if near is None:
                    near = self._remember(shape)
                # All of these begin in the run, or right before it.
                for number, _ in near:
                    found.append((high, low, number, start))
                continue
            if self._any.search(data, low, high) is not None:
                for number, reach in self._near(data, low, high):
                    found.append((high, low - reach if low > reach else 0, number, -1))

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
            found.extend((match.end(), max(0, match.end() - reach), number, -1) for match in trigger.finditer(data))
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
                found.append((end, max(0, end - reach[number]), number, -1))

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
        yield stop - len(text.lstrip(NUMBER_SIGNS)), start + len(text.rstrip(NUMBER_SIGNS))


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
