"""The manifest `<id>.info` beside the bytes: tusd's JSON with our record under one more key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from tusd_py.headers import format_upload_metadata, upload_id_of
from tusd_py.models import UPLOAD_ID, Concat, Upload


class Manifest(msgspec.Struct, kw_only=True, rename="pascal"):
    """tusd's `FileInfo` (pkg/handler/datastore.go), as its file store writes it."""

    id: str = msgspec.field(name="ID")
    size: int = 0
    size_is_deferred: bool = False
    offset: int = 0
    meta_data: dict[str, str] | None = None
    is_partial: bool = False
    is_final: bool = False
    partial_uploads: list[str] | None = None
    storage: dict[str, str] | None = None
    tusd_py: Upload | None = None


def encode(upload: Upload, storage: Mapping[str, str]) -> bytes:
    """Return the manifest as indented JSON that people and tusd can read; `storage` is what tusd says of the place."""
    concat = upload.concat
    value = Manifest(
        id=upload.id,
        size=upload.length or 0,
        size_is_deferred=upload.length is None,
        offset=upload.offset,
        meta_data=upload.metadata,
        is_partial=upload.is_partial,
        is_final=upload.is_final,
        partial_uploads=list(concat.members) if concat and concat.members else None,
        storage=dict(storage),
        tusd_py=upload,
    )
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def decode(data: bytes, at: datetime) -> Upload | None:
    """Return the record in a manifest of ours or tusd's, or None if it is neither; `at` dates one of tusd's."""
    try:
        value = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    if value.tusd_py is not None:
        return value.tusd_py
    if not UPLOAD_ID.fullmatch(value.id):
        return None
    metadata = value.meta_data or {}
    return Upload(
        id=value.id,
        created_at=at,
        updated_at=at,
        length=None if value.size_is_deferred else value.size,
        metadata=metadata,
        metadata_header=format_upload_metadata(metadata),
        concat=_concat_of(value),
        storage=_storage_of(value),
    )


def _concat_of(value: Manifest) -> Concat | None:
    if value.is_partial:
        return Concat("partial", "partial")
    if value.is_final:
        members = tuple(upload_id_of(member) for member in value.partial_uploads or ())
        return Concat("final", "final;" + " ".join(members), members)
    return None


def _storage_of(value: Manifest) -> dict[str, str]:
    # tusd writes paths relative to the directory it was started in; the file lies beside the manifest unless a hook
    # chose another place. Only tusd 2 says where the manifest was, and lets hooks choose.
    storage = value.storage or {}
    if "Path" not in storage or "InfoPath" not in storage:
        return {"type": "file", "path": value.id}
    return {"type": "file", "path": os.path.relpath(storage["Path"], Path(storage["InfoPath"]).parent)}
