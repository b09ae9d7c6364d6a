"""The nouns of the project: frozen values, and the rules of an upload as pure functions."""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from tusd_py.errors import FinalIsImmutable, Gone, InvalidLength, OffsetMismatch, TooLarge

# No dot and no slash: "<id>.info" can be no id, and an id can be no path.
UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Status(enum.StrEnum):
    """Where an upload is between its first byte and its verdict."""

    RECEIVING = "receiving"
    """Bytes are missing."""
    ASSEMBLING = "assembling"
    """All bytes are there; the store and the `pre_finish` hooks are at work."""
    CHECKING = "checking"
    """Complete; `check` plugins are at work."""
    ACCEPTED = "accepted"
    """Complete and free to be read."""
    QUARANTINED = "quarantined"
    """Complete, but a check failed."""
    REJECTED = "rejected"
    """A plugin refused it; the bytes are removed."""
    TERMINATED = "terminated"
    """A client or an operator removed it."""
    EXPIRED = "expired"
    """Its time ran out before it was complete."""
    LOST = "lost"
    """The storage no longer has its bytes."""

    @property
    def is_tombstone(self) -> bool:
        """Whether only the memory of the upload is left."""
        return self in _TOMBSTONES

    @property
    def is_finished(self) -> bool:
        """Whether the upload is complete and its bytes no longer change."""
        return self in _FINISHED


_TOMBSTONES = frozenset({Status.REJECTED, Status.TERMINATED, Status.EXPIRED, Status.LOST})
_FINISHED = frozenset({Status.CHECKING, Status.ACCEPTED, Status.QUARANTINED})


