"""Servers that break one rule of creation each."""

import base64
import re

from defects import NEED_UPLOADS, Defect, answers, lacks, nothing, status, tells, without
from raw_http import Request, Response
from reference_server import BASE_PATH, ReferenceServer, Refusal, Upload

right = ReferenceServer


# Creation


def creates_nothing(self, request: Request) -> Response:
    raise Refusal(405, "uploads come from elsewhere", Allow="OPTIONS")


def no_length_is_0(self, request: Request, name: str) -> int | None:
    length = right.number(self, request, name)
    is_needed = request.path == BASE_PATH and not {"upload-defer-length", "upload-concat"} & {*request.headers}
    return 0 if length is None and is_needed and name == "Upload-Length" else length


def needs_metadata(self, metadata: str | None) -> None:
    if metadata is None:
        raise Refusal(400, "what is its name?")
    right.check_metadata(self, metadata)


def needs_values(self, metadata: str | None) -> None:
    """Refuse a key with a space and nothing behind it."""
    if metadata and any(pair.endswith(" ") for pair in metadata.split(",")):
        raise Refusal(400, "a value is missing")
    right.check_metadata(self, metadata)


def undefined_values(metadata: str) -> str:
    """Fill in what is missing as JavaScript does."""
    return ",".join(pair + "undefined" if pair.endswith(" ") else pair for pair in metadata.split(","))


def metadata_until_complete(request: Request, response: Response) -> None:
    """Forget the metadata of a complete upload."""
    if response.status == 200 and response.headers["Upload-Offset"] == response.headers["Upload-Length"]:
        response.headers["Upload-Metadata"] = None


def names_the_file(self, request: Request, upload: Upload) -> Response:
    """Use the file name as it is."""
    response = right.get(self, request, upload)
    if match := re.search("filename ([^,]+)", upload.metadata or ""):
        name = base64.b64decode(match[1]).decode("latin-1")
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


# Deferred length


def nothing_is_deferred(self, request: Request, length: int | None) -> None:
    if length is None:
        raise Refusal(400, "a length, please")
    right.check_deferral(self, request, length)


def length_in_the_first(self, request: Request, upload: Upload) -> int | None:
    """Want the length with the first bytes."""
    length = right.declared(self, request, upload)
    if length is None:
        raise Refusal(400, "a length, please")
    return length


def length_with_bytes(self, request: Request, upload: Upload) -> int | None:
    """Ignore a length that comes without bytes."""
    return right.declared(self, request, upload) if request.has_body else upload.length


def length_changes(self, request: Request, upload: Upload) -> int | None:
    length = self.number(request, "Upload-Length")
    return upload.length if length is None else length


def always_deferred(request: Request, response: Response) -> None:
    if response.status == 200:
        response.headers["Upload-Defer-Length"] = 1


def deferred_ever_after(self, request: Request, upload: Upload) -> Response:
    """Say so even when the length is known by now."""
    response = right.head(self, request, upload)
    if upload.path in self.deferred:
        response.headers["Upload-Defer-Length"] = 1
    return response


def remembers_deferral(self, request: Request) -> Upload:
    upload = right.new_upload(self, request)
    self.deferred = getattr(self, "deferred", set())
    if "upload-defer-length" in request.headers:
        self.deferred.add(upload.path)
    return upload


def any_deferral(self, request: Request, length: int | None) -> None:
    if length is not None or "upload-defer-length" not in request.headers:
        right.check_deferral(self, request, length)


# With upload


def bytes_left_alone(self, request: Request) -> Response:
    """Create the upload, and do not look at the bytes."""
    return with_body(self, request, 0)


def three_bytes(self, request: Request) -> Response:
    return with_body(self, request, 3)


def with_body(self, request: Request, most: int) -> Response:
    """Take as many bytes of a creation at most."""
    if not request.has_body or request.headers.get("content-type") != "application/offset+octet-stream":
        return right.post(self, request)
    upload = self.new_upload(request)
    body = b"".join(request.body())
    if "upload-checksum" in request.headers:
        self.verify(request.headers["upload-checksum"], body)
    upload.data += body[:most]
    self.uploads[upload.path] = upload
    return Response(
        201, {"Location": upload.path, "Upload-Offset": upload.offset, "Upload-Expires": self.expiry(upload)}
    )


def not_advertised_and_left_alone(self, request: Request) -> Response:
    response = with_body(self, request, 0)
    response.headers["Upload-Offset"] = None
    return response


