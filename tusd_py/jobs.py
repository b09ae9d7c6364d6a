"""What happens to an upload when its jobs end, and what an operator decides about it and them.

All of it is done under the upload's lock. A crash between two changes is mended by whoever next looks at a job that is
due: therefore a job is made due before the upload's record says that its turn has come, and a job that has ended stays
due until the consequences of its end are recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import structlog

from tusd_py import places
from tusd_py.claim import Claim
from tusd_py.errors import Fenced, InvalidRequest, NotFound
from tusd_py.models import Job, JobStatus, Status, Verdict, now
from tusd_py.stages import again, misplaced, next_jobs, planned, reason_of, verdict_of
from tusd_py.uploads import Uploads

_log = structlog.get_logger("tusd_py.jobs")


class Jobs:
    """The jobs of all uploads."""

    def __init__(self, uploads: Uploads) -> None:
        """Work on the jobs of these uploads."""
        self._uploads = uploads
        self._state = uploads.state

    async def find(self, job_id: str) -> Job:
        """Return a job by its id.

        Raises:
            NotFound: there is none.
        """
        for job in await self._state.jobs(job_id.partition("/")[0]):
            if job.id == job_id:
                return job
        raise NotFound(f"there is no job {job_id}")

    async def settle(self, upload_id: str) -> None:
        """Draw the consequences of how the jobs of an upload stand; may be repeated at any point."""
        async with self._uploads.claimed(upload_id) as claim:
            await self._settle(claim)

    async def release(self, upload_id: str, reason: str, by: str) -> None:
        """Accept an upload whatever its checks say.

        Raises:
            InvalidRequest: it is accepted, or not complete.
        """
        async with self._claimed(upload_id) as claim:
            self._expect(claim, Status.QUARANTINED, Status.CHECKING)
            await self._decide(claim, Status.ACCEPTED, Verdict(ok=True, reasons=[f"released by {by}: {reason}"]))

    async def quarantine(self, upload_id: str, reason: str, by: str) -> None:
        """Keep an upload from being read and delivered.

        Raises:
            InvalidRequest: it is in quarantine, or not complete.
        """
        async with self._claimed(upload_id) as claim:
            self._expect(claim, Status.ACCEPTED, Status.CHECKING)
            await self._decide(claim, Status.QUARANTINED, Verdict(ok=False, reasons=[f"by {by}: {reason}"]))

    async def recheck(self, upload_id: str, by: str) -> None:
        """Have all checks look at an upload once more; until they have, it is not accepted.

        Raises:
            InvalidRequest: it is not complete, or no plugin checks.
        """
        async with self._claimed(upload_id) as claim:
            self._expect(claim, Status.ACCEPTED, Status.CHECKING, Status.QUARANTINED)
            # An upload can be older than a plugin.
            await self._state.add_jobs(planned(claim.upload, self._uploads.hooks.plugins_of, now()))
            checks = [job for job in await self._state.jobs(upload_id) if job.stage == "check"]
            if not checks:
                raise InvalidRequest("no plugin checks uploads")
            await self._check_again(claim, checks, by)

    async def retry(self, job_id: str, by: str) -> None:
        """Have a job done again, with all its attempts; a check takes its upload back to being checked.

        Raises:
            InvalidRequest: it is being done now, or its upload is gone.
        """
        job = await self.find(job_id)
        async with self._claimed(job.upload_id) as claim:
            job = await self.find(job_id)
            self._expect(claim, Status.ACCEPTED, Status.CHECKING, Status.QUARANTINED)
            if job.status is JobStatus.RUNNING:
                raise InvalidRequest(f"job {job_id} is running; cancel it first")
            if job.stage == "check":
                await self._check_again(claim, [job], by)
                return
            await self._state.save_job(again(job), job.fence)
            await self._settle(claim)

    async def cancel(self, job_id: str, by: str) -> None:
        """Give a job up; a check that is given up quarantines its upload.

        Raises:
            InvalidRequest: it has ended.
        """
        job = await self.find(job_id)
        async with self._claimed(job.upload_id) as claim:
            # A worker may tell its progress at the same time, which keeps the number.
            job = await self.find(job_id)
            if job.status.has_ended:
                raise InvalidRequest(f"job {job_id} has ended: it is {job.status.value}")
            await self._cancel(job, f"by {by}")
            await self._settle(claim)

    @contextlib.asynccontextmanager
    async def _claimed(self, upload_id: str) -> AsyncIterator[Claim]:
        async with self._uploads.claimed(upload_id) as claim:
            if not places.is_settled(claim.upload):
                # A command was cut off between its decision and the end of a move that this needs.
                await self._settle(claim)
            yield claim

    def _expect(self, claim: Claim, *statuses: Status) -> None:
        claim.upload.check_present()
        if claim.upload.status not in statuses or claim.upload.is_partial:
            kind = "a part of a concatenation" if claim.upload.is_partial else claim.upload.status.value
            raise InvalidRequest(f"upload {claim.upload.id} is {kind}")

    async def _check_again(self, claim: Claim, checks: list[Job], by: str) -> None:
        for job in checks:
            await self._state.save_job(again(job, now()), job.fence)
        await self._decide(claim, Status.CHECKING, Verdict(ok=False, reasons=[f"to be checked again, by {by}"]))

    async def _decide(self, claim: Claim, status: Status, verdict: Verdict) -> None:
        jobs = await self._state.jobs(claim.upload.id)
        turn = next_jobs(status, jobs)
        if not turn and all(job.due_at is None for job in jobs):
            turn = jobs[:1]  # for whoever looks at it, should this process die before everything is recorded
        for job in turn:
            await self._state.save_job(job.taken(due_at=now()), job.fence)
        await self._judge(claim, status, verdict)
        await self._settle(claim)

    async def _judge(self, claim: Claim, status: Status, verdict: Verdict) -> None:
        """Record a decision, with the bytes where they have to be for it, and tell it."""
        await claim.place(status)
        was_accepted = claim.upload.accepted_at is not None
        await claim.save(claim.upload.finished(status, now(), reason_of(verdict)))
        _log.info("verdict", upload=claim.upload.id, status=status.value, reasons=list(verdict.reasons))
        hooks = self._uploads.hooks
        hooks.post_verdict(claim.upload, verdict)
        if status is Status.ACCEPTED and not was_accepted:
            hooks.post_finish(claim.upload)

    async def _settle(self, claim: Claim) -> None:
        """Give the verdict once all checks have ended, the next stage its turn, and the manifest the news."""
        upload_id, state = claim.upload.id, self._state
        jobs = await state.jobs(upload_id)
        verdict = verdict_of(jobs) if claim.upload.status is Status.CHECKING else None
        if verdict is not None:
            await self._judge(claim, Status.ACCEPTED if verdict.ok else Status.QUARANTINED, verdict)
        status = claim.upload.status
        for job in misplaced(status, jobs):
            if status.is_tombstone:
                await self._cancel(job, f"the upload was {status.value}")
            else:
                await state.save_job(again(job), job.fence)
        for job in next_jobs(status, jobs):
            await state.save_job(job.taken(due_at=now()), job.fence)
        changed = await state.jobs(upload_id)
        if not changed and (jobs or await state.get(upload_id) is None):
            # The state has lost them meanwhile, and the manifest is what brings them back.
            raise Fenced()
        if not status.is_tombstone:
            await self._uploads.store.save(claim.upload.changed(jobs=tuple(changed)))
            await claim.tidy()
        # Not those that have ended since: their consequences are still to be drawn.
        for job in jobs:
            if job.status.has_ended and job.due_at is not None:
                await state.save_job(job.taken(due_at=None), job.fence)
        self._uploads.jobs_due.set()

    async def _cancel(self, job: Job, error: str) -> None:
        at = now()
        cancelled = job.taken(status=JobStatus.CANCELLED, due_at=at, ended_at=at, error=error)
        await self._state.save_job(cancelled, job.fence)
