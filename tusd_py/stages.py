"""The rules of stages, as pure functions: which jobs an upload has, what its checks say, and whose turn it is.

    check (all plugins must pass) - pass -> accepted -> describe -> deliver
                                  - fail -> quarantined

A plugin that describes and fails does not keep the upload from being delivered: it has passed its checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tusd_py.hooks.specs import STAGES
from tusd_py.models import Job, JobStatus, Stage, Status, Upload, Verdict

MAX_REASON = 1000


def planned(upload: Upload, plugins_of: Callable[[str], Sequence[str]], at: datetime) -> list[Job]:
    """Return the jobs of an upload that becomes complete; a part of a concatenation has none."""
    if upload.is_partial:
        return []
    return [
        Job(upload_id=upload.id, stage=stage, plugin=plugin, created_at=at)
        for stage in STAGES
        for plugin in sorted(plugins_of(stage))
    ]


def first_status(jobs: Sequence[Job]) -> Status:
    """Return the status of a complete upload that has these jobs before it."""
    return Status.CHECKING if any(job.stage == "check" for job in jobs) else Status.ACCEPTED


def stage_of(status: Status, jobs: Sequence[Job]) -> Stage | None:
    """Return the stage whose jobs may run now, or None if none may."""
    if status is Status.CHECKING:
        return "check"
    if status is not Status.ACCEPTED:
        return None
    is_described = all(job.status.has_ended for job in jobs if job.stage == "describe")
    return "deliver" if is_described else "describe"


def may_run(job: Job, status: Status, jobs: Sequence[Job]) -> bool:
    """Whether it is the job's turn."""
    return job.stage == stage_of(status, jobs)


def next_jobs(status: Status, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs whose turn has come."""
    return [
        job for job in jobs if job.status is JobStatus.WAITING and job.due_at is None and may_run(job, status, jobs)
    ]


def opened(status: Status, jobs: Sequence[Job], at: datetime) -> list[Job]:
    """Return all of these jobs, with those due whose turn has come."""
    turn = next_jobs(status, jobs)
    return [job.changed(due_at=at) if job in turn else job for job in jobs]


def misplaced(status: Status, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that had their turn and have it no more, as the upload's status has changed.

    Of an upload that is gone these are all that have not ended.
    """
    return [
        job
        for job in jobs
        if not job.status.has_ended
        and (status.is_tombstone or (job.due_at is not None and not may_run(job, status, jobs)))
    ]


def again(job: Job, due_at: datetime | None = None) -> Job:
    """Return the job as if nobody had tried it yet."""
    return Job(
        upload_id=job.upload_id,
        stage=job.stage,
        plugin=job.plugin,
        due_at=due_at,
        created_at=job.created_at,
        fence=job.taken().fence,
    )


def verdict_of(jobs: Sequence[Job]) -> Verdict | None:
    """Return what all checks together say, or None as long as one has not ended, or if there is none."""
    checks = [job for job in jobs if job.stage == "check"]
    if not checks or not all(job.status.has_ended for job in checks):
        return None
    ok, reasons = True, list[str]()
    for job in checks:
        if job.status is JobStatus.DONE:
            passed = job.result["ok"] is True
            ok = ok and passed
            reasons += job.result["reasons"] or ([] if passed else [f"check {job.plugin} gives no reason"])
        else:
            # Never accepted unseen.
            ok = False
            reasons.append(f"check {job.plugin} {job.status.value}{': ' + job.error if job.error else ''}")
    return Verdict(ok=ok, reasons=reasons)


def reason_of(verdict: Verdict) -> str | None:
    """Return what an upload's record says of a verdict against it."""
    if verdict.ok:
        return None
    return "; ".join(verdict.reasons)[:MAX_REASON]


def facts_of(jobs: Sequence[Job]) -> Mapping[str, Any]:
    """Return what descriptions have found, by plugin."""
    return {job.plugin: job.result for job in jobs if job.stage == "describe" and job.status is JobStatus.DONE}


def restored(status: Status, jobs: Sequence[Job], at: datetime) -> list[Job]:
    """Return the jobs of a manifest for a state that has lost them: what had not ended begins anew.

    The manifest of an upload that is being checked may be older than the end of its checks, and than what follows.
    """

    def bring_back(job: Job) -> Job:
        if not job.status.has_ended:
            return again(job)
        return job.changed(due_at=at if status is Status.CHECKING and job.stage == "check" else None)

    return opened(status, [bring_back(job) for job in jobs], at)
