"""The rules of tus 1.0.0, as data, and the cases that find out whether they hold."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from tus_conformance.server import Server

Level = Literal["MUST", "SHOULD", "MAY", "RECOMMENDED"]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence of the specification."""

    id: str
    section: str
    level: Level
    text: str
    extension: str | None = None
    """What a server must advertise for the rule to count; None counts always."""
    untested: str | None = None
    """Why no case can tell from outside."""

    @property
    def is_required(self) -> bool:
        """Whether a server that breaks it does not conform."""
        return self.level == "MUST"


Test = Callable[["Server"], str | None]
"""Finds out whether a rule holds, and may return a remark on how; raises `Failed`, `Skipped` or `Blocked`."""


@dataclass(frozen=True)
class Case:
    """One way to find out whether a rule holds."""

    rule: str
    title: str
    test: Test

    @property
    def id(self) -> str:
        """Name of the case: its rule and its own name."""
        return f"{self.rule}:{self.test.__name__.replace('_', '-')}"


_cases: list[Case] = []


def case(rule: str) -> Callable[[Test], Test]:
    """Register a function as a case of a rule; the first line of its docstring is its title."""

    def register(test: Test) -> Test:
        assert test.__doc__, test
        _cases.append(Case(rule, test.__doc__.strip().partition("\n")[0].rstrip("."), test))
        return test

    return register


@cache
def rules() -> dict[str, Rule]:
    """Return all rules by id, in the order of the specification."""

    class File(msgspec.Struct, forbid_unknown_fields=True):
        rule: list[Rule]

    text = resources.files("tus_conformance").joinpath("rules.toml").read_bytes()
    return {rule.id: rule for rule in msgspec.toml.decode(text, type=File).rule}


@cache
def registered() -> tuple[Case, ...]:
    """Return all cases there are."""
    import tus_conformance.cases as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    return tuple(_cases)


@cache
def cases() -> dict[str, list[Case]]:
    """Return the cases of each rule; every rule is there, also one without a case."""
    return {rule: [case for case in registered() if case.rule == rule] for rule in rules()}
