"""The commands `tusd-py uploads`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from tusd_py.cli_settings import SettingsCommand, as_json, decide, operator, printable, run_beside, with_settings
from tusd_py.composer import Parts
from tusd_py.errors import TusError
from tusd_py.models import Status, Upload
from tusd_py.settings import Sources
from tusd_py.state.base import Filter
from tusd_py.units import format_size


@click.group()
def uploads() -> None:
    """Look at uploads, decide about them and remove them; works beside a running server."""


@uploads.command("list", cls=SettingsCommand)
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    metavar="STATUS",
    help=f"Only uploads that are {', '.join(Status)}.",
)
@click.option("--owner", help="Only uploads of this owner.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most uploads to list.")
@click.option("--json", "in_json", is_flag=True, help="One JSON object a line.")
@with_settings()
def list_uploads(sources: Sources, status: str | None, owner: str | None, limit: int, in_json: bool) -> None:
    """List uploads, the newest first."""

    async def look(parts: Parts) -> tuple[list[Upload], bool]:
        found: list[Upload] = []
        after: str | None = None
        wanted = Filter(status=Status(status) if status else None, owner=owner)
        while len(found) < limit:
            page = await parts.uploads.state.page(wanted, after, min(1000, limit - len(found)))
            found += page.uploads
            if (after := page.next) is None:
                return found, False
        return found, True

    found, more = run_beside(sources, look)
    if in_json:
        for upload in found:
            click.echo(as_json(upload))
        return
    click.echo(f"{'ID':34}{'STATUS':13}{'STORED':>10} {'OF':>10}  {'CREATED':21}NAME")
    for upload in found:
        length = "?" if upload.length is None else format_size(upload.length)
        name = printable(upload.metadata.get("filename", ""))
        created = upload.created_at.strftime("%Y-%m-%d %H:%M:%SZ")
        click.echo(f"{upload.id:34}{upload.status:13}{format_size(upload.offset):>10} {length:>10}  {created:21}{name}")
    if more:
        click.echo(f"(the first {limit}; there are more)", err=True)


@uploads.command("show", cls=SettingsCommand)
@click.argument("upload_id", metavar="ID")
@with_settings()
def show_upload(sources: Sources, upload_id: str) -> None:
    """Show everything that is known of one upload and its jobs, as JSON."""

    async def look(parts: Parts) -> Upload:
        upload = await parts.uploads.find(upload_id)
        return upload.changed(jobs=tuple(await parts.uploads.state.jobs(upload_id)))

    click.echo(as_json(run_beside(sources, look), indent=2))


def _reason(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--reason", required=True, help="Why; it is told to plugins and in the audit log.")(command)


_ids = click.argument("upload_ids", metavar="ID...", nargs=-1, required=True)


@uploads.command("release", cls=SettingsCommand)
@_ids
@_reason
@with_settings()
def release(sources: Sources, upload_ids: tuple[str, ...], reason: str) -> None:
    """Accept uploads that are in quarantine or being checked, whatever their checks say."""
    decide(sources, upload_ids, "released", lambda jobs, upload_id: jobs.release(upload_id, reason, operator()))


@uploads.command("quarantine", cls=SettingsCommand)
@_ids
@_reason
@with_settings()
def quarantine(sources: Sources, upload_ids: tuple[str, ...], reason: str) -> None:
    """Keep complete uploads from being read and delivered."""
    decide(sources, upload_ids, "quarantined", lambda jobs, upload_id: jobs.quarantine(upload_id, reason, operator()))


@uploads.command("recheck", cls=SettingsCommand)
@_ids
@with_settings()
def recheck(sources: Sources, upload_ids: tuple[str, ...]) -> None:
    """Have all checks look at uploads once more; until they have, these cannot be read."""
    decide(sources, upload_ids, "being checked", lambda jobs, upload_id: jobs.recheck(upload_id, operator()))


@uploads.command("delete", cls=SettingsCommand)
@click.argument("upload_ids", metavar="ID...", nargs=-1, required=True)
@with_settings()
def delete_uploads(sources: Sources, upload_ids: tuple[str, ...]) -> None:
    """Remove uploads and their bytes; one that is being received is stopped."""

    async def remove(parts: Parts) -> int:
        failed = 0
        for upload_id in upload_ids:
            try:
                await parts.uploads.remove(upload_id)
                click.echo(f"{upload_id} removed")
            except TusError as error:
                failed += 1
                click.echo(f"{upload_id} not removed: {error.message}", err=True)
        return failed

    sys.exit(1 if run_beside(sources, remove) else 0)


@uploads.command("expire", cls=SettingsCommand)
@with_settings()
def expire_uploads(sources: Sources) -> None:
    """Remove the uploads whose time has run out, as a running server does by itself."""

    async def expire(parts: Parts) -> int:
        total = 0
        while count := await parts.uploads.expire():
            total += count
        return total

    click.echo(f"{run_beside(sources, expire)} expired or forgotten")
