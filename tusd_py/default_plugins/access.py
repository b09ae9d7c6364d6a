"""Who may do what when no other plugin says more: uploads belong to who made them, overviews to the operator."""

from __future__ import annotations

import hmac

from tusd_py.errors import Forbidden
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Action, Identity, Request, Upload

OPERATOR = Identity("operator", {"operator": True})


class Access:
    """Binds uploads to their owners, and lists and metrics to the operator."""

    def __init__(self, api_token: str | None) -> None:
        """Take the operator's bearer token; without one, requests from this machine are the operator's."""
        self._token = api_token

    @hookimpl(tryfirst=True)
    def authenticate(self, request: Request) -> Identity | None:
        """Know the operator by the token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._token and scheme.lower() == "bearer":
            given = token.strip().encode("utf-8", "surrogateescape")
            return OPERATOR if hmac.compare_digest(given, self._token.encode()) else None
        return None

    @hookimpl
    def authorize(self, request: Request, action: Action, upload: Upload | None) -> None:
        """Refuse strangers an upload that has an owner, and everybody but the operator the overviews."""
        identity = request.identity
        if identity is not None and identity.claims.get("operator") is True:
            return
        if upload is not None and upload.owner is not None and (identity is None or identity.name != upload.owner):
            raise Forbidden("this upload belongs to somebody else")
        if action == "list" and identity is not None:
            return  # the list then holds only what is theirs
        if action in ("list", "metrics") and (self._token or not request.is_local):
            raise Forbidden(
                "this is for the operator: send the api_token as a bearer token, or ask from the server itself"
            )
