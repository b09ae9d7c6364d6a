"""Uploads as files in a directory.

An upload is a file `<id>` (or the path that a plugin chose) and a manifest `<id>.info` beside it. Bytes are only ever
appended, so the size of the file is the offset, and it survives the death of the process at any moment, because what
`pwrite` has taken belongs to the kernel.

Two things make a file longer than its upload: bytes under a checksum that is not verified yet, and bytes of a request
that was cut before its record was saved. The second kind is good and is kept. The first is not; therefore a marker
`<id>.unverified` is put beside the file before the first such byte, holding the offset that is safe, and removed once
the bytes are verified or cut off.

Manifests are those of tusd's file store with one more key, so that a directory can move between the two servers in
either direction, uploads in flight included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from tusd_py import places
from tusd_py.body import Body
from tusd_py.config import Config, path_of
from tusd_py.content import StoredFile
from tusd_py.errors import AlreadyExists, Forbidden, Gone, StoreUnavailable, TusError, from_os_error
from tusd_py.models import UPLOAD_ID, Upload, now
from tusd_py.stores import files, manifest
from tusd_py.stores.base import Progress

Fsync = Literal["never", "finish", "chunk"]
COPY_BYTES = 256 * 1024 * 1024
# A client that does not read holds two or three of these.
LEFT_OVER_SECONDS = 3600
READ_BYTES = 128 * 1024
MAX_NAME_BYTES = 255
_MARKER = ".tusd-py"

P = ParamSpec("P")
T = TypeVar("T")


class FileStore:
    """Bytes and manifests in one directory."""

    def __init__(self, root: str | Path, *, fsync: Fsync = "finish", threads: int = 16) -> None:
        """Use the directory `root`; `fsync` says when bytes are forced to the disk."""
        self.root = Path(root).absolute()
        self._fsync = fsync
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="file-store")

    @classmethod
    def from_url(cls, url: str, config: Config) -> FileStore:
        """Return the store of `file:DIRECTORY`."""
        return cls(path_of(url), fsync=config.fsync)

    async def open(self) -> None:
        """Make the directory and mark it as ours.

        Raises:
            StoreUnavailable: it cannot be made or written to.
        """

        def prepare() -> None:
            self.root.mkdir(parents=True, exist_ok=True)
            for left_over in self.root.glob("*.tmp"):
                # A process that died while it replaced a manifest; another one may be doing so right now.
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - left_over.stat().st_mtime > LEFT_OVER_SECONDS:
                        left_over.unlink()
            if not (self.root / _MARKER).exists():
                (self.root / _MARKER).write_text(
                    "This directory belongs to tusd-py. Without this file it is not used.\n"
                )

        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, prepare)
        except OSError as error:
            raise StoreUnavailable(f"cannot use the upload directory {self.root}: {error.strerror}") from error

    async def create(self, upload: Upload) -> Upload:
        """Make an empty file and its manifest."""
        storage = {"type": "file", **places.first(upload.storage, upload.id)}
        upload = upload.changed(storage=storage)
        path, home = self._path(upload), self._at(upload, storage["home"]) if "home" in storage else None
        upload = upload.changed(storage={**storage, "path": path.relative_to(self.root).as_posix()})

        def make() -> None:
            self._check_mounted()
            try:
                if home and home.exists():
                    raise FileExistsError
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o664))
            except (FileExistsError, NotADirectoryError):
                raise AlreadyExists("another upload has this id or path") from None
            try:
                self._write_manifest(upload)
            except OSError:
                path.unlink()
                raise

        await self._run(make)
        return upload

    async def append(self, upload: Upload, body: Body, progress: Progress) -> Upload:
        """Write the body's batches behind each other."""
        fd = await self._run(self._open_at, upload, body.has_checksum)
        offset = upload.offset
        try:
            async for batch in body.batches():
                try:
                    offset = await self._run(files.write_all, fd, batch, offset)
                except TusError as error:
                    # What was written before the failure is good: the file's size tells how much.
                    body.close(error)
                    offset = await self._run(lambda: os.fstat(fd).st_size)
                    break
                await progress(upload.changed(offset=offset))
            if body.discard:
                offset = upload.offset
                await self._run(os.ftruncate, fd, offset)
            if self._fsync == "chunk":
                await self._run(os.fsync, fd)
            if body.has_checksum:
                await self._run(self._unverified(upload.id).unlink, True)
        finally:
            await body.aclose()
            await self._run(os.close, fd)
        return upload.changed(offset=offset)

    async def measure(self, upload: Upload) -> Upload:
        """Take the file's size, but no byte that was never verified."""

        def measure() -> int:
            try:
                size = self._path(upload).stat().st_size
            except FileNotFoundError:
                raise self._gone() from None
            with contextlib.suppress(FileNotFoundError):
                size = min(size, int(self._unverified(upload.id).read_text()))
            return size if upload.length is None else min(size, upload.length)

        return upload.changed(offset=await self._run(measure))

    async def finish(self, upload: Upload) -> Upload:
        """Force the bytes to the disk, unless that is turned off."""
        if self._fsync != "never":
            path = self._path(upload)
            await self._run(files.sync, path)
            if path.parent != self.root:  # the manifest, which is written next, syncs that one
                await self._run(files.sync, path.parent)
        return upload

    async def save(self, upload: Upload) -> None:
        """Replace the manifest."""
        await self._run(self._write_manifest, upload)

    async def load(self, upload_id: str) -> Upload | None:
        """Read the manifest, ours or tusd's, and the file's size."""
        try:
            data = await self._run((self.root / f"{upload_id}.info").read_bytes)
        except Gone:
            return None
        upload = manifest.decode(data, now())
        if upload is None or upload.id != upload_id:
            raise StoreUnavailable(f"the manifest of upload {upload_id} is damaged; an operator has to look at it")
        return await self.measure(upload)

    async def ids(self) -> AsyncIterator[str]:
        """Yield the ids of all manifests in the directory."""

        def names() -> list[str]:
            with os.scandir(self.root) as entries:
                return [entry.name[:-5] for entry in entries if entry.name.endswith(".info")]

        for upload_id in await self._run(names):
            if UPLOAD_ID.fullmatch(upload_id):
                yield upload_id

    async def remove(self, upload: Upload) -> None:
        """Delete the bytes first and the manifest last, so that a crash leaves nothing without a name."""

        def delete() -> None:
            self._unlink_other(upload)
            self._path(upload).unlink(missing_ok=True)
            self._unverified(upload.id).unlink(missing_ok=True)
            (self.root / f"{upload.id}.info").unlink(missing_ok=True)

        await self._run(delete)

    async def move(self, upload: Upload, path: str) -> Upload:
        """Give the file a second name, or copy it where that cannot be, as to another disk."""

        def link() -> None:
            self._check_mounted()
            source, target = self._path(upload), self._at(upload, path)
            files.link(source, target, self._unfinished(upload, target))
            if self._fsync != "never":
                files.sync(target.parent)

        await self._run(link)
        return places.moved(upload, path)

    async def clear(self, upload: Upload) -> None:
        """Delete the other name, or the copy."""
        await self._run(self._unlink_other, upload)

    async def concatenate(self, upload: Upload, members: Sequence[Upload], progress: Progress) -> Upload:
        """Copy the members inside the kernel, sharing blocks where the filesystem can."""
        done = 0
        target = await self._run(os.open, self._path(upload), os.O_WRONLY | os.O_TRUNC)
        try:
            for member in members:
                source = await self._run(os.open, self._path(member), os.O_RDONLY)
                try:
                    position, length = 0, member.offset
                    while position < length:
                        position += await self._run(
                            files.copy,
                            source,
                            target,
                            position,
                            done + position,
                            min(length - position, COPY_BYTES),
                        )
                        await progress(upload.changed(offset=done + position))
                    done += length
                finally:
                    await self._run(os.close, source)
        finally:
            await self._run(os.close, target)
        return upload.changed(offset=done)

    def content(self, upload: Upload) -> FileContent:
        """Return the file's bytes."""
        return FileContent(self, self._path(upload), upload.offset)

    async def problem(self) -> str | None:
        """Return why the directory cannot be written to, or None."""

        def probe() -> str | None:
            try:
                self._check_mounted()
                name = self.root / f".probe-{secrets.token_hex(8)}"
                try:
                    name.write_bytes(bytes(64 * 1024))
                finally:
                    name.unlink(missing_ok=True)
            except StoreUnavailable as error:
                return error.message
            except OSError as error:
                return f"cannot write to the upload directory {self.root}: {error.strerror}"
            return None

        return await asyncio.get_running_loop().run_in_executor(self._threads, probe)

    async def aclose(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in a thread; a write in progress is finished even if the caller is cancelled."""
        task = asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
        except FileNotFoundError:
            raise self._gone() from None
        except OSError as error:
            raise from_os_error(error) from error

    def _path(self, upload: Upload) -> Path:
        return self._at(upload, upload.storage.get("path", upload.id))

    def _at(self, upload: Upload, name: str) -> Path:
        path = self.root / name
        # A path comes from a plugin or from a manifest; neither may lead out of the directory or to our own files.
        parts = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ("..",)
        if not parts or any(part.startswith(".") or "\0" in part for part in parts):
            raise Forbidden(f"the storage path of upload {upload.id} leads out of the upload directory")
        if len(parts) == 1 and parts[0] != upload.id and (UPLOAD_ID.fullmatch(parts[0]) or path.suffix in _RESERVED):
            raise Forbidden(f"the storage path {parts[0]!r} is kept for the server's own files; use a folder")
        if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
            raise Forbidden(f"the storage path of upload {upload.id} has a name of more than {MAX_NAME_BYTES} bytes")
        return path

    def _unlink_other(self, upload: Upload) -> None:
        if left := upload.storage.get("left"):
            self._at(upload, left).unlink(missing_ok=True)
        if moving := upload.storage.get("moving"):
            copy = self._at(upload, moving)
            self._unfinished(upload, copy).unlink(missing_ok=True)
            if files.is_copy(self._path(upload), copy):
                copy.unlink()

    def _unfinished(self, upload: Upload, path: Path) -> Path:
        return path.with_name(f".{upload.id}.moving")

    def _unverified(self, upload_id: str) -> Path:
        return self.root / f"{upload_id}.unverified"

    def _check_mounted(self) -> None:
        if not (self.root / _MARKER).exists():
            raise StoreUnavailable(
                "the upload directory has vanished; is its volume mounted? "
                f"If it was emptied on purpose, restart the server ({_MARKER} is missing in it)"
            )

    def _gone(self) -> TusError:
        if not (self.root / _MARKER).exists():
            return StoreUnavailable("the upload directory has vanished; an operator has to bring it back")
        return Gone("the storage no longer has this upload")

    def _open_at(self, upload: Upload, unverified: bool) -> int:
        if unverified:
            files.replace(self._unverified(upload.id), str(upload.offset).encode())
        fd = os.open(self._path(upload), os.O_WRONLY)
        size = os.fstat(fd).st_size
        if size < upload.offset:
            os.close(fd)
            raise Gone(f"the storage has {size} bytes of {upload.offset} that were acknowledged")
        if size > upload.offset:
            os.ftruncate(fd, upload.offset)
        if not unverified:
            # A crash may have left the marker; the bytes that it warned of have just been cut off.
            self._unverified(upload.id).unlink(missing_ok=True)
        return fd

    def _write_manifest(self, upload: Upload) -> None:
        path = self.root / f"{upload.id}.info"
        # A manifest is as safe as the bytes that it stands for.
        is_safe = self._fsync == "chunk" or (self._fsync == "finish" and upload.status.is_finished)
        place = {"Type": "filestore", "Path": str(self._path(upload)), "InfoPath": str(path)}
        files.replace(path, manifest.encode(upload, place), is_safe=is_safe)


_RESERVED = frozenset({".info", ".unverified", ".tmp", ".db", ".db-wal", ".db-shm"})


class FileContent:
    """Bytes of one file."""

    def __init__(self, store: FileStore, path: Path, size: int) -> None:
        """Read `path`, which has `size` bytes."""
        self.size = size
        self.url = path.as_uri()
        self._store = store
        self._file = StoredFile(path, size)
        self.open = self._file.open
        self.on_disk = self._file.on_disk

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, stop)` in small pieces."""
        run = self._store._run
        fd = await run(os.open, self._file.path, os.O_RDONLY)
        try:
            while start < stop:
                chunk = await run(os.pread, fd, min(READ_BYTES, stop - start), start)
                if not chunk:
                    raise Gone("the storage has fewer bytes than the upload")
                start += len(chunk)
                yield chunk
        finally:
            await run(os.close, fd)

    def __reduce__(self) -> tuple[type[StoredFile], tuple[Path, int]]:
        """Return what other processes open the file with."""
        return StoredFile, (self._file.path, self.size)
