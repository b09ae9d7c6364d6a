"""Health checks, for load balancers and Kubernetes; they need no credentials and tell no details to strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

HEALTH_PATHS = ("/healthz", "/readyz")
_log = structlog.get_logger("tusd_py.health")


def add_health_routes(
    router: web.UrlDispatcher, problem_of: Callable[[], Awaitable[str | None]], stopping: asyncio.Event
) -> None:
    """Add `/healthz` (the process answers) and `/readyz` (it can do its work: it has no problem)."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        problem = "the process is shutting down" if stopping.is_set() else await problem_of()
        if problem:
            _log.warning("not ready", problem=problem)
            text = "not ready: the log says why\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "2"})
        return web.Response(text="ready\n")

    router.add_get("/healthz", healthz)
    router.add_get("/readyz", readyz)
