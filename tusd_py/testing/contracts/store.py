"""The contract of stores."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tusd_py import places
from tusd_py.body import Body
from tusd_py.errors import AlreadyExists, Gone, ReadTimeout, SizeExceeded, UnexpectedEnd
from tusd_py.models import Concat, Status, Upload
from tusd_py.stores.base import Concatenable, Movable, Readable, Store, Terminable
from tusd_py.testing.contracts.parts import Tap, new_upload, second, wait_until


async def no_progress(upload: Upload) -> None:
    """Ignore how far it is."""


class StoreFixtures:
    """What tests of a store begin with."""

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
        return await store.append(upload, Body.of(pieces), no_progress)

    async def _offset(self, store: Store, upload: Upload) -> int:
        return (await store.measure(upload)).offset

    async def _bytes(self, store: Store, upload: Upload) -> bytes:
        assert isinstance(store, Readable)
        content = store.content(upload)
        return b"".join([chunk async for chunk in content.chunks(0, content.size)])


# Without the environment, and so without credentials.
READ_ELSEWHERE = """
import pickle, sys
content = pickle.load(sys.stdin.buffer)
with content.open() as file:
    file.seek(-3, 2)
    end = file.read()
    file.seek(0)
    sys.stdout.buffer.write(b"%s %d %s " % (content.url.encode(), content.size, end))
    while block := file.read(100_000):
        sys.stdout.buffer.write(block)
