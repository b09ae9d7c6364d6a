"""Creation and creation-with-upload."""

import json

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import CHUNKED, OFFSET_STREAM, Headers, RawClient, chunked

METADATA = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential"


async def newest(tus: RawClient) -> dict[str, object]:
    """What the status API says of the upload that was created last."""
    answer = await tus.request("GET", "/api/uploads?limit=1")
    (upload,) = json.loads(answer.body)["uploads"]
    assert isinstance(upload, dict)
    return upload


async def test_creation(tus: RawClient) -> None:
    """POST makes an empty upload at an absolute URL below the collection's, each time another one."""
    answers = [await tus.post({"Upload-Length": 5}) for _ in range(2)]
    for answer in answers:
        assert (answer.status, answer.body) == (201, b"")
        assert answer.headers["Location"].startswith(tus.url)
        assert "Upload-Offset" not in answer.headers
        assert await tus.offset(answer.headers["Location"]) == 0
    assert answers[0].headers["Location"] != answers[1].headers["Location"]


@pytest.mark.parametrize("target", ["/files/", "/files", "/files/?folder=1"])
async def test_collection(tus: RawClient, target: str) -> None:
    """The slash at the end of the collection's path may be left out; a query means nothing."""
    answer = await tus.request("POST", target, {"Upload-Length": 5})
    assert await tus.offset(answer.headers["Location"]) == 0


async def test_host_of_location(tus: RawClient) -> None:
    """Location has the host that the client asked, and nothing of forwarding headers that nobody vouches for."""
    forwarded = {"Forwarded": "host=evil;proto=https", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https"}
    answer = await tus.post({"Upload-Length": 5, "Host": "uploads.example:8080", **forwarded})
    assert answer.headers["Location"].startswith("http://uploads.example:8080/files/")


@pytest.mark.parametrize("host", ["a/b", 'a"<b>', "a b", "a,b", "", "user@a", "a:b"])
async def test_odd_hosts(tus: RawClient, host: str) -> None:
    """What is no host does not get into Location."""
    answer = await tus.post({"Upload-Length": 5, "Host": host})
    assert answer.status == 400 or answer.headers["Location"].startswith("http://localhost/files/")


async def test_empty_upload(tus: RawClient) -> None:
    """An upload of no bytes is complete at once."""
    answer = await tus.post({"Upload-Length": 0})
    assert (answer.status, answer.offset) == (201, 0)
    url = answer.headers["Location"]
    assert (await tus.head(url)).headers["Upload-Length"] == "0"
    content = await tus.get(url)
    assert (content.status, content.body, content.headers["Content-Length"]) == (200, b"", "0")
    assert (await tus.patch(url, 0)).status == 204
    assert (await tus.patch(url, 0, b"a")).status == 413


@pytest.mark.parametrize(("length", "status"), [(100, 201), (101, 413), (10**18 - 1, 413)])
async def test_max_size(limited: RawClient, length: int, status: int) -> None:
    """A larger upload than the server takes is refused when it is announced."""
    answer = await limited.post({"Upload-Length": length})
    assert (answer.status, answer.code) == (status, "ERR_MAX_SIZE_EXCEEDED" if status == 413 else "")
    assert ("Location" in answer.headers) == (status == 201)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": 5, "Upload-Defer-Length": 1},
        {"Upload-Length": 0, "Upload-Defer-Length": 1},
        {"Upload-Length": 5, "Upload-Defer-Length": 0},
        {"Upload-Defer-Length": 0},
    ],
)
async def test_either_length(tus: RawClient, headers: Headers) -> None:
    """The length is told or deferred: both and neither are refused."""
    answer = await tus.post(headers)
    assert (answer.status, answer.code) == (400, "ERR_INVALID_UPLOAD_LENGTH")
    assert "Location" not in answer.headers


# Metadata


@pytest.mark.parametrize(
    "value",
    [
        METADATA,
        "is_confidential,filename d29ybGQ=",
        "a ,b",
        "a YQ==,  b \tYg==",
        "not-utf8 /w==",
        "emoji 8J+YgA==",
        "A YQ==,a YQ==",
        "~!#$%&'()*+-./:;<=>?@[\\]^_`{|} YQ==",
        ",".join(f"key{number} {'YWFh' * 20}" for number in range(100)),
    ],
)
async def test_metadata(tus: RawClient, value: str) -> None:
    """Metadata comes back exactly as it was sent, before and after the upload is complete."""
    url = await tus.create(1, {"Upload-Metadata": value})
    assert (await tus.head(url)).headers["Upload-Metadata"] == value
    assert (await tus.patch(url, 0, b"a")).status == 204
    assert (await tus.head(url)).headers["Upload-Metadata"] == value


