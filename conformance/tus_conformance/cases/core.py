"""Core Protocol: OPTIONS, versions, methods and numbers."""

from __future__ import annotations

import re

from tus_conformance.rules import case
from tus_conformance.server import (
    Blocked,
    Server,
    Skipped,
    described,
    expect_header,
    expect_refused,
    expect_status,
    fail,
    listed,
    number,
)
from tus_conformance.wire import Answer, Headers, NoAnswer

WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Older or newer than every version there is.
UNSUPPORTED = "0.0.1"
BAD_NUMBERS = ["-1", "abc", "1.5", "0x1", ""]
# The largest number that every JavaScript client can tell.
HUGE = 2**53 - 1


# OPTIONS


@case("core.options.version")
def options(server: Server) -> None:
    """OPTIONS is answered with 204 or 200 and Tus-Version"""
    expect_status(server.capabilities, 200, 204)
    expect_header(server.capabilities, "Tus-Version")


@case("core.options.optional")
def optional_headers(server: Server) -> str:
    """What OPTIONS tells beside the version"""
    names = ("Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm")
    told = [f"{name}: {server.capabilities.get(name)}" for name in names if server.capabilities.get(name) is not None]
    return "; ".join(told) or "neither header is there"


@case("core.options.ignores-version")
def options_with_version(server: Server) -> None:
    """OPTIONS with an unsupported Tus-Resumable is answered like one without"""
    answer = server.request("OPTIONS", headers={"Tus-Resumable": UNSUPPORTED})
    if answer.status != server.capabilities.status:
        fail(f"{server.capabilities.status}, as without Tus-Resumable", answer)


@case("core.features")
def features(server: Server) -> None:
    """Tus-Extension tells what the server can do beside the core protocol"""
    # Whether it may be empty is another rule.
    if server.capabilities.get("Tus-Extension") is None and server.create(0):
        fail("Tus-Extension, since uploads can be created", server.capabilities, got="no Tus-Extension")


@case("core.tus-version")
def versions(server: Server) -> None:
    """Tus-Version is a list of versions, and 1.0.0 is one of them"""
    value = server.capabilities.get("Tus-Version")
    if value is None:
        raise Skipped("there is no Tus-Version")
    items = value.split(",")
    if not all(re.fullmatch(r"\s*\d+\.\d+\.\d+\s*", item) for item in items) or "1.0.0" not in listed(value):
        fail("a comma-separated list of versions with 1.0.0", server.capabilities, got=f"Tus-Version: {value}")


@case("core.tus-extension")
def extensions(server: Server) -> None:
    """Tus-Extension is a list of names"""
    value = server.capabilities.get("Tus-Extension")
    if not value:
        raise Skipped("there is no Tus-Extension")
    if not all(WORD.fullmatch(item.strip()) for item in value.split(",")):
        fail("a comma-separated list of names", server.capabilities, got=f"Tus-Extension: {value}")


@case("core.tus-extension.omitted")
def no_empty_extension(server: Server) -> None:
    """Tus-Extension is not there rather than empty"""
    if server.capabilities.get("Tus-Extension") == "":
        fail("no Tus-Extension", server.capabilities, got="an empty Tus-Extension")


@case("core.tus-max-size")
def max_size(server: Server) -> str:
    """Tus-Max-Size is a number"""
    value = server.capabilities.get("Tus-Max-Size")
    if value is None:
        raise Skipped("there is no Tus-Max-Size")
    if number(value) is None:
        fail("a non-negative integer", server.capabilities, got=f"Tus-Max-Size: {value}")
    return f"{value} bytes"


@case("core.tus-max-size.known")
def max_size_is_told(server: Server) -> str | None:
    """A server that refuses a huge upload as too large tells its limit"""
    if server.max_size is not None:
        return None
    answer = server.post({"Upload-Length": HUGE})
    if answer.status == 413:
        fail("Tus-Max-Size", answer, got=f"no Tus-Max-Size, but 413 for Upload-Length: {HUGE}")
    return f"no limit is known: {HUGE} bytes are answered with {answer.status}"


