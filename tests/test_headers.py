"""The pure parsers and formatters of headers: what the grammar allows, and nothing else."""

from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from tusd_py import headers
from tusd_py.errors import (
    InvalidChecksum,
    InvalidConcat,
    InvalidContentType,
    InvalidLength,
    InvalidMetadata,
    InvalidOffset,
    InvalidRequest,
    TusError,
)
from tusd_py.models import Concat

SIZES = {"sha1": 20, "sha256": 32}
DIGEST = b64encode(sha256(b"").digest()).decode()

# What Python's int() takes and the specification does not.
NOT_INTEGERS = [
    "",
    "-1",
    "-0",
    "+5",
    "5.0",
    "1e3",
    "0x10",
    "1_000",
    "5 5",
    "5,5",
    "\u0663",
    "\uff15",
    "5\x00",
    "\udcff",
    "inf",
]


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("007", 7), ("5", 5), (" 5\t", 5), ("9" * 18, 10**18 - 1)])
def test_integers(text: str, value: int) -> None:
    """Digits are a number, with white space around them and up to 18 of them."""
    assert headers.parse_upload_length(fields(("upload-length", text))) == value
    assert headers.parse_upload_offset(fields(("Upload-Offset", text))) == value
    assert headers.parse_content_length(fields(("Content-Length", text))) == value


@pytest.mark.parametrize("text", [*NOT_INTEGERS, "9" * 19, "9" * 5000])
def test_not_integers(text: str) -> None:
    """Nothing else is, and each header has its own error."""
    with pytest.raises(InvalidLength):
        headers.parse_upload_length(fields(("Upload-Length", text)))
    with pytest.raises(InvalidOffset):
        headers.parse_upload_offset(fields(("Upload-Offset", text)))
    with pytest.raises(InvalidRequest):
        headers.parse_content_length(fields(("Content-Length", text)))


def test_long_values_are_not_repeated_in_full() -> None:
    """An error quotes no more of a value than helps."""
    with pytest.raises(InvalidLength) as caught:
        headers.parse_upload_length(fields(("Upload-Length", "x" * 60_000)))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("parse", "name", "error"),
    [
        (headers.parse_upload_length, "Upload-Length", InvalidLength),
        (headers.parse_upload_offset, "Upload-Offset", InvalidOffset),
        (headers.parse_upload_defer_length, "Upload-Defer-Length", InvalidLength),
        (headers.parse_content_length, "Content-Length", InvalidRequest),
        (headers.check_content_type, "Content-Type", InvalidContentType),
        (lambda given: headers.parse_upload_concat(given, 9), "Upload-Concat", InvalidConcat),
        (lambda given: headers.parse_upload_checksum(given, SIZES), "Upload-Checksum", InvalidChecksum),
    ],
)
def test_repeated(parse: Callable[[headers.Headers], Any], name: str, error: type[TusError]) -> None:
    """A header that is given twice is refused, even with the same value: two readers could choose differently."""
    with pytest.raises(error, match="2 times"):
        parse(fields((name, "1"), (name.lower(), "1")))


def test_missing() -> None:
    """Only the offset is required; everything else may be left out."""
    assert headers.parse_upload_length(fields()) is None
    assert headers.parse_upload_defer_length(fields()) is False
    assert headers.parse_content_length(fields()) is None
    assert headers.parse_upload_metadata(None, 0) == {}
    assert headers.parse_upload_concat(fields(), 1) is None
    assert headers.parse_upload_checksum(fields(), SIZES) is None
    with pytest.raises(InvalidOffset, match="required"):
        headers.parse_upload_offset(fields())


@pytest.mark.parametrize("text", ["0", "2", "", "true", "11", "-1", "01", "\uff11"])
def test_defer_length(text: str) -> None:
    """Upload-Defer-Length is 1 or wrong."""
    assert headers.parse_upload_defer_length(fields(("Upload-Defer-Length", "1"))) is True
    with pytest.raises(InvalidLength):
        headers.parse_upload_defer_length(fields(("Upload-Defer-Length", text)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), False),
        ((("Content-Length", "0"),), False),
        ((("Content-Length", "1"),), True),
        ((("Transfer-Encoding", "chunked"),), True),
        ((("Transfer-Encoding", "Chunked"),), True),
    ],
)
def test_has_body(given: tuple[tuple[str, str], ...], expected: bool) -> None:
    """A body is announced by its length or by being chunked."""
    assert headers.has_body(fields(*given)) is expected


@pytest.mark.parametrize("value", ["gzip", "gzip, chunked", "identity", "", "xchunked"])
def test_transfer_encodings(value: str) -> None:
    """A transfer coding that nobody decodes is refused: its bytes would be stored encoded."""
    with pytest.raises(InvalidRequest, match="Transfer-Encoding"):
        headers.has_body(fields(("Transfer-Encoding", value)))


@pytest.mark.parametrize(
    "value", [headers.CONTENT_TYPE, "APPLICATION/Offset+Octet-Stream", headers.CONTENT_TYPE + " ; a=b"]
)
def test_content_type(value: str) -> None:
    """The type of the protocol is taken in any case and with parameters."""
    headers.check_content_type(fields(("Content-Type", value)))


