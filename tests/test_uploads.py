"""The life of uploads on real backends: what is refused, finished again, forgotten, and who may change what."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tusd_py.backends import Rules
from tusd_py.body import Body
from tusd_py.errors import (
    AlreadyExists,
    Fenced,
    Forbidden,
    Gone,
    HookFailed,
    Interrupted,
    InvalidConcat,
    NotFinished,
    NotFound,
    OffsetMismatch,
    Reject,
    ShuttingDown,
    SizeExceeded,
    TooLarge,
)
from tusd_py.hooks.caller import Hooks
from tusd_py.hooks.plugins import plugin_manager
from tusd_py.hooks.specs import hookimpl
from tusd_py.lockers.file import FileLocker
from tusd_py.lockers.memory import MemoryLocker
from tusd_py.models import Changes, Concat, Job, JobStatus, Request, Status, Upload, Verdict, now
from tusd_py.state.base import Filter
from tusd_py.state.memory import MemoryState
from tusd_py.state.sqlite import SqliteState
from tusd_py.stores.file import FileStore
from tusd_py.stores.memory import MemoryStore
from tusd_py.testing.contracts import Tap, wait_until
from tusd_py.uploads import Uploads

REQUEST = Request("POST", "/files/")
Make = Callable[..., Any]


@pytest.fixture(params=["memory", "files"])
async def make(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """A function that puts uploads together from plugins and rules, on one kind of backends."""
    made: list[Any] = []
    in_memory = (MemoryStore(), MemoryState(), MemoryLocker())

    async def build(*plugins: object, **rules: Any) -> Uploads:
        """Each is as another process on the same data."""
        store, state, locker = (
            in_memory
            if request.param == "memory"
            else (FileStore(tmp_path), SqliteState(tmp_path / "uploads.db"), FileLocker(tmp_path / ".locks"))
        )
        await store.open()
        await state.open()
        await locker.open(await state.highest_fence() + 1)
        manager = plugin_manager(entry_points=False)
        for plugin in plugins:
            manager.register(plugin)
        hooks = Hooks(manager, timeout=5)
        await hooks.start()
        made.extend([locker, state, store])
        uploads = Uploads(store, state, locker, hooks, Rules(**{"lock_timeout": 5, **rules}))
        made.insert(0, _Stop(hooks))
        return uploads

    yield build
    for part in made:
        await part.aclose()


class _Stop:
    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    async def aclose(self) -> None:
        await self._hooks.stop(1)


def draft(length: int | None = 10, **changes: Any) -> Upload:
    """What a POST asks for."""
    return Upload(id="", created_at=now(), updated_at=now(), length=length, **changes)


async def created(uploads: Uploads, data: bytes = b"", length: int | None = 10, **changes: Any) -> Upload:
    """An upload with these first bytes."""
    return await uploads.create(REQUEST, draft(length, **changes), Body.of([data] if data else [], length=len(data)))


async def appended(uploads: Uploads, upload: Upload, data: bytes, length: int | None = None) -> Upload:
    """The upload with further bytes."""
    return await uploads.append(REQUEST, upload.id, upload.offset, Body.of([data], length=len(data)), length)


async def content(uploads: Uploads, upload: Upload) -> bytes:
    """All bytes of a finished upload."""
    found, bytes_ = await uploads.read(REQUEST, upload.id)
    return b"".join([chunk async for chunk in bytes_.chunks(0, found.offset)])


# From the first byte to the last


async def test_upload_in_pieces(make: Make) -> None:
    """An upload grows by each request, and is accepted with its last byte."""
    uploads = await make()
    upload = await created(uploads)
    assert (upload.status, upload.offset) == (Status.RECEIVING, 0)
    for piece in (b"0123", b"", b"456789"):
        upload = await appended(uploads, upload, piece)
        assert await uploads.head(REQUEST, upload.id) == upload
    assert (upload.status, upload.offset) == (Status.ACCEPTED, 10)
    assert upload.finished_at is not None
    assert await content(uploads, upload) == b"0123456789"


async def test_upload_without_bytes(make: Make) -> None:
    """An upload of no bytes is complete when it is created."""
    uploads = await make()
    upload = await created(uploads, length=0)
    assert upload.status is Status.ACCEPTED
    assert await content(uploads, upload) == b""


async def test_deferred_length(make: Make) -> None:
    """An upload whose length comes later ends when it is told, and the length cannot be told twice."""
    uploads = await make()
    upload = await created(uploads, b"01234", length=None)
    upload = await appended(uploads, upload, b"56789")
    assert upload.status is Status.RECEIVING
    upload = await appended(uploads, upload, b"", length=10)
    assert upload.status is Status.ACCEPTED


async def test_repeated_last_request(make: Make) -> None:
    """A client that lost the last answer may send an empty PATCH, and learns that all is well."""
    uploads = await make()
    upload = await created(uploads, b"0123456789")
    assert (await appended(uploads, upload, b"")).status is Status.ACCEPTED
    with pytest.raises(OffsetMismatch) as failure:
        await uploads.append(REQUEST, upload.id, 0, Body.of([b"0123456789"], length=10), None)
    assert failure.value.headers["Upload-Offset"] == "10"


async def test_too_many_bytes(make: Make) -> None:
    """Neither an announced nor an unannounced byte too many is kept, in an upload with and without a known length."""
    uploads = await make(max_size=12)
    for upload in (await created(uploads, b"01234"), await created(uploads, b"0123456", length=None)):
        for announced in (6, None):
            with pytest.raises(SizeExceeded):
                await uploads.append(
                    REQUEST, upload.id, upload.offset, Body.of([b"xxx", b"xxx"], length=announced), None
                )
            assert (await uploads.head(REQUEST, upload.id)).offset == upload.offset
    with pytest.raises(TooLarge):
        await created(uploads, length=13)
    with pytest.raises(SizeExceeded):
        await created(uploads, b"x" * 13, length=None)
    assert len((await uploads.state.page(Filter(), None, 10)).uploads) == 2


async def test_unknown(make: Make) -> None:
    """Nothing can be done with what does not exist."""
    uploads = await make()
    for action in (
        uploads.head(REQUEST, "unknown"),
        uploads.read(REQUEST, "unknown"),
        uploads.terminate(REQUEST, "unknown"),
        uploads.append(REQUEST, "unknown", 0, Body.of(), None),
    ):
        with pytest.raises(NotFound):
            await action


async def test_unfinished_is_not_read(make: Make) -> None:
    """What is not complete, or only a part, cannot be read."""
    uploads = await make()
    part = await created(uploads, b"0123456789", concat=Concat("partial", "partial"))
    for upload in (await created(uploads, b"01234"), part):
        with pytest.raises(NotFinished):
            await uploads.read(REQUEST, upload.id)


# Who comes when


async def test_head_stops_a_stalled_body(make: Make) -> None:
    """A HEAD gets the offset of all that arrived, and the stalled request ends."""
    uploads = await make()
    upload = await created(uploads)
    tap = Tap()
    body = tap.body()
    append = asyncio.create_task(uploads.append(REQUEST, upload.id, 0, body, None))
    tap.let(b"012")
    await wait_until(lambda: body.received == 3)
    assert (await uploads.head(REQUEST, upload.id)).offset == 3
    with pytest.raises(Interrupted):
        await append


async def test_head_from_another_process(make: Make) -> None:
    """It does so also for a request that another process has."""
    uploads, others = await make(), await make()
    upload = await created(uploads)
    tap = Tap()
    body = tap.body()
    append = asyncio.create_task(uploads.append(REQUEST, upload.id, 0, body, None))
    tap.let(b"012")
    await wait_until(lambda: body.received == 3)
    assert (await others.head(REQUEST, upload.id)).offset == 3
    with pytest.raises(Interrupted):
        await append
    assert (await appended(others, upload.changed(offset=3), b"3456789")).status is Status.ACCEPTED


async def test_requests_at_once(make: Make) -> None:
    """Of many requests with the same bytes at once one wins, and the others do no harm."""
    uploads, others = await make(), await make()
    upload = await created(uploads)
    attempts = [appended((uploads, others)[number % 2], upload, b"0123456789") for number in range(6)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert [result for result in results if not isinstance(result, Upload | OffsetMismatch | Interrupted)] == []
    assert (await uploads.head(REQUEST, upload.id)).status is Status.ACCEPTED
    assert await content(uploads, upload) == b"0123456789"


async def test_older_writer_changes_nothing(make: Make) -> None:
    """A writer whose lock was given to another while it slept is refused, and the record stays the other's."""
    uploads = await make()
    upload = await created(uploads)
    tap = Tap()
    body = tap.body()
    append = asyncio.create_task(uploads.append(REQUEST, upload.id, 0, body, None))
    tap.let(b"012")
    await wait_until(lambda: body.received == 3)
    newer = await uploads.state.save(upload.changed(metadata={"by": "the newer one"}), upload.fence + 1000)
    tap.let(b"3456789", b"")
    with pytest.raises(Fenced):
        await append
    assert await uploads.state.get(upload.id) == newer


