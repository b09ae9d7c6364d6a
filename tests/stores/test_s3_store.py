"""What the S3 store does beyond the contract: parts, tails, crashes, copies, names, memory, and what S3 may answer."""

import asyncio
import contextlib
import hashlib
import io
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import crc32c
import pytest

from tusd_py.backends import Rules
from tusd_py.body import Body
from tusd_py.errors import AlreadyExists, Forbidden, Gone, NotFinished, StoreUnavailable, TusError
from tusd_py.hooks.caller import Hooks
from tusd_py.hooks.plugins import plugin_manager
from tusd_py.lockers.memory import MemoryLocker
from tusd_py.models import Status, Upload, now
from tusd_py.state.memory import MemoryState
from tusd_py.stores.s3 import S3Store, Settings
from tusd_py.stores.s3_client import Bucket, Options, Outgoing, encoded_crc
from tusd_py.stores.s3_content import ID_KEY, user_metadata
from tusd_py.stores.s3_write import Budget, Stored
from tusd_py.testing.contracts import Tap, new_upload, wait_until
from tusd_py.testing.contracts.store import no_progress
from tusd_py.testing.faults import Fault, FaultProxy
from tusd_py.testing.s3 import BUCKET, READER_KEY, READER_SECRET_KEY, S3Server
from tusd_py.uploads import Uploads

MIB = 1024 * 1024
PART = 5 * MIB

Make = Callable[..., S3Store]


def some_bytes(size: int) -> bytes:
    """Bytes that do not repeat."""
    return random.Random(size).randbytes(size)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """What stands between the store and S3."""
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def prefix() -> str:
    """Where this test's objects are."""
    return f"{secrets.token_hex(8)}/"


@pytest.fixture
async def make_store(proxy: FaultProxy, prefix: str) -> AsyncIterator[Make]:
    """A function that opens a store; all of them have the same objects."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**settings: Any) -> S3Store:
            options = Options(endpoint=proxy.endpoint, path_style=True, seconds=5)
            store = S3Store(BUCKET, prefix, options, Settings(**{"part_size": PART, **settings}))
            await store.open()
            stack.push_async_callback(store.aclose)
            return store

        yield make


@pytest.fixture
async def store(make_store: Make) -> S3Store:
    """An open store with small parts."""
    return await make_store()


async def append(store: S3Store, upload: Upload, data: bytes, digest: bytes | None = None) -> Upload:
    """Append bytes as they come from a socket, under a checksum if there is one."""
    body = Body.of([data[start : start + 256 * 1024] for start in range(0, len(data), 256 * 1024)])
    if digest is not None:
        body.verify_with(hashlib.sha256(), digest)
    return await store.append(upload, body, no_progress)


async def read(store: S3Store, upload: Upload) -> bytes:
    """Return an upload's bytes."""
    content = store.content(upload)
    return b"".join([chunk async for chunk in content.chunks(0, content.size)])


async def make_whole(store: S3Store, data: bytes, **changes: Any) -> Upload:
    """Return a finished upload."""
    upload = await store.create(new_upload(length=len(data), **changes))
    return await store.finish(await append(store, upload, data))


# Parts and tails


@pytest.mark.parametrize("cuts", [[], [1], [PART], [PART - 1, PART + 1], [MIB, 7 * MIB, 12 * MIB - 1]])
async def test_any_requests_any_parts(store: S3Store, s3: S3Server, prefix: str, cuts: list[int]) -> None:
    """However requests cut the bytes, parts are of one size, and nothing but object and manifest is left."""
    data = some_bytes(12 * MIB)
    upload = await store.create(new_upload(length=len(data)))
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        upload = await append(store, upload, data[start:stop])
        assert upload.offset == stop
        whole = upload.offset if stop == len(data) else stop // PART * PART
        assert sum(part.size for part in upload.parts) == whole
        assert sum(segment.size for segment in upload.tail) == stop - whole
    assert [part.size for part in upload.parts] == [PART, PART, 2 * MIB]
    upload = await store.finish(upload)
    assert await read(store, upload) == data
    assert s3.keys(f"{prefix}{upload.id}") == [f"{prefix}{upload.id}", f"{prefix}{upload.id}.info"]
    assert s3.multiparts(prefix) == []


@pytest.mark.one_server
async def test_tiny_requests(store: S3Store, s3: S3Server, prefix: str) -> None:
    """Many small requests make few segments at any time, and the bytes are right."""
    data = some_bytes(6 * MIB)
    upload = await store.create(new_upload(length=len(data)))
    step = 60_000
    for start in range(0, len(data), step):
        upload = await append(store, upload, data[start : start + step])
        assert len(upload.tail) <= 33
    assert upload.offset == len(data)
    assert await read(store, await store.finish(upload)) == data
    assert len(s3.keys(prefix + upload.id)) == 2


