"""Describes accepted uploads: the stage `describe`, the pages under `/api/catalog`, and events of OpenLineage.

It does nothing until the server's TOML file has a table `[plugins.catalog]` with at least one key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tusd_py import Reject, Status, Upload, hookimpl
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
def register_settings(settings: Mapping[str, Any]) -> bool:
    """Take the settings; without any, or with `enabled = false`, none of the hooks below is called.

    Raises:
        ConfigError: a setting is unknown or cannot be, or the database's driver is not installed.
    """
    global catalog, chosen
    chosen = read(settings)
    if not settings or not chosen.enabled:
        return False
    from tusd_py_catalog.store import Catalog  # who does not use the plugin does not wait for its libraries

    catalog = Catalog(chosen.database)
    return True


@hookimpl
def register_routes(register: RegisterRoute) -> None:
    """Add the pages under `/api/catalog`."""
    from tusd_py_catalog.pages import Pages

    pages = Pages(catalog)
    register("GET", "/api/catalog", pages.list, "list")
    register("GET", "/api/catalog/{upload_id}", pages.show, "status")
    register("GET", "/api/catalog/{upload_id}/croissant", pages.croissant, "status")
    register("GET", "/api/catalog/{upload_id}/lineage", pages.lineage, "status")


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
    """Send the event of an upload, if events are wanted: as a job, so that it is sent again if that fails."""
    if chosen.openlineage is None:
        return
    from tusd_py_catalog.openlineage import event, send

    entry = catalog.get(upload.id)
    if entry is None:
        raise Reject("the catalog has no entry of it")
    send(event(entry, chosen.namespace, catalog.get), chosen.openlineage)


@hookimpl
def post_terminate(upload: Upload) -> None:
    """Take the entry of an upload out that was complete and is gone."""
    if upload.finished_at is not None and not upload.is_partial:
        catalog.remove(upload.id)


@hookimpl
def post_verdict(upload: Upload) -> None:
    """Hide the entry of an upload that goes into quarantine, and show it when it is released."""
    if upload.status in (Status.ACCEPTED, Status.QUARANTINED):
        catalog.show(upload.id, is_accepted=upload.status is Status.ACCEPTED)
