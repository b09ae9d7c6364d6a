"""What the file store does beyond the contract: names, paths, leftovers of crashes, holes."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tusd_py.body import Body
from tusd_py.errors import AlreadyExists, Forbidden, Gone, StoreUnavailable
from tusd_py.models import Upload
from tusd_py.stores.file import FileStore
from tusd_py.testing.contracts import Tap, new_upload, wait_until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store's directory; what is beside it must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"not yours")
    return tmp_path / "data"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[FileStore]:
    """An open store."""
    store = FileStore(root)
    await store.open()
    yield store
    await store.aclose()


async def no_progress(upload: Upload) -> None:
    """Ignore it."""


async def append(store: FileStore, upload: Upload, data: bytes, digest: bytes | None = None) -> Upload:
    """Append bytes, under a checksum if there is one."""
    body = Body.of([data])
    if digest is not None:
        body.verify_with(hashlib.sha256(), digest)
    return await store.append(upload, body, no_progress)


def names(root: Path) -> set[str]:
    """All files, without the store's mark."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {".tusd-py"}


# Names


async def test_two_files(store: FileStore, root: Path) -> None:
    """An upload is `<id>` and `<id>.info`, and nothing else is left of its life."""
    upload = await store.create(new_upload(id="abc", length=10))
    upload = await append(store, upload, b"01234", hashlib.sha256(b"01234").digest())
    await append(store, upload, b"wrong", b"-" * 32)
    upload = await append(store, upload, b"56789")
    await store.save(upload)
    await store.finish(upload)
    assert names(root) == {"abc", "abc.info"}
    assert (root / "abc").read_bytes() == b"0123456789"
    await store.remove(upload)
    assert names(root) == set()


async def test_manifest_is_never_half_written(store: FileStore, root: Path) -> None:
    """Who reads a manifest while it is replaced gets the old or the new one."""
    upload = await store.create(new_upload(metadata={"filename": "x" * 5000}))
    path = root / f"{upload.id}.info"
    saves = asyncio.gather(*(store.save(upload) for _ in range(100)))
    reads = 0
    while not saves.done():
        assert json.loads(await asyncio.to_thread(path.read_bytes))["ID"] == upload.id
        reads += 1
    await saves
    assert reads > 1
    assert names(root) == {upload.id, f"{upload.id}.info"}


# Paths that plugins choose


async def test_chosen_path(store: FileStore, root: Path) -> None:
    """A plugin may choose folders and a name; the manifest stays where it is found by id."""
    upload = await store.create(new_upload(id="abc", storage={"path": "2026/11/Übersicht 1.pdf"}))
    upload = await append(store, upload, b"01234")
    assert (root / "2026/11/Übersicht 1.pdf").read_bytes() == b"01234"
    assert names(root) == {"2026/11/Übersicht 1.pdf", "abc.info"}
    assert await store.load("abc") == upload
    await store.remove(upload)
    assert names(root) == set()


@pytest.mark.parametrize(
    "path",
    [
        "../outside/new",
        "../outside/file",
        "..",
        ".",
        "",
        "a/../../outside/new",
        "a/..",
        "/etc/passwd",
        "//etc/passwd",
        "./../outside/new",
        "a/./../../outside/new",
        ".tusd-py",
        ".locks/fence",
        ".hidden",
        "a/.hidden",
        "other",
        "other.info",
        "uploads.db",
        "uploads.db-wal",
        "x.unverified",
        "a\0b",
        "a/b\0/c",
        "x" * 256,
        "a/" + "ü" * 128,
    ],
)
async def test_paths_that_lead_astray(store: FileStore, root: Path, path: str) -> None:
    """A path out of the directory, to the server's own files, or that cannot be is refused, and nothing is made."""
    other = await store.create(new_upload(id="other"))
    await append(store, other, b"01234")
    before = names(root.parent)
    with pytest.raises(Forbidden):
        await store.create(new_upload(storage={"path": path}))
    assert names(root.parent) == before
    assert (root.parent / "outside" / "file").read_bytes() == b"not yours"


@pytest.mark.parametrize("path", ["a/b", "a/b/c", "a"])
async def test_paths_that_are_taken(store: FileStore, root: Path, path: str) -> None:
    """A path on which another upload's file or folder lies is refused, and that one keeps its bytes."""
    first = await store.create(new_upload(storage={"path": "a/b"}))
    first = await append(store, first, b"01234")
    error = Forbidden if path == "a" else AlreadyExists
    with pytest.raises(error):
        await store.create(new_upload(storage={"path": path}))
    assert (root / "a/b").read_bytes() == b"01234"


async def test_id_of_a_folder(store: FileStore, root: Path) -> None:
    """An upload whose id is the name of a folder is refused."""
    await store.create(new_upload(storage={"path": "folder/file"}))
    with pytest.raises(AlreadyExists):
        await store.create(new_upload(id="folder"))


async def test_manifest_that_leads_astray(store: FileStore, root: Path) -> None:
    """A manifest cannot make the server touch files outside the directory either."""
    upload = new_upload(id="evil", storage={"path": "../outside/file"}, length=100)
    good = await store.create(new_upload(id="good"))
    text = (root / "good.info").read_text().replace(good.id, "evil")
    record = json.loads(text)
    record["TusdPy"]["storage"]["path"] = "../outside/file"
    (root / "evil.info").write_text(json.dumps(record))
    with pytest.raises(Forbidden):
        await store.load("evil")
    for action in (store.measure, store.finish, store.remove, store.save):
        with pytest.raises(Forbidden):
            await action(upload)
    with pytest.raises(Forbidden):
        await append(store, upload, b"overwritten")
    with pytest.raises(Forbidden):
        store.content(upload)
    assert (root.parent / "outside" / "file").read_bytes() == b"not yours"


