"""A plugin that knows people by bearer tokens, and lets some of them only read.

    # tusd-py.toml
    plugin = ["examples/02_plugin_bearer_auth.py"]

    [plugins.02_plugin_bearer_auth]
    tokens = { ann = "the token of ann", bob = "the token of bob" }
    read_only = ["bob"]

tusd-py serve --config tusd-py.toml
"""

import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from tusd_py import Identity, Reject, Request, hookimpl
from tusd_py.models import Action


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The plugin's table in the TOML file."""

    tokens: dict[str, str]
    read_only: list[str] = []


chosen: Settings


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> None:
    """Take the tokens; without any nobody could do anything, so the server does not start."""
    global chosen
    chosen = msgspec.convert(settings, Settings)


@hookimpl
async def authenticate(request: Request) -> Identity | None:
    """Find whose token it is; who sends none, or one that nobody has, gets 401."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        for name, token in chosen.tokens.items():
            if hmac.compare_digest(token.encode(), given.strip().encode("utf-8", "surrogateescape")):
                return Identity(name)
    return None


@hookimpl
async def authorize(request: Request, action: Action) -> None:
    """Let who may only read do nothing else; that uploads belong to their owners the server sees to by itself."""
    assert request.identity is not None
    if request.identity.name in chosen.read_only and action not in ("head", "read", "status", "list"):
        raise Reject("you may look, but not upload or remove", status=403, code="ERR_READ_ONLY")
