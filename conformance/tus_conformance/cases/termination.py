"""Termination: uploads that a client removes."""

from __future__ import annotations

from tus_conformance.rules import case
from tus_conformance.server import Blocked, Server, Skipped, expect_status, fail


@case("termination.advertised")
def termination_is_advertised(server: Server) -> None:
    """A server that removes uploads says so"""
    if "termination" in server.extensions:
        return
    url = server.create(5)
    answer = server.request("DELETE", url)
    if not answer.is_success or server.head(url).is_success:
        raise Skipped("not advertised, and DELETE removes nothing")
    fail("termination in Tus-Extension", answer, got="an upload was removed without it")


@case("termination.status")
def new_upload(server: Server) -> None:
    """DELETE of an upload without bytes gets 204"""
    expect_status(server.request("DELETE", server.create(5)), 204)


@case("termination.status")
def unfinished_upload(server: Server) -> None:
    """DELETE of an unfinished upload gets 204"""
    url = server.create(5)
    server.append(url, 0, b"he")
    expect_status(server.request("DELETE", url), 204)


@case("termination.status")
def complete_upload(server: Server) -> None:
    """DELETE of a complete upload gets 204"""
    expect_status(server.request("DELETE", server.finished(b"hello")), 204)


@case("termination.gone")
def unfinished_is_gone(server: Server) -> None:
    """An unfinished upload that was removed gets 404 or 410 ever after"""
    url = server.create(5)
    server.append(url, 0, b"he")
    _gone(server, url, 2)


@case("termination.gone")
def complete_is_gone(server: Server) -> None:
    """A complete upload that was removed gets 404 or 410 ever after"""
    _gone(server, server.finished(b"hello"), 5)


def _gone(server: Server, url: str, offset: int) -> None:
    answer = server.request("DELETE", url)
    if not answer.is_success:
        raise Blocked(f"DELETE was refused ({answer.status})")
    for answer in (server.head(url), server.patch(url, offset, b""), server.request("DELETE", url)):
        expect_status(answer, 404, 410)
    if (answer := server.request("GET", url)).is_success:
        fail("404 or 410", answer)
