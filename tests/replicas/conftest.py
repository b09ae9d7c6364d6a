"""Fixtures for tests of two replicas behind nginx, as deploy/docker-compose.yml has them."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tusd_py.testing.raw import RawClient
from tusd_py.testing.replicas import Replicas, Service

COMPOSE_FILE = Path(__file__).resolve().parents[2] / "deploy" / "docker-compose.yml"
TOKEN = "token-of-the-operator"
VARIABLES = {
    "SHUTDOWN_TIMEOUT": "4s",  # a PATCH that does not end may hold up a replica for half of it
    "TUSD_PY_API_TOKEN": TOKEN,
    "TUSD_PY_MAX_SIZE": "1GiB",
    "TUSD_PY_CONCATENATION_UNFINISHED": "true",
    # Relative, for absolute paths are taken for those of a container.
    "TUSD_PY_PLUGIN": os.path.relpath(Path(__file__).with_name("delivers.py")),
}


@pytest.fixture(scope="session")
def all_services() -> Iterator[Replicas]:
    """All services, which tests share; none of them met an error that it did not expect, and all end in good order."""
    with Replicas(COMPOSE_FILE, variables=VARIABLES, profiles=["jobs"]) as running:
        yield running
        outputs = {service.name: service.output() for service in [*running.replicas, running.services["worker"]]}
        codes = {service.name: service.stop() for service in reversed(running.services.values())}
    for output in outputs.values():
        errors = [line for line in output.splitlines() if '"level": "error"' in line or line.startswith("Traceback")]
        assert errors == []
    assert [name for name, code in codes.items() if code != 0] == []


@pytest.fixture
def services(all_services: Replicas) -> Iterator[Replicas]:
    """All services; a replica that the test has ended runs again afterwards."""
    yield all_services
    for replica in all_services.replicas:
        if not replica.is_running:
            replica.start()
            replica.wait()


@pytest.fixture
def tus(services: Replicas) -> RawClient:
    """A raw client that talks to nginx."""
    return RawClient(services.url)


class Direct(RawClient):
    """A raw client that talks to one replica, past nginx."""

    def __init__(self, replica: Service) -> None:
        super().__init__(f"http://{replica.address}/files/")
        self.replica = replica

    def own(self, url: str) -> str:
        """The URL of an upload, at this replica."""
        return urlsplit(url)._replace(netloc=self.replica.address).geturl()

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        url = f"http://{self.replica.address}/metrics"
        text = (await self.request("GET", url, {"Authorization": f"Bearer {TOKEN}"})).body.decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])

    async def is_receiving(self) -> bool:
        """Whether the body of a request is being received."""
        return await self.metric("active_uploads") > 0


@pytest.fixture
def direct(services: Replicas) -> list[Direct]:
    """A raw client for each replica."""
    return [Direct(replica) for replica in services.replicas]


@pytest.fixture
def served(services: Replicas) -> Any:
    """A function that counts the requests that each replica has answered, those to some paths or all."""

    def count(*paths: str, method: str = "") -> Counter[str]:
        counts: Counter[str] = Counter()
        for replica in services.replicas:
            lines = [json.loads(line) for line in replica.output().splitlines() if line.startswith("{")]
            for line in lines:
                if line["event"] == "request" and method in ("", line["method"]):
                    counts[replica.name] += not paths or line["path"] in paths
        return counts

    return count
