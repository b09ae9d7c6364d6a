"""What a state is: the records of uploads, with atomic changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, Self

import msgspec

from tusd_py.config import Config
from tusd_py.errors import InvalidRequest
from tusd_py.models import Job, JobStatus, Stage, Status, Upload


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which uploads to list; None takes all."""

    status: Status | None = None
    owner: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Some uploads, the newest first, and where the next page begins."""

    uploads: list[Upload]
    next: str | None = None


class Queued(msgspec.Struct, frozen=True):
    """How many jobs of a stage wait or run, and when the first of them was due."""

    stage: Stage
    status: JobStatus
    count: int
    due_at: datetime


class State(Protocol):
    """Records of uploads and of their jobs."""

    @classmethod
    def from_url(cls, url: str, config: Config) -> Self:
        """Return the state that a URL names."""

    async def open(self) -> None:
        """Get ready.

        Raises:
            StoreUnavailable: that is not possible; the message is for the operator.
        """

    async def insert(self, upload: Upload) -> None:
        """Add a record.

        Raises:
            AlreadyExists: there is one with this id, be it a tombstone.
        """

    async def get(self, upload_id: str) -> Upload | None:
        """Return the record, or None if there is none."""

    async def save(self, upload: Upload, fence: int) -> Upload:
        """Replace the record under the lock number `fence`, and return what was saved.

        Raises:
            Fenced: a newer lock's holder has saved since, or the record is gone; nothing is changed.
        """

    async def remove(self, upload_id: str) -> None:
        """Forget a record and its jobs; it is no error if there is none."""

    async def page(self, filter: Filter, after: str | None, limit: int) -> Page:
        """Return up to `limit` records behind the position `after`.

        Raises:
            InvalidRequest: `after` is not a position that a page gave.
        """

    async def due(self, at: datetime, limit: int) -> list[Upload]:
        """Return up to `limit` records whose `expires_at` is not after `at`, the oldest first."""

    async def waiting_finals(self, member: str) -> list[Upload]:
        """Return the final uploads that still receive and have `member` as a part."""

    async def add_jobs(self, jobs: Sequence[Job]) -> None:
        """Add records of an upload's jobs, all in one step; one that is known stays as it is."""

    async def jobs(self, upload_id: str) -> list[Job]:
        """Return the jobs of an upload, in the order of stages and plugins' names."""

    async def save_job(self, job: Job, fence: int) -> None:
        """Replace the record of a job, if its number is still `fence`.

        Raises:
            Fenced: it has another number, or is gone; nothing is changed.
        """

    async def due_jobs(self, at: datetime, limit: int) -> list[Job]:
        """Return up to `limit` jobs whose `due_at` is not after `at`, the longest due first."""

    async def queue(self) -> list[Queued]:
        """Return how many jobs wait and run whose turn has come, by stage; what there are none of is left out."""

    async def list_jobs(self, status: JobStatus | None, limit: int) -> list[Job]:
        """Return up to `limit` jobs, of one status or all, the newest first."""

    async def highest_fence(self) -> int:
        """Return the highest lock number of all records, or 0."""

    async def has_lost_records(self) -> bool:
        """Return whether records were lost that nobody removed, telling each loss to one caller."""

    async def problem(self) -> str | None:
        """Return why records cannot be kept now, for the operator, or None if they can."""

    async def aclose(self) -> None:
        """Give back what the state holds open."""


def encode_position(upload: Upload) -> str:
    """Return the position behind an upload, for the next page."""
    return f"{upload.created_at.timestamp():.6f},{upload.id}"


def decode_position(after: str) -> tuple[float, str]:
    """Return time and id of a position.

    Raises:
        InvalidRequest: it is not one.
    """
    stamp, comma, upload_id = after.partition(",")
    try:
        created = float(stamp)
    except ValueError:
        comma = ""
    if not comma or not math.isfinite(created):
        raise InvalidRequest("'after' must be the 'next' of a former page")
    return created, upload_id