def all_or_nothing(self, request: Request) -> Response:
    """Refuse a creation with a part of the bytes."""
    size = request.headers.get("content-length", "0")
    if request.has_body and size != "100000" and size not in (request.headers.get("upload-length"), "0"):
        raise Refusal(400, "the whole, please")
    return right.post(self, request)


def creates_with_bytes_only(self, request: Request) -> Response:
    """Answer 200 to a plain POST, which is nothing that the specification knows."""
    response = right.post(self, request)
    if not request.has_body:
        response.status = 200
    return response


def never_says_continue(self, request: Request) -> Response:
    request.say_continue = nothing
    return right.post(self, request)


def always_at_0(request: Request, response: Response) -> None:
    if response.headers.get("Upload-Offset") is not None:
        response.headers["Upload-Offset"] = 0


CREATION_DEFECTS = [
    Defect(
        "creation.implemented",
        "nothing can be created",
        {"extensions": (), "post": creates_nothing},
        blocked=f"{NEED_UPLOADS} checksum.advertised termination.advertised",
    ),
    Defect(
        "creation.advertised",
        "not advertised",
        without("creation", "creation-with-upload", post=not_advertised_and_left_alone),
    ),
    Defect("creation.metadata.format", "undefined", tells("HEAD", "Upload-Metadata", undefined_values)),
    Defect("creation.metadata.empty-value", "refused", {"check_metadata": needs_values}),
    Defect("creation.metadata.smuggling", "in Content-Disposition", {"get": names_the_file}),
    Defect("creation.length", "none is taken for 0", {"number": no_length_is_0}, blocked="recommended.no-length"),
    Defect("creation.metadata.optional", "required", {"check_metadata": needs_metadata}),
    Defect(
        "creation.metadata.head",
        "not told",
        lacks("HEAD", "Upload-Metadata"),
        blocked="concatenation.metadata.own recommended.metadata-exact",
    ),
    Defect(
        "creation.metadata.head",
        "one pair",
        tells("HEAD", "Upload-Metadata", lambda value: value.split(",")[0]),
        blocked="recommended.metadata-exact",
    ),
    Defect(
        "creation.metadata.head",
        "not told in the end",
        answers("HEAD", metadata_until_complete),
        blocked="concatenation.metadata.own",
    ),
    Defect("creation.max-size", "not heeded", {"check_size": nothing}),
    Defect("creation.max-size", "400 instead of 413", status("POST", 413, 400)),
    Defect("creation.status", "200 instead of 201", status("POST", 201, 200)),
    Defect(
        "creation.location",
        "not told",
        lacks("POST", "Location"),
        blocked=f"{NEED_UPLOADS} creation.* defer-length.* with-upload.* checksum.* termination.* concatenation.*",
    ),
    Defect("defer-length.advertised", "not advertised", without("creation-defer-length")),
    Defect("defer-length.value", "true instead of 1", tells("HEAD", "Upload-Defer-Length", lambda _: "true")),
    Defect(
        "defer-length.accepted",
        "refused",
        {"check_deferral": nothing_is_deferred},
        blocked="core.patch.applied defer-length.*",
    ),
    Defect("core.patch.applied", "the first PATCH needs the length", {"declared": length_in_the_first}),
    Defect("defer-length.declared", "an empty PATCH cannot tell it", {"declared": length_with_bytes}),
    Defect("defer-length.unchanged", "it changes", {"declared": length_changes}),
    Defect("defer-length.head", "not told", lacks("HEAD", "Upload-Defer-Length")),
    Defect("defer-length.omitted", "always there", answers("HEAD", always_deferred)),
    Defect("defer-length.omitted", "there ever after", {"head": deferred_ever_after, "new_upload": remembers_deferral}),
    Defect("defer-length.other-value", "accepted", {"check_deferral": any_deferral}),
    Defect("with-upload.advertised", "not advertised", without("creation-with-upload")),
    Defect("with-upload.creation", "creation is not advertised", without("creation", post=creates_with_bytes_only)),
    Defect(
        "with-upload.part", "only the whole", {"post": all_or_nothing}, blocked="with-upload.as-much with-upload.offset"
    ),
    Defect("with-upload.as-much", "three bytes", {"post": three_bytes}),
    Defect("with-upload.as-much", "nothing", {"post": bytes_left_alone}),
    Defect("with-upload.offset", "not told", lacks("POST", "Upload-Offset")),
    Defect("with-upload.offset", "0 is told", answers("POST", always_at_0)),
    Defect("with-upload.expect", "never 100 Continue", {"post": never_says_continue}),
]
