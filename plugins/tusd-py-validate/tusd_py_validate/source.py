"""The bytes to check, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

BLOCK = 2**20


class Source(Protocol):
    """What can be opened more than once, also by other processes: content, or a `tusd_py.content.StoredFile`."""

    @property
    def size(self) -> int:
        """Return how many bytes there are."""

    def open(self) -> BinaryIO:
        """Return a new file object that can be sought in."""

    def on_disk(self) -> AbstractContextManager[Path]:
        """Give a path for readers that need one."""


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file from its start."""
    file.seek(0)
    while block := file.read(BLOCK):
        yield block
