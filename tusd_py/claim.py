"""One upload under its lock: what may be done to it there, in the order that loses nothing.

- Bytes are durable in the store before the record counts them, and counted before the client hears of them.
- An upload with all its bytes is not complete before `finish` has said so. Whoever next holds the lock of one that was
  cut off there goes on with it, so a lost answer can be asked for again with HEAD or PATCH.
- Every change of the record carries the lock's number, and a lower number than the record's changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import NoReturn, TypeVar

import structlog

from tusd_py import places
from tusd_py.backends import Backends
from tusd_py.body import Body
from tusd_py.errors import AlreadyExists, Fenced, Gone, NotFinished, Reject, StorageFull, TusError
from tusd_py.models import Request, Status, Upload, now, total_length
from tusd_py.stages import first_status, opened, planned
from tusd_py.stores.base import Concatenable, Movable, Progress, Readable

T = TypeVar("T")
_log = structlog.get_logger("tusd_py.uploads")


class Claim:
    """The right to change one upload, for as long as its lock is held."""

    def __init__(self, backends: Backends, upload: Upload, fence: int) -> None:
        """Change `upload` under the lock number `fence`."""
        self.upload = upload
        self.is_newly_finished = False
        self._backends = backends
        self._rules = backends.rules
        self._store = backends.store
        self._hooks = backends.hooks
        self._fence = fence

    async def insert(self, request: Request) -> None:
        """Make the upload exist.

        Raises:
            AlreadyExists: there is one with its id.
        """
        at = now()
        expires = at + self._rules.expire_after if self._rules.expire_after else None
        upload = self.upload.changed(created_at=at, updated_at=at, expires_at=expires, fence=self._fence)
        if await self._backends.state.get(upload.id) is not None:
            raise AlreadyExists()
        prefix, is_checked = self._rules.quarantine_prefix, self._hooks.has("check")
        upload = upload.changed(storage=places.born(upload.storage, prefix, is_checked=is_checked))
        upload = await self._store.create(upload)
        try:
            await self._backends.state.insert(upload)
        except TusError:
            await self._backends.remove_bytes(upload)
            raise
        self.upload = upload
        self._hooks.post_create(request, upload)

    async def recover(self, at: int | None = None) -> None:
        """Bring the record up to what the store has and to what is decided.

        The store is not asked if the record is `at` this offset already, where a PATCH wants to go on.
        """
        upload = self.upload
        if upload.status.is_tombstone or upload.status.is_finished:
            return
        if upload.is_expired(now()):
            await self.end(Status.EXPIRED)
        elif upload.is_final:
            await self.assemble()
        else:
            if upload.offset != at:
                await self._measure()
            if self.upload.has_all_bytes:
                await self.finish()

    async def check_stored(self) -> None:
        """Raise `Gone`, and record that the upload is lost, if the store lacks bytes of a finished upload."""
        if self.upload.status.is_finished and (await self._measured()).offset != self.upload.length:
            await self._lost(Gone("the storage no longer has all bytes of this upload"))

    async def check_unfinished(self) -> None:
        """Record that the upload is lost if the store no longer has what it needs to go on."""
        if self.upload.status is Status.RECEIVING:
            with contextlib.suppress(Gone):
                await self._intact(self._store.load(self.upload.id))

    async def declare(self, length: int) -> None:
        """Set the length of an upload whose length was deferred."""
        upload = self.upload.with_length(length, self._rules.max_size)
        if upload is not self.upload:
            await self._store.save(upload)
            await self.save(upload)

    async def receive(self, body: Body) -> None:
        """Append a body, and finish the upload if that makes it complete.

        Raises:
            TusError: the body ended badly, or the upload was refused; what counts of the body is kept all the same.
        """
        start, outcome = self.upload.offset, "ok"
        has_bytes = body.length != 0 or body.has_checksum
        try:
            if has_bytes:
                with self._backends.bodies.receiving(body):
                    self._hooks.measure("receiving", 1)
                    try:
                        await self._append(body)
                    finally:
                        self._hooks.measure("receiving", -1)
                        await body.aclose()
            if body.error:
                raise body.error
            if self.upload.has_all_bytes:
                await self.finish()
        except TusError as error:
            outcome = type(error).code  # the class's: a plugin can give a refusal any code
            raise
        finally:
            if has_bytes:
                self._hooks.measure("bytes_received", self.upload.offset - start)
                self._hooks.measure("chunk", 1, status=outcome)

    async def finish(self) -> None:
        """Take a complete upload to its verdict; may be repeated at any point.

        Raises:
            Reject: a plugin refused it; it is a tombstone now.
        """
        if self.upload.status is Status.RECEIVING:
            await self.save(self.upload.changed(status=Status.ASSEMBLING))
        self.upload = await self._intact(self._store.finish(self.upload))
        if self._wants_head():
            await self._inspect(await self._backends.first_bytes(self.upload, self._head_size()))
        if not self.upload.is_partial and self._hooks.has("pre_finish"):
            assert isinstance(self._store, Readable)
            await self._refusable(self._hooks.pre_finish(self.upload, self._store.content(self.upload)))
        jobs = planned(self.upload, self._hooks.plugins_of, now())
        await self.place(first_status(jobs))
        upload = self.upload.finished(first_status(jobs), now())
        await self._store.save(upload.changed(jobs=tuple(jobs)))
        # Before the record, for nobody would miss them once that is there.
        await self._backends.state.add_jobs(opened(upload.status, jobs, now()))
        await self.save(upload)
        await self.tidy()
        self.is_newly_finished = True
        self._backends.jobs_due.set()
        if not upload.is_partial and upload.status is Status.ACCEPTED:
            self._hooks.post_finish(self.upload)

    async def place(self, status: Status) -> None:
        """Have the bytes where those of an upload with this status are, before the record says that it has it.

        After that the record, then the manifest have to be saved; then `tidy` may delete what is left.
        """
        if (path := places.due(self.upload, status, self._rules.quarantine_prefix)) is None:
            return
        assert isinstance(self._store, Movable)
        if not places.is_settled(self.upload) and self.upload.storage.get("moving") != path:
            # Another move was cut off; the manifest may still name the place that is cleared now.
            await self._store.save(self.upload.changed(jobs=tuple(await self._backends.state.jobs(self.upload.id))))
            await self.tidy()
        # So that whoever goes on after a crash knows of both places.
        await self.save(places.moving(self.upload, path))
        try:
            self.upload = await self._intact(self._store.move(self.upload, path))
        except AlreadyExists:
            await self.save(places.settled(self.upload))
            raise

    async def tidy(self) -> None:
        """Delete what a move has left elsewhere, be it over or cut off, and record that."""
        if not places.is_settled(self.upload):
            assert isinstance(self._store, Movable)
            await self._store.clear(self.upload)
            await self.save(places.settled(self.upload))

    async def assemble(self) -> None:
        """Put a final upload together if all its members are complete; a crashed attempt is repeated from the start."""
        assert self.upload.concat is not None
        assert isinstance(self._store, Concatenable)
        # If all bytes are there, the parts may be gone: tusd or another server has put them together.
        if self.upload.length is None or (await self._measured()).offset < self.upload.length:
            members = [await self._backends.find(member_id) for member_id in self.upload.concat.members]
            for member in members:
                if member.status.is_tombstone:
                    reason = f"its part {member.id} was {member.status.value}"
                    await self.end(Status.REJECTED, reason)
                    raise Gone(f"the upload was rejected: {reason}")
            length = total_length(members, self._rules.max_size)
            if not all(member.status.is_finished for member in members):
                if length != self.upload.length:
                    await self.save(self.upload.changed(length=length))
                return
            await self.save(self.upload.changed(length=length, status=Status.ASSEMBLING))
            async with self._recorded() as progress:
                self.upload = await self._intact(self._store.concatenate(self.upload, members, progress))
        assert self.upload.length is not None
        self.upload = self.upload.with_offset(self.upload.length, now(), self._rules.expire_after)
        await self.finish()

    async def end(self, status: Status, reason: str | None = None) -> None:
        """Turn the upload into a tombstone and free its bytes; what is left of a lost one stays for the operator."""
        tombstone = self.upload.ended(status, now(), self._rules.remember_ended, reason)
        try:
            await self.save(tombstone)
        except StorageFull:
            if status is Status.LOST:
                raise
            # Only this order makes the space that the record needs.
            await self._backends.remove_bytes(tombstone)
            await self.save(tombstone)
        if status is not Status.LOST:
            await self._backends.remove_bytes(tombstone)
        if self.upload.finished_at:
            await self._call_off_jobs()
        self._backends.jobs_due.set()
        _log.info("upload ended", upload=self.upload.id, status=status.value, reason=reason)
        self._hooks.post_terminate(self.upload)

    async def _call_off_jobs(self) -> None:
        """Have the jobs of an ended upload looked at: who does that cancels them, and who is at one has lost it."""
        state = self._backends.state
        for name in [job.id for job in await state.jobs(self.upload.id)]:
            # A worker that begins or ends it in this moment changes its number.
            while job := next((job for job in await state.jobs(self.upload.id) if job.id == name), None):
                with contextlib.suppress(Fenced):
                    if not job.status.has_ended:
                        await state.save_job(job.taken(due_at=now()), job.fence)
                    break

    async def abandon(self) -> None:
        """Forget a new upload none of whose bytes count: its client gets an error and no URL, so nobody can go on.

        What cannot be removed now expires.
        """
        with contextlib.suppress(TusError):
            await self.end(Status.TERMINATED, "its creation failed")
            await self._backends.state.remove(self.upload.id)

    async def save(self, upload: Upload) -> None:
        """Replace the record.

        Raises:
            Fenced: the lock went to somebody else meanwhile.
        """
        self.upload = await self._backends.state.save(upload, self._fence)

    async def _measured(self) -> Upload:
        return await self._intact(self._store.measure(self.upload))

    async def _intact(self, work: Awaitable[T]) -> T:
        """Return what the store returns, or record that the upload is lost."""
        try:
            return await work
        except Gone as error:
            return await self._lost(error)

    async def _lost(self, error: Gone) -> NoReturn:
        _log.error("the storage lost an upload", upload=self.upload.id, reason=error.message)
        await self.end(Status.LOST, error.message)
        raise error

    async def _measure(self) -> None:
        stored, recorded = await self._measured(), self.upload.offset
        if stored.offset != recorded:
            _log.info("offset taken from the store", upload=stored.id, recorded=recorded, stored=stored.offset)
            self.upload = stored.with_offset(stored.offset, now(), self._rules.expire_after)
            # On a full disk the record has to wait, but the client can learn the right offset all the same.
            with contextlib.suppress(StorageFull):
                await self.save(self.upload)

    async def _append(self, body: Body) -> None:
        async with self._recorded(body) as progress:
            await self._show_head(body)
            stored = await self._intact(self._store.append(self.upload, body, progress))
        if stored.offset != self.upload.offset or not body.error:
            await self._advance(stored)

    @contextlib.asynccontextmanager
    async def _recorded(self, body: Body | None = None) -> AsyncIterator[Progress]:
        """Record now and then how far the store has got; a body is closed if that fails."""
        durable = self.upload

        async def progress(upload: Upload) -> None:
            nonlocal durable
            durable = upload

        async def record() -> None:
            while True:
                await asyncio.sleep(self._rules.progress_interval)
                if durable.offset > self.upload.offset:
                    try:
                        await self._advance(durable)
                    except TusError as error:
                        if body is not None:
                            body.close(error)
                        return

        # Bytes under a checksum may still be discarded, so they are nobody's business yet.
        is_silent = body is not None and body.has_checksum
        recorder = None if is_silent else asyncio.create_task(record(), name="progress of an upload")
        try:
            yield progress
        finally:
            if recorder is not None:
                recorder.cancel()
                await asyncio.wait([recorder])

    async def _advance(self, stored: Upload) -> None:
        await self.save(stored.with_offset(stored.offset, now(), self._rules.expire_after))
        content = self._store.content(self.upload) if isinstance(self._store, Readable) else None
        self._hooks.post_receive(self.upload, content)

    def _head_size(self) -> int:
        length = self.upload.length
        return self._rules.head_size if length is None else min(self._rules.head_size, length)

    def _wants_head(self) -> bool:
        return not self.upload.is_inspected and not self.upload.is_partial and self._hooks.has("inspect_head")

    async def _show_head(self, body: Body) -> None:
        """Show the upload's first bytes to the plugins as soon as they are all there, before more is stored."""
        if not self._wants_head():
            return
        missing = max(0, self._head_size() - self.upload.offset)
        arrived = await body.head(missing)
        # Too early if there are fewer: the request that brings the rest will show them. A store that cannot read what
        # is not finished shows them at the end.
        if len(arrived) == missing:
            with contextlib.suppress(NotFinished):
                stored = min(self.upload.offset, self._rules.head_size)
                await self._inspect(await self._backends.first_bytes(self.upload, stored) + arrived)

    async def _inspect(self, head: bytes) -> None:
        await self._refusable(self._hooks.inspect_head(self.upload, head))
        self.upload = self.upload.changed(is_inspected=True)

    async def _refusable(self, hook: Awaitable[None]) -> None:
        """Await a hook; if it refuses, the upload is gone."""
        try:
            await hook
        except Reject as refusal:
            await self.end(Status.REJECTED, refusal.message)
            raise
