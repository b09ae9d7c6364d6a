"""What is looked for: rules, and the packs that hold them.

A rule finds values of one type. `pattern` says what the value looks like, `check` whether it can be real, and context
words what must or must not stand near it. `trigger` is what stage one looks for: a smaller pattern that every match
contains, so small that all triggers fit in one pass.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from tusd_py_pii import checks
from tusd_py_pii.errors import RuleError

PACKS = ("personal", "credentials")
MAX_PATTERN = 4000
MAX_RULES = 5000
UNBOUNDED = 1000
"""A repetition that may be longer counts as unbounded when patterns are judged."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing to look for; patterns are on bytes of UTF-8, in which digits, spaces and dashes are ASCII."""

    name: str
    type: str
    pattern: str
    trigger: str = ""
    """Found in every match; without it `pattern` itself is looked for."""
    gate: str = ""
    """A first pass that finds every match too, for the `re` engine; one of `gates.GATES`."""
    check: str = ""
    """A function of `checks`, or `module:function`; it gets the bytes and says whether they can be real."""
    context: tuple[str, ...] = ()
    """Words near the value, or in its column's name, that speak for it."""
    needs_context: bool = False
    """Whether it counts only with one of `context`."""
    not_context: tuple[str, ...] = ()
    """Words right before the value, or in its column's name, that speak against it."""
    reach: int = 256
    """At most so many bytes lie between the start of a match and the end of its trigger."""
    max_length: int = 256
    """A longer match is none."""
    shrink: bool = False
    """Whether the check may be tried without the match's last words: for patterns that take too much."""
    priority: int = 50
    """Of two findings that overlap, the higher one counts."""


class Pack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML file of rules."""

    rule: tuple[Rule, ...] = ()


def built_in() -> list[Rule]:
    """Return the rules that come with the plugin."""
    folder = resources.files("tusd_py_pii") / "packs"
    return [rule for name in PACKS for rule in read_pack((folder / f"{name}.toml").read_text("utf-8"), name)]


def load_pack(path: str | Path) -> list[Rule]:
    """Return the rules of a file.

    Raises:
        RuleError: it cannot be read, or a rule cannot be used; the message names file and rule.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f"{path}: cannot be read: {type(error).__name__}") from error
    return read_pack(text, str(path))


def read_pack(text: str, name: str) -> list[Rule]:
    """Return the rules of a pack; `name` is for messages."""
    try:
        rules = msgspec.convert(tomllib.loads(text), Pack).rule
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RuleError(f"{name}: {error}") from error
    for rule in rules:
        try:
            judge(rule)
        except RuleError as error:
            raise RuleError(f"{name}: {error}") from error
    return list(rules)


def chosen(rules: Iterable[Rule], without: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Return the rules whose name and type are not in `without`; a later rule replaces one of the same name.

    Raises:
        RuleError: there are too many, or a name in `without` is no rule's and no type's.
    """
    named = {rule.name: rule for rule in rules}
    unknown = set(without) - named.keys() - {rule.type for rule in named.values()}
    if unknown:
        raise RuleError(f"there is no rule or type {sorted(unknown)[0]!r}")
    if len(named) > MAX_RULES:
        raise RuleError(f"{len(named)} rules are more than {MAX_RULES}")
    return tuple(rule for rule in named.values() if rule.name not in without and rule.type not in without)


def compiled(pattern: str) -> re.Pattern[bytes]:
    """Return a pattern for bytes; `\\xc3` stands for that byte and other characters for their UTF-8."""
    encoded = b"".join(char.encode() if ord(char) > 127 else char.encode("ascii") for char in pattern)
    return re.compile(encoded)


def judge(rule: Rule) -> None:
    """Raise `RuleError` for a rule that is not well-formed or whose pattern could take for ever."""
    for label, pattern in (("pattern", rule.pattern), ("trigger", rule.trigger)):
        if len(pattern) > MAX_PATTERN:
            raise RuleError(f"rule {rule.name!r}: its {label} is longer than {MAX_PATTERN} characters")
        try:
            expression = compiled(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise RuleError(f"rule {rule.name!r}: its {label} is no pattern: {error}") from error
        if pattern and label == "pattern" and expression.match(b""):
            raise RuleError(f"rule {rule.name!r}: its pattern matches nothing at all")
        if _repeats_repeats(pattern):
            raise RuleError(
                f"rule {rule.name!r}: its {label} repeats what repeats without end, as in (a+)+: that can take for ever"
            )
    if rule.check:
        try:
            checks.named(rule.check)
        except RuleError as error:
            raise RuleError(f"rule {rule.name!r}: {error}") from error
    if rule.needs_context and not rule.context:
        raise RuleError(f"rule {rule.name!r} needs context and has no words for it")
    if not 0 < rule.max_length <= 65536 or not 0 < rule.reach <= 65536:
        raise RuleError(f"rule {rule.name!r}: reach and max_length are from 1 to 65536")


def _repeats_repeats(pattern: str) -> bool:
    """Whether a repetition without end holds another one: what makes a backtracking engine exponential."""
    # The parser of `re` has no public name; it is the only one that reads patterns exactly as `re` does.
    from re import _parser  # type: ignore[attr-defined]

    return _has_nested(_parser.parse(pattern), False)


def _has_nested(node: Any, inside: bool) -> bool:
    for item in node:
        operator, arguments = str(item[0]), item[1]
        if operator in ("MAX_REPEAT", "MIN_REPEAT"):
            endless = arguments[1] > UNBOUNDED
            if (endless and inside) or _has_nested(arguments[2], inside or endless):
                return True
        elif operator == "BRANCH":
            if any(_has_nested(branch, inside) for branch in arguments[1]):
                return True
        elif (operator in ("SUBPATTERN", "ASSERT", "ASSERT_NOT") and _has_nested(arguments[-1], inside)) or (
            operator == "ATOMIC_GROUP" and _has_nested(arguments, inside)
        ):
            return True
    return False
