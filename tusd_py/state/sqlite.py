"""Records in one SQLite file, shared by all processes of a machine.

The record itself is JSON; what is searched for has a column of its own. The write-ahead log with `synchronous=NORMAL`
survives the death of any process without a disk flush per change. After a loss of power the last changes may be
missing; the file store then tells the offsets, as it does when the file is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from tusd_py.config import Config, path_of
from tusd_py.errors import AlreadyExists, Fenced, StorageFull, StoreUnavailable, TusError
from tusd_py.models import Job, JobStatus, Status, Upload
from tusd_py.state.base import Filter, Page, Queued, decode_position, encode_position

BUSY_SECONDS = 10
_SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, owner TEXT, created REAL NOT NULL, expires REAL,
    fence INTEGER NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uploads_created ON uploads (created DESC, id DESC);
CREATE INDEX IF NOT EXISTS uploads_expires ON uploads (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS members (
    partial TEXT NOT NULL, final TEXT NOT NULL, PRIMARY KEY (partial, final)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    upload TEXT NOT NULL, stage TEXT NOT NULL, plugin TEXT NOT NULL, status TEXT NOT NULL, due REAL,
    created REAL NOT NULL, fence INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (upload, stage, plugin)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_status ON jobs (status, created);
CREATE INDEX IF NOT EXISTS jobs_created ON jobs (created);
"""


