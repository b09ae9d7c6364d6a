"""What trusted proxies forward is believed, and nobody else's word."""

import json
import socket

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess
from tusd_py.web.proxy import Proxies, Seen

BEHIND = "127.0.0.1", "10.0.0.0/8", "fd00::/8"


def seen(*headers, peer="127.0.0.1", trusted=BEHIND):
    """How a request with these headers is seen."""
    return Proxies(trusted).seen(CIMultiDictProxy(CIMultiDict(headers)), peer, "http", "inside:8080")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ("http", "inside:8080", "", "127.0.0.1")),
        (
            [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "up.example")],
            ("https", "up.example", "", "203.0.113.9"),
        ),
        (
            [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "up.example"), ("X-Forwarded-Prefix", "/api/v1/")],
            ("https", "up.example", "/api/v1", "127.0.0.1"),
        ),
        (
            [("X-Forwarded-Host", "up.example"), ("X-Forwarded-Port", "8443")],
            ("http", "up.example:8443", "", "127.0.0.1"),
        ),
        ([("X-Forwarded-Host", "up.example:1"), ("X-Forwarded-Port", "2")], ("http", "up.example:1", "", "127.0.0.1")),
        ([("X-Forwarded-Proto", "https"), ("X-Forwarded-Port", "443")], ("https", "inside:8080", "", "127.0.0.1")),
        (
            [("Forwarded", 'for=203.0.113.9;proto=https;host="up.example:444"')],
            ("https", "up.example:444", "", "203.0.113.9"),
        ),
        ([("Forwarded", 'for="[2001:db8::9]:4711";proto=HTTPS')], ("https", "inside:8080", "", "2001:db8::9")),
        # The nearest hop is the last; those before it count as far as they are proxies of ours.
        ([("Forwarded", "for=198.51.100.1;host=evil, for=203.0.113.9;host=up")], ("http", "up", "", "203.0.113.9")),
        ([("Forwarded", "for=203.0.113.9;host=up, for=10.1.2.3;host=mid")], ("http", "up", "", "203.0.113.9")),
        ([("X-Forwarded-For", "198.51.100.1, 203.0.113.9, 10.1.2.3")], ("http", "inside:8080", "", "203.0.113.9")),
        (
            [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "10.1.2.3")],
            ("http", "inside:8080", "", "203.0.113.9"),
        ),
        ([("X-Forwarded-For", "203.0.113.9:5555")], ("http", "inside:8080", "", "203.0.113.9")),
    ],
)
def test_what_a_trusted_proxy_forwards_counts(headers, expected):
    """Scheme, host, prefix and the client's address come from the outermost hop that can be believed."""
    assert seen(*headers) == Seen(*expected, False)


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Forwarded-Host", "evil\r\nX-Other: 1")],
        [("X-Forwarded-Host", "evil/path")],
        [("X-Forwarded-Host", "user@evil")],
        [("Forwarded", "host=<script>")],
    ],
)
def test_a_host_that_is_none_is_not_repeated(headers):
    """What could break out of a URL or a header becomes localhost."""
    assert seen(*headers).host == "localhost"


@pytest.mark.parametrize("prefix", ["//evil", "evil", "/a b", "/a\r\nb", "https://evil"])
def test_a_prefix_that_is_none_is_dropped(prefix):
    """A prefix that is not a path is as if there were none."""
    assert seen(("X-Forwarded-Prefix", prefix)).prefix == ""


@pytest.mark.parametrize("proto", ["ftp", "javascript", "", "https://x"])
def test_a_scheme_that_is_none_becomes_http(proto):
    """Only http and https are schemes of ours."""
    assert seen(("X-Forwarded-Proto", proto)).scheme == "http"


@pytest.mark.parametrize("peer", ["203.0.113.9", "::1", "::ffff:203.0.113.9", None])
def test_what_others_forward_is_ignored(peer):
    """Headers of a peer that is not named as a proxy change nothing."""
    headers = [("X-Forwarded-Host", "evil"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=1.2.3.4;host=evil")]
    assert seen(*headers, peer=peer) == Seen("http", "inside:8080", "", peer, False)


@pytest.mark.parametrize("peer", ["10.200.1.1", "::ffff:10.1.1.1", "fd12::1", "fd12::1%eth0"])
def test_networks_are_trusted_as_a_whole(peer):
    """Every address in a named network is a proxy, also when it is written as IPv6."""
    assert seen(("X-Forwarded-Host", "up"), peer=peer).host == "up"


def test_a_unix_socket_is_trusted_by_name():
    """Whoever may connect to the socket is a proxy if `unix` is named."""
    headers = [("X-Forwarded-Host", "up"), ("X-Forwarded-For", "203.0.113.9")]
    assert seen(*headers, peer=None, trusted=["unix"]) == Seen("http", "up", "", "203.0.113.9", False)


def test_only_a_direct_connection_is_local():
    """A request from this machine without a proxy's traces is local; behind a trusted proxy none is."""
    assert seen(peer="127.0.0.1", trusted=[]).is_local
    assert seen(peer="::1", trusted=[]).is_local
    assert seen(peer=None, trusted=[]).is_local
    assert not seen(("Via", "1.1 proxy"), peer="127.0.0.1", trusted=[]).is_local
    assert not seen(peer="127.0.0.1").is_local
    assert not seen(peer="203.0.113.9", trusted=[]).is_local


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "up.example", "X-Forwarded-Prefix": "/v1"}


async def location(tus, headers):
    answer = await tus.post({"Upload-Length": 1, **headers})
    assert answer.status == 201
    return answer.headers["Location"].rpartition("/")[0]


async def test_the_location_is_what_the_client_can_reach(server_with):
    """Behind a trusted proxy, Location has its scheme, host and prefix, and the address counts for logs and limits."""
    server = server_with("--behind-proxy", "127.0.0.1")
    tus = RawClient(server.url)
    assert await location(tus, FORWARDED) == "https://up.example/v1/files"
    assert await location(tus, {"Forwarded": "proto=https;host=other.example"}) == "https://other.example/files"
    answer = await tus.post({"Upload-Length": 1, **FORWARDED, "X-Forwarded-For": "203.0.113.77"})
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line.get("request") == answer.headers["X-Request-ID"]]
    assert line["remote"] == "203.0.113.77"


async def test_the_location_ignores_strangers(server_with):
    """Without a trusted proxy nobody can make the server point elsewhere."""
    server = server_with()
    assert await location(RawClient(server.url), FORWARDED) == server.url.rstrip("/")


async def test_a_public_url_overrides_everything(tmp_path):
    """With `public_url` every Location begins with it, whatever is forwarded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = ("--public-url", "https://cdn.example/uploads", "--behind-proxy", "127.0.0.1", "--port", port)
    with ServerProcess("--upload-dir", str(tmp_path), *arguments) as server:
        assert server.url == "https://cdn.example/uploads/"
        assert await location(RawClient(f"http://127.0.0.1:{port}/files/"), FORWARDED) == "https://cdn.example/uploads"
