"""The bytes to check, wherever they are."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import msgspec

from tusd_py.models import Content

BLOCK = 2**20


class Source(msgspec.Struct, frozen=True):
    """A file that can be opened, more than once if need be."""

    open: Callable[[], BinaryIO]
    """Returns a new file object that can be sought in."""
    size: int
    path: Path | None = None
    """Where the bytes are on this machine, if they are; other processes then read them there."""

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give a path for readers that need one; what is elsewhere is copied for as long."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.NamedTemporaryFile() as copy, self.open() as file:
            shutil.copyfileobj(file, copy, BLOCK)
            copy.flush()
            yield Path(copy.name)


def of_path(path: Path) -> Source:
    """Return a file of this machine."""
    return Source(lambda: path.open("rb"), path.stat().st_size, path.absolute())


def of_content(content: Content) -> Source:
    """Return the bytes of an upload."""
    url = urlsplit(content.url)
    return Source(content.open, content.size, Path(unquote(url.path)) if url.scheme == "file" else None)


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file from its start."""
    file.seek(0)
    while block := file.read(BLOCK):
        yield block
