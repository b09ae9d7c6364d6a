"""Core protocol: OPTIONS, versions, HEAD, PATCH, method override, and the form of every answer."""

import json
import zlib
from collections.abc import Callable

import pytest

from tusd_py.testing.raw import CHUNKED, OFFSET_STREAM, Headers, RawClient, chunked
from tusd_py.testing.server import ServerProcess

EXTENSIONS = "creation creation-with-upload creation-defer-length expiration checksum termination concatenation"
UPLOAD_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH"


# OPTIONS


@pytest.mark.parametrize("version", [None, "1.0.0", "9.9.9"])
async def test_options(tus: RawClient, version: str | None) -> None:
    """OPTIONS tells versions, extensions, algorithms and methods, whatever version the client speaks."""
    answer = await tus.request("OPTIONS", "", {"Tus-Resumable": version})
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Extension"].split(",") == EXTENSIONS.split()
    assert "sha1" in answer.headers["Tus-Checksum-Algorithm"].split(",")
    assert answer.headers["Allow"] == "OPTIONS, POST"
    assert "Tus-Max-Size" not in answer.headers


async def test_options_of_an_upload(tus: RawClient) -> None:
    """OPTIONS works on an upload too, whether it exists or not."""
    for url in (await tus.create(1), tus.url + "unknown", tus.url + "..%2f.."):
        answer = await tus.request("OPTIONS", url)
        assert (answer.status, answer.headers["Allow"]) == (200, UPLOAD_METHODS)


async def test_max_size(limited: RawClient) -> None:
    """A limit is told."""
    assert (await limited.request("OPTIONS")).headers["Tus-Max-Size"] == "100"


async def test_what_is_off_is_not_offered(server_with: Callable[..., ServerProcess]) -> None:
    """What is turned off is neither advertised nor routed, and a request that relies on it is refused."""
    options = [f"--disable={name}" for name in ("termination", "concatenation", "checksum", "download")]
    tus = RawClient(server_with(*options, "--expire-after", "0").url)
    url = await tus.create(3)
    answer = await tus.request("OPTIONS", url)
    assert answer.headers["Tus-Extension"].split(",") == EXTENSIONS.split()[:3]
    assert "Tus-Checksum-Algorithm" not in answer.headers
    assert answer.headers["Allow"] == "HEAD, OPTIONS, PATCH"
    assert (await tus.delete(url)).status == 405
    assert (await tus.get(url)).status == 405
    assert (await tus.post({"Upload-Length": 1, "Upload-Concat": "partial"})).status == 400
    checksum = {"Upload-Checksum": "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="}
    assert (await tus.patch(url, 0, b"abc", checksum)).status == 400
    assert (await tus.post({"Upload-Length": 3, **checksum}, b"abc")).status == 400
    head = await tus.head(url)
    assert head.offset == 0
    assert "Upload-Expires" not in head.headers


# Version


@pytest.mark.parametrize("version", [None, "", "0.2.2", "1.0", "1.0.0, 0.2.2", ["1.0.0", "1.0.0"]])
async def test_unsupported_version(tus: RawClient, version: str | list[str] | None) -> None:
    """Another version, none or two get 412 with ours, and nothing is done."""
    url = await tus.create(3)
    wrong: Headers = {"Tus-Resumable": version}
    answers = [
        await tus.post({"Upload-Length": 1, **wrong}),
        await tus.head(url, wrong),
        await tus.patch(url, 0, b"abc", wrong),
        await tus.delete(url, wrong),
        await tus.request("GET", url, {"X-HTTP-Method-Override": "DELETE", **wrong}),
    ]
    for answer in answers:
        assert answer.status == 412
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert "Location" not in answer.headers
    assert await tus.offset(url) == 0


async def test_get_needs_no_version(tus: RawClient) -> None:
    """Browsers download without the header."""
    url = await tus.create(3, body=b"abc")
    assert (await tus.get(url)).body == b"abc"


# HEAD


async def test_head(tus: RawClient) -> None:
    """HEAD tells offset and length, is not cached, and has no body."""
    url = await tus.create(5, body=b"abc")
    answer = await tus.head(url)
    assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (200, 3, "5")
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await tus.offset(await tus.create(0))) == 0
    done = await tus.head(await tus.create(2, body=b"ab"))
    assert (done.offset, done.headers["Upload-Length"]) == (2, "2")


async def test_head_of_nothing(tus: RawClient) -> None:
    """An unknown upload has no offset."""
    answer = await tus.head(tus.url + "unknown")
    assert (answer.status, answer.offset) == (404, None)


async def test_head_and_the_next_request_share_a_connection(tus: RawClient) -> None:
    """An answer to HEAD has no body, neither on success nor on error, so the next answer follows."""
    url = await tus.create(5, body=b"abc")
    async with tus.connect() as connection:
        await connection.send(tus.message("HEAD", url) + tus.message("HEAD", "/files/x") + tus.message("OPTIONS"))
        statuses = [(await connection.answer(method)).status for method in ("HEAD", "HEAD", "OPTIONS")]
    assert statuses == [200, 404, 200]


