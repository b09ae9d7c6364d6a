"""Expiration: unfinished uploads that are removed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tus_conformance.rules import case
from tus_conformance.server import Server, Skipped, described, expect_header, expect_status, fail
from tus_conformance.wire import Answer

_POLL_SECONDS = 0.2


def _expires(answer: Answer) -> datetime | None:
    """Return the time in Upload-Expires, or None if there is none that can be read."""
    try:
        return parsedate_to_datetime(answer.get("Upload-Expires") or "")
    except ValueError:
        return None


@case("expiration.advertised")
def expiration_is_advertised(server: Server) -> None:
    """A server whose uploads expire says so"""
    if "expiration" in server.extensions:
        return
    answer = server.post({"Upload-Length": 5})
    url = server.remember(answer)
    answers = [answer, server.patch(url, 0, b"he")] if url else [answer]
    for answer in answers:
        if answer.get("Upload-Expires") is not None:
            fail("expiration in Tus-Extension", answer, got=described(answer, "Upload-Expires"))
    raise Skipped("not advertised, and nothing says that uploads expire")


@case("expiration.post")
def post_tells_when(server: Server) -> str:
    """The answer to a creation has Upload-Expires"""
    answer = server.post({"Upload-Length": 5})
    value = answer.get("Upload-Expires")
    if value is None:
        head = server.head(server.located(answer))
        if (known := head.get("Upload-Expires")) is not None:
            fail("Upload-Expires", answer, head, got=f"none, but HEAD knows that it is {known}")
        raise Skipped("there is no Upload-Expires, so it seems not to be known at the creation")
    return f"Upload-Expires: {value}"


@case("expiration.patch")
def patch_tells_when(server: Server) -> None:
    """The answer to each PATCH of an upload that is going to expire has Upload-Expires"""
    created = server.post({"Upload-Length": 5})
    url = server.remember(created)
    if url is None:
        raise Skipped("no upload could be created")
    patches = [server.append(url, 0, b"h"), server.append(url, 1, b"e")]
    told = [answer for answer in [created, *patches, server.head(url)] if answer.get("Upload-Expires") is not None]
    if not told:
        raise Skipped("nothing says that this upload is going to expire")
    for answer in patches:
        expect_header(answer, "Upload-Expires")


@case("expiration.format")
def http_date(server: Server) -> None:
    """Upload-Expires is a date as HTTP has them, such as Wed, 25 Jun 2014 16:00:00 GMT"""
    created = server.post({"Upload-Length": 5})
    url = server.remember(created)
    answers = [created, server.append(url, 0, b"he")] if url else [created]
    told = [answer for answer in answers if answer.get("Upload-Expires") is not None]
    if not told:
        raise Skipped("nothing says that this upload is going to expire")
    for answer in told:
        value, date = answer.get("Upload-Expires"), _expires(answer)
        # The one form that senders may use: IMF-fixdate.
        if date is None or value != date.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"):
            fail("a date of RFC 7231", answer, got=f"Upload-Expires: {value}")


@case("expiration.changes")
def whether_it_slides(server: Server) -> str:
    """Whether a PATCH puts the expiration off"""
    created = server.post({"Upload-Length": 5})
    url, first = server.remember(created), _expires(created)
    if url is None or first is None:
        raise Skipped("the creation does not say when the upload expires")
    deadline = time.monotonic() + min(server.options.patience, 1.5)
    offset = 0
    while time.monotonic() < deadline and offset < 5:
        time.sleep(_POLL_SECONDS * 2)
        then = _expires(server.append(url, offset, b"x"))
        offset += 1
        if then is not None and then > first:
            return "each PATCH puts it off"
    return "it stays as it was at the creation, or changes less than once in a second"


@case("expiration.gone")
def expired_is_gone(server: Server) -> str:
    """An upload that has expired gets 404 or 410"""
    created = server.post({"Upload-Length": 5})
    url, expires = server.remember(created), _expires(created)
    if url is None or expires is None:
        raise Skipped("the creation does not say when the upload expires")
    seconds = (expires - datetime.now(UTC)).total_seconds()
    if seconds > server.options.patience:
        raise Skipped(f"it expires only in {seconds:.0f} s; --patience {seconds:.0f} waits for it")
    deadline = time.monotonic() + seconds + server.options.patience
    while (answer := server.head(url)).is_success and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if answer.is_success:
        return "it is still there, which a server may do"
    expect_status(answer, 404, 410)
    expect_status(server.patch(url, 0, b"hello"), 404, 410)
    return f"{answer.status}"
