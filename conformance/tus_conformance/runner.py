"""Runs the cases of each rule against a server."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from tus_conformance.rules import Case, Rule, cases, rules
from tus_conformance.server import Blocked, Failed, Server, Skipped
from tus_conformance.wire import NoAnswer, shown

_SHORTEST_SECRET = 4

Result = Literal["pass", "fail", "skipped", "blocked"]
"""What came of a case or a rule; blocked means that something else has to work before it can be tried."""


class Exchange(msgspec.Struct, frozen=True):
    """One request and its answer, as text."""

    sent: str
    got: str


class CaseResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of one case."""

    id: str
    title: str
    result: Result
    remark: str = ""
    """Why it was skipped or blocked, or what was seen when it passed."""
    expected: str = ""
    got: str = ""
    exchanges: tuple[Exchange, ...] = ()


class RuleResult(msgspec.Struct, frozen=True):
    """What came of one rule."""

    rule: Rule
    result: Result
    cases: tuple[CaseResult, ...]

    @property
    def breaks(self) -> bool:
        """Whether the server does not conform, or cannot be said to."""
        return self.rule.is_required and self.result in ("fail", "blocked")


def selected(patterns: Sequence[str]) -> list[Rule]:
    """Return the rules with cases whose id or section fits one of the patterns, all of them if there is no pattern.

    `core`, `core.*` and `Core Protocol` select the same.
    """
    return [
        rule
        for rule in rules().values()
        if rule.untested is None and (not patterns or any(_fits(rule, pattern) for pattern in patterns))
    ]


def _fits(rule: Rule, pattern: str) -> bool:
    names = (rule.id, rule.id.partition(".")[0], rule.section)
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in names)


def run(server: Server, chosen: Iterable[Rule]) -> Iterator[RuleResult]:
    """Yield the result of each rule as soon as it is there."""
    for rule in chosen:
        yield run_rule(server, rule)


def run_rule(server: Server, rule: Rule) -> RuleResult:
    """Find out whether one rule holds."""
    if rule.extension is not None and rule.extension not in server.extensions:
        return RuleResult(rule, "skipped", (CaseResult(rule.id, rule.extension, "skipped", "not advertised"),))
    results = tuple(run_case(server, case) for case in cases()[rule.id])
    return RuleResult(rule, _worst([result.result for result in results]), results)


def run_case(server: Server, case: Case) -> CaseResult:
    """Run one case, and let nothing of what is known about it tell a secret."""
    result = _tried(server, case)
    return msgspec.structs.replace(
        result,
        remark=_masked(server, result.remark),
        got=_masked(server, result.got),
        exchanges=tuple(
            Exchange(_masked(server, exchange.sent), _masked(server, exchange.got)) for exchange in result.exchanges
        ),
    )


def _tried(server: Server, case: Case) -> CaseResult:
    try:
        server.settle()
        remark = case.test(server)
    except Failed as failure:
        exchanges = tuple(Exchange(shown(answer.sent), str(answer)) for answer in failure.answers)
        return CaseResult(case.id, case.title, "fail", "", failure.expected, failure.got, exchanges)
    except Skipped as reason:
        return CaseResult(case.id, case.title, "skipped", str(reason))
    except Blocked as reason:
        return CaseResult(case.id, case.title, "blocked", str(reason))
    except (NoAnswer, OSError) as error:
        return CaseResult(case.id, case.title, "fail", "", "an answer", str(error))
    return CaseResult(case.id, case.title, "pass", remark or "")


def _worst(results: Sequence[Result]) -> Result:
    for result in ("fail", "blocked", "pass"):
        if result in results:
            return result
    return "skipped"


def _masked(server: Server, text: str) -> str:
    """Return text without the values of the headers that the user gave."""
    for name, value in server.options.headers.items():
        text = text.replace(f"{name}: {value}\n", f"{name}: ***\n") if value else text
        # Anywhere else, such as in an answer, only what is no everyday word or number.
        for secret in (value, value.rpartition(" ")[2]):
            text = text.replace(secret, "***") if len(secret) >= _SHORTEST_SECRET else text
    return text