# PATCH


async def test_patch(tus: RawClient) -> None:
    """PATCH appends at the offset and tells the new one; what was appended is what is read."""
    url = await tus.create(8)
    for offset, chunk in ((0, b"abc"), (3, b""), (3, b"de"), (5, b"\0\r\n")):
        answer = await tus.patch(url, offset, chunk)
        assert (answer.status, answer.offset, answer.body) == (204, offset + len(chunk), b"")
        assert await tus.offset(url) == offset + len(chunk)
    assert (await tus.get(url)).body == b"abcde\0\r\n"


@pytest.mark.parametrize("offset", [0, 2, 4, 5, 6, 10**18 - 1])
async def test_wrong_offset(tus: RawClient, offset: int) -> None:
    """A PATCH elsewhere gets 409 with the right offset and changes nothing."""
    url = await tus.create(5, body=b"abc")
    answer = await tus.patch(url, offset, b"xx")
    assert (answer.status, answer.code, answer.offset) == (409, "ERR_MISMATCHED_OFFSET", 3)
    assert await tus.offset(url) == 3
    assert (await tus.patch(url, 3, b"de")).status == 204
    assert (await tus.get(url)).body == b"abcde"


async def test_patch_of_a_complete_upload(tus: RawClient) -> None:
    """An empty PATCH at the end confirms what a lost answer said; more bytes are refused."""
    url = await tus.create(3, body=b"abc")
    answer = await tus.patch(url, 3)
    assert (answer.status, answer.offset) == (204, 3)
    assert (await tus.patch(url, 3, b"d")).status == 413
    assert (await tus.patch(url, 3, chunked(b"d"), CHUNKED)).status == 413
    assert (await tus.patch(url, 0, b"abc")).status == 409
    assert (await tus.get(url)).body == b"abc"


async def test_patch_of_nothing(tus: RawClient) -> None:
    """A PATCH on an unknown upload gets 404."""
    answer = await tus.patch(tus.url + "unknown", 0, b"abc")
    assert (answer.status, answer.code) == (404, "ERR_UPLOAD_NOT_FOUND")


async def test_chunked(tus: RawClient) -> None:
    """A body without a length is taken up to its end; extensions and trailers of chunks mean nothing."""
    url = await tus.create(8)
    body = b"3;name=value\r\nabc\r\n00005\r\ndefgh\r\n0\r\nUpload-Offset: 1\r\n\r\n"
    answer = await tus.patch(url, 0, body, {"Content-Length": None, "Transfer-Encoding": "Chunked"})
    assert (answer.status, answer.offset) == (204, 8)
    assert (await tus.get(url)).body == b"abcdefgh"


async def test_compressed_body_is_kept_as_it_is(tus: RawClient) -> None:
    """Upload bytes are counted and stored as sent: Content-Encoding is not undone."""
    packed = zlib.compress(b"a" * 1000, wbits=31)
    for framing, body in (
        ({}, packed),
        (CHUNKED, chunked(packed)),
    ):
        url = await tus.create(len(packed))
        assert (await tus.patch(url, 0, body, {"Content-Encoding": "gzip", **framing})).offset == len(packed)
        answer = await tus.get(url)
        assert answer.body == packed
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    "upgrade",
    [
        {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"},
        {"Connection": "Upgrade", "Upgrade": "websocket"},
    ],
)
async def test_upgrade_is_ignored(tus: RawClient, upgrade: dict[str, str]) -> None:
    """A client that offers another protocol, as Java's does with HTTP/2, uploads by HTTP/1.1."""
    url = await tus.create(5)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 0, headers={"Content-Length": 5, **upgrade}))
        await connection.send(b"hel")
        await connection.send(b"lo")
        assert (await connection.answer()).offset == 5


async def test_requests_in_a_row(tus: RawClient) -> None:
    """Requests on one connection are answered in order, and the body of a refused one is no request."""
    url = await tus.create(300)
    smuggled = tus.message("DELETE", url)
    expected = []
    async with tus.connect() as connection:
        for offset in range(0, 300, 6):
            await connection.send(tus.patch_message(url, 700, smuggled) + tus.patch_message(url, offset, b"abcdef"))
            expected += [(409, offset), (204, offset + 6)]
        answers = [await connection.answer() for _ in expected]
    assert [(answer.status, answer.offset) for answer in answers] == expected
    assert (await tus.get(url)).body == b"abcdef" * 50


async def test_large_body_that_is_refused(tus: RawClient) -> None:
    """A client that sends all of a large body before it reads still gets the answer that refused it."""
    url = await tus.create(2**24)
    async with tus.connect() as connection:
        await connection.send(tus.patch_message(url, 1, bytes(2**24)))
        assert (await connection.answer()).status == 409
        await connection.send(tus.message("HEAD", url))
        assert (await connection.answer("HEAD")).offset == 0


