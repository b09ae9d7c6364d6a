"""Clients and servers are killed at random points of an upload, and no acknowledged byte is lost.

The points are drawn anew in each run. A failed test prints its seed; TUSD_PY_TEST_SEED draws the same again.
"""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from tusd_py.testing.server import ServerProcess

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
SIZE = 128 * 2**20 + 4321
CHUNK = 8 * 2**20
# Slow enough that a kill finds the client in the middle of a request.
BYTES_PER_SECOND = 64 * 2**20
KILLS = 3
# At least and at most this much arrives between two kills, so that something is left to send after the last.
STEP = (SIZE // 20, SIZE // 5)
# A client may wait for a restarted server this often, 200 ms each time.
PATIENCE = 100


@dataclass(frozen=True)
class Kind:
    """A client program and how it is told to resume, to wait, and to send slowly."""

    interpreter: str
    script: str
    url_storage: str
    options: dict[str, Any]

    def command(self, file: Path, endpoint: str, url_storage: Path) -> list[str]:
        """The command that uploads the file, or what is left of it."""
        where = {"file": str(file), "endpoint": endpoint, self.url_storage: str(url_storage)}
        return [self.interpreter, str(HERE / self.script), json.dumps({**where, **self.options})]


def tus_js_client(**options: Any) -> Kind:
    """Return tus-js-client with these options."""
    defaults = {"bytesPerSecond": BYTES_PER_SECOND, "retryDelays": [200] * PATIENCE}
    return Kind("node", "upload.mjs", "urlStorage", {**defaults, **options})


def tuspy(**options: Any) -> Kind:
    """Return tuspy with these options."""
    defaults = {"bytes_per_second": BYTES_PER_SECOND, "retries": PATIENCE, "retry_delay": 0.2}
    metadata = {"metadata": {"filename": "source.bin"}}
    return Kind(sys.executable, "upload_tuspy.py", "url_storage", {**defaults, **metadata, **options})


KINDS = [
    pytest.param(tus_js_client(), id="tus-js-client, one PATCH", marks=pytest.mark.needs_node),
    pytest.param(tus_js_client(chunkSize=CHUNK), id="tus-js-client, chunks", marks=pytest.mark.needs_node),
    pytest.param(
        tus_js_client(parallelUploads=4, bytesPerSecond=BYTES_PER_SECOND // 4),
        id="tus-js-client, four in parallel",
        marks=pytest.mark.needs_node,
    ),
    pytest.param(tuspy(), id="tuspy, one PATCH"),
    pytest.param(tuspy(chunk_size=CHUNK), id="tuspy, chunks"),
    pytest.param(tuspy(chunk_size=CHUNK // 2, upload_checksum=True), id="tuspy, chunks with checksum"),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each client, with what it needs installed."""
    kind: Kind = request.param
    if kind.interpreter == "node":
        request.getfixturevalue("node_packages")
    return kind


class Client:
    """One run after the other of a client, and everything that all of them reported."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command = command
        self.log = log
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Run the client, so that it uploads or resumes."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log)

    def kill(self) -> None:
        """Kill the client in the middle of its work."""
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL, f"it ended before it was killed: {self.events()}"

    def events(self) -> list[dict[str, Any]]:
        """What the client has reported so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def finish(self) -> str:
        """Let the client upload the rest, and return the upload's URL."""
        assert self.process.wait() == 0
        url: str = self.events()[-1]["finished"]
        return url


@pytest.fixture
def rng() -> random.Random:
    """Random numbers; a failed test shows their seed."""
    seed = int(os.environ.get("TUSD_PY_TEST_SEED", secrets.randbits(32)))
    sys.stdout.write(f"TUSD_PY_TEST_SEED={seed}\n")
    return random.Random(seed)


@pytest.fixture
def source(random_file: Callable[[int], Path]) -> Path:
    """The file to upload."""
    return random_file(SIZE)


def stored(upload_dir: Path) -> int:
    """How many bytes the server has written so far, to all uploads together."""
    return sum(path.stat().st_size for path in upload_dir.iterdir() if "." not in path.name)


def wait_until_stored(upload_dir: Path, target: int, process: subprocess.Popen[Any]) -> int:
    """Wait until the server has written that many bytes, and return how many there are; the client still runs."""
    while (arrived := stored(upload_dir)) < target:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
            break
    assert process.poll() is None, f"the client ended with {process.returncode} when {arrived} were stored"
    return arrived


class Promises:
    """The highest offset that the server has told anyone, of each upload: it must never tell a lower one."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}

    def check(self, client: Client) -> None:
        """Check all that the client was told, in order, and then what the server tells now."""
        told: dict[str, int] = {}
        for event in client.events():
            if url := event.get("url"):
                before = told.setdefault(url, 0)
                told[url] = event.get("offset", before)
                assert told[url] >= before, f"{url} went back to {told[url]} from {before}"
        for url, offset in told.items():
            self.check_now(url, offset)

    def check_kept(self, client: Client, arrived: int) -> None:
        """Check that what arrived with the interrupted requests is told as soon as the server notices their end."""
        deadline = time.monotonic() + 30
        while sum(self.offsets.values()) < arrived:
            assert time.monotonic() < deadline, f"{arrived} had arrived, but the server tells {self.offsets}"
            self.check(client)

    def check_now(self, url: str, told: int) -> int:
        """Check that the server tells no lower offset now than before, and return it."""
        self.offsets[url] = max(told, self.offsets.get(url, 0))
        answer = requests.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=30)
        assert answer.status_code in (200, 204), f"HEAD {url} was answered with {answer.status_code}"
        offset = int(answer.headers["Upload-Offset"])
        assert offset >= self.offsets[url], f"{url} is at {offset}, but was at {self.offsets[url]}"
        self.offsets[url] = offset
        return offset


def assert_resumed(client: Client, kind: Kind, finished: str) -> None:
    """Check that every run of the client went on with the uploads of the first one."""
    urls = {event["url"] for event in client.events() if "url" in event}
    assert finished in urls
    assert len(urls) == (1 + kind.options["parallelUploads"] if "parallelUploads" in kind.options else 1)


def test_killed_client(
    kind: Kind,
    server: ServerProcess,
    upload_dir: Path,
    source: Path,
    tmp_path: Path,
    rng: random.Random,
    assert_arrived: Callable[[str, Path], None],
) -> None:
    """A client that is killed several times resumes each time, and the file arrives whole."""
    promises = Promises()
    command = kind.command(source, server.url, tmp_path / "urls.json")
    with Client(command, tmp_path / "events") as client:
        arrived = 0
        for _ in range(KILLS):
            arrived = wait_until_stored(upload_dir, arrived + rng.randint(*STEP), client.process)
            client.kill()
            promises.check(client)
            if "upload_checksum" not in kind.options:
                promises.check_kept(client, arrived)
            client.start()
        finished = client.finish()
        promises.check(client)
    assert_resumed(client, kind, finished)
    assert_arrived(finished, source)


def test_killed_server(
    kind: Kind,
    server: ServerProcess,
    upload_dir: Path,
    source: Path,
    tmp_path: Path,
    rng: random.Random,
    assert_arrived: Callable[[str, Path], None],
) -> None:
    """A server that is killed several times keeps all it acknowledged; the client's retries do the rest."""
    promises = Promises()
    command = kind.command(source, server.url, tmp_path / "urls.json")
    with Client(command, tmp_path / "events") as client:
        arrived = 0
        for _ in range(KILLS):
            arrived = wait_until_stored(upload_dir, arrived + rng.randint(*STEP), client.process)
            server.kill()
            server.restart()
            promises.check(client)
        finished = client.finish()
        promises.check(client)
    assert_resumed(client, kind, finished)
    assert_arrived(finished, source)


@pytest.mark.needs_curl
def test_killed_curl(
    server: ServerProcess,
    upload_dir: Path,
    source: Path,
    rng: random.Random,
    assert_arrived: Callable[[str, Path], None],
) -> None:
    """curl is killed several times and then given the rest of the file, from the offset that HEAD tells."""
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(SIZE)}
    url = requests.post(server.url, headers=headers, timeout=30).headers["Location"]
    curl = ["curl", "--no-progress-meter", "--fail", "--limit-rate", str(BYTES_PER_SECOND)]
    patch = ["--request", "PATCH", "--upload-file", "-", "--header", "Tus-Resumable: 1.0.0"]
    content_type = ["--header", "Content-Type: application/offset+octet-stream"]
    promises = Promises()
    for kills_left in range(KILLS, -1, -1):
        offset = promises.check_now(url, 0)
        command = [*curl, *patch, *content_type, "--header", f"Upload-Offset: {offset}", url]
        with source.open("rb", buffering=0) as rest:
            rest.seek(offset)
            with subprocess.Popen(command, stdin=rest) as process:
                try:
                    if kills_left:
                        wait_until_stored(upload_dir, offset + rng.randint(*STEP), process)
                    else:
                        assert process.wait() == 0
                finally:
                    process.kill()
    assert promises.check_now(url, 0) == SIZE
    assert_arrived(url, source)
