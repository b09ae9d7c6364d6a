"""A delivery that tells a URL of every accepted upload, by a signed webhook whose body is a CloudEvent.

    # tusd-py.toml
    plugin = ["examples/08_plugin_deliver_webhook.py"]

    [plugins.08_plugin_deliver_webhook]
    url = "https://hooks.example/uploads"
    secret = "whsec_..."        # base64 behind whsec_, as Standard Webhooks has it

The event is sent in the structured mode of CloudEvents, and signed as https://www.standardwebhooks.com says, so that
any library of either can read and verify it. The event's id is the same each time it is sent: receivers drop doubles.
"""

import base64
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import msgspec

from tusd_py import Reject, Upload, hookimpl
from tusd_py.models import Content

SECONDS = 15
REPEATED = (408, 409, 423, 425, 429)
"""Refusals after which another attempt may help; so may one after any 5xx."""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    secret: str


url: str
key: bytes


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: what is signed for one address is not for another."""


opener = urllib.request.build_opener(_NoRedirects)


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> None:
    """Take the settings; without them the server does not start."""
    global url, key
    chosen = msgspec.convert(settings, Settings)
    url, key = chosen.url, base64.b64decode(chosen.secret.removeprefix("whsec_"), validate=True)
    if not url.startswith(("https://", "http://")) or not key:
        raise ValueError("url must be one of http, and secret must not be empty")


@hookimpl
def deliver(upload: Upload, content: Content, facts: Mapping[str, Any]) -> None:
    """Send the event; whatever is not a success is tried again by a further attempt, unless that cannot help."""
    assert upload.finished_at is not None
    event = {
        "specversion": "1.0",
        "id": f"{upload.id}.accepted",
        "type": "io.tus.upload.accepted",
        "source": "/files/",
        "subject": upload.id,
        "time": upload.finished_at.isoformat(),
        "datacontenttype": "application/json",
        "data": {"url": content.url, "size": content.size, "metadata": upload.metadata, "facts": dict(facts)},
    }
    body, stamp = json.dumps(event).encode(), str(int(time.time()))
    signed = hmac.digest(key, b".".join([event["id"].encode(), stamp.encode(), body]), "sha256")
    headers = {
        "Content-Type": "application/cloudevents+json",
        "webhook-id": event["id"],
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
    try:
        opener.open(urllib.request.Request(url, body, headers), timeout=SECONDS).close()
    except urllib.error.HTTPError as answer:
        if answer.code < 500 and answer.code not in REPEATED:
            raise Reject(f"the webhook was answered with {answer.code}") from answer
        raise
