"""Records in the memory of one process, for tests and trials."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tusd_py.config import Config
from tusd_py.errors import AlreadyExists, Fenced
from tusd_py.models import Job, JobStatus, Stage, Status, Upload
from tusd_py.state.base import Filter, Page, Queued, decode_position, encode_position


class MemoryState:
    """Records in a dictionary; gone with the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._records: dict[str, Upload] = {}
        self._jobs: dict[str, Job] = {}

    @classmethod
    def from_url(cls, url: str, config: Config) -> MemoryState:
        """Return an empty state."""
        return cls()

    async def open(self) -> None:
        """Do nothing: memory is always ready."""

    async def insert(self, upload: Upload) -> None:
        """Add a record."""
        if upload.id in self._records:
            raise AlreadyExists()
        self._records[upload.id] = upload

    async def get(self, upload_id: str) -> Upload | None:
        """Return the record, if any."""
        return self._records.get(upload_id)

    async def save(self, upload: Upload, fence: int) -> Upload:
        """Replace the record unless a newer lock's holder has."""
        known = self._records.get(upload.id)
        if known is None or known.fence > fence:
            raise Fenced()
        upload = self._records[upload.id] = upload.changed(fence=fence)
        return upload

    async def remove(self, upload_id: str) -> None:
        """Forget a record."""
        self._records.pop(upload_id, None)
        for job in await self.jobs(upload_id):
            del self._jobs[job.id]

    async def page(self, filter: Filter, after: str | None, limit: int) -> Page:
        """Return some records, the newest first."""
        found = sorted(self._records.values(), key=_position, reverse=True)
        if after is not None:
            stamp, upload_id = decode_position(after)
            found = [upload for upload in found if _position(upload) < (stamp, upload_id)]
        if filter.status is not None:
            found = [upload for upload in found if upload.status == filter.status]
        if filter.owner is not None:
            found = [upload for upload in found if upload.owner == filter.owner]
        return Page(found[:limit], encode_position(found[limit - 1]) if len(found) > limit else None)

    async def due(self, at: datetime, limit: int) -> list[Upload]:
        """Return records whose time has run out."""
        found = [upload for upload in self._records.values() if upload.is_expired(at)]
        return sorted(found, key=lambda upload: upload.expires_at or datetime.max.replace(tzinfo=UTC))[:limit]

    async def waiting_finals(self, member: str) -> list[Upload]:
        """Return final uploads that wait for a member."""
        return [
            upload
            for upload in self._records.values()
            if upload.status is Status.RECEIVING
            and upload.is_final
            and upload.concat
            and member in upload.concat.members
        ]

    async def add_jobs(self, jobs: Sequence[Job]) -> None:
        """Add records of jobs that have none."""
        for job in jobs:
            self._jobs.setdefault(job.id, job)

    async def jobs(self, upload_id: str) -> list[Job]:
        """Return the jobs of an upload."""
        found = [job for job in self._jobs.values() if job.upload_id == upload_id]
        return sorted(found, key=lambda job: job.order)

    async def save_job(self, job: Job, fence: int) -> None:
        """Replace the record of a job, if its number is still `fence`."""
        known = self._jobs.get(job.id)
        if known is None or known.fence != fence:
            raise Fenced()
        self._jobs[job.id] = job

    async def due_jobs(self, at: datetime, limit: int) -> list[Job]:
        """Return jobs that are due."""
        found = [(job.due_at, job.id, job) for job in self._jobs.values() if job.due_at and job.due_at <= at]
        return [job for _, _, job in sorted(found)[:limit]]

    async def queue(self) -> list[Queued]:
        """Count jobs that wait or run."""
        found: dict[tuple[Stage, JobStatus], list[datetime]] = {}
        for job in self._jobs.values():
            if job.due_at is not None and not job.status.has_ended:
                found.setdefault((job.stage, job.status), []).append(job.due_at)
        return [Queued(stage, status, len(due), min(due)) for (stage, status), due in found.items()]

    async def list_jobs(self, status: JobStatus | None, limit: int) -> list[Job]:
        """Return some jobs, the newest first."""
        found = [job for job in self._jobs.values() if status in (None, job.status)]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def highest_fence(self) -> int:
        """Return the highest lock number."""
        return max((upload.fence for upload in self._records.values()), default=0)

    async def has_lost_records(self) -> bool:
        """Return False: who loses them is the process itself."""
        return False

    async def problem(self) -> str | None:
        """Return None: memory always works."""
        return None

    async def aclose(self) -> None:
        """Do nothing."""


def _position(upload: Upload) -> tuple[float, str]:
    return round(upload.created_at.timestamp(), 6), upload.id