async def test_server_that_stops(make: Make) -> None:
    """Bodies that are being received end with what arrived, later ones at once, and a whole one is not refused."""
    uploads = await make()
    upload = await created(uploads)
    tap = Tap()
    body = tap.body(length=10)
    append = asyncio.create_task(uploads.append(REQUEST, upload.id, 0, body, None))
    tap.let(b"012")
    await wait_until(lambda: body.received == 3)
    assert len(uploads.bodies) == 1
    uploads.bodies.stop(ShuttingDown())
    with pytest.raises(ShuttingDown):
        await append
    assert (await uploads.head(REQUEST, upload.id)).offset == 3
    with pytest.raises(ShuttingDown):
        await uploads.append(REQUEST, upload.id, 3, Tap().body(length=7), None)
    async with asyncio.timeout(5):
        await uploads.bodies.idle()


# Plugins


class Picky:
    """Refuses what begins with `bad`, or is named so when it is complete."""

    @hookimpl
    def inspect_head(self, head: bytes) -> None:
        """Look at the first bytes."""
        if head.startswith(b"bad"):
            raise Reject("bad bytes")

    @hookimpl
    def pre_finish(self, upload: Upload) -> None:
        """Look at the name."""
        if upload.metadata.get("filename") == "bad":
            raise Reject("bad name")


