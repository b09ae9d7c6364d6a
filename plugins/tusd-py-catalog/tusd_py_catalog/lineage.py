"""Which uploads an upload comes from, and which come from it, as far as the one who asks may see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from tusd_py_catalog.entries import Entry
from tusd_py_catalog.store import Catalog

MAX_NODES = 1000
Allowed = Callable[[Collection[str]], Iterable[str]]


def graph(catalog: Catalog, entry: Entry, allowed: Allowed) -> dict[str, Any]:
    """Return a graph around an entry: its nodes, and edges from what was there first to what was made of it.

    A source that is no upload of the catalog, or none that may be seen, is told as the metadata has it, and not
    followed further.
    """
    nodes = {entry.upload_id: _node(entry)}
    edges: list[dict[str, str]] = []
    for step in (_up, _down):
        seen, new = {entry.upload_id}, [entry]
        while new and len(nodes) < MAX_NODES:
            found, new = step(catalog, new, allowed, edges), []
            for each in found:
                nodes[each.upload_id] = _node(each)
                if each.upload_id not in seen:
                    seen.add(each.upload_id)
                    new.append(each)
    for edge in edges:
        nodes.setdefault(edge["from"], {"source": edge["from"]})
    unique = sorted({(edge["from"], edge["to"]) for edge in edges})
    return {
        "upload_id": entry.upload_id,
        "nodes": list(nodes.values()),
        "edges": [{"from": first, "to": second} for first, second in unique],
    }


def _up(catalog: Catalog, new: list[Entry], allowed: Allowed, edges: list[dict[str, str]]) -> list[Entry]:
    wanted = {source.upload_id for entry in new for source in entry.sources if source.upload_id}
    visible = {*allowed(sorted(wanted))}
    entries = {upload_id: catalog.get(upload_id) for upload_id in sorted(visible)}
    for entry in new:
        for source in entry.sources:
            known = entries.get(source.upload_id) if source.upload_id else None
            edges.append({"from": known.upload_id if known else source.text, "to": entry.upload_id})
    return [entry for entry in entries.values() if entry is not None]


def _down(catalog: Catalog, new: list[Entry], allowed: Allowed, edges: list[dict[str, str]]) -> list[Entry]:
    found: list[Entry] = []
    for entry in new:
        derived = catalog.derived(entry.upload_id)
        visible = {*allowed([each.upload_id for each in derived])}
        for each in derived:
            if each.upload_id in visible:
                edges.append({"from": entry.upload_id, "to": each.upload_id})
                found.append(each)
    return found


def _node(entry: Entry) -> dict[str, Any]:
    return {"upload_id": entry.upload_id, "name": entry.name, "version": entry.version, "format": entry.facts.format}
