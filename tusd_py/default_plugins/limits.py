"""Keeps one client from filling the server with uploads, and the disk from filling up."""

from __future__ import annotations

import shutil

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from tusd_py.errors import StorageFull, Unavailable
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Action, Request


class Limits:
    """Refuses new uploads with an answer that clients repeat: 503 and 507, since tus-js-client gives up on 429."""

    def __init__(self, create_rate: int, min_free_space: int, directory: str) -> None:
        """Allow each address `create_rate` uploads a minute while `directory` has `min_free_space` bytes free."""
        self._rate = RateLimitItemPerMinute(create_rate) if create_rate else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._min_free_space = min_free_space
        self._directory = directory

    @hookimpl
    async def authorize(self, request: Request, action: Action) -> None:
        """Refuse a creation beyond the limits."""
        if action != "create":
            return
        if self._rate and not await self._limiter.hit(self._rate, request.remote or "local"):
            raise Unavailable(
                "too many uploads were created from this address; try again in a minute",
                {"Retry-After": "30"},
            )
        if self._min_free_space and shutil.disk_usage(self._directory).free < self._min_free_space:
            raise StorageFull("the server keeps its last free space for the uploads that have begun")
