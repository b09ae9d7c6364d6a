"""Keeps one client from filling the server with uploads, and the disk from filling up."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import structlog
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from tusd_py.errors import QuotaExceeded, StorageFull, StoreUnavailable, Unavailable
from tusd_py.headers import parse_upload_length
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Action, Request, Upload

if TYPE_CHECKING:
    from tusd_py.redis import Address, Server

_log = structlog.get_logger("tusd_py.limits")

# A quota is counted in KiB, for Redis counts in Lua, which is exact and writes no exponent up to 14 digits.
QUOTA_UNIT = 1024


class Limits:
    """Refuses new uploads: with 503 or 507 if clients should repeat, and with 429, which they take as final, if not."""

    def __init__(
        self, create_rate: int, quota: int, min_free_space: int, directory: str, redis: str | None = None
    ) -> None:
        """Allow so many uploads a minute and so many announced bytes a day, and keep bytes of `directory`'s disk free.

        All servers with the same `redis` count together.

        Raises:
            ConfigError: this is no URL of Redis.
            ImportError: the package for Redis is not installed.
        """
        self._rate = RateLimitItemPerMinute(create_rate) if create_rate else None
        self._quota = RateLimitItemPerDay(-(-quota // QUOTA_UNIT), namespace="QUOTA") if quota else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._server: Server | None = None
        self._address: Address | None = None
        if redis and (self._rate or self._quota):
            from tusd_py.redis import Address  # not at the top, for Redis is an extra

            self._address = Address.parse(redis)
        self._min_free_space = min_free_space
        self._directory = directory

    @hookimpl
    async def authorize(self, request: Request, action: Action, upload: Upload | None) -> None:
        """Refuse a creation beyond the limits, and a length beyond the quota when it is declared later."""
        if action == "create":
            if self._rate and not await self._hit(self._rate, request.remote or "local"):
                raise Unavailable(
                    "too many uploads were created from this address; try again in a minute",
                    {"Retry-After": "30"},
                )
            if self._min_free_space and shutil.disk_usage(self._directory).free < self._min_free_space:
                raise StorageFull("the server keeps its last free space for the uploads that have begun")
        elif action != "append" or upload is None or upload.length is not None:
            return
        if self._quota and (length := parse_upload_length(request.headers)):
            person = f"name:{request.identity.name}" if request.identity else f"address:{request.remote or 'local'}"
            if not await self._hit(self._quota, person, -(-length // QUOTA_UNIT)):
                raise QuotaExceeded(
                    f"{length} bytes are more than what is left of the {self._quota.amount * QUOTA_UNIT} bytes that "
                    "may be announced in 24 hours",
                )

    async def aclose(self) -> None:
        """Give the connections back."""
        if self._server is not None:
            await self._server.aclose()

    async def _hit(self, rate: RateLimitItem, client: str, cost: int = 1) -> bool:
        if self._address is None:
            return await self._limiter.hit(rate, client, cost=cost)
        if self._server is None:
            from tusd_py.redis import Server

            self._server = Server.connect(self._address)
        shared = self._shared = self._shared or SlidingWindowCounterRateLimiter(_storage(self._server))
        try:
            return await self._server.call(lambda: shared.hit(rate, client, cost=cost))
        except StoreUnavailable as error:
            # Redis in trouble is no reason to refuse whom the limit does not concern.
            _log.warning("rates are not shared now", error=error.message)
        return await self._limiter.hit(rate, client, cost=cost)


def _storage(server: Server) -> RedisStorage:
    """Return where to count: in Redis, on the connections that this process has."""
    prefix = f"{server.address.prefix}:limits"
    if server.address.kind == "cluster":
        # The library would connect by itself, and never disconnect.
        storage = RedisClusterStorage("async+redis+cluster://localhost:1", implementation="redispy", key_prefix=prefix)
        bridge: Any = storage.bridge
        bridge.storage = server.client
        bridge.register_scripts()
        return storage
    pool = server.client.connection_pool
    return RedisStorage("async+redis://", implementation="redispy", key_prefix=prefix, connection_pool=pool)
