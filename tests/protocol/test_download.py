"""Download by GET: the bytes, the names and types that browsers may be told, ranges and conditions."""

from base64 import b64encode

import pytest

from tusd_py.testing.raw import Headers, RawClient

CONTENT = bytes(range(256)) * 5


def metadata(**pairs: str | bytes) -> Headers:
    """The header Upload-Metadata."""
    encoded = {key: b64encode(value if isinstance(value, bytes) else value.encode()) for key, value in pairs.items()}
    return {"Upload-Metadata": ",".join(f"{key} {value.decode()}" for key, value in encoded.items())}


@pytest.fixture
async def url(tus: RawClient) -> str:
    """An upload with known bytes."""
    return await tus.create(len(CONTENT), metadata(filetype="image/png", filename="a.png"), CONTENT)


async def test_download(tus: RawClient, url: str) -> None:
    """GET returns what was uploaded."""
    answer = await tus.get(url)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Accept-Ranges"] == "bytes"


async def test_unfinished(tus: RawClient) -> None:
    """There is nothing to get before the last byte."""
    url = await tus.create(3)
    for offset, byte in enumerate((b"a", b"b", b"c")):
        answer = await tus.get(url)
        assert (answer.status, answer.code) == (404, "ERR_UPLOAD_NOT_FINISHED")
        await tus.patch(url, offset, byte)
    assert (await tus.get(url)).body == b"abc"


@pytest.mark.parametrize(
    ("declared", "content_type", "disposition"),
    [
        ("image/png", "image/png", "inline"),
        ("IMAGE/PNG", "image/png", "inline"),
        ("text/plain", "text/plain; charset=utf-8", "inline"),
        ("text/plain; charset=utf-7", "text/plain; charset=utf-8", "inline"),
        ("video/mp4; codecs=avc1", "video/mp4", "inline"),
        ("application/pdf", "application/pdf", "attachment"),
        ("application/vnd.apache.parquet", "application/vnd.apache.parquet", "attachment"),
        ("text/csv", "text/csv", "attachment"),
    ],
)
async def test_types(tus: RawClient, declared: str, content_type: str, disposition: str) -> None:
    """A declared type is told; only harmless ones are shown in the browser."""
    for key in ("filetype", "type"):
        answer = await tus.get(await tus.create(0, metadata(**{key: declared})))
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["Content-Disposition"] == disposition


@pytest.mark.parametrize(
    "declared",
    [
        "text/html",
        "TEXT/HTML",
        " text/html ",
        "text/html;charset=x",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "application/xml",
        "application/rss+xml",
        "text/javascript",
        "application/x-javascript",
        "application/ecmascript",
        "application/wasm",
        "application/x-shockwave-flash",
        "multipart/related",
        "multipart/x-mixed-replace; boundary=x",
        "message/rfc822",
        "image/png\r\nX-Smuggled: 1",
        "image/png\nX-Smuggled: 1",
        "image/png\r\n\r\n<script>",
        "image/png\0",
        "image/png,text/html",
        "image/png text/html",
        '"image/png"',
        "image",
        "image/",
        "/png",
        "image/png/x",
        "*/*",
        "\u0131mage/png",
        "x/" + "y" * 5000,
        b"\xff/\xfe",
    ],
)
async def test_types_that_are_not_told(tus: RawClient, declared: str | bytes) -> None:
    """Types that browsers run, and what is no type at all, become a file to be saved, and no header of their own."""
    answer = await tus.get(await tus.create(3, metadata(filetype=declared), b"abc"))
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.headers.getall("Content-Type") == ["application/octet-stream"]
    assert answer.headers["Content-Disposition"] == "attachment"
    assert "X-Smuggled" not in answer.headers


async def test_a_browser_is_told_to_run_nothing(tus: RawClient, url: str) -> None:
    """Behind the types stand a sandbox and the ban on guessing."""
    headers = (await tus.get(url)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize(
    ("name", "plain", "extended"),
    [
        ("report.csv", "report.csv", "report.csv"),
        ("my report (1).csv", "my report (1).csv", "my%20report%20%281%29.csv"),
        ("Übersicht €.csv", "_bersicht _.csv", "%C3%9Cbersicht%20%E2%82%AC.csv"),
        ('a"b.csv', "a_b.csv", "a%22b.csv"),
        ("a%22b.csv", "a_22b.csv", "a%2522b.csv"),
        ("a;b='c'.csv", "a;b='c'.csv", "a%3Bb%3D%27c%27.csv"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\Windows\\a.exe", "a.exe", "a.exe"),
        ("a\r\nX-Smuggled: 1", "aX-Smuggled: 1", "aX-Smuggled%3A%201"),
        ("a\0b\x7f\u202egpj.exe", "abgpj.exe", "abgpj.exe"),
        ("x" * 1000, "x" * 200, "x" * 200),
        (b"caf\xe9.csv", "caf_.csv", "caf%EF%BF%BD.csv"),
    ],
)
async def test_names(tus: RawClient, name: str | bytes, plain: str, extended: str) -> None:
    """A file's name is told in both forms of RFC 6266, without folders, control characters and ways out of quotes."""
    expected = f"inline; filename=\"{plain}\"; filename*=UTF-8''{extended}"
    for key in ("filename", "name"):
        answer = await tus.get(await tus.create(0, metadata(**{key: name, "filetype": "image/png"})))
        assert answer.headers.getall("Content-Disposition") == [expected]
        assert "X-Smuggled" not in answer.headers


@pytest.mark.parametrize("name", ["", "/", "a/", "\r\n", "\u202e"])
async def test_no_names(tus: RawClient, name: str) -> None:
    """What leaves no name is left out."""
    answer = await tus.get(await tus.create(0, metadata(filename=name)))
    assert answer.headers["Content-Disposition"] == "attachment"


# Ranges


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 1280),
        ("bytes=10-19", 10, 20),
        ("bytes=1279-", 1279, 1280),
        ("bytes=1000-99999", 1000, 1280),
        ("bytes=-1", 1279, 1280),
        ("bytes=-1280", 0, 1280),
        ("bytes=-5000", 0, 1280),
        ("bytes = 10 - 19", 10, 20),
    ],
)
async def test_range(tus: RawClient, url: str, value: str, start: int, stop: int) -> None:
    """One range is answered with that part."""
    answer = await tus.get(url, {"Range": value})
    assert (answer.status, answer.body) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1280"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("value", ["bytes=1280-", "bytes=1280-1290", "bytes=999999999999999999-", "bytes=-0"])
