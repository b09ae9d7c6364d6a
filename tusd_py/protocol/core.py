"""Core protocol: version, method override, OPTIONS, HEAD, PATCH, and the fold over the extensions."""

from __future__ import annotations

from dataclasses import replace

from tusd_py.body import Body
from tusd_py.errors import InvalidChecksum, MethodNotAllowed, NotFound, UnsupportedVersion
from tusd_py.headers import VERSION, check_content_type, parse_upload_length, parse_upload_offset, single
from tusd_py.models import UPLOAD_ID, Request, Response, Upload, now
from tusd_py.protocol.base import Core, Extension, Handler, Resource
from tusd_py.uploads import Uploads


class Protocol(Core):
    """Answers requests for the collection of uploads and for each upload."""

    def __init__(self, uploads: Uploads, extensions: list[Extension], max_size: int | None = None) -> None:
        """Serve `uploads` with these extensions."""
        self.uploads = uploads
        self.extensions = extensions
        self._max_size = max_size
        self._routes: dict[tuple[Resource, str], Handler] = {
            ("collection", "OPTIONS"): self._options,
            ("upload", "OPTIONS"): self._options,
            ("upload", "HEAD"): self._head,
            ("upload", "PATCH"): self._patch,
        }
        for extension in extensions:
            self._routes.update(extension.routes(self))

    def methods(self, resource: Resource) -> list[str]:
        """Return the methods that a resource has."""
        return sorted(method for kind, method in self._routes if kind == resource)

    async def handle(self, request: Request, body: Body) -> Response:
        """Answer one request.

        Raises:
            TusError: the request is refused or fails.
        """
        request = overridden(request)
        resource: Resource = "collection" if request.upload_id is None else "upload"
        handler = self._routes.get((resource, request.method))
        if handler is None:
            allow = ", ".join(self.methods(resource))
            raise MethodNotAllowed(f"{request.method[:20]} is not one of {allow}", {"Allow": allow})
        # "The Tus-Resumable header MUST be included in every request and response except for OPTIONS requests."
        # GET is no method of the protocol: browsers send it without the header.
        if request.method not in ("OPTIONS", "GET"):
            check_version(request)
        if request.upload_id is not None and not UPLOAD_ID.fullmatch(request.upload_id) and request.method != "OPTIONS":
            raise NotFound()
        return await handler(request, body)

    def draft(self, request: Request) -> Upload:
        """Return the upload that a creation request describes, without an id."""
        upload = Upload(id="", created_at=now(), updated_at=now())
        for extension in self.extensions:
            upload = extension.draft(request, upload)
        return upload

    def wrap_body(self, request: Request, body: Body) -> Body:
        """Return the body with what all extensions add."""
        # A trailer cannot be read here, so a checksum announced for one would go unverified: refuse it instead.
        if "upload-checksum" in request.headers.get("Trailer", "").lower():
            raise InvalidChecksum("checksum-trailer is not supported; send Upload-Checksum as a header")
        for extension in self.extensions:
            extension.wrap_body(request, body)
        return body

    def confirm(self, upload: Upload) -> dict[str, str]:
        """Return the headers of all extensions for answers to POST and PATCH."""
        headers: dict[str, str] = {}
        for extension in self.extensions:
            headers.update(extension.confirm(upload))
        return headers

    async def _options(self, request: Request, body: Body) -> Response:
        # "the Server MUST respond with [...] Tus-Version [...] and MAY include Tus-Extension and Tus-Max-Size"
        headers = {"Tus-Version": VERSION}
        if names := [name for extension in self.extensions for name in extension.names]:
            headers["Tus-Extension"] = ",".join(names)
        if self._max_size is not None:
            headers["Tus-Max-Size"] = str(self._max_size)
        for extension in self.extensions:
            headers.update(extension.advertise())
        headers["Allow"] = ", ".join(self.methods("collection" if request.upload_id is None else "upload"))
        return Response(200, headers)

    async def _head(self, request: Request, body: Body) -> Response:
        assert request.upload_id is not None
        upload = await self.uploads.head(request, request.upload_id)
        # "The Server MUST always include the Upload-Offset header in the response for a HEAD request" and "SHOULD NOT
        # [...] until the concatenation is done" for a final upload that waits for its parts.
        headers = {"Cache-Control": "no-store"}
        if not upload.is_final or upload.status.is_finished:
            headers["Upload-Offset"] = str(upload.offset)
        # "If the size of the upload is known, the Server MUST include the Upload-Length header in the response."
        if upload.length is not None:
            headers["Upload-Length"] = str(upload.length)
        for extension in self.extensions:
            headers.update(extension.describe(upload))
        return Response(200, headers)

    async def _patch(self, request: Request, body: Body) -> Response:
        assert request.upload_id is not None
        check_content_type(request.headers)
        offset = parse_upload_offset(request.headers)
        length = parse_upload_length(request.headers)
        body = self.wrap_body(request, body)
        upload = await self.uploads.append(request, request.upload_id, offset, body, length)
        # "The Server MUST acknowledge successful PATCH requests with the 204 No Content status. It MUST include the
        # Upload-Offset header containing the new offset."
        return Response(204, {"Upload-Offset": str(upload.offset), **self.confirm(upload)})


def overridden(request: Request) -> Request:
    """Return the request with the method that it means.

    "The X-HTTP-Method-Override request header MUST be a string which MUST be interpreted as the request's method by
    the Server, if the header is presented. The actual method of the request MUST be ignored." (Core)
    """
    method = single(request.headers, "X-HTTP-Method-Override")
    return request if method is None else replace(request, method=method.upper())


def check_version(request: Request) -> None:
    """Raise unless the request speaks our version.

    "If the version specified by the Client is not supported by the Server, it MUST respond with the 412 Precondition
    Failed status and MUST include the Tus-Version header into the response. In addition, the Server MUST NOT process
    the request." (Core)
    """
    versions = request.headers.getall("Tus-Resumable", [])
    if versions != [VERSION]:
        given = repr(", ".join(versions)[:20]) if versions else "missing"
        raise UnsupportedVersion(f"Tus-Resumable must be {VERSION}; it is {given}", {"Tus-Version": VERSION})
