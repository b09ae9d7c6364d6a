"""The bytes of an S3 upload for readers, and what its object says of itself."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tusd_py.content import Spool, StoredObject, waited
from tusd_py.errors import NotFinished
from tusd_py.models import Upload
from tusd_py.ranges import FIRST_BYTES, Address, RangeFile
from tusd_py.stores.s3_client import Bucket
from tusd_py.stores.s3_write import Piece

ID_KEY = "tusd-py-id"
"""Key of the metadata by which an object is known as the one of an upload."""
METADATA_BYTES = 2048
"""What S3 takes of keys and values together."""
FOREIGN_BYTES = 4 * 1024 * 1024
_KEY = re.compile(r"[a-z0-9!#$&'*+.^_`|~-]{1,100}", re.ASCII)
_PLAIN = re.compile(r"[\x20-\x7e]*", re.ASCII)


def user_metadata(upload: Upload) -> dict[str, str]:
    """Return what of the upload's metadata the object can carry.

    Values that are not plain ASCII are encoded words of RFC 2047, which is how S3 itself answers with them. Keys that
    are no header names and what is beyond 2 KiB are left out; the manifest has everything.
    """
    found = {ID_KEY: upload.id}
    size = len(ID_KEY) + len(upload.id)
    for name, text in upload.metadata.items():
        key, value = name.lower(), text
        if not _PLAIN.fullmatch(value) or value.startswith("=?") or value != value.strip():
            value = f"=?UTF-8?B?{base64.b64encode(value.encode('utf-8', 'replace')).decode()}?="
        if _KEY.fullmatch(key) and key not in found and size + len(key) + len(value) <= METADATA_BYTES:
            found[key] = value
            size += len(key) + len(value)
    return found


class S3Content:
    """Bytes of one object, or of the segments of an upload that has nothing else yet."""

    def __init__(
        self, upload: Upload, bucket: Bucket, key: str, tail: Callable[[], Sequence[Piece]], spool: Spool
    ) -> None:
        """Read the object at `key`, or the `tail` if there is no object yet."""
        self.size = upload.offset
        self.url = f"s3://{bucket.name}/{key}"
        self._upload = upload
        self._bucket = bucket
        self._key = key
        self._tail = tail
        self._spool = spool
        self._loop = asyncio.get_running_loop()

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, stop)`, on any event loop.

        Raises:
            NotFinished: some of them are in parts, which S3 does not give before the upload is complete.
            Gone: the object is not there.
        """
        if asyncio.get_running_loop() is self._loop:
            async for chunk in self._own_chunks(start, stop):
                yield chunk
            return
        # Plugins have a loop of their own, and the client's connections belong to the server's.
        while start < stop:
            until = min(stop, start + FOREIGN_BYTES)
            yield await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._read(start, until), self._loop))
            start = until

    def open(self) -> BinaryIO:
        """Return the bytes as a file that seeks, for a thread; `ranges` says what reading it raises."""
        if not self._upload.has_all_bytes:
            return io.BytesIO(waited(self._read(0, self.size), self._loop))
        return io.BufferedReader(RangeFile(self._address(), self._address), FIRST_BYTES)

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give the path of a copy that is there for as long, for a thread.

        Raises:
            StorageFull: there is no room for it.
        """
        with self._spool.copied(self.open, self.size) as path:
            yield path

    def __reduce__(self) -> tuple[type[StoredObject], tuple[str, Address]]:
        """Return what other processes open the object with, which is good for a while."""
        return StoredObject, (self.url, self._address())

    def _address(self) -> Address:
        if not self._upload.has_all_bytes:
            raise NotFinished("the storage cannot read what is not finished")
        etag = self._upload.storage.get("etag")
        return waited(self._bucket.address(self._key, self.size, etag), self._loop)

    async def _read(self, start: int, stop: int) -> bytes:
        return b"".join([chunk async for chunk in self._own_chunks(start, stop)])

    async def _own_chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        if self._upload.has_all_bytes:
            async for chunk in self._bucket.read(self._key, start, stop):
                yield chunk
            return
        if self._upload.parts:
            raise NotFinished("the storage cannot read what is not finished")
        position = 0
        for piece in self._tail():
            async for part in piece.chunks():
                if cut := bytes(part[max(0, start - position) : max(0, stop - position)]):
                    yield cut
                position += len(part)
            if position >= stop:
                return
