"""Extension expiration."""

from __future__ import annotations

from collections.abc import Mapping

from tusd_py.headers import format_http_date
from tusd_py.models import Upload
from tusd_py.protocol.base import Extension


class Expiration(Extension):
    """Unfinished uploads are removed after a time without bytes; every byte moves that time."""

    names = ("expiration",)

    def confirm(self, upload: Upload) -> Mapping[str, str]:
        """Tell when.

        "This header MUST be included in every PATCH response if the upload is going to expire. If the expiration is
        known at the creation, the Upload-Expires header MUST be included in the response to the initial POST request."
        """
        return {"Upload-Expires": format_http_date(upload.expires_at)} if upload.expires_at else {}

    describe = confirm
