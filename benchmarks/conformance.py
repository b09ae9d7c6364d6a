"""`scripts/conformance`: runs tus-conformance against tusd-py and its peers, and writes docs/conformance.md."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from servers import HERE, PEERS, LeftOut, command, running, set_up, version
from tus_conformance.reports import cell
from tus_conformance.rules import rules
from tus_conformance.runner import selected

PAGE = HERE.parent / "docs" / "conformance.md"
MAX_SIZE = str(1 << 40)
# What turns on all that a server can do, and shows its time-outs within the patience of the suite.
ARGUMENTS: dict[str, list[str]] = {
    "tusd-py": ["--concatenation-unfinished", "--max-size", MAX_SIZE, "--read-timeout", "2s"],
    "tusd": ["-max-size", MAX_SIZE, "-network-timeout", "2s"],
    "@tus/server": [MAX_SIZE, "86400000"],
    "tuspyserver": [],
    "resumable-upload": [
        "--enable-downloads", "--max-size", MAX_SIZE, "--request-timeout", "2", "--upload-expiry", "86400",
        "--checksum-algorithms", "sha1,sha256,sha512,md5",
    ],
}  # fmt: skip
# What lets uploads expire at once, for the rule about uploads that have expired.
EXPIRY: dict[str, list[str]] = {
    "tusd-py": ["--expire-after", "2s"],
    "@tus/server": [MAX_SIZE, "2000"],
    "resumable-upload": ["--upload-expiry", "2"],
}
EXPIRED = "expiration.gone"
# One of the servers lets others wait for half a minute while a client stalls.
SUITE = ["--timeout", "40"]
WORDS = {"fail": "**FAIL**", "blocked": "**blocked**"}
LONGEST = 240


@dataclass
class Column:
    """What is said of one server."""

    name: str
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What came of each rule, by id."""
    notes: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """Return name and version."""
        return f"{self.name} {version(self.name)}"

    def word(self, rule: str) -> str:
        """Return what came of a rule, in one word."""
        result = self.results[rule]["result"] if rule in self.results else "not run"
        return WORDS.get(result, result)


def judge(name: str, root: Path) -> Column:
    """Run the suite against a server."""
    column = Column(name)
    try:
        set_up(name)
    except LeftOut as reason:
        column.notes.append(f"It was not run: {reason}.")
        return column
    last_words = run(column, root, ARGUMENTS[name])
    if last_words:
        column.notes.append(
            f"In a run with downloads its process ended, with `{last_words}`; this is a run with `--no-download`."
        )
        run(column, root, ARGUMENTS[name], "--no-download")
    if name in EXPIRY:
        run(column, root, EXPIRY[name], "--only", EXPIRED)
    return column


def run(column: Column, root: Path, arguments: Sequence[str], *options: str) -> str | None:
    """Run the suite, note what came of each rule, and return with which error the server ended, if it did."""
    with running(column.name, root, arguments) as server:
        for result in suite(server.url, root, *options):
            column.results[result["rule"]["id"]] = result
        if server.process.poll() is None:
            return None
        errors = [line.strip() for line in server.log.read_text().splitlines() if "Error" in line]
        return errors[-1] if errors else f"exit status {server.process.returncode}"


def suite(url: str, root: Path, *options: str) -> list[dict[str, Any]]:
    """Run `tus-conformance`, and return what came of each rule."""
    report = root / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "tus_conformance", url, "--json", str(report), *SUITE, *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return json.loads(report.read_text().replace(url, "http://SERVER/files/"))["results"]


# The page


