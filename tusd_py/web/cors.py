"""CORS by aiohttp-cors, for every page of the server and every answer, errors included.

A browser hides an answer without CORS headers from the page, and tus clients then repeat the request as if the
network had failed. So the headers go on whatever is answered, and preflight requests, which carry neither credentials
nor protocol headers, are answered before anything else looks at them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp_cors
from aiohttp import hdrs, web
from aiohttp_cors.abc import AbstractRouterAdapter

from tusd_py.config import Config
from tusd_py.errors import Forbidden
from tusd_py.web.adapter import error_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

METHODS = ("POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS")
ALLOW_HEADERS = [
    "Authorization",
    "Content-Type",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "X-HTTP-Method-Override",
    "X-Requested-With",
    "X-Request-ID",
    "Upload-Complete",
    "Upload-Draft-Interop-Version",
    "Last-Event-ID",
]
EXPOSE_HEADERS = [
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Expires",
    "Upload-Concat",
    "Tus-Version",
    "Tus-Resumable",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Limit",
    "Retry-After",
    "X-Request-ID",
    "ETag",
    "Content-Disposition",
    "Content-Range",
]


class EveryPage(AbstractRouterAdapter):
    """Tells aiohttp-cors that all requests are covered, whatever route they have or lack."""

    def __init__(self, defaults: Mapping[str, aiohttp_cors.ResourceOptions]) -> None:
        """Use the same options everywhere."""
        self._defaults = defaults
        self.preflight: Handler | None = None

    def add_preflight_handler(self, routing_entity: object, handler: Handler, webview: bool = False) -> None:
        """Keep the library's handler for preflight requests."""
        self.preflight = handler

    def is_preflight_request(self, request: web.Request) -> bool:
        """Whether a browser asks for permission; any other OPTIONS asks for the server's capabilities."""
        wanted = (hdrs.ORIGIN, hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        return request.method == hdrs.METH_OPTIONS and all(name in request.headers for name in wanted)

    def is_cors_enabled_on_request(self, request: web.Request) -> bool:
        """Return True for every request."""
        return True

    def set_config_for_routing_entity(self, routing_entity: object, config: Any) -> None:
        """Do nothing: the options are the same everywhere."""

    async def get_preflight_request_config(
        self, preflight_request: web.Request, origin: str, request_method: str
    ) -> Any:
        """Return the options for a preflight request; a method that no page has is a `KeyError`."""
        if request_method not in METHODS:
            raise KeyError(request_method)
        return self._defaults

    def get_non_preflight_request_config(self, request: web.Request) -> Any:
        """Return the options for any other request."""
        return self._defaults


def install(app: web.Application, config: Config) -> None:
    """Answer browsers of the configured origins."""
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
        allow_credentials=config.cors_credentials,
        expose_headers=[*EXPOSE_HEADERS, *config.cors_expose_header],
        allow_headers=[*ALLOW_HEADERS, *config.cors_allow_header],
        allow_methods=METHODS,
        max_age=86400,
    )
    adapter = EveryPage(dict.fromkeys(config.cors_origin, options))
    cors = aiohttp_cors.CorsConfig(app, router_adapter=adapter)
    cors.add(object())

    @web.middleware
    async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        if adapter.preflight is None or not adapter.is_preflight_request(request):
            return await handler(request)
        try:
            response = await adapter.preflight(request)
        except web.HTTPForbidden as refusal:
            text = refusal.text or ""
            if "origin" in text:
                error = Forbidden(f"{text}; the setting cors_origin names the origins that may upload")
                error.code = "ERR_ORIGIN_NOT_ALLOWED"
            else:
                error = Forbidden(f"{text}; the setting cors_allow_header adds headers")
            answer = error_response(error, request)
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        response.headers[hdrs.VARY] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        return response

    async def vary(request: web.Request, response: web.StreamResponse) -> None:
        if hdrs.VARY not in response.headers:
            response.headers[hdrs.VARY] = hdrs.ORIGIN

    app.middlewares.insert(1, answer_preflight)
    app.on_response_prepare.append(vary)
