"""Uploads belong to who made them; lists and metrics to the operator."""

import json
from pathlib import Path

import pytest

from tusd_py.testing.raw import RawClient

NAMES = str(Path(__file__).parent / "names.py")
ANN, BOB = {"Authorization": "Name ann"}, {"Authorization": "Name bob"}
OPERATOR = {"Authorization": "Bearer the-token"}


@pytest.fixture
def tus(server_with):
    """A server that knows users by name, and an operator by token."""
    return RawClient(server_with("--plugin", NAMES, "--api-token", "the-token").url)


@pytest.fixture
def open_tus(server):
    """A server without users and token."""
    return RawClient(server.url)


def api(url, rest=""):
    """The address of an upload in the status API."""
    return f"/api/uploads/{url.rpartition('/')[2]}{rest}"


async def all_ways_to(tus, url, headers):
    """The answers to every request that concerns one upload, the last of which would remove it."""
    requests = [
        tus.head(url, headers),
        tus.patch(url, 0, b"x", headers),
        tus.get(url, headers),
        tus.request("GET", api(url), headers),
        tus.request("GET", api(url, "/events"), headers),
        tus.post({**headers, "Upload-Concat": f"final;{url}"}),
        tus.request("POST", url, {**headers, "X-HTTP-Method-Override": "DELETE"}),
        tus.delete(url, headers),
    ]
    return [await request for request in requests]


async def test_who_is_unknown_may_do_nothing(tus):
    """Without credentials every request is answered 401, says how to log in, and changes nothing."""
    url = await tus.create(1, {**ANN, "Upload-Concat": "partial"})
    lists = [await tus.request("GET", path) for path in ("/api/uploads", "/metrics", "/api/openapi.json", "/whoami")]
    answers = [await tus.post({"Upload-Length": 1}), *lists, *await all_ways_to(tus, url, {})]
    assert {answer.status for answer in answers} == {401}
    for answer in answers:
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="uploads"'
        assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert (await tus.head(url, ANN)).offset == 0


async def test_capabilities_and_health_are_for_everybody(tus):
    """OPTIONS, a browser's preflight and the health checks need no credentials."""
    preflight = {"Origin": "http://page", "Access-Control-Request-Method": "PATCH"}
    assert (await tus.request("OPTIONS", "", {"Tus-Resumable": None})).headers["Tus-Version"] == "1.0.0"
    assert (await tus.request("OPTIONS", "", preflight)).status == 200
    assert (await tus.request("GET", "/healthz")).status == 200
    assert (await tus.request("GET", "/readyz")).status == 200


@pytest.mark.parametrize("path", ["/api/uploads", "/metrics", "/whoami"])
async def test_no_page_can_be_had_as_if_it_were_options(tus, path):
    """A method override that names OPTIONS does not get around the log-in."""
    answer = await tus.request("GET", path, {"X-HTTP-Method-Override": "OPTIONS"})
    assert answer.status == 401


async def test_options_that_means_another_method_needs_credentials(tus):
    """A method override on an OPTIONS request is what counts."""
    url = await tus.create(1, ANN)
    assert (await tus.request("OPTIONS", url, {"X-HTTP-Method-Override": "DELETE"})).status == 401
    assert (await tus.head(url, ANN)).status == 200


async def test_strangers_may_not_touch_an_upload(tus):
    """Another user gets 403 for every request on an upload that is not theirs, also as a part of their own."""
    url = await tus.create(1, {**ANN, "Upload-Concat": "partial"})
    answers = await all_ways_to(tus, url, BOB)
    assert [answer.status for answer in answers] == [403] * len(answers)
    assert (await tus.head(url, ANN)).offset == 0


async def test_a_concatenation_needs_every_part_to_be_ones_own(tus):
    """One foreign part among several spoils it, wherever it stands."""
    own, foreign = [await tus.create(1, {**who, "Upload-Concat": "partial"}, b"x") for who in (BOB, ANN)]
    for parts in (f"{own} {foreign}", f"{foreign} {own}"):
        answer = await tus.post({**BOB, "Upload-Concat": f"final;{parts}"})
        assert (answer.status, answer.code) == (403, "ERR_FORBIDDEN")


async def test_owners_may_do_everything(tus):
    """The one who made an upload gets through all of it."""
    url = await tus.create(1, ANN)
    assert (await tus.head(url, ANN)).status == 200
    assert (await tus.patch(url, 0, b"x", ANN)).status == 204
    assert (await tus.get(url, ANN)).body == b"x"
    assert json.loads((await tus.request("GET", api(url), ANN)).body)["owner"] == "ann"
    assert (await tus.delete(url, ANN)).status == 204


async def test_the_operator_may_do_everything(tus):
    """The token opens all uploads, lists and metrics, whoever made them."""
    url = await tus.create(1, ANN)
    assert (await tus.request("GET", "/metrics", OPERATOR)).status == 200
    assert (await tus.head(url, OPERATOR)).status == 200
    assert (await tus.delete(url, OPERATOR)).status == 204


async def test_a_list_holds_ones_own_uploads(tus):
    """A user sees their own uploads, even when asking for another's; the operator sees all."""
    for who in (ANN, BOB):
        await tus.create(1, who)

    async def owners(headers, query=""):
        page = json.loads((await tus.request("GET", f"/api/uploads?limit=1000{query}", headers)).body)
        return {upload["owner"] for upload in page["uploads"]}

    assert await owners(ANN) == {"ann"}
    assert await owners(ANN, "&owner=bob") == {"ann"}
    assert await owners(OPERATOR) >= {"ann", "bob"}
    assert await owners(OPERATOR, "&owner=bob") == {"bob"}


@pytest.mark.parametrize(
    "token", ["Bearer the-toke", "Bearer the-token2", "Bearer ", "Basic the-token", "Bearer th\udce9"]
)
async def test_nothing_but_the_token_makes_an_operator(tus, token):
    """A token that is nearly right, empty, not ASCII or of another kind is unknown."""
    assert (await tus.request("GET", "/metrics", {"Authorization": token})).status == 401


async def test_users_are_not_operators(tus):
    """Metrics are not for users."""
    assert (await tus.request("GET", "/metrics", ANN)).status == 403


async def test_without_users_uploads_belong_to_nobody(open_tus):
    """Without an `authenticate` plugin whoever knows the address of an upload may use it."""
    url = await open_tus.create(1)
    assert (await open_tus.patch(url, 0, b"x")).status == 204
    assert (await open_tus.delete(url)).status == 204


@pytest.mark.parametrize("path", ["/api/uploads", "/metrics"])
async def test_without_a_token_overviews_are_for_this_machine(open_tus, path):
    """A request from this machine sees them; one that a proxy passed on does not."""
    assert (await open_tus.request("GET", path)).status == 200
    for header in ("X-Forwarded-For", "Forwarded", "Via"):
        answer = await open_tus.request("GET", path, {header: "for=203.0.113.9"})
        assert (answer.status, answer.code) == (403, "ERR_FORBIDDEN")
        assert b"api_token" in answer.body