@pytest.mark.parametrize("why", ["bytes", "name"])
async def test_refused_upload_is_gone(make: Make, why: str) -> None:
    """An upload that a plugin refuses never looks complete: not to HEAD, and not to who asks again."""
    uploads = await make(Picky(), head_size=3)
    upload = await created(uploads, metadata={"filename": "bad"} if why == "name" else {})
    with pytest.raises(Reject, match=f"bad {why}"):
        await appended(uploads, upload, b"bad4567890" if why == "bytes" else b"0123456789")
    for action in (
        uploads.head(REQUEST, upload.id),
        uploads.read(REQUEST, upload.id),
        appended(uploads, upload, b"0123456789"),
        uploads.terminate(REQUEST, upload.id),
    ):
        with pytest.raises(Gone, match=f"bad {why}"):
            await action
    assert await uploads.store.load(upload.id) is None


class Failing:
    """Fails the first time that an upload is complete."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def pre_finish(self, upload: Upload) -> None:
        """Fail once."""
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("not my day")


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
async def test_finishing_is_repeated(make: Make, method: str) -> None:
    """An upload that was cut off while it was finished is finished by the next request, and not before."""
    plugin = Failing()
    uploads = await make(plugin)
    upload = await created(uploads)
    with pytest.raises(HookFailed):
        await appended(uploads, upload, b"0123456789")
    found = await uploads.find(upload.id)
    assert (found.status, found.offset) == (Status.ASSEMBLING, 10)
    with pytest.raises(NotFinished):
        await uploads.read(REQUEST, upload.id)
    others = await make(plugin)
    again = (
        await others.head(REQUEST, upload.id)
        if method == "HEAD"
        else await others.append(REQUEST, upload.id, 10, Body.of(length=0), None)
    )
    assert again.status is Status.ACCEPTED
    assert plugin.calls == 2


class Choosing:
    """Chooses id and path by the file name."""

    @hookimpl
    def pre_create(self, upload: Upload) -> Changes:
        """Take what the client says: not a good idea, so the server has to be careful."""
        return Changes(id=upload.metadata.get("id"), path=upload.metadata.get("path"))


async def test_chosen_id(make: Make) -> None:
    """An id that a plugin chose is used once, and cannot be a path."""
    uploads = await make(Choosing())
    upload = await created(uploads, b"0123456789", metadata={"id": "Chosen_1-x"})
    assert upload.id == "Chosen_1-x"
    with pytest.raises(AlreadyExists):
        await created(uploads, b"other", metadata={"id": "Chosen_1-x"})
    for bad in ("../x", "a/b", "a.info", "", " ", "ü", "x" * 129, "a\0"):
        if bad:
            with pytest.raises(Forbidden):
                await created(uploads, metadata={"id": bad})
    await uploads.terminate(REQUEST, upload.id)
    with pytest.raises(AlreadyExists):
        await created(uploads, metadata={"id": "Chosen_1-x"})
    with pytest.raises(Gone):
        await uploads.head(REQUEST, upload.id)


async def test_chosen_path(tmp_path: Path, make: Make, request: pytest.FixtureRequest) -> None:
    """A path that leads out of the directory is refused, and no record is left of the attempt."""
    uploads = await make(Choosing())
    if isinstance(uploads.store, MemoryStore):
        assert (await created(uploads, metadata={"path": "../x"})).status is Status.RECEIVING  # it has no paths
        return
    for path in ("../x", "/tmp/x", "a/../../x", ".locks/fence", "uploads.db"):
        with pytest.raises(Forbidden):
            await created(uploads, b"01234", metadata={"path": path})
    assert (await uploads.state.page(Filter(), None, 10)).uploads == []
    upload = await created(uploads, b"0123456789", metadata={"path": "folder/file"})
    assert (tmp_path / "folder/file").read_bytes() == b"0123456789"
    with pytest.raises(AlreadyExists):
        await created(uploads, b"other", metadata={"path": "folder/file"})
    assert await content(uploads, upload) == b"0123456789"


# Records and bytes


async def test_record_comes_back(make: Make) -> None:
    """A record that is gone is made again from the manifest, by whoever asks, and its lock numbers begin anew."""
    uploads = await make(expire_after=timedelta(days=1))
    upload = await created(uploads, b"01234", metadata={"filename": "x"}, owner="ada")
    await uploads.state.save(upload, 1000)
    await uploads.store.save(upload.changed(fence=1000))
    await uploads.state.remove(upload.id)
    found = await uploads.head(REQUEST, upload.id)
    assert (found.offset, found.metadata, found.owner) == (5, {"filename": "x"}, upload.owner)
    assert found.expires_at is not None
    assert (await appended(uploads, found, b"56789")).status is Status.ACCEPTED


async def test_all_records_come_back(make: Make) -> None:
    """All records can be made again at once; those that are there stay as they are."""
    uploads = await make()
    lost = [await created(uploads, b"01234") for _ in range(3)]
    kept = await created(uploads, b"01234")
    for upload in lost:
        await uploads.state.remove(upload.id)
    assert await uploads.rebuild_all() == 3
    assert await uploads.rebuild_all() == 0
    for upload in (*lost, kept):
        assert (await uploads.find(upload.id)).offset == 5


async def test_upload_that_is_just_being_created(make: Make) -> None:
    """An upload that has its manifest but not its record yet is left to who creates it."""
    uploads, others = await make(), await make()
    upload = draft().changed(id="abc")
    lock = await uploads._locker.acquire("abc", timeout=0, let_go=lambda urgent, **_: None)
    upload = await uploads.store.create(upload)
    assert await others.rebuild_all() == 0
    await uploads.state.insert(upload)
    await lock.release()
    assert (await others.head(REQUEST, "abc")).offset == 0


async def test_record_behind_the_bytes(make: Make) -> None:
    """Bytes that were stored and not recorded, because the server died, count."""
    uploads = await make()
    upload = await created(uploads, b"01234")
    await uploads.state.save(upload.changed(offset=2), upload.fence)
    assert (await uploads.head(REQUEST, upload.id)).offset == 5
    await uploads.state.save(upload.changed(offset=2), 1000)
    others = await make()
    assert (await others.append(REQUEST, upload.id, 5, Body.of([b"56789"]), None)).status is Status.ACCEPTED


@pytest.mark.parametrize("state", ["unfinished", "finished"])
async def test_lost_bytes(make: Make, state: str) -> None:
    """An upload whose bytes are gone is recorded as lost, and says so from then on."""
    uploads = await make()
    upload = await created(uploads, b"0123456789" if state == "finished" else b"01234")
    await uploads.store.remove(upload)
    for action in (uploads.head, uploads.read, uploads.terminate):
        if state == "unfinished" and action == uploads.read:
            continue
        with pytest.raises(Gone):
            await action(REQUEST, upload.id)
    found = await uploads.find(upload.id)
    assert found.status is Status.LOST
    assert found.reason


# The end


async def test_terminated(make: Make) -> None:
    """A removed upload is a tombstone without bytes, and cannot be removed again."""
    uploads = await make()
    for data in (b"01234", b"0123456789"):
        upload = await created(uploads, data)
        assert (await uploads.terminate(REQUEST, upload.id)).status is Status.TERMINATED
        assert await uploads.store.load(upload.id) is None
        for action in (uploads.head, uploads.read, uploads.terminate):
            with pytest.raises(Gone, match="terminated"):
                await action(REQUEST, upload.id)
        with pytest.raises(Gone):
            await uploads.remove(upload.id)


async def test_expired(make: Make) -> None:
    """What is not finished in time is removed, and what is finished stays; every byte gives more time."""
    uploads = await make(expire_after=timedelta(seconds=0.3))
    finished = await created(uploads, b"0123456789")
    late, active = await created(uploads, b"01234"), await created(uploads)
    for _ in range(4):
        await asyncio.sleep(0.1)
        active = await appended(uploads, active, b"x")
    assert await uploads.expire() == 1
    with pytest.raises(Gone, match="expired"):
        await uploads.head(REQUEST, late.id)
    assert (await uploads.head(REQUEST, active.id)).offset == 4
    assert await content(uploads, finished) == b"0123456789"


async def test_expired_before_anybody_looked(make: Make) -> None:
    """An upload whose time is over is gone, also if the reaper has not come yet."""
    uploads = await make(expire_after=timedelta(seconds=0.05))
    upload = await created(uploads, b"01234")
    await asyncio.sleep(0.06)
    with pytest.raises(Gone, match="expired"):
        await appended(uploads, upload, b"56789")
    with pytest.raises(Gone, match="expired"):
        await uploads.head(REQUEST, upload.id)


async def test_upload_in_use_does_not_expire(make: Make) -> None:
    """An upload that is being received is not removed under its client's hands."""
    uploads = await make(expire_after=timedelta(seconds=0.05))
    upload = await created(uploads)
    tap = Tap()
    body = tap.body()
    append = asyncio.create_task(uploads.append(REQUEST, upload.id, 0, body, None))
    tap.let(b"01234")
    await wait_until(lambda: body.received == 5)
    await asyncio.sleep(0.06)
    assert await uploads.expire() == 0
    tap.let(b"56789", b"")
    assert (await append).status is Status.ACCEPTED


