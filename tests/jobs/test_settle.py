"""The consequences of ended jobs are drawn whatever happens at the same time."""

from datetime import timedelta

import pytest

from tusd_py.backends import Rules
from tusd_py.errors import Fenced
from tusd_py.hooks.caller import Hooks
from tusd_py.hooks.plugins import plugin_manager
from tusd_py.jobs import Jobs
from tusd_py.lockers.memory import MemoryLocker
from tusd_py.models import JobStatus, Status, now
from tusd_py.state.memory import MemoryState
from tusd_py.stores.memory import MemoryStore
from tusd_py.testing.contracts.parts import new_job, new_upload
from tusd_py.uploads import Uploads

PASSED = {"status": JobStatus.DONE, "result": {"ok": True, "reasons": []}, "ended_at": now()}


class BusyState(MemoryState):
    """A state in which something happens after the next time that somebody has read jobs."""

    async def jobs(self, upload_id):
        found = await super().jobs(upload_id)
        happens, self.happens = self.happens, None
        if happens:
            await happens()
        return found

    happens = None


@pytest.fixture
async def settled():
    """Uploads with one that is checked: its first check has passed, its second is running."""
    state = BusyState()
    uploads = Uploads(MemoryStore(), state, MemoryLocker(), Hooks(plugin_manager(entry_points=False)), Rules())
    at = now()
    upload = await uploads.store.create(new_upload(status=Status.CHECKING, offset=10, finished_at=at))
    await state.insert(upload)
    jobs = [
        new_job(upload.id, "check", "a", due_at=at, **PASSED),
        new_job(upload.id, "check", "b", due_at=at + timedelta(hours=1), status=JobStatus.RUNNING),
        new_job(upload.id, "deliver", "a"),
    ]
    await state.add_jobs(jobs)
    return Jobs(uploads), uploads, upload.id


async def test_a_check_that_ends_meanwhile_is_not_forgotten(settled):
    """Who did not see its end does not record that its consequences are drawn."""
    jobs, uploads, upload_id = settled
    state = uploads.state

    async def second_check_ends():
        job = await jobs.find(f"{upload_id}/check/b")
        await state.save_job(job.taken(due_at=now(), **PASSED), job.fence)

    state.happens = second_check_ends
    await jobs.settle(upload_id)
    assert (await uploads.find(upload_id)).status is Status.CHECKING
    assert [job.plugin for job in await state.due_jobs(now(), 10)] == ["b"]
    await jobs.settle(upload_id)
    assert (await uploads.find(upload_id)).status is Status.ACCEPTED
    assert [(job.stage, job.status) for job in await state.due_jobs(now(), 10)] == [("deliver", JobStatus.WAITING)]


async def test_records_that_vanish_meanwhile_are_not_written_down_as_none(settled):
    """The manifest keeps the jobs that the state has lost; with none of them an upload would be forgotten."""
    jobs, uploads, upload_id = settled
    upload = await uploads.find(upload_id)
    await uploads.store.save(upload.changed(jobs=tuple(await uploads.state.jobs(upload_id))))

    async def all_is_lost():
        for job in [*uploads.state._jobs]:
            del uploads.state._jobs[job]

    uploads.state.happens = all_is_lost
    with pytest.raises(Fenced):
        await jobs.settle(upload_id)
    await uploads.state.remove(upload_id)
    assert [(job.plugin, job.status) for job in (await uploads.store.load(upload_id)).jobs] == [
        ("a", JobStatus.DONE),
        ("b", JobStatus.RUNNING),
        ("a", JobStatus.WAITING),
    ]
