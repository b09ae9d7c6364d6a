"""Concatenation: uploads that are put together from parts."""

from __future__ import annotations

import time
from urllib.parse import urljoin, urlsplit

from tus_conformance.rules import case
from tus_conformance.server import (
    Blocked,
    Server,
    Skipped,
    described,
    encoded,
    expect_header,
    expect_refused,
    expect_status,
    fail,
    number,
)
from tus_conformance.wire import Answer

PARTS = (b"hello", b" ", b"world")
_POLL_SECONDS = 0.05


def _partial(server: Server, content: bytes, metadata: str | None = None) -> str:
    headers = {"Upload-Concat": "partial", **({"Upload-Metadata": metadata} if metadata else {})}
    return server.finished(content, headers)


def _final(server: Server, urls: list[str], metadata: str | None = None) -> Answer:
    own = {"Upload-Metadata": metadata} if metadata else {}
    return server.post({"Upload-Concat": f"final;{' '.join(urls)}", **own})


def _assembled(server: Server, urls: list[str], metadata: str | None = None) -> tuple[str, Answer]:
    """Return the URL of a final upload, and its HEAD once it is complete."""
    answer = _final(server, urls, metadata)
    url = server.remember(answer)
    if url is None:
        raise Blocked(f"a final upload could not be created ({answer.status})")
    return url, _when_complete(server, url)


def _when_complete(server: Server, url: str) -> Answer:
    deadline = time.monotonic() + server.options.patience
    while True:
        head = server.head(url)
        if _is_complete(head) or time.monotonic() > deadline or not head.is_success:
            return head
        time.sleep(_POLL_SECONDS)


def _is_complete(head: Answer) -> bool:
    offset = head.get("Upload-Offset")
    return offset is not None and offset == head.get("Upload-Length")


@case("concatenation.advertised")
def concatenation_is_advertised(server: Server) -> None:
    """A server that puts uploads together says so"""
    if "concatenation" in server.extensions:
        return
    if not (partial := server.post({"Upload-Length": 5, "Upload-Concat": "partial"})).is_success:
        raise Skipped(f"not advertised, and a partial upload is refused ({partial.status})")
    answer = _final(server, [_partial(server, part) for part in PARTS])
    url = server.remember(answer)
    if url is None or server.head(url).get("Upload-Length") != str(len(b"".join(PARTS))):
        raise Skipped("not advertised, and refused")
    fail("concatenation in Tus-Extension", answer, got="a final upload was created without it")


@case("concatenation.sum")
def length_is_the_sum(server: Server) -> None:
    """Upload-Length of the final upload is the sum of its parts'"""
    _, head = _assembled(server, [_partial(server, part) for part in PARTS])
    value = head.get("Upload-Length")
    if value is not None and value != "11":
        fail("Upload-Length: 11", head, got=described(head, "Upload-Length"))


@case("concatenation.order")
def order_is_kept(server: Server) -> None:
    """The bytes of the final upload are those of its parts in the order of the list"""
    first, second, third = (_partial(server, part) for part in (b"cc", b"a", b"bbb"))
    url, _ = _assembled(server, [third, first, second])
    if (stored := server.content(url)) is None:
        raise Skipped("the server does not give the bytes back")
    if stored != b"bbbcca":
        fail(f"{b'bbbcca'!r}", got=f"{stored!r}")


@case("concatenation.metadata")
def metadata_of_parts_stays_there(server: Server) -> None:
    """Metadata of the parts does not show up on the final upload"""
    parts = [_partial(server, part, server.metadata(**{"part-only": "secret"})) for part in PARTS]
    _, head = _assembled(server, parts, server.metadata(own="yes"))
    if "part-only" in (head.get("Upload-Metadata") or ""):
        fail("no metadata of the parts", head, got=described(head, "Upload-Metadata"))


@case("concatenation.metadata.own")
def metadata_of_the_final(server: Server) -> None:
    """Metadata of the final upload is what came with its creation"""
    # A usual key: whether unusual ones are told is another rule.
    header = server.metadata(filename="joined.bin")
    _, head = _assembled(server, [_partial(server, part) for part in PARTS], header)
    own = f"filename {encoded('joined.bin')}"
    if own not in (head.get("Upload-Metadata") or ""):
        plain = server.head(server.finished(b"hello", {"Upload-Metadata": header}))
        if own not in (plain.get("Upload-Metadata") or ""):
            raise Blocked("HEAD tells no metadata of other uploads either")
        fail(f"Upload-Metadata: {header}", head, got=described(head, "Upload-Metadata"))


@case("concatenation.reuse")
def parts_are_used_again(server: Server) -> str:
    """What becomes of parts that were used"""
    parts = [_partial(server, part) for part in PARTS]
    url, _ = _assembled(server, parts)
    if not all(server.head(part).is_success for part in parts):
        return "the server deletes them"
    again = _final(server, parts[::-1])
    other = server.remember(again)
    if other is None:
        return f"they are kept, but a second final upload got {again.status}"
    if server.content(url) not in (None, b"".join(PARTS)):
        raise Blocked("not even the first final upload is what its parts are")
    if server.content(other) not in (None, b"".join(PARTS[::-1])):
        fail("the same bytes in both final uploads", again, got="others")
    return "they are kept, and can be used again"