async def test_deferred_length(store: S3Store) -> None:
    """An upload whose length comes last is one object, also if there is no byte left to send by then."""
    data = some_bytes(PART + 100)
    store_upload = await store.create(new_upload(length=None))
    assert int(store_upload.storage["part_size"]) == 525 * MIB
    upload = await append(store, store_upload, data)
    upload = await store.finish(upload.changed(length=len(data)))
    assert await read(store, upload) == data


@pytest.mark.one_server
async def test_large_parts_go_through_segments(make_store: Make) -> None:
    """Parts that are larger than memory should hold are put together from segments."""
    store = await make_store(part_size=12 * MIB, memory=24 * MIB)
    data = some_bytes(30 * MIB)
    upload = await store.create(new_upload(length=len(data)))
    upload = await append(store, upload, data)
    assert [part.size for part in upload.parts] == [12 * MIB, 12 * MIB, 6 * MIB]
    assert await read(store, await store.finish(upload)) == data
    assert store.budget.used == 0


@pytest.mark.parametrize("length", [0, 10, PART, PART + 1])
async def test_small_uploads(store: S3Store, proxy: FaultProxy, length: int) -> None:
    """What fits into one part costs one call for its bytes; nothing at all is an empty object."""
    data = some_bytes(length)
    upload = await store.create(new_upload(length=length))
    if length:
        upload = await append(store, upload, data)
    upload = await store.finish(upload)
    assert proxy.count()["CreateMultipartUpload"] == (length > PART)
    assert proxy.count()["PutObject"] - 1 == 1 + (length <= PART)  # without the one that opened the store
    assert await read(store, upload) == data


async def test_object_tells_what_it_is(make_store: Make, s3: S3Server, prefix: str) -> None:
    """The object carries type, name and metadata, whatever letters they have, however many parts it has."""
    store = await make_store(tags="kind=upload")
    metadata = {
        "filename": "Übersicht 1.pdf",
        "filetype": "application/pdf",
        "Note": "=?a",
        "a b": "x",
        "big": "y" * 3000,
    }
    for size in (10, PART + 1):
        upload = await make_whole(store, some_bytes(size), metadata=metadata)
        found = s3.call("head_object", Key=prefix + upload.id)
        assert found["ContentType"] == "application/pdf"
        assert "filename*=UTF-8''%C3%9Cbersicht%201.pdf" in found["ContentDisposition"]
        assert found["Metadata"] == {**user_metadata(upload)}
        assert found["Metadata"][ID_KEY] == upload.id
        assert found["Metadata"]["filename"] == "=?UTF-8?B?w5xiZXJzaWNodCAxLnBkZg==?="
        assert found["Metadata"]["note"] == "=?UTF-8?B?PT9h?="
        assert not {"a b", "big"} & set(found["Metadata"])
        assert s3.call("get_object_tagging", Key=prefix + upload.id)["TagSet"] == [{"Key": "kind", "Value": "upload"}]


@pytest.mark.parametrize("size", [10, PART + 1])
async def test_object_settings(make_store: Make, s3: S3Server, prefix: str, size: int) -> None:
    """The object is encrypted and of the storage class that the settings name, and by default nothing is asked for."""
    wanted = {"ServerSideEncryption": "AES256", "StorageClass": "STANDARD_IA"}
    upload = await make_whole(await make_store(encryption="AES256", storage_class="STANDARD_IA"), some_bytes(size))
    found = s3.call("head_object", Key=prefix + upload.id)
    assert {name: found.get(name) for name in wanted} == wanted
    plain = await make_whole(await make_store(), some_bytes(size))
    assert s3.call("head_object", Key=prefix + plain.id).get("StorageClass", "STANDARD") == "STANDARD"
    assert s3.call("get_object_tagging", Key=prefix + plain.id)["TagSet"] == []


async def test_whole_object_is_verified(make_store: Make, s3: S3Server, prefix: str) -> None:
    """With full checksums the storage has that of the whole object; a part that was replaced is not completed."""
    store = await make_store(checksum="full")
    data = some_bytes(PART + 1000)
    upload = await make_whole(store, data)
    found = s3.call("head_object", Key=prefix + upload.id, ChecksumMode="ENABLED")
    assert found["ChecksumType"] == "FULL_OBJECT"
    upload = await append(store, await store.create(new_upload(length=len(data))), data)
    place = {"Key": prefix + upload.id, "UploadId": upload.storage["multipart"], "PartNumber": 1}
    s3.call("upload_part", Body=bytes(PART), ChecksumCRC32C=encoded_crc(crc32c.crc32c(bytes(PART))), **place)
    # SeaweedFS keeps every attempt at a part and takes the one that is named; others know the last one only.
    with contextlib.suppress(Gone):
        assert await read(store, await store.finish(upload)) == data


