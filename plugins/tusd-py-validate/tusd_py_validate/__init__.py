"""Checks uploads of AI data: what they are, whether they arrived whole, and whether they fit a schema.

It does nothing until the server's TOML file has a table `[plugins.validate]` with at least one key.
`tusd_py_validate.checks` is the same without a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from tusd_py import Reject, Upload, Verdict, hookimpl
from tusd_py.ahead import Ahead
from tusd_py.hooks.specs import JobProgress
from tusd_py.models import Content
from tusd_py_validate.settings import read

if TYPE_CHECKING:
    from tusd_py_validate.checks import Begun, Checks
    from tusd_py_validate.problems import Problem

TOLD = 3
"""So many problems are in the answer to a refused request; a verdict has all."""

checks: Checks
ahead: Ahead[Begun] = Ahead(lambda upload, content, begun: checks.ahead(content, upload.metadata, begun))


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> bool:
    """Take the settings; without any, or with `enabled = false`, none of the hooks below is called."""
    global checks
    chosen = read(settings)
    if not settings or not chosen.enabled:
        return False
    from tusd_py_validate.checks import Checks  # who does not use the plugin does not wait for its libraries

    checks = Checks(chosen)
    return True


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add `tusd-py validate`."""
    from tusd_py_validate.command import validate

    cli.add_command(validate)


@hookimpl
def pre_create(upload: Upload) -> None:
    """Refuse what the metadata alone tells is wrong."""
    _refuse(checks.claims(upload.metadata, upload.length))


@hookimpl
def inspect_head(upload: Upload, head: bytes) -> None:
    """Refuse a type by its first bytes, so that no more of it is sent."""
    _refuse(checks.inspect(head, upload.length, upload.metadata))


@hookimpl
def post_receive(upload: Upload, content: Content | None) -> None:
    """Have the lines that are there checked while the rest arrives."""
    if checks.settings.ahead:
        ahead.received(upload, content, least=checks.least_ahead)


@hookimpl
def pre_finish(upload: Upload, content: Content) -> None:
    """Refuse a type by both its ends, and check a small upload wholly."""
    _refuse(checks.finish(content, upload.metadata))


@hookimpl
def check(upload: Upload, content: Content, progress: JobProgress) -> Verdict:
    """Check all of an upload; the progress is that of the pass over its bytes that is under way."""
    begun = ahead.taken(upload)
    problems = checks.of_content(content, upload.metadata, lambda step, done, total: progress(done, total), begun)
    return Verdict(ok=not problems, reasons=[str(problem) for problem in problems])


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        told = "; ".join(str(problem) for problem in problems[:TOLD])
        more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
        raise Reject(told + more, status=415 if problems[0].check == "type" else 422)
