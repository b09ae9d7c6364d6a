"""Records of jobs in Redis or Valkey, in the bucket of their upload.

The jobs of an upload are one hash, `jobs:UPLOAD`: a field `STAGE/PLUGIN` has the number that guards the record, the
status and the record's JSON, with spaces between them. Sorted sets of jobs' ids find them: `jobdue` by the time when
they are due, `jobqueue:STAGE:STATUS` likewise those that wait or run, `joball` and `jobin:STATUS` by their creation.
One script changes all of these together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any, get_args

import msgspec

from tusd_py.errors import Fenced
from tusd_py.models import Job, JobStatus, Stage
from tusd_py.redis import Script, Server
from tusd_py.state.base import Queued

# KEYS: an upload's jobs.
# ARGV: the bucket's name, the number that the job must have ("": there must be none), and of each job its id, field,
# number, status, time when it is due or "", time of creation, JSON.
_SAVE = """
local base, known, saved = ARGV[1], ARGV[2], 0
for first = 3, #ARGV, 7 do
    local id, field, fence, status = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3]
    local due, created = ARGV[first + 4], ARGV[first + 5]
    local old = redis.call('HGET', KEYS[1], field)
    if (old and string.match(old, '^%d+') or '') == known then
        local queue = base .. ':jobqueue:' .. string.match(field, '^%a+') .. ':'
        if old then
            local before = string.match(old, '^%d+ (%a+)')
            redis.call('ZREM', base .. ':jobin:' .. before, id)
            redis.call('ZREM', queue .. before, id)
        end
        redis.call('HSET', KEYS[1], field, fence .. ' ' .. status .. ' ' .. ARGV[first + 6])
        redis.call('ZADD', base .. ':jobin:' .. status, created, id)
        redis.call('ZADD', base .. ':joball', created, id)
        redis.call('ZREM', base .. ':jobdue', id)
        if due ~= '' then
            redis.call('ZADD', base .. ':jobdue', due, id)
            if status == 'waiting' or status == 'running' then redis.call('ZADD', queue .. status, due, id) end
        end
        saved = saved + 1
    end
end
return saved
"""
ADD = Script(_SAVE, needs_memory=True)
SAVE = Script(_SAVE)

# KEYS: the upload's jobs. ARGV: the bucket's name, the upload's id, all statuses.
REMOVE = Script("""
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local id = ARGV[2] .. '/' .. field
    local queue = ARGV[1] .. ':jobqueue:' .. string.match(field, '^%a+') .. ':'
    for number = 3, #ARGV do
        redis.call('ZREM', ARGV[1] .. ':jobin:' .. ARGV[number], id)
        redis.call('ZREM', queue .. ARGV[number], id)
    end
    redis.call('ZREM', ARGV[1] .. ':joball', id)
    redis.call('ZREM', ARGV[1] .. ':jobdue', id)
end
redis.call('DEL', KEYS[1])
""")

_decoder = msgspec.json.Decoder(Job)


class RedisJobs:
    """The part of a state in Redis that has the jobs."""

    _server: Server

    async def add_jobs(self, jobs: Sequence[Job]) -> None:
        """Add records of jobs that have none."""
        if jobs:
            await self._put(ADD, jobs, "")

    async def jobs(self, upload_id: str) -> list[Job]:
        """Return the jobs of an upload."""
        (records,) = await self._server.commands(("HVALS", self._jobs_key(upload_id)))
        return sorted(map(_decode, records), key=lambda job: job.order)

    async def save_job(self, job: Job, fence: int) -> None:
        """Replace the record of a job, if its number is still `fence`."""
        if not await self._put(SAVE, [job], str(fence)):
            raise Fenced()

    async def due_jobs(self, at: datetime, limit: int) -> list[Job]:
        """Return jobs that are due."""
        return await self._listed("jobdue", "ZRANGEBYSCORE", "-inf", _micros(at), limit)

    async def queue(self) -> list[Queued]:
        """Count jobs that wait or run, over all buckets."""
        kinds = list(product(get_args(Stage), (JobStatus.WAITING, JobStatus.RUNNING)))
        buckets = self._server.buckets
        keys = [bucket.key(f"jobqueue:{stage}:{status.value}") for stage, status in kinds for bucket in buckets]
        answers = await self._server.commands(
            *(("ZCARD", key) for key in keys), *(("ZRANGE", key, 0, 0, "WITHSCORES") for key in keys)
        )
        counts, firsts = answers[: len(keys)], answers[len(keys) :]
        found = []
        for number, (stage, status) in enumerate(kinds):
            own = slice(number * len(buckets), (number + 1) * len(buckets))
            if count := sum(counts[own]):
                due = min(_entry(pair)[0] for first in firsts[own] for pair in _pairs(first))
                found.append(Queued(stage, status, count, datetime.fromtimestamp(due / 1e6, UTC)))
        return found

    async def list_jobs(self, status: JobStatus | None, limit: int) -> list[Job]:
        """Return some jobs, the newest first."""
        index = "joball" if status is None else f"jobin:{status.value}"
        return await self._listed(index, "ZREVRANGEBYSCORE", "+inf", "-inf", limit)

    async def remove_jobs(self, upload_id: str) -> None:
        """Forget the jobs of an upload."""
        bucket = self._server.bucket(upload_id)
        await self._server.run(REMOVE, [self._jobs_key(upload_id)], [bucket.name, upload_id, *JobStatus])

    async def _listed(self, index: str, command: str, first: str | int, last: str | int, limit: int) -> list[Job]:
        """Return the jobs that an index has, over all buckets."""
        answers = await self._server.commands(
            *(
                (command, bucket.key(index), first, last, "WITHSCORES", "LIMIT", 0, limit)
                for bucket in self._server.buckets
            )
        )
        entries = sorted(_entry(pair) for answer in answers for pair in _pairs(answer))
        ids = [job_id for _, job_id in (entries[::-1] if command.startswith("ZREV") else entries)[:limit]]
        if not ids:
            return []
        names = [job_id.partition("/") for job_id in ids]
        records = await self._server.commands(*(("HGET", self._jobs_key(name[0]), name[2]) for name in names))
        return [_decode(record) for record in records if record is not None]

    async def _put(self, script: Script, jobs: Sequence[Job], known: str) -> bool:
        upload_id = jobs[0].upload_id
        arguments: list[str | bytes | int] = [self._server.bucket(upload_id).name, known]
        for job in jobs:
            due = "" if job.due_at is None else _micros(job.due_at)
            arguments += [job.id, f"{job.stage}/{job.plugin}", job.fence, job.status.value, due]
            arguments += [_micros(job.created_at), msgspec.json.encode(job)]
        return bool(await self._server.run(script, [self._jobs_key(upload_id)], arguments))

    def _jobs_key(self, upload_id: str) -> str:
        return self._server.bucket(upload_id).key("jobs", upload_id)


def _decode(record: bytes) -> Job:
    return _decoder.decode(record.split(b" ", 2)[2])


def _micros(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _pairs(answer: Sequence[Any]) -> Sequence[Any]:
    """Return what a sorted set gave as pairs, which it may have given one behind the other."""
    return (
        answer if answer and isinstance(answer[0], list | tuple) else list(zip(answer[::2], answer[1::2], strict=True))
    )


def _entry(pair: Sequence[Any]) -> tuple[float, str]:
    return float(pair[1]), pair[0].decode()
