"""Clients of others upload to two replicas behind nginx, and do not notice what happens to the replicas."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.replicas import Replicas, Service

pytestmark = [pytest.mark.needs_nginx, pytest.mark.timeout(180)]

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
SIZE = 20 * 2**20 + 4321
CHUNK = 2**20


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that is sent."""
    path = tmp_path_factory.mktemp("source") / "source.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


def assert_arrived(url: str, source: Path) -> None:
    """Check that what can be downloaded is what was sent."""
    answer = requests.get(url, timeout=60)
    assert answer.status_code == 200
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(source.read_bytes()).digest()


@pytest.mark.parametrize(
    ("interpreter", "script", "options"),
    [
        pytest.param(sys.executable, "upload_tuspy.py", {"chunk_size": CHUNK}, id="tuspy"),
        pytest.param(
            sys.executable, "upload_tuspy.py", {"chunk_size": CHUNK, "upload_checksum": True}, id="tuspy, checksums"
        ),
        pytest.param(
            "node",
            "upload.mjs",
            {"chunkSize": CHUNK, "retryDelays": None},
            id="tus-js-client",
            marks=pytest.mark.needs_node,
        ),
    ],
)
def test_chunks_go_to_both(
    services: Replicas,
    run_client: Any,
    served: Any,
    source: Path,
    request: pytest.FixtureRequest,
    interpreter: str,
    script: str,
    options: Any,
) -> None:
    """An upload in chunks, each of which reaches another replica, needs no retry and arrives whole."""
    if interpreter == "node":
        request.getfixturevalue("node_packages")
    *answers, last = run_client(interpreter, script, file=str(source), endpoint=services.url, **options)
    assert_arrived(last["finished"], source)
    offsets = [answer["offset"] for answer in answers if answer.get("offset")]
    assert offsets == [*range(CHUNK, SIZE, CHUNK), SIZE]
    counts = served(urlsplit(last["finished"]).path, method="PATCH")
    assert sum(counts.values()) == len(offsets)
    assert min(counts[replica.name] for replica in services.replicas) >= 5


@pytest.mark.needs_node
@pytest.mark.usefixtures("node_packages")
def test_parallel_uploads(services: Replicas, run_client: Any, served: Any, source: Path) -> None:
    """Parts that were sent to both replicas at the same time are joined by one of them."""
    options = {"file": str(source), "endpoint": services.url, "parallelUploads": 4, "retryDelays": None}
    *answers, last = run_client("node", "upload.mjs", **options, metadata={"filename": "größe.bin"})
    assert_arrived(last["finished"], source)
    parts = {urlsplit(answer["url"]).path for answer in answers if answer["concat"] == "partial"}
    assert len(parts) == 4
    counts = served(*parts, method="PATCH")
    assert [counts[replica.name] for replica in services.replicas] == [2, 2], (
        "the one with fewer requests gets the next"
    )


class Client:
    """A client in a process of its own, and what it has been told so far."""

    def __init__(self, log: Path, *command: str, **options: Any) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen([*command, json.dumps(options)], stdout=output)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has printed."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def offset(self) -> int:
        """The last offset that it was told."""
        return max((event.get("offset") or 0 for event in self.events), default=0)

    def wait_until(self, condition: Any) -> None:
        """Wait for something to happen while it runs."""
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, f"it ended too early: {self.events}"
            assert time.monotonic() < deadline, self.events
            with pytest.raises(subprocess.TimeoutExpired):
                self.process.wait(0.01)

    def finish(self) -> str:
        """Wait for its end, and return the URL of the upload."""
        assert self.process.wait(90) == 0
        url: str = self.events[-1]["finished"]
        return url


@pytest.fixture(params=[pytest.param("tus-js-client", marks=pytest.mark.needs_node), "tuspy"])
def client(request: pytest.FixtureRequest, services: Replicas, source: Path, tmp_path: Path) -> Iterator[Any]:
    """A function that starts a client, which sends the file in about six seconds, and tries again after failures."""
    started = []
    if request.param == "tus-js-client":
        request.getfixturevalue("node_packages")

    def start(chunk: int) -> Client:
        common = {"file": str(source), "endpoint": services.url}
        if request.param == "tuspy":
            own = {"chunk_size": chunk, "bytes_per_second": SIZE // 6, "retries": 50, "retry_delay": 0.2}
            command = [sys.executable, str(CLIENTS / "upload_tuspy.py")]
        else:
            own = {"chunkSize": chunk, "bytesPerSecond": SIZE // 6, "retryDelays": [200] * 50}
            command = ["node", str(CLIENTS / "upload.mjs")]
        started.append(Client(tmp_path / f"events-{len(started)}", *command, **common, **own))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def receiving(replica: Service) -> bool:
    """Whether a replica is receiving the body of a request."""
    token = replica.spec["environment"]["TUSD_PY_API_TOKEN"]
    url = f"http://{replica.address}/metrics"
    text = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).text
    return "\nactive_uploads 1.0\n" in text


def assert_resumed(client: Client) -> None:
    """Check that a client went on with the same upload, and never from before an offset that it had been told."""
    assert len({event["url"] for event in client.events if event.get("method") != "POST" and "url" in event}) == 1
    offsets = [event["offset"] for event in client.events if event.get("offset")]
    assert offsets == sorted(offsets)


def test_killed_replica(services: Replicas, client: Any, source: Path) -> None:
    """When a replica is killed in the middle of a PATCH, the client goes on at the other, from a right offset."""
    running = client(chunk=SIZE // 2)
    running.wait_until(lambda: running.offset >= SIZE // 2)
    running.wait_until(lambda: any(map(receiving, services.replicas)))
    victim = next(filter(receiving, services.replicas))
    os.kill(victim.pid, signal.SIGKILL)
    url = running.finish()
    assert not victim.is_running
    assert_arrived(url, source)
    assert_resumed(running)


@pytest.mark.parametrize("chunk", [CHUNK, SIZE], ids=["chunks", "one PATCH"])
def test_rolling_restart(services: Replicas, client: Any, source: Path, chunk: int) -> None:
    """While uploads run, both replicas are stopped and started again, one after the other; all arrive whole."""
    uploads = [client(chunk)]

    def is_uploading() -> bool:
        if uploads[-1].process.poll() is not None:
            uploads.append(client(chunk))
        return any(map(receiving, services.replicas))

    asyncio.run(wait_until(is_uploading))
    for replica in sorted(services.replicas, key=receiving, reverse=True):
        asyncio.run(wait_until(is_uploading))
        replica.terminate()
        assert replica.stop() == 0
        replica.start()
        replica.wait()
    for upload in uploads:
        url = upload.finish()
        assert_arrived(url, source)
        assert_resumed(upload)