# Versions


@case("core.tus-resumable")
def successes_tell_the_version(server: Server) -> None:
    """Tus-Resumable is in the answers to POST, HEAD, PATCH and DELETE"""
    created = server.post({"Upload-Length": 5})
    url = server.remember(created) or server.create(5)
    answers = [created, server.head(url), server.patch(url, 0, b"hello")]
    if "termination" in server.extensions:
        answers.append(server.request("DELETE", url))
    _tell_version(answers)


@case("core.tus-resumable")
def errors_tell_the_version(server: Server) -> None:
    """Tus-Resumable is in errors too: 404, 409, 415, 412"""
    url, unknown = server.create(5), server.unknown()
    _tell_version(
        [
            server.head(unknown),
            server.patch(unknown, 0, b"hello"),
            server.patch(url, 3, b"hello"),
            server.patch(url, 0, b"hello", {"Content-Type": "text/plain"}),
            server.head(url, {"Tus-Resumable": UNSUPPORTED}),
        ]
    )


def _tell_version(answers: list[Answer]) -> None:
    silent = [answer for answer in answers if answer.get("Tus-Resumable") is None]
    if silent:
        statuses = ", ".join(f"{_method(answer)}: {answer.status}" for answer in silent)
        fail("Tus-Resumable", *silent, got=f"none in {statuses}")


def _method(answer: Answer) -> str:
    return answer.sent.split(b" ", 1)[0].decode("ascii", "replace")


@case("core.tus-resumable.value")
def version_is_supported(server: Server) -> None:
    """The version in answers is one that OPTIONS lists, and the one of the request"""
    url = server.create(5)
    for answer in (server.head(url), server.patch(url, 0, b"hello")):
        value = answer.get("Tus-Resumable")
        if value is not None and value != server.version:
            fail(f"Tus-Resumable: {server.version}", answer, got=f"Tus-Resumable: {value}")


@case("core.version.unsupported")
def unsupported_version(server: Server) -> None:
    """Requests of an unsupported version get 412 with Tus-Version"""
    url = server.create(5)
    for answer in (
        server.head(url, {"Tus-Resumable": UNSUPPORTED}),
        server.patch(url, 0, b"hello", {"Tus-Resumable": UNSUPPORTED}),
        server.post({"Upload-Length": 5, "Tus-Resumable": UNSUPPORTED}),
    ):
        if answer.status != 412 or answer.get("Tus-Version") is None:
            fail("412 with Tus-Version", answer, got=described(answer, "Tus-Version"))


@case("core.version.not-processed")
def unsupported_patch(server: Server) -> None:
    """A PATCH of an unsupported version adds nothing"""
    url = server.create(5)
    answer = server.patch(url, 0, b"hello", {"Tus-Resumable": UNSUPPORTED})
    if offset := server.offset(url):
        fail("offset 0", answer, got=f"offset {offset}")


@case("core.version.not-processed")
def unsupported_delete(server: Server) -> None:
    """A DELETE of an unsupported version removes nothing"""
    if "termination" not in server.extensions:
        raise Skipped("termination is not advertised")
    url = server.create(5)
    answer = server.request("DELETE", url, {"Tus-Resumable": UNSUPPORTED})
    head = server.head(url)
    if not head.is_success:
        fail("the upload is still there", answer, head, got=f"HEAD: {head.status}")


# Methods


@case("core.method-override")
def post_means_patch(server: Server) -> None:
    """POST with X-HTTP-Method-Override: PATCH is a PATCH"""
    url = server.create(5)
    headers: Headers = {
        "X-HTTP-Method-Override": "PATCH",
        "Upload-Offset": 0,
        "Content-Type": "application/offset+octet-stream",
    }
    answer = server.request("POST", url, headers, b"hello")
    if not answer.is_success or server.offset(url) != 5:
        fail("what a PATCH does", answer)