class Concat(msgspec.Struct, frozen=True):
    """What an Upload-Concat header says: a part of something, or the whole of several parts."""

    kind: Literal["partial", "final"]
    header: str
    """The header's value exactly as it was received."""
    members: tuple[str, ...] = ()
    """Ids of the partial uploads of a final one, in order."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One of the pieces, numbered from 1, of which a store like S3 makes the whole."""

    size: int
    etag: str
    """What the store calls the content of the piece."""
    crc: int | None = None
    """CRC-32C of its bytes, if known."""


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Bytes behind the last part that are too few for one."""

    size: int
    name: str
    """Where the store keeps them."""
    crc: int | None = None
    """CRC-32C of its bytes, if known."""


Stage = Literal["check", "describe", "deliver"]


class JobStatus(enum.StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    """It is not its turn, or it is and nobody has begun yet."""
    RUNNING = "running"
    DONE = "done"
    """The plugin has answered; a check's verdict is in the result."""
    FAILED = "failed"
    """No attempt succeeded, or the plugin said that none would."""
    CANCELLED = "cancelled"
    """An operator gave it up, or its upload ended."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens unless an operator wants it."""
        return self not in (JobStatus.WAITING, JobStatus.RUNNING)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one plugin does with one complete upload in one stage."""

    upload_id: str
    stage: Stage
    plugin: str
    status: JobStatus = JobStatus.WAITING
    due_at: datetime | None = None
    """When somebody has to look at it next: to begin it, to take it over from a worker that died, or to draw the
    consequences of its end. None while that depends on something else."""
    attempts: int = 0
    """Attempts begun since it was created or last retried."""
    fence: int = 0
    """Grows with every attempt and every command; who has an older number changes nothing."""
    worker: str | None = None
    """Who has begun it last."""
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: int = 0
    """Bytes of the upload that are worked through."""
    total: int | None = None
    result: Any = None
    """What the plugin returned: a check's verdict, a description's facts."""
    error: str | None = None
    """Why the last attempt failed."""

    @property
    def id(self) -> str:
        """Its name in commands."""
        return f"{self.upload_id}/{self.stage}/{self.plugin}"

    @property
    def order(self) -> tuple[int, str]:
        """Its place among the jobs of its upload."""
        return get_args(Stage).index(self.stage), self.plugin

    def changed(self, **changes: Any) -> Job:
        """Return a copy with other values."""
        return msgspec.structs.replace(self, **changes)

    def taken(self, **changes: Any) -> Job:
        """Return a copy with other values, and a number by which nobody who held the job before can change it."""
        # The time in it keeps numbers from coming again when records were lost and are made anew.
        return self.changed(fence=max(self.fence + 1, round(now().timestamp() * 1e6)), **changes)


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """One upload: what is known of it, and the rules for changing it.

    Sizes and offsets are in bytes, times in UTC.
    """

    id: str
    created_at: datetime
    updated_at: datetime
    length: int | None = None
    """Size when complete; None while it is deferred."""
    offset: int = 0
    """Bytes that are stored, from the start and without a gap."""
    metadata_header: str | None = None
    """Upload-Metadata exactly as it was sent."""
    metadata: dict[str, str] = {}
    """The same, decoded; bytes that are not UTF-8 are replaced."""
    concat: Concat | None = None
    status: Status = Status.RECEIVING
    owner: str | None = None
    """Name of the identity that created it."""
    storage: dict[str, str] = {}
    """Where the store keeps the bytes."""
    parts: tuple[Part, ...] = ()
    """Pieces that are stored, in order, in a store that keeps an unfinished upload in pieces."""
    tail: tuple[Segment, ...] = ()
    """What is stored behind the parts, in order."""
    finished_at: datetime | None = None
    accepted_at: datetime | None = None
    """When it was accepted for the first time."""
    expires_at: datetime | None = None
    fence: int = 0
    """Number of the lock under which the record was last changed."""
    reason: str | None = None
    """Why it was rejected, quarantined or lost."""
    is_inspected: bool = False
    """Whether plugins have seen its first bytes."""
    jobs: tuple[Job, ...] = ()
    """Its jobs, in a manifest; the state has records of their own."""

    @property
    def is_partial(self) -> bool:
        """Whether it is a part of a concatenation."""
        return self.concat is not None and self.concat.kind == "partial"

    @property
    def is_final(self) -> bool:
        """Whether it is the result of a concatenation."""
        return self.concat is not None and self.concat.kind == "final"

    @property
    def has_all_bytes(self) -> bool:
        """Whether no byte is missing; its verdict may still be open."""
        return self.length is not None and self.offset == self.length

    def changed(self, **changes: Any) -> Upload:
        """Return a copy with other values."""
        return msgspec.structs.replace(self, **changes)

    def check_present(self) -> None:
        """Raise `Gone` for a tombstone, with its status and reason."""
        if self.status.is_tombstone:
            why = f": {self.reason}" if self.reason else ""
            raise Gone(f"the upload was {self.status.value}{why}")

    def check_appendable(self, offset: int) -> None:
        """Raise unless a PATCH at `offset` may add bytes.

        Raises:
            Gone: it is a tombstone.
            FinalIsImmutable: it is the result of a concatenation.
            OffsetMismatch: it has another offset, which the error carries.
        """
        self.check_present()
        # "The Server MUST respond with the 403 Forbidden status to PATCH requests against a final upload"
        if self.is_final:
            raise FinalIsImmutable()
        # "If the offsets do not match, the Server MUST respond with the 409 Conflict status without modifying"
        if offset != self.offset:
            raise OffsetMismatch(
                f"the upload's offset is {self.offset}, not {offset}", {"Upload-Offset": str(self.offset)}
            )

    def with_length(self, length: int, max_size: int | None) -> Upload:
        """Return the upload with its deferred length declared.

        Raises:
            InvalidLength: another length was declared before, or more bytes than that are stored.
            TooLarge: it exceeds `max_size`.
        """
        if self.length is not None:
            # "Once set the length MUST NOT change."
            if length != self.length:
                raise InvalidLength(f"Upload-Length is {self.length} and cannot change to {length}")
            return self
        check_size(length, max_size)
        if length < self.offset:
            raise InvalidLength(f"Upload-Length {length} is below the {self.offset} bytes that are stored")
        return self.changed(length=length)

    def with_offset(self, offset: int, at: datetime, expire_after: timedelta | None) -> Upload:
        """Return the upload with `offset` bytes stored at time `at`; its expiry slides."""
        return self.changed(offset=offset, updated_at=at, expires_at=at + expire_after if expire_after else None)

    def finished(self, status: Status, at: datetime, reason: str | None = None) -> Upload:
        """Return the upload complete with a verdict; only a partial one still expires."""
        return self.changed(
            status=status,
            updated_at=at,
            finished_at=self.finished_at or at,
            accepted_at=self.accepted_at or (at if status is Status.ACCEPTED else None),
            expires_at=self.expires_at if self.is_partial else None,
            reason=reason,
        )

    def ended(self, status: Status, at: datetime, remember: timedelta, reason: str | None = None) -> Upload:
        """Return the tombstone that is remembered for `remember`."""
        return self.changed(status=status, updated_at=at, expires_at=at + remember, reason=reason)

    def is_expired(self, at: datetime) -> bool:
        """Whether its time has run out at `at`."""
        return self.expires_at is not None and self.expires_at <= at

    def missing(self) -> list[tuple[int, int | None]]:
        """Return the byte ranges `[start, stop)` that are not stored; stop is None while the length is unknown."""
        if self.has_all_bytes or self.status.is_tombstone:
            return []
        return [(self.offset, self.length)]


def check_size(length: int, max_size: int | None) -> None:
    """Raise `TooLarge` if `length` exceeds `max_size`."""
    if max_size is not None and length > max_size:
        raise TooLarge(f"the upload's size of {length} bytes exceeds the maximum of {max_size}")


def total_length(members: Sequence[Upload], max_size: int | None) -> int | None:
    """Return the length of what the members make together, or None as long as one's is deferred.

    Raises:
        TooLarge: it exceeds `max_size`.
    """
    total = sum(member.length or 0 for member in members)
    check_size(total, max_size)
    return None if any(member.length is None for member in members) else total


class Identity(msgspec.Struct, frozen=True):
    """Who makes a request, as told by an `authenticate` plugin."""

    name: str
    claims: dict[str, Any] = {}


class Content(Protocol):
    """Stored bytes of one upload, for readers.

    Once the upload is complete, it can be pickled in a thread. What another process gets has `size`, `url` and `open`.
    """

    size: int
    url: str
    """Where engines that read by URL find the bytes: `file://`, `s3://`."""

    def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, stop)`."""

    def open(self) -> BinaryIO:
        """Return a seekable file object, for a thread."""

    def on_disk(self) -> AbstractContextManager[Path]:
        """Give a path for readers that need one, for a thread; what is not on this machine is copied for as long."""


