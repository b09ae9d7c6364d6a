"""What uploads are made of: the rules that hold for all of them, and the objects that keep bytes and records."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import structlog

from tusd_py.body import Bodies
from tusd_py.errors import AlreadyExists, NotFound, StorageFull, TusError
from tusd_py.hooks.caller import Hooks
from tusd_py.models import Upload, now
from tusd_py.stages import restored
from tusd_py.state.base import State
from tusd_py.stores.base import Readable, Store, Terminable

_log = structlog.get_logger("tusd_py.uploads")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and times that the lifecycle obeys; sizes in bytes, waits in seconds."""

    max_size: int | None = None
    expire_after: timedelta | None = None
    remember_ended: timedelta = timedelta(days=7)
    lock_timeout: float = 10
    progress_interval: float = 1
    head_size: int = 64 * 1024
    concatenation_unfinished: bool = False
    quarantine_prefix: str | None = None

    def room(self, upload: Upload) -> int | None:
        """Return how many more bytes the upload may get, or None if that is open."""
        most = self.max_size if upload.length is None else upload.length
        return None if most is None else most - upload.offset


@dataclass(frozen=True)
class Backends:
    """What uploads are made of."""

    store: Store
    state: State
    hooks: Hooks
    rules: Rules
    bodies: Bodies
    jobs_due: asyncio.Event
    """Set when there may be jobs to begin."""

    async def find(self, upload_id: str) -> Upload:
        """Return the record, made again from the store if there is none.

        Raises:
            NotFound: the store has no such upload either.
        """
        return await self.state.get(upload_id) or await self.rebuild(upload_id)

    async def rebuild(self, upload_id: str) -> Upload:
        """Make the record of an upload again from its manifest and bytes.

        Raises:
            NotFound: the store has no such upload.
        """
        upload = await self.store.load(upload_id)
        if upload is None:
            raise NotFound()
        jobs = restored(upload.status, upload.jobs, now())
        # The numbers of locks may begin anew where the records do.
        upload = upload.changed(fence=0, jobs=())
        if not upload.status.is_finished and self.rules.expire_after:
            upload = upload.changed(expires_at=now() + self.rules.expire_after)
        try:
            # Before the record, for nobody would miss them once that is there.
            await self.state.add_jobs(jobs)
            await self.state.insert(upload)
            _log.info("record made from the manifest", upload=upload_id, offset=upload.offset)
        except AlreadyExists:
            return await self.find(upload_id)
        except StorageFull:
            _log.warning("no space for the record", upload=upload_id)
        self.jobs_due.set()
        return upload

    async def remove_bytes(self, upload: Upload) -> None:
        """Free an upload's bytes; a failure is for the operator, not for who asked."""
        if isinstance(self.store, Terminable):
            try:
                await self.store.remove(upload)
            except TusError as error:
                _log.error("could not free the bytes of an upload", upload=upload.id, error=error.message)

    async def first_bytes(self, upload: Upload, count: int) -> bytes:
        """Return the first `count` stored bytes."""
        assert isinstance(self.store, Readable)
        return b"".join([chunk async for chunk in self.store.content(upload).chunks(0, count)])