# Method override


async def test_method_override(tus: RawClient) -> None:
    """X-HTTP-Method-Override is the method, whatever the request line says."""
    url = await tus.create(3)
    headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM}
    for method, override, body, status in (
        ("POST", "PATCH", b"abc", 204),
        ("GET", "HEAD", b"", 200),
        ("DELETE", "head", b"", 200),
        ("PUT", "GET", b"", 200),
        ("PATCH", "OPTIONS", b"", 200),
        ("GET", "DELETE", b"", 204),
    ):
        answer = await tus.request(method, url, {**headers, "X-HTTP-Method-Override": override}, body)
        assert answer.status == status, (method, override)
    assert (await tus.get(url)).status == 410
    answer = await tus.request("PUT", "", {"X-HTTP-Method-Override": "POST", "Upload-Length": 0})
    assert answer.status == 201


@pytest.mark.parametrize("override", ["FOO", "", "PATCH, DELETE", "CONNECT", "\u00e4", "x" * 1000])
async def test_override_with_unknown_methods(tus: RawClient, override: str) -> None:
    """An override with a method that is none gets 405, even where the actual method would do."""
    url = await tus.create(3)
    answer = await tus.request("HEAD", url, {"X-HTTP-Method-Override": override})
    assert (answer.status, answer.headers["Allow"]) == (405, UPLOAD_METHODS)


async def test_two_overrides(tus: RawClient) -> None:
    """Two overrides are refused."""
    answer = await tus.request("POST", await tus.create(3), {"X-HTTP-Method-Override": ["PATCH", "DELETE"]})
    assert answer.status == 400


# The form of answers


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "", {"Upload-Length": 0}, 201),
        ("POST", "", {}, 400),
        ("HEAD", "unknown", {}, 404),
        ("GET", "unknown", {}, 404),
        ("PATCH", "unknown", {}, 415),
        ("PUT", "", {}, 405),
        ("OPTIONS", "", {}, 200),
        ("GET", "../nothing", {}, 404),
        ("POST", "", {"Expect": "x"}, 417),
    ],
)
async def test_every_answer(tus: RawClient, method: str, path: str, headers: Headers, status: int) -> None:
    """Every answer, whatever it says, names the version, can be read by a page of another origin, and has an id."""
    own: Headers = {"Origin": "http://elsewhere.example", "X-Request-ID": "my-request.1"}
    answer = await tus.request(method, "/files/" + path, {**own, **headers})
    assert answer.status == status
    assert answer.headers.getall("Tus-Resumable") == ["1.0.0"]
    assert answer.headers.getall("Access-Control-Allow-Origin") == ["http://elsewhere.example"]
    exposed = set(answer.headers["Access-Control-Expose-Headers"].split(","))
    assert exposed >= {"Location", "Upload-Offset", "Upload-Length", "Tus-Resumable", "Upload-Expires", "Retry-After"}
    assert answer.headers["X-Request-ID"] == "my-request.1"
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("given", ["a b", "x" * 65, "\u00e4", "<script>"])
async def test_odd_request_ids(tus: RawClient, given: str) -> None:
    """An id that is no plain word is replaced."""
    answer = await tus.request("OPTIONS", "", {"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] not in ("", given)


async def test_errors_as_text(tus: RawClient) -> None:
    """An error is a code and a sentence in plain text that no browser takes for something else."""
    answer = await tus.patch(await tus.create(5), 3)
    assert answer.body == b"ERR_MISMATCHED_OFFSET: the upload's offset is 0, not 3\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_errors_as_problem(tus: RawClient) -> None:
    """Who accepts application/problem+json gets the same as problem details, and the same headers."""
    answer = await tus.patch(await tus.create(5), 3, headers={"Accept": "text/html, application/problem+json;q=0.9"})
    assert (answer.status, answer.offset) == (409, 0)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "ERR_MISMATCHED_OFFSET",
        "status": 409,
        "detail": "the upload's offset is 0, not 3",
    }


# CORS


async def test_preflight(tus: RawClient) -> None:
    """A preflight request gets what a browser asks for, on the same URLs that tell capabilities to anybody else."""
    asked = "authorization,content-type,tus-resumable,upload-checksum,upload-concat,upload-length,upload-metadata"
    for url in (tus.url, await tus.create(1), tus.url + "unknown"):
        origin = {"Origin": "http://elsewhere.example", "Tus-Resumable": None}
        headers = {**origin, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": asked}
        answer = await tus.request("OPTIONS", url, headers)
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "http://elsewhere.example"
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
        assert set(answer.headers["Access-Control-Allow-Headers"].lower().split(",")) >= set(asked.split(","))
        assert "Tus-Version" not in answer.headers
        plain = await tus.request("OPTIONS", url, origin)
        assert plain.headers["Tus-Version"] == "1.0.0"
        assert plain.headers["Access-Control-Allow-Origin"] == "http://elsewhere.example"