async def test_range_behind_the_end(tus: RawClient, url: str, value: str) -> None:
    """A range without a byte gets 416 with the size."""
    answer = await tus.get(url, {"Range": value})
    assert (answer.status, answer.code) == (416, "ERR_RANGE_NOT_SATISFIABLE")
    assert answer.headers["Content-Range"] == "bytes */1280"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-2",
        "bytes=0-1,5-6",
        "bytes=+1-2",
        "bytes=0--1",
        "bytes=\u0663-",
        "lines=0-1",
        "BYTES 0-1",
        "bytes=" + "9" * 40 + "-",
        "bytes=0-1" * 2000,
    ],
)
async def test_range_that_is_ignored(tus: RawClient, url: str, value: str) -> None:
    """Several ranges, other units and what is no range are answered in full."""
    answer = await tus.get(url, {"Range": value})
    assert (answer.status, answer.body) == (200, CONTENT)


async def test_two_ranges(tus: RawClient, url: str) -> None:
    """Two Range headers are refused, not guessed."""
    assert (await tus.get(url, {"Range": ["bytes=0-1", "bytes=2-3"]})).status == 400


async def test_range_of_nothing(tus: RawClient) -> None:
    """An empty upload has no range."""
    answer = await tus.get(await tus.create(0), {"Range": "bytes=0-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")


# Conditions

LONG_AGO, FAR_AHEAD = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 2094 08:49:37 GMT"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": "ETAG"}, 304),
        ({"If-None-Match": 'W/ETAG, "other"'}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": FAR_AHEAD}, 200),
        ({"If-Modified-Since": "MODIFIED"}, 304),
        ({"If-Modified-Since": FAR_AHEAD}, 304),
        ({"If-Modified-Since": LONG_AGO}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": "Sun, 06 Nov 2094 08:49:37"}, 200),
        ({"If-Match": "ETAG"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": '"other", ETAG', "If-Unmodified-Since": LONG_AGO}, 200),
        ({"If-Unmodified-Since": "MODIFIED"}, 200),
        ({"If-Unmodified-Since": LONG_AGO}, 412),
        ({"If-Unmodified-Since": "\u00e4"}, 200),
        ({"If-Range": "ETAG", "Range": "bytes=0-9"}, 206),
        ({"If-Range": "MODIFIED", "Range": "bytes=0-9"}, 206),
        ({"If-Range": '"other"', "Range": "bytes=0-9"}, 200),
        ({"If-Range": "W/ETAG", "Range": "bytes=0-9"}, 200),
        ({"If-Range": LONG_AGO, "Range": "bytes=0-9"}, 200),
        ({"If-Range": '"other"', "Range": "bytes=5000-"}, 200),
        ({"If-None-Match": "ETAG", "Range": "bytes=5000-"}, 304),
    ],
)
async def test_conditions(tus: RawClient, url: str, headers: dict[str, str], status: int) -> None:
    """Conditions are evaluated as RFC 9110 says."""
    known = (await tus.get(url)).headers
    sent = {
        name: value.replace("ETAG", known["ETag"]).replace("MODIFIED", known["Last-Modified"])
        for name, value in headers.items()
    }
    answer = await tus.get(url, sent)
    assert answer.status == status
    if status == 304:
        assert answer.headers["ETag"] == known["ETag"]
    elif status in (200, 206):
        assert answer.body == CONTENT[: 10 if status == 206 else None]


async def test_head_ignores_conditions(tus: RawClient, url: str) -> None:
    """HEAD is the protocol's own: it tells the offset, whatever range or condition it carries."""
    answer = await tus.head(url, {"If-None-Match": "*", "Range": "bytes=0-1"})
    assert (answer.status, answer.offset) == (200, len(CONTENT))


async def test_conditions_do_not_stop_a_patch(tus: RawClient) -> None:
    """Nor do they belong to PATCH."""
    url = await tus.create(3)
    assert (await tus.patch(url, 0, b"abc", {"If-None-Match": "*", "Range": "bytes=0-1"})).status == 204


async def test_downloads_at_once(tus: RawClient) -> None:
    """GET takes no lock: a reader that has stopped reading keeps nobody else from it."""
    size = 2**24
    url = await tus.create(size, body=bytes(size))
    async with tus.connect() as slow:
        await slow.send(tus.message("GET", url))
        assert len((await tus.get(url)).body) == size
        assert (await tus.head(url)).offset == size
        assert (await tus.delete(url)).status == 204
