"""What the specification leaves open, and good servers do."""

from __future__ import annotations

from urllib.parse import urlsplit

from tus_conformance.cases.checksum import wrong
from tus_conformance.cases.core import BAD_NUMBERS
from tus_conformance.cases.creation import pairs
from tus_conformance.rules import case
from tus_conformance.server import (
    OFFSET_STREAM,
    Blocked,
    Server,
    Skipped,
    described,
    expect_header,
    fail,
    listed,
)
from tus_conformance.wire import Answer, Headers, chunked

ORIGIN = "https://example.org"


def _client_error(answer: Answer, what: str) -> None:
    if not answer.is_client_error:
        fail(f"a 4xx for {what}", answer)


@case("recommended.conflict-offset")
def conflict_tells_the_offset(server: Server) -> None:
    """409 has Upload-Offset"""
    url = server.create(5)
    server.append(url, 0, b"he")
    answer = server.patch(url, 0, b"hello")
    if answer.status != 409:
        raise Skipped(f"{answer.status} instead of 409")
    expect_header(answer, "Upload-Offset", server.offset(url))


@case("recommended.head-expires")
def head_tells_when(server: Server) -> None:
    """HEAD has Upload-Expires if the creation had it"""
    created = server.post({"Upload-Length": 5})
    url = server.remember(created)
    if url is None or created.get("Upload-Expires") is None:
        raise Skipped("the creation does not say when the upload expires")
    expect_header(server.head(url), "Upload-Expires")


@case("recommended.metadata-exact")
def metadata_as_sent(server: Server) -> None:
    """Upload-Metadata of HEAD is the very string that was sent"""
    header = server.metadata(zebra="1", apple="2") + ",flag"
    answer = server.head(server.create(5, {"Upload-Metadata": header}))
    if pairs(answer.get("Upload-Metadata")) != pairs(header):
        raise Blocked("HEAD tells another metadata")
    expect_header(answer, "Upload-Metadata", header)


@case("recommended.concat-exact")
def concat_as_sent(server: Server) -> None:
    """Upload-Concat of HEAD is the very string that was sent"""
    part = server.finished(b"hello", {"Upload-Concat": "partial"})
    header = f"final;{part} {part}"
    answer = server.post({"Upload-Concat": header})
    url = server.remember(answer)
    if url is None:
        raise Blocked(f"a final upload could not be created ({answer.status})")
    head = server.head(url)
    if (head.get("Upload-Concat") or "").count(urlsplit(part).path) != 2:
        raise Blocked("HEAD does not tell the parts")
    expect_header(head, "Upload-Concat", header)


@case("recommended.metadata-refused")
def malformed_metadata(server: Server) -> None:
    """Values that are no Base64, empty keys and keys that come twice get a 4xx"""
    usual = server.metadata()
    for bad in ("name not*base64", "name ab", "name YQ==,", f"twice YQ==,{usual},twice YQ=="):
        _client_error(server.post({"Upload-Length": 5, "Upload-Metadata": f"{bad},{usual}"}), repr(bad))


@case("recommended.no-length")
def no_length(server: Server) -> None:
    """A creation needs Upload-Length or Upload-Defer-Length"""
    answer = server.post()
    if answer.is_success and server.head(server.located(answer)).get("Upload-Defer-Length") is None:
        raise Blocked("a length is made up, which creation.length is about")
    _client_error(answer, "neither")


@case("recommended.both-lengths")
def both_lengths(server: Server) -> None:
    """Upload-Length and Upload-Defer-Length exclude each other"""
    _client_error(server.post({"Upload-Length": 5, "Upload-Defer-Length": 1}), "both")


@case("recommended.version-missing")
def no_version(server: Server) -> None:
    """HEAD, PATCH and POST without Tus-Resumable get 412 with Tus-Version"""
    url = server.create(5)
    without: Headers = {"Tus-Resumable": None}
    for answer in (
        server.head(url, without),
        server.patch(url, 0, b"hello", without),
        server.post({"Upload-Length": 5, **without}),
    ):
        if answer.status != 412 or answer.get("Tus-Version") is None:
            fail("412 with Tus-Version", answer, got=described(answer, "Tus-Version"))


@case("recommended.client-errors")
def malformed_numbers(server: Server) -> None:
    """Offsets, lengths and deferrals that are no numbers get a 4xx"""
    url = server.create(5)
    # Signs and digits of other scripts (U+0660 is an Arabic zero) are what lenient parsers let through.
    for value in [*BAD_NUMBERS, "1e0", "+0", "0_0", "\u0660", "9" * 40]:
        answers = {"Upload-Offset": server.patch(url, 0, b"hello", {"Upload-Offset": value})}
        if value != "9" * 40:
            answers["Upload-Length"] = server.post({"Upload-Length": value})
        for name, answer in answers.items():
            # That the plainest of them must not succeed are rules of the core protocol.
            if not (answer.is_success and value in BAD_NUMBERS):
                _client_error(answer, f"{name}: {value}")


@case("recommended.too-long")
def too_many_bytes(server: Server) -> None:
    """Bytes beyond the length are refused, announced or in chunks"""
    for is_chunked in (False, True):
        url = server.create(5)
        answer = _chunked_patch(server, url, b"hello world") if is_chunked else server.patch(url, 0, b"hello world")
        offset = server.offset(url)
        if not answer.is_client_error or offset > 5:
            fail("a 4xx, and an offset of 5 at most", answer, got=f"{answer.status}, offset {offset}")


@case("recommended.empty-patch")
def empty_patch_at_the_end(server: Server) -> None:
    """An empty PATCH at the end gets 204"""
    answer = server.patch(server.finished(b"hello"), 5, b"")
    # That a success is a 204 is a rule of the core protocol.
    if not answer.is_success:
        fail("204", answer)