async def test_wrong_checksum_of_the_whole(store: S3Store) -> None:
    """An object whose bytes are not those that arrived does not come into being."""
    data = some_bytes(PART + 1000)
    upload = await append(store, await store.create(new_upload(length=len(data))), data)
    upload = upload.changed(storage={**upload.storage, "crc32c": f"{crc32c.crc32c(data) ^ 1:08x}"})
    with pytest.raises(TusError):
        await store.finish(upload)
    assert await store.lists.whole(upload) is None


# Checksums


async def test_verified_bytes_become_parts(store: S3Store, proxy: FaultProxy, s3: S3Server, prefix: str) -> None:
    """Bytes under a checksum wait beside the upload, and are copied inside the storage once they are verified."""
    data = some_bytes(17 * MIB)
    upload = await store.create(new_upload(length=len(data)))
    upload = await append(store, upload, data[:MIB])
    rest = data[MIB:]
    before = upload
    upload = await append(store, upload, rest, hashlib.sha256(rest + b"!").digest())
    assert upload == before
    assert not [key for key in s3.keys(prefix) if ".unverified" in key]
    upload = await append(store, upload, rest[:-MIB], hashlib.sha256(rest[:-MIB]).digest())
    assert upload.offset == 16 * MIB
    assert proxy.count()["UploadPartCopy"] == 2
    assert not [key for key in s3.keys(prefix) if ".unverified" in key]
    upload = await append(store, upload, rest[-MIB:], hashlib.sha256(rest[-MIB:]).digest())
    assert await read(store, await store.finish(upload)) == data
    assert store.budget.used == 0


# Failures


@pytest.mark.parametrize("fault", [Fault("refuse", 400, "BadRequest"), Fault("refuse", 403, "AccessDenied")])
async def test_failed_part(store: S3Store, proxy: FaultProxy, fault: Fault) -> None:
    """A part that fails takes everything behind it with it; the upload goes on from before it."""
    data = some_bytes(23 * MIB)
    upload = await store.create(new_upload(length=len(data)))
    proxy.once(fault, "UploadPart", part=2)
    body = Body.of([data[start : start + MIB] for start in range(0, len(data), MIB)])
    upload = await store.append(upload, body, no_progress)
    assert isinstance(body.error, StoreUnavailable)
    assert "Retry-After" in body.error.headers
    assert upload.offset == PART
    upload = await append(store, upload, data[upload.offset :])
    assert upload.offset == len(data)
    assert await read(store, await store.finish(upload)) == data
    assert store.budget.used == 0


@pytest.mark.one_server
@pytest.mark.parametrize("kind", ["refuse", "lose", "reset"])
async def test_what_the_library_repeats(store: S3Store, proxy: FaultProxy, kind: Any) -> None:
    """A call that fails once is repeated with the same bytes, and nobody notices."""
    data = some_bytes(12 * MIB)
    for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"):
        proxy.once(Fault(kind, 500, "InternalError"), operation)
        upload = await make_whole(store, data)
        assert await read(store, upload) == data


async def test_complete_that_is_lost(store: S3Store, proxy: FaultProxy) -> None:
    """If completing succeeded and nobody heard of it, doing it again finds the object."""
    data = some_bytes(12 * MIB)
    upload = await append(store, await store.create(new_upload(length=len(data))), data)
    proxy.always(Fault("lose", 500, "InternalError"), "CompleteMultipartUpload")
    with pytest.raises(StoreUnavailable):
        await store.finish(upload)
    proxy.heal()
    assert await read(store, await store.finish(upload)) == data


async def test_aborted_upload_is_gone(store: S3Store, s3: S3Server, prefix: str) -> None:
    """A multipart upload that somebody aborted is reported by appending, finishing and making the record again."""
    upload = await append(store, await store.create(new_upload(length=12 * MIB)), some_bytes(6 * MIB))
    s3.call("abort_multipart_upload", Key=prefix + upload.id, UploadId=upload.storage["multipart"])
    with pytest.raises(Gone):
        await append(store, upload, some_bytes(6 * MIB))
    with pytest.raises(Gone):
        await store.finish(upload)
    with pytest.raises(Gone):
        await store.load(upload.id)


@pytest.mark.one_server
async def test_silent_storage(make_store: Make, proxy: FaultProxy) -> None:
    """A storage that never answers is an error after a while, and what was stored before counts."""
    store = await make_store()
    upload = await append(store, await store.create(new_upload(length=10)), b"01234")
    quick = S3Store(
        BUCKET, store.prefix, Options(endpoint=proxy.endpoint, path_style=True, seconds=0.3), store.settings
    )
    await quick.open()
    proxy.always(Fault("hang"))
    body = Body.of([b"56"])
    assert await quick.append(upload, body, no_progress) == upload
    assert isinstance(body.error, StoreUnavailable)
    proxy.heal()
    upload = await append(quick, upload, b"56789")
    assert await read(quick, await quick.finish(upload)) == b"0123456789"
    await quick.aclose()


