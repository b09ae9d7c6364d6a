"""Does the jobs of uploads: hands out those that are due, runs plugins, and records how it ended.

The records in the state are the truth, and the queue (docket, on Redis or in this process's memory) only says who
looks at which record next. Every process looks for due jobs every two seconds and puts them into the queue, where a
key made of job and number keeps them single; so a queue that forgets costs seconds. Who gets a job takes its record
with a new number, and by that number alone it can be changed: one worker wins, and one that was thought dead and comes
back is not heard. While a job runs, its record is due at the end of a lease, which the worker moves on; if the worker
dies, the job becomes due, and the attempt counts.

Plugins run in threads and event loops of their own (`tusd_py.hooks.caller`), so neither the leases nor the server wait
for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import structlog

from tusd_py import places
from tusd_py.composer import Parts
from tusd_py.config import ConfigError, redacted
from tusd_py.errors import Fenced, Forbidden, NotFound, Reject, StoreUnavailable, TusError
from tusd_py.guarded import GuardedContent
from tusd_py.hooks.specs import STAGES
from tusd_py.jobs import Jobs
from tusd_py.models import Job, JobStatus, Upload, now
from tusd_py.stages import facts_of, may_run
from tusd_py.stores.base import Readable

BATCH = 100
POLL_SECONDS = 2.0
PROGRESS_SECONDS = 1.0
REPEAT_SECONDS = 0.5
MAX_BACKOFF = timedelta(minutes=10)
CHECK_INTERVAL = timedelta(milliseconds=100)
# Of our options in a URL of Redis, which the queue does not know.
_OWN_OPTIONS = ("prefix", "lease")

_log = structlog.get_logger("tusd_py.worker")


def own_name() -> str:
    """Return what this process is called in the records of its jobs."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextlib.asynccontextmanager
async def working(parts: Parts, *, runs: bool | None = None) -> AsyncIterator[Worker | None]:
    """Hand out jobs meanwhile, and do them if `runs`, or by default if the queue is in this process's memory.

    Nothing happens, and nobody works, if no plugin has a stage.

    Raises:
        ConfigError: the package for jobs is missing.
    """
    if not any(parts.hooks.has(stage) for stage in STAGES):
        yield None
        return
    worker = Worker(parts, runs=parts.config.jobs_url.startswith("memory:") if runs is None else runs)
    task = asyncio.create_task(worker.run(), name="jobs")
    try:
        yield worker
    finally:
        worker.stop()
        task.cancel()
        await asyncio.wait([task])


