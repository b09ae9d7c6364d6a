"""Checksum: chunks that are verified."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable

from tus_conformance.rules import case
from tus_conformance.server import Server, Skipped, described, encoded, expect_header, fail
from tus_conformance.wire import Answer, chunked

CONTENT = b"hello world"

# Those of hashlib whose digest has one size, and the CRC of zlib as four bytes, the highest first.
DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    **{
        name: lambda data, name=name: hashlib.new(name, data, usedforsecurity=False).digest()  # type: ignore[misc]
        for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
    },
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}


def checksum(algorithm: str, data: bytes) -> str:
    """Return the Upload-Checksum of data."""
    return f"{algorithm} {encoded(DIGESTS[algorithm](data))}"


def algorithm(server: Server) -> str:
    """Return an algorithm that works: sha1, which has to be there, or else the first that is advertised and known."""
    if not server.algorithms or "sha1" in server.algorithms:
        return "sha1"
    return next((name for name in server.algorithms if name in DIGESTS), "sha1")


def wrong(server: Server) -> str:
    """Return an Upload-Checksum that fits nothing that is sent."""
    return checksum(algorithm(server), b"something else")


@case("checksum.advertised")
def checksum_is_advertised(server: Server) -> None:
    """A server that verifies checksums says so"""
    if "checksum" in server.extensions:
        return
    answer = server.patch(server.create(11), 0, CONTENT, {"Upload-Checksum": wrong(server)})
    if answer.status != 460:
        raise Skipped("not advertised, and a wrong checksum is not noticed")
    fail("checksum in Tus-Extension", answer, got="a wrong checksum was noticed without it")


@case("checksum.options")
def algorithms_are_told(server: Server) -> str:
    """OPTIONS has Tus-Checksum-Algorithm"""
    return expect_header(server.capabilities, "Tus-Checksum-Algorithm")


@case("checksum.sha1")
def sha1_is_supported(server: Server) -> None:
    """sha1 is one of the algorithms, and works"""
    if server.algorithms and "sha1" not in server.algorithms:
        got = described(server.capabilities, "Tus-Checksum-Algorithm")
        fail("sha1 in Tus-Checksum-Algorithm", server.capabilities, got=got)
    answer = server.patch(server.create(11), 0, CONTENT, {"Upload-Checksum": checksum("sha1", CONTENT)})
    if not answer.is_success:
        fail("success with a right checksum", answer)


@case("checksum.names")
def names_are_lower_case(server: Server) -> None:
    """The names in Tus-Checksum-Algorithm are ASCII without upper case"""
    value = _told_algorithms(server)
    if not value.isascii() or value != value.lower():
        fail("names without upper case", server.capabilities, got=f"Tus-Checksum-Algorithm: {value}")


@case("checksum.algorithms")
def algorithms_are_a_list(server: Server) -> None:
    """Tus-Checksum-Algorithm is a list of names"""
    value = _told_algorithms(server)
    if any(set(item.strip()) & set(" ;") or not item.strip() for item in value.split(",")):
        fail("a comma-separated list of names", server.capabilities, got=f"Tus-Checksum-Algorithm: {value}")


def _told_algorithms(server: Server) -> str:
    value = server.capabilities.get("Tus-Checksum-Algorithm")
    if not value:
        raise Skipped("there is no Tus-Checksum-Algorithm")
    return value


@case("checksum.optional")
def without_checksum(server: Server) -> None:
    """A PATCH may come with a checksum, and the next one without"""
    url = server.create(11)
    for offset, body, value in ((0, b"hello", checksum(algorithm(server), b"hello")), (5, b" world", None)):
        answer = server.patch(url, offset, body, {"Upload-Checksum": value})
        if not answer.is_success:
            fail(f"success with Upload-Checksum: {value}", answer)


@case("checksum.verified")
def every_algorithm(server: Server) -> str | None:
    """Right checksums are accepted and wrong ones are not, with each algorithm that is advertised"""
    names = server.algorithms or ["sha1"]
    for name in names:
        if name in DIGESTS:
            _verify(server, name)
    unknown = [name for name in names if name not in DIGESTS]
    return f"not tried, for they are not known here: {', '.join(unknown)}" if unknown else None


def _verify(server: Server, name: str) -> None:
    refused = server.patch(server.create(11), 0, CONTENT, {"Upload-Checksum": checksum(name, b"something else")})
    if refused.is_success:
        fail(f"a refusal of a wrong {name}", refused)
    accepted = server.patch(server.create(11), 0, CONTENT, {"Upload-Checksum": checksum(name, CONTENT)})
    if not accepted.is_success:
        fail(f"success with a right {name}", accepted)


@case("checksum.status")
def mismatch_status(server: Server) -> None:
    """A wrong checksum gets 460"""
    answer = server.patch(server.create(11), 0, CONTENT, {"Upload-Checksum": wrong(server)})
    # That a success is wrong too is another rule.
    if not answer.is_success and answer.status != 460:
        fail("460", answer)


@case("checksum.status")
def unknown_algorithm_status(server: Server) -> None:
    """An algorithm that is not supported gets 400"""
    answer = server.patch(server.create(11), 0, CONTENT, {"Upload-Checksum": f"foo256 {encoded(b'digest')}"})
    if answer.status != 400:
        fail("400", answer)


@case("checksum.discarded")
def mismatch_is_discarded(server: Server) -> None:
    """A chunk with a wrong checksum leaves no trace, at the start and later"""
    _discarded(server, wrong(server))


@case("checksum.discarded")
def unknown_algorithm_is_discarded(server: Server) -> None:
    """A chunk with an algorithm that is not supported leaves no trace"""
    _discarded(server, f"foo256 {encoded(b'digest')}")


def _discarded(server: Server, value: str) -> None:
    url = server.create(11)
    for offset, stop in ((0, 5), (5, 11)):
        refused = server.patch(url, offset, b"XXXXXX"[: stop - offset], {"Upload-Checksum": value})
        if refused.is_success:
            raise Skipped(f"Upload-Checksum: {value} was accepted")
        if (now := server.offset(url)) != offset:
            fail(f"offset {offset}, as before", refused, got=f"offset {now}")
        server.append(url, offset, CONTENT[offset:stop])
    if (stored := server.content(url)) not in (None, CONTENT):
        fail(f"{CONTENT!r}", refused, got=f"{stored!r}")


# Trailers


def _with_trailer(server: Server, value: str) -> tuple[str, Answer]:
    url = server.create(11)
    headers = {"Transfer-Encoding": "chunked", "Content-Length": None, "Trailer": "Upload-Checksum"}
    with server.connect() as connection:
        head = server.patch_message(url, 0, b"", headers)
        connection.send(head + chunked([CONTENT[:5], CONTENT[5:]], {"Upload-Checksum": value}))
        return url, connection.answer("PATCH")


@case("checksum.trailer.advertised")
def trailer_is_advertised(server: Server) -> None:
    """A server that verifies checksums in trailers says so"""
    if "checksum-trailer" in server.extensions:
        return
    _, answer = _with_trailer(server, wrong(server))
    if answer.status != 460:
        raise Skipped("not advertised, and a wrong checksum in a trailer is not noticed")
    fail("checksum-trailer in Tus-Extension", answer, got="a wrong checksum in a trailer was noticed without it")


@case("checksum.trailer")
def trailer_is_verified(server: Server) -> None:
    """A right checksum in a trailer is accepted, and a wrong one is not and leaves no trace"""
    url, refused = _with_trailer(server, wrong(server))
    if refused.is_success or server.offset(url):
        fail("a refusal of a wrong checksum", refused)
    url, accepted = _with_trailer(server, checksum(algorithm(server), CONTENT))
    if not accepted.is_success or server.offset(url) != 11:
        fail("success with a right checksum", accepted)
