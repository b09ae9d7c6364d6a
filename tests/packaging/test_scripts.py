"""The scripts that a newcomer runs first, on a copy of the checkout that nothing was set up in."""

import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "scripts", "tusd_py")


@pytest.fixture
def checkout(tmp_path):
    """A fresh copy, in a folder with a space in its name."""
    copy = tmp_path / "my checkout"
    copy.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_as_a_newcomer(command, **options):
    """A child whose environment does not lead back to the one this test runs in."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.Popen(command, env=environment, text=True, **options)


@pytest.mark.timeout(300)
def test_serve_sets_itself_up_and_says_where_to_upload(checkout, tmp_path):
    url = f"http://127.0.0.1:{(port := free_port())}/files/"
    command = [str(checkout / "scripts/serve"), "--port", str(port)]
    for attempt in ("first", "second"):
        log = tmp_path / f"{attempt}.log"
        with log.open("w") as errors:
            server = start_as_a_newcomer(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors)
        try:
            said = server.stdout.readline()
            assert said == f"You can now upload files to: {url}\n", log.read_text()
            with urllib.request.urlopen(urllib.request.Request(url, method="OPTIONS")) as answer:
                assert answer.status < 300
        finally:
            server.send_signal(signal.SIGTERM)
            server.stdout.close()
            assert server.wait(timeout=30) == 0
        assert ("setup: installing" in log.read_text()) == (attempt == "first")
    assert (checkout / ".venv/bin/tusd-py").exists()
    assert (tmp_path / "data").is_dir(), "uploads go below the folder that the command is run in"


def test_setup_says_what_is_wrong_with_the_python_it_is_given(checkout):
    old = checkout / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    setup = subprocess.run(
        [str(checkout / "scripts/setup")],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert setup.returncode == 1
    assert setup.stderr == f"setup: PYTHON={old} is not Python 3.11 or newer\n"
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("name", ["setup", "serve", "test", "lint", "lock", "replicas", "backends"])
def test_scripts_are_executable_and_parse(name):
    script = ROOT / "scripts" / name
    assert os.access(script, os.X_OK)
    parsed = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")
