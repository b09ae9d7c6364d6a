"""What the catalog holds: one entry for each described upload."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tusd_py_catalog.facts import Facts


class Source(msgspec.Struct, frozen=True):
    """What an upload's metadata says that it is derived from."""

    text: str
    upload_id: str | None = None
    """The upload that it names, if it looks like one."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One upload as the catalog knows it."""

    upload_id: str
    owner: str | None
    name: str
    """Of the dataset; uploads of one owner with the same name are its versions."""
    version: int = 0
    """1 for the first upload of this name; 0 before it is stored."""
    filename: str | None = None
    description: str | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    created_at: datetime
    """When the upload was complete."""
    facts: Facts
