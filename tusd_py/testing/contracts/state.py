"""The contract of states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tusd_py.errors import AlreadyExists, Fenced, InvalidRequest
from tusd_py.models import Concat, JobStatus, Status, Upload, now
from tusd_py.state.base import Filter, State
from tusd_py.testing.contracts.parts import new_job, new_upload, second


class StateContract:
    """What every state does."""

    @pytest.fixture
    def make_state(self) -> Callable[[], State]:
        """Return a function that makes a state, not open yet; all that it makes have the same records."""
        raise NotImplementedError("give the tests a fixture make_state")

    @pytest.fixture
    async def state(self, make_state: Callable[[], State]) -> AsyncIterator[State]:
        """Return an open state."""
        state = make_state()
        await state.open()
        yield state
        await state.aclose()

    async def _insert(self, state: State, uploads: Iterable[Upload]) -> list[Upload]:
        inserted = list(uploads)
        for upload in inserted:
            await state.insert(upload)
        return inserted

    async def test_insert_and_get(self, state: State) -> None:
        """A record comes back as it was, whatever is in it."""
        at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        upload = Upload(
            id="Az09_-",
            created_at=at,
            updated_at=at,
            length=2**53 + 1,
            offset=2**53,
            metadata_header="filename w5xiZXJzaWNodC5wZGY=,empty",
            metadata={"filename": "Übersicht\n\u2028\U0001f600.pdf", "empty": ""},
            concat=Concat("final", "final;/files/a /files/b", ("a", "b")),
            status=Status.QUARANTINED,
            owner="Ada 'Robert'); DROP TABLE uploads; --",
            storage={"type": "file", "path": "x/y"},
            finished_at=at,
            expires_at=at,
            fence=7,
            reason="why",
        )
        await state.insert(upload)
        assert await state.get(upload.id) == upload
        assert await state.get("az09_-") is None

    async def test_insert_twice(self, state: State) -> None:
        """An id that is taken is refused, also by a tombstone, and the first record stays."""
        for status in (Status.RECEIVING, Status.TERMINATED):
            upload = new_upload(status=status)
            await state.insert(upload)
            with pytest.raises(AlreadyExists):
                await state.insert(new_upload(id=upload.id, length=99))
            assert await state.get(upload.id) == upload

    async def test_save(self, state: State) -> None:
        """A record is replaced under the number of the lock, which is returned and kept."""
        upload = new_upload()
        await state.insert(upload)
        saved = await state.save(upload.changed(offset=5), 3)
        assert saved == upload.changed(offset=5, fence=3)
        assert await state.get(upload.id) == saved
        assert (await state.save(saved.changed(offset=6), 3)).offset == 6

    async def test_older_lock_changes_nothing(self, state: State) -> None:
        """A writer that lost its lock to a newer one is refused, and the newer one's record stays."""
        upload = new_upload()
        await state.insert(upload)
        newer = await state.save(upload.changed(offset=8), 5)
        with pytest.raises(Fenced):
            await state.save(upload.changed(offset=3), 4)
        assert await state.get(upload.id) == newer

    async def test_removed_record_stays_removed(self, state: State) -> None:
        """Nobody brings back a record that was removed by saving it."""
        upload = new_upload()
        await state.insert(upload)
        await state.remove(upload.id)
        await state.remove(upload.id)
        with pytest.raises(Fenced):
            await state.save(upload, 9)
        assert await state.get(upload.id) is None

    async def test_writers_race(self, state: State, make_state: Callable[[], State]) -> None:
        """Of many writers at once, through two states, the record of the newest lock is what stays."""
        upload = new_upload()
        await state.insert(upload)
        fences = [(number * 7) % 31 for number in range(31)]
        async with second(state, make_state) as other:
            writes = [
                (state, other)[number % 2].save(upload.changed(offset=fence), fence)
                for number, fence in enumerate(fences)
            ]
            results = await asyncio.gather(*writes, return_exceptions=True)
        assert [result for result in results if not isinstance(result, Upload | Fenced)] == []
        found = await state.get(upload.id)
        assert found is not None
        assert (found.fence, found.offset) == (30, 30)

    async def test_one_of_two_inserts_wins(self, state: State, make_state: Callable[[], State]) -> None:
        """The same id inserted at once through two states is taken once."""
        uploads = [new_upload(id="same", length=length) for length in range(8)]
        async with second(state, make_state) as other:
            inserts = [(state, other)[number % 2].insert(upload) for number, upload in enumerate(uploads)]
            results = await asyncio.gather(*inserts, return_exceptions=True)
        winners = [upload for upload, result in zip(uploads, results, strict=True) if result is None]
        assert len(winners) == 1
        assert all(result is None or isinstance(result, AlreadyExists) for result in results)
        assert await state.get("same") == winners[0]

    async def test_pages(self, state: State) -> None:
        """Pages have every record once, the newest first, also if several were created in the same microsecond."""
        start = now()
        times = [start + timedelta(microseconds=number // 3) for number in range(20)]
        uploads = await self._insert(state, [new_upload(created_at=at) for at in times])
        found, after = list[Upload](), None
        while True:
            page = await state.page(Filter(), after, 3)
            assert len(page.uploads) <= 3
            found += page.uploads
            if (after := page.next) is None:
                break
        assert found == sorted(uploads, key=lambda upload: (upload.created_at, upload.id), reverse=True)

    async def test_last_page(self, state: State) -> None:
        """A page that ends with the last record has no next one; without records it is empty."""
        assert (await state.page(Filter(), None, 10)).uploads == []
        await self._insert(state, [new_upload(), new_upload()])
        assert (await state.page(Filter(), None, 2)).next is None
        assert (await state.page(Filter(), None, 1)).next is not None

    async def test_page_while_records_come(self, state: State) -> None:
        """New records do not shift the pages of one who is reading."""
        start = now()
        old = await self._insert(
            state, [new_upload(created_at=start + timedelta(seconds=number)) for number in range(4)]
        )
        first = await state.page(Filter(), None, 2)
        await self._insert(state, [new_upload(created_at=start + timedelta(days=1))])
        second = await state.page(Filter(), first.next, 2)
        assert first.uploads + second.uploads == old[::-1]

    async def test_filters(self, state: State) -> None:
        """A page has only what was asked for."""
        ada, bob = new_upload(owner="ada"), new_upload(owner="bob", status=Status.ACCEPTED)
        both = new_upload(owner="ada", status=Status.ACCEPTED)
        await self._insert(state, [ada, bob, both])

        async def ids(**wanted: Any) -> set[str]:
            return {upload.id for upload in (await state.page(Filter(**wanted), None, 10)).uploads}

        assert await ids(owner="ada") == {ada.id, both.id}
        assert await ids(status=Status.ACCEPTED) == {bob.id, both.id}
        assert await ids(owner="ada", status=Status.ACCEPTED) == {both.id}
        assert await ids(owner="eve") == set()
        await state.save(ada.changed(status=Status.ACCEPTED, owner="eve"), 1)
        assert await ids(owner="eve", status=Status.ACCEPTED) == {ada.id}

    @pytest.mark.parametrize("after", ["", "x", "1", "one,two", ",", "\u0661x,", "'"])
    async def test_wrong_position(self, state: State, after: str) -> None:
        """A position that no page gave is the caller's mistake."""
        with pytest.raises(InvalidRequest):
            await state.page(Filter(), after, 1)

    async def test_due(self, state: State) -> None:
        """What has run out of time is found, the oldest first; what has not, or never does, is not."""
        at = now()
        uploads = [new_upload(expires_at=at - timedelta(seconds=number)) for number in range(3)]
        others = [new_upload(), new_upload(expires_at=at + timedelta(seconds=1))]
        await self._insert(state, uploads + others)
        assert await state.due(at, 10) == uploads[::-1]
        assert await state.due(at, 2) == uploads[:0:-1]
        await state.save(uploads[2].changed(expires_at=None), 1)
        assert await state.due(at, 10) == uploads[1::-1]

    async def test_waiting_finals(self, state: State) -> None:
        """Concatenations that wait for a part are found until they are put together."""
        one, two, end = [
            new_upload(concat=Concat("final", "", members)) for members in (("a", "b", "a"), ("b", "c"), ("b",))
        ]
        other = new_upload(concat=Concat("partial", "partial"))
        await self._insert(state, [one, two, end, other])
        await state.save(end.changed(status=Status.ASSEMBLING), 1)

        async def waiting(member: str) -> list[str]:
            return sorted(upload.id for upload in await state.waiting_finals(member))

        assert await waiting("a") == [one.id]
        assert await waiting("b") == sorted([one.id, two.id])
        assert await waiting("z") == []
        await state.remove(one.id)
        assert await waiting("a") == []

    async def test_highest_fence(self, state: State) -> None:
        """The highest lock number of all records is known, so that new ones can be higher."""
        assert await state.highest_fence() == 0
        uploads = await self._insert(state, [new_upload(), new_upload(fence=3)])
        assert await state.highest_fence() == 3
        await state.save(uploads[0], 12)
        assert await state.highest_fence() == 12

    async def test_nothing_is_lost(self, state: State, make_state: Callable[[], State]) -> None:
        """Records that were made, changed or removed are not lost, and it stays like this when others look."""
        await state.has_lost_records()
        uploads = await self._insert(state, [new_upload(), new_upload()])
        await state.save(uploads[0], 1)
        await state.remove(uploads[1].id)
        async with second(state, make_state) as other:
            assert [await one.has_lost_records() for one in (state, other, state)] == [False] * 3

    async def test_no_problem(self, state: State) -> None:
        """A state that works has no problem, and looking for one leaves nothing behind."""
        assert await state.problem() is None
        assert (await state.page(Filter(), None, 1)).uploads == []

    async def test_next_start(self, state: State, make_state: Callable[[], State]) -> None:
        """Another state on the same records sees every change at once."""
        upload = new_upload()
        await state.insert(upload)
        async with second(state, make_state) as other:
            assert await other.get(upload.id) == upload
            saved = await other.save(upload.changed(offset=5), 2)
        assert await state.get(upload.id) == saved

    async def test_jobs(self, state: State) -> None:
        """Jobs come back as they were, in the order of stages; adding one again leaves the one that is there."""
        upload = new_upload()
        await state.insert(upload)
        jobs = [
            new_job(upload.id, "check", "a", result={"ok": False, "reasons": ["ü\n"]}, error="why", total=2**53 + 1),
            new_job(upload.id, "check", "b.c-d", status=JobStatus.RUNNING, due_at=now(), worker="w", progress=5),
            new_job(upload.id, "describe", "a", started_at=now(), ended_at=now(), attempts=3, fence=2**52),
            new_job(upload.id, "deliver", "a"),
        ]
        await state.add_jobs(jobs[::-1])
        assert await state.jobs(upload.id) == jobs
        assert await state.jobs("another") == []
        await state.add_jobs([jobs[0].changed(error="another", fence=9)])
        await state.add_jobs([])
        assert await state.jobs(upload.id) == jobs

    async def test_save_job(self, state: State) -> None:
        """A job is replaced by who knows its number; with another number, higher or lower, nothing changes."""
        upload = new_upload()
        await state.insert(upload)
        job = new_job(upload.id, "check", "a")
        await state.add_jobs([job])
        begun = job.taken(status=JobStatus.RUNNING)
        await state.save_job(begun, job.fence)
        for fence in (job.fence, begun.fence - 1, begun.fence + 1):
            with pytest.raises(Fenced):
                await state.save_job(begun.changed(error="late"), fence)
        assert await state.jobs(upload.id) == [begun]
        with pytest.raises(Fenced):
            await state.save_job(new_job(upload.id, "check", "unknown"), 0)

    async def test_one_of_many_takes_a_job(self, state: State, make_state: Callable[[], State]) -> None:
        """Of many workers at once, through two states, one begins a job."""
        upload = new_upload()
        await state.insert(upload)
        job = new_job(upload.id, "check", "a")
        await state.add_jobs([job])
        async with second(state, make_state) as other:
            begins = [
                (state, other)[number % 2].save_job(job.taken(worker=str(number)), job.fence) for number in range(20)
            ]
            results = await asyncio.gather(*begins, return_exceptions=True)
        winners = [str(number) for number, result in enumerate(results) if result is None]
        assert [job.worker for job in await state.jobs(upload.id)] == winners
        assert len([result for result in results if isinstance(result, Fenced)]) == 19

    async def test_due_jobs(self, state: State) -> None:
        """The jobs that are due are found, the longest due first, and no more once they are not."""
        at = now()
        jobs = [
            new_job(f"u{number}", "check", "a", due_at=due)
            for number, due in enumerate([at, None, at - timedelta(hours=1), at + timedelta(seconds=1)])
        ]
        for job in jobs:
            await state.add_jobs([job])
        assert await state.due_jobs(at, 10) == [jobs[2], jobs[0]]
        assert await state.due_jobs(at, 1) == [jobs[2]]
        await state.save_job(jobs[2].taken(due_at=None), jobs[2].fence)
        assert await state.due_jobs(at + timedelta(hours=1), 10) == [jobs[0], jobs[3]]

    async def test_queue(self, state: State) -> None:
        """Jobs whose turn has come are counted by stage and status, and with the time when the first was due."""
        at = now().replace(microsecond=0)
        jobs = [
            new_job(f"u{number}", "check" if number % 2 else "deliver", "a", due_at=due)
            for number, due in enumerate([None, at, at - timedelta(hours=1), at - timedelta(hours=2), at])
        ]
        for job in jobs:
            await state.add_jobs([job])
        await state.save_job(jobs[1].taken(status=JobStatus.RUNNING), jobs[1].fence)
        await state.save_job(jobs[4].taken(status=JobStatus.DONE), jobs[4].fence)
        assert sorted(msgspec.structs.astuple(queued) for queued in await state.queue()) == [
            ("check", "running", 1, at),
            ("check", "waiting", 1, at - timedelta(hours=2)),
            ("deliver", "waiting", 1, at - timedelta(hours=1)),
        ]
        for upload_id in ("u1", "u3"):
            await self._insert(state, [upload := new_upload(id=upload_id)])
            await state.remove(upload.id)
        assert [queued.stage for queued in await state.queue()] == ["deliver"]

    async def test_list_jobs(self, state: State) -> None:
        """Jobs are listed by their status of now, the newest first."""
        at = now()
        jobs = [new_job(f"u{number}", "check", "a", created_at=at - timedelta(hours=number)) for number in range(5)]
        for job in jobs:
            await state.add_jobs([job])
        failed = jobs[3].taken(status=JobStatus.FAILED)
        await state.save_job(failed, jobs[3].fence)
        assert await state.list_jobs(None, 10) == [*jobs[:3], failed, jobs[4]]
        assert await state.list_jobs(JobStatus.FAILED, 10) == [failed]
        assert await state.list_jobs(JobStatus.WAITING, 3) == jobs[:3]
        assert await state.list_jobs(JobStatus.DONE, 3) == []

    async def test_jobs_go_with_their_upload(self, state: State) -> None:
        """Of an upload whose record is removed no job is left, and none of another one is lost."""
        kept, gone = new_upload(), new_upload()
        await self._insert(state, [kept, gone])
        for upload in (kept, gone):
            await state.add_jobs([new_job(upload.id, stage, "a", due_at=now()) for stage in ("check", "deliver")])
        last = (await state.jobs(gone.id))[-1]
        await state.remove(gone.id)
        assert await state.jobs(gone.id) == []
        assert {job.upload_id for job in await state.due_jobs(now(), 10)} == {kept.id}
        assert {job.upload_id for job in await state.list_jobs(None, 10)} == {kept.id}
        with pytest.raises(Fenced):
            await state.save_job(last.taken(), last.fence)