Action = Literal["create", "append", "head", "read", "terminate", "concatenate", "status", "list", "metrics"]
"""What a request wants to do, as `authorize` sees it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request without its body, as the protocol and the hooks see it."""

    method: str
    path: str
    headers: CIMultiDictProxy[str] = field(default_factory=lambda: CIMultiDictProxy(CIMultiDict()))
    query: str = ""
    """What stands behind the question mark, as it was sent; observers do not see it."""
    upload_id: str | None = None
    """Last part of the path; None for the collection."""
    base_url: str = ""
    """Absolute URL of the collection as the client sees it, with a slash at its end."""
    remote: str | None = None
    """The client's address, behind trusted proxies the one they forward."""
    id: str = ""
    """Name of this request in logs, answers and audit."""
    identity: Identity | None = None
    is_local: bool = False
    """Whether it comes from this machine and through no proxy."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response, as the protocol sees it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content: Content | None = None
    """`Content` to stream; `span` says which part."""
    span: tuple[int, int] = (0, 0)
    """Start and stop of the bytes of `content` to send."""
    error: str | None = None
    """Code of the error that this is, if it is one."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a `pre_create` hook changes; None leaves a thing as it is."""

    metadata: dict[str, str] | None = None
    id: str | None = None
    path: str | None = None
    """Where the store keeps the bytes, relative to its root, with `/` between folders."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a `check` plugin found."""

    ok: bool
    reasons: Sequence[str] = ()
