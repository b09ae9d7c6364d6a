"""The OpenAPI document of the pages under `/api`: the server's own, and those that plugins add."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tusd_py import __version__
from tusd_py.composer import Route
from tusd_py.models import UPLOAD_ID, Status
from tusd_py.web.status import MAX_PAGE, UploadDetails, UploadPage

_REFERENCES = "#/components/schemas/{name}"
_ERRORS = {400: "invalid query", 401: "credentials are required", 403: "not allowed", 404: "no such upload"}
_Schema = dict[str, Any]


def openapi(routes: Sequence[Route] = ()) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document, with schemas made from the types that are sent."""
    answers = [UploadPage, UploadDetails, *(route.answer for route in routes if route.answer is not None)]
    found, schemas = msgspec.json.schema_components(answers, ref_template=_REFERENCES)
    page, details, *others = found
    left = iter(others)
    paths: dict[str, Any] = _own(page, details)
    for route in routes:
        schema = next(left) if route.answer is not None else None
        if route.method != "*":
            path = re.sub(r"{(\w+):[^{}]*}", r"{\1}", route.path)
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, schema)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tusd-py status API", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _own(page: _Schema, details: _Schema) -> dict[str, Any]:
    parameters = [
        _query("status", "only uploads with this status", {"enum": list(Status)}),
        _query("owner", "only uploads of this owner", {"type": "string"}),
        _query("after", "the `next` of the former page", {"type": "string"}),
        _query("limit", "how many", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}),
    ]
    return {
        "/api/uploads": {
            "get": {
                "summary": "List uploads, the newest first",
                "parameters": parameters,
                "responses": _answers("a page", "application/json", page, 400),
            }
        },
        "/api/uploads/{id}": {
            "get": {
                "summary": "Show one upload",
                "parameters": [_path("id")],
                "responses": _answers("the upload", "application/json", details, 404),
            }
        },
        "/api/uploads/{id}/events": {
            "get": {
                "summary": "Follow one upload: an event `status` or `progress` with the upload at every change",
                "parameters": [_path("id")],
                "responses": _answers("server-sent events", "text/event-stream", {"type": "string"}, 404),
            }
        },
    }


def _operation(route: Route, schema: _Schema | None) -> dict[str, Any]:
    """Return what is told of a plugin's page."""
    names = re.findall(r"{(\w+)", route.path)
    parameters = [_path(name) for name in names]
    if route.query is not None:
        # Parameters that may be left out are null for the plugin; in a query there is no null.
        [_], components = msgspec.json.schema_components([route.query], ref_template=_REFERENCES)
        for name, kind in components[route.query.__name__]["properties"].items():
            kinds = [each for each in kind.get("anyOf", [kind]) if each.get("type") != "null"]
            rest = {key: value for key, value in (kind | kinds[0]).items() if key not in ("anyOf", "description")}
            if rest.get("default", 0) is None:
                del rest["default"]
            parameters.append(_query(name, kind.get("description", ""), rest))
    errors = [*([400] if route.query else []), *([404] if names else [])]
    summary = (inspect.getdoc(route.handler) or "").partition("\n")[0].removesuffix(".")
    return {
        "summary": summary or route.path,
        "tags": [route.plugin],
        "parameters": parameters,
        "responses": _answers("the answer", route.media, schema, *errors),
    }


def _answers(description: str, media: str, schema: _Schema | None, *errors: int) -> dict[str, Any]:
    content = {"content": {media: {"schema": schema}}} if schema is not None else {}
    refused = {str(status): {"description": _ERRORS[status]} for status in (401, 403, *errors)}
    return {"200": {"description": description, **content}, **refused}


def _query(name: str, description: str, schema: _Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _path(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string"} | ({"pattern": UPLOAD_ID.pattern} if name in ("id", "upload_id") else {}),
    }
