"""Runs the suite against servers in this process, many rules at a time, for most of it is waiting."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from defects import Defect
from tus_conformance.rules import rules
from tus_conformance.runner import RuleResult, run_rule, selected
from tus_conformance.server import Options, Server

RULES_AT_ONCE = 6
AFTER_CREATION = {"Expiration", "Checksum", "Termination", "Concatenation"}


class TestedServer(Server):
    """A server in this process."""

    __test__ = False

    def settle(self) -> None:
        """Wait for nothing, for it is never busy with what was before."""


def results(server: Server, but: Collection[str] = ()) -> list[RuleResult]:
    """Try all rules but those that need other programs, and those of some sections."""
    server.discover()
    chosen = [rule for rule in selected([]) if rule.section != "Clients" and rule.section not in but]
    with ThreadPoolExecutor(RULES_AT_ONCE) as pool:
        return list(pool.map(lambda rule: run_rule(server, rule), chosen))


@dataclass
class Verdict:
    """What the suite found out about a server with a defect."""

    failed: dict[str, RuleResult]
    blocked: set[str]
    crashes: list[BaseException]

    def unforeseen(self, patterns: str) -> tuple[list[str], list[str]]:
        """Return the rules that are blocked and fit no pattern, and the patterns that fit no rule that is blocked."""
        allowed = patterns.split()
        return (
            sorted(rule for rule in self.blocked if not any(fnmatchcase(rule, pattern) for pattern in allowed)),
            [pattern for pattern in allowed if not any(fnmatchcase(rule, pattern) for rule in self.blocked)],
        )


def judged(defect: Defect) -> Verdict:
    """Run the suite against a server with this defect."""
    # Interruptions, which take most of the time, know nothing of these extensions.
    but = ["Interruptions"] if rules()[defect.rule].section in AFTER_CREATION else []
    with defect.server() as defective:
        options = Options(timeout=defect.timeout, patience=defect.patience)
        found = results(TestedServer(defective.url, options), but)
    return Verdict(
        {result.rule.id: result for result in found if result.result == "fail"},
        {result.rule.id for result in found if result.result == "blocked"},
        defective.crashes,
    )


def check(defect: Defect, verdict: Verdict) -> None:
    """Assert that the suite found just the rule broken that is broken, and that no more was blocked than has to be."""
    assert verdict.failed.keys() == {defect.rule}, verdict.failed
    assert verdict.unforeseen(defect.blocked) == ([], [])
    assert verdict.crashes == []
