"""Creation with a deferred length."""

from __future__ import annotations

from tus_conformance.rules import case
from tus_conformance.server import (
    Blocked,
    Server,
    Skipped,
    described,
    expect_header,
    expect_status,
    fail,
)
from tus_conformance.wire import Answer

CONTENT = b"hello world"


def _deferred(server: Server) -> str:
    return server.create(None, {"Upload-Defer-Length": 1})


@case("defer-length.advertised")
def defer_length_is_advertised(server: Server) -> None:
    """A server that lets the length be told later says so"""
    if "creation-defer-length" in server.extensions:
        return
    answer = server.post({"Upload-Defer-Length": 1})
    url = server.remember(answer)
    if url is None:
        raise Skipped("not advertised, and refused")
    if server.head(url).get("Upload-Defer-Length") == "1":
        fail("creation-defer-length in Tus-Extension", answer, got="a deferred length was accepted without it")


def _deferred_and_begun(server: Server, body: bytes) -> str:
    url = _deferred(server)
    answer = server.patch(url, 0, body)
    if not answer.is_success:
        raise Skipped(f"a PATCH without Upload-Length is refused ({answer.status}), which core.patch.applied is about")
    return url


@case("defer-length.accepted")
def deferred_creation(server: Server) -> None:
    """An upload of unknown length can be created"""
    answer = server.post({"Upload-Defer-Length": 1})
    if not answer.is_success:
        fail("201", answer)


@case("core.patch.applied")
def bytes_before_the_length(server: Server) -> None:
    """A PATCH without Upload-Length adds its bytes to an upload of unknown length"""
    if "creation-defer-length" not in server.extensions:
        raise Skipped("creation-defer-length is not advertised")
    answer = server.patch(_deferred(server), 0, b"hello")
    if not answer.is_success:
        fail("success of a PATCH without Upload-Length", answer)


@case("defer-length.head")
def head_says_deferred(server: Server) -> None:
    """HEAD has Upload-Defer-Length before the first byte"""
    expect_header(server.head(_deferred(server)), "Upload-Defer-Length")


@case("defer-length.head")
def head_says_still_deferred(server: Server) -> None:
    """HEAD has Upload-Defer-Length as long as the length is unknown"""
    expect_header(server.head(_deferred_and_begun(server, b"hello")), "Upload-Defer-Length")


@case("defer-length.value")
def deferral_is_1(server: Server) -> None:
    """Upload-Defer-Length in answers is 1"""
    answer = server.head(_deferred(server))
    if answer.get("Upload-Defer-Length") not in (None, "1"):
        fail("Upload-Defer-Length: 1", answer, got=described(answer, "Upload-Defer-Length"))


def _has_length(server: Server, url: str, length: int, answer: Answer) -> None:
    """Look whether an upload has the length that a PATCH with this answer told."""
    head = server.head(url)
    value = head.get("Upload-Length")
    if answer.is_success and head.is_success and value is None and head.get("Upload-Defer-Length") is None:
        raise Blocked("HEAD tells neither Upload-Length nor Upload-Defer-Length")
    if not answer.is_success or value != str(length):
        got = f"{answer.status}, then {described(head, 'Upload-Length', 'Upload-Defer-Length')}"
        fail(f"Upload-Length: {length}", answer, head, got=got)


@case("defer-length.declared")
def declared_with_bytes(server: Server) -> None:
    """Upload-Length can come with a PATCH that brings bytes"""
    url = _deferred_and_begun(server, b"hello")
    answer = server.patch(url, 5, b" world", {"Upload-Length": 11})
    _has_length(server, url, 11, answer)


@case("defer-length.declared")
def declared_with_an_empty_patch(server: Server) -> None:
    """Upload-Length can come with a PATCH without bytes, at the end"""
    url = _deferred_and_begun(server, CONTENT)
    answer = server.patch(url, len(CONTENT), b"", {"Upload-Length": len(CONTENT)})
    _has_length(server, url, len(CONTENT), answer)


@case("defer-length.declared")
def declared_at_the_start(server: Server) -> None:
    """Upload-Length can come with the first PATCH, before the last byte"""
    url = _deferred(server)
    answer = server.patch(url, 0, b"hello", {"Upload-Length": 11})
    _has_length(server, url, 11, answer)
    last = server.patch(url, 5, b" world")
    if not last.is_success:
        fail("success of the last PATCH", last)


@case("defer-length.unchanged")
def length_stays(server: Server) -> None:
    """Another Upload-Length in a later PATCH does not change the length"""
    url = _deferred(server)
    server.append(url, 0, b"hello", {"Upload-Length": 11})
    if (declared := server.head(url).get("Upload-Length")) is None:
        raise Skipped("HEAD tells no Upload-Length")
    answer = server.patch(url, 5, b"", {"Upload-Length": 20})
    head = server.head(url)
    if head.get("Upload-Length") != declared:
        fail(f"Upload-Length: {declared}", answer, head, got=described(head, "Upload-Length"))


@case("defer-length.omitted")
def not_deferred(server: Server) -> None:
    """HEAD has no Upload-Defer-Length if the length was told at the creation"""
    answer = server.head(server.create(5))
    if answer.get("Upload-Defer-Length") is not None:
        fail("no Upload-Defer-Length", answer, got=described(answer, "Upload-Defer-Length"))


@case("defer-length.omitted")
def no_longer_deferred(server: Server) -> None:
    """HEAD has no Upload-Defer-Length once the length was told"""
    if "creation-defer-length" not in server.extensions:
        raise Skipped("creation-defer-length is not advertised")
    url = _deferred(server)
    server.append(url, 0, b"hello", {"Upload-Length": 11})
    answer = server.head(url)
    if answer.get("Upload-Length") is not None and answer.get("Upload-Defer-Length") is not None:
        fail("no Upload-Defer-Length", answer, got=described(answer, "Upload-Defer-Length", "Upload-Length"))


@case("defer-length.other-value")
def other_defer_values(server: Server) -> None:
    """Upload-Defer-Length of another value than 1 gets 400"""
    for value in ("0", "2", "true", ""):
        expect_status(server.post({"Upload-Defer-Length": value}), 400)
