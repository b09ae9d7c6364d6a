"""Settings of the plugin, and what a report means under them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from tusd_py_pii.advice import Question, advised
from tusd_py_pii.clusters import run_on
from tusd_py_pii.errors import RuleError
from tusd_py_pii.hooks import models, recognizers
from tusd_py_pii.report import Advice, Report
from tusd_py_pii.rules import Rule, built_in, chosen, load_pack
from tusd_py_pii.scan import Begun, Run, Scan, Source, scan_file
from tusd_py_pii.streams import Limits

Action = Literal["ignore", "report", "quarantine"]
MAX_REASONS = 50

DEFAULTS: dict[str, Action] = {
    "email": "report",
    "phone": "report",
    "ip": "report",
    "address": "report",
    "name": "report",
    "card": "quarantine",
    "iban": "quarantine",
    "ssn": "quarantine",
    "national_id": "quarantine",
    "credential": "quarantine",
}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[plugins.pii]` of the server's TOML file."""

    enabled: bool = True
    """Whether uploads are scanned; a table with this alone takes the defaults of all others."""
    policy: dict[str, Action] = {}
    """By type: ignore, report or quarantine. Types that are not named keep their default; new ones are reported."""
    threshold: dict[str, int] = {}
    """By type: so many values quarantine; 1 if not named."""
    packs: tuple[str, ...] = ()
    """TOML files with more rules."""
    recognizers: tuple[str, ...] = ()
    """Modules with the hook `register_recognizers`; installed packages are found without being named."""
    without: tuple[str, ...] = ()
    """Rules and types not to look for."""
    engine: Literal["auto", "hyperscan", "re"] = "auto"
    workers: int = 2
    """Processes for one file."""
    inline_bytes: int = 256 * 1024
    """Text up to this size is scanned without a process of its own, as long as there are built-in rules alone: it costs
    no more than the process would, but no limit of memory holds, and the server's threads wait for one another."""
    ahead: bool = True
    """Whether files on disk are scanned while their bytes arrive; for nothing if the jobs are run by workers."""
    cluster: str = ""
    """Where the tasks of large files run instead: `dask:tcp://host:8786`, `ray:host:6379`, `ray:auto`."""
    model: str = ""
    """A model that looks at a sample of each file: `presidio`, or one that a hook registers. It only advises."""
    model_options: dict[str, str] = {}
    """What the model is made with; for presidio: `spacy`, `language`, `entities`."""
    model_cells: int = 500
    """So many cells the model is shown of each file."""
    model_seconds: float = 120
    """So long it may take for them."""
    limits: Limits = Limits()
    binary: Action = "report"
    """What to do with a file that is no text and no Parquet, and so cannot be looked into."""
    invalid_utf8: Action = "quarantine"
    """What to do with text that is neither UTF-8 nor marked UTF-16 or 32: it is searched, but may hide a value."""
    samples: int = 3
    """Masked samples for each type and column."""
    hash_key: str = ""
    """Secret for the hashes of samples; without it every scan has another, and reports cannot be compared."""
    report_dir: str = ""
    """Directory for reports in JSON, one for each upload."""

    def rules(self) -> tuple[Rule, ...]:
        """Return the rules that are chosen.

        Raises:
            RuleError: one cannot be used.
        """
        rules = built_in()
        for path in self.packs:
            rules += load_pack(path)
        rules += recognizers(self.recognizers)
        ignored = {kind for kind, action in self.policy.items() if action == "ignore"}
        known = {rule.type for rule in rules}
        # A model may find types that no rule does.
        unknown = set() if self.model else (set(self.policy) | set(self.threshold)) - known - {"name"}
        if unknown:
            raise RuleError(f"no rule finds the type {sorted(unknown)[0]!r}")
        return chosen(rules, [*self.without, *(ignored & known)])

    def has_foreign_rules(self) -> bool:
        """Whether rules came from elsewhere, which may be slow."""
        mine = {rule.name: rule for rule in built_in()}
        return any(mine.get(rule.name) != rule for rule in self.rules())

    def scan(self) -> Scan:
        """Return what to look for and how."""
        salt = hashlib.sha256(self.hash_key.encode()).digest() if self.hash_key else secrets.token_bytes(32)
        return Scan(rules=self.rules(), engine=self.engine, limits=self.limits, samples=self.samples, salt=salt)

    def run(self) -> Run:
        """Return how the tasks of a large file are run.

        Raises:
            RuleError: there is no such cluster.
        """
        return run_on(self.cluster, self.workers)

    def question(self) -> Question | None:
        """Return what a model is asked, if one is.

        Raises:
            RuleError: there is no such model.
        """
        if not self.model:
            return None
        known = models(self.recognizers)
        if self.model not in known:
            raise RuleError(f"there is no model {self.model!r}")
        return Question(self.model, known[self.model], self.model_options, self.model_cells)

    def examined(
        self,
        source: Source,
        name: str,
        run: Run,
        progress: Callable[[int], None] = lambda done: None,
        begun: Begun | None = None,
    ) -> Report:
        """Return the report of a file, with a model's advice if one is asked; `progress` hears how far the scan is.

        One that has been `begun` is gone on with.

        Raises:
            ScanFailed: it cannot be looked into as a whole.
        """
        # The scan that has begun has the salt of the hashes in its report.
        scan = begun.scan if begun else self.scan()
        report = scan_file(source, scan, name=name, run=run, begun=begun, progress=progress)
        question = self.question()
        if question is None or report.format in ("empty", "binary"):
            return report
        limits = msgspec.structs.replace(scan.limits, max_seconds=self.model_seconds)
        return advised(report, source, msgspec.structs.replace(scan, limits=limits), question, name)

    def action(self, kind: str) -> Action:
        """Return what is done about a type."""
        return self.policy.get(kind, DEFAULTS.get(kind, "report"))

    def judged(self, report: Report) -> tuple[bool, list[str]]:
        """Return whether a file passes, and what there is to say: why it does not, or what was found."""
        ok, bad, noted = True, [], []
        for kind, columns in sorted(report.found.items()):
            count, threshold = report.count(kind), self.threshold.get(kind, 1)
            where = ", ".join(f"{found.count} in {column or 'the text'}" for column, found in list(columns.items())[:5])
            more = f" and {len(columns) - 5} more columns" if len(columns) > 5 else ""
            text = f"{kind}: {count} ({where}{more})"
            if self.action(kind) == "quarantine" and count >= threshold:
                ok = False
                bad.append(text)
            else:
                noted.append(text)
        for state, action, text in (
            (report.format == "binary", self.binary, "not text: it could not be looked into"),
            (
                report.invalid_lines > 0,
                self.invalid_utf8,
                f"{report.invalid_lines} lines are not UTF-8, so that values in them may be missed",
            ),
        ):
            if state and action != "ignore":
                ok = ok and action != "quarantine"
                (bad if action == "quarantine" else noted).append(text)
        if report.advice:
            noted += self._advice(report.advice)
        return ok, (bad + noted)[:MAX_REASONS]

    def _advice(self, advice: Advice) -> list[str]:
        """Return what a model has to say; it decides nothing."""
        if advice.failed:
            return [f"{advice.model} could not look at it: {advice.failed}"]
        return [
            f"{kind}: {sum(found.count for found in columns.values())} in {advice.cells} cells, thinks {advice.model}"
            for kind, columns in advice.found.items()
            if self.action(kind) != "ignore"
        ]


def settings_from(table: Mapping[str, Any]) -> Settings:
    """Return the settings of a table.

    Raises:
        RuleError: they cannot be; the message names what is wrong.
    """
    try:
        settings = msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        raise RuleError(str(error)) from error
    if settings.workers < 1 or settings.samples < 0:
        raise RuleError("workers is at least 1 and samples at least 0")
    if settings.model_cells < 1:
        raise RuleError("model_cells is at least 1")
    settings.rules()
    settings.run()
    settings.question()
    return settings