@case("concatenation.patch")
def final_cannot_be_patched(server: Server) -> None:
    """PATCH on a final upload gets 403 and changes nothing"""
    parts = [_partial(server, part) for part in PARTS]
    url, before = _assembled(server, parts)
    content = server.content(url)
    answer = server.patch(url, 11, b"more")
    expect_status(answer, 403)
    after = server.head(url)
    for name in ("Upload-Offset", "Upload-Length"):
        if after.get(name) != before.get(name):
            fail(f"{name}: {before.get(name)}", answer, after, got=described(after, name))
    if (stored := server.content(url)) != content:
        fail(f"{content!r}, as before", answer, got=f"{stored!r}")
    for part, body in zip(parts, PARTS, strict=True):
        head = server.head(part)
        if head.is_success and number(head.get("Upload-Offset")) not in (None, len(body)):
            fail("parts as before", answer, head, got=described(head, "Upload-Offset"))


@case("concatenation.head.final")
def final_is_complete(server: Server) -> None:
    """Upload-Offset and Upload-Length of the final upload are there and equal"""
    answer = _final(server, [_partial(server, part) for part in PARTS])
    if not answer.is_success:
        fail("201", answer)
    url = server.located(answer)
    head = _when_complete(server, url)
    if number(head.get("Upload-Offset")) is None or head.get("Upload-Offset") != head.get("Upload-Length"):
        fail("Upload-Offset equal to Upload-Length", head, got=described(head, "Upload-Offset", "Upload-Length"))


@case("concatenation.head.partial")
def partial_has_an_offset(server: Server) -> None:
    """HEAD on a partial upload has Upload-Offset, unfinished and complete"""
    url = server.create(5, {"Upload-Concat": "partial"})
    expect_header(server.head(url), "Upload-Offset", 0)
    server.append(url, 0, b"hello")
    expect_header(server.head(url), "Upload-Offset", 5)


@case("concatenation.head.concat")
def partial_says_so(server: Server) -> None:
    """HEAD on a partial upload has Upload-Concat: partial"""
    expect_header(server.head(server.create(5, {"Upload-Concat": "partial"})), "Upload-Concat", "partial")


@case("concatenation.head.concat")
def final_says_of_what(server: Server) -> None:
    """HEAD on a final upload has Upload-Concat with the same uploads in the same order"""
    parts = [_partial(server, part) for part in PARTS]
    _, head = _assembled(server, parts)
    value = expect_header(head, "Upload-Concat")
    kind, _, rest = value.partition(";")
    if kind != "final" or [urljoin(server.url, part) for part in rest.split()] != parts:
        fail(f"Upload-Concat: final;{' '.join(parts)}", head, got=f"Upload-Concat: {value}")


@case("concatenation.urls")
def absolute_and_relative(server: Server) -> None:
    """Parts can be named by absolute URL and by path"""
    parts = [_partial(server, part) for part in PARTS]
    paths = [urlsplit(part).path for part in parts]
    for urls in (parts, paths):
        answer = _final(server, urls)
        if not answer.is_success:
            fail(f"success with {urls[0]}", answer)


# Unfinished parts


@case("concatenation.unfinished.advertised")
def unfinished_is_advertised(server: Server) -> None:
    """A server that takes unfinished parts says so"""
    if "concatenation-unfinished" in server.extensions:
        return
    part = server.create(5, {"Upload-Concat": "partial"})
    expect_refused(_final(server, [part]), "a refusal, or concatenation-unfinished in Tus-Extension")


def _waiting(server: Server) -> tuple[str, list[str]]:
    """Return a final upload and its parts, which have no bytes yet."""
    parts = [server.create(len(part), {"Upload-Concat": "partial"}) for part in PARTS]
    answer = _final(server, parts)
    url = server.remember(answer)
    if url is None:
        raise Blocked(f"a final upload of unfinished parts could not be created ({answer.status})")
    return url, parts


@case("concatenation.unfinished")
def unfinished_parts(server: Server) -> None:
    """A final upload of unfinished parts is complete once they are"""
    parts = [server.create(len(part), {"Upload-Concat": "partial"}) for part in PARTS]
    answer = _final(server, parts)
    if not answer.is_success:
        fail("201", answer)
    url = server.located(answer)
    for part, content in zip(parts, PARTS, strict=True):
        server.append(part, 0, content)
    head = _when_complete(server, url)
    # Whether these are the right bytes in the right order are other rules.
    if not _is_complete(head):
        if not _is_complete(_assembled(server, parts)[1]):
            raise Blocked("final uploads of complete parts are not told to be complete either")
        fail("Upload-Offset equal to Upload-Length", head, got=described(head, "Upload-Offset", "Upload-Length"))


@case("concatenation.head.unfinished")
def no_offset_before(server: Server) -> None:
    """HEAD on a final upload has no Upload-Offset as long as parts are unfinished"""
    url, _ = _waiting(server)
    head = server.head(url)
    if head.get("Upload-Offset") is not None:
        fail("no Upload-Offset", head, got=described(head, "Upload-Offset"))


@case("concatenation.head.length")
def length_if_known(server: Server) -> None:
    """HEAD on a final upload has Upload-Length if the lengths of all parts are known"""
    url, _ = _waiting(server)
    expect_header(server.head(url), "Upload-Length")
