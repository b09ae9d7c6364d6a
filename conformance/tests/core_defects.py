"""Servers that break one rule of the core protocol each."""

from defects import Defect, answers, lacks, nothing, status, tells
from raw_http import Request, Response
from reference_server import ReferenceServer, Refusal, Upload

right = ReferenceServer


# Numbers


def takes_any_offset_for_0(self, request: Request, name: str) -> int | None:
    try:
        return right.number(self, request, name)
    except Refusal:
        if name == "Upload-Offset":
            return 0
        raise


def takes_no_offset_for_the_current(self, request: Request, name: str) -> int | None:
    value = right.number(self, request, name)
    return 0 if name == "Upload-Offset" and value is None else value


def takes_negative_lengths(self, request: Request, name: str) -> int | None:
    return (
        5
        if name == "Upload-Length" and request.headers.get("upload-length") == "-1"
        else right.number(self, request, name)
    )


def refuses_empty_uploads(self, request: Request, length: int | None) -> None:
    if length == 0:
        raise Refusal(400, "an upload has bytes")
    right.check_deferral(self, request, length)


# Versions


def processes_what_it_refuses(method: str):
    """Do what a request of another version asks for, and refuse it then."""

    def check_version(self, request: Request) -> None:
        try:
            right.check_version(self, request)
        except Refusal:
            # Who wants to hear first whether to send the body hears it: that is another rule.
            if request.method == method and "tus-resumable" in request.headers and not request.is_expecting:
                getattr(self, method.lower())(request, self.find(request.path))
            raise

    return {"check_version": check_version}


def heads_of_every_version(self, request: Request) -> None:
    if request.method != "HEAD" or "tus-resumable" not in request.headers:
        right.check_version(self, request)


def unsupported(change):
    """Change the answers to requests of an unsupported version."""

    def respond(request: Request, response: Response) -> None:
        if response.status == 412 and "tus-resumable" in request.headers:
            change(response)

    return answers(None, respond)


def options_check_the_version(self, request: Request) -> Response:
    if "tus-resumable" in request.headers:
        self.check_version(request)
    return right.options(self, request)


# A server that can do nothing but the core protocol, and one that says so badly


def creates_its_own_way(self, request: Request) -> Response:
    """Answer 200 to a plain POST, which is nothing that the specification knows."""
    if "upload-length" not in request.headers or request.has_body:
        raise Refusal(400, "a length, please")
    return Response(200, {"Location": right.post(self, request).headers["Location"]})


def empty_extension(request: Request, response: Response) -> None:
    response.headers["Tus-Extension"] = ""


def terminates_nothing(self, request: Request, upload: Upload) -> Response:
    raise Refusal(405, "uploads stay", Allow="HEAD, PATCH, GET")


CORE_ONLY = {
    "extensions": (),
    "algorithms": (),
    "max_size": None,
    "expiry": nothing,
    "verify": nothing,
    "delete": terminates_nothing,
}


# Methods


def overrides(*methods: str, of: str = ""):
    """Let only these methods be overridden, or only by this one."""

    def method(self, request: Request) -> str:
        wanted = request.headers.get("x-http-method-override", request.sent_method)
        return wanted if request.sent_method in methods and wanted != of else request.sent_method

    return {"method": method}


# PATCH


def loses_a_byte(self, upload: Upload, turn: object, piece: bytes, length: int | None) -> None:
    """Lose the first byte of each PATCH but the first, though not its place."""
    right.write(self, upload, turn, b"\0" + piece[1:] if upload.offset and piece else piece, length)


def stops_at_the_last_chunk(self, upload: Upload, turn: object, piece: bytes, length: int | None) -> None:
    """Lose what looks like the end of a chunked body."""
    right.write(self, upload, turn, piece.replace(b"\r\n0\r\n\r\n", bytes(7)), length)


def patches_of_any_type(self, request: Request) -> None:
    if request.method != "PATCH":
        right.check_type(self, request)


def stores_before_it_looks(self, request: Request) -> None:
    try:
        right.check_type(self, request)
    except Refusal:
        if request.method == "PATCH" and not request.is_expecting:
            upload = self.find(request.path)
            for piece in request.body():
                upload.data += piece
        raise


