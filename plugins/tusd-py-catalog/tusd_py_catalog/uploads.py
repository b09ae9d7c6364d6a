"""What an upload is in the catalog: the facts of its bytes, and what its metadata says."""

from __future__ import annotations

import re

from tusd_py import Upload
from tusd_py.models import UPLOAD_ID, Content, now
from tusd_py.processes import ProcessFailed, Progress
from tusd_py_catalog import child, samples
from tusd_py_catalog.entries import Entry, Source
from tusd_py_catalog.facts import Facts
from tusd_py_catalog.settings import Settings

MAX_NAME = 200
MAX_TEXT = 10_000
MAX_ITEMS = 100


def facts_of(upload: Upload, content: Content, settings: Settings, tell: Progress) -> Facts:
    """Return the facts of an upload's bytes; what cannot be read has a problem that says why.

    Raises:
        StorageFull: there is no room for the copy that DuckDB needs.
        OSError: the bytes cannot be had now.
    """
    metadata = upload.metadata
    with content.on_disk() as path:
        request = child.Request(
            path=str(path),
            name=_file_name(upload),
            media=next((metadata[key] for key in ("filetype", "type", "contentType") if metadata.get(key)), ""),
            memory=int(settings.memory),
            threads=settings.threads,
            max_line=int(settings.max_line),
            max_fields=settings.max_fields,
            sample_rows=settings.sample_rows,
            redaction=samples.rules(),
        )
        try:
            return child.run(request, max_seconds=settings.max_seconds, tell=tell)
        except ProcessFailed as error:
            # Its reader died of it, and would again: that is what there is to tell.
            return Facts(format="unknown", bytes=content.size, sha256=child.digest(path), problems=(str(error),))


def entry_of(upload: Upload, facts: Facts) -> Entry:
    """Return the catalog's entry of an upload."""
    metadata = upload.metadata
    name = metadata.get("dataset", "").strip() or _file_name(upload) or upload.id
    tags = {tag.strip().lower() for tag in metadata.get("tags", "").split(",")}
    sources = re.split(r"[\s,]+", metadata.get("derivedFrom", ""))
    return Entry(
        upload_id=upload.id,
        owner=upload.owner,
        name=_printable(name, MAX_NAME),
        filename=_printable(_file_name(upload), MAX_NAME) or None,
        description=metadata.get("description", "").replace("\0", "")[:MAX_TEXT] or None,
        license=_printable(metadata.get("license", ""), MAX_NAME) or None,
        tags=tuple(sorted(_printable(tag, MAX_NAME) for tag in tags if tag)[:MAX_ITEMS]),
        sources=tuple(_source(text, upload.id) for text in sources if text)[:MAX_ITEMS],
        created_at=upload.finished_at or now(),
        facts=facts,
    )


def _source(text: str, own_id: str) -> Source:
    """Return what `derivedFrom` names: an upload by its id or URL, or something that is no upload of ours."""
    last = text.rstrip("/").rpartition("/")[2]
    is_upload = UPLOAD_ID.fullmatch(last) is not None and last != own_id
    return Source(text=_printable(text, 2000), upload_id=last if is_upload else None)


def _file_name(upload: Upload) -> str:
    given = next((upload.metadata[key] for key in ("filename", "name", "relativePath") if upload.metadata.get(key)), "")
    return given.replace("\\", "/").rpartition("/")[2]


def _printable(text: str, size: int) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:size])
