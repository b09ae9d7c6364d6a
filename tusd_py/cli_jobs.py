"""The commands `tusd-py jobs` and `tusd-py worker`."""

from __future__ import annotations

import asyncio

import click

from tusd_py import logs
from tusd_py.cli_settings import (
    SettingsCommand,
    as_json,
    decide,
    operator,
    printable,
    reported,
    run_beside,
    with_settings,
)
from tusd_py.models import JobStatus
from tusd_py.settings import Sources

_ids = click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)


@click.command("worker", cls=SettingsCommand)
@with_settings()
def worker(sources: Sources) -> None:
    """Do jobs (check, describe, deliver) of servers with the same settings, until Ctrl-C or SIGTERM.

    The queue has to be in Redis (--redis or --jobs); any number of workers can share it.
    """
    from tusd_py.web.work import work  # not at the top, for the other commands do not need it

    logs.configure(sources.config)
    reported(lambda: asyncio.run(work(sources.config)))


@click.group()
def jobs() -> None:
    """Look at jobs of uploads, repeat them and give them up; works beside a running server."""


@jobs.command("list", cls=SettingsCommand)
@click.option(
    "--status",
    type=click.Choice([status.value for status in JobStatus]),
    metavar="STATUS",
    help=f"Only jobs that are {', '.join(JobStatus)}.",
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most jobs to list.")
@click.option("--json", "in_json", is_flag=True, help="One JSON object a line.")
@with_settings()
def list_jobs(sources: Sources, status: str | None, limit: int, in_json: bool) -> None:
    """List jobs, the newest first."""
    wanted = JobStatus(status) if status else None
    found = run_beside(sources, lambda parts: parts.uploads.state.list_jobs(wanted, limit))
    if in_json:
        for job in found:
            click.echo(as_json(job))
        return
    click.echo(f"{'JOB':58}{'STATUS':10}{'ATTEMPTS':>8} {'DONE':>5}  {'WORKER':20}ERROR")
    for job in found:
        done = f"{100 * job.progress // job.total}%" if job.total else ""
        line = f"{job.id:57} {job.status:10}{job.attempts:>8} {done:>5}  {job.worker or '':20}{job.error or ''}"
        click.echo(printable(line).rstrip())


@jobs.command("retry", cls=SettingsCommand)
@_ids
@with_settings()
def retry(sources: Sources, job_ids: tuple[str, ...]) -> None:
    """Have jobs done again, with all their attempts; a check takes its upload back to being checked."""
    decide(sources, job_ids, "waiting", lambda jobs, job_id: jobs.retry(job_id, operator()))


@jobs.command("cancel", cls=SettingsCommand)
@_ids
@with_settings()
def cancel(sources: Sources, job_ids: tuple[str, ...]) -> None:
    """Give jobs up, also running ones; a check that is given up quarantines its upload."""
    decide(sources, job_ids, "cancelled", lambda jobs, job_id: jobs.cancel(job_id, operator()))
