"""One address cannot fill the server with uploads, and the disk does not run full."""

import pytest

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


@pytest.mark.parametrize("store", [[], ["--store=file:{}/elsewhere", "--upload-dir={}/records"]])
async def test_the_last_free_space_is_for_uploads_that_have_begun(tmp_path, store):
    """With less free space than `min_free_space` new uploads get 507, and those that exist are finished."""
    arguments = [text.format(tmp_path) for text in store] or [f"--upload-dir={tmp_path}"]
    with ServerProcess(*arguments) as server:
        path = (await RawClient(server.url).create(1)).removeprefix(server.url)
    with ServerProcess(*arguments, "--min-free-space", "1000TiB") as server:
        tus = RawClient(server.url)
        refused = await tus.post({"Upload-Length": 1})
        assert (refused.status, refused.code) == (507, "ERR_STORAGE_FULL")
        assert "Retry-After" in refused.headers
        assert (await tus.patch(server.url + path, 0, b"x")).status == 204