@pytest.mark.parametrize(
    "value", [None, "", "application/octet-stream", headers.CONTENT_TYPE + "x", "text/html, " + headers.CONTENT_TYPE]
)
def test_other_content_types(value: str | None) -> None:
    """Any other type is refused, and so is none."""
    with pytest.raises(InvalidContentType):
        headers.check_content_type(fields(*[("Content-Type", value)] if value is not None else []))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {}),
        (" \t", {}),
        ("a", {"a": ""}),
        ("a ", {"a": ""}),
        ("a YQ==", {"a": "a"}),
        (" a  YQ== , b Yg== ", {"a": "a", "b": "b"}),
        ("b Yg==,a YQ==", {"b": "b", "a": "a"}),
        ("a /w==", {"a": "\ufffd"}),
        ("a 4oKs", {"a": "€"}),
        ("a;b=c/~!* YQ==", {"a;b=c/~!*": "a"}),
        ("A YQ==,a YQ==", {"A": "a", "a": "a"}),
    ],
)
def test_metadata(value: str, expected: dict[str, str]) -> None:
    """Pairs are decoded in their order; a value may be empty and need not be UTF-8."""
    parsed = headers.parse_upload_metadata(value, 1000)
    assert parsed == expected
    assert list(parsed) == list(expected)


@pytest.mark.parametrize(
    "value",
    [
        "a YQ==,a Yg==",  # a key twice
        "a YQ==,",  # an empty pair
        ",a YQ==",
        "a YQ==,,b YQ==",
        ",",
        "ä YQ==",  # not ASCII
        "a\x7f YQ==",
        "a\tYQ==",
        "\udcff YQ==",
        "a YQ",  # not Base64
        "a YQ=",
        "a Y Q==",
        "a YQ== YQ==",
        "a ====",
        "a Y-_=",
        "a é",
        "a YQ==\x00",
    ],
)
def test_malformed_metadata(value: str) -> None:
    """What the grammar does not allow is refused rather than dropped."""
    with pytest.raises(InvalidMetadata):
        headers.parse_upload_metadata(value, 1000)


def test_metadata_size() -> None:
    """The limit counts the header's bytes."""
    assert headers.parse_upload_metadata("a YQ==", 6) == {"a": "a"}
    with pytest.raises(InvalidMetadata, match="5 bytes"):
        headers.parse_upload_metadata("a YQ==", 5)


@given(st.dictionaries(st.from_regex(r"[!-+\--~]+", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_metadata_both_ways(metadata: dict[str, str]) -> None:
    """Whatever is formatted is parsed to the same."""
    formatted = headers.format_upload_metadata(metadata)
    assert headers.parse_upload_metadata(formatted, 10**9) == metadata
    assert formatted is None or "\n" not in formatted


@given(st.text())
def test_metadata_never_breaks(value: str) -> None:
    """Any text is either parsed or refused."""
    with suppress(InvalidMetadata):
        headers.parse_upload_metadata(value, 10**9)


@pytest.mark.parametrize("key", ["", "a b", "a,b", "ä", "a\n"])
def test_unformattable_metadata(key: str) -> None:
    """A key that could not be parsed again is not sent."""
    with pytest.raises(InvalidMetadata):
        headers.format_upload_metadata({key: "x"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("partial", Concat("partial", "partial")),
        ("final;/files/a", ("a",)),
        ("final;/files/a /files/b", ("a", "b")),
        ("final; /files/b  http://h:1/p/files/a https://x/a ", ("b", "a", "a")),
        ("final;a", ("a",)),
        ("final;/files/a?token=1#x", ("a",)),
        ("final;/files/%61", ("a",)),
    ],
)
def test_concat(value: str, expected: Concat | tuple[str, ...]) -> None:
    """Members are known by the end of their URLs, whatever a proxy put before it, and the value is kept as it was."""
    concat = headers.parse_upload_concat(fields(("Upload-Concat", value)), 5)
    assert concat is not None
    if isinstance(expected, Concat):
        assert concat == expected
    else:
        assert (concat.kind, concat.members, concat.header) == ("final", expected, value.strip(" "))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "final",
        "final;",
        "final; ",
        "Partial",
        "partial;",
        "partial;/files/a",
        "FINAL;/files/a",
        ";/files/a",
        "final;/files/",
        "final;/files/..",
        "final;/files/%2e%2e",
        "final;/files/a%2fb",
        "final;/files/a%00",
        "final;/files/%ff",
        "final;/files/é",
        "final;/files/a,/files/b.c",
        "final;http://[/a",
        "final;/files/" + "a" * 129,
        "final;" + " /files/a" * 6,
    ],
)
def test_malformed_concat(value: str) -> None:
    """Nothing, unknown kinds, URLs without an id and too many members are refused."""
    with pytest.raises(InvalidConcat):
        headers.parse_upload_concat(fields(("Upload-Concat", value)), 5)


def test_checksum() -> None:
    """A checksum is an algorithm and its digest."""
    parsed = headers.parse_upload_checksum(fields(("Upload-Checksum", f"sha256 {DIGEST}")), SIZES)
    assert parsed == ("sha256", sha256(b"").digest())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha256",
        "sha256 ",
        DIGEST,
        f"SHA256 {DIGEST}",
        f"md5 {DIGEST}",
        f" {DIGEST}",
        f"sha1 {DIGEST}",
        f"sha256 {DIGEST[:-1]}",
        f"sha256 {DIGEST} {DIGEST}",
        f"sha256 {DIGEST},sha1 x",
        f"sha256\t{DIGEST}",
        f"sha256 {sha256(b'').hexdigest()}",
        "sha256 é",
        "sha256 !!!!",
    ],
)
def test_malformed_checksum(value: str) -> None:
    """Unknown algorithms, what is not Base64, and digests of another size are refused."""
    with pytest.raises(InvalidChecksum):
        headers.parse_upload_checksum(fields(("Upload-Checksum", value)), SIZES)


def test_http_date() -> None:
    """Dates are IMF-fixdates."""
    assert headers.format_http_date(datetime(1994, 11, 6, 8, 49, 37, 999, UTC)) == "Sun, 06 Nov 1994 08:49:37 GMT"
