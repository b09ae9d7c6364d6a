"""Describes accepted uploads: the stage `describe`, the pages under `/api/catalog`, and events of OpenLineage.

It does nothing until the server's TOML file has a table `[plugins.catalog]` with at least one key.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import msgspec

from tusd_py import Reject, Upload, hookimpl
from tusd_py.hooks.specs import JobProgress, RegisterRoute
from tusd_py.models import Content
from tusd_py_catalog.settings import Settings, read

if TYPE_CHECKING:
    from tusd_py_catalog.store import Catalog

TOLD_FIELDS = 100
"""So many fields are in the job's result; the catalog has all."""

chosen = Settings()
catalog: Catalog


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> bool | Set[str]:
    """Take the settings; without any, or with `enabled = false`, none of the hooks below is called.

    Raises:
        ConfigError: a setting is unknown or cannot be, the database's driver is not installed, or its tables are newer.
    """
    global catalog, chosen
    chosen = read(settings)
    if not settings or not chosen.enabled:
        return False
    from tusd_py_catalog.store import Catalog  # who does not use the plugin does not wait for its libraries

    catalog = Catalog(chosen.database)
    catalog.check()
    return {"deliver"} if chosen.openlineage is None else True


@hookimpl
def register_routes(register: RegisterRoute) -> None:
    """Add the pages under `/api/catalog`."""
    from tusd_py_catalog.pages import JSON_LD, Details, Graph, Page, Pages, Query

    pages = Pages(catalog)
    register("GET", "/api/catalog", pages.list, "list", query=Query, answer=Page)
    register("GET", "/api/catalog/{upload_id}", pages.show, "status", answer=Details)
    register("GET", "/api/catalog/{upload_id}/croissant", pages.croissant, "status", answer=dict, media=JSON_LD)
    register("GET", "/api/catalog/{upload_id}/lineage", pages.lineage, "status", answer=Graph)


@hookimpl
def describe(upload: Upload, content: Content, progress: JobProgress) -> Mapping[str, Any]:
    """Measure an upload, store its entry, and return the facts without samples."""
    from tusd_py_catalog.uploads import entry_of, facts_of

    facts = facts_of(upload, content, chosen, progress)
    entry = catalog.put(entry_of(upload, facts))
    if entry is None:
        raise Reject("the upload was removed meanwhile")
    told = msgspec.structs.replace(facts, sample=(), fields=facts.fields[:TOLD_FIELDS])
    shown: dict[str, Any] = msgspec.to_builtins(told)
    return shown | {"dataset": entry.name, "version": entry.version}


@hookimpl
def deliver(upload: Upload) -> None:
    """Send the events of an upload: as a job, so that they are sent again if that fails."""
    from tusd_py_catalog.openlineage import events, send

    assert chosen.openlineage is not None  # else this hook is left out
    entry = catalog.get(upload.id)
    if entry is None:
        raise Reject("the catalog has no entry of it")
    for event in events(entry, upload.created_at, chosen.namespace, catalog.get):
        send(event, chosen.openlineage)


@hookimpl
def post_terminate(upload: Upload) -> None:
    """Take the entry of an upload out that was complete and is gone."""
    if upload.finished_at is not None and not upload.is_partial:
        catalog.remove(upload.id)
