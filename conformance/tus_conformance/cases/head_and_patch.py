"""Core Protocol: HEAD and PATCH."""

from __future__ import annotations

from tus_conformance.rules import case
from tus_conformance.server import (
    Server,
    described,
    expect_header,
    expect_status,
    fail,
    listed,
    number,
)
from tus_conformance.wire import Answer

# HEAD


@case("core.head.offset")
def head_of_a_new_upload(server: Server) -> None:
    """Upload-Offset is 0 for an upload without bytes"""
    expect_header(_found(server.head(server.create(5))), "Upload-Offset", 0)


@case("core.head.offset")
def head_of_a_begun_upload(server: Server) -> None:
    """Upload-Offset tells how much is there"""
    url = server.create(5)
    server.append(url, 0, b"he")
    if expect_header(_found(server.head(url)), "Upload-Offset") == "0":
        fail("Upload-Offset: 2", server.head(url), got="Upload-Offset: 0")


@case("core.head.offset")
def head_of_a_complete_upload(server: Server) -> None:
    """Upload-Offset is there for a complete upload"""
    expect_header(_found(server.head(server.finished(b"hello"))), "Upload-Offset")


@case("core.head.length")
def head_tells_the_length(server: Server) -> None:
    """Upload-Length is what was announced, before, during and after the upload"""
    url = server.create(5)
    expect_header(_found(server.head(url)), "Upload-Length", 5)
    server.append(url, 0, b"he")
    expect_header(_found(server.head(url)), "Upload-Length", 5)
    server.append(url, 2, b"llo")
    expect_header(_found(server.head(url)), "Upload-Length", 5)


def _found(answer: Answer) -> Answer:
    if not answer.is_success:
        fail("success", answer)
    return answer


@case("core.head.not-found")
def head_of_nothing(server: Server) -> None:
    """HEAD on an upload that does not exist gets 404, 410 or 403 without Upload-Offset"""
    answer = server.head(server.unknown())
    expect_status(answer, 404, 410, 403)
    if answer.get("Upload-Offset") is not None:
        fail("no Upload-Offset", answer, got=described(answer, "Upload-Offset"))


@case("core.head.status")
def head_status(server: Server) -> None:
    """HEAD gets 200 or 204"""
    url = server.create(5)
    expect_status(server.head(url), 200, 204)
    server.append(url, 0, b"hello")
    expect_status(server.head(url), 200, 204)


@case("core.head.no-store")
def head_is_not_cached(server: Server) -> None:
    """Cache-Control of HEAD has no-store, for unfinished and complete uploads"""
    url = server.create(5)
    for _ in range(2):
        answer = _found(server.head(url))
        if "no-store" not in [item.lower() for item in listed(answer.get("Cache-Control"))]:
            fail("Cache-Control: no-store", answer, got=described(answer, "Cache-Control"))
        server.append(url, 0, b"hello") if server.offset(url) == 0 else None


# PATCH


@case("core.patch.applied")
def bytes_arrive(server: Server) -> str | None:
    """A PATCH adds its bytes at the offset"""
    content = b"the first bytes, and the last"
    url = server.create(len(content))
    for start, stop in ((0, 15), (15, len(content))):
        answer = server.patch(url, start, content[start:stop])
        if not answer.is_success:
            fail(f"success of a PATCH at offset {start}", answer)
        if (offset := server.offset(url)) < stop:
            fail(f"offset {stop}", answer, got=f"offset {offset}")
    if (stored := server.stored(url)) is None:
        return "the server does not give the bytes back, so only the offset was looked at"
    if stored != content:
        fail(f"{content!r}", got=f"{stored!r}")
    return None


@case("core.patch.applied")
def every_byte_value_arrives(server: Server) -> str | None:
    """Bytes arrive as they are, whatever they mean elsewhere"""
    content = bytes(range(256)) * 300 + b"\r\n0\r\n\r\n--boundary--\r\n"
    url = server.finished(content)
    if (stored := server.stored(url)) is None:
        return "the server does not give the bytes back"
    if stored != content:
        fail(f"{len(content)} bytes as sent", got=f"{len(stored)} others")
    return None


@case("core.patch.content-type")
def other_content_types(server: Server) -> None:
    """A PATCH of another Content-Type, or of none, gets 415 and adds nothing"""
    for value in ("text/plain", "application/octet-stream", None):
        url = server.create(5)
        answer = server.patch(url, 0, b"hello", {"Content-Type": value})
        expect_status(answer, 415)
        if offset := server.offset(url):
            fail("offset 0", answer, got=f"offset {offset} in spite of 415")


@case("core.patch.conflict")
def offset_too_high(server: Server) -> None:
    """A PATCH behind the offset gets 409 and changes nothing"""
    _conflict(server, 4)


@case("core.patch.conflict")
def offset_too_low(server: Server) -> None:
    """A PATCH before the offset gets 409 and changes nothing"""
    _conflict(server, 0)


def _conflict(server: Server, wrong: int) -> None:
    url = server.create(8)
    server.append(url, 0, b"he")
    before = server.offset(url)
    answer = server.patch(url, wrong, b"XXXX")
    expect_status(answer, 409)
    if (offset := server.offset(url)) != before:
        fail(f"offset {before}, as before", answer, got=f"offset {offset}")
    server.append(url, before, b"hello wo"[before:])
    if (stored := server.content(url)) not in (None, b"hello wo"):
        fail("the bytes as before", answer, got=f"{stored!r}")


@case("core.patch.many")
def many_patches(server: Server) -> None:
    """An upload can come in many PATCH requests"""
    content = bytes(range(20))
    url = server.create(len(content))
    for offset in range(len(content)):
        answer = server.patch(url, offset, content[offset : offset + 1])
        if not answer.is_success:
            fail(f"success of PATCH number {offset + 1}", answer)


@case("core.patch.status")
def patch_status(server: Server) -> None:
    """A PATCH that succeeds gets 204, in the middle and at the end"""
    url = server.create(5)
    for offset, body in ((0, b"he"), (2, b"llo")):
        answer = server.append(url, offset, body)
        expect_status(answer, 204)


@case("core.patch.offset")
def patch_tells_the_offset(server: Server) -> None:
    """The answer to a PATCH has Upload-Offset, in the middle and at the end"""
    url = server.create(5)
    for offset, body in ((0, b"he"), (2, b"llo")):
        expect_header(server.append(url, offset, body), "Upload-Offset")


@case("core.patch.sum")
def patch_adds_up(server: Server) -> None:
    """The offset told by a PATCH is the old one and its bytes, and HEAD tells the same"""
    url = server.create(100_000)
    expected = 0
    for size in (1, 0, 65_536, 34_463):
        answer = server.append(url, expected, bytes(size))
        expected += size
        value = answer.get("Upload-Offset")
        # Whether it is there at all, and a number, is another rule.
        if (told := number(value)) is not None and told != expected:
            fail(f"Upload-Offset: {expected}", answer, got=described(answer, "Upload-Offset"))
        if (offset := server.offset(url)) != expected:
            fail(f"HEAD: {expected}, as the PATCH before", answer, got=f"HEAD: {offset}")


@case("core.patch.not-found")
def patch_of_nothing(server: Server) -> None:
    """A PATCH on an upload that does not exist gets 404"""
    expect_status(server.patch(server.unknown(), 0, b"hello"), 404)
