"""Load balancers and orchestrators learn whether a server lives, and whether it can take uploads."""

import shutil

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess


async def answers(tus):
    return [(await tus.request("GET", path)).status for path in ("/healthz", "/readyz")]


async def test_a_running_server_is_alive_and_ready(tus):
    """Both checks answer 200 with a word, and HEAD does too."""
    assert (await tus.request("GET", "/healthz")).body == b"ok\n"
    assert (await tus.request("GET", "/readyz")).body == b"ready\n"
    assert (await tus.request("HEAD", "/readyz")).status == 200


@pytest.mark.parametrize("what", ["the directory is gone", "the volume is not mounted"])
async def test_a_server_without_its_directory_is_alive_but_not_ready(tmp_path, what):
    """The check answers 503 without details to strangers, the log says what is wrong, and it is ready once mended."""
    uploads, aside = tmp_path / "uploads", tmp_path / "aside"
    records = ("--state", f"sqlite:{tmp_path / 'uploads.db'}", "--locker", f"file:{tmp_path / 'locks'}")
    with ServerProcess("--upload-dir", str(uploads), *records) as server:
        tus = RawClient(server.url)
        uploads.rename(aside)
        if what == "the volume is not mounted":
            uploads.mkdir()
        answer = await tus.request("GET", "/readyz")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert str(tmp_path) not in answer.body.decode()
        assert "the upload directory has vanished; is its volume mounted?" in server.output()
        assert (await tus.request("GET", "/healthz")).status == 200
        assert (await tus.post({"Upload-Length": 1})).status == 503
        shutil.rmtree(uploads, ignore_errors=True)
        aside.rename(uploads)
        assert await answers(tus) == [200, 200]


async def test_a_server_that_stops_is_not_ready(tmp_path):
    """After SIGTERM, while an upload may still finish, who is connected hears that it is not ready."""
    with ServerProcess("--upload-dir", str(tmp_path), "--shutdown-timeout", "20s") as server:
        tus = RawClient(server.url)
        url = await tus.create(4)
        async with tus.connect() as connection, tus.connect() as balancer:
            headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": 4}
            await connection.send(tus.message("PATCH", url, headers) + b"ab")
            await balancer.send(tus.message("GET", "/readyz"))
            assert (await balancer.answer()).status == 200

            async def receiving():
                return b'"offset":2' in (await tus.request("GET", f"/api/uploads/{url.rpartition('/')[2]}")).body

            await wait_until(receiving)
            server.process.terminate()
            await wait_until(lambda: '"stopping"' in server.output())
            await balancer.send(tus.message("GET", "/readyz"))
            assert (await balancer.answer()).status == 503
            await connection.send(b"cd")
            assert (await connection.answer("PATCH")).offset == 4
        assert server.process.wait(20) == 0
