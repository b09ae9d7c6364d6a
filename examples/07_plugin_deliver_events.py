"""A delivery that writes a signed CloudEvent for every accepted upload into a folder, and what is known of it.

The table [plugins.07_plugin_deliver_events] needs `folder` and `secret`. A receiver checks the event like a webhook:
`signature` is the HMAC-SHA256 of the file without that attribute, as Standard Webhooks computes it.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tusd_py import Upload, hookimpl
from tusd_py.models import Content


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    folder: str
    secret: str


chosen: Settings


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> None:
    """Take the settings; without them the server does not start."""
    global chosen
    chosen = msgspec.convert(settings, Settings)


@hookimpl
def describe(upload: Upload, content: Content) -> dict[str, Any]:
    """Say what the bytes are; deliveries get it as `facts`."""
    with content.open() as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@hookimpl
def deliver(upload: Upload, content: Content, facts: Mapping[str, Any]) -> None:
    """Write the event; a second run writes the same file again, so nobody is told twice of two things."""
    data = {"url": content.url, "size": content.size, "metadata": upload.metadata, "facts": dict(facts)}
    assert upload.finished_at is not None
    event = {
        "specversion": "1.0",
        "id": f"{upload.id}.accepted",
        "type": "io.tus.upload.accepted",
        "source": "/files/",
        "subject": upload.id,
        "time": upload.finished_at.isoformat(),
        "data": data,
    }
    body = json.dumps(event, sort_keys=True).encode()
    signed = b".".join([event["id"].encode(), str(int(upload.finished_at.timestamp())).encode(), body])
    signature = base64.b64encode(hmac.digest(chosen.secret.encode(), signed, "sha256")).decode()
    file = Path(chosen.folder, f"{upload.id}.json")
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps({**event, "signature": f"v1,{signature}"}, sort_keys=True))
    unfinished.replace(file)
