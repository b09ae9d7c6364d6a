"""Where a server listens: addresses, TLS and Unix sockets."""

import ssl
import subprocess
from io import BytesIO

import aiohttp
import pytest
import requests
from tusclient.client import TusClient

from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess, ServerProcessError

TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return cert, key


@pytest.mark.needs_openssl
async def test_an_upload_over_tls(tmp_path, certificate):
    """With a certificate the server speaks HTTPS and nothing else, and its addresses say so."""
    cert, key = certificate
    arguments = ("--tls-cert", str(cert), "--tls-key", str(key), "--upload-dir", str(tmp_path))
    with ServerProcess(*arguments) as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(cert))
        sent = {**TUS, "Upload-Length": "300000", "Content-Type": OFFSET_STREAM}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            created = await session.post(server.url, headers=sent, data=b"x" * 300_000)
            assert created.status == 201
            assert created.headers["Location"].startswith(server.url)
            assert await (await session.get(created.headers["Location"])).read() == b"x" * 300_000

        async with RawClient(server.url.replace("https", "http")).connect() as connection:
            await connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await connection.rest() == b""
    assert '"level": "error"' not in server.output()


@pytest.mark.needs_openssl
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_that_cannot_be_used_is_named(tmp_path, certificate, workers):
    """The server does not start, and says which file is at fault."""
    missing = str(tmp_path / "missing.pem")
    arguments = ("--tls-cert", missing, "--tls-key", str(certificate[1]), "--workers", workers)
    with pytest.raises(ServerProcessError) as failed:
        ServerProcess(*arguments, "--upload-dir", str(tmp_path)).start()
    assert f"cannot use tls_cert {missing}" in str(failed.value)
    assert "Traceback" not in str(failed.value)


@pytest.fixture
def over(tmp_path):
    """A function that sends a request over a Unix socket."""

    async def send(path, method, url="http://up.example/files/", **headers):
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.request(method, url, headers={**TUS, **headers}) as answer,
        ):
            await answer.read()
            return answer

    return send


async def test_a_unix_socket(tmp_path, over):
    """The server listens on the socket alone, says so in nginx's words, and removes it at the end."""
    path = tmp_path / "tus.sock"
    arguments = ("--unix-socket", str(path), "--behind-proxy", "unix", "--upload-dir", str(tmp_path / "uploads"))
    with ServerProcess(*arguments) as server:
        assert server.url == f"http://unix:{path}:/files/"
        created = await over(path, "POST", **{"Upload-Length": "1", "X-Forwarded-Proto": "https"})
        assert created.status == 201
        assert created.headers["Location"].startswith("https://up.example/files/")
        with pytest.raises(ServerProcessError, match="another server listens on"):
            ServerProcess(*arguments).start()
        assert (await over(path, "OPTIONS")).status == 200
    assert not path.exists()


async def test_a_socket_left_behind_is_replaced(tmp_path, over):
    """A server that was killed does not keep the next one from starting."""
    path = tmp_path / "tus.sock"
    arguments = ("--unix-socket", str(path), "--upload-dir", str(tmp_path / "uploads"))
    with ServerProcess(*arguments) as server:
        server.kill()
        assert path.exists()
        server.start()
        assert (await over(path, "OPTIONS")).status == 200


def test_a_file_is_not_taken_for_a_socket(tmp_path):
    """A regular file in the socket's place is left alone."""
    path = tmp_path / "precious.txt"
    path.write_text("keep me")
    with pytest.raises(ServerProcessError, match=r"precious.txt exists and is no socket"):
        ServerProcess("--unix-socket", str(path), "--upload-dir", str(tmp_path / "uploads")).start()
    assert path.read_text() == "keep me"


def test_a_port_that_is_taken_is_named(tmp_path, server):
    """The server does not start on a port where another listens."""
    port = server.url.rsplit(":", 1)[1].partition("/")[0]
    with pytest.raises(ServerProcessError, match=rf"Error: cannot listen on 127.0.0.1:{port}: Address already in use"):
        ServerProcess("--port", port, "--upload-dir", str(tmp_path)).start()


def test_ipv6(tmp_path):
    """An IPv6 address is listened on, and written with brackets."""
    with ServerProcess("--host", "::1", "--upload-dir", str(tmp_path)) as server:
        assert server.url.startswith("http://[::1]:")
        url = TusClient(server.url).uploader(file_stream=BytesIO(b"hello"))
        url.upload()
        assert requests.get(url.url, timeout=20).content == b"hello"


@pytest.mark.parametrize("base_path", ["/", "up/load"])
async def test_the_base_path_can_be_chosen(tmp_path, base_path):
    """Uploads are made under the path, with or without a slash at its end, and nowhere else."""
    with ServerProcess("--base-path", base_path, "--upload-dir", str(tmp_path)) as server:
        tus = RawClient(server.url)
        inner = base_path.strip("/")
        assert server.url.endswith(f"/{inner}/" if inner else "/")
        url = await tus.create(1, {}, b"x")
        assert url.startswith(server.url)
        assert (await tus.get(url)).body == b"x"
        assert (await tus.request("POST", f"/{inner}", {"Upload-Length": 1})).status == 201
        assert (await tus.request("POST", "/files/", {"Upload-Length": 1})).status in (404, 405)
        assert (await tus.request("GET", "/healthz")).body == b"ok\n"
        assert (await tus.request("GET", "/api/uploads")).status == 200
