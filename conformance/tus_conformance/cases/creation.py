"""Creation, with metadata, with a deferred length, and with the first bytes."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from tus_conformance.cases.core import expect_no_length
from tus_conformance.rules import case
from tus_conformance.server import (
    OFFSET_STREAM,
    Blocked,
    Server,
    Skipped,
    described,
    encoded,
    expect_header,
    expect_status,
    fail,
    listed,
    number,
)
from tus_conformance.wire import Answer, Headers

CONTENT = b"hello world"


def pairs(header: str | None) -> set[tuple[str, str]]:
    """Return what Upload-Metadata means: keys and values, whatever their order and spaces around them."""
    return {(key, value) for key, _, value in (item.partition(" ") for item in listed(header))}


def _with_metadata(server: Server, header: str) -> str:
    """Create an upload with this metadata, and return its URL."""
    answer = server.post({"Upload-Length": 5, "Upload-Metadata": header})
    if answer.is_client_error:
        raise Skipped(f"such metadata is refused ({answer.status}), as a server may do")
    return server.located(answer)


# Creation


@case("creation.implemented")
def uploads_can_be_created(server: Server) -> None:
    """A POST creates an upload"""
    if "creation" not in server.extensions and not (answer := server.post({"Upload-Length": 5})).is_success:
        fail("creation in Tus-Extension, or success", server.capabilities, answer)


@case("creation.advertised")
def creation_is_advertised(server: Server) -> None:
    """A server that creates uploads says so"""
    if "creation" in server.extensions:
        return
    answer = server.post({"Upload-Length": 5})
    if answer.status != 201:
        raise Skipped("not advertised, and POST creates nothing")
    fail("creation in Tus-Extension", answer, got="an upload was created without it")


@case("creation.status")
def creation_status(server: Server) -> None:
    """A creation gets 201"""
    expect_status(server.post({"Upload-Length": 5}), 201)


@case("creation.location")
def location(server: Server) -> None:
    """Location is the URL of the upload"""
    answer = server.post({"Upload-Length": 5})
    value = expect_header(answer, "Location")
    head = server.head(urljoin(server.url, value))
    if not head.is_success:
        fail("an upload at Location", answer, head, got=f"HEAD: {head.status}")


@case("creation.location")
def locations_differ(server: Server) -> None:
    """Each creation gives another URL"""
    first, second = server.create(5), server.create(5)
    if first == second:
        fail("two URLs", got=f"{first} twice")


@case("creation.location.form")
def location_form(server: Server) -> str:
    """Whether Location is absolute"""
    value = server.post({"Upload-Length": 5}).get("Location")
    if value is None:
        raise Skipped("there is no Location")
    return "absolute" if urlsplit(value).scheme else "relative"


@case("creation.length")
def no_length(server: Server) -> None:
    """A creation with neither Upload-Length nor Upload-Defer-Length is refused, or the length counts as unknown"""
    expect_no_length(server, server.post(), "what has neither")


@case("creation.max-size")
def above_the_maximum(server: Server) -> None:
    """A length above Tus-Max-Size gets 413"""
    if server.max_size is None:
        raise Skipped("there is no Tus-Max-Size")
    expect_status(server.post({"Upload-Length": server.max_size + 1}), 413)


# Metadata


@case("creation.metadata.format")
def metadata_format(server: Server) -> None:
    """Upload-Metadata in answers is a list of keys and Base64 values"""
    # The empty one is not the last, for HTTP takes spaces off the end.
    header = server.metadata(empty="", mixed="ä ö,ü")
    answer = server.head(_with_metadata(server, header))
    value = answer.get("Upload-Metadata")
    if value is None:
        raise Skipped("HEAD has no Upload-Metadata")
    keys = []
    for item in value.split(","):
        key, _, text = item.strip(" ").partition(" ")
        keys.append(key)
        if not key or not _is_base64(text.strip(" ")):
            fail("pairs of a key and a Base64 value", answer, got=f"Upload-Metadata: {value}")
    if len(set(keys)) != len(keys):
        fail("unique keys", answer, got=f"Upload-Metadata: {value}")


def _is_base64(text: str) -> bool:
    return len(text) % 4 == 0 and text.rstrip("=").replace("+", "").replace("/", "").isalnum() if text else True


@case("creation.metadata.empty-value")
def metadata_without_value(server: Server) -> None:
    """A key without value, with a space behind it or not, is taken"""
    for header in (f"is_confidential,{server.metadata()}", f"is_confidential ,{server.metadata()}"):
        answer = server.post({"Upload-Length": 5, "Upload-Metadata": header})
        if not answer.is_success:
            fail(f"success with Upload-Metadata: {header}", answer)


@case("creation.metadata.optional")
def no_metadata(server: Server) -> None:
    """An upload without metadata can be created and asked for"""
    answer = server.post({"Upload-Length": 5, "Upload-Metadata": None})
    if not answer.is_success:
        fail("201", answer)
    url = server.located(answer)
    head = server.head(url)
    if not head.is_success:
        fail("success of HEAD", answer, head)


@case("creation.metadata.head")
def metadata_comes_back(server: Server) -> None:
    """HEAD tells the same keys and values"""
    _comes_back(server, server.metadata(zebra="first", accents="ÄÖ日本", apple="last") + ",flag")


@case("creation.metadata.head")
def binary_metadata_comes_back(server: Server) -> None:
    """HEAD tells values that are no text as they are"""
    _comes_back(server, f"{server.metadata()},binary {encoded(bytes(range(128, 136)))}")


def _comes_back(server: Server, header: str) -> None:
    answer = server.head(_with_metadata(server, header))
    value = expect_header(answer, "Upload-Metadata")
    if pairs(value) != pairs(header):
        fail(f"Upload-Metadata: {header}", answer, got=f"Upload-Metadata: {value}")


@case("creation.metadata.head")
def metadata_comes_back_when_complete(server: Server) -> None:
    """HEAD tells the metadata of a complete upload too"""
    header = server.metadata(colour="blue")
    url = _with_metadata(server, header)
    server.append(url, 0, b"hello")
    answer = server.head(url)
    if pairs(expect_header(answer, "Upload-Metadata")) != pairs(header):
        fail(f"Upload-Metadata: {header}", answer, got=described(answer, "Upload-Metadata"))


@case("creation.metadata.smuggling")
def metadata_smuggles_no_header(server: Server) -> None:
    """Line ends in a file name or type make no header of their own"""
    poison = 'a.txt"\r\nX-Smuggled: yes\r\n\r\n<script>'
    header = f"filename {encoded(poison)},filetype {encoded('text/plain' + chr(13) + chr(10) + 'X-Smuggled: yes')}"
    created = server.post({"Upload-Length": 5, "Upload-Metadata": header})
    url = server.remember(created)
    if url is None:
        return  # refused, which is one way to be careful
    answers = [created, server.head(url), server.append(url, 0, b"hello")]
    if server.options.downloads:
        answers.append(server.request("GET", url))
    for answer in answers:
        if answer.get("X-Smuggled") is not None:
            fail("no header made of metadata", answer, got=described(answer, "X-Smuggled"))


# Deferred length


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


# With upload


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