"""


class StoreContract(StoreFixtures):
    """What every store does; a store that lacks a capability fails the tests of that capability."""

    async def test_new_upload_is_empty(self, store: Store) -> None:
        """A new upload has no bytes."""
        upload = await store.create(new_upload())
        assert await self._offset(store, upload) == 0

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
            upload = await store.append(upload, Body.of([piece]), no_progress)
        assert upload.offset == await self._offset(store, upload) == 11
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
            asyncio.create_task(store.append(upload, tap.body(), no_progress))
            for upload, tap in zip(uploads, taps, strict=True)
        ]
        for _ in range(3):
            for number, tap in enumerate(taps):
                tap.let(bytes([number]) * 100)
            await asyncio.sleep(0)
        for tap in taps:
            tap.let(b"")
        for number, upload in enumerate(await asyncio.gather(*appends)):
            assert upload.offset == 300
            assert await self._bytes(store, upload) == bytes([number]) * 300

    async def test_progress_is_durable(self, store: Store) -> None:
        """What `progress` is told is durable at that moment, and grows."""
        upload = await store.create(new_upload(length=30))
        seen = [0]

        async def progress(stored: Upload) -> None:
            assert await self._offset(store, stored) >= stored.offset >= seen[-1]
            seen.append(stored.offset)

        upload = await store.append(upload, Body.of([b"0123456789"] * 3), progress)
        assert upload.offset == await self._offset(store, upload) == 30
        assert seen[-1] <= 30

    async def test_leftovers_are_overwritten(self, store: Store) -> None:
        """Bytes behind the record's offset give way to those of the next request."""
        upload = await self._stored(store, b"0123", length=10)
        await store.append(upload, Body.of([b"456789"]), no_progress)  # and the process dies before it saves the record
        upload = await store.append(upload, Body.of([b"abc"]), no_progress)
        assert upload.offset == await self._offset(store, upload) == 7
        assert await self._bytes(store, upload) == b"0123abc"

    async def test_cut_body_counts(self, store: Store) -> None:
        """What arrived before the connection broke is kept."""
        upload = await store.create(new_upload())
        body = Body.of([b"abc", b"de"], length=10)
        upload = await store.append(upload, body, no_progress)
        assert isinstance(body.error, UnexpectedEnd)
        assert upload.offset == await self._offset(store, upload) == 5

    async def test_interrupted_body_counts(self, store: Store) -> None:
        """What arrived before somebody closed the body is kept."""
        upload = await store.create(new_upload())
        tap = Tap()
        body = tap.body()
        append = asyncio.create_task(store.append(upload, body, no_progress))
        tap.let(b"abcde")
        await wait_until(lambda: body.received == 5)
        body.close(ReadTimeout())
        upload = await append
        assert upload.offset == await self._offset(store, upload) == 5

    async def test_verified_bytes_count(self, store: Store) -> None:
        """Bytes under a checksum that fits are kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc", b"de"])
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        upload = await store.append(upload, body, no_progress)
        assert body.error is None
        assert upload.offset == await self._offset(store, upload) == 10
        assert await self._bytes(store, upload) == b"01234abcde"

    async def test_wrong_bytes_do_not_count(self, store: Store) -> None:
        """Of a body whose checksum does not fit nothing is kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc", b"dX"])
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        upload = await store.append(upload, body, no_progress)
        assert body.discard
        assert upload.offset == await self._offset(store, upload) == 5
        assert await self._bytes(store, upload) == b"01234"

    async def test_half_a_verified_body_does_not_count(self, store: Store) -> None:
        """Of a body under a checksum that is cut nothing is kept."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc"], length=5)
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        upload = await store.append(upload, body, no_progress)
        assert upload.offset == await self._offset(store, upload) == 5

    async def test_what_is_too_long_is_not_kept(self, store: Store) -> None:
        """Bytes for which there is no room are not kept, nor what comes together with them."""
        upload = await self._stored(store, b"01234", length=10)
        body = Body.of([b"abc", b"def"])
        body.limit(5)
        upload = await store.append(upload, body, no_progress)
        assert isinstance(body.error, SizeExceeded)
        assert upload.offset == await self._offset(store, upload) == 5

    async def test_unverified_bytes_never_count(self, store: Store, make_store: Callable[[], Store]) -> None:
        """Bytes under a checksum do not count while they arrive, nor after the process died before the last."""
        upload = await self._stored(store, b"01234", length=10)
        tap = Tap()
        body = tap.body()
        body.verify_with(hashlib.sha256(), hashlib.sha256(b"abcde").digest())
        append = asyncio.create_task(store.append(upload, body, no_progress))
        tap.let(b"abc")
        await wait_until(lambda: body.received == 3)
        assert await self._offset(store, upload) == 5
        append.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await append
        assert await self._offset(store, upload) == 5
        async with second(store, make_store) as again:
            found = await again.load(upload.id)
            assert found is not None
            assert found.offset == 5
            found = await again.append(found, Body.of([b"vwxyz"]), no_progress)
            assert found.offset == 10
            assert await self._bytes(again, found) == b"01234vwxyz"

    async def test_cancelled_append_loses_nothing(self, store: Store) -> None:
        """A request that is dropped in the middle leaves what was durable, and the upload can go on."""
        upload = await self._stored(store, b"01234", length=10)
        tap = Tap()
        body = tap.body()
        append = asyncio.create_task(store.append(upload, body, no_progress))
        tap.let(b"ab")
        await wait_until(lambda: body.received == 2)
        append.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await append
        upload = await store.measure(upload)
        assert 5 <= upload.offset <= 7
        rest = b"01234abcde"[upload.offset :]
        upload = await store.append(upload, Body.of([rest]), no_progress)
        assert upload.offset == 10
        assert await self._bytes(store, upload) == b"01234abcde"

    async def test_what_is_lost_is_gone(self, store: Store) -> None:
        """Bytes that are no longer there are reported, not taken for an empty upload."""
        assert isinstance(store, Terminable)
        upload = await self._stored(store, b"01234", length=10)
        await store.remove(upload)
        with pytest.raises(Gone):
            await store.append(await store.measure(upload), Body.of([b"abcde"]), no_progress)

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
        async with second(store, make_store) as again:
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
        upload = await store.finish(upload)
        assert await self._bytes(store, upload) == b"01234"

    async def test_concatenate(self, store: Store) -> None:
        """The whole has the bytes of the parts in the order of the list, where one may occur twice."""
        assert isinstance(store, Concatenable)
        one, two, empty = [await store.finish(await self._stored(store, piece)) for piece in (b"one,", b"two,", b"")]
        final = await store.create(new_upload(length=12))
        final = await store.finish(await store.concatenate(final, [two, empty, one, two], no_progress))
        assert final.offset == 12
        assert await self._bytes(store, final) == b"two,one,two,"
        assert await self._bytes(store, one) == b"one,"

    async def test_concatenate_again(self, store: Store) -> None:
        """An attempt that was cut off is repeated from the start."""
        assert isinstance(store, Concatenable)
        one, two = [await store.finish(await self._stored(store, piece)) for piece in (b"one,", b"two,")]
        final = await store.create(new_upload(length=8))
        await store.concatenate(final, [one, two], no_progress)
        for _ in range(2):
            made = await store.finish(await store.concatenate(final, [one, two], no_progress))
            assert await self._bytes(store, made) == b"one,two,"

    async def test_read_ranges(self, store: Store) -> None:
        """Any range can be read, by chunks and through a file object that seeks."""
        assert isinstance(store, Readable)
        data = bytes(range(256)) * 8192
        upload = await store.finish(await self._stored(store, data))
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

    async def test_read_by_another_process(self, store: Store) -> None:
        """The content of a complete upload can be pickled, and another process reads it."""
        assert isinstance(store, Readable)
        data = bytes(range(256)) * 4096
        content = store.content(await store.finish(await self._stored(store, data)))
        pickled = await asyncio.to_thread(pickle.dumps, content)
        command = [sys.executable, "-c", READ_ELSEWHERE]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)}
        )
        read, _ = await process.communicate(pickled)
        assert read == b"%s %d %s %s" % (content.url.encode(), len(data), data[-3:], data)

    async def test_on_disk(self, store: Store) -> None:
        """Who needs a path gets one at which the bytes are."""
        assert isinstance(store, Readable)
        data = bytes(range(256)) * 4096
        content = store.content(await store.finish(await self._stored(store, data)))

        def read() -> bytes:
            with content.on_disk() as path:
                return path.read_bytes()

        assert await asyncio.to_thread(read) == data

    async def test_no_problem(self, store: Store) -> None:
        """A store that works has no problem, and looking for one leaves nothing behind."""
        assert await store.problem() is None
        assert [upload_id async for upload_id in store.ids()] == []


class MovableContract(StoreFixtures):
    """What a store does that can move uploads."""

    async def _apart(self, store: Store, data: bytes, **changes: Any) -> Upload:
        """Return a finished upload that was created under a prefix of its own."""
        storage = {**changes.pop("storage", {}), "under": "apart"}
        return await store.finish(await self._stored(store, data, storage=storage, **changes))

    async def test_created_apart(self, store: Store, make_store: Callable[[], Store]) -> None:
        """An upload can begin under a prefix; its record says where its bytes are and where they belong."""
        upload = await self._apart(store, b"01234")
        assert upload.storage["path"] == f"apart/{upload.storage['home']}"
        assert await self._bytes(store, upload) == b"01234"
        async with second(store, make_store) as again:
            assert (await again.load(upload.id) or upload).storage["path"] == upload.storage["path"]

    async def test_move(self, store: Store, make_store: Callable[[], Store]) -> None:
        """Until it is cleared the bytes are at both places, and afterwards at the new one alone."""
        assert isinstance(store, Movable)
        upload = await self._apart(store, b"01234", metadata={"filename": "a.txt"})
        moved = await store.move(upload, upload.storage["home"])
        assert (moved.storage["path"], moved.storage["left"]) == (upload.storage["home"], upload.storage["path"])
        assert "home" not in moved.storage
        assert await self._bytes(store, upload) == await self._bytes(store, moved) == b"01234"
        await store.save(moved)
        await store.clear(moved)
        await store.clear(moved)
        with pytest.raises(Gone):
            await self._bytes(store, upload)
        again = make_store()
        await again.open()
        found = await again.load(upload.id)
        assert found is not None
        assert await self._bytes(again, found) == b"01234"
        await again.aclose()

    async def test_move_there_and_back(self, store: Store) -> None:
        """What was moved can be moved again, to where it was before as well."""
        assert isinstance(store, Movable)
        upload = await store.finish(await self._stored(store, b"01234"))
        home = upload.storage["path"]
        for path in (f"apart/{home}", home, f"apart/{home}"):
            upload = await store.move(upload, path)
            await store.clear(upload)
            upload = places.settled(upload)
            assert (upload.storage["path"], upload.storage.get("home")) == (path, home if path != home else None)
            assert await self._bytes(store, upload) == b"01234"

    async def test_move_again(self, store: Store) -> None:
        """A move of which no record tells is repeated."""
        assert isinstance(store, Movable)
        upload = await self._apart(store, b"01234")
        await store.move(upload, upload.storage["home"])
        moved = await store.move(upload, upload.storage["home"])
        await store.clear(moved)
        assert await self._bytes(store, moved) == b"01234"

    async def test_move_onto_another(self, store: Store) -> None:
        """The bytes of another upload are never replaced, neither by a move nor by what would be moved there."""
        assert isinstance(store, Movable)
        one = await store.finish(await self._stored(store, b"one", storage={"path": "folder/name"}))
        with pytest.raises(AlreadyExists):
            await self._apart(store, b"two", storage={"path": "folder/name"})
        two = await store.finish(await self._stored(store, b"two"))
        with pytest.raises(AlreadyExists):
            await store.move(two, "folder/name")
        assert await self._bytes(store, one) == b"one"
        assert await self._bytes(store, two) == b"two"

    async def test_clear_what_was_begun(self, store: Store) -> None:
        """Of a move that was cut off the copy is deleted if there is one, and never what is another's."""
        assert isinstance(store, Movable)
        other = await store.finish(await self._stored(store, b"01234", storage={"path": "folder/name"}))
        upload = await self._apart(store, b"01234")
        home = upload.storage["home"]
        await store.clear(places.moving(upload, home))
        await store.move(upload, home)
        await store.clear(places.moving(upload, home))
        with pytest.raises(Gone):
            await self._bytes(store, places.moved(upload, home))
        await store.clear(places.moving(upload, "folder/name"))
        for each in (upload, other):
            assert await self._bytes(store, each) == b"01234"

    async def test_remove_amid_a_move(self, store: Store) -> None:
        """Of an upload whose move is not over, neither copy is left."""
        assert isinstance(store, Movable)
        assert isinstance(store, Terminable)
        upload = await self._apart(store, b"01234")
        await store.move(upload, upload.storage["home"])
        await store.remove(places.moving(upload, upload.storage["home"]))
        for record in (upload, places.moved(upload, upload.storage["home"])):
            with pytest.raises(Gone):
                await self._bytes(store, record)
