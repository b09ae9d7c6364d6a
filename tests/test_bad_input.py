"""Requests as no client library sends them: each gets a clear refusal, and none loses anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd_py.testing.raw import OFFSET_STREAM, Headers, RawClient

NOT_NUMBERS = ["-1", "-0", "+5", "5.0", "1e1", "0x5", "5_0", "", "5 5", "5,5", "\u0665", "\uff15", "five", "\udcff"]
TOO_LARGE = ["1" + "0" * 18, "9" * 19, "9" * 1000]
TWICE: list[list[str]] = [["5", "5"], ["5", "6"], ["", "5"]]


# Numbers


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *TOO_LARGE, *TWICE])
async def test_length(tus: RawClient, value: str | list[str]) -> None:
    """What is no length makes no upload, and is no length later either."""
    assert (await tus.post({"Upload-Length": value})).refused("ERR_INVALID_UPLOAD_LENGTH")
    url = await tus.create(headers={"Upload-Defer-Length": 1}, body=b"abc")
    answer = await tus.patch(url, 3, b"de", {"Upload-Length": value})
    assert answer.refused("ERR_INVALID_UPLOAD_LENGTH")
    head = await tus.head(url)
    assert (head.offset, head.headers["Upload-Defer-Length"]) == (3, "1")


@pytest.mark.parametrize("value", ["0", "2", "-1", "true", "", "1 1", "\u0661", ["1", "1"], ["1", "0"]])
async def test_defer_length(tus: RawClient, value: str | list[str]) -> None:
    """What is not 1 defers nothing, with and without a length beside it."""
    for length in (None, 5):
        answer = await tus.post({"Upload-Defer-Length": value, "Upload-Length": length})
        assert answer.refused("ERR_INVALID_UPLOAD_LENGTH")


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *TOO_LARGE, *TWICE, ["3", "3"], None])
async def test_offset(tus: RawClient, value: str | list[str] | None) -> None:
    """What is no offset appends nothing."""
    url = await tus.create(5, body=b"abc")
    assert (await tus.patch(url, 3, b"de", {"Upload-Offset": value})).refused("ERR_INVALID_OFFSET")
    assert await tus.offset(url) == 3


@pytest.mark.parametrize("value", [" 3", "3\t", "03", "0000000000003"])
async def test_harmless_offsets(tus: RawClient, value: str) -> None:
    """White space around a value is not part of it, and leading zeros change no number."""
    url = await tus.create(5, body=b"abc")
    assert (await tus.patch(url, 3, b"de", {"Upload-Offset": value})).offset == 5


# Metadata


@pytest.mark.parametrize(
    "value",
    [
        "a YQ==,a Yg==",
        "a YQ==,",
        ",",
        "a YQ==,,b YQ==",
        "a !!",
        "a YQ",
        "a b c",
        "a\tYQ==",
        "\u00e4 YQ==",
        "a \u00e4",
        "\udcff YQ==",
        "a YQ==;b YQ==",
        "a " + "YWFh" * 5000,
        ",".join(f"k{number}" for number in range(5000)),
        ["a YQ==", "b YQ=="],
    ],
)
async def test_metadata(tus: RawClient, value: str | list[str]) -> None:
    """Malformed, doubled, non-ASCII and oversized metadata makes no upload."""
    assert (await tus.post({"Upload-Length": 5, "Upload-Metadata": value})).refused("ERR_INVALID_METADATA")


# Names of uploads


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "../../etc/passwd",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..%5cx",
        "%252e%252e",
        "a/b",
        "a%2fb",
        "/a",
        "%2fetc%2fpasswd",
        "a%00",
        "%00",
        "a%0d%0aX-Smuggled:%201",
        ".",
        ".tusd-py",
        ".locks",
        "uploads.db",
        "ID.info",
        "ID%2einfo",
        "ID.unverified",
        "ID/",
        "ID%20",
        "ID\u00e4",
        "ID%ff",
        "%",
        "%zz",
        "%u002e",
        "x" * 129,
        "x" * 60_000,
        "~root",
        "con:",
        "*",
        "'; DROP TABLE uploads; --".replace(" ", "%20"),
    ],
)
async def test_names(tus: RawClient, name: str) -> None:
    """What is no upload's name is not found, or no request at all; no file is."""
    url = await tus.create(3, body=b"abc")
    target = "/files/" + name.replace("ID", url.rpartition("/")[2])
    append: Headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM}
    for answer in (
        await tus.request("HEAD", target),
        await tus.request("GET", target),
        await tus.request("DELETE", target),
        await tus.request("PATCH", target, append, b"x"),
    ):
        assert answer.status in (400, 404)
        assert "X-Smuggled" not in answer.headers
    assert (await tus.get(url)).body == b"abc"