@case("core.method-override")
def post_means_delete(server: Server) -> None:
    """POST with X-HTTP-Method-Override: DELETE is a DELETE"""
    if "termination" not in server.extensions:
        raise Skipped("termination is not advertised")
    url = server.create(5)
    answer = server.request("POST", url, {"X-HTTP-Method-Override": "DELETE"})
    plain = server.create(5)
    if not server.request("DELETE", plain).is_success or server.head(plain).is_success:
        raise Blocked("DELETE itself removes nothing")
    if not answer.is_success or server.head(url).is_success:
        fail("what a DELETE does", answer)


@case("core.method-override.actual")
def delete_means_head(server: Server) -> None:
    """DELETE with X-HTTP-Method-Override: HEAD removes nothing"""
    url = server.create(5)
    answer = _overridden_by_head(server, url, server.message("DELETE", url, {"X-HTTP-Method-Override": "HEAD"}))
    head = server.head(url)
    if not head.is_success:
        fail("the upload is still there", answer, head, got=f"HEAD: {head.status}")


@case("core.method-override.actual")
def patch_means_head(server: Server) -> None:
    """PATCH with X-HTTP-Method-Override: HEAD adds nothing"""
    url = server.create(5)
    answer = _overridden_by_head(
        server, url, server.patch_message(url, 0, b"hello", {"X-HTTP-Method-Override": "HEAD"})
    )
    if offset := server.offset(url):
        fail("offset 0", answer, got=f"offset {offset}")


def _overridden_by_head(server: Server, url: str, message: bytes) -> Answer:
    """Send this, and read the head of the answer alone: whether one to HEAD has a body here is left open."""
    with server.connect(url) as connection:
        connection.send(message)
        return connection.answer("HEAD")


# Numbers


@case("core.upload-offset")
def bad_offsets(server: Server) -> None:
    """A PATCH whose Upload-Offset is no number, or not there, adds nothing"""
    url = server.create(5)
    for value in [*BAD_NUMBERS, None]:
        answer = server.patch(url, 0, b"hello", {"Upload-Offset": value})
        sent = "no Upload-Offset" if value is None else f"Upload-Offset: {value}"
        expect_refused(answer, f"a refusal of {sent}")
        if offset := server.offset(url):
            fail(f"offset 0 after {sent}", answer, got=f"offset {offset}")


@case("core.upload-offset")
def offsets_are_numbers(server: Server) -> None:
    """Upload-Offset in answers is a number"""
    url = server.create(5)
    for answer in (server.head(url), server.patch(url, 0, b"hel"), server.head(url)):
        value = answer.get("Upload-Offset")
        if value is not None and number(value) is None:
            fail("a non-negative integer", answer, got=f"Upload-Offset: {value}")


@case("core.upload-length")
def bad_lengths(server: Server) -> None:
    """A creation whose Upload-Length is no number is refused, or the length counts as unknown"""
    for value in BAD_NUMBERS:
        expect_no_length(server, server.post({"Upload-Length": value}), f"Upload-Length: {value}")


def expect_no_length(server: Server, created: Answer, sent: str) -> None:
    """Raise `Failed` if a creation without a valid length made an upload that is not of unknown length."""
    if not created.is_success:
        return
    expected = f"a refusal of {sent}, or an upload of unknown length"
    url = server.remember(created)
    try:
        head = server.head(url or server.url)
    except NoAnswer as error:
        fail(expected, created, got=f"{created.status}, and then HEAD is not answered: {error}")
    if head.get("Upload-Defer-Length") != "1":
        got = described(head, "Upload-Length", "Upload-Defer-Length")
        fail(expected, created, head, got=f"{created.status}, and then HEAD: {got}")


@case("core.upload-length")
def empty_upload(server: Server) -> None:
    """An upload of 0 bytes can be created, and is complete"""
    if "creation" not in server.extensions:
        raise Skipped("creation is not advertised")
    answer = server.post({"Upload-Length": 0})
    if not answer.is_success:
        fail("201", answer)
    if offset := server.offset(server.located(answer)):
        fail("offset 0", answer, got=f"offset {offset}")
