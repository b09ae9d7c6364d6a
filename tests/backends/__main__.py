"""Runs the tests of S3 against one server after the other, and prints a table of the outcomes; see scripts/backends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import radosgw
import versitygw
from missing import Missing

from tusd_py.testing.s3 import LocalStackServer, S3Server, SeaweedServer

ROOT = Path(__file__).parents[2]
# Of the stores' tests those that use S3.
TESTS = ["-k", "s3", "tests/stores", "tests/durability/test_s3.py"]
LARGE = ["tests/backends/large.py"]


def nothing_to_do() -> None:
    """Everything is there: scripts/setup has seen to it."""


# How each is made ready, which says why it cannot be had, and started in a folder.
BACKENDS: dict[str, tuple[Callable[[], None], Callable[[Path], S3Server]]] = {
    "seaweedfs": (nothing_to_do, SeaweedServer),
    "localstack": (nothing_to_do, LocalStackServer),
    "radosgw": (radosgw.set_up, radosgw.RadosGateway),
    "versitygw": (versitygw.set_up, versitygw.VersityGateway),
}


def run(name: str, options: list[str]) -> tuple[str, bool]:
    """Run the tests against one server; return how they ended, and whether well."""
    set_up, server_in = BACKENDS[name]
    try:
        set_up()
        with tempfile.TemporaryDirectory(prefix=f"tusd-py-{name}-") as folder, server_in(Path(folder)) as server:
            environment = {**os.environ, "TUSD_PY_TEST_S3": f"{name}={server.endpoint}"}
            command = ["pytest", "-p", "no:cacheprovider", "--tb=short", *options]
            pytest = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
            assert pytest.stdout is not None
            closing = ""
            for line in pytest.stdout:
                print(line, end="", flush=True)
                closing = line
            return re.sub(r"\x1b\[\d*m", "", closing).strip("= \n"), pytest.wait() == 0
    except Missing as reason:
        return f"cannot be had here: {reason}", False


def main(arguments: list[str]) -> int:
    """Run what was asked for, or everything."""
    names = [argument for argument in arguments if argument in BACKENDS] or list(BACKENDS)
    tests = LARGE if "--large" in arguments else TESTS
    options = [*tests, *(argument for argument in arguments if argument not in (*BACKENDS, "--large"))]
    rows, is_good = [], True
    for name in names:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        outcome, is_well = run(name, options)
        is_good = is_good and is_well
        rows.append(f"{name:<12} {'ok' if is_well else 'FAILED':<7} {time.monotonic() - start:4.0f} s  {outcome}")
    print("\n== summary", *rows, sep="\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