@pytest.mark.parametrize("name", ["a\0b", "a b", "a\x7f", "a\u00e4"])
async def test_names_that_are_no_target(tus: RawClient, name: str) -> None:
    """Bytes that no request line may have are refused as that."""
    assert (await tus.request("GET", "/files/" + name)).status in (400, 404)


# Methods


@pytest.mark.parametrize("method", ["PUT", "TRACE", "PROPFIND", "REPORT", "LINK", "PURGE"])
async def test_methods(tus: RawClient, method: str) -> None:
    """A method that is none of the protocol gets 405, and hears which there are."""
    url = await tus.create(5)
    for target, allowed in ((url, "DELETE, GET, HEAD, OPTIONS, PATCH"), (tus.url, "OPTIONS, POST")):
        answer = await tus.request(method, target, {"Upload-Length": 5})
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)


async def test_methods_of_the_other_resource(tus: RawClient) -> None:
    """The collection cannot be patched, an upload cannot be posted to."""
    url = await tus.create(5)
    append: Headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM}
    assert (await tus.request("PATCH", tus.url, append, b"x")).status == 405
    assert (await tus.request("HEAD", tus.url)).status == 405
    assert (await tus.request("POST", url, {"Upload-Length": 5})).status == 405


@pytest.mark.parametrize("method", ["FOO", "patch", "PATCHES", "P\u00c4TCH", "X" * 1000, "GET\t", ""])
async def test_words_that_are_no_method(tus: RawClient, method: str) -> None:
    """A word that no HTTP server knows is refused, too."""
    url = await tus.create(5)
    assert (await tus.request(method, url, {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM}, b"hello")).refused()
    assert await tus.offset(url) == 0


# Content types


@pytest.mark.parametrize(
    "value", [None, "", "application/octet-stream", "offset+octet-stream", OFFSET_STREAM + "2", "multipart/form-data"]
)
async def test_content_type(tus: RawClient, value: str | None) -> None:
    """Bytes of another type, or of none, are not written."""
    url = await tus.create(5)
    answer = await tus.patch(url, 0, b"hello", {"Content-Type": value})
    assert (answer.status, answer.code) == (415, "ERR_INVALID_CONTENT_TYPE")
    assert await tus.offset(url) == 0


async def test_two_content_types(tus: RawClient) -> None:
    """Two types are none."""
    url = await tus.create(5)
    assert (await tus.patch(url, 0, b"hello", {"Content-Type": [OFFSET_STREAM, OFFSET_STREAM]})).refused()
    assert await tus.offset(url) == 0


# Anything at all

NAMES = [
    "Upload-Length",
    "Upload-Offset",
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Checksum",
    "Content-Type",
    "Content-Encoding",
    "Tus-Resumable",
    "X-HTTP-Method-Override",
    "X-Forwarded-Host",
    "Forwarded",
    "Host",
    "Range",
    "Origin",
    "Accept",
    "Authorization",
    "X-Request-ID",
    "Connection",
    "If-None-Match",
]
WORDS = ["1.0.0", "0", "3", "5", "partial", "final;", "PATCH", "HEAD", "sha1", "YQ==", OFFSET_STREAM, "bytes=", "gzip"]
VALUES = st.lists(st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\r\n\0"), max_size=5), max_size=4)


@given(
    method=st.sampled_from(["POST", "PATCH", "HEAD", "GET", "OPTIONS"]),
    headers=st.dictionaries(st.sampled_from(NAMES), VALUES.map(" ".join) | st.lists(VALUES.map(" ".join), max_size=2)),
    body=st.binary(max_size=6),
)
async def test_anything(tus: RawClient, method: str, headers: dict[str, str | list[str]], body: bytes) -> None:
    """Whatever the headers say, the server has an answer that is not its own failure, and what was stored stays."""
    url = await tus.create(5, body=b"abc")
    own: Headers = {"Upload-Length": 5, "Upload-Offset": 3, "Content-Type": OFFSET_STREAM}
    answer = await tus.request(method, "" if method == "POST" else url, {**own, **headers}, body)
    assert answer.status < 500
    offset = await tus.offset(url)
    assert offset in (3, 3 + len(body))
    assert (await tus.patch(url, offset, b"abcde"[offset:])).status in (204, 413)
    if offset == 3:
        assert (await tus.get(url)).body == b"abcde"
