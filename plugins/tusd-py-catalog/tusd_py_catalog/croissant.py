"""An entry as Croissant 1.0, the JSON-LD that dataset search engines and machine-learning libraries read.

Sources: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, and mlcroissant, which `scripts/check-croissant`
has judge what is made here.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from tusd_py_catalog.entries import Entry
from tusd_py_catalog.facts import Field

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MEDIA = {
    "jsonl": "application/jsonlines",
    "json": "application/json",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "parquet": "application/x-parquet",
    "text": "text/plain",
}
_PACKED = {"gzip": "application/gzip", "zstd": "application/zstd"}
_TYPES = {
    "string": "sc:Text",
    "time": "sc:Text",
    "null": "sc:Text",
    "integer": "sc:Integer",
    "number": "sc:Float",
    "boolean": "sc:Boolean",
    "date": "sc:Date",
    "timestamp": "sc:DateTime",
}
_INNER = re.compile(r"\[\]|\.")
_PLAIN_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_ROWS = ("jsonl", "csv", "tsv", "parquet")


def croissant(entry: Entry, base_url: str) -> dict[str, Any]:
    """Return the document of an entry; `base_url` is where uploads are, with a slash at its end."""
    facts = entry.facts
    url = base_url + entry.upload_id
    file_name = entry.filename or entry.upload_id
    media = _PACKED.get(facts.compression or "", _MEDIA.get(facts.format, "application/octet-stream"))
    document: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": entry.name,
        "description": entry.description or f"{entry.name}, version {entry.version}",
        "url": url,
        "version": f"{entry.version}.0.0",
        "datePublished": entry.created_at.isoformat(),
        "license": entry.license,
        "creator": {"@type": "sc:Person", "name": entry.owner} if entry.owner else None,
        "keywords": list(entry.tags),
        "isBasedOn": [source.text for source in entry.sources],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "file",
                "name": file_name,
                "contentUrl": url,
                "contentSize": f"{facts.bytes} B",
                "encodingFormat": media,
                "sha256": facts.sha256,
            }
        ],
    }
    columns = [field for field in facts.fields if not _INNER.search(field.name)]
    made = [field for column in columns if (field := _column(column, facts.fields)) is not None]
    if facts.format in _ROWS and facts.compression is None and made:
        document["recordSet"] = [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": made}]
    return {key: value for key, value in document.items() if value not in (None, [])}


def _column(column: Field, every: tuple[Field, ...]) -> dict[str, Any] | None:
    """Return a column, with what is in its objects as sub-fields; None if Croissant has no words for it."""
    extract = {"fileObject": {"@id": "file"}, "extract": {"column": column.name}}
    prefix = column.name + ("[]." if column.type == "list" else ".")
    inner = [
        (field, field.name.removeprefix(prefix))
        for field in every
        if field.name.startswith(prefix) and field.type in _TYPES
    ]
    items = next((field for field in every if field.name == f"{column.name}[]"), column)
    made: dict[str, Any] = {"@type": "cr:Field", "@id": f"rows/{quote(column.name, safe='')}", "name": column.name}
    if column.semantic:
        made["description"] = column.semantic
    if column.type == "list":
        made["repeated"] = True
    if sub_fields := [
        {
            "@type": "cr:Field",
            "@id": f"{made['@id']}/{quote(rest, safe='')}",
            "name": rest,
            "dataType": _data_type(field),
            "source": extract | {"transform": {"jsonPath": rest}},
        }
        for field, rest in inner
        if _PLAIN_PATH.fullmatch(rest)
    ]:
        return made | {"subField": sub_fields}
    if items.type not in _TYPES:
        return None
    return made | {"dataType": _data_type(items), "source": extract}


def _data_type(field: Field) -> str:
    return "sc:URL" if field.semantic == "url" else _TYPES[field.type]
