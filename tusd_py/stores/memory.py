"""A store in the memory of one process, for tests and trials."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tusd_py import places
from tusd_py.body import Body
from tusd_py.config import Config
from tusd_py.content import Spool
from tusd_py.errors import AlreadyExists, Gone
from tusd_py.models import Upload
from tusd_py.stores.base import Progress


class MemoryStore:
    """Bytes in a dictionary; gone with the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._manifests: dict[str, Upload] = {}
        self._bytes: dict[str, bytearray] = {}

    @classmethod
    def from_url(cls, url: str, config: Config) -> MemoryStore:
        """Return an empty store."""
        return cls()

    async def open(self) -> None:
        """Do nothing: memory is always ready."""

    async def create(self, upload: Upload) -> Upload:
        """Make room for an upload."""
        upload = upload.changed(storage=places.first(upload.storage, upload.id))
        if {upload.storage["path"], upload.storage.get("home")} & self._bytes.keys():
            raise AlreadyExists()
        self._bytes[upload.storage["path"]] = bytearray()
        await self.save(upload)
        return upload

    async def append(self, upload: Upload, body: Body, progress: Progress) -> Upload:
        """Keep the body's bytes."""
        data = self._data(upload)
        del data[upload.offset :]
        unverified = bytearray()
        async for batch in body.batches():
            for chunk in batch:
                (unverified if body.has_checksum else data).extend(chunk)
            await progress(upload.changed(offset=len(data)))
        if body.discard:
            del data[upload.offset :]
        else:
            data += unverified
        return upload.changed(offset=len(data))

    async def measure(self, upload: Upload) -> Upload:
        """Count the bytes that are kept."""
        return upload.changed(offset=len(self._data(upload)))

    async def finish(self, upload: Upload) -> Upload:
        """Do nothing: memory is as safe as it gets."""
        return upload

    async def save(self, upload: Upload) -> None:
        """Keep the record."""
        self._manifests[upload.id] = upload

    async def load(self, upload_id: str) -> Upload | None:
        """Return the kept record with the offset that its bytes have."""
        upload = self._manifests.get(upload_id)
        return upload and upload.changed(offset=len(self._data(upload)))

    async def ids(self) -> AsyncIterator[str]:
        """Yield all ids."""
        for upload_id in list(self._manifests):
            yield upload_id

    async def remove(self, upload: Upload) -> None:
        """Forget the upload."""
        await self.clear(upload)
        self._manifests.pop(upload.id, None)
        self._bytes.pop(_path(upload), None)

    async def move(self, upload: Upload, path: str) -> Upload:
        """Keep the same bytes under another path too."""
        data = self._data(upload)
        if self._bytes.setdefault(path, data) is not data:
            raise AlreadyExists("another upload has this path")
        return places.moved(upload, path)

    async def clear(self, upload: Upload) -> None:
        """Forget the bytes under the other path."""
        self._bytes.pop(upload.storage.get("left", ""), None)
        if (moving := upload.storage.get("moving")) and self._bytes.get(moving) is self._bytes.get(_path(upload)):
            self._bytes.pop(moving, None)

    async def concatenate(self, upload: Upload, members: Sequence[Upload], progress: Progress) -> Upload:
        """Join the members' bytes."""
        data = self._bytes[_path(upload)] = bytearray(b"".join(self._data(member) for member in members))
        return upload.changed(offset=len(data))

    def content(self, upload: Upload) -> MemoryContent:
        """Return a snapshot of the bytes."""
        return MemoryContent(bytes(self._data(upload)), upload.id)

    async def problem(self) -> str | None:
        """Return None: nothing can be wrong."""
        return None

    async def aclose(self) -> None:
        """Do nothing."""

    def _data(self, upload: Upload) -> bytearray:
        try:
            return self._bytes[_path(upload)]
        except KeyError:
            raise Gone("the storage no longer has this upload") from None


def _path(upload: Upload) -> str:
    return upload.storage.get("path", upload.id)


class MemoryContent:
    """Bytes in memory; another process gets a copy."""

    def __init__(self, data: bytes, upload_id: str) -> None:
        """Take the bytes, and the id that names them."""
        self.size = len(data)
        self.url = f"memory:{upload_id}"
        self._data = data

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, stop)`."""
        yield self._data[start:stop]

    def open(self) -> BinaryIO:
        """Return the bytes as a file."""
        return io.BytesIO(self._data)

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give the path of a copy that is there for as long.

        Raises:
            StorageFull: there is no room for it.
        """
        with Spool().copied(self.open, self.size) as path:
            yield path