async def test_tombstones_are_forgotten(make: Make) -> None:
    """After a while a removed upload is unknown, and what a crash left of it does not bring it back."""
    uploads = await make(remember_ended=timedelta(seconds=0.05))
    upload = await created(uploads, b"01234")
    tombstone = await uploads.terminate(REQUEST, upload.id)
    # The process died after the record was changed and before the bytes were removed.
    await uploads.store.create(upload.changed(storage={}))
    assert await uploads.state.get(upload.id) == tombstone
    await asyncio.sleep(0.06)
    assert await uploads.expire() == 1
    assert await uploads.rebuild_all() == 0
    with pytest.raises(NotFound):
        await uploads.head(REQUEST, upload.id)


class _Busy(MemoryState):
    """A state in which a worker begins a job whenever the jobs have been read, a few times."""

    beginnings = 0

    async def jobs(self, upload_id: str) -> list[Job]:
        found = await super().jobs(upload_id)
        if self.beginnings and found:
            self.beginnings -= 1
            await self.save_job(found[0].taken(status=JobStatus.RUNNING, due_at=None), found[0].fence)
        return found


async def test_terminated_while_a_worker_begins_its_job() -> None:
    """The upload ends all the same, its job is called off, and plugins are told."""
    ended: list[Status] = []

    class Plugin:
        @hookimpl
        def check(self, upload: Upload) -> Verdict:
            return Verdict(ok=True)

        @hookimpl
        def post_terminate(self, upload: Upload) -> None:
            ended.append(upload.status)

    manager = plugin_manager(entry_points=False)
    manager.register(Plugin())
    hooks, state = Hooks(manager, timeout=5), _Busy()
    await hooks.start()
    uploads = Uploads(MemoryStore(), state, MemoryLocker(), hooks, Rules(lock_timeout=5))
    upload = await created(uploads, b"0123456789")
    state.beginnings = 3
    assert (await uploads.terminate(REQUEST, upload.id)).status is Status.TERMINATED
    [job] = await state.jobs(upload.id)
    assert job.due_at is not None
    await hooks.stop(5)
    assert ended == [Status.TERMINATED]