async def life(store: S3Store, data: bytes, upload: Upload | None, state: dict[str, Upload]) -> Upload:
    """Take an upload from wherever its record says it is to its end, and save its record on the way."""
    if upload is None:
        upload = state["record"] = await store.create(new_upload(id="life", length=len(data)))
    while upload.offset < len(data):
        stop = min(len(data), upload.offset + 4 * MIB)
        body = Body.of([data[upload.offset : stop]])
        upload = state["record"] = await store.append(upload, body, no_progress)
        if body.error:
            raise body.error
    return await store.finish(upload)


@pytest.mark.one_server
@pytest.mark.parametrize("is_record_lost", [False, True])
@pytest.mark.parametrize("kind", ["refuse", "lose"])
async def test_crash_at_any_call(
    make_store: Make, proxy: FaultProxy, s3: S3Server, kind: Any, is_record_lost: bool
) -> None:
    """A process that dies before or after any call loses nothing that was acknowledged, with or without the record."""
    data = some_bytes(11 * MIB)
    store = await make_store(memory=10 * MIB)
    calls = len(proxy.calls)
    upload = await life(store, data, None, {})
    total = len(proxy.calls) - calls
    assert total > 8
    await store.remove(upload)
    for survived in range(total):
        dying, left, state = await make_store(memory=10 * MIB), survived, dict[str, Upload]()

        def choose(call: Any) -> Fault | None:
            nonlocal left
            left -= 1
            return Fault(kind, 418, "Crash") if left < 0 else None

        proxy.choose = choose
        with contextlib.suppress(TusError):
            await life(dying, data, None, state)
        proxy.heal()
        again = await make_store(memory=10 * MIB)
        record = state.get("record")
        acknowledged = record.offset if record else 0
        if is_record_lost:
            record = await again.load("life")
        elif record is None:
            await again.remove(new_upload(id="life", storage={"path": "life"}))
        assert (record.offset if record else 0) >= acknowledged
        upload = await life(again, data, record, state)
        assert await read(again, upload) == data
        await again.remove(upload)


async def test_parts_that_were_sent_again(store: S3Store, s3: S3Server, make_store: Make, prefix: str) -> None:
    """A part that was sent several times counts once when the record is made again."""
    data = some_bytes(11 * MIB)
    upload = await append(store, await store.create(new_upload(length=len(data))), data[: 6 * MIB])
    for _ in range(2):
        s3.call(
            "upload_part",
            Key=prefix + upload.id,
            UploadId=upload.storage["multipart"],
            PartNumber=1,
            Body=data[:PART],
            ChecksumCRC32C=encoded_crc(crc32c.crc32c(data[:PART])),
        )
    again = await make_store()
    found = await again.load(upload.id)
    assert found is not None
    assert found.offset == 6 * MIB
    found = await append(again, found, data[6 * MIB :])
    assert await read(again, await again.finish(found)) == data


@pytest.mark.parametrize("is_complete", [False, True])
async def test_record_of_yesterday(store: S3Store, make_store: Make, is_complete: bool) -> None:
    """A record that was restored from a copy is older than what is stored; the upload goes on from what there is."""
    data = some_bytes(9 * MIB)
    old = await append(store, await store.create(new_upload(length=len(data))), data[:MIB])
    upload = await append(store, old, data[MIB : 6 * MIB])
    upload = await append(store, upload, data[6 * MIB : 7 * MIB])  # deletes the old record's segment
    if is_complete:
        upload = await append(store, upload, data[7 * MIB :])
    body = Body.of([data[MIB:]])
    again = await make_store()
    found = await again.append(old, body, no_progress)
    assert isinstance(body.error, StoreUnavailable)
    assert found.offset >= upload.offset
    if found.offset < len(data):
        found = await append(again, found, data[found.offset :])
    assert await read(again, await again.finish(found)) == data


async def test_two_writers(store: S3Store, make_store: Make) -> None:
    """A writer that lost its lock and goes on writing changes nothing of what the next one has stored."""
    data = some_bytes(12 * MIB)
    upload = await append(store, await store.create(new_upload(length=len(data))), data[:MIB])
    late = await make_store()
    other = await append(store, upload, data[MIB : 2 * MIB])
    await append(late, upload, bytes(2 * MIB))
    other = await append(store, other, data[2 * MIB :])
    assert await read(store, await store.finish(other)) == data


# Concatenation


