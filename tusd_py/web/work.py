"""Runs a process that does jobs, and shows what it does if it is told where to listen."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import msgspec
from aiohttp import web

from tusd_py.composer import Parts, compose
from tusd_py.config import Config, ConfigError
from tusd_py.hooks.specs import STAGES
from tusd_py.web.app import Server
from tusd_py.web.ops import add_health_routes
from tusd_py.web.serve import listen
from tusd_py.worker import Worker, own_name, working


async def work(config: Config) -> None:
    """Do jobs until SIGTERM or SIGINT.

    Raises:
        ConfigError: there is nothing to do in this process, or it cannot listen where it should.
    """
    if config.jobs_url.startswith("memory:"):
        raise ConfigError("with jobs in memory: the server does them itself; set redis, or jobs to a URL of Redis")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        parts = await stack.enter_async_context(compose(config))
        worker = await stack.enter_async_context(working(parts, runs=True))
        if worker is None:
            raise ConfigError(f"no plugin has a stage ({', '.join(STAGES)}), so there is nothing to do")
        if config.worker_listen:
            pages = Pages(parts, worker)
            runner = web.AppRunner(pages.app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            host, _, port = config.worker_listen.rpartition(":")
            own = listen(msgspec.structs.replace(config, host=host.strip("[]"), port=int(port), unix_socket=None))
            await web.SockSite(runner, own).start()
            print(f"It shows itself at: http://{host}:{own.getsockname()[1]}/", flush=True)  # noqa: T201
            stack.callback(pages.stopping.set)
        print(f"You can now leave jobs to: {own_name()}", flush=True)  # noqa: T201 - the one line for who waits
        await stop.wait()


class Pages(Server):
    """What a worker shows: `/metrics`, `/healthz` and `/readyz`, for the same people as the server's."""

    def __init__(self, parts: Parts, worker: Worker) -> None:
        """Show these parts and their worker."""
        self._worker = worker
        super().__init__(parts)

    def _add_routes(self) -> None:
        add_health_routes(self.app.router, self._problem, self.stopping)
        for route in self.parts.routes:
            if route.path == "/metrics":
                self.app.router.add_route(route.method, route.path, self._plugin_page(route))

    async def _problem(self) -> str | None:
        return self._worker.problem or await self.parts.uploads.problem()