# Concatenation


async def joined(uploads: Uploads, *members: str, **changes: Any) -> Upload:
    """A final upload of these parts."""
    concat = Concat("final", "final;" + " ".join(members), members)
    return await uploads.create(REQUEST, draft(None, concat=concat, **changes), Body.of(length=0))


async def parts(uploads: Uploads) -> tuple[str, str]:
    """Two parts."""
    one, two = [
        await created(uploads, data, length=len(data), concat=Concat("partial", "partial"))
        for data in (b"one,", b"two,")
    ]
    return one.id, two.id


async def test_joined(make: Make) -> None:
    """Parts are joined in order; asking again gives the same upload, another order another one."""
    uploads = await make()
    one, two = await parts(uploads)
    final = await joined(uploads, one, two, one)
    assert (final.status, final.length) == (Status.ACCEPTED, 12)
    assert await content(uploads, final) == b"one,two,one,"
    assert (await joined(uploads, one, two, one)).id == final.id
    assert (await joined(uploads, two, one)).id != final.id
    assert (await joined(uploads, one, two, one, metadata={"a": "b"}, metadata_header="a Yg==")).id != final.id


async def test_joined_again_after_it_was_removed(make: Make) -> None:
    """A concatenation that was removed can be asked for again, and is a new upload."""
    uploads = await make()
    one, two = await parts(uploads)
    final = await joined(uploads, one, two)
    await uploads.terminate(REQUEST, final.id)
    again = await joined(uploads, one, two)
    assert again.id != final.id
    assert await content(uploads, again) == b"one,two,"


