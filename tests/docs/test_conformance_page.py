"""docs/conformance.md is about the rules there are, and says of this server what is so."""

import re
from itertools import groupby
from pathlib import Path

from tus_conformance.cli import main
from tus_conformance.rules import rules
from tus_conformance.runner import run, selected
from tus_conformance.server import Options, Server

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"
README = ROOT / "conformance" / "README.md"
TABLE_ROW = re.compile(r"^\| (MUST|SHOULD|MAY|RECOMMENDED) \| `([\w.-]+)` .*?(?<!\\) \| (.*) \|$", re.MULTILINE)
UNTESTED = re.compile(r"^- (MUST|SHOULD|MAY) `([\w.-]+)` .*\*Not tested: .*\*$", re.MULTILINE)


def ours():
    """What the page says of this server, by rule; its column is the first."""
    return {rule: cells.split(" | ")[0] for _, rule, cells in TABLE_ROW.findall(PAGE.read_text())}


def test_the_page_lists_the_rules_there_are():
    """Each rule is there once, with its level and in its order, those without a case at the end."""
    text = PAGE.read_text()
    tested = [(rule.level, rule.id) for rule in rules().values() if rule.untested is None]
    untested = [(rule.level, rule.id) for rule in rules().values() if rule.untested is not None]
    assert [row[:2] for row in TABLE_ROW.findall(text)] == tested
    assert UNTESTED.findall(text) == untested
    sections = [section for section, _ in groupby(selected([]), key=lambda rule: rule.section)]
    assert [title for title in re.findall(r"^## (.*)$", text, re.MULTILINE) if title in sections] == sections


def test_every_server_has_a_word_for_every_rule():
    """A cell is one of the words that the page explains."""
    for _, rule, cells in TABLE_ROW.findall(PAGE.read_text()):
        assert set(cells.split(" | ")) <= {"pass", "**FAIL**", "**blocked**", "skipped", "not run"}, rule


def test_nothing_is_said_to_fail_here():
    """Each rule holds for this server, or does not count."""
    assert set(ours().values()) == {"pass", "skipped"}


def test_the_page_says_what_is_so(server_with):
    """A run today comes to the same, as far as it needs no patience."""
    server = Server(server_with("--concatenation-unfinished", "--max-size", "1TiB").url, Options(patience=0))
    server.discover()
    chosen = [rule for rule in selected([]) if rule.section not in ("Interruptions", "Clients")]
    fresh = {result.rule.id: result.result for result in run(server, chosen)}
    fresh.pop("expiration.gone")  # the page has it from a run of its own
    assert server.forget() == []
    said = ours()
    assert fresh == {rule: said[rule] for rule in fresh}


def test_the_suites_readme_explains_every_option():
    """What --help lists is in the table of options."""
    text = README.read_text()
    options = [option for parameter in main.params for option in [*parameter.opts, *parameter.secondary_opts]]
    missing = [option for option in options if option.startswith("--") and f"`{option}" not in text]
    assert missing == ["--download", "--version"]  # what is done anyway, and what goes without saying
