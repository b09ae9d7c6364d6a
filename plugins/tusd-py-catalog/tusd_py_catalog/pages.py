"""The pages under `/api/catalog`. They show what `authorize` lets the request see, and nothing of the rest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec

from tusd_py.errors import InvalidRequest, NotFound
from tusd_py.hooks.specs import Allowed
from tusd_py.models import Request, Response, Status
from tusd_py_catalog.croissant import croissant
from tusd_py_catalog.entries import Entry
from tusd_py_catalog.lineage import Graph, graph
from tusd_py_catalog.store import Catalog, Search, Version

__all__ = ["JSON_LD", "Details", "Graph", "Page", "Pages", "Query"]

MAX_PAGE = 100
MAX_BATCHES = 10
"""So often the database is asked for one page; who may see few entries gets short pages."""
JSON_LD = "application/ld+json"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in the list."""

    upload_id: str
    owner: str | None
    name: str
    version: int
    filename: str | None
    description: str | None
    tags: tuple[str, ...]
    created_at: str
    format: str
    bytes: int
    rows: int | None
    fields: int
    tokens: int | None
    sha256: str
    problems: tuple[str, ...]


class Page(msgspec.Struct, frozen=True):
    """Some entries, the newest first; `next` is the `after` of the next page."""

    entries: list[Summary]
    next: str | None


class Query(Search, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the list can be asked."""

    after: Annotated[int, msgspec.Meta(ge=1, le=2**62, description="the `next` of the former page")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE, description="how many")] = MAX_PAGE


class Details(Entry, frozen=True, kw_only=True):
    """All that is known of one upload; the sample is for who may read it."""

    versions: tuple[Version, ...]
    """Those of the same dataset that may be seen, the newest first."""


class Pages:
    """The catalog over HTTP."""

    def __init__(self, catalog: Catalog) -> None:
        """Show this catalog."""
        self._catalog = catalog

    def list(self, request: Request, allowed: Allowed) -> Response:
        """Search the catalog, the newest entries first."""
        query = _asked(request)
        identity = request.identity
        if identity is not None and identity.claims.get("operator") is not True:
            # As the list of uploads does; `allowed` would sort the others out one by one.
            query = msgspec.structs.replace(query, owner=identity.name)
        shown: list[Summary] = []
        last, more = query.after, True
        for _ in range(MAX_BATCHES):
            found = self._catalog.find(query, before=last, limit=query.limit)
            more = len(found) == query.limit
            seen = _seen(allowed, [each.entry.upload_id for each in found])
            for each in found:
                if len(shown) == query.limit:
                    more = True
                    break
                last = each.number
                if each.entry.upload_id in seen:
                    shown.append(_summary(each.entry))
            if not more or len(shown) == query.limit:
                break
        return _json(Page(shown, str(last) if more and last is not None else None))

    def show(self, request: Request, allowed: Allowed) -> Response:
        """Show all that is known of one upload."""
        entry = self._entry(request, allowed)
        facts = entry.facts
        if not allowed([entry.upload_id], "read").result():
            facts = msgspec.structs.replace(facts, sample=())
        versions = self._catalog.versions(entry.owner, entry.name)
        seen = _seen(allowed, [each.upload_id for each in versions])
        shown = tuple(each for each in versions if each.upload_id in seen)
        return _json(Details(**(msgspec.structs.asdict(entry) | {"facts": facts, "versions": shown})))

    def croissant(self, request: Request, allowed: Allowed) -> Response:
        """Show one upload as Croissant JSON-LD."""
        return _json(croissant(self._entry(request, allowed), request.base_url), JSON_LD)

    def lineage(self, request: Request, allowed: Allowed) -> Response:
        """Show what one upload comes from, and what comes from it."""
        entry = self._entry(request, allowed)
        return _json(graph(self._catalog, entry, lambda ids: _seen(allowed, ids)))

    def _entry(self, request: Request, allowed: Allowed) -> Entry:
        entry = self._catalog.get(request.upload_id or "")
        if entry is None or not _seen(allowed, [entry.upload_id]):
            raise NotFound("the catalog has no such upload; it is described after its checks")
        return entry


def _seen(allowed: Allowed, upload_ids: Collection[str]) -> frozenset[str]:
    """Return those of these uploads that are accepted and that the request may see: the server knows, not the catalog.

    An upload can go into quarantine at any time, also while it is described.
    """
    found = allowed(upload_ids).result()
    return frozenset(upload_id for upload_id, upload in found.items() if upload.status is Status.ACCEPTED)


def _asked(request: Request) -> Query:
    """Return what a query asks for.

    Raises:
        InvalidRequest: it has an unknown parameter, or a value that cannot be.
    """
    try:
        query = dict(parse_qsl(request.query, keep_blank_values=True, max_num_fields=20, errors="strict"))
    except ValueError as error:
        raise InvalidRequest("the query cannot be read") from error
    if any("\0" in value for value in query.values()):
        raise InvalidRequest("the query cannot be read")
    known = Query.__struct_fields__
    if unknown := query.keys() - {*known}:
        raise InvalidRequest(f"unknown query parameter {min(unknown)[:40]!r}; there are {', '.join(known)}")
    try:
        return msgspec.convert(query, Query, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the query cannot be used: {error}") from error


def _summary(entry: Entry) -> Summary:
    facts = entry.facts
    return Summary(
        upload_id=entry.upload_id,
        owner=entry.owner,
        name=entry.name,
        version=entry.version,
        filename=entry.filename,
        description=entry.description,
        tags=entry.tags,
        created_at=entry.created_at.isoformat(),
        format=facts.format,
        bytes=facts.bytes,
        rows=facts.rows,
        fields=len(facts.fields),
        tokens=facts.tokens,
        sha256=facts.sha256,
        problems=facts.problems,
    )


def _json(value: object, media: str = "application/json") -> Response:
    return Response(200, {"Content-Type": media, "Cache-Control": "no-store"}, msgspec.json.encode(value))
