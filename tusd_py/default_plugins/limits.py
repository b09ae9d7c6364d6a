"""Keeps one client from filling the server with uploads, and the disk from filling up."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from tusd_py.errors import StorageFull, StoreUnavailable, Unavailable
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Action, Request

if TYPE_CHECKING:
    from tusd_py.redis import Address, Server

_log = structlog.get_logger("tusd_py.limits")


class Limits:
    """Refuses new uploads with an answer that clients repeat: 503 and 507, since tus-js-client gives up on 429."""

    def __init__(self, create_rate: int, min_free_space: int, directory: str, redis: str | None = None) -> None:
        """Allow each address `create_rate` uploads a minute while `directory` has `min_free_space` bytes free.

        All servers with the same `redis` count together.

        Raises:
            ConfigError: this is no URL of Redis.
            ImportError: the package for Redis is not installed.
        """
        self._rate = RateLimitItemPerMinute(create_rate) if create_rate else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._shared: MovingWindowRateLimiter | None = None
        self._server: Server | None = None
        self._address: Address | None = None
        if redis and self._rate:
            from tusd_py.redis import Address  # not at the top, for Redis is an extra

            self._address = Address.parse(redis)
        self._min_free_space = min_free_space
        self._directory = directory

    @hookimpl
    async def authorize(self, request: Request, action: Action) -> None:
        """Refuse a creation beyond the limits."""
        if action != "create":
            return
        if self._rate and not await self._hit(self._rate, request.remote or "local"):
            raise Unavailable(
                "too many uploads were created from this address; try again in a minute",
                {"Retry-After": "30"},
            )
        if self._min_free_space and shutil.disk_usage(self._directory).free < self._min_free_space:
            raise StorageFull("the server keeps its last free space for the uploads that have begun")

    async def aclose(self) -> None:
        """Give the connections back."""
        if self._server is not None:
            await self._server.aclose()

    async def _hit(self, rate: RateLimitItemPerMinute, client: str) -> bool:
        if self._address is None:
            return await self._limiter.hit(rate, client)
        if self._server is None:
            from tusd_py.redis import Server

            self._server = Server.connect(self._address)
        shared = self._shared = self._shared or MovingWindowRateLimiter(_storage(self._server))
        try:
            return await self._server.call(lambda: shared.hit(rate, client))
        except StoreUnavailable as error:
            # Redis in trouble is no reason to refuse whom the limit does not concern.
            _log.warning("rates are not shared now", error=error.message)
        return await self._limiter.hit(rate, client)


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
