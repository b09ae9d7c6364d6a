"""A page of another origin uploads with Uppy in headless Chromium, which lets it only if CORS is right."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from requests import request

from tusd_py.testing.server import ServerProcess

pytestmark = [pytest.mark.needs_node, pytest.mark.needs_chromium, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
SIZE = 64 * 2**20
BYTES_PER_SECOND = 16 * 2**20
TUS = {"Tus-Resumable": "1.0.0"}


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="session")
def origin(node_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a web server that serves the page and is not the tus server."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(HERE / "page" / "index.html", folder)
    esbuild = ["node_modules/.bin/esbuild", "page/page.js", "--bundle", f"--outfile={folder / 'page.js'}"]
    subprocess.run([*esbuild, "--log-level=warning"], cwd=HERE, check=True)
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web_server:
        thread = threading.Thread(target=web_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web_server.server_port}"
        web_server.shutdown()
        thread.join()


@pytest.fixture
def browse(origin: str, run_client: Callable[..., list[dict[str, Any]]]) -> Callable[..., dict[str, Any]]:
    """A function that opens the page for a tus server and runs a scenario of `browse.mjs` in it."""

    def run(server: ServerProcess, scenario: str, **options: Any) -> dict[str, Any]:
        page = f"{origin}/index.html?{urlencode({'endpoint': server.url})}"
        chromium = shutil.which("chromium")
        where = {"chromium": chromium, "page": page, "scenario": scenario}
        (result,) = run_client("node", "browse.mjs", **where, **options)
        return result

    return run


def test_uppy_pauses_goes_offline_and_finishes(
    browse: Callable[..., dict[str, Any]],
    server: ServerProcess,
    random_file: Callable[[int], Path],
    assert_arrived: Callable[[str, Path], None],
) -> None:
    """An upload that is paused, resumed, cut off and resumed again is one upload, and arrives whole."""
    file = random_file(SIZE)
    result = browse(server, "upload", file=str(file), size=SIZE, bytesPerSecond=BYTES_PER_SECOND)
    assert result["failed"] == []
    assert result["successful"] == [result["url"]]
    assert result["created"] == [server.url], "Uppy started anew instead of resuming"
    offline = result["offline"]
    assert offline["noticed"]
    assert (offline["broken"], offline["head"]) == ("PATCH", {"error": "TypeError: Failed to fetch"})
    assert 0 < int(result["paused"]["headers"]["upload-offset"]) < int(offline["offset"]) < SIZE
    finished = result["head"]["headers"]
    assert finished["upload-offset"] == finished["upload-length"] == str(SIZE)
    assert_arrived(result["url"], file)


def test_page_reads_answers(browse: Callable[..., dict[str, Any]], server: ServerProcess) -> None:
    """A script of the page can read what a tus client needs of the answers."""
    metadata = "filename YS5iaW4="
    headers = {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata}
    post = {"url": server.url, "method": "POST", "headers": headers}
    options = {"url": server.url, "method": "OPTIONS"}
    created, capable = browse(server, "fetch", requests=[post, options])["answers"]
    assert created["status"] == 201
    assert "creation" in capable["headers"]["tus-extension"].split(",")
    assert capable["headers"]["tus-version"] == "1.0.0"
    head = {"url": created["headers"]["location"], "method": "HEAD", "headers": TUS}
    (asked,) = browse(server, "fetch", requests=[head])["answers"]
    told = {
        "tus-resumable": "1.0.0",
        "upload-offset": "0",
        "upload-length": "5",
        "upload-metadata": metadata,
    }
    assert told.items() <= asked["headers"].items()


def test_page_reads_errors(browse: Callable[..., dict[str, Any]], server: ServerProcess) -> None:
    """An error answer is not kept from the page, so a client can tell "gone" from "no network"."""
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    unknown = {"url": f"{server.url}unknown", "headers": headers}
    requests = [{**unknown, "method": method} for method in ("PATCH", "DELETE", "GET", "HEAD")]
    answers = browse(server, "fetch", requests=requests)["answers"]
    assert [answer["status"] for answer in answers] == [404] * 4
    assert all(answer["headers"]["tus-resumable"] == "1.0.0" for answer in answers)
    assert [answer["body"].split(":")[0] for answer in answers] == ["ERR_UPLOAD_NOT_FOUND"] * 3 + [""]


@pytest.fixture
def creation() -> dict[str, Any]:
    """A request of a page, and of anyone else, that a tus server answers with 201."""
    return {"method": "POST", "headers": {**TUS, "Upload-Length": "5"}}


def test_page_of_an_allowed_origin(
    browse: Callable[..., dict[str, Any]], upload_dir: Path, origin: str, creation: dict[str, Any]
) -> None:
    """A server that names the page's origin lets it upload."""
    with ServerProcess("--upload-dir", str(upload_dir), "--cors-origin", origin) as server:
        (answer,) = browse(server, "fetch", requests=[{"url": server.url, **creation}])["answers"]
    assert answer["status"] == 201


def test_page_of_another_origin(
    browse: Callable[..., dict[str, Any]], upload_dir: Path, creation: dict[str, Any]
) -> None:
    """A server that names another origin fails the page's preflight; who asks without a browser is served."""
    with ServerProcess("--upload-dir", str(upload_dir), "--cors-origin", "http://other.example") as server:
        result = browse(server, "fetch", requests=[{"url": server.url, **creation}])
        assert result["answers"] == [{"error": "TypeError: Failed to fetch"}]
        assert any("blocked by CORS policy: Response to preflight" in line for line in result["log"])
        assert request(url=server.url, timeout=30, **creation).status_code == 201
