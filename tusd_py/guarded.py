"""Bytes for a stage, which are refused from the moment on at which the upload is no longer in that stage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, SupportsIndex

from tusd_py.content import waited
from tusd_py.models import Content


class GuardedContent:
    """The bytes of an upload, for as long as somebody permits it."""

    def __init__(self, content: Content, permit: Callable[[], Awaitable[None]]) -> None:
        """Read `content` after each time that `permit`, on this event loop, has raised nothing."""
        self.size = content.size
        self.url = content.url
        self._content = content
        self._permit = permit
        self._loop = asyncio.get_running_loop()

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, stop)`, on any event loop."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._permitted(), self._loop))
        async for chunk in self._content.chunks(start, stop):
            yield chunk

    def open(self) -> BinaryIO:
        """Return the bytes as a file that seeks, for a thread: it waits for the event loop."""
        waited(self._permitted(), self._loop)
        return self._content.open()

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give a path at which the bytes are for as long, for a thread."""
        waited(self._permitted(), self._loop)
        with self._content.on_disk() as path:
            yield path

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Return what other processes open the bytes with, for a thread; what they have of it is not guarded."""
        waited(self._permitted(), self._loop)
        return self._content.__reduce_ex__(protocol)

    async def _permitted(self) -> None:
        await self._permit()
