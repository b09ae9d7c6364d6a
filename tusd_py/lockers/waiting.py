"""When those who wait for a lock that other processes hold try again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

FIRST_POLL_SECONDS = 0.02
LAST_POLL_SECONDS = 0.25


class Waiting:
    """Those in this process who wait for locks, by upload."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._events: dict[str, set[asyncio.Event]] = {}

    async def tries(self, upload_id: str, timeout: float) -> AsyncGenerator[float, None]:
        """Yield the seconds that are left whenever a try is worth it: at once, when woken, at times, and at the end.

        That it is woken is not relied on: messages get lost.
        """
        loop = asyncio.get_running_loop()
        deadline, poll, event = loop.time() + timeout, FIRST_POLL_SECONDS, asyncio.Event()
        self._events.setdefault(upload_id, set()).add(event)
        try:
            while (remaining := deadline - loop.time()) > 0:
                event.clear()
                yield remaining
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(poll, deadline - loop.time())):
                        await event.wait()
                poll = min(poll * 1.5, LAST_POLL_SECONDS)
            yield 0.0
        finally:
            events = self._events[upload_id]
            events.discard(event)
            if not events:
                del self._events[upload_id]

    def wake(self, upload_id: str) -> None:
        """Let those who wait for this upload's lock try now."""
        for event in self._events.get(upload_id, ()):
            event.set()
