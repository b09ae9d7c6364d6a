"""What is said of interruptions and of real clients holds for a server of this project, over HTTP and HTTPS."""

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from tus_conformance.rules import cases
from tus_conformance.runner import run, selected
from tus_conformance.server import Options, Server

from tusd_py.testing.server import ServerProcess

# Nobody gets in without the header.
BEARER = """
from tusd_py.errors import Reject
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Identity


@hookimpl
async def authenticate(request):
    if request.headers.get("Authorization") != "Bearer secret-token":
        raise Reject("who are you?", status=401)
    return Identity("someone")
"""
TOKEN = ("--header", "Authorization: Bearer secret-token")
JS_CASES = {case.id for case in cases()["clients.tus-js-client"]}
TUSPY_CASES = {case.id for case in cases()["clients.tuspy"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with default settings."""
    with ServerProcess("--upload-dir", str(tmp_path_factory.mktemp("uploads"))) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A server that waits half a second for a silent client."""
    with ServerProcess("--upload-dir", str(tmp_path_factory.mktemp("uploads")), "--read-timeout", "500ms") as server:
        yield server


@pytest.fixture(scope="module")
def upload_dir(tmp_path_factory):
    """Where `guarded` keeps its uploads."""
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, upload_dir):
    """A server that wants to know who you are."""
    plugin = tmp_path_factory.mktemp("plugins") / "bearer.py"
    plugin.write_text(BEARER)
    with ServerProcess("--upload-dir", str(upload_dir), "--plugin", str(plugin)) as server:
        yield server


@pytest.fixture
def uploads(upload_dir):
    """A function that returns the uploads that `guarded` has."""
    return lambda: [file.name for file in upload_dir.iterdir() if re.fullmatch("[0-9a-f]{32}", file.name)]


@pytest.fixture(scope="module")
def user_cache(tmp_path_factory):
    """Where clients are installed, once for all tests of this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(tmp_path, user_cache):
    """A function that runs `tus-conformance` and returns its exit status and the results of each case by id."""

    def run_command(url, *arguments, **environment):
        file = tmp_path / "results.json"
        command = [sys.executable, "-P", "-m", "tus_conformance", url, "--json", str(file), *arguments]
        env = {**os.environ, "XDG_CACHE_HOME": str(user_cache), **environment}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert file.exists(), done.stderr
        assert "secret-token" not in done.stdout + done.stderr + file.read_text()
        results = [case for rule in json.loads(file.read_text())["results"] for case in rule["cases"]]
        return done.returncode, {case["id"]: case for case in results}

    return run_command


def results_of(server, patience, *patterns):
    """What comes of each case of some rules."""
    tested = Server(server.url, Options(patience=patience))
    tested.discover()
    results = {case.id: case for rule in run(tested, selected(patterns)) for case in rule.cases}
    assert tested.forget() == []
    return results


def test_interruptions(server):
    """Every rule of the section holds, and no time-out comes within half a second of silence."""
    results = results_of(server, 0.5, "interruptions", "recommended.prompt-head")
    timeout = results.pop("interruptions.timeout:closes-after-timeout")
    assert {name: case for name, case in results.items() if case.result != "pass"} == {}
    assert (timeout.result, timeout.remark) == ("skipped", "there was no time-out within 0.5 seconds (--patience)")


def test_timeout(impatient):
    """A server that times out closes the connection."""
    results = results_of(impatient, 3, "interruptions.timeout")
    assert {name: case.result for name, case in results.items()} == {
        "interruptions.timeout:closes-after-timeout": "pass"
    }


def test_tuspy(command, guarded, uploads):
    """What tuspy sends in each of its modes arrives, with the headers that are wanted, and is removed in the end."""
    status, results = command(guarded.url, "--only", "clients.tuspy", *TOKEN)
    assert {name: case["result"] for name, case in results.items()} == dict.fromkeys(TUSPY_CASES, "pass")
    assert status == 0
    assert uploads() == []


@pytest.mark.needs_node
def test_tus_js_client(command, guarded, uploads):
    """tus-js-client is installed at first use, and what it sends in each of its modes arrives and is removed too."""
    status, results = command(guarded.url, "--only", "clients.tus-js-client", *TOKEN)
    assert {name: case["result"] for name, case in results.items()} == dict.fromkeys(JS_CASES, "pass")
    assert status == 0
    assert uploads() == []


def test_nobody_gets_in_without_the_header(command, guarded):
    """What a client says of its failure is what the suite tells."""
    status, results = command(guarded.url, "--only", "clients.tuspy")
    assert {case["result"] for case in results.values()} == {"fail"}
    assert all("401" in case["got"] for case in results.values())
    assert status == 0  # nothing that clients do is a MUST


def test_without_node(command, server, tmp_path):
    """Where there is no Node.js it is said that nothing was tried."""
    status, results = command(server.url, "--only", "clients.tus-js-client", PATH=str(tmp_path))
    told = {name: (case["result"], case["remark"]) for name, case in results.items()}
    assert told == dict.fromkeys(JS_CASES, ("skipped", "node and npm are not on the PATH"))
    assert status == 0


@pytest.mark.needs_node
def test_without_a_registry(command, server, tmp_path):
    """Where npm cannot install tus-js-client it is said that nothing was tried, and nothing half-made stays."""
    # Nobody listens there, and nothing was ever fetched before.
    npm = {"registry": "http://127.0.0.1:9/", "cache": str(tmp_path / "npm"), "fetch_retries": "0"}
    environment = {f"npm_config_{name}": value for name, value in npm.items()}
    cache = tmp_path / "cache"
    arguments = ("--only", "clients.tus-js-client")
    status, results = command(server.url, *arguments, XDG_CACHE_HOME=str(cache), **environment)
    assert {case["result"] for case in results.values()} == {"skipped"}
    assert {case["remark"].partition(":")[0] for case in results.values()} == {"tus-js-client could not be installed"}
    assert status == 0
    assert list((cache / "tus-conformance").iterdir()) == []


@pytest.mark.needs_openssl
def test_over_tls(command, tmp_path):
    """Raw requests go over TLS as well, and are cut there."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*openssl.split(), *files], check=True, capture_output=True)
    arguments = ("--tls-cert", str(cert), "--tls-key", str(key), "--upload-dir", str(tmp_path / "uploads"))
    rules = ("interruptions.two-clients", "interruptions.predictable", "recommended.refused-before-body")
    with ServerProcess(*arguments) as server:
        status, results = command(server.url, *[f"--only={rule}" for rule in rules], SSL_CERT_FILE=str(cert))
    assert len(results) > len(rules)
    assert {name: case for name, case in results.items() if case["result"] != "pass"} == {}
    assert status == 0


def test_lock_file_names_no_registry():
    """What is installed is pinned by its digest, and comes from the registry that the user's npm knows."""
    folder = resources.files("tus_conformance.clients")
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    installed = {Path(path).name: package for path, package in packages.items() if path}
    assert {name: installed[name]["version"] for name in wanted} == wanted
    assert all("integrity" in package and "resolved" not in package for package in installed.values())