def page(columns: Sequence[Column]) -> Iterator[str]:
    """Yield the lines of the page."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip(" \nv")
    yield "# Conformance"
    yield ""
    yield "What [tus-conformance](../conformance/README.md) says of servers of tus 1.0, rule by rule. This page is"
    yield f"written by `scripts/conformance`; this is its run of {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, with"
    yield f"Python {platform.python_version()}, Node {node or '(none)'} and `tus-conformance {' '.join(SUITE)}`."
    yield ""
    yield "- *pass*, *FAIL*: the rule holds, or does not."
    yield "- *skipped*: the rule does not count, mostly because the server does not advertise what it is about."
    yield "- *blocked*: something else, which another rule is about, has to work before this one can be tried."
    yield ""
    yield "Only a broken MUST breaks the specification. What is RECOMMENDED is ours, and no server has to do it."
    yield ""
    yield from table(["", *(column.heading for column in columns)], totals(columns))
    yield ""
    yield "## How they were started"
    yield ""
    yield "With their store for files in a directory, and with what makes all they can do and their time-outs visible:"
    yield ""
    for column in columns:
        yield f"- {column.heading}: `{how(column.name, ARGUMENTS[column.name])}`"
        for note in column.notes:
            yield f"  {note}"
    yield ""
    yield f"`{EXPIRED}` was tried in a run of its own, in which uploads expire after two seconds:"
    yield ", ".join(f"`{' '.join(arguments)}` ({name})" for name, arguments in EXPIRY.items()) + "."
    tested = [rule for rule in rules().values() if rule.untested is None]
    for section, group in groupby(tested, key=lambda rule: rule.section):
        yield ""
        yield f"## {section}"
        yield ""
        yield from table(
            ["level", "rule", *(column.heading for column in columns)],
            (
                [rule.level, f"`{rule.id}` {cell(rule.text)}", *(column.word(rule.id) for column in columns)]
                for rule in group
            ),
        )
    yield ""
    yield "## What failed or was blocked"
    for column in columns:
        yield ""
        yield f"### {column.heading}"
        yield ""
        yield from [*faults(column)] or ["Nothing." if column.results else "It was not run."]
    yield ""
    yield "## Rules that nobody can see from outside"
    yield ""
    for rule in rules().values():
        if rule.untested is not None:
            yield f"- {rule.level} `{rule.id}` {rule.text} *Not tested: {rule.untested}.*"


def table(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    for line in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(line)} |"


def totals(columns: Sequence[Column]) -> Iterator[list[str]]:
    """Yield for each level how many rules had which result."""
    levels = dict.fromkeys(rule.level for rule in rules().values() if rule.untested is None)
    for level in ("MUST", "SHOULD", "MAY", "RECOMMENDED"):
        assert level in levels
        cells = []
        for column in columns:
            counts = Counter(column.word(rule.id) for rule in selected([]) if rule.level == level)
            words = ("pass", WORDS["fail"], WORDS["blocked"], "skipped", "not run")
            cells.append(", ".join(f"{counts[word]} {word}" for word in words if counts[word]))
        yield [level, *cells]


def how(name: str, arguments: Sequence[str]) -> str:
    """Return how a server is started, without what is this machine's."""
    if name == "tuspyserver":
        return "uvicorn peer_tuspyserver:app"
    text = " ".join([*command(name, Path("DIRECTORY"), 8080), *arguments])
    return re.sub(rf"{re.escape(str(PEERS))}/(\w+/)*", "", text.replace(sys.executable, "python"))


def faults(column: Column) -> Iterator[str]:
    """Yield a line for each rule that does not hold or could not be tried."""
    for rule in selected([]):
        result = column.results.get(rule.id)
        if result is None or result["result"] not in WORDS:
            continue
        seen = []
        for case in result["cases"]:
            if case["result"] == "fail":
                seen.append(f"{case['title']}: expected {short(case['expected'])}; got {short(case['got'])}.")
            elif case["result"] == "blocked":
                seen.append(f"{case['title']}: {short(case['remark'])}.")
        yield f"- {WORDS[result['result']]} {rule.level} `{rule.id}`: {' '.join(seen)}"


def short(text: str) -> str:
    """Return text for a line, with names of uploads that are the same in each run."""
    text = re.sub(r"(/files/)[\w+-]{16,}", r"\1ID", " ".join(text.split()))
    return cell(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory(prefix="tus-conformance-") as directory:
        columns = []
        for name in sys.argv[1:] or ARGUMENTS:
            column = judge(name, Path(directory))
            counts = Counter(result["result"] for result in column.results.values())
            print(
                f"{name}: {', '.join(f'{count} {word}' for word, count in counts.items())}", *column.notes, sep="\n  "
            )
            columns.append(column)
    text = "\n".join(page(columns)) + "\n"
    # Some servers alone are for a look at them.
    print(text) if sys.argv[1:] else PAGE.write_text(text)


if __name__ == "__main__":
    main()
