"""Echoes finished uploads to a file, and refuses uploads without a file name, as its settings say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tusd_py import Reject, Upload, hookimpl


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The table `[plugins.echo]` of the server's TOML file; without it the plugin does nothing."""

    file: str | None = None
    require_filename: bool = False


chosen = Settings()


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> None:
    """Take the settings before the server starts; if they are wrong, it does not start and says why."""
    global chosen
    chosen = msgspec.convert(settings, Settings)


@hookimpl
async def pre_create(upload: Upload) -> None:
    """Refuse an upload before any of its bytes are read."""
    if chosen.require_filename and not upload.metadata.get("filename"):
        raise Reject("name the file: Upload-Metadata has no filename", status=400)


@hookimpl
def post_finish(upload: Upload) -> None:
    """Write a line about an upload that is complete; a plain function may block, for it runs in a thread."""
    if chosen.file:
        line = {"id": upload.id, "filename": upload.metadata.get("filename"), "bytes": upload.length}
        with Path(chosen.file).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