def fills_the_gap(self, upload: Upload, offset: int) -> object:
    """Make room for a PATCH that is too far ahead, and refuse it then."""
    try:
        return right.begin(self, upload, offset)
    finally:
        if upload.offset < offset < (upload.length or 0):
            upload.data += bytes(offset - upload.offset)


def goes_back(self, upload: Upload, offset: int) -> object:
    """Cut off the first few bytes of an upload for a PATCH that overwrites them."""
    if offset < upload.offset < 5:
        del upload.data[offset:]
    return right.begin(self, upload, offset)


def ten_patches(self, request: Request, upload: Upload) -> Response:
    self.counts = getattr(self, "counts", {})
    self.counts[upload.path] = self.counts.get(upload.path, 0) + 1
    if self.counts[upload.path] > 10:
        raise Refusal(429, "no more than ten")
    return right.patch(self, request, upload)


def tells_what_came(request: Request, response: Response) -> None:
    """Tell how much came with this PATCH."""
    if response.status == 204:
        response.headers["Upload-Offset"] = request.headers.get("content-length", 0)


def tells_what_was(request: Request, response: Response) -> None:
    """Tell where this PATCH began."""
    if response.status == 204:
        response.headers["Upload-Offset"] = request.headers["upload-offset"]


def head_of_nothing(wrong: int | None = None, **headers: object):
    def change(request: Request, response: Response) -> None:
        if response.status == 404:
            response.status = wrong or 404
            response.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    return answers("HEAD", change)


def plain(change):
    """Change HEAD of uploads that are neither partial nor final."""

    def change_plain(request: Request, response: Response) -> None:
        if response.status == 200 and response.headers["Upload-Concat"] is None:
            change(response.headers)

    return answers("HEAD", change_plain)


def no_offset_at_0(headers) -> None:
    headers["Upload-Offset"] = headers["Upload-Offset"] or None


def no_offset_in_the_end(headers) -> None:
    if headers["Upload-Offset"] == headers["Upload-Length"]:
        headers["Upload-Offset"] = None


def no_length(headers) -> None:
    headers["Upload-Length"] = None


def adds_a_sign(request: Request, response: Response) -> None:
    if response.status == 204:
        response.headers["Upload-Offset"] = f"+{response.headers['Upload-Offset']}"


def set_status(wrong: int):
    return lambda response: setattr(response, "status", wrong)


def drop(*names: str):
    return lambda response: response.headers.update(dict.fromkeys(names))


NO_OFFSET_AT_0 = (
    "core.upload-offset core.upload-length core.version.not-processed core.method-override.actual core.head.no-store "
    "core.patch.content-type interruptions.honest checksum.discarded checksum.trailer recommended.too-long"
)
NO_OFFSET_IN_THE_END = (
    "core.upload-length core.method-override core.head.no-store core.patch.applied core.patch.sum interruptions.honest "
    "interruptions.two-clients with-upload.part with-upload.offset checksum.trailer recommended.chunked"
)

