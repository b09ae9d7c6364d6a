"""Creation-defer-length: the size is told when it is known."""

import pytest

from tusd_py.testing.raw import CHUNKED, Answer, Headers, RawClient, chunked

DEFER: Headers = {"Upload-Defer-Length": 1}


def lengths(answer: Answer) -> tuple[str | None, str | None]:
    """What an answer to HEAD says of the length, and whether it is deferred."""
    return answer.headers.get("Upload-Length"), answer.headers.get("Upload-Defer-Length")


async def test_length_comes_last(tus: RawClient) -> None:
    """A stream is sent without a length, and the last PATCH tells it: with the last bytes, or with none."""
    for last in (b"", b"f"):
        url = await tus.create(headers=DEFER)
        assert lengths(await tus.head(url)) == (None, "1")
        assert (await tus.patch(url, 0, b"abc")).offset == 3
        assert (await tus.patch(url, 3, chunked(b"de"), CHUNKED)).offset == 5
        assert lengths(await tus.head(url)) == (None, "1")
        assert (await tus.get(url)).status == 404
        assert (await tus.patch(url, 5, last, {"Upload-Length": 5 + len(last)})).status == 204
        assert lengths(await tus.head(url)) == (str(5 + len(last)), None)
        assert (await tus.get(url)).body == b"abcde" + last


async def test_length_comes_early(tus: RawClient) -> None:
    """Once the length is told the upload is like any other."""
    url = await tus.create(headers=DEFER)
    assert (await tus.patch(url, 0, headers={"Upload-Length": 3})).status == 204
    assert lengths(await tus.head(url)) == ("3", None)
    assert (await tus.patch(url, 0, b"abcd")).status == 413
    assert (await tus.patch(url, 0, b"abc")).status == 204
    assert (await tus.get(url)).body == b"abc"


async def test_empty(tus: RawClient) -> None:
    """A deferred upload may turn out to have no bytes."""
    url = await tus.create(headers=DEFER)
    assert (await tus.patch(url, 0, headers={"Upload-Length": 0})).status == 204
    assert (await tus.get(url)).status == 200


async def test_with_upload(tus: RawClient) -> None:
    """A creation with bytes may leave the length open."""
    answer = await tus.post(DEFER, b"abc")
    assert (answer.status, answer.offset) == (201, 3)
    url = answer.headers["Location"]
    assert lengths(await tus.head(url)) == (None, "1")
    assert (await tus.patch(url, 3, headers={"Upload-Length": 3})).status == 204
    assert (await tus.get(url)).body == b"abc"


@pytest.mark.parametrize("second", [4, 6, 0, 10**18 - 1])
@pytest.mark.parametrize("first", ["POST", "PATCH"])
async def test_length_cannot_change(tus: RawClient, first: str, second: int) -> None:
    """A length that was told stays; the same may be told again."""
    url = await tus.create(5 if first == "POST" else None, {} if first == "POST" else DEFER)
    assert (await tus.patch(url, 0, b"a", {"Upload-Length": 5})).status == 204
    answer = await tus.patch(url, 1, b"b", {"Upload-Length": second})
    assert (answer.status, answer.code) == (400, "ERR_INVALID_UPLOAD_LENGTH")
    head = await tus.head(url)
    assert (head.offset, lengths(head)) == (1, ("5", None))
    assert (await tus.patch(url, 1, b"bcde", {"Upload-Length": 5})).status == 204
    assert (await tus.patch(url, 5, headers={"Upload-Length": second})).status == 400
    assert (await tus.get(url)).body == b"abcde"


async def test_length_below_offset(tus: RawClient) -> None:
    """A length that is less than what is stored is refused and not taken."""
    url = await tus.create(headers=DEFER, body=b"abc")
    for length in (0, 2):
        answer = await tus.patch(url, 3, headers={"Upload-Length": length})
        assert (answer.status, answer.code) == (400, "ERR_INVALID_UPLOAD_LENGTH")
    head = await tus.head(url)
    assert (head.offset, lengths(head)) == (3, (None, "1"))
    assert (await tus.patch(url, 3, b"d", {"Upload-Length": 4})).status == 204


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Upload-Offset": 2}, b"d", 409),
        ({"Upload-Length": "-4"}, b"d", 400),
        ({"Upload-Length": ["4", "4"]}, b"d", 400),
        ({"Content-Type": "text/plain"}, b"d", 415),
        ({"Upload-Checksum": "sha1 YQ=="}, b"d", 400),
        ({}, b"de", 413),
    ],
)
async def test_refused_request_tells_no_length(tus: RawClient, headers: Headers, body: bytes, status: int) -> None:
    """A request that is refused leaves the length open."""
    url = await tus.create(headers=DEFER, body=b"abc")
    assert (await tus.patch(url, 3, body, {"Upload-Length": 4, **headers})).status == status
    head = await tus.head(url)
    assert (head.offset, lengths(head)) == (3, (None, "1"))


async def test_length_above_maximum(limited: RawClient) -> None:
    """A length above the maximum is refused when it is told, and one at the maximum is taken."""
    url = await limited.create(headers=DEFER)
    answer = await limited.patch(url, 0, headers={"Upload-Length": 101})
    assert (answer.status, answer.code) == (413, "ERR_MAX_SIZE_EXCEEDED")
    assert lengths(await limited.head(url)) == (None, "1")
    assert (await limited.patch(url, 0, bytes(100), {"Upload-Length": 100})).status == 204
    assert (await limited.get(url)).body == bytes(100)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bytes_above_maximum(limited: RawClient, framing: str) -> None:
    """Deferring the length is no way around the maximum."""
    url = await limited.create(headers=DEFER, body=bytes(60))
    if framing == "length":
        answer = await limited.patch(url, 60, bytes(41))
    else:
        answer = await limited.patch(url, 60, chunked(bytes(41)), CHUNKED)
    assert answer.status == 413
    assert await limited.offset(url) == 60
    assert (await limited.patch(url, 60, bytes(40))).offset == 100
    assert (await limited.patch(url, 100, b"a")).status == 413
    assert (await limited.patch(url, 100, headers={"Upload-Length": 100})).status == 204
    assert (await limited.get(url)).body == bytes(100)
