"""Creation With Upload."""

from __future__ import annotations

from tus_conformance.rules import case
from tus_conformance.server import (
    OFFSET_STREAM,
    Blocked,
    Server,
    Skipped,
    described,
    expect_header,
    fail,
    number,
)
from tus_conformance.wire import Answer, Headers

CONTENT = b"hello world"


def _with_upload(server: Server, body: bytes, length: int) -> Answer:
    return server.post({"Upload-Length": length, "Content-Type": OFFSET_STREAM}, body)


@case("with-upload.advertised")
def with_upload_is_advertised(server: Server) -> None:
    """A server that takes bytes with the creation says so"""
    if "creation-with-upload" in server.extensions:
        return
    answer = _with_upload(server, b"hello", 11)
    url = server.remember(answer)
    if url is None or server.offset(url) == 0:
        raise Skipped("not advertised, and the bytes are not taken")
    fail("creation-with-upload in Tus-Extension", answer, got="the bytes of a creation were stored without it")


@case("with-upload.creation")
def with_upload_needs_creation(server: Server) -> None:
    """A server that offers it offers creation too"""
    if "creation" not in server.extensions:
        fail("creation in Tus-Extension", server.capabilities, got=described(server.capabilities, "Tus-Extension"))


@case("with-upload.part")
def with_a_part(server: Server) -> None:
    """A creation can bring a part of the bytes, and the upload goes on from there"""
    answer = _with_upload(server, b"hello", 11)
    if not answer.is_success:
        fail("201", answer)
    url = server.located(answer)
    offset = server.offset(url)
    if not server.patch(url, offset, CONTENT[offset:]).is_success or server.content(url) not in (None, CONTENT):
        fail("an upload that can be continued", answer)


@case("with-upload.part")
def with_everything(server: Server) -> None:
    """A creation can bring all the bytes"""
    answer = _with_upload(server, CONTENT, len(CONTENT))
    if not answer.is_success:
        fail("201", answer)
    url = server.located(answer)
    if server.offset(url) == len(CONTENT) and server.content(url) not in (None, CONTENT):
        fail("the bytes as they were sent", answer, got=f"{server.content(url)!r}")


@case("with-upload.as-much")
def takes_all(server: Server) -> None:
    """All bytes that come with a creation are taken"""
    for body in (b"hello", bytes(100_000)):
        answer = _with_upload(server, body, 200_000)
        if not answer.is_success:
            raise Blocked(f"a creation with a part of the bytes was refused ({answer.status})")
        if (offset := server.offset(server.located(answer))) < len(body):
            fail(f"offset {len(body)}", answer, got=f"{answer.status}, offset {offset}")


@case("with-upload.offset")
def creation_tells_the_offset(server: Server) -> None:
    """Upload-Offset of the answer is the offset of the upload"""
    for body in (b"hello", CONTENT):
        answer = _with_upload(server, body, len(CONTENT))
        if not answer.is_success:
            raise Blocked(f"a creation with bytes was refused ({answer.status})")
        value = number(expect_header(answer, "Upload-Offset"))
        url = server.remember(answer)
        if url is not None and value != server.offset(url):
            fail(f"Upload-Offset: {server.offset(url)}", answer, got=described(answer, "Upload-Offset"))


@case("with-upload.expect")
def expects_100(server: Server) -> str:
    """A client that expects 100 Continue is told whether to go on before it sends the body"""
    headers: Headers = {
        "Upload-Length": 5,
        "Content-Type": OFFSET_STREAM,
        "Content-Length": 5,
        "Expect": "100-continue",
        "Upload-Metadata": server.metadata(),
    }
    with server.connect() as connection:
        connection.send(server.message("POST", None, headers))
        status = connection.interim(server.options.timeout)
        if status is None:
            fail("100 Continue or a refusal", got=f"nothing within {server.options.timeout:g} s")
        if status != 100:
            answer = connection.answer("POST")
            server.remember(answer)
            return f"answered with {status} without the body"
        connection.send(b"hello")
        answer = connection.answer("POST")
    server.remember(answer)
    if not answer.is_success:
        fail("success after 100 Continue", answer)
    return "100 Continue"
