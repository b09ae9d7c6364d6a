"""Extensions concatenation and concatenation-unfinished."""

from __future__ import annotations

from collections.abc import Mapping

from tusd_py.errors import InvalidConcat
from tusd_py.headers import has_body, parse_upload_concat
from tusd_py.models import Request, Upload
from tusd_py.protocol.base import Extension


class Concatenation(Extension):
    """Uploads can be made of other uploads."""

    def __init__(self, max_members: int, *, unfinished: bool) -> None:
        """Join up to `max_members`; with `unfinished`, before they are complete."""
        self._max_members = max_members
        self._unfinished = unfinished

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """What it adds to Tus-Extension."""
        return ("concatenation", "concatenation-unfinished") if self._unfinished else ("concatenation",)

    def draft(self, request: Request, upload: Upload) -> Upload:
        """Take whether the upload is a part or the whole, and of what."""
        concat = parse_upload_concat(request.headers, self._max_members)
        if concat is not None and concat.kind == "final":
            # "The Client MUST NOT include the Upload-Length header in the final upload creation."
            for header in ("Upload-Length", "Upload-Defer-Length"):
                if header in request.headers:
                    raise InvalidConcat(f"a final upload has the length of its parts: leave {header} out")
            if has_body(request.headers):
                raise InvalidConcat("a final upload has the bytes of its parts: send no body")
        return upload.changed(concat=concat)

    def describe(self, upload: Upload) -> Mapping[str, str]:
        """Say what the upload is.

        "The response to a HEAD request for a final or partial upload MUST include the Upload-Concat header and its
        value as received in the upload creation request."
        """
        return {"Upload-Concat": upload.concat.header} if upload.concat else {}