class SqliteState:
    """Records in one file."""

    def __init__(self, path: str | Path) -> None:
        """Use the file at `path`, which `open` makes if need be."""
        self.path = Path(path)
        self._db: aiosqlite.Connection

    @classmethod
    def from_url(cls, url: str, config: Config) -> SqliteState:
        """Return the state of `sqlite:FILE`."""
        return cls(path_of(url))

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            StoreUnavailable: it cannot be opened or is not a database.
        """
        try:
            await asyncio.to_thread(self.path.parent.mkdir, parents=True, exist_ok=True)
            self._db = await aiosqlite.connect(self.path, isolation_level=None, timeout=BUSY_SECONDS)
            await self._prepare()
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(AttributeError):
                await self._db.close()
            raise self._unusable(error) from error

    async def _prepare(self) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                await self._db.execute("PRAGMA journal_mode=WAL")
                await self._db.execute("PRAGMA synchronous=NORMAL")
                await self._db.executescript(_SCHEMA)
                return
            except sqlite3.OperationalError as error:
                # Of several processes that make the file at once SQLite refuses some instead of letting them wait.
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)

    async def insert(self, upload: Upload) -> None:
        """Add a record, and for a final upload whom it waits for."""
        try:
            await self._write(
                "INSERT INTO uploads (status, owner, created, expires, fence, record, id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_columns(upload, upload.fence), upload.id),
            )
        except sqlite3.IntegrityError:
            raise AlreadyExists() from None
        if upload.is_final and upload.concat:
            for member in set(upload.concat.members):
                await self._write("INSERT OR IGNORE INTO members VALUES (?, ?)", (member, upload.id))

    async def get(self, upload_id: str) -> Upload | None:
        """Return the record, if any."""
        rows = await self._read("SELECT record FROM uploads WHERE id = ?", (upload_id,))
        return _decode(rows[0]) if rows else None

    async def save(self, upload: Upload, fence: int) -> Upload:
        """Replace the record unless a newer lock's holder has."""
        upload = upload.changed(fence=fence)
        changed = await self._write(
            "UPDATE uploads SET status=?, owner=?, created=?, expires=?, fence=?, record=? WHERE id=? AND fence<=?",
            (*_columns(upload, fence), upload.id, fence),
        )
        if not changed:
            raise Fenced()
        if upload.is_final and upload.status is not Status.RECEIVING:
            await self._write("DELETE FROM members WHERE final = ?", (upload.id,))
        return upload

    async def remove(self, upload_id: str) -> None:
        """Forget a record."""
        await self._write("DELETE FROM jobs WHERE upload = ?", (upload_id,))
        await self._write("DELETE FROM uploads WHERE id = ?", (upload_id,))

    async def page(self, filter: Filter, after: str | None, limit: int) -> Page:
        """Return some records, the newest first."""
        where, values = ["1"], list[Any]()
        if after is not None:
            where.append("(created, id) < (?, ?)")
            values += decode_position(after)
        if filter.status is not None:
            where.append("status = ?")
            values.append(filter.status.value)
        if filter.owner is not None:
            where.append("owner = ?")
            values.append(filter.owner)
        rows = await self._read(
            f"SELECT record FROM uploads WHERE {' AND '.join(where)} ORDER BY created DESC, id DESC LIMIT ?",  # noqa: S608 - only our own words are put together
            (*values, limit + 1),
        )
        found = [_decode(row) for row in rows]
        return Page(found[:limit], encode_position(found[limit - 1]) if len(found) > limit else None)

    async def due(self, at: datetime, limit: int) -> list[Upload]:
        """Return records whose time has run out."""
        rows = await self._read(
            "SELECT record FROM uploads WHERE expires <= ? ORDER BY expires LIMIT ?", (at.timestamp(), limit)
        )
        return [_decode(row) for row in rows]

    async def waiting_finals(self, member: str) -> list[Upload]:
        """Return final uploads that wait for a member."""
        rows = await self._read(
            "SELECT record FROM uploads JOIN members ON final = id WHERE partial = ? AND status = ?",
            (member, Status.RECEIVING.value),
        )
        return [_decode(row) for row in rows]

    async def add_jobs(self, jobs: Sequence[Job]) -> None:
        """Add records of jobs that have none."""
        if jobs:
            rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(jobs))
            columns = "status, due, created, fence, record, upload, stage, plugin"
            await self._write(
                f"INSERT OR IGNORE INTO jobs ({columns}) VALUES {rows}",  # noqa: S608 - only our own words are put in
                [value for job in jobs for value in _job_columns(job)],
            )

    async def jobs(self, upload_id: str) -> list[Job]:
        """Return the jobs of an upload."""
        rows = await self._read("SELECT record FROM jobs WHERE upload = ?", (upload_id,))
        return sorted((_job_decoder.decode(row[0]) for row in rows), key=lambda job: job.order)

    async def save_job(self, job: Job, fence: int) -> None:
        """Replace the record of a job, if its number is still `fence`."""
        changed = await self._write(
            "UPDATE jobs SET status=?, due=?, created=?, fence=?, record=?"
            " WHERE upload=? AND stage=? AND plugin=? AND fence=?",
            (*_job_columns(job), fence),
        )
        if not changed:
            raise Fenced()

    async def due_jobs(self, at: datetime, limit: int) -> list[Job]:
        """Return jobs that are due."""
        rows = await self._read("SELECT record FROM jobs WHERE due <= ? ORDER BY due LIMIT ?", (at.timestamp(), limit))
        return [_job_decoder.decode(row[0]) for row in rows]

    async def queue(self) -> list[Queued]:
        """Count jobs that wait or run."""
        rows = await self._read(
            "SELECT stage, status, count(*), min(due) FROM jobs WHERE due IS NOT NULL AND status IN (?, ?) "
            "GROUP BY stage, status",
            (JobStatus.WAITING.value, JobStatus.RUNNING.value),
        )
        return [
            Queued(stage, JobStatus(status), count, datetime.fromtimestamp(due, UTC))
            for stage, status, count, due in rows
        ]

    async def list_jobs(self, status: JobStatus | None, limit: int) -> list[Job]:
        """Return some jobs, the newest first."""
        where, values = ("", ()) if status is None else ("WHERE status = ?", (status.value,))
        rows = await self._read(
            f"SELECT record FROM jobs {where} ORDER BY created DESC, upload DESC, stage DESC, plugin DESC LIMIT ?",  # noqa: S608 - only our own words are put together
            (*values, limit),
        )
        return [_job_decoder.decode(row[0]) for row in rows]

    async def highest_fence(self) -> int:
        """Return the highest lock number.

        Raises:
            StoreUnavailable: the file is damaged; this looks at all records.
        """
        try:
            rows = list(await self._db.execute_fetchall("SELECT coalesce(max(fence), 0) FROM uploads"))
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return int(rows[0][0])

    async def has_lost_records(self) -> bool:
        """Return False: a file that was deleted is seen at the next start."""
        return False

    async def problem(self) -> str | None:
        """Return why the file cannot be read, or None."""
        try:
            await self.get("-")
        except TusError as error:
            return error.message
        return None

    async def aclose(self) -> None:
        """Close the file."""
        await self._db.close()

    def _unusable(self, error: Exception) -> StoreUnavailable:
        """Return what to tell the operator when the server starts."""
        return StoreUnavailable(
            f"cannot use the records in {self.path}: {error}. The disk may be full or read-only. If the file is "
            "damaged, move it away: the records are made again from the uploads' manifests"
        )

    async def _read(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            return list(await self._db.execute_fetchall(statement, values))
        except sqlite3.Error as error:
            raise _translated(error) from error

    async def _write(self, statement: str, values: Iterable[Any]) -> int:
        try:
            return (await self._db.execute(statement, values)).rowcount
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise _translated(error) from error


def _columns(upload: Upload, fence: int) -> tuple[Any, ...]:
    expires = upload.expires_at and upload.expires_at.timestamp()
    created = round(upload.created_at.timestamp(), 6)
    return (upload.status.value, upload.owner, created, expires, fence, msgspec.json.encode(upload))


def _job_columns(job: Job) -> tuple[Any, ...]:
    due, created = job.due_at and job.due_at.timestamp(), job.created_at.timestamp()
    return (job.status.value, due, created, job.fence, msgspec.json.encode(job), job.upload_id, job.stage, job.plugin)


_decoder = msgspec.json.Decoder(Upload)
_job_decoder = msgspec.json.Decoder(Job)


def _decode(row: Sequence[Any]) -> Upload:
    return _decoder.decode(row[0])


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's error code without the details of extended ones."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translated(error: sqlite3.Error) -> TusError:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return StorageFull()
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreUnavailable(
            "the file of records is damaged; an operator has to move it away and restart the server, "
            "which makes the records again from the uploads' manifests"
        )
    return StoreUnavailable(
        f"the records cannot be used now ({getattr(error, 'sqlite_errorname', 'SQLite error')}); try again"
    )
