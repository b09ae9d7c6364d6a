"""Servers that do badly when they are interrupted, and servers that lack what is recommended."""

import socket
from types import SimpleNamespace

from defects import Defect, answers, lacks, nothing, tells
from raw_http import Gone, Request, Response
from reference_server import ReferenceServer, Refusal, Superseded, Upload

right = ReferenceServer


# Interruptions


def when_cut(change):
    """Do something to an upload whose PATCH broke off."""

    def receive(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
        try:
            right.receive(self, request, upload, offset, length)
        except Superseded:
            raise
        except Gone:
            change(upload, int(request.headers.get("content-length", 0)) + offset)
            raise

    return {"receive": receive}


def counts_what_was_announced(upload: Upload, announced: int) -> None:
    upload.data += bytes(max(0, announced - upload.offset))


def starts_again(upload: Upload, announced: int) -> None:
    del upload.data[1:]


def loses_a_byte(upload: Upload, announced: int) -> None:
    upload.data[-1:] = b"\0"


def stays_locked(upload: Upload, announced: int) -> None:
    upload.is_locked = True


def refuses_locked(self, upload: Upload, offset: int) -> object:
    if hasattr(upload, "is_locked"):
        raise Refusal(423, "somebody is at it")
    return right.begin(self, upload, offset)


def stores_only_the_whole(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    """Collect the body in memory first."""
    if request.method == "PATCH" and not {"upload-checksum", "trailer"} & {*request.headers}:
        with self.lock:
            turn = self.begin(upload, offset)
        self.check_room(upload, int(request.headers.get("content-length", 0)), length)
        self.write(upload, turn, b"".join(request.body()), length)
    else:
        right.receive(self, request, upload, offset, length)


def knows_its_place(self, upload: Upload, offset: int) -> object:
    """Let a PATCH go on where it is, whoever else writes."""
    right.begin(self, upload, offset)
    return SimpleNamespace(place=offset)


def writes_at_its_place(self, upload: Upload, turn, piece: bytes, length: int | None) -> None:
    with self.lock:
        end = turn.place + len(piece)
        if length is not None and end > length:
            raise Refusal(413, "that is more than the upload lacks")
        upload.data[turn.place : end] = piece
        turn.place = end
        upload.length = length


def stays_open(self, connection: socket.socket, error: Gone) -> None:
    """Answer after a time-out, and wait for more."""
    if isinstance(error.__cause__, TimeoutError):
        connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        connection.settimeout(5)
        while connection.recv(65_536):
            pass


# Recommended


def sorted_pairs(metadata: str) -> str:
    return ",".join(sorted(metadata.split(",")))


def paths_only(self, request: Request, upload: Upload) -> Response:
    response = right.head(self, request, upload)
    if upload.concat is not None:
        response.headers["Upload-Concat"] = upload.concat.replace(self.url, "/files/")
    return response


def no_length_is_unknown(self, request: Request, length: int | None) -> None:
    if length is not None or "upload-defer-length" in request.headers:
        right.check_deferral(self, request, length)


def takes_both(self, request: Request, length: int | None) -> None:
    if length is None or request.headers.get("upload-defer-length") != "1":
        right.check_deferral(self, request, length)


def takes_no_version(self, request: Request) -> None:
    if "tus-resumable" in request.headers:
        right.check_version(self, request)


def crashes_at_letters(self, request: Request, name: str) -> int | None:
    try:
        return right.number(self, request, name)
    except Refusal:
        raise Refusal(500, "invalid literal for int()") from None


def leaves_it_to_python(self, request: Request, name: str) -> int | None:
    """Take what int() takes, but nothing that is negative."""
    value = request.headers.get(name.lower())
    try:
        number = None if value is None else int(value)
    except ValueError:
        raise Refusal(400, f"{name} is not a number") from None
    if number is not None and number < 0:
        raise Refusal(400, f"{name} is negative")
    return number


def refuses_after_the_end(self, request: Request, upload: Upload) -> Response:
    if upload.is_complete and not upload.is_final:
        raise Refusal(403, "it is complete")
    return right.patch(self, request, upload)


def needs_content_length(self, request: Request, upload: Upload) -> Response:
    if "content-length" not in request.headers and "trailer" not in request.headers:
        raise Refusal(411, "how much?")
    return right.patch(self, request, upload)


def says_continue_at_once(self, request: Request) -> str:
    if request.sent_method == "PATCH":
        request.say_continue()
    return right.method(self, request)


def ignores_length_of_finals(self, request: Request) -> Upload:
    if request.headers.get("upload-concat", "").startswith("final"):
        request.headers.pop("upload-length", None)
    return right.new_upload(self, request)


def takes_every_upload_for_partial(self, urls: list[str]) -> tuple[Upload, ...]:
    for upload in list(self.uploads.values()):
        if upload.path in " ".join(urls) and not upload.is_final:
            upload.concat = "partial"
    return right.members(self, urls)


def creations_of_any_type(self, request: Request) -> None:
    if request.method != "POST":
        right.check_type(self, request)


def does_not_verify_creations(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    if request.method == "POST":
        request.headers.pop("upload-checksum", None)
    right.receive(self, request, upload, offset, length)


def puts(self, request: Request) -> Response:
    if request.sent_method == "PUT":
        return Response(200)
    return right.dispatch(self, request)


def errors_without_cors(request: Request, response: Response) -> None:
    if response.status >= 400:
        response.headers["Access-Control-Allow-Origin"] = None


def plain_text(self, request: Request, refusal: Refusal) -> Response:
    request.headers.pop("accept", None)
    return right.refused(self, request, refusal)


def is_busy(self, request: Request, upload: Upload, offset: int, length: int | None) -> None:
    """Let nobody look at an upload during a PATCH."""
    upload.is_busy = True
    try:
        right.receive(self, request, upload, offset, length)
    finally:
        upload.is_busy = False


def waits_for_its_turn(self, request: Request, upload: Upload) -> Response:
    if getattr(upload, "is_busy", False):
        raise Refusal(423, "somebody is at it")
    return right.head(self, request, upload)


def always_the_whole(self, request: Request, upload: Upload) -> Response:
    request.headers.pop("range", None)
    return right.get(self, request, upload)


def gives_nothing(self, request: Request, upload: Upload) -> Response:
    raise Refusal(404, "uploads are not given away")


RECOMMENDED_DEFECTS = [
    Defect("interruptions.honest", "what was announced counts as stored", when_cut(counts_what_was_announced)),
    Defect("interruptions.honest", "what was acknowledged is gone", when_cut(starts_again)),
    Defect("interruptions.honest", "the last byte is lost, though it counts", when_cut(loses_a_byte)),
    Defect("interruptions.stored", "nothing of what came is kept", {"receive": stores_only_the_whole}),
    Defect(
        "interruptions.predictable",
        "the upload stays locked",
        {**when_cut(stays_locked), "begin": refuses_locked},
        blocked="interruptions.honest",
        timeout=1.5,
    ),
    Defect("interruptions.two-clients", "both write", {"begin": knows_its_place, "write": writes_at_its_place}),
    Defect("interruptions.timeout", "the connection stays open", {"give_up": stays_open}),
    Defect("recommended.conflict-offset", "not told", lacks("PATCH", "Upload-Offset", status=409)),
    Defect("recommended.head-expires", "not told", lacks("HEAD", "Upload-Expires")),
    Defect("recommended.metadata-exact", "sorted", tells("HEAD", "Upload-Metadata", sorted_pairs)),
    Defect("recommended.concat-exact", "paths instead of URLs", {"head": paths_only}),
    Defect("recommended.metadata-refused", "everything is taken", {"check_metadata": nothing}),
    Defect("recommended.no-length", "none counts as unknown", {"check_deferral": no_length_is_unknown}),
    Defect("recommended.both-lengths", "both are taken", {"check_deferral": takes_both}),
    Defect("recommended.version-missing", "none is taken for 1.0.0", {"check_version": takes_no_version}),
    Defect("recommended.client-errors", "500", {"number": crashes_at_letters}),
    Defect("recommended.client-errors", "signs are taken", {"number": leaves_it_to_python}),
    Defect("recommended.too-long", "it is stored", {"check_room": nothing}),
    Defect("recommended.empty-patch", "403", {"patch": refuses_after_the_end}),
    Defect("recommended.chunked", "411", {"patch": needs_content_length}),
    Defect("recommended.refused-before-body", "always 100 Continue", {"method": says_continue_at_once}),
    Defect("recommended.final-with-length", "the length is ignored", {"new_upload": ignores_length_of_finals}),
    Defect("recommended.final-of-others", "whole uploads are taken", {"members": takes_every_upload_for_partial}),
    Defect("recommended.with-upload-type", "every type is stored", {"check_type": creations_of_any_type}),
    Defect("recommended.checksum-on-creation", "not verified", {"receive": does_not_verify_creations}),
    Defect("recommended.allow", "405 without Allow", lacks(None, "Allow")),
    Defect("recommended.allow", "PUT gets 200", {"dispatch": puts}),
    Defect("recommended.cors-errors", "errors lack CORS headers", answers(None, errors_without_cors)),
    Defect("recommended.problem-details", "text", {"refused": plain_text}),
    Defect("recommended.prompt-head", "423 during a PATCH", {"receive": is_busy, "head": waits_for_its_turn}),
    Defect("recommended.get", "no ranges", {"get": always_the_whole}),
    Defect("recommended.get", "nothing is given", {"get": gives_nothing}),
]
