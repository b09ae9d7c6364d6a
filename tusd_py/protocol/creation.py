"""Extensions creation and creation-with-upload."""

from __future__ import annotations

from collections.abc import Mapping

from tusd_py.body import Body
from tusd_py.errors import InvalidLength, InvalidMetadata
from tusd_py.headers import check_content_type, has_body, parse_upload_length, parse_upload_metadata, single
from tusd_py.models import Request, Response, Upload
from tusd_py.protocol.base import Core, Extension, Routes


class Creation(Extension):
    """POST on the collection makes an upload, and may bring its first bytes."""

    names = ("creation", "creation-with-upload")

    def __init__(self, max_metadata_size: int) -> None:
        """Take Upload-Metadata headers of up to `max_metadata_size` bytes."""
        self._max_metadata_size = max_metadata_size

    def routes(self, core: Core) -> Routes:
        """Add POST."""

        async def post(request: Request, body: Body) -> Response:
            draft = core.draft(request)
            if draft.length is None and not draft.is_final and "Upload-Defer-Length" not in request.headers:
                # "The request MUST include one of the following headers: a) Upload-Length [...] b) Upload-Defer-Length"
                raise InvalidLength("Upload-Length or 'Upload-Defer-Length: 1' is required")
            with_upload = has_body(request.headers)
            if with_upload:
                # "The Client MUST include the Content-Type: application/offset+octet-stream header."
                check_content_type(request.headers)
            upload = await core.uploads.create(request, draft, core.wrap_body(request, body))
            headers = {"Location": request.base_url + upload.id}
            if with_upload or upload.has_all_bytes:
                # "The Server MUST include the Upload-Offset header in the response." (Creation With Upload)
                headers["Upload-Offset"] = str(upload.offset)
            return Response(201, {**headers, **core.confirm(upload)})

        return {("collection", "POST"): post}

    def draft(self, request: Request, upload: Upload) -> Upload:
        """Take length and metadata."""
        header = single(request.headers, "Upload-Metadata", InvalidMetadata)
        metadata = parse_upload_metadata(header, self._max_metadata_size)
        return upload.changed(
            length=parse_upload_length(request.headers),
            metadata=metadata,
            metadata_header=header if metadata else None,
        )

    def describe(self, upload: Upload) -> Mapping[str, str]:
        """Give the metadata back.

        "If an upload contains additional metadata, responses to HEAD requests MUST include the Upload-Metadata header
        and its value as specified by the Client during the creation."
        """
        return {"Upload-Metadata": upload.metadata_header} if upload.metadata_header else {}
