"""All uploads of a server: create, append, concatenate, read, terminate, expire.

This is the one place that orders authorization, lock, record, rules, hooks and bytes. Who may not do a thing is
refused before anything is locked or anybody disturbed; what is done under the lock is in `claim.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import structlog

from tusd_py.backends import Backends, Rules
from tusd_py.body import Bodies, Body
from tusd_py.claim import Claim
from tusd_py.errors import AlreadyExists, Forbidden, Gone, InvalidConcat, Locked, NotFinished, NotFound, TusError
from tusd_py.headers import format_upload_metadata
from tusd_py.hooks.caller import Hooks
from tusd_py.lockers.base import LetGo, Locker
from tusd_py.models import UPLOAD_ID, Concat, Content, Request, Status, Upload, check_size, now, total_length
from tusd_py.state.base import Filter, State
from tusd_py.stores.base import Readable, Store, Sweepable, Terminable

HEALTHY_SECONDS = 0.15
"""A HEAD waits so long for a PATCH in progress to stall before it takes the recorded offset."""

SWEEP_LOCK = ".sweep"
"""The lock of who sweeps; no upload can have this id."""

_log = structlog.get_logger("tusd_py.uploads")


def _keep(_: bool, /, *, lost: bool = False) -> None:
    """Do not let go of the lock: what is done is short."""


class Uploads:
    """All uploads of one server."""

    def __init__(self, store: Store, state: State, locker: Locker, hooks: Hooks, rules: Rules) -> None:
        """Work on these."""
        self.store = store
        self.state = state
        self.hooks = hooks
        self.rules = rules
        self.bodies = Bodies()
        self.jobs_due = asyncio.Event()
        self._locker = locker
        self._backends = Backends(store, state, hooks, rules, self.bodies, self.jobs_due)

    async def find(self, upload_id: str) -> Upload:
        """Return the record as it is now, without a lock.

        Raises:
            NotFound: there is none, and the store cannot make one.
        """
        return await self._backends.find(upload_id)

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
        body.limit(self.rules.room(draft))
        upload = await self._decorated(request, draft)
        async with self._lock(upload.id, body.let_go) as fence:
            claim = Claim(self._backends, upload, fence)
            await claim.insert(request)
            try:
                await claim.receive(body)
            except TusError:
                if body.discard:
                    await claim.abandon()
                raise
        await self._wake_finals(claim)
        return claim.upload

    async def append(self, request: Request, upload_id: str, offset: int, body: Body, length: int | None) -> Upload:
        """Append the body at `offset`, declaring a deferred length first if one is given.

        Raises:
            TusError: a rule or a plugin refuses it, or the body ended badly; what counts of it is kept all the same.
        """
        await self.hooks.authorize(request, "append", await self.find(upload_id))
        async with self.claimed(upload_id, body.let_go) as claim:
            await claim.recover(at=offset)
            claim.upload.check_appendable(offset)
            future = claim.upload if length is None else claim.upload.with_length(length, self.rules.max_size)
            body.limit(self.rules.room(future))
            if length is not None:
                await claim.declare(length)
            if claim.upload.status is Status.RECEIVING:
                await claim.receive(body)
            else:
                # A client that lost the last answer sends an empty PATCH, or the same one; there is no room for more.
                await body.head(1)
                if body.error:
                    raise body.error
        return claim.upload

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
            return await self._checked(upload)
        with contextlib.suppress(Locked):
            return await self._recovered(upload_id, timeout=HEALTHY_SECONDS)
        upload = await self.find(upload_id)
        upload.check_present()
        if upload.status is Status.RECEIVING and not upload.has_all_bytes:
            return upload
        return await self._recovered(upload_id)

    async def read(self, request: Request, upload_id: str) -> tuple[Upload, Content]:
        """Return a finished upload and its bytes.

        Raises:
            NotFinished: it is not complete, or a part of a concatenation.
            Forbidden: it is in quarantine, or being checked.
        """
        upload = await self.find(upload_id)
        await self.hooks.authorize(request, "read", upload)
        _check_readable(upload)
        checked = await self._checked(upload)
        # If its bytes were not there any more, they may have been put into quarantine meanwhile.
        _check_readable(checked)
        assert isinstance(self.store, Readable)
        return checked, self.store.content(checked)

    async def terminate(self, request: Request, upload_id: str) -> Upload:
        """Remove an upload for a client, and return its tombstone."""
        await self.hooks.authorize(request, "terminate", await self.find(upload_id))
        async with self.claimed(upload_id) as claim:
            claim.upload.check_present()
            await self.hooks.pre_terminate(request, claim.upload)
            await claim.end(Status.TERMINATED)
        return claim.upload

    async def remove(self, upload_id: str) -> Upload:
        """Remove an upload for the operator, and return its tombstone."""
        async with self.claimed(upload_id) as claim:
            claim.upload.check_present()
            await claim.end(Status.TERMINATED, "removed by the operator")
        return claim.upload

    async def expire(self, limit: int = 1000) -> int:
        """Remove what has run out of time, and forget tombstones that are old enough; return how many."""
        done = 0
        for found in await self.state.due(now(), limit):
            try:
                async with self.claimed(found.id, timeout=0) as claim:
                    if not claim.upload.is_expired(now()):
                        continue
                    if claim.upload.status.is_tombstone:
                        # A crash may have left its manifest, from which it would come back to life.
                        if isinstance(self.store, Terminable):
                            await self.store.remove(claim.upload)
                        await self.state.remove(found.id)
                    else:
                        await claim.end(Status.EXPIRED)
                    done += 1
            except (Locked, NotFound):
                continue
            except TusError as error:
                _log.warning("could not expire an upload", upload=found.id, error=error.message)
        return done

    async def sweep(self, grace: timedelta) -> int:
        """Remove what crashes left in the storage longer ago than `grace`, unless another process is at it.

        Uploads that are older and that the storage has lost meanwhile are recorded as lost.
        """
        if not isinstance(self.store, Sweepable):
            return 0
        before = now() - grace
        try:
            async with self._lock(SWEEP_LOCK, _keep, timeout=0):
                swept = await self.store.sweep(before)
                await self._record_lost(before, swept.lacks)
                return swept.removed
        except Locked:
            return 0

    async def _record_lost(self, before: datetime, lacks: Callable[[Upload], bool]) -> None:
        after: str | None = None
        while True:
            page = await self.state.page(Filter(status=Status.RECEIVING), after, 1000)
            for found in page.uploads:
                if found.created_at < before and lacks(found):
                    # Whoever holds the lock notices it without us.
                    with contextlib.suppress(Locked, NotFound):
                        async with self.claimed(found.id, timeout=0, urgent=False) as claim:
                            await claim.check_unfinished()
            if page.next is None:
                return
            after = page.next

    async def rebuild_all(self) -> int:
        """Make records again from all manifests that have none, and return how many."""
        made = 0
        async for upload_id in self.store.ids():
            if await self.state.get(upload_id) is None:
                try:
                    # Under the lock, for this may be an upload that is just being created.
                    async with self._lock(upload_id, _keep, timeout=0):
                        if await self.state.get(upload_id) is None:
                            await self._backends.rebuild(upload_id)
                            made += 1
                except Locked:
                    continue
                except TusError as error:
                    _log.warning("could not make a record from a manifest", upload=upload_id, error=error.message)
        return made

    async def problem(self) -> str | None:
        """Return why uploads cannot be taken now, for the operator, or None if they can."""
        for backend in (self.store, self.state, self._locker):
            if problem := await backend.problem():
                return problem
        return None

    # Locks

    @contextlib.asynccontextmanager
    async def _lock(
        self, upload_id: str, let_go: LetGo, *, timeout: float | None = None, urgent: bool = True
    ) -> AsyncIterator[int]:
        asked_at: list[float] = []

        def asked(at_once: bool, /, *, lost: bool = False) -> None:
            asked_at.append(time.perf_counter())
            let_go(at_once, lost=lost)

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
    async def claimed(
        self, upload_id: str, let_go: LetGo = _keep, *, timeout: float | None = None, urgent: bool = True
    ) -> AsyncIterator[Claim]:
        """Hold the lock, with the record as it is under it."""
        async with self._lock(upload_id, let_go, timeout=timeout, urgent=urgent) as fence:
            claim = Claim(self._backends, await self.find(upload_id), fence)
            yield claim
        await self._wake_finals(claim)

    async def _recovered(self, upload_id: str, timeout: float | None = None) -> Upload:
        async with self.claimed(upload_id, timeout=timeout, urgent=False) as claim:
            await claim.recover()
            claim.upload.check_present()
        return claim.upload

    async def _checked(self, upload: Upload) -> Upload:
        """Return a finished upload, or raise `Gone` if the store no longer has all its bytes."""
        with contextlib.suppress(Gone):
            if (await self.store.measure(upload)).offset == upload.length:
                return upload
        async with self.claimed(upload.id) as claim:
            claim.upload.check_present()
            await claim.check_stored()
        return claim.upload

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

    async def _create_final(self, request: Request, draft: Upload) -> Upload:
        assert draft.concat is not None
        members = await self._members(request, draft.concat)
        unfinished = [member.id for member in members if not member.status.is_finished]
        if unfinished and not self.rules.concatenation_unfinished:
            raise InvalidConcat(f"partial upload {unfinished[0]} is not finished, and this server waits for none")
        draft = draft.changed(id=_final_id(draft, 0), length=total_length(members, self.rules.max_size))
        upload = await self._decorated(request, draft)
        is_chosen = upload.id != draft.id
        for attempt in range(1 if is_chosen else 100):
            if not is_chosen:
                upload = upload.changed(id=_final_id(draft, attempt))
            async with self._lock(upload.id, _keep) as fence:
                found = await self.state.get(upload.id)
                if found is not None and found.status.is_tombstone:
                    continue
                # A client that lost the answer sends the same again: same parts, metadata and owner, same upload.
                if found is not None and (found.concat != upload.concat or found.owner != upload.owner):
                    break
                claim = Claim(self._backends, found or upload, fence)
                if found is None:
                    await claim.insert(request)
                await claim.recover()
                return claim.upload
        raise AlreadyExists()

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
            if member.has_all_bytes and not member.status.is_finished:
                # The request that brought its last byte was cut off, or was one to tusd.
                member = await self._recovered(member_id)
            members[member_id] = member
        return [members[member_id] for member_id in concat.members]

    async def _wake_finals(self, claim: Claim) -> None:
        """Put together what waited for a part that is complete now."""
        if not (claim.is_newly_finished and claim.upload.is_partial and self.rules.concatenation_unfinished):
            return
        for final in await self.state.waiting_finals(claim.upload.id):
            try:
                async with self.claimed(final.id) as waiting:
                    await waiting.recover()
            except TusError as error:
                _log.warning("a concatenation has to wait", upload=final.id, error=error.message)


def _check_readable(upload: Upload) -> None:
    upload.check_present()
    if upload.status is Status.QUARANTINED:
        raise Forbidden(f"the upload is in quarantine: {upload.reason or 'a check failed'}")
    if upload.status is Status.CHECKING:
        raise Forbidden("the upload is being checked, and can be read once it has passed")
    # No plugin has looked at a part; they see the whole that is made of it.
    if upload.status is not Status.ACCEPTED or upload.is_partial:
        raise NotFinished()


def _final_id(draft: Upload, attempt: int) -> str:
    """Return an id that the same concatenation gets again; as hard to guess as the members' ids."""
    assert draft.concat is not None
    words = [draft.concat.header, draft.metadata_header or "", draft.owner or "", str(attempt)]
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
