"""What the file store does with single files."""

from __future__ import annotations

import errno
import filecmp
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from tusd_py.body import Chunk
from tusd_py.errors import AlreadyExists, Gone

USER_COPY_BYTES = 1024 * 1024
MAX_VECTORS = min(os.sysconf("SC_IOV_MAX"), 1024)
# Another disk, or a file system that knows no second name of a file.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def replace(path: Path, data: bytes, *, is_safe: bool = False) -> None:
    """Write a small file as a whole or not at all, and force it to the disk if asked."""
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        if is_safe:
            sync(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if is_safe:
        sync(path.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a directory, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, chunks: Sequence[Chunk], offset: int) -> int:
    """Write all chunks at the offset, and return the one behind them; many small chunks are joined first."""
    views: list[Chunk] = [b"".join(chunks)] if len(chunks) > MAX_VECTORS else list(chunks)
    while views:
        written = os.pwritev(fd, views, offset)
        offset += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = memoryview(views[0])[written:]
    return offset


def copy(source: int, target: int, position: int, offset: int, count: int) -> int:
    """Copy up to `count` bytes between files and return how many; inside the kernel where that works."""
    if hasattr(os, "copy_file_range"):
        try:
            if copied := os.copy_file_range(source, target, count, position, offset):
                return copied
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    chunk = os.pread(source, min(count, USER_COPY_BYTES), position)
    if not chunk:
        raise Gone("a partial upload has fewer bytes than it should")
    return write_all(target, [chunk], offset) - offset


def link(source: Path, target: Path, unfinished: Path) -> None:
    """Give a file a second name; if that cannot be, copy it to `unfinished` and rename that.

    Raises:
        AlreadyExists: the name is another file's.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    except (FileExistsError, NotADirectoryError):
        # An attempt before this one may have made it.
        if not is_copy(source, target):
            raise AlreadyExists("another upload has this path") from None
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, unfinished)
        sync(unfinished)
        unfinished.rename(target)


def is_copy(source: Path, target: Path) -> bool:
    """Whether a file is what `link` makes of another."""
    if not source.is_file() or not target.is_file():
        return False
    one, other = source.stat(), target.stat()
    if one.st_dev == other.st_dev:
        return source.samefile(target)
    # A copy has the time of what was copied; equal bytes alone can be those of another upload.
    return one.st_mtime_ns == other.st_mtime_ns and filecmp.cmp(source, target, shallow=False)
