"""What the SQLite state does beyond the contract: several processes, and files that are none."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from tusd_py.errors import StoreUnavailable
from tusd_py.state.base import Filter
from tusd_py.state.sqlite import SqliteState
from tusd_py.testing.contracts import new_upload


async def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Processes that start together on a machine without records do not get into each other's way."""
    for number in range(10):
        states = [SqliteState(tmp_path / f"{number}.db") for _ in range(6)]
        opened = await asyncio.gather(*(state.open() for state in states), return_exceptions=True)
        upload = new_upload()
        await states[0].insert(upload)
        found = [await state.get(upload.id) for state in states]
        for state in states:
            await state.aclose()
        assert opened == [None] * 6
        assert found == [upload] * 6


async def test_waits_for_another_writer(tmp_path: Path) -> None:
    """A change waits while another process is in the middle of its own."""
    state = SqliteState(tmp_path / "uploads.db")
    await state.open()
    upload = new_upload()
    await state.insert(upload)
    other = sqlite3.connect(state.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    save = asyncio.create_task(state.save(upload.changed(offset=5), 1))
    assert await state.get(upload.id) == upload  # readers do not wait
    other.execute("COMMIT")
    other.close()
    assert (await save).offset == 5
    await state.aclose()


async def test_survives_without_being_closed(tmp_path: Path) -> None:
    """What was saved is there for the next one, also if the last one never closed the file."""
    first = SqliteState(tmp_path / "uploads.db")
    await first.open()
    uploads = [new_upload() for _ in range(50)]
    for upload in uploads:
        await first.insert(upload)
    # A copy of the files at this moment is what a killed process leaves.
    for name in ("uploads.db", "uploads.db-wal"):
        (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
    second = SqliteState(tmp_path / "copy-uploads.db")
    await second.open()
    assert len((await second.page(Filter(), None, 100)).uploads) == 50
    await second.aclose()
    await first.aclose()


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + os.urandom(8000)])
async def test_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is refused with its path and what to do, and left as it is."""
    path = tmp_path / "uploads.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=str(path)) as failure:
        await SqliteState(path).open()
    assert "move it away" in failure.value.message
    assert path.read_bytes() == content


async def test_directory_that_cannot_be(tmp_path: Path) -> None:
    """A path below a file is refused with its name."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="file"):
        await SqliteState(tmp_path / "file" / "uploads.db").open()


async def test_damage_while_it_runs(tmp_path: Path) -> None:
    """A file that is damaged under a running server is an error that says so, whatever was asked."""
    path = tmp_path / "uploads.db"
    state = SqliteState(path)
    await state.open()
    uploads = [new_upload(metadata={"filename": "x" * 500}) for _ in range(100)]
    for upload in uploads:
        await state.insert(upload)
    await state.aclose()
    state = SqliteState(path)
    await state.open()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        await state.page(Filter(), None, 100)
    with pytest.raises(StoreUnavailable):
        await state.get(uploads[50].id)
    await state.aclose()
