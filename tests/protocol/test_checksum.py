"""Checksum: bytes count once they are verified."""

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Callable

import crc32c
import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import CHUNKED, Headers, RawClient, chunked

DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: crc32c.crc32c(data).to_bytes(4, "big"),
}


def checksum(data: bytes, algorithm: str = "sha1") -> Headers:
    """The header that announces the digest of these bytes."""
    return {"Upload-Checksum": f"{algorithm} {b64encode(DIGESTS[algorithm](data)).decode()}"}


async def test_advertised(tus: RawClient) -> None:
    """OPTIONS names the algorithms; trailers, which cannot be read, are not offered."""
    headers = (await tus.request("OPTIONS")).headers
    assert headers["Tus-Checksum-Algorithm"].split(",") == list(DIGESTS)
    assert "checksum-trailer" not in headers["Tus-Extension"].split(",")


@pytest.mark.parametrize("algorithm", DIGESTS)
async def test_algorithms(tus: RawClient, algorithm: str) -> None:
    """A right digest lets the bytes in, a wrong one gets 460 and lets in nothing."""
    url = await tus.create(10)
    answer = await tus.patch(url, 0, b"hello", checksum(b"HELLO", algorithm))
    assert (answer.status, answer.code, answer.offset) == (460, "ERR_CHECKSUM_MISMATCH", None)
    assert await tus.offset(url) == 0
    assert (await tus.patch(url, 0, b"hello", checksum(b"hello", algorithm))).offset == 5
    assert (await tus.patch(url, 5, b"world", checksum(b"hello", algorithm))).status == 460
    assert await tus.offset(url) == 5
    assert (await tus.get(url)).status == 404
    assert (await tus.patch(url, 5, b"world", checksum(b"world", algorithm))).offset == 10
    assert (await tus.get(url)).body == b"helloworld"


@pytest.mark.parametrize("algorithm", ["sha256", "crc32c"])
async def test_large_body(tus: RawClient, algorithm: str) -> None:
    """A digest covers all of a body that arrives in many pieces."""
    data = bytes(range(256)) * 30_000
    url = await tus.create(len(data))
    assert (await tus.patch(url, 0, data, checksum(data[:-1] + b"x", algorithm))).status == 460
    assert await tus.offset(url) == 0
    assert (await tus.patch(url, 0, data, checksum(data, algorithm))).offset == len(data)
    assert (await tus.get(url)).body == data


async def test_chunked_body(tus: RawClient) -> None:
    """A body without a length can have a digest."""
    url = await tus.create(5)
    assert (await tus.patch(url, 0, chunked(b"h", b"ello"), {**CHUNKED, **checksum(b"hell")})).status == 460
    assert await tus.offset(url) == 0
    assert (await tus.patch(url, 0, chunked(b"h", b"ello"), {**CHUNKED, **checksum(b"hello")})).offset == 5


async def test_empty_body(tus: RawClient) -> None:
    """No bytes have a digest too."""
    url = await tus.create(5)
    assert (await tus.patch(url, 0, b"", checksum(b"x"))).status == 460
    assert (await tus.patch(url, 0, b"", checksum(b""))).offset == 0


async def test_creation_with_upload(tus: RawClient) -> None:
    """The digest is checked at a creation with bytes as well: of one that is wrong nothing is left."""
    before = (await tus.request("GET", "/api/uploads?limit=1")).body
    answer = await tus.post({"Upload-Length": 5, **checksum(b"HELLO")}, b"hello")
    assert (answer.status, answer.code) == (460, "ERR_CHECKSUM_MISMATCH")
    assert "Location" not in answer.headers
    assert (await tus.request("GET", "/api/uploads?limit=1")).body == before
    answer = await tus.post({"Upload-Length": 5, **checksum(b"hello")}, b"hello")
    assert (answer.status, answer.offset) == (201, 5)
    assert (await tus.get(answer.headers["Location"])).body == b"hello"


@pytest.mark.parametrize("length", [5, None])
async def test_cut_in_the_middle(tus: RawClient, length: int | None) -> None:
    """Of a body that was cut nothing counts, since its digest cannot be verified."""
    url = await tus.create(10, body=b"01234")
    headers = {"Content-Length": 5, **checksum(b"56789")} if length else {**CHUNKED, **checksum(b"567")}
    async with tus.connect() as connection:
        message = tus.patch_message(url, 5, headers={**headers, "Expect": "100-continue"})
        await connection.send(message)
        assert (await connection.answer()).status == 100
        await connection.send(b"567" if length else b"3\r\n567\r\n")
        assert await tus.offset(url) == 5
        connection.end()
        await connection.rest()

    async def free() -> bool:
        return (await tus.patch(url, 5, b"5")).status == 204

    await wait_until(free)
    assert await tus.offset(url) == 6


async def test_longer_than_the_upload(tus: RawClient) -> None:
    """A right digest does not help a body that is too long."""
    url = await tus.create(4)
    assert (await tus.patch(url, 0, b"hello", checksum(b"hello"))).status == 413
    assert (await tus.patch(url, 0, chunked(b"h", b"ello"), {**CHUNKED, **checksum(b"hello")})).status == 413
    assert await tus.offset(url) == 0


async def test_deferred_length(tus: RawClient) -> None:
    """The last bytes of a deferred upload are verified before it is complete."""
    url = await tus.create(headers={"Upload-Defer-Length": 1})
    answer = await tus.patch(url, 0, b"hello", {"Upload-Length": 5, **checksum(b"HELLO")})
    assert answer.status == 460
    assert await tus.offset(url) == 0
    assert (await tus.patch(url, 0, b"hello", {"Upload-Length": 5, **checksum(b"hello")})).offset == 5
    assert (await tus.get(url)).body == b"hello"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha1",
        "sha1 ",
        "rot13 YQ==",
        "SHA1 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00",
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ0!=",
        "sha1 YQ==",
        "sha256 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=, sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        "sha1 aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d",
        "qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        "sha1 \u00e4",
        ["sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="] * 2,
    ],
)
async def test_malformed(tus: RawClient, value: str | list[str]) -> None:
    """Unknown algorithms, what is not Base64, wrong sizes and repetition get 400, and nothing counts."""
    url = await tus.create(5)
    answer = await tus.patch(url, 0, b"hello", {"Upload-Checksum": value})
    assert (answer.status, answer.code) == (400, "ERR_INVALID_CHECKSUM")
    assert await tus.offset(url) == 0
    assert (await tus.post({"Upload-Length": 5, "Upload-Checksum": value}, b"hello")).status == 400


@pytest.mark.parametrize("value", ["Upload-Checksum", "X-Other, upload-checksum"])
async def test_trailer(tus: RawClient, value: str) -> None:
    """A digest that is announced for the trailer is refused: it could not be verified."""
    url = await tus.create(5)
    body = b"5\r\nhello\r\n0\r\nUpload-Checksum: sha1 YQ==\r\n\r\n"
    answer = await tus.patch(url, 0, body, {**CHUNKED, "Trailer": value})
    assert (answer.status, answer.code) == (400, "ERR_INVALID_CHECKSUM")
    assert await tus.offset(url) == 0