async def test_joined_without_parts(make: Make) -> None:
    """A concatenation whose bytes are all there is complete, even if its parts are gone."""
    uploads = await make()
    one, two = await parts(uploads)
    final = await joined(uploads, one, two)
    unfinished = final.changed(status=Status.ASSEMBLING, finished_at=None)
    await uploads.state.save(unfinished, 1000)
    for part in (one, two):
        await uploads.terminate(REQUEST, part)
    others = await make()
    assert (await others.head(REQUEST, final.id)).status is Status.ACCEPTED
    assert await content(others, final) == b"one,two,"


async def test_unfinished_parts(make: Make) -> None:
    """A concatenation of parts that are not complete is refused, or waits for them if that is allowed."""
    uploads = await make()
    one, two = await parts(uploads)
    begun = await created(uploads, b"end", length=4, concat=Concat("partial", "partial"))
    with pytest.raises(InvalidConcat):
        await joined(uploads, one, begun.id)
    patient = await make(concatenation_unfinished=True)
    final = await joined(patient, one, begun.id, two)
    assert (final.status, final.length) == (Status.RECEIVING, 12)
    await appended(patient, begun, b".")
    assert (await patient.head(REQUEST, final.id)).status is Status.ACCEPTED
    assert await content(patient, final) == b"one,end.two,"


async def test_part_with_all_bytes(make: Make) -> None:
    """A part that has all its bytes, but whose last request was cut off before it was finished, can be joined."""
    uploads = await make()
    one, two = await parts(uploads)
    part = await uploads.find(two)
    await uploads.state.save(part.changed(status=Status.RECEIVING, finished_at=None), 1000)
    others = await make()
    final = await joined(others, one, two)
    assert await content(others, final) == b"one,two,"


async def test_part_that_ended(make: Make) -> None:
    """A concatenation that waits for a part that is removed is rejected."""
    uploads = await make(concatenation_unfinished=True)
    one, _ = await parts(uploads)
    begun = await created(uploads, b"end", concat=Concat("partial", "partial"))
    final = await joined(uploads, one, begun.id)
    await uploads.terminate(REQUEST, begun.id)
    with pytest.raises(Gone):
        await uploads.head(REQUEST, final.id)
    with pytest.raises(InvalidConcat):
        await joined(uploads, one, begun.id)