@pytest.mark.parametrize(
    "sizes",
    [[3, 4], [6 * MIB, 1], [1, 6 * MIB, 0, 7 * MIB, 2 * MIB], [PART, PART], [MIB, MIB, MIB], [0, 0], [MIB, 11 * MIB]],
)
async def test_concatenation(store: S3Store, s3: S3Server, prefix: str, sizes: list[int]) -> None:
    """Members of any size are joined in order, and the storage's checksum of the whole is right."""
    members = [await make_whole(store, some_bytes(size)) for size in sizes]
    data = b"".join(some_bytes(size) for size in sizes)
    metadata = {"filename": "all.bin", "filetype": "application/x-all"}
    final = await store.create(new_upload(length=len(data), metadata=metadata))
    final = await store.finish(await store.concatenate(final, members, no_progress))
    assert await read(store, final) == data
    assert final.offset == len(data)
    found = s3.call("head_object", Key=prefix + final.id, ChecksumMode="ENABLED")
    assert found["ContentType"] == "application/x-all"
    assert store.budget.used == 0


@pytest.mark.parametrize("checksum", ["part", "none"])
async def test_concatenation_with_fewer_checksums(make_store: Make, checksum: str) -> None:
    """Parts that were copied, whose bytes nobody here has seen, are completed whatever the storage checks."""
    store = await make_store(checksum=checksum)
    members = [await make_whole(store, some_bytes(size)) for size in (6 * MIB, 100)]
    final = await store.concatenate(await store.create(new_upload(length=6 * MIB + 100)), members, no_progress)
    assert await read(store, await store.finish(final)) == some_bytes(6 * MIB) + some_bytes(100)


async def test_concatenation_copies(store: S3Store, proxy: FaultProxy) -> None:
    """Large members are not read: their bytes never leave the storage."""
    members = [await make_whole(store, some_bytes(size)) for size in (6 * MIB, 7 * MIB, 100)]
    before = proxy.count()
    final = await store.create(new_upload(length=13 * MIB + 100))
    await store.finish(await store.concatenate(final, members, no_progress))
    done = proxy.count() - before
    assert (done["UploadPartCopy"], done["UploadPart"], done["GetObject"]) == (2, 1, 1)


async def test_concatenation_of_unknown_length(store: S3Store) -> None:
    """What waits for its members has a multipart upload whatever they turn out to be."""
    final = await store.create(new_upload(length=None))
    members = [await make_whole(store, some_bytes(size)) for size in (100, 200)]
    final = await store.concatenate(final.changed(length=300), members, no_progress)
    assert await read(store, await store.finish(final)) == some_bytes(100) + some_bytes(200)


async def test_concatenation_that_is_cut_off(store: S3Store, make_store: Make, proxy: FaultProxy) -> None:
    """A concatenation that failed, or that succeeded and nobody heard of it, is done again from the start."""
    sizes = [6 * MIB, 100, 7 * MIB]
    members = [await make_whole(store, some_bytes(size)) for size in sizes]
    data = b"".join(some_bytes(size) for size in sizes)
    final = await store.create(new_upload(length=len(data)))
    proxy.once(Fault("refuse", 400, "BadRequest"), "UploadPartCopy", part=1)
    with pytest.raises(StoreUnavailable):
        await store.concatenate(final, members, no_progress)
    proxy.heal()
    for _ in range(2):  # the second time everything is there and the record is not
        again = await make_store()
        found = await again.load(final.id)
        assert found is not None
        assert await read(again, await again.finish(await again.concatenate(found, members, no_progress))) == data


async def test_member_that_is_gone(store: S3Store) -> None:
    """A concatenation does not become shorter because a member lost its bytes."""
    members = [await make_whole(store, some_bytes(size)) for size in (6 * MIB, 100)]
    await store.remove(members[0])
    final = await store.create(new_upload(length=6 * MIB + 100))
    with pytest.raises(Gone):
        await store.concatenate(final, members, no_progress)


# Names


async def test_chosen_key(store: S3Store, s3: S3Server, prefix: str) -> None:
    """A plugin may choose folders and a name; the manifest stays where it is found by id."""
    upload = await store.create(new_upload(id="abc", length=5, storage={"path": "2026/11/Übersicht 1.pdf"}))
    upload = await store.finish(await append(store, upload, b"01234"))
    assert s3.read(f"{prefix}2026/11/Übersicht 1.pdf") == b"01234"
    with pytest.raises(AlreadyExists):
        await store.create(new_upload(storage={"path": "2026/11/Übersicht 1.pdf"}))
    await store.remove(upload)
    assert [key for key in s3.keys(prefix) if not key.endswith(".tusd-py")] == []