def _chunked_patch(server: Server, url: str, body: bytes) -> Answer:
    with server.connect() as connection:
        head = server.patch_message(url, 0, b"", {"Content-Length": None, "Transfer-Encoding": "chunked"})
        connection.send(head + chunked([body[:3], body[3:]]))
        return connection.answer("PATCH")


@case("recommended.chunked")
def chunked_body(server: Server) -> None:
    """A chunked PATCH adds its bytes"""
    url = server.create(11)
    answer = _chunked_patch(server, url, b"hello world")
    if not answer.is_success or (offset := server.offset(url)) != 11:
        fail(
            "success, and offset 11",
            answer,
            got=f"{answer.status}" + (f", offset {offset}" if answer.is_success else ""),
        )


@case("recommended.refused-before-body")
def refused_before_the_body(server: Server) -> None:
    """409, 412, 404 and 415 come before the body is sent"""
    url, unknown = server.create(5), server.unknown()
    for target, offset, headers in (
        (url, 3, {}),
        (url, 0, {"Tus-Resumable": "0.0.1"}),
        (url, 0, {"Content-Type": "text/plain"}),
        (unknown, 0, {}),
    ):
        if not server.patch(target, offset, b"hello", headers).is_client_error:
            continue  # it is not refused at all, which is another rule
        own: Headers = {"Content-Length": 5, "Expect": "100-continue", **headers}
        with server.connect() as connection:
            connection.send(server.patch_message(target, offset, b"", own))
            status = connection.interim(server.options.timeout)
            if status is None or not 400 <= status < 500:
                fail("a 4xx without 100 Continue", got=str(status or "nothing"))


@case("recommended.final-with-length")
def final_with_length(server: Server) -> None:
    """A final upload with Upload-Length gets a 4xx"""
    part = server.finished(b"hello", {"Upload-Concat": "partial"})
    _client_error(
        server.post({"Upload-Concat": f"final;{part}", "Upload-Length": 5}), "a final upload with Upload-Length"
    )


@case("recommended.final-of-others")
def final_of_others(server: Server) -> None:
    """A final upload of what cannot be one gets a 4xx"""
    for members in ("", server.unknown(), server.finished(b"hello"), "https://example.org/elsewhere"):
        _client_error(server.post({"Upload-Concat": f"final;{members}"}), f"final;{members}")


@case("recommended.with-upload-type")
def other_type_with_upload(server: Server) -> None:
    """The body of a creation that is no offset+octet-stream is refused or left alone"""
    answer = server.post({"Upload-Length": 5, "Content-Type": "text/plain"}, b"hello")
    url = server.remember(answer)
    if url is not None and (offset := server.offset(url)):
        fail("a refusal, or offset 0", answer, got=f"{answer.status}, offset {offset}")


@case("recommended.checksum-on-creation")
def checksum_on_creation(server: Server) -> None:
    """A wrong checksum of the bytes that come with a creation is noticed"""
    if "creation-with-upload" not in server.extensions:
        raise Skipped("creation-with-upload is not advertised")
    answer = server.post(
        {"Upload-Length": 5, "Content-Type": OFFSET_STREAM, "Upload-Checksum": wrong(server)}, b"hello"
    )
    url = server.remember(answer)
    if url is not None and (offset := server.offset(url)):
        fail("no byte stored", answer, got=f"{answer.status}, offset {offset}")


@case("recommended.allow")
def unknown_method(server: Server) -> None:
    """PUT on an upload is answered with a 4xx or 501, a 405 with Allow"""
    answer = server.request("PUT", server.create(5), {"Content-Length": 0})
    if not answer.is_client_error and answer.status != 501:
        fail("a 4xx or 501", answer)
    if answer.status == 405:
        expect_header(answer, "Allow")


@case("recommended.cors-errors")
def errors_have_cors_headers(server: Server) -> None:
    """404 and 409 have the CORS headers that successes have"""
    url = server.create(5)
    origin: Headers = {"Origin": ORIGIN}
    success = server.head(url, origin)
    if success.get("Access-Control-Allow-Origin") not in ("*", ORIGIN):
        raise Skipped("other origins are not allowed")
    for answer in (success, server.head(server.unknown(), origin), server.patch(url, 3, b"he", origin)):
        if answer.get("Access-Control-Allow-Origin") not in ("*", ORIGIN):
            fail("Access-Control-Allow-Origin", answer, got=described(answer, "Access-Control-Allow-Origin"))
        exposed = {name.lower() for name in listed(answer.get("Access-Control-Expose-Headers"))}
        if not {"upload-offset", "upload-length", "location"} <= exposed and exposed != {"*"}:
            fail("Access-Control-Expose-Headers", answer, got=described(answer, "Access-Control-Expose-Headers"))


@case("recommended.problem-details")
def problem_details(server: Server) -> None:
    """A 404 is application/problem+json if the client accepts that"""
    answer = server.patch(server.unknown(), 0, b"he", {"Accept": "application/problem+json"})
    if not (answer.get("Content-Type") or "").startswith("application/problem+json"):
        fail("application/problem+json", answer, got=described(answer, "Content-Type"))


@case("recommended.get")
def get_a_range(server: Server) -> None:
    """GET gives the whole, and 206 for a range"""
    if not server.options.downloads:
        raise Skipped("nothing is asked for by GET")
    url = server.finished(b"hello world")
    answer = server.request("GET", url)
    if answer.status != 200 or answer.body != b"hello world":
        fail("200 with the bytes", answer)
    part = server.request("GET", url, {"Range": "bytes=6-8"})
    if part.status != 206 or part.body != b"wor":
        fail("206 with bytes 6 to 8", part)
