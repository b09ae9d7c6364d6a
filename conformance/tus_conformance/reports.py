"""What came of a run, for people, pages and machines."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import get_args
from xml.etree import ElementTree

import click
import msgspec

from tus_conformance.rules import Level, Rule, cases
from tus_conformance.runner import CaseResult, Result, RuleResult
from tus_conformance.server import Server

_COLOURS = {"pass": "green", "fail": "red", "skipped": "yellow", "blocked": "magenta"}
_WIDTH = 118
_INDENT = " " * 10


class Report(msgspec.Struct, frozen=True):
    """One run against one server."""

    url: str
    extensions: tuple[str, ...]
    results: tuple[RuleResult, ...]
    left: tuple[str, ...] = ()
    """URLs of uploads that could not be removed."""

    @classmethod
    def of(cls, server: Server, results: Sequence[RuleResult], left: Sequence[str]) -> Report:
        """Return the report of a run."""
        return cls(server.url, tuple(sorted(server.extensions)), tuple(results), tuple(left))

    @property
    def conforms(self) -> bool:
        """Whether no MUST is broken, or could not be tried because of something broken."""
        return not any(result.breaks for result in self.results)

    def totals(self) -> dict[Level, Counter[Result]]:
        """Return how many rules of each level had which result."""
        return {
            level: Counter(result.result for result in self.results if result.rule.level == level)
            for level in get_args(Level)
        }


def rule_lines(result: RuleResult) -> str:
    """Return one rule's result as lines for a terminal, with all that shows why it failed."""
    rule = result.rule
    word = result.result.upper() if result.breaks else result.result
    lines = [
        f"{click.style(f'{word:8}', fg=_COLOURS[result.result])}  {rule.level:11}  {click.style(rule.id, bold=True)}"
    ]
    lines += textwrap.wrap(rule.text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)
    for case in result.cases:
        if case.result == "fail" or case.remark:
            lines += _case_lines(case)
    return "\n".join(lines)


def _case_lines(case: CaseResult) -> list[str]:
    if case.result != "fail":
        return [f"{_INDENT}- {case.title}: {case.remark}"]
    lines = [f"{_INDENT}- {case.title}", f"{_INDENT}  expected  {case.expected}", f"{_INDENT}  got       {case.got}"]
    for exchange in case.exchanges:
        lines += _block("sent", exchange.sent) + _block("answer", exchange.got)
    return lines


def _block(name: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [f"{_INDENT}  {name:8}  {first}", *(f"{_INDENT}  {'':8}  {line}" for line in rest)]


def total_lines(report: Report) -> str:
    """Return the totals as a table for a terminal."""
    words = get_args(Result)
    lines = [f"{'':11}" + "".join(f"{word:>9}" for word in words)]
    for level, counts in report.totals().items():
        lines.append(f"{level:11}" + "".join(f"{counts[word]:9}" for word in words))
    lines.append("")
    lines.append(
        "Every MUST that counts for this server holds." if report.conforms else "This server breaks the specification."
    )
    return "\n".join(lines + left_lines(report.left))


def left_lines(left: Sequence[str]) -> list[str]:
    """Return lines for a terminal that name the uploads that could not be removed."""
    if not left:
        return []
    reason = f"{len(left)} uploads could not be removed, for the server offers no way or refused:"
    return [reason, *(f"  {url}" for url in left)]


def rule_list(rules: Sequence[Rule]) -> str:
    """Return the rules with the titles of their cases, or why there is none."""
    lines = []
    for section, group in groupby(rules, key=lambda rule: rule.section):
        lines += ["", click.style(section, bold=True)]
        for rule in group:
            lines.append(f"{rule.level:11}  {rule.id}")
            lines += textwrap.wrap(
                rule.text, _WIDTH, initial_indent=" " * 13, subsequent_indent=" " * 13, break_on_hyphens=False
            )
            lines += [f"{'':13}- {case.title}" for case in cases()[rule.id]]
            if rule.untested:
                lines.append(f"{'':13}  (not tested: {rule.untested})")
    return "\n".join(lines[1:])


def as_json(report: Report) -> str:
    """Return a report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def as_markdown(report: Report) -> str:
    """Return a report as a Markdown page."""
    lines = [f"# tus 1.0.0: {report.url}", "", "| | " + " | ".join(get_args(Result)) + " |", "|---" * 5 + "|"]
    for level, counts in report.totals().items():
        lines.append(f"| {level} | " + " | ".join(str(counts[word]) for word in get_args(Result)) + " |")
    for section, group in groupby(report.results, key=lambda result: result.rule.section):
        lines += ["", f"## {section}", "", "| result | level | rule |", "|---|---|---|"]
        for result in group:
            word = f"**{result.result}**" if result.result in ("fail", "blocked") else result.result
            seen = "".join(f"<br>{cell(_seen(case))}" for case in result.cases if case.remark or case.result == "fail")
            lines.append(f"| {word} | {result.rule.level} | `{result.rule.id}` {cell(result.rule.text)}{seen} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return text that can stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _seen(case: CaseResult) -> str:
    if case.result == "fail":
        return f"{case.title}: expected {case.expected}; got {case.got}"
    return f"{case.title}: {case.remark}"


def as_junit(report: Report) -> str:
    """Return a report as JUnit XML, in which only a broken MUST is a failure."""
    root = ElementTree.Element("testsuites", name=f"tus 1.0.0: {report.url}")
    for section, group in groupby(report.results, key=lambda result: result.rule.section):
        results = list(group)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=section,
            tests=str(len(results)),
            failures=str(sum(result.breaks for result in results)),
            skipped=str(sum(result.result != "pass" and not result.breaks for result in results)),
        )
        for result in results:
            element = ElementTree.SubElement(suite, "testcase", classname=result.rule.level, name=result.rule.id)
            if result.result == "pass":
                continue
            kind = "failure" if result.breaks else "skipped"
            message = "; ".join(_seen(case) for case in result.cases if case.result == result.result)
            child = ElementTree.SubElement(element, kind, message=_xml(f"{result.result}: {message}"))
            child.text = _xml(click.unstyle(rule_lines(result)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Return text without the characters that XML 1.0 cannot hold."""
    return "".join(character for character in text if character in "\t\n" or character >= " ")
