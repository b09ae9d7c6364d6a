"""What a store is: one required Protocol and a small one per capability.

A store that lacks a capability just does not have its methods; `protocol.extensions_for` looks once, at start-up, and
what is missing is not advertised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, Self, runtime_checkable

from tusd_py.body import Body
from tusd_py.config import Config
from tusd_py.models import Content, Upload

Progress = Callable[[Upload], Awaitable[None]]
"""Called with the record that tells what is durable now."""


class Store(Protocol):
    """Bytes of uploads, and beside them a manifest from which the record can be made again.

    Durable means: survives the death of every server process. What is durable of an upload is told by its record: its
    `offset`, and where the store keeps an upload in pieces also `parts` and `tail`. Methods that change it return the
    record with those, and the caller saves it, so that all of it changes in one step.
    """

    @classmethod
    def from_url(cls, url: str, config: Config) -> Self:
        """Return the store that a URL names."""

    async def open(self) -> None:
        """Get ready.

        Raises:
            StoreUnavailable: that is not possible; the message is for the operator.
        """

    async def create(self, upload: Upload) -> Upload:
        """Make room for an upload and write its manifest; return it with `storage` filled in.

        Raises:
            AlreadyExists: there is one with this id, or another's bytes are at this path.
        """

    async def append(self, upload: Upload, body: Body, progress: Progress) -> Upload:
        """Store the body's bytes from `upload.offset` on, and return the record of what is durable then.

        Bytes that a former process left behind `upload.offset` are overwritten. If `body.discard` is true after the
        last batch, nothing of the body is kept. A failure of the storage closes the body with that error, and what
        was durable before it is kept.

        Raises:
            Gone: the storage no longer has the upload.
        """

    async def measure(self, upload: Upload) -> Upload:
        """Return the record of what is durable now, never more than is known to be right.

        A store for which the record is the truth returns it as it is.

        Raises:
            Gone: the storage no longer has the upload.
        """

    async def finish(self, upload: Upload) -> Upload:
        """Make a complete upload safe for good, and return its record; it may be repeated after a crash.

        Raises:
            Gone: the storage no longer has the upload.
        """

    async def save(self, upload: Upload) -> None:
        """Write the manifest anew."""

    async def load(self, upload_id: str) -> Upload | None:
        """Make the record again from manifest and bytes, or return None if there is no such upload."""

    def ids(self) -> AsyncIterator[str]:
        """Yield the ids of all manifests."""

    async def problem(self) -> str | None:
        """Return why uploads cannot be stored now, or None if they can."""

    async def aclose(self) -> None:
        """Give back what the store holds open."""


@runtime_checkable
class Terminable(Protocol):
    """A store that can remove an upload."""

    async def remove(self, upload: Upload) -> None:
        """Free everything the upload uses; removing twice is no error."""


@runtime_checkable
class Concatenable(Protocol):
    """A store that can join uploads."""

    async def concatenate(self, upload: Upload, members: Sequence[Upload], progress: Progress) -> Upload:
        """Make the bytes of `upload` from those of `members`, and return its record.

        It may be repeated after a crash.
        """


class Sweep(NamedTuple):
    """What tidying up has found."""

    removed: int
    """How many things that belong to no upload."""
    lacks: Callable[[Upload], bool]
    """Whether there was nothing of an unfinished upload that should be there; `load` tells for certain."""


@runtime_checkable
class Movable(Protocol):
    """A store that can keep an upload's bytes at another path, as a quarantine needs it.

    `places.first` has to be asked where a new upload's bytes go, and `remove` frees what `clear` does too.
    """

    async def move(self, upload: Upload, path: str) -> Upload:
        """Have a complete upload's bytes at another path too, and return the record that says that they are there.

        What is at the former path stays, and is `left` by the record's storage. It may be repeated after a crash.

        Raises:
            AlreadyExists: another's bytes are at that path.
            Gone: the storage no longer has the upload.
        """

    async def clear(self, upload: Upload) -> None:
        """Delete what is `left` by the record, and what is at its `moving` if that is a copy of the upload's bytes.

        It is no error if nothing is there.
        """


@runtime_checkable
class Sweepable(Protocol):
    """A store in which a crash can leave things that belong to no upload."""

    async def sweep(self, before: datetime) -> Sweep:
        """Remove such things that were last changed before a time."""


@runtime_checkable
class Readable(Protocol):
    """A store whose bytes can be read back."""

    def content(self, upload: Upload) -> Content:
        """Return the stored bytes of an upload.

        A store may be unable to read what is not finished; its chunks then raise `NotFinished`. What is complete can
        be pickled: `tusd_py.content` has what other processes get of files and objects.
        """
