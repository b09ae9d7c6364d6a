"""Locks within one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field

from tusd_py.config import Config
from tusd_py.errors import Locked
from tusd_py.lockers.base import LetGo


@dataclass
class _Entry:
    let_go: LetGo
    waiters: deque[tuple[asyncio.Future[None], bool]] = field(default_factory=deque)


class MemoryLocker:
    """Locks in a dictionary."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._next_fence = 1
        self._held: dict[str, _Entry] = {}

    @classmethod
    def from_url(cls, url: str, config: Config) -> MemoryLocker:
        """Return a locker of one process."""
        return cls()

    async def open(self, first_fence: int = 1) -> None:
        """Number the locks from `first_fence` on."""
        self._next_fence = first_fence

    async def acquire(self, upload_id: str, *, timeout: float, let_go: LetGo, urgent: bool = True) -> MemoryLock:
        """Return the upload's lock, in the order of the calls."""
        entry = self._held.get(upload_id)
        if entry is None:
            self._held[upload_id] = _Entry(let_go)
        else:
            if not timeout:
                raise Locked()
            turn = asyncio.get_running_loop().create_future()
            entry.waiters.append((turn, urgent))
            entry.let_go(urgent)
            try:
                async with asyncio.timeout(timeout):
                    await turn
            except (TimeoutError, asyncio.CancelledError) as error:
                if turn.done() and not turn.cancelled():
                    # The lock came in the same moment: give it to the next one.
                    self._pass_on(upload_id)
                else:
                    with contextlib.suppress(ValueError):
                        entry.waiters.remove((turn, urgent))
                if isinstance(error, TimeoutError):
                    raise Locked() from None
                raise
            entry.let_go = let_go
            if entry.waiters:
                let_go(any(asked for _, asked in entry.waiters))
        self._next_fence += 1
        return MemoryLock(self, upload_id, self._next_fence - 1)

    async def problem(self) -> str | None:
        """Return None: memory always works."""
        return None

    async def aclose(self) -> None:
        """Do nothing."""

    def _pass_on(self, upload_id: str) -> None:
        entry = self._held[upload_id]
        while entry.waiters:
            turn, _ = entry.waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._held[upload_id]


class MemoryLock:
    """A lock that is held."""

    def __init__(self, locker: MemoryLocker, upload_id: str, fence: int) -> None:
        """Belong to `locker`."""
        self.fence = fence
        self._locker: MemoryLocker | None = locker
        self._upload_id = upload_id

    async def release(self) -> None:
        """Let the next one in."""
        if self._locker is not None:
            locker, self._locker = self._locker, None
            locker._pass_on(self._upload_id)
