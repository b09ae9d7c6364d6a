"""Servers that break one rule of expiration, checksum, termination or concatenation each."""

from datetime import timedelta

from defects import Defect, answers, lacks, status, tells, without
from raw_http import Request, Response
from reference_server import ReferenceServer, Refusal, Upload

right = ReferenceServer
SOON = timedelta(seconds=3)


# Expiration


def iso_date(value: str) -> str:
    return "2026-01-01T00:00:00Z"


def expired_gets(wrong: int, method: str):
    """Answer another status to a method where an upload has expired."""

    def is_expired(self, upload: Upload) -> bool:
        if right.is_expired(self, upload):
            raise Refusal(410, "expired", X_Expired="yes")
        return False

    def change(request: Request, response: Response) -> None:
        if response.headers.pop("X-Expired", None):
            response.status = wrong

    return {"lifetime": SOON, "is_expired": is_expired, **answers(method, change)}


# Checksum


def wants_more_checksums(self, request: Request, upload: Upload) -> Response:
    """Want a checksum with every PATCH, once there was one that was right."""
    self.verified = getattr(self, "verified", set())
    if upload.path in self.verified and "upload-checksum" not in request.headers:
        raise Refusal(400, "a checksum, please")
    response = right.patch(self, request, upload)
    if "upload-checksum" in request.headers:
        self.verified.add(upload.path)
    return response


def believes(condition):
    """Do not verify some checksums."""

    def verify(self, checksum: str | None, data: bytes) -> None:
        if not condition(checksum):
            right.verify(self, checksum, data)

    return {"verify": verify}


