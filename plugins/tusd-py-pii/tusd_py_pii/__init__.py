"""Finds personal data and credentials in uploads: the stage `check`, and `tusd-py pii` on the command line.

`scan.py` is the scanner and knows nothing of the server; this module is what the server sees of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog

from tusd_py import Upload, Verdict, hookimpl
from tusd_py.ahead import Ahead, Answers
from tusd_py.config import ConfigError
from tusd_py.errors import Unavailable
from tusd_py.hooks.specs import JobProgress
from tusd_py.models import Content
from tusd_py_pii.commands import pii
from tusd_py_pii.errors import RuleError, ScanFailed, Unreadable
from tusd_py_pii.policy import Settings, settings_from
from tusd_py_pii.report import Report
from tusd_py_pii.scan import TASK_BYTES, Begun, plan_ahead, run_here
from tusd_py_pii.workers import in_processes

_log = structlog.get_logger("tusd_py_pii")
chosen = Settings()


def _pieces(upload: Upload, content: Content, begun: Begun | None) -> Answers[Begun]:
    """Scan those pieces of an upload that have arrived and are not in what was begun."""
    begun = begun or Begun(chosen.scan())
    with content.open() as file:
        tasks = plan_ahead(file, upload.metadata.get("filename", ""), content.size, begun.scan.limits)
    if left := begun.left_of(tasks):  # in one process, for others that upload want the machine too
        for task, report in zip(left, in_processes(1)(content, left, begun.scan), strict=True):
            begun = begun.plus(task, report)
            yield begun


ahead = Ahead(_pieces)


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> bool:
    """Take the settings; without any, or with `enabled = false`, nothing is scanned.

    Raises:
        ConfigError: rules cannot be used, or a setting is unknown.
    """
    global chosen
    if not settings:
        chosen = Settings()
        return False
    try:
        chosen = settings_from(settings)
    except RuleError as error:
        raise ConfigError(f"[plugins.pii]: {error}") from error
    return chosen.enabled


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add `tusd-py pii`."""
    cli.add_command(pii)


@hookimpl
def post_receive(upload: Upload, content: Content | None) -> None:
    """Have what is there scanned while the rest arrives."""
    if chosen.ahead:
        ahead.received(upload, content, least=TASK_BYTES + chosen.limits.max_record)


@hookimpl
def check(upload: Upload, content: Content, progress: JobProgress) -> Verdict:
    """Scan a complete upload; what cannot be looked into as a whole does not pass.

    Raises:
        Unavailable: its bytes cannot be read now, which is no verdict: the job is repeated.
    """
    settings = chosen
    try:
        report = examined(content, settings, upload.metadata.get("filename", ""), progress, ahead.taken(upload))
    except (Unreadable, OSError, Unavailable) as error:
        raise Unavailable(f"the upload cannot be read now: {type(error).__name__}") from None
    except ScanFailed as error:
        return Verdict(ok=False, reasons=(f"pii: {error}",))
    except Exception as error:
        # Its message and its locals may hold what was scanned: only its kind is told.
        _log.error("the scan of an upload failed", upload=upload.id, kind=type(error).__name__)
        return Verdict(ok=False, reasons=(f"pii: the scan failed with {type(error).__name__}",))
    if settings.report_dir:
        _write(report, _report_file(upload))
    ok, reasons = settings.judged(report)
    return Verdict(ok=ok, reasons=tuple(f"pii: {reason}" for reason in reasons))


@hookimpl
def post_terminate(upload: Upload) -> None:
    """Remove the report of an upload that is gone."""
    if chosen.report_dir:
        _report_file(upload).unlink(missing_ok=True)


def _report_file(upload: Upload) -> Path:
    return Path(chosen.report_dir) / f"{upload.id}.pii.json"


def examined(
    content: Content,
    settings: Settings,
    name: str,
    progress: Callable[[int], None] = lambda done: None,
    begun: Begun | None = None,
) -> Report:
    """Return the report of stored bytes; `progress` hears how many of them have been looked at.

    A scan that has been `begun` is gone on with.

    Raises:
        ScanFailed: they cannot be looked into as a whole.
    """
    with content.open() as file:
        # Neither Parquet, whose reader may crash, nor gzip, in which little becomes much.
        is_small = content.size <= settings.inline_bytes and not file.read(4).startswith((b"PAR1", b"\x1f\x8b"))
    here = is_small and not settings.has_foreign_rules()
    return settings.examined(content, name, run_here if here else settings.run(), progress, begun)


def _write(report: Report, path: Path) -> None:
    """Write a report as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(report))
    os.replace(temporary, path)