class Worker:
    """Hands out jobs and does them, in one process."""

    def __init__(self, parts: Parts, *, runs: bool) -> None:
        """Work on the uploads of these parts; only hand jobs out unless `runs`.

        Raises:
            ConfigError: the package for jobs is missing.
        """
        try:
            import docket  # not at the top, for it is an extra
        except ImportError as error:
            raise ConfigError("a plugin has stages, which need more packages: pip install 'tusd-py[jobs]'") from error
        self._docket = docket
        self.name = own_name()
        self._config = parts.config
        self._hooks = parts.hooks
        self._uploads = parts.uploads
        self._state = parts.uploads.state
        self._jobs = Jobs(parts.uploads)
        self._runs = runs
        self._url, self._queue = _queue_of(parts.config.jobs_url)
        self._attempts: set[_Attempt] = set()
        self._is_stopping = False
        self.problem: str | None = "the queue of jobs is not open yet"
        """Why jobs can be neither handed out nor done now, or None if they can."""
        logging.getLogger("docket").setLevel(logging.WARNING)

    async def run(self) -> None:
        """Work until cancelled; a queue that fails is opened anew."""
        while True:
            try:
                await self._work()
            except Exception as error:
                self.problem = f"the queue of jobs failed: {type(error).__name__}"
                _log.warning("the queue of jobs failed; it is opened anew", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(PROGRESS_SECONDS)

    def stop(self) -> None:
        """Give back the jobs that are running, so that others begin them at once."""
        self._is_stopping = True
        for attempt in self._attempts:
            attempt.cancel()

    async def _work(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            queue = await stack.enter_async_context(
                self._docket.Docket(self._queue, self._url, execution_ttl=timedelta(0))
            )

            async def run_job(job_id: str) -> None:
                await self._look_at(job_id)

            queue.register(run_job)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hand_out(queue))
                group.create_task(self._measure())
                self.problem = None
                if self._runs:
                    worker = await stack.enter_async_context(
                        self._docket.Worker(
                            queue,
                            self.name,
                            concurrency=self._config.job_concurrency,
                            redelivery_timeout=self._config.job_lease,
                            reconnection_delay=timedelta(seconds=PROGRESS_SECONDS),
                            schedule_automatic_tasks=False,
                            minimum_check_interval=CHECK_INTERVAL,
                        )
                    )
                    group.create_task(worker.run_forever())

    async def _hand_out(self, queue: Any) -> None:
        """Put jobs into the queue when they are due, and again those that nobody has begun within a lease."""
        lease, added = self._config.job_lease.total_seconds(), dict[str, float]()
        due = self._uploads.jobs_due
        while True:
            due.clear()
            at = time.monotonic()
            added = {key: since for key, since in added.items() if at - since < lease}
            try:
                for job in await self._state.due_jobs(now(), BATCH):
                    if (key := f"{job.id}:{job.fence}") not in added:
                        await queue.add("run_job", key=key)(job.id)
                        added[key] = at
            except TusError as error:
                _log.warning("could not look for jobs", error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(POLL_SECONDS, lease / 3)):
                    await due.wait()

    async def _measure(self) -> None:
        """Tell now and then how many jobs of all uploads wait and run, and how long the first has waited."""
        while True:
            try:
                found = {(queued.stage, queued.status): queued for queued in await self._state.queue()}
            except TusError as error:
                _log.warning("could not count jobs", error=error.message)
            else:
                for stage in STAGES:
                    for status in (JobStatus.WAITING, JobStatus.RUNNING):
                        queued = found.get((stage, status))
                        self._hooks.measure("jobs", queued.count if queued else 0, stage=stage, status=status.value)
                    first = found.get((stage, JobStatus.WAITING))
                    age = (now() - first.due_at).total_seconds() if first else 0.0
                    self._hooks.measure("jobs_age", max(0.0, age), stage=stage)
            await asyncio.sleep(POLL_SECONDS)

    async def _look_at(self, job_id: str) -> None:
        """Do what a job needs that is due, whatever that is."""
        with structlog.contextvars.bound_contextvars(job=job_id):
            try:
                await self._do(job_id)
            except Fenced:
                _log.debug("somebody else has the job")
            except TusError as error:
                _log.warning("a job has to wait", error=error.message)
            except Exception:
                _log.exception("internal error")

    async def _do(self, job_id: str) -> None:
        upload_id = job_id.partition("/")[0]
        jobs = await self._state.jobs(upload_id)
        job = next((job for job in jobs if job.id == job_id), None)
        if job is None or job.due_at is None or job.due_at > now() or self._is_stopping:
            return
        try:
            upload = await self._uploads.find(upload_id)
        except NotFound:
            await self._state.remove(upload_id)
            return
        if not places.is_settled(upload):
            # A decision was cut off: first the bytes have to be where it wants them, and nowhere else.
            await self._jobs.settle(upload_id)
            await self._do(job_id)
        elif job.status.has_ended or not may_run(job, upload.status, jobs):
            await self._jobs.settle(upload_id)
        elif job.attempts >= self._config.job_attempts:
            await self._end(job, "failed", status=JobStatus.FAILED, error="its workers died")
        else:
            await self._attempt(upload, job, jobs)

    async def _attempt(self, upload: Upload, job: Job, jobs: list[Job]) -> None:
        """Begin a job, have the plugin do it, and record how that ended."""
        at = now()
        begun = job.taken(
            status=JobStatus.RUNNING,
            due_at=at + self._config.job_lease,
            attempts=job.attempts + 1,
            worker=self.name,
            started_at=at,
            progress=0,
            total=upload.length,
            error=None,
        )
        await self._state.save_job(begun, job.fence)
        if job.due_at:
            self._hooks.measure("job_wait", max(0.0, (at - job.due_at).total_seconds()), stage=job.stage)
        attempt = _Attempt(self, begun)
        self._attempts.add(attempt)
        try:
            assert isinstance(self._uploads.store, Readable)
            content = GuardedContent(self._uploads.store.content(upload), functools.partial(self._permit, upload))
            arguments = {"upload": upload, "content": content, "facts": facts_of(jobs), "progress": attempt.progress}
            await attempt.run(arguments)
        finally:
            self._attempts.discard(attempt)

    async def _permit(self, upload: Upload) -> None:
        """Raise `Forbidden` if the upload is no longer what it was when its job began: quarantined, as a rule."""
        status = (await self._uploads.find(upload.id)).status
        if status is not upload.status:
            raise Forbidden(f"the upload was {upload.status.value} and is {status.value} now")

    async def _end(self, job: Job, outcome: str, *, then_settle: bool = True, **changes: Any) -> None:
        """Record how an attempt ended; a result that comes too late is dropped."""
        at = now()
        if then_settle:
            # If this process dies before the consequences are drawn, somebody does it then.
            changes |= {"ended_at": at, "due_at": at + self._config.job_lease}
        await self._commit(job.taken(**changes), job)
        if job.started_at:
            seconds = (at - job.started_at).total_seconds()
            self._hooks.measure("job", seconds, stage=job.stage, plugin=job.plugin, outcome=outcome)
        _log.info("job", outcome=outcome, attempt=job.attempts, error=changes.get("error"))
        if then_settle:
            await self._jobs.settle(job.upload_id)
        self._uploads.jobs_due.set()

    async def _commit(self, ended: Job, job: Job) -> None:
        """Save the end of an attempt, patiently: to do a job again because of a hiccup would be a pity."""
        while True:
            try:
                await self._state.save_job(ended, job.fence)
                return
            except StoreUnavailable as error:
                if self._is_stopping or job.due_at is None or now() > job.due_at:
                    raise
                _log.warning("could not record the end of a job yet", error=error.message)
                await asyncio.sleep(REPEAT_SECONDS)

    def _backoff(self, job: Job) -> timedelta:
        """Return how long to wait for the next attempt: longer each time, and not the same for all jobs."""
        wait: timedelta = min(self._config.job_backoff * 2 ** (job.attempts - 1), MAX_BACKOFF)
        return wait * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


class _Attempt:
    """One attempt at a job, whose lease is kept while the plugin works."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self._worker = worker
        self._job = job
        self._work: asyncio.Task[Any] | None = None
        self._told = (0, job.total)
        self._is_over = asyncio.Event()
        self._is_lost = False

    def progress(self, done: int, total: int | None = None, /) -> None:
        """Take what the plugin says of its progress, in any thread."""
        self._told = (int(done), self._told[1] if total is None else int(total))

    def cancel(self) -> None:
        """Stop waiting for the plugin."""
        if self._work is not None:
            self._work.cancel()

    async def run(self, arguments: dict[str, Any]) -> None:
        """Have the plugin do it, and record how that ended."""
        worker, config, job = self._worker, self._worker._config, self._job
        timeout = config.job_timeout.total_seconds()
        self._work = asyncio.create_task(worker._hooks.run_stage(job, timeout, arguments), name=f"job {job.id}")
        lease = asyncio.create_task(self._keep_lease(), name=f"lease of job {job.id}")
        try:
            await asyncio.wait([self._work])
        finally:
            self._work.cancel()
            self._is_over.set()
            # Not cancelled, for what it has sent could arrive after the end is recorded.
            await asyncio.wait([lease])
        job = self._job
        if self._is_lost:
            _log.warning("the job went to somebody else, or was cancelled; the result is not taken")
        elif self._work.cancelled():
            # This process stops, which is no failure of the job.
            await worker._end(
                job, "returned", then_settle=False, status=JobStatus.WAITING, due_at=now(), attempts=job.attempts - 1
            )
        elif (error := self._work.exception()) is None:
            total = job.total
            await worker._end(
                job, "done", status=JobStatus.DONE, result=self._work.result(), progress=total or 0, error=None
            )
        elif isinstance(error, Reject) or job.attempts >= config.job_attempts:
            await worker._end(job, "failed", status=JobStatus.FAILED, error=_told(error))
        else:
            due = now() + worker._backoff(job)
            await worker._end(
                job, "repeated", then_settle=False, status=JobStatus.WAITING, due_at=due, error=_told(error)
            )
            asyncio.get_running_loop().call_later((due - now()).total_seconds(), worker._uploads.jobs_due.set)

    async def _keep_lease(self) -> None:
        """Record progress, and that this worker lives, until the attempt is over or the job somebody else's."""
        config, state = self._worker._config, self._worker._state
        renewal = config.job_lease / 3
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(PROGRESS_SECONDS, renewal.total_seconds())):
                    await self._is_over.wait()
            done, total = self._told
            job = self._job.changed(progress=done, total=total, due_at=now() + config.job_lease)
            is_due = self._job.due_at is not None and now() > self._job.due_at - renewal * 2
            if not is_due and (job.progress, job.total) == (self._job.progress, self._job.total):
                continue
            try:
                await state.save_job(job, job.fence)
                self._job = job
            except Fenced:
                self._is_lost = True
                self.cancel()
                return
            except TusError as error:
                _log.warning("could not record a job's progress", error=error.message)


def _told(error: BaseException) -> str:
    return error.message if isinstance(error, TusError) else f"internal error: {type(error).__name__}"


def _queue_of(url: str) -> tuple[str, str]:
    """Return the URL and the name of docket's queue for the URL of the setting `jobs`.

    Raises:
        ConfigError: it is neither memory: nor one of Redis.
    """
    scheme = url.partition(":")[0]
    if scheme == "memory":
        return f"memory://{secrets.token_hex(8)}", "tusd-py"
    if scheme.partition("+")[0] not in ("redis", "rediss", "unix"):
        raise ConfigError(f"jobs {redacted(url)!r} is of no known kind; there are memory: and those of redis")
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    prefix = options.get("prefix", "tusd-py")
    rest = urlencode({name: value for name, value in options.items() if name not in _OWN_OPTIONS})
    return (f"{address}?{rest}" if rest else address), f"{prefix}-jobs"
