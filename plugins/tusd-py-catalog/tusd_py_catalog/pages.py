"""The pages under `/api/catalog`. They show what `authorize` lets the request see, and nothing of the rest."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from tusd_py.errors import InvalidRequest, NotFound
from tusd_py.hooks.specs import Allowed
from tusd_py.models import Request, Response
from tusd_py_catalog import lineage
from tusd_py_catalog.croissant import croissant
from tusd_py_catalog.entries import Entry
from tusd_py_catalog.store import Catalog, Search

MAX_PAGE = 100
MAX_BATCHES = 10
"""So often the database is asked for one page; who may see few entries gets short pages."""
PARAMETERS = (*Search.__struct_fields__, "after", "limit")


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


class Pages:
    """The catalog over HTTP."""

    def __init__(self, catalog: Catalog) -> None:
        """Show this catalog."""
        self._catalog = catalog

    def list(self, request: Request, allowed: Allowed) -> Response:
        """Answer a search."""
        search, after, limit = _asked(request)
        identity = request.identity
        if identity is not None and identity.claims.get("operator") is not True:
            # As the list of uploads does; `allowed` would sort the others out one by one.
            search = msgspec.structs.replace(search, owner=identity.name)
        shown: list[Summary] = []
        last, more = after, True
        for _ in range(MAX_BATCHES):
            found = self._catalog.find(search, before=last, limit=limit)
            more = len(found) == limit
            seen = allowed([each.entry.upload_id for each in found]).result()
            for each in found:
                if len(shown) == limit:
                    more = True
                    break
                last = each.number
                if each.entry.upload_id in seen:
                    shown.append(_summary(each.entry))
            if not more or len(shown) == limit:
                break
        return _json(Page(shown, str(last) if more and last is not None else None))

    def show(self, request: Request, allowed: Allowed) -> Response:
        """Answer with all that is known of one upload."""
        entry = self._entry(request)
        versions = self._catalog.versions(entry.owner, entry.name)
        seen = allowed([each.upload_id for each in versions]).result()
        shown = msgspec.to_builtins(entry) | {
            "sources": [source.text for source in entry.sources],
            "versions": [each for each in versions if each.upload_id in seen],
        }
        return _json(shown)

    def croissant(self, request: Request) -> Response:
        """Answer with Croissant JSON-LD."""
        document = croissant(self._entry(request), request.base_url)
        return _json(document, "application/ld+json")

    def lineage(self, request: Request, allowed: Allowed) -> Response:
        """Answer with what one upload comes from, and what comes from it."""
        entry = self._entry(request)
        return _json(lineage.graph(self._catalog, entry, lambda ids: allowed(ids).result()))

    def _entry(self, request: Request) -> Entry:
        entry = self._catalog.get(request.upload_id or "")
        if entry is None:
            raise NotFound("the catalog has no such upload; it is described after its checks")
        return entry


def _asked(request: Request) -> tuple[Search, int | None, int]:
    """Return what a query asks for: the search, and the page.

    Raises:
        InvalidRequest: it has an unknown parameter, or a value that cannot be.
    """
    try:
        query = dict(parse_qsl(request.query, keep_blank_values=True, max_num_fields=20, errors="strict"))
    except ValueError as error:
        raise InvalidRequest("the query cannot be read") from error
    if any("\0" in value for value in query.values()):
        raise InvalidRequest("the query cannot be read")
    if unknown := query.keys() - {*PARAMETERS}:
        raise InvalidRequest(f"unknown query parameter {min(unknown)[:40]!r}; there are {', '.join(PARAMETERS)}")
    after, limit = _number(query, "after", 2**62), _number(query, "limit", MAX_PAGE)
    named: dict[str, Any] = {key: value for key, value in query.items() if key in Search.__struct_fields__}
    return Search(**named), after, limit or MAX_PAGE


def _number(query: dict[str, str], name: Literal["after", "limit"], largest: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= largest):
        raise InvalidRequest(f"{name} must be a number from 1 to {largest}")
    return int(text)


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
