"""One address cannot fill the server with uploads, and the disk does not run full."""

import asyncio
import secrets

import pytest
import structlog
from multidict import CIMultiDict, CIMultiDictProxy

from tusd_py.default_plugins.limits import Limits
from tusd_py.errors import QuotaExceeded, Unavailable
from tusd_py.models import Identity, Request
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess


async def test_an_address_can_create_so_many_uploads_a_minute(server_with):
    """The next one is refused with an answer that clients repeat; uploads that exist and other addresses go on."""
    tus = RawClient(server_with("--create-rate", "2", "--behind-proxy", "127.0.0.1").url)

    async def create(address):
        return await tus.post({"Upload-Length": 1, "X-Forwarded-For": address})

    first, second, third = [await create("203.0.113.1") for _ in range(3)]
    assert (first.status, second.status, third.status) == (201, 201, 503)
    assert third.code == "ERR_UNAVAILABLE"
    assert int(third.headers["Retry-After"]) > 0
    assert (await create("203.0.113.2")).status == 201
    assert (await tus.patch(first.headers["Location"], 0, b"x", {"X-Forwarded-For": "203.0.113.1"})).status == 204


def announcement(length, identity):
    """A request that declares a length."""
    headers = CIMultiDictProxy(CIMultiDict({"Upload-Length": str(length)}))
    return Request("POST", "/", headers, remote="198.51.100.1", identity=identity)


async def test_a_quota(server_with):
    """What is declared at creation or later, of whole files or parts, counts until 24 hours have passed."""
    tus = RawClient(server_with("--quota", "1MiB", "--behind-proxy", "127.0.0.1").url)
    ann, bob = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in (1, 2))
    assert (await tus.post({**ann, "Upload-Length": 2**20 + 1})).status == 429
    part = await tus.create(1000, {**ann, "Upload-Concat": "partial"}, bytes(1000))
    deferred = await tus.create(None, {**ann, "Upload-Defer-Length": 1})
    refused = await tus.post({**ann, "Upload-Length": 2**20 - 1000})
    assert (refused.status, refused.code) == (429, "ERR_QUOTA_EXCEEDED")
    refused = await tus.patch(deferred, 0, b"x", {**ann, "Upload-Length": 2**20 - 1000})
    assert (refused.status, refused.code) == (429, "ERR_QUOTA_EXCEEDED")
    assert (await tus.head(deferred, ann)).offset == 0
    assert (await tus.patch(deferred, 0, b"xy", {**ann, "Upload-Length": 2**20 - 1024})).status == 204
    assert (await tus.post({**ann, "Upload-Length": 1})).status == 429
    assert (await tus.post({**ann, "Upload-Length": 0})).status == 201
    assert (await tus.post({**ann, "Upload-Concat": f"final;{part}"})).status == 201
    assert (await tus.patch(deferred, 2, b"z", ann)).status == 204
    assert (await tus.post({**bob, "Upload-Length": 2**20})).status == 201


async def test_a_quota_is_a_persons():
    """Who has a name is counted by it, and not by the address."""
    limits = Limits(0, 1024, 0, "/")
    for name in ("ann", "bob"):
        await limits.authorize(announcement(1024, Identity(name)), "create", None)
    with pytest.raises(QuotaExceeded, match="1024 bytes that may be announced"):
        await limits.authorize(announcement(1, Identity("ann")), "create", None)


async def test_the_last_free_space_is_for_uploads_that_have_begun(tmp_path):
    """With less space than `min_free_space` on the store's disk new uploads get 507, and those that exist go on."""
    records = (f"--state=sqlite:{tmp_path}/uploads.db", f"--locker=file:{tmp_path}/locks")
    arguments = (f"--store=file:{tmp_path}/elsewhere", f"--upload-dir={tmp_path}/is/not/made", *records)
    with ServerProcess(*arguments) as server:
        path = (await RawClient(server.url).create(1)).removeprefix(server.url)
    with ServerProcess(*arguments, "--min-free-space", "1000TiB") as server:
        tus = RawClient(server.url)
        refused = await tus.post({"Upload-Length": 1})
        assert (refused.status, refused.code) == (507, "ERR_STORAGE_FULL")
        assert "Retry-After" in refused.headers
        assert (await tus.patch(server.url + path, 0, b"x")).status == 204


async def check_that_servers_count_together(url):
    """Let two servers with one Redis see one address often, and hundreds of addresses at once."""
    servers = [Limits(5, 10 * 1024**2, 0, "/", url) for _ in range(2)]

    async def create(number, address):
        try:
            await servers[number % 2].authorize(Request("POST", "/", remote=address), "create", None)
        except Unavailable:
            return False
        return True

    with structlog.testing.capture_logs() as logs:
        assert [await create(number, "203.0.113.1") for number in range(7)] == [True] * 5 + [False] * 2
        assert all(await asyncio.gather(*(create(number, f"203.0.113.{number + 10}") for number in range(200))))
        sizes = [announcement(4 * 1024**2, Identity(secrets.token_hex(4)))] * 3
        await servers[0].authorize(sizes[0], "create", None)
        await servers[1].authorize(sizes[1], "create", None)
        with pytest.raises(QuotaExceeded):
            await servers[0].authorize(sizes[2], "create", None)
    assert logs == []
    for server in servers:
        await server.aclose()


async def test_a_limit_for_all_servers(redis_url):
    """Servers with one Redis count together, also if hundreds ask at once."""
    await check_that_servers_count_together(redis_url)


async def test_a_limit_in_a_cluster(cluster_url):
    """Servers with one Cluster count together."""
    await check_that_servers_count_together(cluster_url)


async def test_a_limit_without_redis(start_redis):
    """While Redis is away every server counts for itself."""
    redis = start_redis()
    limits = Limits(2, 0, 0, "/", redis.url)
    redis.kill()
    for _ in range(2):
        await limits.authorize(Request("POST", "/", remote="203.0.113.1"), "create", None)
    with pytest.raises(Unavailable):
        await limits.authorize(Request("POST", "/", remote="203.0.113.1"), "create", None)
    await limits.aclose()