CORE_DEFECTS = [
    Defect("core.upload-offset", "no number is taken for 0", {"number": takes_any_offset_for_0}),
    Defect("core.upload-offset", "a missing one is taken for 0", {"number": takes_no_offset_for_the_current}),
    Defect("core.upload-offset", "PATCH tells it with a sign", answers("PATCH", adds_a_sign)),
    Defect("core.upload-length", "a negative one is accepted", {"number": takes_negative_lengths}),
    Defect("core.upload-length", "0 is refused", {"check_deferral": refuses_empty_uploads}),
    Defect("core.tus-version", "semicolons between versions", tells("OPTIONS", "Tus-Version", lambda _: "1.0.0;0.2.2")),
    Defect("core.tus-version", "1.0.0 is not listed", tells("OPTIONS", "Tus-Version", lambda _: "0.2.2")),
    Defect("core.tus-resumable", "POST lacks it", lacks("POST", "Tus-Resumable")),
    Defect("core.tus-resumable", "HEAD lacks it", lacks("HEAD", "Tus-Resumable", status=200)),
    Defect("core.tus-resumable", "PATCH lacks it", lacks("PATCH", "Tus-Resumable", status=204)),
    Defect("core.tus-resumable", "DELETE lacks it", lacks("DELETE", "Tus-Resumable")),
    Defect("core.tus-resumable", "404 lacks it", lacks(None, "Tus-Resumable", status=404)),
    Defect("core.tus-resumable", "409 lacks it", lacks(None, "Tus-Resumable", status=409)),
    Defect("core.tus-resumable", "412 lacks it", lacks(None, "Tus-Resumable", status=412)),
    Defect("core.tus-resumable.value", "the version is shortened", tells(None, "Tus-Resumable", lambda _: "1.0")),
    Defect("core.version.unsupported", "400 instead of 412", unsupported(set_status(400))),
    Defect("core.version.unsupported", "412 without Tus-Version", unsupported(drop("Tus-Version"))),
    Defect("core.version.unsupported", "HEAD takes every version", {"check_version": heads_of_every_version}),
    Defect("core.version.not-processed", "PATCH adds bytes before 412", processes_what_it_refuses("PATCH")),
    Defect("core.version.not-processed", "DELETE removes before 412", processes_what_it_refuses("DELETE")),
    Defect("core.tus-extension", "a comma at the end", tells("OPTIONS", "Tus-Extension", lambda value: value + ",")),
    Defect(
        "core.tus-extension.omitted",
        "it is empty where there are none",
        {**CORE_ONLY, "post": creates_its_own_way, **answers("OPTIONS", empty_extension)},
    ),
    Defect(
        "core.tus-max-size",
        "no number",
        {**tells("OPTIONS", "Tus-Max-Size", lambda _: "unlimited"), "check_size": nothing},
    ),
    Defect("core.tus-max-size.known", "the limit is not told", lacks("OPTIONS", "Tus-Max-Size")),
    Defect("core.method-override", "not heeded on POST", overrides("GET", "PATCH", "DELETE", "HEAD")),
    Defect("core.method-override", "POST is no DELETE", overrides("POST", "GET", "PATCH", "DELETE", of="DELETE")),
    Defect("core.method-override.actual", "only heeded on POST", overrides("POST")),
    Defect("core.method-override.actual", "not heeded on PATCH", overrides("POST", "DELETE")),
    Defect(
        "core.head.offset",
        "not there at 0",
        plain(no_offset_at_0),
        blocked=NO_OFFSET_AT_0,
    ),
    Defect(
        "core.head.offset",
        "not there in the end",
        plain(no_offset_in_the_end),
        blocked=NO_OFFSET_IN_THE_END,
    ),
    Defect("core.head.length", "never there", plain(no_length), blocked="defer-length.declared"),
    Defect("core.head.not-found", "500", head_of_nothing(500)),
    Defect("core.head.not-found", "404 with Upload-Offset", head_of_nothing(Upload_Offset=0)),
    Defect("core.head.status", "202", status("HEAD", 200, 202)),
    Defect("core.head.no-store", "no-cache instead", tells("HEAD", "Cache-Control", lambda _: "no-cache")),
    Defect("core.patch.applied", "a byte is lost", {"write": loses_a_byte}),
    Defect("core.patch.applied", "what looks like the end of chunks is lost", {"write": stops_at_the_last_chunk}),
    Defect("core.patch.content-type", "every type is accepted", {"check_type": patches_of_any_type}),
    Defect("core.patch.content-type", "415, but the bytes are stored", {"check_type": stores_before_it_looks}),
    Defect("core.patch.content-type", "400 instead of 415", status("PATCH", 415, 400)),
    Defect("core.patch.conflict", "400 instead of 409", status("PATCH", 409, 400)),
    Defect("core.patch.conflict", "409, but zeros are stored", {"begin": fills_the_gap}),
    Defect("core.patch.conflict", "a lower offset overwrites", {"begin": goes_back}),
    Defect("core.patch.many", "only ten", {"patch": ten_patches}),
    Defect("core.patch.status", "200 instead of 204", status("PATCH", 204, 200)),
    Defect("core.patch.offset", "not told", lacks("PATCH", "Upload-Offset", status=204)),
    Defect("core.patch.sum", "the bytes of this PATCH alone", answers("PATCH", tells_what_came)),
    Defect("core.patch.sum", "the old offset", answers("PATCH", tells_what_was)),
    Defect("core.patch.not-found", "403", status("PATCH", 404, 403)),
    Defect("core.options.version", "not told", lacks("OPTIONS", "Tus-Version")),
    Defect("core.options.version", "a 403", status("OPTIONS", 204, 403)),
    Defect("core.options.ignores-version", "412", {"options": options_check_the_version}),
    Defect("core.features", "nothing is told", {**CORE_ONLY, "post": creates_its_own_way}),
]