def ignores_headers(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    """Ignore checksums that stand before the bytes of a PATCH."""
    if request.method == "PATCH":
        checksum = request.headers.pop("upload-checksum", None)
        if checksum is not None:
            self.check_algorithm(checksum)
    right.receive(self, request, upload, offset, length)


def stores_what_is_wrong(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    """Find out that a checksum is wrong when the bytes are stored."""
    checksum = request.headers.pop("upload-checksum", None) if request.method == "PATCH" else None
    right.receive(self, request, upload, offset, length)
    if checksum is not None:
        self.verify(checksum, upload.data[offset:])


def stores_unknown(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    """Store the bytes, and then refuse the algorithm."""
    try:
        right.receive(self, request, upload, offset, length)
    except Refusal as refusal:
        if refusal.status == 400 and request.method == "PATCH" and "foo" in request.headers.get("upload-checksum", ""):
            upload.data += b"".join(request.body())
        raise


def unknown_is_wrong(self, checksum: str) -> None:
    try:
        right.check_algorithm(self, checksum)
    except Refusal:
        raise Refusal(460, "the checksum is another") from None


def ignores_trailers(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    request.headers.pop("trailer", None)
    right.receive(self, request, upload, offset, length)


# Termination


def keeps(self, request: Request, upload: Upload) -> Response:
    return Response(204)


def complete_stays(self, request: Request, upload: Upload) -> Response:
    if upload.is_complete:
        raise Refusal(404, "it is complete")
    return right.delete(self, request, upload)


def gone_is_403(self, path: str) -> Upload:
    if path in self.gone:
        raise Refusal(403, "not any more")
    return right.find(self, path)


# Concatenation


def concatenates_backwards(self, members: tuple[Upload, ...]) -> bytearray:
    return right.joined(self, members[::-1])


def longest_part(headers) -> None:
    """Tell the length of the longest part."""
    headers["Upload-Length"] = headers["Upload-Length"] and 5
    headers["Upload-Offset"] = headers["Upload-Offset"] and 5


def copies_metadata(self, request: Request) -> Upload:
    upload = right.new_upload(self, request)
    for member in upload.members:
        upload.metadata = f"{upload.metadata},{member.metadata}"
    return upload


def no_metadata_on_finals(self, request: Request) -> Upload:
    upload = right.new_upload(self, request)
    if upload.is_final:
        upload.metadata = None
    return upload


def finds_it_again(self, members: tuple[Upload, ...]) -> bytearray:
    """Give the same bytes for the same parts, whatever their order."""
    self.joins = getattr(self, "joins", {})
    return self.joins.setdefault(frozenset(member.path for member in members), right.joined(self, members))


def patches_finals(self, request: Request, upload: Upload) -> Response:
    if upload.is_final:
        upload.data += b"".join(request.body())
        upload.length = upload.offset
    return right.patch(self, request, upload)


def patches_parts(self, request: Request, upload: Upload) -> Response:
    if upload.is_final:
        upload.parts[-1].data += b"".join(request.body())
    return right.patch(self, request, upload)


def remembers_parts(self, final: Upload) -> None:
    if final.members:
        final.parts = final.members
    right.assemble(self, final)


def only_partial(name: str):
    """Leave a header out of HEAD on partial uploads."""

    def change(request: Request, response: Response) -> None:
        if response.headers.get("Upload-Concat") == "partial":
            response.headers[name] = None

    return answers("HEAD", change)


def only_final(change):
    """Change the headers of HEAD on final uploads."""

    def change_final(request: Request, response: Response) -> None:
        if str(response.headers.get("Upload-Concat")).startswith("final"):
            change(response.headers)

    return answers("HEAD", change_final)


def offset_is_0(headers) -> None:
    headers["Upload-Offset"] = headers["Upload-Offset"] or 0


def length_when_complete(headers) -> None:
    if headers["Upload-Offset"] is None:
        headers["Upload-Length"] = None


def no_offset(headers) -> None:
    headers["Upload-Offset"] = None


def only_the_kind(headers) -> None:
    headers["Upload-Concat"] = "final"


def first_part_last(headers) -> None:
    first, *rest = headers["Upload-Concat"].removeprefix("final;").split()
    headers["Upload-Concat"] = f"final;{' '.join([*rest, first])}"


def absolute_only(self, urls: list[str]) -> tuple[Upload, ...]:
    if not all(url.startswith("http") for url in urls):
        raise Refusal(400, "whole URLs, please")
    return right.members(self, urls)


def never_assembled(self, final: Upload) -> None:
    """Put together only what is complete at once."""
    if final.path not in self.uploads or not final.members or getattr(final, "tried", False):
        return
    final.tried = True
    right.assemble(self, final)


EXTENSION_DEFECTS = [
    Defect("expiration.advertised", "not advertised", without("expiration")),
    Defect("expiration.patch", "not told", lacks("PATCH", "Upload-Expires")),
    Defect("expiration.post", "not told", lacks("POST", "Upload-Expires")),
    Defect("expiration.gone", "HEAD gets 500", expired_gets(500, "HEAD"), patience=3),
    Defect("expiration.gone", "PATCH gets 403", expired_gets(403, "PATCH"), patience=3),
    Defect("expiration.format", "ISO 8601", tells(None, "Upload-Expires", iso_date)),
    Defect("checksum.advertised", "not advertised", without("checksum", "checksum-trailer")),
    Defect("checksum.optional", "with every PATCH or with none", {"patch": wants_more_checksums}),
    Defect("checksum.verified", "never", {"receive": ignores_headers}),
    Defect("checksum.verified", "only sha1", believes(lambda checksum: not checksum.startswith("sha1"))),
    Defect("checksum.status", "422 instead of 460", status("PATCH", 460, 422)),
    Defect("checksum.status", "an unknown algorithm gets 460", {"check_algorithm": unknown_is_wrong}),
    Defect("checksum.discarded", "what is wrong is stored", {"receive": stores_what_is_wrong}),
    Defect("checksum.discarded", "what is unknown is stored", {"receive": stores_unknown}),
    Defect("checksum.sha1", "not there", {"algorithms": ("sha256", "crc32")}),
    Defect(
        "checksum.names",
        "upper case",
        tells("OPTIONS", "Tus-Checksum-Algorithm", lambda value: value.replace("sha2", "SHA2")),
    ),
    Defect(
        "checksum.algorithms",
        "a comma at the end",
        tells("OPTIONS", "Tus-Checksum-Algorithm", lambda value: value + ","),
    ),
    Defect("checksum.options", "not told", lacks("OPTIONS", "Tus-Checksum-Algorithm")),
    Defect("checksum.trailer.advertised", "not advertised", without("checksum-trailer")),
    Defect("checksum.trailer", "ignored", {"receive": ignores_trailers}),
    Defect("termination.advertised", "not advertised", without("termination")),
    Defect("termination.status", "200 instead of 204", status("DELETE", 204, 200)),
    Defect("termination.status", "complete uploads stay", {"delete": complete_stays}, blocked="termination.gone"),
    Defect("termination.gone", "nothing is removed", {"delete": keeps}, blocked="core.method-override"),
    Defect("termination.gone", "403", {"find": gone_is_403}),
    Defect("concatenation.advertised", "not advertised", without("concatenation", "concatenation-unfinished")),
    Defect("concatenation.sum", "the longest part", only_final(longest_part)),
    Defect("concatenation.order", "backwards", {"joined": concatenates_backwards}, blocked="concatenation.reuse"),
    Defect("concatenation.unfinished.advertised", "not advertised", without("concatenation-unfinished")),
    Defect("concatenation.unfinished", "parts have to be complete", {"assemble": never_assembled}),
    Defect("concatenation.metadata", "copied", {"new_upload": copies_metadata}),
    Defect("concatenation.metadata.own", "dropped", {"new_upload": no_metadata_on_finals}),
    Defect("concatenation.reuse", "the order does not count", {"joined": finds_it_again}),
    Defect("concatenation.patch", "400 instead of 403", status("PATCH", 403, 400)),
    Defect("concatenation.patch", "403, but bytes are added", {"patch": patches_finals}),
    Defect("concatenation.patch", "403, but a part grows", {"patch": patches_parts, "assemble": remembers_parts}),
    Defect("concatenation.head.unfinished", "Upload-Offset is there", only_final(offset_is_0)),
    Defect("concatenation.head.final", "no Upload-Offset", only_final(no_offset), blocked="concatenation.unfinished"),
    Defect("concatenation.head.partial", "no Upload-Offset", only_partial("Upload-Offset")),
    Defect("concatenation.head.length", "only when complete", only_final(length_when_complete)),
    Defect("concatenation.head.concat", "not there on parts", only_partial("Upload-Concat")),
    Defect(
        "concatenation.head.concat", "without the parts", only_final(only_the_kind), blocked="recommended.concat-exact"
    ),
    Defect("concatenation.head.concat", "in another order", only_final(first_part_last)),
    Defect("concatenation.urls", "absolute ones only", {"members": absolute_only}),
]
