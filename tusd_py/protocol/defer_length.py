"""Extension creation-defer-length."""

from __future__ import annotations

from collections.abc import Mapping

from tusd_py.errors import InvalidLength
from tusd_py.headers import parse_upload_defer_length
from tusd_py.models import Request, Upload
from tusd_py.protocol.base import Extension


class DeferLength(Extension):
    """The size may be told later, with a PATCH."""

    names = ("creation-defer-length",)

    def draft(self, request: Request, upload: Upload) -> Upload:
        """Check that the length is told or deferred, and not both."""
        if parse_upload_defer_length(request.headers) and upload.length is not None:
            raise InvalidLength("Upload-Length and Upload-Defer-Length exclude each other")
        return upload

    def describe(self, upload: Upload) -> Mapping[str, str]:
        """Say that the length is still open.

        "Upload-Defer-Length: 1 [...] MUST be included in HEAD responses until the length is set."
        """
        return {"Upload-Defer-Length": "1"} if upload.length is None and not upload.is_final else {}
