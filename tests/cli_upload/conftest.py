"""Fixtures for the tests that run `tusd-py upload` as a program against a running server."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tusd_py.testing.server import ServerProcess

MIB = 2**20
TUS = {"Tus-Resumable": "1.0.0"}


class Client:
    """The program, with a state directory of its own."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.state_file = directory / "tusd-py" / "uploads.sqlite3"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TUSD_PY_")}
        self.env = inherited | {"XDG_STATE_HOME": str(directory)}

    def start(self, *args: str | Path, url: str | None = None, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "tusd_py", "upload", *map(str, args), url or self.url]
        # A shell lets what it starts in the background ignore Ctrl-C, and that is inherited.
        return subprocess.Popen(
            command,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *args: str | Path, url: str | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(*args, url=url) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def send(self, *args: str | Path) -> list[dict[str, Any]]:
        """Run it to success and return what `--json` prints."""
        result = self.run("--json", *args)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    def assert_arrived(self, url: str, path: Path) -> None:
        """The bytes of the file are what the server gives back."""
        answer = requests.get(url, headers=TUS, timeout=30)
        assert answer.status_code == 200
        assert sha256(answer.content) == sha256(path.read_bytes())

    def metadata(self, url: str) -> dict[str, str]:
        """What the server knows of the file."""
        header = requests.head(url, headers=TUS, timeout=30).headers["Upload-Metadata"]
        items = (item.partition(" ") for item in header.split(","))
        return {key: b64decode(value).decode() for key, _, value in items}

    def remembered(self) -> list[str]:
        """The URLs in the state file."""
        if not self.state_file.exists():
            return []
        with closing(sqlite3.connect(self.state_file, timeout=30)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'uploads'").fetchone():
                return []
            return [url for (url,) in database.execute("SELECT url FROM uploads")]


@pytest.fixture
def upload_dir(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def server(upload_dir: Path) -> Iterator[ServerProcess]:
    with ServerProcess("--upload-dir", str(upload_dir)) as server:
        yield server


@pytest.fixture
def client_of(tmp_path: Path) -> Callable[[str], Client]:
    """A function that makes a client for a URL."""
    return lambda url: Client(url, tmp_path / "state")


@pytest.fixture
def client(server: ServerProcess, client_of: Callable[[str], Client]) -> Client:
    """A client of the server."""
    return client_of(server.url)


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, size: int) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        return path

    return make


@pytest.fixture
def wait_for_bytes(client: Client, upload_dir: Path) -> Callable[[subprocess.Popen[str]], str]:
    """A function that waits until the server has a part of the only upload, and returns its URL."""

    def wait(process: subprocess.Popen[str]) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            # Read from the disk: a HEAD would take part in what is being tested.
            for url in client.remembered():
                stored = upload_dir / url.rpartition("/")[2]
                if stored.exists() and stored.stat().st_size >= MIB:
                    return url
            time.sleep(0.01)
        raise AssertionError(f"no part of the file arrived: {process.communicate()}")

    return wait


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