ASTRAY = [
    *("", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a\0b", "a\nb"),
    *("other", "other.info", "a/b.info", "x.tail/1", "x.unverified/1", ".tusd-py", "x" * 256, "a/" + "ü" * 128),
]


async def test_keys_that_lead_astray(store: S3Store, s3: S3Server, prefix: str) -> None:
    """A key of the server's own objects, or one that not every storage takes, is refused, and nothing is made."""
    before = s3.keys(prefix)
    for path in ASTRAY:
        with pytest.raises(Forbidden):
            await store.create(new_upload(storage={"path": path}))
    assert s3.keys(prefix) == before


async def test_key_of_a_form(make_store: Make, s3: S3Server, prefix: str) -> None:
    """The setting gives keys a form."""
    store = await make_store(key="in/{date}/{id}.bin")
    upload = await make_whole(store, b"01234")
    assert s3.read(f"{prefix}in/{now():%Y/%m/%d}/{upload.id}.bin") == b"01234"


# Moves


async def test_moves_in_ranges(make_store: Make, s3: S3Server, prefix: str, proxy: FaultProxy) -> None:
    """What is too large for one call is copied by several, with checksum, type and metadata; nothing else is left."""
    store = await make_store(copy_bytes=10 * MIB)
    data = some_bytes(10 * MIB + 2)
    metadata = {"filename": "a.pdf", "filetype": "application/pdf"}
    upload = await make_whole(store, data, metadata=metadata, storage={"under": "held"})
    proxy.once(Fault("refuse", status=400, code="InvalidRequest"), "UploadPartCopy", 2)
    with pytest.raises(StoreUnavailable):
        await store.move(upload, upload.storage["home"])
    assert s3.multiparts(prefix) == []
    moved = await store.move(upload, upload.storage["home"])
    await store.clear(moved)
    assert proxy.count()["UploadPartCopy"] >= 4
    assert s3.keys(f"{prefix}held/") == s3.multiparts(prefix) == []
    assert s3.read(prefix + upload.id) == data
    found = s3.call("head_object", Key=prefix + upload.id, ChecksumMode="ENABLED")
    assert (found["ContentType"], found["Metadata"]) == ("application/pdf", {**user_metadata(upload)})
    assert found["ChecksumCRC32C"] == encoded_crc(crc32c.crc32c(data))
    assert moved.storage["etag"] == found["ETag"].strip('"')


# Leftovers


async def test_sweep(make_store: Make, s3: S3Server, prefix: str) -> None:
    """What belongs to no upload is removed once it is old enough, and nothing else is."""
    store = await make_store(quarantine_prefix="held")
    data = some_bytes(12 * MIB)
    alive = await append(store, await store.create(new_upload(length=len(data))), data[: 6 * MIB])
    done = await make_whole(store, data)
    await store.save(done.finished(Status.ACCEPTED, now()))
    orphan = await append(store, await store.create(new_upload(length=len(data))), data[: 6 * MIB])
    s3.call("delete_object", Key=f"{prefix}{orphan.id}.info")
    s3.call("create_multipart_upload", Key=prefix + alive.id)  # a second one, of a creation that was repeated
    s3.call("create_multipart_upload", Key=f"{prefix}held/{done.id}")  # of a move that was cut off
    s3.call("create_multipart_upload", Key=f"{prefix}not/ours")
    s3.call("put_object", Key=f"{prefix}{done.id}.tail/left", Body=b"x")
    s3.call("put_object", Key=f"{prefix}{alive.id}.unverified/left", Body=b"x")
    s3.call("put_object", Key=f"{prefix}other.tail.txt", Body=b"x")
    assert (await store.sweep(now() - timedelta(hours=1))).removed == 0
    assert (await store.sweep(now() + timedelta(hours=1))).removed == 6
    kept = [alive.id, f"{alive.id}.info", done.id, f"{done.id}.info", "other.tail.txt", ".tusd-py"]
    keys = s3.keys(prefix)
    assert {key for key in keys if f"{alive.id}.tail/" not in key} == {
        prefix + name for name in kept if name != alive.id
    }
    assert set(s3.multiparts(prefix)) == {prefix + alive.id, f"{prefix}not/ours"}
    alive = await append(store, alive, data[6 * MIB :])
    assert await read(store, await store.finish(alive)) == data


@pytest.mark.one_server
async def test_one_sweep_at_a_time(make_store: Make, proxy: FaultProxy) -> None:
    """While one process looks for leftovers, another leaves it to that one."""
    state, locker, hooks = MemoryState(), MemoryLocker(), Hooks(plugin_manager(entry_points=False), timeout=5)
    one, other = [Uploads(await make_store(), state, locker, hooks, Rules()) for _ in range(2)]
    proxy.always(Fault("hang"), "ListMultipartUploads")
    sweep = asyncio.create_task(one.sweep(timedelta(hours=1)))
    await wait_until(lambda: proxy.count()["ListMultipartUploads"] == 1)
    await other.sweep(timedelta(hours=1))
    assert proxy.count()["ListMultipartUploads"] == 1
    sweep.cancel()
    await asyncio.wait([sweep])
    proxy.heal()
    await other.sweep(timedelta(hours=1))
    assert proxy.count()["ListMultipartUploads"] == 2


# Memory


@pytest.mark.one_server
async def test_slow_clients_do_not_stop_others(s3: S3Server, prefix: str) -> None:
    """A thousand clients that stop in the middle hold no more than the budget, and all of them come to their end."""
    settings = Settings(part_size=PART, memory=10 * MIB)
    store = S3Store(BUCKET, prefix, Options(endpoint=s3.endpoint, path_style=True), settings)
    await store.open()
    piece, count = 64 * 1024, 1000
    taps = [Tap() for _ in range(count)]
    uploads: list[Upload] = []
    while len(uploads) < count:  # not all at once, which a busy machine takes too long for
        uploads += await asyncio.gather(*(store.create(new_upload(length=2 * piece)) for _ in range(50)))
    bodies = [tap.body() for tap in taps]
    appends = [
        asyncio.create_task(store.append(upload, body, no_progress))
        for upload, body in zip(uploads, bodies, strict=True)
    ]
    first, second = some_bytes(piece), os.urandom(piece)
    peak = 0
    for tap in taps:
        tap.let(first)
    # All of them go on only when the last one had its turn, for which others had to make room.
    await wait_until(lambda: sum(upload.received for upload in bodies) == count * piece)
    for tap in taps:
        peak = max(peak, store.budget.used)
        tap.let(second, b"")
        await asyncio.sleep(0)
    ended = await asyncio.gather(*appends)
    assert {upload.offset for upload in ended} == {2 * piece}
    assert peak <= store.budget.limit + piece
    assert store.budget.used == 0
    for upload in ended[::100]:
        assert await read(store, await store.finish(upload)) == first + second
    await store.aclose()


@pytest.mark.one_server
async def test_concurrency(make_store: Make, proxy: FaultProxy) -> None:
    """No more parts of one upload are sent at once than the setting says, and its body is not taken meanwhile."""
    store = await make_store(concurrency=2)
    upload = await store.create(new_upload(length=4 * PART))
    proxy.always(Fault("slow", seconds=0.01), "UploadPart")
    body = Body.of([bytes(MIB)] * 20)
    sending = asyncio.create_task(store.append(upload, body, no_progress))
    # Two parts are on their way, and a third one is waiting.
    await wait_until(lambda: proxy.count()["UploadPart"] == 2 and store.budget.used == 3 * PART)
    await asyncio.sleep(0.1)
    assert (proxy.count()["UploadPart"], store.budget.used) == (2, 3 * PART)
    assert body.received < 4 * PART
    proxy.heal()
    assert (await sending).offset == 4 * PART


@pytest.mark.one_server
async def test_memory_waits_for_the_storage(make_store: Make, proxy: FaultProxy) -> None:
    """While S3 is slow, bodies are not taken beyond the budget."""
    store = await make_store(memory=10 * MIB)
    data = some_bytes(16 * MIB)
    proxy.always(Fault("slow", seconds=0.02), "UploadPart")
    uploads = await asyncio.gather(*(store.create(new_upload(length=len(data))) for _ in range(4)))
    peak = 0

    async def progress(upload: Upload) -> None:
        nonlocal peak
        peak = max(peak, store.budget.used)

    def body() -> Body:
        return Body.of([data[start : start + 65536] for start in range(0, len(data), 65536)])

    ended = await asyncio.gather(*(store.append(upload, body(), progress) for upload in uploads))
    assert {upload.offset for upload in ended} == {len(data)}
    assert 0 < peak <= store.budget.limit + 65536
    assert store.budget.used == 0
    assert await read(store, await store.finish(ended[0])) == data


# Reading


async def test_file_object(store: S3Store) -> None:
    """A thread reads any range through a file object."""
    data = some_bytes(6 * MIB)
    content = store.content(await make_whole(store, data))

    def read_some() -> tuple[bytes, bytes, bytes, int]:
        with content.open() as file:
            assert file.seek(PART - 5) == PART - 5
            middle = file.read(10)
            file.seek(-3, io.SEEK_END)
            return middle, file.read(), file.read(), file.tell()

    assert await asyncio.to_thread(read_some) == (data[PART - 5 : PART + 5], data[-3:], b"", len(data))

    async def read_all() -> bytes:
        return b"".join([chunk async for chunk in content.chunks(1, len(data))])

    # As plugins do, which have an event loop of their own.
    assert await asyncio.to_thread(lambda: asyncio.run(read_all())) == data[1:]


async def test_unfinished_parts_cannot_be_read(store: S3Store) -> None:
    """S3 does not give what is in parts; the tail of an upload without any can be read."""
    upload = await append(store, await store.create(new_upload(length=12 * MIB)), some_bytes(1000))
    upload = await append(store, upload, some_bytes(500))
    content = store.content(upload)
    assert (
        b"".join([chunk async for chunk in content.chunks(999, 1002)]) == (some_bytes(1000) + some_bytes(500))[999:1002]
    )
    upload = await append(store, upload, some_bytes(6 * MIB))
    with pytest.raises(NotFinished):
        await read(store, upload)


# What is wrong is said

READER = {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY}


@pytest.mark.parametrize(
    ("bucket", "environment", "endpoint", "words"),
    [
        ("no-such-bucket", {}, None, "does not exist"),
        (BUCKET, {"AWS_SECRET_ACCESS_KEY": "wrong-and-secret"}, None, "secret key is wrong"),
        (BUCKET, {"AWS_ACCESS_KEY_ID": "nobody"}, None, "not known"),
        (BUCKET, READER, None, "lack a permission"),
        (BUCKET, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, None, "AWS_ACCESS_KEY_ID"),
        (BUCKET, {}, "http://127.0.0.1:9", "does not answer"),
        (BUCKET, {}, "ftp:///x", "S3"),
    ],
    ids=["bucket", "secret", "key", "permission", "credentials", "nobody", "address"],
)
async def test_what_is_wrong(
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    environment: dict[str, str | None],
    endpoint: str | None,
    words: str,
) -> None:
    """A storage that cannot be used says why when it is opened, without secrets."""
    for name, value in environment.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    options = Options(endpoint=endpoint or s3.endpoint, path_style=True, seconds=1)
    store = S3Store(bucket, "", options, Settings())
    async with contextlib.aclosing(store):
        with pytest.raises(StoreUnavailable, match=words) as refused:
            await store.open()
    assert "wrong-and-secret" not in refused.value.message


@pytest.mark.one_server
async def test_problem_while_running(make_store: Make, proxy: FaultProxy, s3: S3Server) -> None:
    """Trouble is noticed while the server runs, and its end as well; many questions cost few calls."""
    store = await make_store()
    before = len(proxy.calls)
    assert [await store.problem() for _ in range(10)] == [None] * 10
    assert len(proxy.calls) == before
    fresh = await make_store()
    proxy.always(Fault("refuse", 403, "SlowDown"))
    with pytest.raises(StoreUnavailable):
        await fresh.create(new_upload())
    for code, words in (
        ("RequestTimeTooSkewed", "clock"),
        ("AccessDenied", "permission"),
        ("IllegalLocationConstraintException", "AWS_REGION"),
        ("SlowDown", "SlowDown"),
    ):
        proxy.always(Fault("refuse", 403, code))
        assert words in str(await fresh.problem())
    proxy.heal()
    assert await fresh.problem() is None


async def test_damaged_manifest(store: S3Store, s3: S3Server, prefix: str) -> None:
    """A manifest that cannot be read is an error for the operator, not a missing upload."""
    s3.call("put_object", Key=f"{prefix}broken.info", Body=b"{")
    with pytest.raises(StoreUnavailable, match="operator"):
        await store.load("broken")


async def test_finished_upload_is_loaded(store: S3Store, make_store: Make) -> None:
    """The record of a finished upload comes from its manifest alone."""
    upload = (await make_whole(store, some_bytes(6 * MIB))).finished(Status.ACCEPTED, now())
    await store.save(upload)
    assert await (await make_store()).load(upload.id) == upload


async def test_reads_keep_no_call_waiting(s3: S3Server, prefix: str) -> None:
    """Neither reads with which nobody goes on nor calls that read what they send use up what other calls need."""
    bucket = Bucket(BUCKET, Options(endpoint=s3.endpoint, path_style=True, calls=2))
    await bucket.open()
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(20):
        stack.push_async_callback(bucket.aclose)
        key, size = f"{prefix}read", 2 * MIB
        await bucket.call("put_object", Key=key, Body=some_bytes(size))
        for _ in range(3):
            read = await stack.enter_async_context(contextlib.aclosing(bucket.read(key, 0, size)))
            await anext(read)
        copies = [Outgoing([Stored(bucket.read, key, 0, size)]) for _ in range(3)]
        await asyncio.gather(
            *(bucket.call("put_object", Key=f"{prefix}copy{number}", Body=body) for number, body in enumerate(copies))
        )
        assert await bucket.get(f"{prefix}copy2") == some_bytes(size)


async def test_room_that_is_left_wakes_the_next() -> None:
    """Who waited for memory and needs less than there is leaves the rest to those behind."""
    budget, served = Budget(MIB), 0

    async def need_little() -> None:
        nonlocal served
        await budget.room()
        budget.take(1024)
        served += 1

    budget.take(MIB)
    waiting = [asyncio.create_task(need_little()) for _ in range(100)]
    await asyncio.sleep(0)
    budget.free(64 * 1024)
    await wait_until(lambda: served == 64)
    budget.free(MIB)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
