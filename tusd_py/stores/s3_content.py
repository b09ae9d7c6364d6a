"""The bytes of an S3 upload for readers, and what its object says of itself."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import BinaryIO

from tusd_py.errors import NotFinished
from tusd_py.models import Upload
from tusd_py.stores.s3_write import Piece, Read

ID_KEY = "tusd-py-id"
"""Key of the metadata by which an object is known as the one of an upload."""
METADATA_BYTES = 2048
"""What S3 takes of keys and values together."""
BUFFER_BYTES = 1024 * 1024
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

    def __init__(self, upload: Upload, bucket: str, key: str, read: Read, tail: Callable[[], Sequence[Piece]]) -> None:
        """Read the object at `key`, or the `tail` if there is no object yet."""
        self.size = upload.offset
        self.url = f"s3://{bucket}/{key}"
        self._upload = upload
        self._key = key
        self._read = read
        self._tail = tail
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
            yield await asyncio.wrap_future(self._ask(start, until))
            start = until

    async def _own_chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        if self._upload.has_all_bytes:
            async for chunk in self._read(self._key, start, stop):
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

    def open(self) -> BinaryIO:
        """Return the bytes as a file that seeks, for a thread: it waits for the event loop."""
        return io.BufferedReader(_RangeFile(self), BUFFER_BYTES)

    def _ask(self, start: int, stop: int) -> Future[bytes]:
        """Read a range on the client's event loop, from elsewhere."""

        async def read() -> bytes:
            return b"".join([chunk async for chunk in self._own_chunks(start, stop)])

        return asyncio.run_coroutine_threadsafe(read(), self._loop)


class _RangeFile(io.RawIOBase):
    """Reads ranges on the event loop, from another thread."""

    def __init__(self, content: S3Content) -> None:
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._content.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self._content.size, self._position + len(buffer))
        if stop <= self._position:
            return 0
        data = self._content._ask(self._position, stop).result()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
