"""Keeps one client from filling the server with uploads, and the disk from filling up."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError

from tusd_py.errors import StorageFull, Unavailable
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
        self._address: Address | None = None
        self._server: Server | None = None
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
        if self._address is not None:
            self._shared = self._shared or MovingWindowRateLimiter(self._storage(self._address))
            try:
                return await self._shared.hit(rate, client)
            except StorageError as error:
                # Redis in trouble is no reason to refuse whom the limit does not concern.
                _log.warning("rates are not shared now", error=type(error.storage_error).__name__)
        return await self._limiter.hit(rate, client)

    def _storage(self, address: Address) -> RedisStorage:
        """Return where to count; on the connections that this process has, where the library can use them."""
        from tusd_py.redis import Server

        server = self._server = Server.connect(address)
        prefix = f"{address.prefix}:limits"
        if address.kind == "cluster":
            hosts = ",".join(f"{host}:{port}" for host, port in address.hosts)
            return RedisClusterStorage(
                f"async+redis+cluster://{hosts}",
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix=prefix,
                **server.client_options(),
            )
        return RedisStorage(
            "async+redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix=prefix,
            connection_pool=server.client.connection_pool,
        )
