"""The conformance suite holds for two replicas behind nginx, although each request may reach another one."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.replicas import Replicas

pytestmark = [pytest.mark.needs_nginx, pytest.mark.timeout(300)]

# nginx itself says 100 Continue before it asks a server.
NGINX = {"recommended.refused-before-body"}


def test_conforms(services: Replicas, served: Any, tmp_path: Path) -> None:
    """Every rule holds that counts, and both replicas had their share of the requests."""
    before = served()
    report = tmp_path / "report.json"
    command = [str(Path(sysconfig.get_path("scripts"), "tus-conformance")), services.url]
    ran = subprocess.run(
        [*command, "--patience", "1", "--json", str(report)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = {result["rule"]["id"]: result["result"] for result in json.loads(report.read_text())["results"]}
    assert {rule for rule, result in results.items() if result in ("fail", "blocked")} <= NGINX
    assert sum(result == "pass" for result in results.values()) > 90
    counts = served() - before
    assert min(counts[replica.name] for replica in services.replicas) > 100
    assert max(counts.values()) < 2 * min(counts.values())
