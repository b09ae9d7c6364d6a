"""An entry as events of OpenLineage, and how they get to where they are wanted.

Source: https://openlineage.io/docs/spec/object-model. They are plain JSON, so no client library is needed; the
tests have one judge them.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests

from tusd_py import Reject
from tusd_py_catalog.entries import Entry

PRODUCER = "urn:tusd-py-catalog:0.1"
_SPEC = "https://openlineage.io/spec"
_NAMESPACE = uuid.UUID("6d6a0ff9-19c8-5a4e-9a53-2f2b44a7c8d1")
TIMEOUT_SECONDS = 30
_AGAIN = (408, 425, 429)

Find = Callable[[str], Entry | None]


def events(entry: Entry, started_at: datetime, namespace: str, find: Find) -> list[dict[str, Any]]:
    """Return what is told of an upload that was described: that it began, and what came of it.

    The specification wants both. The same entry gives the same events. `find` returns the entry of an upload, for the
    names of those it is derived from.
    """
    end = _end(entry, namespace, find)
    start = {key: end[key] for key in ("producer", "schemaURL", "run", "job")}
    return [start | {"eventType": "START", "eventTime": started_at.isoformat(), "inputs": [], "outputs": []}, end]


def _end(entry: Entry, namespace: str, find: Find) -> dict[str, Any]:
    facts = entry.facts
    facets: dict[str, Any] = {
        "schema": _facet("1-2-0/SchemaDatasetFacet") | {"fields": _fields(entry)},
        "version": _facet("1-0-1/DatasetVersionDatasetFacet") | {"datasetVersion": str(entry.version)},
        "storage": _facet("1-0-1/StorageDatasetFacet") | {"storageLayer": "tusd-py", "fileFormat": facts.format},
    }
    if entry.owner:
        facets["ownership"] = _facet("1-0-1/OwnershipDatasetFacet") | {"owners": [{"name": entry.owner}]}
    if entry.description:
        facets["documentation"] = _facet("1-1-0/DocumentationDatasetFacet") | {"description": entry.description}
    statistics: dict[str, Any] = {"size": facts.bytes, "fileCount": 1}
    if facts.rows is not None:
        statistics["rowCount"] = facts.rows
    return {
        "eventType": "COMPLETE",
        "eventTime": entry.created_at.isoformat(),
        "producer": PRODUCER,
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": str(uuid.uuid5(_NAMESPACE, entry.upload_id))},
        "job": {
            "namespace": namespace,
            "name": "upload",
            "facets": {
                "jobType": _facet("2-0-4/JobTypeJobFacet")
                | {"processingType": "BATCH", "integration": "TUSD_PY", "jobType": "UPLOAD"}
            },
        },
        "inputs": [_input(source.upload_id, source.text, namespace, find) for source in entry.sources],
        "outputs": [
            {
                "namespace": namespace,
                "name": dataset_name(entry),
                "facets": facets,
                "outputFacets": {
                    "outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet") | statistics,
                },
            }
        ],
    }


def dataset_name(entry: Entry) -> str:
    """Return what a dataset is called in events: names are free to every owner, so the owner is a part of it."""
    return f"{entry.owner}/{entry.name}" if entry.owner else entry.name


def _input(upload_id: str | None, text: str, namespace: str, find: Find) -> dict[str, Any]:
    known = find(upload_id) if upload_id else None
    if known is None:
        return {"namespace": namespace, "name": text}
    version = _facet("1-0-1/DatasetVersionDatasetFacet") | {"datasetVersion": str(known.version)}
    return {"namespace": namespace, "name": dataset_name(known), "facets": {"version": version}}


def _fields(entry: Entry) -> list[dict[str, str]]:
    return [
        {"name": field.name, "type": field.type} | ({"description": field.semantic} if field.semantic else {})
        for field in entry.facts.fields
    ]


def _facet(name: str) -> dict[str, Any]:
    version, _, kind = name.partition("/")
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{version}/{kind}.json#/$defs/{kind}"}


def send(document: dict[str, Any], target: str) -> None:
    """Append an event to a file, as one line, or POST it to a URL.

    Raises:
        Reject: whoever has the URL does not want it.
        requests.RequestException, OSError: it did not work this time.
    """
    data = msgspec.json.encode(document)
    if urlsplit(target).scheme not in ("http", "https"):
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, data + b"\n")  # in one piece, for others write too
        finally:
            os.close(file)
        return
    answer = requests.post(
        target, data, headers={"Content-Type": "application/json"}, timeout=TIMEOUT_SECONDS, allow_redirects=False
    )
    if 400 <= answer.status_code < 500 and answer.status_code not in _AGAIN:
        raise Reject(f"the receiver of OpenLineage events answered {answer.status_code}")
    if answer.status_code >= 300:
        raise requests.HTTPError(f"the receiver of OpenLineage events answered {answer.status_code}")
