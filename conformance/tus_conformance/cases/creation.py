"""Creation, and metadata."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from tus_conformance.cases.core import expect_no_length
from tus_conformance.rules import case
from tus_conformance.server import (
    Server,
    Skipped,
    described,
    encoded,
    expect_header,
    expect_status,
    fail,
    listed,
)


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