@pytest.mark.parametrize("headers", [{}, {"Upload-Metadata": ""}, {"Upload-Metadata": "  "}])
async def test_no_metadata(tus: RawClient, headers: Headers) -> None:
    """Without metadata there is no header."""
    assert "Upload-Metadata" not in (await tus.head(await tus.create(1, headers))).headers


async def test_metadata_is_fixed(tus: RawClient) -> None:
    """A PATCH cannot change it."""
    url = await tus.create(2, {"Upload-Metadata": METADATA})
    assert (await tus.patch(url, 0, b"a", {"Upload-Metadata": "a YQ=="})).status == 204
    assert (await tus.head(url)).headers["Upload-Metadata"] == METADATA


async def test_largest_metadata(tus: RawClient) -> None:
    """A header of the largest size is taken and given back; one byte more is refused."""
    value = "name " + "YWFh" * 4090 + ",abc"
    assert len(value) <= 16 * 1024
    value += "d" * (16 * 1024 - len(value))
    assert (await tus.head(await tus.create(1, {"Upload-Metadata": value}))).headers["Upload-Metadata"] == value
    answer = await tus.post({"Upload-Length": 1, "Upload-Metadata": value + "e"})
    assert (answer.status, answer.code) == (400, "ERR_INVALID_METADATA")


# Creation with upload


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("body", [b"a", b"abcd", b"abcde"])
async def test_with_upload(tus: RawClient, body: bytes, framing: str) -> None:
    """POST may bring the first bytes, and all of them; the answer tells how many arrived."""
    headers: Headers = {"Upload-Length": 5}
    if framing == "chunked":
        headers = {**headers, **CHUNKED}
    sent = body if framing == "length" else chunked(body)
    answer = await tus.post(headers, sent)
    assert (answer.status, answer.offset) == (201, len(body))
    url = answer.headers["Location"]
    assert (await tus.patch(url, len(body), b"abcde"[len(body) :])).status == 204
    assert (await tus.get(url)).body == b"abcde"


async def test_with_no_bytes(tus: RawClient) -> None:
    """An empty body is no body, whatever its type."""
    for content_type in (OFFSET_STREAM, "text/plain", None):
        answer = await tus.post({"Upload-Length": 5, "Content-Length": 0, "Content-Type": content_type})
        assert answer.status == 201


@pytest.mark.parametrize("content_type", [None, "", "application/octet-stream", "multipart/form-data; boundary=x"])
async def test_with_upload_of_another_type(tus: RawClient, content_type: str | None) -> None:
    """A body that is not declared as bytes of the upload is refused, and nothing is made."""
    marker = await tus.create(1)
    answer = await tus.post({"Upload-Length": 5, "Content-Type": content_type}, b"abcde")
    assert (answer.status, answer.code) == (415, "ERR_INVALID_CONTENT_TYPE")
    assert marker.endswith(str((await newest(tus))["id"]))


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_with_too_many_bytes(tus: RawClient, framing: str) -> None:
    """More bytes than the upload has are refused, and none of them is kept; if they are announced, nothing is made."""
    marker = await tus.create(1)
    if framing == "length":
        answer = await tus.post({"Upload-Length": 4}, b"abcde")
    else:
        headers: Headers = {"Upload-Length": 4, **CHUNKED}
        answer = await tus.post(headers, chunked(b"abcde"))
    assert (answer.status, answer.code) == (413, "ERR_UPLOAD_SIZE_EXCEEDED")
    assert "Location" not in answer.headers
    upload = await newest(tus)
    assert upload["offset"] == 0
    assert marker.endswith(str(upload["id"])) == (framing == "length")


async def test_with_upload_that_is_cut(tus: RawClient) -> None:
    """What arrived of a creation with bytes is kept: another client of the status API can find it."""
    headers: Headers = {"Upload-Length": 5, "Content-Length": 5, "Content-Type": OFFSET_STREAM}
    async with tus.connect() as connection:
        await connection.send(tus.message("POST", headers={**headers, "Upload-Metadata": METADATA}) + b"abc")
        connection.end()
        await connection.rest()

    async def found() -> str:
        upload = await newest(tus)
        return tus.url + str(upload["id"]) if (upload["length"], upload["offset"]) == (5, 3) else ""

    url = await wait_until(found)
    assert (await tus.patch(url, 3, b"de")).status == 204
    assert (await tus.get(url)).body == b"abcde"
