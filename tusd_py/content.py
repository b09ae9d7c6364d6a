"""What another process reads stored bytes with, and copies on the disk for those who need a path.

Pickling the content of a complete upload gives one of these: `pickle.loads(pickle.dumps(content)).open()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from tusd_py.errors import StorageFull
from tusd_py.ranges import FIRST_BYTES, Address, RangeFile

BLOCK = 1024 * 1024
FREE_SHARE = 20
"""A copy leaves one part in so many of its disk free."""
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
T = TypeVar("T")


class StoredFile(msgspec.Struct, frozen=True):
    """Bytes in a file of this machine."""

    path: Path
    size: int

    @classmethod
    def at(cls, path: Path) -> StoredFile:
        """Return a file as it is now."""
        return cls(path.absolute(), path.stat().st_size)

    @property
    def url(self) -> str:
        """Return where engines that read by URL find it."""
        return self.path.as_uri()

    def open(self) -> BinaryIO:
        """Open the file."""
        return self.path.open("rb")

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give the file's own path."""
        yield self.path


class StoredObject(msgspec.Struct, frozen=True):
    """An object that another machine keeps; who has this can read that object for a while, and nothing else."""

    url: str
    """Where it is, for people and for engines with credentials of their own."""
    address: Address

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        return self.address.size

    def open(self) -> BinaryIO:
        """Return the bytes as a file that seeks; `ranges` says what reading it raises."""
        return io.BufferedReader(RangeFile(self.address), FIRST_BYTES)


class Spool(msgspec.Struct, frozen=True):
    """Where bytes are copied to for readers that need a path."""

    directory: str | None = None
    """None takes the first directory for temporary files that is on a disk."""
    most: int | None = None
    """The largest copy."""

    @contextlib.contextmanager
    def copied(self, open_bytes: Callable[[], BinaryIO], size: int) -> Iterator[Path]:
        """Give the path of a copy that is there for as long.

        Raises:
            StorageFull: it would be too large, or there is no place for it; the upload's owner may read why.
        """
        folder = self._place(size)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="tusd-py-spool-") as copy:
            try:
                with open_bytes() as file:
                    shutil.copyfileobj(file, copy, BLOCK)
                copy.flush()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageFull(f"the disk (spool_dir) became full while {size} bytes were copied") from None
                raise
            yield Path(copy.name)

    def _place(self, size: int) -> Path:
        if self.most is not None and size > self.most:
            raise StorageFull(f"it has {size} bytes, and {self.most} may be copied to the disk (spool_size)")
        folder = Path(self.directory) if self.directory else disk_for_copies()
        try:
            disk = shutil.disk_usage(folder)
        except OSError as error:
            raise StorageFull(f"nothing can be copied to the disk (spool_dir): {error.strerror}") from None
        room = disk.free - disk.total // FREE_SHARE
        if size > room:
            raise StorageFull(f"it has {size} bytes, and the disk (spool_dir) has room for {max(0, room)}")
        return folder


def disk_for_copies() -> Path:
    """Return a directory for large temporary files, on a disk: what is in memory would count against the process.

    Raises:
        StorageFull: there is none.
    """
    # The second is where files belong that are large; the first and the third may well be in memory.
    for name in (os.environ.get("TMPDIR"), "/var/tmp", tempfile.gettempdir()):  # noqa: S108 - files have random names
        if name and os.access(name, os.W_OK | os.X_OK) and kind_of(Path(name)) not in _IN_MEMORY:
            return Path(name)
    raise StorageFull("all directories for temporary files are in memory or cannot be written to: set spool_dir")


def kind_of(folder: Path) -> str:
    """Return the kind of the file system that a directory is on, as Linux calls it, or nothing elsewhere."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if before.split(" ", 3)[2] == number:
                return after.split(" ", 1)[0]
    return ""


def waited(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Do something on an event loop, from another thread.

    Raises:
        RuntimeError: this is the loop's own thread, which would wait for itself.
    """
    try:
        is_own = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_own = False
    if is_own:
        work.close()
        raise RuntimeError("stored bytes are opened, pickled and copied in a thread, not on the server's event loop")
    return asyncio.run_coroutine_threadsafe(work, loop).result()
