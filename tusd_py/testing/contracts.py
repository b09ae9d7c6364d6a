"""Contracts of stores, states and lockers as classes of tests: inherit one, and give it a fixture that makes yours.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def make_store(self, tmp_path: Path) -> Callable[[], Store]:
            return lambda: MyStore(tmp_path)

The fixture returns a function, because some tests want a second one that sees the same things, as another process
or the next start of the server does; what lives in one process returns the same object again. The tests are
coroutines: run them with pytest and pytest-asyncio in `auto` mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from tusd_py.body import BATCH_BYTES, Body, Memory, Pump
from tusd_py.errors import (
    AlreadyExists,
    Fenced,
    Gone,
    InvalidRequest,
    Locked,
    ReadTimeout,
    SizeExceeded,
    UnexpectedEnd,
)
from tusd_py.lockers.base import Lock, Locker
from tusd_py.models import Concat, Status, Upload, now
from tusd_py.state.base import Filter, State
from tusd_py.stores.base import Concatenable, Readable, Store, Terminable

T = TypeVar("T")

HANDOVER_SECONDS = 0.2
POLL_SECONDS = 0.01


async def wait_until(condition: Callable[[], T | Awaitable[T]], timeout: float = 20) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises:
        AssertionError: it did not within `timeout` seconds; the message has what it returned last.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        value: T = await result if inspect.isawaitable(result) else result  # type: ignore[assignment]
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {timeout:g} seconds"
        await asyncio.sleep(POLL_SECONDS)


def new_upload(**changes: Any) -> Upload:
    """Return an upload of 10 bytes, just created, with an id that no other has."""
    at = now()
    upload = Upload(id=secrets.token_hex(16), created_at=at, updated_at=at, length=10)
    return upload.changed(**changes)


class Tap:
    """The source of a body whose bytes a test lets through piece by piece."""

    def __init__(self) -> None:
        """Let nothing through yet."""
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def body(self, **options: Any) -> Body:
        """Return the body that gets the pieces; `options` are those of `Body`."""
        return Body(Pump(self._pieces.get, Memory(BATCH_BYTES)), **options)

    def let(self, *pieces: bytes) -> None:
        """Let these through; an empty one is the end."""
        for piece in pieces:
            self._pieces.put_nowait(piece)


async def _no_progress(offset: int) -> None:
    """Ignore how far it is."""


class StoreContract:
    """What every store does; a store that lacks a capability fails the tests of that capability."""

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        """Return a function that makes a store, not open yet; all that it makes have the same bytes."""
        raise NotImplementedError("give the tests a fixture make_store")

    @pytest.fixture
    async def store(self, make_store: Callable[[], Store]) -> AsyncIterator[Store]:
        """Return an open store."""
        store = make_store()
        await store.open()
        yield store
        await store.aclose()

    async def _stored(self, store: Store, *pieces: bytes, **changes: Any) -> Upload:
        """Create an upload that consists of these bytes."""
        size = len(b"".join(pieces))
        upload = await store.create(new_upload(**{"length": size, **changes}))
        return upload.changed(offset=await store.append(upload, Body.of(pieces), _no_progress))

    async def _bytes(self, store: Store, upload: Upload) -> bytes:
        assert isinstance(store, Readable)
        content = store.content(upload)
        return b"".join([chunk async for chunk in content.chunks(0, content.size)])

    async def test_new_upload_is_empty(self, store: Store) -> None:
        """A new upload has no bytes."""
        upload = await store.create(new_upload())
        assert await store.durable(upload) == 0

    async def test_ids_are_unique(self, store: Store) -> None:
        """An id that is taken is refused, and the first upload keeps its bytes."""
        upload = await self._stored(store, b"first")
        with pytest.raises(AlreadyExists):
            await store.create(new_upload(id=upload.id))
        assert await self._bytes(store, upload) == b"first"

    async def test_appends_are_joined(self, store: Store) -> None:
        """Bytes of several requests follow each other."""
        upload = await store.create(new_upload(length=11))
        for piece in (b"hello", b"", b" ", b"world"):
            upload = upload.changed(offset=await store.append(upload, Body.of([piece]), _no_progress))
        assert upload.offset == await store.durable(upload) == 11
        assert await self._bytes(store, upload) == b"hello world"

    async def test_many_small_pieces(self, store: Store) -> None:
        """A body in thousands of tiny pieces arrives in order."""
        pieces = [b"%d," % number for number in range(5000)]
        upload = await self._stored(store, *pieces)
        assert await self._bytes(store, upload) == b"".join(pieces)

    async def test_uploads_do_not_mix(self, store: Store) -> None:
        """Bodies that arrive at the same time go each to its own upload."""
        taps = [Tap() for _ in range(8)]
        uploads = [await store.create(new_upload(length=300)) for _ in taps]
        appends = [
            asyncio.create_task(store.append(upload, tap.body(), _no_progress))
            for upload, tap in zip(uploads, taps, strict=True)
        ]
        for _ in range(3):
            for number, tap in enumerate(taps):
                tap.let(bytes([number]) * 100)
            await asyncio.sleep(0)
        for tap in taps:
            tap.let(b"")
        assert await asyncio.gather(*appends) == [300] * len(taps)
        for number, upload in enumerate(uploads):
            assert await self._bytes(store, upload.changed(offset=300)) == bytes([number]) * 300

    async def test_progress_is_durable(self, store: Store) -> None:
        """What `progress` is told is durable at that moment, and grows."""
        upload = await store.create(new_upload(length=30))
        tap, seen = Tap(), list[int]()

        async def progress(offset: int) -> None:
            assert await store.durable(upload) >= offset
            seen.append(offset)
            tap.let(b"0123456789" if offset < 30 else b"")

        tap.let(b"0123456789")
        assert await store.append(upload, tap.body(), progress) == 30
        assert seen == [10, 20, 30]

    async def test_leftovers_are_overwritten(self, store: Store) -> None:
        """Bytes behind the record's offset give way to those of the next request."""
        upload = await self._stored(store, b"0123456789")
        upload = upload.changed(offset=4)
        assert await store.append(upload, Body.of([b"abc"]), _no_progress) == 7
        assert await store.durable(upload) == 7
        assert await self._bytes(store, upload.changed(offset=7)) == b"0123abc"

    async def test_cut_body_counts(self, store: Store) -> None:
        """What arrived before the connection broke is kept."""
        upload = await store.create(new_upload())
        body = Body.of([b"abc", b"de"], length=10)
        assert await store.append(upload, body, _no_progress) == 5
        assert isinstance(body.error, UnexpectedEnd)
        assert await store.durable(upload) == 5

    async def test_interrupted_body_counts(self, store: Store) -> None:
        """What arrived before somebody closed the body is kept."""
        upload = await store.create(new_upload())
        tap = Tap()
        body = tap.body()

        async def close(offset: int) -> None:
            body.close(ReadTimeout())

        tap.let(b"abcde")
        assert await store.append(upload, body, close) == 5
        assert await store.durable(upload) == 5

    async def test_verified_bytes_count(self, store: Store) -> None:
        """Bytes under a checksum that fits are kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc", b"de"])
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        assert await store.append(upload, body, _no_progress) == 10
        assert body.error is None
        assert await self._bytes(store, upload.changed(offset=await store.durable(upload))) == b"01234abcde"

    async def test_wrong_bytes_do_not_count(self, store: Store) -> None:
        """Of a body whose checksum does not fit nothing is kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc", b"dX"])
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        assert await store.append(upload, body, _no_progress) == 5
        assert body.discard
        assert await store.durable(upload) == 5
        assert await self._bytes(store, upload) == b"01234"

    async def test_half_a_verified_body_does_not_count(self, store: Store) -> None:
        """Of a body under a checksum that is cut nothing is kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc"], length=5)
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        assert await store.append(upload, body, _no_progress) == 5
        assert await store.durable(upload) == 5

    async def test_too_long_body_does_not_count(self, store: Store) -> None:
        """Of a body with more bytes than there is room nothing is kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc", b"def"])
        body.limit(5)
        assert await store.append(upload, body, _no_progress) == 5
        assert isinstance(body.error, SizeExceeded)
        assert await store.durable(upload) == 5

    async def test_unverified_bytes_never_count(self, store: Store, make_store: Callable[[], Store]) -> None:
        """Bytes under a checksum do not count while they arrive, nor after the process died before the last."""
        upload = await self._stored(store, b"01234", length=10)
        tap = Tap()
        body = tap.body()
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        append = asyncio.create_task(store.append(upload, body, _no_progress))
        tap.let(b"abc")
        await wait_until(lambda: body.received == 3)
        assert await store.durable(upload) == 5
        append.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await append
        assert await store.durable(upload) == 5
        again = make_store()
        await again.open()
        found = await again.load(upload.id)
        assert found is not None
        assert found.offset == 5
        assert await again.append(found, Body.of([b"vwxyz"]), _no_progress) == 10
        assert await self._bytes(again, found.changed(offset=10)) == b"01234vwxyz"

    async def test_cancelled_append_loses_nothing(self, store: Store) -> None:
        """A request that is dropped in the middle leaves what was durable, and the upload can go on."""
        upload = await self._stored(store, b"01234", length=10)
        tap = Tap()
        body = tap.body()
        append = asyncio.create_task(store.append(upload, body, _no_progress))
        tap.let(b"ab")
        await wait_until(lambda: body.received == 2)
        append.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await append
        offset = await store.durable(upload)
        assert 5 <= offset <= 7
        rest = b"01234abcde"[offset:]
        assert await store.append(upload.changed(offset=offset), Body.of([rest]), _no_progress) == 10
        assert await self._bytes(store, upload.changed(offset=10)) == b"01234abcde"

    async def test_what_is_lost_is_gone(self, store: Store) -> None:
        """Bytes that are no longer there are reported, not taken for an empty upload."""
        assert isinstance(store, Terminable)
        upload = await self._stored(store, b"01234")
        await store.remove(upload)
        with pytest.raises(Gone):
            await store.durable(upload)
        with pytest.raises(Gone):
            await store.append(upload, Body.of([b"more"]), _no_progress)

    async def test_manifest_has_the_record(self, store: Store, make_store: Callable[[], Store]) -> None:
        """The record can be made again from the manifest, with the offset that the bytes have."""
        upload = await self._stored(
            store,
            b"01234",
            length=None,
            owner="ada",
            metadata={"filename": "Übersicht.pdf", "empty": ""},
            metadata_header="filename w5xiZXJzaWNodC5wZGY=,empty",
            concat=Concat("partial", "partial"),
        )
        again = make_store()
        await again.open()
        assert await again.load(upload.id) == upload
        await again.save(upload.changed(length=9, status=Status.ASSEMBLING))
        assert await store.load(upload.id) == upload.changed(length=9, status=Status.ASSEMBLING)

    async def test_unknown_upload(self, store: Store) -> None:
        """There is no record of an upload that never was."""
        assert await store.load("nobody") is None

    async def test_ids(self, store: Store) -> None:
        """All uploads that are there are found, and none that is removed."""
        assert isinstance(store, Terminable)
        uploads = [await store.create(new_upload()) for _ in range(3)]
        await store.remove(uploads.pop())
        assert {upload_id async for upload_id in store.ids()} == {upload.id for upload in uploads}

    async def test_remove(self, store: Store) -> None:
        """What is removed is gone with its manifest; removing it again is no error."""
        assert isinstance(store, Terminable)
        upload = await self._stored(store, b"01234")
        await store.remove(upload)
        await store.remove(upload)
        assert await store.load(upload.id) is None

    async def test_finish(self, store: Store) -> None:
        """A complete upload can be finished, more than once, and keeps its bytes."""
        upload = await self._stored(store, b"01234")
        await store.finish(upload)
        await store.finish(upload)
        assert await self._bytes(store, upload) == b"01234"

    async def test_concatenate(self, store: Store) -> None:
        """The whole has the bytes of the parts in the order of the list, where one may occur twice."""
        assert isinstance(store, Concatenable)
        one, two, empty = [await self._stored(store, piece) for piece in (b"one,", b"two,", b"")]
        final = await store.create(new_upload(length=12))
        await store.concatenate(final, [two, empty, one, two], _no_progress)
        assert await self._bytes(store, final.changed(offset=12)) == b"two,one,two,"
        assert await self._bytes(store, one) == b"one,"

    async def test_concatenate_again(self, store: Store) -> None:
        """An attempt that was cut off is repeated from the start."""
        assert isinstance(store, Concatenable)
        one, two = [await self._stored(store, piece) for piece in (b"one,", b"two,")]
        final = await store.create(new_upload(length=8))
        for members in ([one], [one, two]):
            await store.concatenate(final, members, _no_progress)
        assert await self._bytes(store, final.changed(offset=8)) == b"one,two,"

    async def test_read_ranges(self, store: Store) -> None:
        """Any range can be read, by chunks and through a file object that seeks."""
        assert isinstance(store, Readable)
        data = bytes(range(256)) * 8192
        upload = await self._stored(store, data)
        content = store.content(upload)
        assert content.size == len(data)
        assert ":" in content.url
        for start, stop in ((0, len(data)), (5, 5), (1, 2), (255, 1_500_000), (len(data) - 1, len(data))):
            assert b"".join([chunk async for chunk in content.chunks(start, stop)]) == data[start:stop]

        def seek() -> bytes:
            with content.open() as file:
                file.seek(-3, 2)
                return file.read()

        assert await asyncio.to_thread(seek) == data[-3:]

    async def test_no_problem(self, store: Store) -> None:
        """A store that works has no problem, and looking for one leaves nothing behind."""
        assert await store.problem() is None
        assert [upload_id async for upload_id in store.ids()] == []


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
        other = make_state()
        await other.open()
        upload = new_upload()
        await state.insert(upload)
        fences = [(number * 7) % 31 for number in range(31)]
        writes = [
            (state, other)[number % 2].save(upload.changed(offset=fence), fence) for number, fence in enumerate(fences)
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [result for result in results if not isinstance(result, Upload | Fenced)] == []
        found = await state.get(upload.id)
        assert found is not None
        assert (found.fence, found.offset) == (30, 30)
        if other is not state:
            await other.aclose()

    async def test_one_of_two_inserts_wins(self, state: State, make_state: Callable[[], State]) -> None:
        """The same id inserted at once through two states is taken once."""
        other = make_state()
        await other.open()
        uploads = [new_upload(id="same", length=length) for length in range(8)]
        inserts = [(state, other)[number % 2].insert(upload) for number, upload in enumerate(uploads)]
        results = await asyncio.gather(*inserts, return_exceptions=True)
        winners = [upload for upload, result in zip(uploads, results, strict=True) if result is None]
        assert len(winners) == 1
        assert all(result is None or isinstance(result, AlreadyExists) for result in results)
        assert await other.get("same") == winners[0]
        if other is not state:
            await other.aclose()

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

    async def test_next_start(self, state: State, make_state: Callable[[], State]) -> None:
        """Another state on the same records sees every change at once."""
        upload = new_upload()
        await state.insert(upload)
        other = make_state()
        await other.open()
        assert await other.get(upload.id) == upload
        saved = await other.save(upload.changed(offset=5), 2)
        assert await state.get(upload.id) == saved
        if other is not state:
            await other.aclose()


class _Holder:
    """Notes what a holder was asked, and lets go when asked if it should."""

    def __init__(self, *, yields: bool = False) -> None:
        self.asked: list[bool] = []
        self.yields = yields
        self.lock: Lock | None = None

    def let_go(self, urgent: bool) -> None:
        self.asked.append(urgent)
        if self.yields and self.lock is not None:
            lock, self.lock = self.lock, None
            asyncio.get_running_loop().create_task(lock.release())

    async def take(self, locker: Locker, upload_id: str = "one", *, timeout: float = 5, urgent: bool = True) -> Lock:
        self.lock = await locker.acquire(upload_id, timeout=timeout, let_go=self.let_go, urgent=urgent)
        return self.lock


class LockerContract:
    """What every locker does."""

    @pytest.fixture
    def make_locker(self) -> Callable[[], Locker]:
        """Return a function that makes a locker, not open yet; all that it makes give out the same locks."""
        raise NotImplementedError("give the tests a fixture make_locker")

    @pytest.fixture
    async def locker(self, make_locker: Callable[[], Locker]) -> AsyncIterator[Locker]:
        """Return an open locker."""
        locker = make_locker()
        await locker.open(1)
        yield locker
        await locker.aclose()

    @pytest.fixture
    async def other(self, locker: Locker, make_locker: Callable[[], Locker]) -> AsyncIterator[Locker]:
        """Return a second open locker for the same locks, as another process has it."""
        other = make_locker()
        if other is locker:
            yield other
            return
        await other.open(1)
        yield other
        await other.aclose()

    async def test_lock_is_exclusive(self, locker: Locker, other: Locker) -> None:
        """A lock that is held is not given out, and who waits is told so when the time is up."""
        lock = await _Holder().take(locker)
        for second in (locker, other):
            started = time.monotonic()
            with pytest.raises(Locked):
                await _Holder().take(second, timeout=0.15)
            assert 0.1 <= time.monotonic() - started < 2
        await lock.release()
        await (await _Holder().take(other, timeout=0)).release()

    async def test_other_uploads_are_free(self, locker: Locker, other: Locker) -> None:
        """Locks of different uploads have nothing to do with each other."""
        one = await _Holder().take(locker, "one", timeout=0)
        two = await _Holder().take(other, "two", timeout=0)
        await one.release()
        await two.release()

    async def test_try_without_waiting(self, locker: Locker, other: Locker) -> None:
        """A time-out of 0 takes a free lock, and asks nobody for one that is held."""
        holder = _Holder()
        lock = await holder.take(locker, timeout=0)
        with pytest.raises(Locked):
            await _Holder().take(other, timeout=0)
        assert holder.asked == []
        await lock.release()
        await lock.release()
        await (await _Holder().take(other, timeout=0)).release()

    @pytest.mark.parametrize("urgent", [True, False])
    async def test_holder_is_asked(self, locker: Locker, other: Locker, urgent: bool) -> None:
        """The holder learns that somebody waits, and whether it is urgent."""
        holder = _Holder()
        lock = await holder.take(locker)
        waiter = asyncio.create_task(_Holder().take(other, urgent=urgent))
        await wait_until(lambda: holder.asked)
        assert set(holder.asked) == {urgent}
        await lock.release()
        await (await waiter).release()

    async def test_lock_is_handed_over(self, locker: Locker, other: Locker) -> None:
        """A holder that lets go when asked is followed at once."""
        for first, second in ((locker, locker), (locker, other), (other, locker)):
            await _Holder(yields=True).take(first)
            started = time.monotonic()
            lock = await _Holder().take(second)
            assert time.monotonic() - started < HANDOVER_SECONDS
            await lock.release()

    async def test_next_holder_is_asked_too(self, locker: Locker, other: Locker) -> None:
        """Who waits behind another waiter has its wish passed on."""
        first = await _Holder().take(locker)
        waiters = [asyncio.create_task(_Holder(yields=True).take(which)) for which in (other, locker, other)]
        await asyncio.sleep(0)
        await first.release()
        # Each lets go when asked, so all get their turn.
        await asyncio.wait_for(asyncio.gather(*waiters), 5)

    async def test_numbers_grow(self, locker: Locker, other: Locker) -> None:
        """Every lock on an upload has a higher number than all before it."""
        fences = []
        for which in (locker, other, locker, other):
            lock = await _Holder().take(which)
            fences.append(lock.fence)
            await lock.release()
        assert fences == sorted(set(fences))
        assert fences[0] >= 1

    async def test_numbers_begin_high_enough(self, make_locker: Callable[[], Locker]) -> None:
        """Numbers begin behind those that records have from before."""
        locker = make_locker()
        await locker.open(1000)
        lock = await _Holder().take(locker)
        assert lock.fence >= 1000
        await lock.release()
        await locker.aclose()

    async def test_dropped_waiter_leaves_nothing(self, locker: Locker, other: Locker) -> None:
        """A request that is dropped while it waits neither gets the lock nor keeps it from others."""
        for delay in (0, 0.001, 0.02):
            lock = await _Holder().take(locker)
            waiters = [asyncio.create_task(_Holder().take(which)) for which in (locker, other)]
            await asyncio.sleep(delay)
            release = asyncio.create_task(lock.release())
            for waiter in waiters:
                waiter.cancel()
            for waiter in waiters:
                with contextlib.suppress(asyncio.CancelledError):
                    await (await waiter).release()
            await release
            await (await _Holder().take(other, timeout=1)).release()

    async def test_nobody_shares(self, locker: Locker, other: Locker) -> None:
        """Many who want the same lock have it one after the other, each with a higher number."""
        inside, fences = 0, list[int]()

        async def work(which: Locker) -> None:
            nonlocal inside
            for _ in range(3):
                lock = await _Holder().take(which, timeout=20)
                inside += 1
                assert inside == 1
                fences.append(lock.fence)
                await asyncio.sleep(0.001)
                inside -= 1
                await lock.release()

        await asyncio.gather(*(work((locker, other)[number % 2]) for number in range(8)))
        assert fences == sorted(set(fences))
        assert len(fences) == 24
