"""The aiohttp application: routes, and one middleware around all of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace

import structlog
from aiohttp import web

from tusd_py.composer import Parts, Route
from tusd_py.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound, Reject, ShuttingDown, TusError
from tusd_py.models import UPLOAD_ID, Action, Request, Response, Upload
from tusd_py.protocol.core import overridden
from tusd_py.web import cors
from tusd_py.web.adapter import Adapter, answer_expectation, error_response, harmless, with_version
from tusd_py.web.openapi import openapi
from tusd_py.web.ops import HEALTH_PATHS, add_health_routes
from tusd_py.web.status import StatusApi

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REAP_SECONDS = 60
SWEEP_SECONDS = 3600
_log = structlog.get_logger("tusd_py.web")


class Server:
    """One server process as an aiohttp application."""

    def __init__(self, parts: Parts) -> None:
        """Serve these parts."""
        self.parts = parts
        self.stopping = asyncio.Event()
        self.adapter = Adapter(parts.config)
        self.app = web.Application(middlewares=[self._finish, self._around])
        self._add_routes()
        if parts.config.cors:
            cors.install(self.app, parts.config)

    def _add_routes(self) -> None:
        router, path = self.app.router, self.parts.config.collection_path
        add_health_routes(router, self.parts.uploads.problem, self.stopping)
        StatusApi(self.parts, self.adapter, self.stopping, openapi(self.parts.routes)).add_routes(router)
        for route in self.parts.routes:
            router.add_route(route.method, route.path, self._plugin_page(route))
        for pattern in {path, path.rstrip("/") or "/", path + "{upload_id:.*}"}:
            router.add_route("*", pattern, self._tus, expect_handler=answer_expectation)

    async def _tus(self, request: web.Request) -> web.StreamResponse:
        body = self.adapter.body(request)
        try:
            response = await self.parts.protocol.handle(request["request"], body)
        finally:
            await body.aclose()
        return await self._send(request, with_version(response))

    def _plugin_page(self, route: Route) -> Handler:
        hooks, wants_allowed = self.parts.hooks, "allowed" in inspect.signature(route.handler).parameters

        async def page(http_request: web.Request) -> web.StreamResponse:
            request: Request = http_request["request"]
            if route.action is not None:
                await hooks.authorize(request, route.action, await self._upload_of(request))
            handler = route.handler
            if wants_allowed:
                loop = asyncio.get_running_loop()

                def allowed(upload_ids: Iterable[str], action: Action = "status") -> Future[Mapping[str, Upload]]:
                    return asyncio.run_coroutine_threadsafe(self._allowed(request, [*upload_ids], action), loop)

                handler = functools.partial(handler, allowed=allowed)
            return await self._send(http_request, await hooks.page(route.plugin, handler, request))

        return page

    async def _upload_of(self, request: Request) -> Upload | None:
        """Return the upload that a page is about, if it is about one."""
        if request.upload_id is None:
            return None
        if not UPLOAD_ID.fullmatch(request.upload_id):
            raise NotFound()
        upload = await self.parts.uploads.find(request.upload_id)
        upload.check_present()
        return upload

    async def _allowed(self, request: Request, upload_ids: list[str], action: Action) -> Mapping[str, Upload]:
        """Return those of these uploads that are there and with which `authorize` lets the request do this."""
        seen = {}
        for upload_id in upload_ids:
            # Records alone are asked: one that is lost is made again by and by, and by nobody's look at a list.
            upload = await self.parts.uploads.state.get(upload_id)
            if upload is not None and not upload.status.is_tombstone:
                with contextlib.suppress(Reject, Forbidden):
                    await self.parts.hooks.authorize(request, action, upload)
                    seen[upload_id] = upload
        return seen

    async def _send(self, request: web.Request, response: Response) -> web.StreamResponse:
        request["response"] = response
        return await self.adapter.send(request, response)

    @web.middleware
    async def _finish(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """See to it that the connection is in order after the answer."""
        try:
            answer = await handler(request)
            await self.adapter.finish(request, answer)
        except ConnectionError:
            # The client has left. aiohttp would log that as a failure of ours; what is returned here nobody reads.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return answer

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give every request an id and a log line, and every error its form."""
        started = time.perf_counter()
        own = self.adapter.request(request)
        request["request"], request["id"] = own, own.id
        structlog.contextvars.unbind_contextvars("request", "upload")
        structlog.contextvars.bind_contextvars(request=own.id)
        if own.upload_id:
            structlog.contextvars.bind_contextvars(upload=own.upload_id[:128])
        try:
            if own.path in HEALTH_PATHS:
                return await handler(request)
            if self.stopping.is_set():
                raise ShuttingDown()
            # Capabilities are for everybody, but only the protocol's own pages know what an overridden method means.
            if {own.method, overridden(own).method} != {"OPTIONS"}:
                identity = await self.parts.hooks.authenticate(own)
                request["request"] = replace(own, identity=identity)
            answer = await handler(request)
        except TusError as error:
            answer = await self._failed(request, error)
        except web.HTTPException as error:
            answer = await self._failed(request, _from_http(error, own))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("internal error")
            answer = await self._failed(request, TusError())
        if self.stopping.is_set():
            answer.force_close()
        self._observe(request, answer, time.perf_counter() - started)
        return answer

    async def _failed(self, request: web.Request, error: TusError) -> web.StreamResponse:
        response = error_response(error, request)
        if error.status >= 500:
            _log.warning("request failed", code=error.code, error=error.message)
        answer = await self._send(request, with_version(response))
        if request.content.is_eof() is False and "Expect" in request.headers:
            # The client may or may not send the body that nobody asked for: this connection is of no more use.
            answer.force_close()
        return answer

    def _observe(self, http_request: web.Request, answer: web.StreamResponse, seconds: float) -> None:
        with contextlib.suppress(TusError):
            request = overridden(http_request["request"])
            response = http_request.get("response") or Response(answer.status)
            self.parts.hooks.post_request(harmless(request), response, seconds)
            if created := response.headers.get("Location", "").rpartition("/")[2]:
                structlog.contextvars.bind_contextvars(upload=created)
            _log.info(
                "request",
                method=request.method,
                path=request.path,
                status=answer.status,
                seconds=round(seconds, 4),
                remote=request.remote,
                code=response.error,
            )