# Progress


async def test_every_batch_is_progress(store: FileStore) -> None:
    """Each batch counts as soon as it is written."""
    upload = await store.create(new_upload(length=30))
    tap, seen = Tap(), list[int]()

    async def progress(stored: Upload) -> None:
        assert (await store.measure(upload)).offset == stored.offset
        seen.append(stored.offset)
        tap.let(b"0123456789" if stored.offset < 30 else b"")

    tap.let(b"0123456789")
    await store.append(upload, tap.body(), progress)
    assert seen == [10, 20, 30]


# What crashes leave behind


async def test_unverified_bytes_of_a_crash(store: FileStore, root: Path) -> None:
    """A process that died in the middle of a checksum left more bytes than count; the next request cuts them off."""
    upload = await store.create(new_upload(id="abc", length=10))
    upload = await append(store, upload, b"01234")
    tap = Tap()
    body = tap.body()
    body.verify_with(hashlib.sha256(), b"-" * 32)
    task = asyncio.create_task(store.append(upload, body, no_progress))
    tap.let(b"bad")
    await wait_until(lambda: (root / "abc").stat().st_size == 8)
    # As a dead process leaves it: the file is longer, and the marker says from where.
    left = {name: (root / name).read_bytes() for name in names(root)}
    assert left["abc.unverified"] == b"5"
    task.cancel()
    await asyncio.wait([task])
    for name, content in left.items():
        (root / name).write_bytes(content)

    again = FileStore(root)
    await again.open()
    found = await again.load("abc")
    assert found is not None
    assert found.offset == (await again.measure(upload)).offset == 5
    found = await append(again, found, b"good")
    assert found.offset == (await again.measure(found)).offset == 9
    assert (root / "abc").read_bytes() == b"01234good"
    assert names(root) == {"abc", "abc.info"}
    await again.aclose()


async def test_unsaved_bytes_of_a_crash(store: FileStore) -> None:
    """Bytes that were written and not recorded before the process died are good and count."""
    upload = await store.create(new_upload(length=10))
    await append(store, upload, b"01234")
    assert (await store.measure(upload)).offset == 5


async def test_more_bytes_than_the_upload(store: FileStore, root: Path) -> None:
    """A file that is longer than its upload gives no offset behind the end."""
    upload = await store.create(new_upload(length=5))
    (root / upload.id).write_bytes(b"0123456789")
    assert (await store.measure(upload)).offset == 5


# Holes


async def test_no_holes(store: FileStore, root: Path) -> None:
    """Bytes are not put behind a gap: a file that is shorter than the record says has lost some."""
    upload = await store.create(new_upload(length=100))
    upload = await append(store, upload, b"01234")
    with pytest.raises(Gone):
        await append(store, upload.changed(offset=50), b"later")
    assert (root / upload.id).read_bytes() == b"01234"


async def test_sparse_parts(store: FileStore, root: Path) -> None:
    """Parts with holes, as copies of files of zeros may have, are joined with as many zeros."""
    hole = 3 * 1024 * 1024
    parts = []
    for content in (b"begin", b"end"):
        part = await append(store, await store.create(new_upload(length=hole + 5)), content)
        os.truncate(root / part.id, hole)
        parts.append(part.changed(offset=hole))
    final = await store.create(new_upload(length=2 * hole))
    await store.concatenate(final, parts, no_progress)
    expected = b"begin".ljust(hole, b"\0") + b"end".ljust(hole, b"\0")
    assert (root / final.id).read_bytes() == expected


async def test_shortened_part(store: FileStore, root: Path) -> None:
    """A part that lost bytes is an error, not a shorter whole."""
    part = await append(store, await store.create(new_upload(length=10)), b"0123456789")
    os.truncate(root / part.id, 4)
    final = await store.create(new_upload(length=10))
    with pytest.raises(Gone):
        await store.concatenate(final, [part], no_progress)


async def test_shortened_file_is_not_read_to_an_early_end(store: FileStore, root: Path) -> None:
    """A reader of a file that has become shorter gets an error instead of an end."""
    upload = await append(store, await store.create(new_upload(length=10)), b"0123456789")
    content = store.content(upload)
    os.truncate(root / upload.id, 4)
    with pytest.raises(Gone):
        assert [chunk async for chunk in content.chunks(0, 10)]


# The directory


async def test_directory_is_made(tmp_path: Path) -> None:
    """The directory is made with its parents, and opening it again is no error."""
    for _ in range(2):
        store = FileStore(tmp_path / "a" / "b")
        await store.open()
        await store.aclose()


async def test_directory_that_is_a_file(tmp_path: Path) -> None:
    """What is wrong with the directory is said to the operator, with its path."""
    (tmp_path / "a").write_bytes(b"")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(StoreUnavailable, match=str(path)):
            await FileStore(path).open()


async def test_other_files_are_left_alone(store: FileStore, root: Path) -> None:
    """Files of others in the directory are no uploads."""
    for name in ("README.md", "notes.info.txt", ".info", "a b.info", "x.lock"):
        (root / name).write_bytes(b"x")
    assert [upload_id async for upload_id in store.ids()] == []
