"""One address cannot fill the server with uploads, and the disk does not run full."""

import asyncio

import pytest
import structlog

from tusd_py.default_plugins.limits import Limits
from tusd_py.errors import Unavailable
from tusd_py.models import Request
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
    servers = [Limits(5, 0, "/", url) for _ in range(2)]

    async def create(number, address):
        try:
            await servers[number % 2].authorize(Request("POST", "/", remote=address), "create")
        except Unavailable:
            return False
        return True

    with structlog.testing.capture_logs() as logs:
        assert [await create(number, "203.0.113.1") for number in range(7)] == [True] * 5 + [False] * 2
        assert all(await asyncio.gather(*(create(number, f"203.0.113.{number + 10}") for number in range(200))))
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
    limits = Limits(2, 0, "/", redis.url)
    redis.kill()
    for _ in range(2):
        await limits.authorize(Request("POST", "/", remote="203.0.113.1"), "create")
    with pytest.raises(Unavailable):
        await limits.authorize(Request("POST", "/", remote="203.0.113.1"), "create")
    await limits.aclose()