def _from_http(error: web.HTTPException, request: Request) -> TusError:
    if error.status == 404:
        return NotFound(f"there is nothing here; uploads are created at {request.base_url}")
    if error.status == 405:
        return MethodNotAllowed(headers={"Allow": error.headers.get("Allow", "")})
    failure = InvalidRequest((error.text or error.reason).partition("ERR_INVALID_REQUEST: ")[2].strip() or error.reason)
    failure.status = error.status
    return failure


@contextlib.asynccontextmanager
async def housekeeping(parts: Parts) -> AsyncIterator[None]:
    """Tidy up now and then: expire uploads, sweep the storage, make records from manifests that have none."""

    async def run() -> None:
        grace = parts.config.orphan_grace
        has_all_records, sweep_at = False, time.monotonic()
        while True:
            try:
                if await parts.uploads.state.has_lost_records() or not has_all_records:
                    has_all_records = False
                    await parts.uploads.rebuild_all()
                    has_all_records = True
                if count := await parts.uploads.expire():
                    _log.info("expired", uploads=count)
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + min(SWEEP_SECONDS, grace.total_seconds())
                    if count := await parts.uploads.sweep(grace):
                        _log.info("removed what crashes left", count=count)
            except TusError as error:
                _log.warning("could not tidy up", error=error.message)
            pause = min(parts.config.expire_after.total_seconds() / 4 or REAP_SECONDS, grace.total_seconds())
            await asyncio.sleep(min(REAP_SECONDS, max(1.0, pause)))

    task = asyncio.create_task(run(), name="housekeeping")
    task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("housekeeping ended", exc_info=error)
