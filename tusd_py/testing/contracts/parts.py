"""What the contracts need, and tests of your own may need as well."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from tusd_py.body import BATCH_BYTES, Body, Memory, Pump
from tusd_py.models import Job, Stage, Upload, now

T = TypeVar("T")
POLL_SECONDS = 0.01


class _Closable(Protocol):
    async def aclose(self) -> None: ...


C = TypeVar("C", bound=_Closable)


async def wait_until(condition: Callable[[], T | Awaitable[T]], timeout: float = 20) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises:
        AssertionError: it did not within `timeout` seconds; the message has what it returned last.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        value: T = await result if inspect.isawaitable(result) else result
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {timeout:g} seconds"
        await asyncio.sleep(POLL_SECONDS)


def new_upload(**changes: Any) -> Upload:
    """Return an upload of 10 bytes, just created, with an id that no other has."""
    at = now()
    upload = Upload(id=secrets.token_hex(16), created_at=at, updated_at=at, length=10)
    return upload.changed(**changes)


def new_job(upload_id: str, stage: Stage, plugin: str, **changes: Any) -> Job:
    """Return a job of an upload, just created and waiting for its turn."""
    return Job(upload_id=upload_id, stage=stage, plugin=plugin, created_at=now()).changed(**changes)


class Tap:
    """The source of a body whose bytes a test lets through piece by piece."""

    def __init__(self) -> None:
        """Let nothing through yet."""
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def body(self, **options: Any) -> Body:
        """Return the body that gets the pieces; `options` are those of `Body`."""
        return Body(Pump(self._pieces.get, Memory(BATCH_BYTES)), **options)

    def let(self, *pieces: bytes) -> None:
        """Let these through; an empty one is the end."""
        for piece in pieces:
            self._pieces.put_nowait(piece)


@contextlib.asynccontextmanager
async def second(first: C, make: Callable[[], C], *arguments: Any) -> AsyncIterator[C]:
    """Make another one, opened with `arguments`; where there is but one, return that."""
    other: Any = make()
    if other is first:
        yield first
        return
    await other.open(*arguments)
    try:
        yield other
    finally:
        await other.aclose()
