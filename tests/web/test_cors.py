"""Browsers of other origins may upload as the settings say, and can read every answer, errors included."""

import pytest

from tusd_py.testing.raw import RawClient

PAGE = {"Origin": "https://page.example"}
OTHER = {"Origin": "https://other.example"}


def preflight(headers=PAGE, method="PATCH", fields=""):
    wanted = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": fields or None}
    return {**headers, **wanted, "Tus-Resumable": None}


def words(answer, header):
    return {word.strip().lower() for word in answer.headers.get(header, "").split(",")}


async def test_a_preflight_is_answered_for_every_page(tus):
    """Uploads, those that are unknown, the collection and the API allow all methods and headers of tus clients."""
    fields = "tus-resumable,upload-offset,upload-length,upload-metadata,upload-concat,upload-checksum,content-type"
    for target in ("", tus.url + "unknown", "/api/uploads", "/metrics"):
        answer = await tus.request("OPTIONS", target, preflight(fields=fields))
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        assert words(answer, "Access-Control-Allow-Headers") >= set(fields.split(","))
        assert words(answer, "Vary") >= {"origin", "access-control-request-method", "access-control-request-headers"}
        assert int(answer.headers["Access-Control-Max-Age"]) > 0
        assert "Tus-Version" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE", "GET"])
async def test_a_preflight_allows_the_methods_of_the_protocol(tus, method):
    """Each method that a client uses is allowed by name."""
    answer = await tus.request("OPTIONS", "", preflight(method=method))
    assert method.lower() in words(answer, "Access-Control-Allow-Methods")


async def test_a_preflight_for_what_is_not_allowed_is_refused(tus):
    """An unknown header gets 403 with a reason that an operator understands."""
    answer = await tus.request("OPTIONS", "", preflight(fields="x-mine"))
    assert (answer.status, answer.code) == (403, "ERR_FORBIDDEN")
    assert b"cors_allow_header" in answer.body
    assert (await tus.request("OPTIONS", "", preflight(method="PUT"))).status == 403
    without_origin = {name: value for name, value in preflight().items() if name != "Origin"}
    assert (await tus.request("OPTIONS", "", without_origin)).headers["Tus-Version"] == "1.0.0"


async def test_options_without_a_question_tells_the_capabilities(tus):
    """With Origin but no Access-Control-Request-Method it is the protocol's OPTIONS, readable for the page."""
    answer = await tus.request("OPTIONS", "", {**PAGE, "Tus-Resumable": None})
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
    assert "tus-extension" in words(answer, "Access-Control-Expose-Headers")


async def test_pages_can_read_every_answer(tus):
    """Success, refusals, unknown pages and wrong methods carry the headers, and Vary for caches."""
    created = await tus.post({**PAGE, "Upload-Length": 3})
    url = created.headers["Location"]
    answers = [
        created,
        await tus.patch(url, 0, b"abc", PAGE),
        await tus.patch(url, 7, b"abc", PAGE),
        await tus.head(tus.url + "unknown", PAGE),
        await tus.head(url, {**PAGE, "Tus-Resumable": "0.2.2"}),
        await tus.get(url, PAGE),
        await tus.request("GET", "/nothing", PAGE),
        await tus.request("PUT", url, PAGE),
        await tus.request("GET", "/api/uploads?limit=1", PAGE),
        await tus.request("GET", "/api/uploads?limit=x", PAGE),
    ]
    assert [answer.status for answer in answers] == [201, 204, 409, 404, 412, 200, 404, 405, 200, 400]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        assert words(answer, "Access-Control-Expose-Headers") >= {"location", "upload-offset", "retry-after"}
        assert "origin" in words(answer, "Vary")
        assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_without_an_origin_there_are_no_cors_headers(tus):
    """Other clients than browsers do not get them."""
    answer = await tus.post({"Upload-Length": 3})
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


async def test_cors_can_be_turned_off(server_with):
    """With --no-cors nothing is allowed, and OPTIONS always tells the capabilities."""
    tus = RawClient(server_with("--no-cors").url)
    for answer in (await tus.post({**PAGE, "Upload-Length": 1}), await tus.request("OPTIONS", "", preflight())):
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert answer.headers["Tus-Version"] == "1.0.0"


async def test_origins_and_headers_can_be_named(server_with):
    """Named origins are allowed and no other; added headers may be sent and read, and cookies if they are allowed."""
    server = server_with(
        "--cors-origin=https://page.example",
        "--cors-origin=https://second.example",
        "--cors-credentials",
        "--cors-allow-header=X-Mine",
        "--cors-expose-header=X-Yours",
    )
    tus = RawClient(server.url)
    for origin in (PAGE, {"Origin": "https://second.example"}):
        allowed = await tus.request("OPTIONS", "", preflight(origin, fields="x-mine"))
        assert allowed.status == 200
        assert "x-mine" in words(allowed, "Access-Control-Allow-Headers")
        answer = await tus.post({**origin, "Upload-Length": 1})
        assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "x-yours" in words(answer, "Access-Control-Expose-Headers")
    refused = await tus.request("OPTIONS", "", preflight(OTHER))
    assert (refused.status, refused.code) == (403, "ERR_ORIGIN_NOT_ALLOWED")
    assert b"cors_origin" in refused.body
    for origin in (OTHER, {"Origin": "https://page.example.evil"}, {"Origin": "null"}):
        answer = await tus.post({**origin, "Upload-Length": 1})
        assert "Access-Control-Allow-Origin" not in answer.headers
