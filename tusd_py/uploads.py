"""The life of an upload: create, append, finish, concatenate, terminate, expire.

This is the one place that orders lock, record, rules, hooks, bytes and record again. What holds at every moment:

- Who may not do a thing is refused before anything is locked or anybody disturbed.
- Bytes are durable in the store before the record counts them, and counted before the client hears of them.
- An upload with all its bytes is not complete before `_finish` has said so. Whoever next holds the lock of one that
  was cut off there goes on with it, so a lost answer can be asked for again with HEAD or PATCH.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import structlog

from tusd_py.body import Body
from tusd_py.errors import (
    AlreadyExists,
    Forbidden,
    Gone,
    InvalidConcat,
    Locked,
    NotFinished,
    NotFound,
    Reject,
    ShuttingDown,
    StorageFull,
    TusError,
)
from tusd_py.headers import format_upload_metadata
from tusd_py.hooks.caller import Hooks
from tusd_py.lockers.base import LetGo, Locker
from tusd_py.models import UPLOAD_ID, Concat, Content, Request, Status, Upload, check_size, now
from tusd_py.state.base import State
from tusd_py.stores.base import Concatenable, Readable, Store, Terminable

HEALTHY_SECONDS = 0.2
"""A HEAD waits so long for a PATCH in progress to stall before it takes the recorded offset."""

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


class Uploads:
    """All uploads of one server."""

    def __init__(self, store: Store, state: State, locker: Locker, hooks: Hooks, rules: Rules) -> None:
        """Work on these."""
        self.store = store
        self.state = state
        self.hooks = hooks
        self.rules = rules
        self._locker = locker
        self._bodies: set[Body] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    async def find(self, upload_id: str) -> Upload:
        """Return the record as it is now, without a lock.

        Raises:
            NotFound: there is none, and the store cannot make one.
        """
        upload = await self.state.get(upload_id)
        if upload is None:
            upload = await self._rebuild(upload_id)
        return upload

    async def create(self, request: Request, draft: Upload, body: Body) -> Upload:
        """Create an upload from a draft without id, and append the body if there is one.

        Raises:
            TusError: a rule or a plugin refuses it.
        """
        await self.hooks.authorize(request, "create", None)
        if draft.length is not None:
            check_size(draft.length, self.rules.max_size)
        draft = draft.changed(owner=request.identity.name if request.identity else None)
        if draft.is_final:
            return await self._create_final(request, draft)
        body.limit(self._room(draft))
        upload = await self._decorated(request, draft)
        async with self._lock(upload.id, body.let_go) as fence:
            upload = await self._insert(request, upload, fence)
            return await self._receive(upload, body, fence)

    async def append(self, request: Request, upload_id: str, offset: int, body: Body, length: int | None) -> Upload:
        """Append the body at `offset`, declaring a deferred length first if one is given.

        Raises:
            TusError: a rule or a plugin refuses it, or the body ended badly; what counts of it is kept all the same.
        """
        await self.hooks.authorize(request, "append", await self.find(upload_id))
        async with self._held(upload_id, body.let_go, measured=False) as (upload, fence):
            upload.check_appendable(offset)
            is_open = upload.length is None
            if length is not None:
                upload = upload.with_length(length, self.rules.max_size)
            body.limit(self._room(upload))
            if is_open and length is not None:
                await self.store.save(upload)
                upload = await self.state.save(upload, fence)
            if upload.status is not Status.RECEIVING:
                # A client that lost the last answer sends an empty PATCH, or the same one; there is no room for more.
                await body.head(1)
                if body.error:
                    raise body.error
                return upload
            return await self._receive(upload, body, fence)

    async def head(self, request: Request, upload_id: str) -> Upload:
        """Return the upload with the offset at which the next PATCH may go on.

        A PATCH in progress that receives nothing is stopped for this; one that does receive goes on, and the recorded
        offset is returned.

        Raises:
            Locked: the upload is being finished, so that its outcome is not known yet.
        """
        upload = await self.find(upload_id)
        await self.hooks.authorize(request, "head", upload)
        upload.check_present()
        if upload.status.is_finished:
            await self._check_stored(upload)
            return upload
        with contextlib.suppress(Locked):
            async with self._held(upload_id, _ignore, timeout=HEALTHY_SECONDS, urgent=False) as (upload, _):
                upload.check_present()
                return upload
        upload = await self.find(upload_id)
        upload.check_present()
        if upload.status is Status.RECEIVING and not upload.has_all_bytes:
            return upload
        async with self._held(upload_id, _ignore, urgent=False) as (upload, _):
            upload.check_present()
            return upload

    async def read(self, request: Request, upload_id: str) -> tuple[Upload, Content]:
        """Return a finished upload and its bytes.

        Raises:
            NotFinished: it is not complete, or a part of a concatenation.
            Forbidden: it is in quarantine.
        """
        upload = await self.find(upload_id)
        await self.hooks.authorize(request, "read", upload)
        upload.check_present()
        if upload.status is Status.QUARANTINED:
            raise Forbidden(f"the upload is in quarantine: {upload.reason or 'a check failed'}")
        # No plugin has looked at a part; they see the whole that is made of it.
        if upload.status is not Status.ACCEPTED or upload.is_partial:
            raise NotFinished()
        assert isinstance(self.store, Readable)
        await self._check_stored(upload)
        return upload, self.store.content(upload)

    async def terminate(self, request: Request, upload_id: str) -> Upload:
        """Remove an upload for a client, and return its tombstone."""
        found = await self.find(upload_id)
        await self.hooks.authorize(request, "terminate", found)
        async with self._lock(upload_id, _ignore) as fence:
            upload = await self.find(upload_id)
            upload.check_present()
            await self.hooks.pre_terminate(request, upload)
            return await self._end(upload, fence, Status.TERMINATED)

    async def remove(self, upload_id: str) -> Upload:
        """Remove an upload for the operator, and return its tombstone."""
        async with self._lock(upload_id, _ignore) as fence:
            upload = await self.find(upload_id)
            upload.check_present()
            return await self._end(upload, fence, Status.TERMINATED, "removed by the operator")

    async def expire(self, limit: int = 1000) -> int:
        """Remove what has run out of time, and forget tombstones that are old enough; return how many."""
        done = 0
        for found in await self.state.due(now(), limit):
            try:
                if found.status.is_tombstone:
                    # A crash may have left its manifest, from which it would come back to life.
                    if isinstance(self.store, Terminable):
                        await self.store.remove(found)
                    await self.state.remove(found.id)
                else:
                    async with self._lock(found.id, _ignore, timeout=0) as fence:
                        upload = await self.state.get(found.id)
                        if upload is None or upload.status.is_tombstone or not upload.is_expired(now()):
                            continue
                        await self._end(upload, fence, Status.EXPIRED)
                done += 1
            except Locked:
                continue
            except TusError as error:
                _log.warning("could not expire an upload", upload=found.id, error=error.message)
        return done

    async def rebuild_all(self) -> int:
        """Make records again from all manifests that have none, and return how many."""
        made = 0
        async for upload_id in self.store.ids():
            if await self.state.get(upload_id) is None:
                try:
                    # Under the lock, for this may be an upload that is just being created.
                    async with self._lock(upload_id, _ignore, timeout=0):
                        if await self.state.get(upload_id) is None:
                            await self._rebuild(upload_id)
                            made += 1
                except Locked:
                    continue
                except TusError as error:
                    _log.warning("could not make a record from a manifest", upload=upload_id, error=error.message)
        return made

    def stop(self) -> None:
        """Stop every body that is being received; what arrived is kept, and later bodies are stopped at once."""
        self._stopping = True
        for body in list(self._bodies):
            body.interrupt(ShuttingDown())

    @property
    def receiving(self) -> int:
        """How many bodies are being received."""
        return len(self._bodies)

    async def idle(self) -> None:
        """Wait until no body is being received."""
        await self._idle.wait()

    # Locks

    @contextlib.asynccontextmanager
    async def _lock(
        self, upload_id: str, let_go: LetGo, *, timeout: float | None = None, urgent: bool = True
    ) -> AsyncIterator[int]:
        asked_at: list[float] = []

        def asked(at_once: bool) -> None:
            asked_at.append(time.perf_counter())
            let_go(at_once)

        started = time.perf_counter()
        wait = self.rules.lock_timeout if timeout is None else timeout
        try:
            lock = await self._locker.acquire(upload_id, timeout=wait, let_go=asked, urgent=urgent)
        except Locked:
            self.hooks.measure("lock_wait", time.perf_counter() - started, outcome="timeout")
            raise
        self.hooks.measure("lock_wait", time.perf_counter() - started, outcome="acquired")
        try:
            yield lock.fence
        finally:
            await lock.release()
            if asked_at:
                self.hooks.measure("lock_handover", time.perf_counter() - asked_at[0])

    @contextlib.asynccontextmanager
    async def _held(
        self,
        upload_id: str,
        let_go: LetGo,
        *,
        timeout: float | None = None,
        urgent: bool = True,
        measured: bool = True,
    ) -> AsyncIterator[tuple[Upload, int]]:
        """Hold the lock, with the record brought up to what is decided and, if `measured`, to what the store has.

        A PATCH does without: it goes on where the last answer said, or learns the recorded offset from its 409.
        """
        async with self._lock(upload_id, let_go, timeout=timeout, urgent=urgent) as fence:
            upload = await self.find(upload_id)
            if not upload.status.is_tombstone and not upload.status.is_finished:
                upload = await self._recovered(upload, fence, measured)
            yield upload, fence

    async def _recovered(self, upload: Upload, fence: int, measured: bool = True) -> Upload:
        if upload.is_expired(now()):
            return await self._end(upload, fence, Status.EXPIRED)
        if upload.is_final:
            return await self._assemble(upload, fence)
        offset = await self._durable(upload, fence) if measured else upload.offset
        if offset != upload.offset:
            _log.info("offset taken from the store", upload=upload.id, recorded=upload.offset, stored=offset)
            upload = upload.with_offset(offset, now(), self.rules.expire_after)
            # On a full disk the record has to wait, but the client can learn the right offset all the same.
            with contextlib.suppress(StorageFull):
                upload = await self.state.save(upload, fence)
        if upload.has_all_bytes:
            return await self._finish(upload, fence)
        return upload

    async def _durable(self, upload: Upload, fence: int | None) -> int:
        try:
            return await self.store.durable(upload)
        except Gone as error:
            if fence is not None:
                await self._lost(upload, fence, error)
            raise

    async def _check_stored(self, upload: Upload) -> None:
        """Raise `Gone` if a finished upload no longer has all its bytes, and record that it is lost."""
        try:
            if await self.store.durable(upload) == upload.length:
                return
            error = Gone("the storage no longer has all bytes of this upload")
        except Gone as gone:
            error = gone
        async with self._lock(upload.id, _ignore) as fence:
            await self._lost(upload, fence, error)
        raise error

    async def _lost(self, upload: Upload, fence: int, error: Gone) -> None:
        _log.error("the storage lost an upload", upload=upload.id, reason=error.message)
        await self._end(upload, fence, Status.LOST, error.message)

    async def _rebuild(self, upload_id: str) -> Upload:
        upload = await self.store.load(upload_id)
        if upload is None:
            raise NotFound()
        # The numbers of locks may begin anew where the records do.
        upload = upload.changed(fence=0)
        if not upload.status.is_finished and self.rules.expire_after:
            upload = upload.changed(expires_at=now() + self.rules.expire_after)
        try:
            await self.state.insert(upload)
            _log.info("record made from the manifest", upload=upload_id, offset=upload.offset)
        except AlreadyExists:
            return await self.find(upload_id)
        except StorageFull:
            _log.warning("no space for the record", upload=upload_id)
        return upload

    # Creation

    async def _decorated(self, request: Request, draft: Upload) -> Upload:
        """Give a draft its id and what plugins change."""
        draft = draft.changed(id=draft.id or secrets.token_hex(16))
        if draft.is_partial or not self.hooks.has("pre_create"):
            return draft
        changes = await self.hooks.pre_create(request, draft)
        if changes.metadata is not None:
            draft = draft.changed(metadata=changes.metadata, metadata_header=format_upload_metadata(changes.metadata))
        if changes.path is not None:
            draft = draft.changed(storage={"path": changes.path})
        if changes.id is not None:
            if not UPLOAD_ID.fullmatch(changes.id):
                raise Forbidden("a plugin chose an id that is not of letters, digits, - and _, or longer than 128")
            if not draft.is_final and await self.state.get(changes.id) is not None:
                raise AlreadyExists()
            draft = draft.changed(id=changes.id)
        return draft

    async def _insert(self, request: Request, upload: Upload, fence: int) -> Upload:
        at = now()
        expires = at + self.rules.expire_after if self.rules.expire_after else None
        upload = upload.changed(created_at=at, updated_at=at, expires_at=expires, fence=fence)
        if await self.state.get(upload.id) is not None:
            raise AlreadyExists()
        upload = await self.store.create(upload)
        try:
            await self.state.insert(upload)
        except TusError:
            await self._remove_bytes(upload)
            raise
        self.hooks.post_create(request, upload)
        return upload

    def _room(self, upload: Upload) -> int | None:
        if upload.length is not None:
            return upload.length - upload.offset
        return None if self.rules.max_size is None else self.rules.max_size - upload.offset

    # Bytes

    async def _receive(self, upload: Upload, body: Body, fence: int) -> Upload:
        """Store the body, and finish the upload if that makes it complete."""
        start, outcome = upload.offset, "ok"
        has_bytes = body.length != 0 or body.has_checksum
        try:
            if has_bytes:
                upload = await self._stored(upload, body, fence)
            if body.error:
                raise body.error
            if upload.has_all_bytes:
                upload = await self._finish(upload, fence)
        except TusError as error:
            outcome = type(error).code  # the class's: a plugin can give a refusal any code
            raise
        finally:
            if has_bytes:
                self.hooks.measure("bytes_received", upload.offset - start)
                self.hooks.measure("chunk", 1, status=outcome)
        return upload

    async def _stored(self, upload: Upload, body: Body, fence: int) -> Upload:
        self._bodies.add(body)
        self._idle.clear()
        self.hooks.measure("receiving", 1)
        if self._stopping:
            body.close(ShuttingDown())
        durable = upload.offset

        async def progress(offset: int) -> None:
            nonlocal durable
            durable = offset

        async def record() -> None:
            nonlocal upload
            while True:
                await asyncio.sleep(self.rules.progress_interval)
                if durable > upload.offset:
                    try:
                        upload = await self.state.save(
                            upload.with_offset(durable, now(), self.rules.expire_after), fence
                        )
                    except TusError as error:
                        body.close(error)
                        return
                    self.hooks.post_receive(upload)

        # Bytes under a checksum may still be discarded, so they are nobody's business yet.
        recorder = None if body.has_checksum else asyncio.create_task(record(), name="progress of an upload")
        try:
            if self._wants_head(upload):
                await self._inspect(upload, body, fence)
            try:
                offset = await self.store.append(upload, body, progress)
            except Gone as error:
                await self._lost(upload, fence, error)
                raise
        finally:
            self._bodies.discard(body)
            if not self._bodies:
                self._idle.set()
            self.hooks.measure("receiving", -1)
            if recorder is not None:
                recorder.cancel()
                await asyncio.wait([recorder])
            await body.aclose()
        if offset != upload.offset or not body.error:
            upload = await self.state.save(upload.with_offset(offset, now(), self.rules.expire_after), fence)
            self.hooks.post_receive(upload)
        return upload

    def _wants_head(self, upload: Upload) -> bool:
        return upload.offset < self.rules.head_size and not upload.is_partial and self.hooks.has("inspect_head")

    async def _inspect(self, upload: Upload, body: Body, fence: int) -> None:
        """Show the upload's first bytes to the plugins as soon as they are all there; a refusal ends the upload."""
        wanted = self.rules.head_size if upload.length is None else min(self.rules.head_size, upload.length)
        arrived = await body.head(wanted - upload.offset)
        if upload.offset + len(arrived) < wanted:
            # Too early: the request that brings the rest will show them.
            return
        head = await self._first_bytes(upload, upload.offset) + arrived if upload.offset else arrived
        await self._refusable(upload, fence, self.hooks.inspect_head(upload, head))

    async def _first_bytes(self, upload: Upload, count: int) -> bytes:
        assert isinstance(self.store, Readable)
        return b"".join([chunk async for chunk in self.store.content(upload).chunks(0, count)])

    async def _refusable(self, upload: Upload, fence: int, hook: object) -> None:
        """Await a hook; if it refuses, the upload is gone."""
        try:
            await hook  # type: ignore[misc]
        except Reject as refusal:
            await self._end(upload, fence, Status.REJECTED, refusal.message)
            raise

    # The end

    async def _finish(self, upload: Upload, fence: int) -> Upload:
        """Take a complete upload to its verdict; may be repeated at any point."""
        if upload.status is Status.RECEIVING:
            upload = await self.state.save(upload.changed(status=Status.ASSEMBLING), fence)
        await self.store.finish(upload)
        if not upload.is_partial and self.hooks.has("pre_finish"):
            assert isinstance(self.store, Readable)
            await self._refusable(upload, fence, self.hooks.pre_finish(upload, self.store.content(upload)))
        upload = upload.finished(Status.ACCEPTED, now())
        await self.store.save(upload)
        upload = await self.state.save(upload, fence)
        if upload.is_partial:
            await self._wake_finals(upload)
        else:
            self.hooks.post_finish(upload)
        return upload

    async def _end(self, upload: Upload, fence: int, status: Status, reason: str | None = None) -> Upload:
        """Turn an upload into a tombstone and free its bytes; what is left of a lost one stays for the operator."""
        tombstone = upload.ended(status, now(), self.rules.remember_ended, reason)
        try:
            tombstone = await self.state.save(tombstone, fence)
        except StorageFull:
            if status is Status.LOST:
                raise
            # Only this order makes the space that the record needs.
            await self._remove_bytes(upload)
            tombstone = await self.state.save(tombstone, fence)
        if status is not Status.LOST:
            await self._remove_bytes(tombstone)
        _log.info("upload ended", upload=upload.id, status=status.value, reason=reason)
        self.hooks.post_terminate(tombstone)
        return tombstone

    async def _remove_bytes(self, upload: Upload) -> None:
        if isinstance(self.store, Terminable):
            try:
                await self.store.remove(upload)
            except TusError as error:
                _log.error("could not free the bytes of an upload", upload=upload.id, error=error.message)

    # Concatenation

    async def _create_final(self, request: Request, draft: Upload) -> Upload:
        assert draft.concat is not None
        members = await self._members(request, draft.concat)
        if all(member.status.is_finished for member in members):
            length = sum(member.offset for member in members)
            check_size(length, self.rules.max_size)
            draft = draft.changed(length=length)
        elif not self.rules.concatenation_unfinished:
            unfinished = next(member.id for member in members if not member.status.is_finished)
            raise InvalidConcat(f"partial upload {unfinished} is not finished, and this server waits for none")
        draft = draft.changed(id=_final_id(draft, 0))
        upload = await self._decorated(request, draft)
        chosen = upload.id != draft.id
        for attempt in range(100):
            if not chosen:
                upload = upload.changed(id=_final_id(draft, attempt))
            async with self._held_final(upload.id) as (found, fence):
                if found is None:
                    return await self._assemble(await self._insert(request, upload, fence), fence)
                # A client that lost the answer sends the same again: same parts, metadata and owner, same upload.
                if not found.status.is_tombstone:
                    if found.concat != upload.concat or found.owner != upload.owner:
                        break
                    return found
            if chosen:
                break
        raise AlreadyExists()

    @contextlib.asynccontextmanager
    async def _held_final(self, upload_id: str) -> AsyncIterator[tuple[Upload | None, int]]:
        async with self._lock(upload_id, _ignore) as fence:
            found = await self.state.get(upload_id)
            if found is not None and not found.status.is_tombstone and not found.status.is_finished:
                found = await self._recovered(found, fence)
            yield found, fence

    async def _members(self, request: Request, concat: Concat) -> list[Upload]:
        members: dict[str, Upload] = {}
        for member_id in concat.members:
            if member_id in members:
                continue
            try:
                member = await self.find(member_id)
            except NotFound:
                raise InvalidConcat(f"there is no partial upload {member_id}") from None
            await self.hooks.authorize(request, "concatenate", member)
            if not member.is_partial:
                raise InvalidConcat(f"upload {member_id} was not created with 'Upload-Concat: partial'")
            if member.status.is_tombstone:
                raise InvalidConcat(f"partial upload {member_id} was {member.status.value}")
            members[member_id] = member
        return [members[member_id] for member_id in concat.members]

    async def _assemble(self, upload: Upload, fence: int) -> Upload:
        """Put a final upload together if all its members are complete; a crashed attempt is repeated from the start."""
        assert upload.concat is not None
        assert isinstance(self.store, Concatenable)
        # If all bytes are there, the parts may be gone: tusd or another server has put them together.
        if upload.length is None or await self._durable(upload, fence) < upload.length:
            members = []
            for member_id in upload.concat.members:
                member = await self.find(member_id)
                if member.status.is_tombstone:
                    await self._end(upload, fence, Status.REJECTED, f"its part {member_id} was {member.status.value}")
                    raise Gone(f"the upload's part {member_id} was {member.status.value}")
                if not member.status.is_finished:
                    return upload
                members.append(member)
            length = sum(member.offset for member in members)
            check_size(length, self.rules.max_size)
            upload = await self.state.save(upload.changed(length=length, status=Status.ASSEMBLING), fence)

            async def progress(_: int) -> None:
                return

            await self.store.concatenate(upload, members, progress)
        assert upload.length is not None
        length = upload.length
        upload = upload.with_offset(length, now(), self.rules.expire_after)
        if self.hooks.has("inspect_head"):
            head = await self._first_bytes(upload, min(length, self.rules.head_size))
            await self._refusable(upload, fence, self.hooks.inspect_head(upload, head))
        return await self._finish(upload, fence)

    async def _wake_finals(self, partial: Upload) -> None:
        """Put together what waited for this part."""
        if not self.rules.concatenation_unfinished:
            return
        for final in await self.state.waiting_finals(partial.id):
            try:
                async with self._held(final.id, _ignore):
                    pass
            except TusError as error:
                _log.warning("a concatenation has to wait", upload=final.id, error=error.message)


def _final_id(draft: Upload, attempt: int) -> str:
    """Return an id that the same concatenation gets again; as hard to guess as the members' ids."""
    assert draft.concat is not None
    words = [*draft.concat.members, draft.metadata_header or "", draft.owner or "", str(attempt)]
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _ignore(_: bool) -> None:
    """Do not let go: what is done is short."""
