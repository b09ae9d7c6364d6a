"""Interruptions: requests whose bodies break off or stall.

A cut is made at a chosen byte by FIN (the client ends), RST (it crashes) or silence (its network is gone, and nobody
tells the server). Afterwards the upload is resumed as clients do it: HEAD, PATCH from there, and again after 409, 423
and 5xx.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Literal

from tus_conformance.rules import case
from tus_conformance.server import OFFSET_STREAM, Blocked, Server, Skipped, described, fail, number
from tus_conformance.wire import Answer, Connection, Headers, NoAnswer, chunked

Kind = Literal["FIN", "RST", "silence"]
KINDS: tuple[Kind, ...] = ("FIN", "RST", "silence")

ACKNOWLEDGED = 1000
LENGTH = 40_000
PLENTY = 256 * 1024
IN_THE_HEAD = "in the head"
# Where a PATCH is cut, and how many bytes of a body of this length have been sent by then.
CUTS: dict[str, Callable[[int], int]] = {
    IN_THE_HEAD: lambda length: 0,
    "after the head": lambda length: 0,
    "after a byte": lambda length: 1,
    "in the middle": lambda length: length // 2,
    "before the last byte": lambda length: length - 1,
    "before the last chunk's end": lambda length: length,
}
# A cut comes no sooner than this: a server has to have begun to read before it can be interrupted.
READING_SECONDS = 0.05
BETWEEN_TRIES_SECONDS = 0.05


def beginning(server: Server, url: str, offset: int, body: bytes, count: int, is_chunked: bool) -> bytes:
    """Return a PATCH as bytes that breaks off after `count` bytes of its body."""
    if not is_chunked:
        return server.patch_message(url, offset, b"", {"Content-Length": len(body)}) + body[:count]
    head = server.patch_message(url, offset, b"", {"Content-Length": None, "Transfer-Encoding": "chunked"})
    # A chunk that is whole, and one that is not, or lacks the end that comes after the last.
    whole, last = body[: count // 2], body[count // 2 :]
    return head + chunked([whole]).removesuffix(b"0\r\n\r\n") + b"%x\r\n" % len(last) + body[count // 2 : count]


@contextlib.contextmanager
def cut(server: Server, url: str, data: bytes, kind: Kind, reading: float = READING_SECONDS) -> Iterator[Connection]:
    """Send this and no more; a connection that is silent stays so until the block ends."""
    with server.connect(url) as connection:
        connection.send(data)
        time.sleep(reading)
        if kind == "FIN":
            connection.end()
            connection.close()
        elif kind == "RST":
            connection.reset()
        yield connection


def _go_on(server: Server, url: str, content: bytes, seconds: float) -> list[Answer]:
    """Append the next bytes, as clients do; return the answers to HEAD that told an offset before that.

    Raises:
        Blocked: it was not possible in this time.
    """
    told: list[Answer] = []
    is_untouched = True
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = server.head(url)
            offset = number(answer.get("Upload-Offset"))
            if answer.is_success and offset is not None:
                if is_untouched:
                    told.append(answer)
                if offset >= len(content):
                    return told
                answer = server.patch(url, offset, content[offset : offset + ACKNOWLEDGED])
                if answer.is_success:
                    return told
                is_untouched = answer.status in (409, 423)  # a 5xx may have taken some bytes
        except NoAnswer as error:
            raise Blocked(f"the upload cannot go on: {error}") from None
        if (answer.status not in (409, 423) and answer.status < 500) or time.monotonic() > deadline:
            method = answer.sent.partition(b" ")[0].decode()
            raise Blocked(f"the upload cannot go on: {method} is answered with {answer.status}")
        time.sleep(BETWEEN_TRIES_SECONDS)


# The offset afterwards


def _cut_everywhere(server: Server, kind: Kind) -> str | None:
    can_read = True
    for is_chunked in (False, True):
        content = secrets.token_bytes(LENGTH)
        url = server.create(LENGTH)
        offset = 0
        for place, sent_of in CUTS.items():
            rest = content[offset:]
            sent = sent_of(len(rest))
            if not rest or (sent == len(rest) and not is_chunked):
                break
            data = beginning(server, url, offset, rest, sent, is_chunked)
            if place == IN_THE_HEAD:
                data = data[: data.index(b"\r\n\r\n") - 3]
            with cut(server, url, data, kind):
                told = _go_on(server, url, content, server.options.timeout)
            # While the bytes come in, what HEAD tells may grow; but it has to be possible each time.
            for answer in told:
                if not offset <= (number(answer.get("Upload-Offset")) or 0) <= offset + sent:
                    allowed = f"{offset}, which was acknowledged, to {offset + sent}, which was sent"
                    fail(f"{allowed}, after {kind} {place}", answer, got=described(answer, "Upload-Offset"))
            offset = server.offset(url)
        can_read = _arrives(server, url, content)
    return None if can_read else "without GET, offsets are all that was compared"


def _arrives(server: Server, url: str, content: bytes) -> bool:
    """Append all that is missing, and return whether the bytes could be compared."""
    if (offset := server.offset(url)) < len(content):
        server.append(url, offset, content[offset:])
    stored = server.content(url)
    if stored is not None and stored != content:
        fail("the bytes that were sent", got=f"{len(stored)} of {len(content)} bytes, and not the same")
    return stored is not None


@case("interruptions.honest")
def cut_by_fin(server: Server) -> str | None:
    """PATCH requests that end by FIN at six places, with Content-Length and chunked"""
    return _cut_everywhere(server, "FIN")


@case("interruptions.honest")
def cut_by_rst(server: Server) -> str | None:
    """PATCH requests that end by RST at six places, with Content-Length and chunked"""
    return _cut_everywhere(server, "RST")


@case("interruptions.honest")
def silence(server: Server) -> str | None:
    """PATCH requests that stall at six places, with Content-Length and chunked"""
    try:
        return _cut_everywhere(server, "silence")
    except Blocked as reason:
        # A server may wait longer for its client than this suite waits for the server.
        raise Skipped(f"while a client is silent, {reason}") from None


def _half_a_creation(server: Server, content: bytes) -> bytes:
    if "creation-with-upload" not in server.extensions:
        raise Skipped("creation-with-upload is not advertised")
    headers: Headers = {"Upload-Metadata": server.metadata(), "Upload-Length": LENGTH, "Content-Length": LENGTH}
    return server.message("POST", None, {**headers, "Content-Type": OFFSET_STREAM}) + content[: LENGTH // 2]


@case("interruptions.honest")
def creation_cut_by_fin(server: Server) -> str:
    """A creation whose body breaks off claims no byte too many, if it is answered at all

    Without an answer the upload, if there is one, stays until the server removes it: nobody knows its URL.
    """
    content = secrets.token_bytes(LENGTH)
    with server.connect() as connection:
        connection.send(_half_a_creation(server, content))
        connection.end()
        try:
            answer = connection.answer("POST")
        except NoAnswer:
            return "there was no answer, so nobody knows of the upload"
    url = server.remember(answer)
    if url is None:
        return f"the answer was {answer.status}"
    offset = server.offset(url)
    if not (number(answer.get("Upload-Offset")) or 0) <= offset <= LENGTH // 2:
        fail(f"what the answer claims at least, and {LENGTH // 2} at most", answer, got=f"an offset of {offset}")
    _arrives(server, url, content)
    return f"the answer was {answer.status}, and {offset} of {LENGTH // 2} bytes were stored"


def _told(server: Server, url: str) -> int | None:
    try:
        return server.offset(url)
    except Blocked:
        return None  # 423, for the moment


def _kept(server: Server, is_chunked: bool) -> str:
    content = secrets.token_bytes(PLENTY)
    url = server.create(PLENTY + 1)
    data = beginning(server, url, 0, content + b"!", PLENTY, is_chunked)
    with cut(server, url, data, "FIN", reading=5 * READING_SECONDS):
        deadline = time.monotonic() + server.options.patience
        while not (offset := _told(server, url)) and time.monotonic() < deadline:
            time.sleep(BETWEEN_TRIES_SECONDS)
    if offset is None:
        raise Blocked("HEAD does not tell an offset after a FIN")
    if not offset:
        fail(f"some of the {PLENTY} bytes that came before the FIN", got="offset 0, as before")
    return f"{offset} of {PLENTY} bytes were kept"


@case("interruptions.stored")
def kept(server: Server) -> str:
    """What came before a FIN is kept, with Content-Length"""
    return _kept(server, False)


@case("interruptions.stored")
def kept_of_chunked(server: Server) -> str:
    """What came before a FIN is kept, chunked"""
    url = server.create(5)
    data = beginning(server, url, 0, b"hello", 5, True) + b"\r\n0\r\n\r\n"
    with cut(server, url, data, "silence") as connection, contextlib.suppress(NoAnswer):
        connection.answer("PATCH")
    if not _told(server, url):
        raise Skipped("chunked bodies are not taken")
    return _kept(server, True)


# Going on


def _seconds_until_it_goes_on(server: Server, kind: Kind, url: str) -> float:
    content = secrets.token_bytes(LENGTH)
    with cut(server, url, beginning(server, url, 0, content, LENGTH // 2, False), kind):
        started = time.monotonic()
        _go_on(server, url, content, server.options.timeout)
        return time.monotonic() - started


def _goes_on(server: Server, kind: Kind) -> str:
    url = server.create(LENGTH)
    try:
        return f"after {_seconds_until_it_goes_on(server, kind, url):.2f} seconds"
    except Blocked as reason:
        fail(f"that the upload goes on within {server.options.timeout:g} seconds of the {kind}", got=str(reason))


@case("interruptions.predictable")
def goes_on_after_fin(server: Server) -> str:
    """An upload goes on after a FIN in the middle of a PATCH"""
    return _goes_on(server, "FIN")


@case("interruptions.predictable")
def goes_on_after_rst(server: Server) -> str:
    """An upload goes on after a RST in the middle of a PATCH"""
    return _goes_on(server, "RST")


@case("interruptions.predictable")
def serves_after_cut_creations(server: Server) -> None:
    """Creations whose bodies break off by FIN, RST and silence keep nobody else from uploading"""
    data = _half_a_creation(server, secrets.token_bytes(LENGTH))
    server.finished(b"hello")  # in peace, this has to succeed
    with contextlib.ExitStack() as connections:
        for kind in KINDS:
            connections.enter_context(cut(server, server.url, data, kind))
        try:
            server.finished(b"hello")
        except Blocked as reason:
            fail("that another upload succeeds", got=str(reason))


@case("interruptions.means")
def means(server: Server) -> str:
    """How soon an upload goes on while the client of a PATCH is silent"""
    try:
        seconds = _seconds_until_it_goes_on(server, "silence", server.create(LENGTH))
    except Blocked as reason:
        return f"not within {server.options.timeout:g} seconds: {reason}"
    return f"after {seconds:.2f} seconds"


@case("interruptions.timeout")
def closes_after_timeout(server: Server) -> str:
    """A connection that is silent in the middle of a PATCH is closed after a time-out"""
    url = server.create(LENGTH)
    data = beginning(server, url, 0, bytes(LENGTH), LENGTH // 2, False)
    patience = server.options.patience
    with cut(server, url, data, "silence") as connection:
        status = connection.interim(patience)
        # A server may linger after its answer, so that the answer is read.
        is_closed = connection.is_closed_within(0.1 if status is None else server.options.timeout)
        seconds = time.monotonic() - connection.started
    if not is_closed and status is None:
        raise Skipped(f"there was no time-out within {patience:g} seconds (--patience)")
    if not is_closed:
        fail("that the connection is closed", got=f"{status}, and an open connection after {seconds:.0f} seconds")
    return f"closed after {seconds:.1f} seconds" + (f", with {status}" if status else ", without an answer")
