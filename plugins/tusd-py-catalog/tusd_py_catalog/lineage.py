"""Which uploads an upload comes from, and which come from it, as far as the one who asks may see."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from tusd_py_catalog.entries import Entry
from tusd_py_catalog.store import Catalog

MAX_NODES = 1000
Seen = Callable[[Collection[str]], Collection[str]]
"""Gives those of these uploads that may be seen."""


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An upload of the catalog, or a source that is none or may not be seen."""

    source: str | None = None
    """As the metadata has it."""
    upload_id: str | None = None
    name: str | None = None
    version: int | None = None
    format: str | None = None


class Edge(msgspec.Struct, frozen=True, order=True, rename={"source": "from", "derived": "to"}):
    """From what was there first to what was made of it."""

    source: str
    derived: str


class Graph(msgspec.Struct, frozen=True):
    """What an upload comes from, and what comes from it."""

    upload_id: str
    nodes: list[Node]
    edges: list[Edge]


def graph(catalog: Catalog, entry: Entry, seen: Seen) -> Graph:
    """Return the graph around an entry, with some `MAX_NODES` nodes at most.

    A source that is no upload of the catalog, or none that may be seen, is told as the metadata has it, and not
    followed further.
    """
    nodes = {entry.upload_id: _node(entry)}
    edges: set[Edge] = set()
    for step in (_up, _down):
        new = [entry]
        while new and (room := MAX_NODES - len(nodes)) > 0:
            found = {each.upload_id: each for each in step(catalog, new, seen, edges, room)}
            new = [each for each in found.values() if each.upload_id not in nodes]
            nodes |= {each.upload_id: _node(each) for each in new}
    for edge in sorted(edges):
        nodes.setdefault(edge.source, Node(source=edge.source))
    return Graph(entry.upload_id, list(nodes.values()), sorted(edges))


def _up(catalog: Catalog, new: list[Entry], seen: Seen, edges: set[Edge], room: int) -> list[Entry]:
    wanted = sorted({source.upload_id for entry in new for source in entry.sources if source.upload_id})[:room]
    known = {upload_id: found for upload_id in sorted(seen(wanted)) if (found := catalog.get(upload_id)) is not None}
    for entry in new:
        for source in entry.sources:
            first = source.upload_id if source.upload_id in known else source.text
            edges.add(Edge(first or source.text, entry.upload_id))
    return list(known.values())


def _down(catalog: Catalog, new: list[Entry], seen: Seen, edges: set[Edge], room: int) -> list[Entry]:
    found: list[Entry] = []
    for entry in new:
        derived = catalog.derived(entry.upload_id, room - len(found))
        visible = seen([each.upload_id for each in derived])
        for each in derived:
            if each.upload_id in visible:
                edges.add(Edge(entry.upload_id, each.upload_id))
                found.append(each)
        if len(found) >= room:
            break
    return found


def _node(entry: Entry) -> Node:
    return Node(upload_id=entry.upload_id, name=entry.name, version=entry.version, format=entry.facts.format)
