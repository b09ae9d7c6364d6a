"""A real tusd-py server in a process of its own, for tests that talk HTTP to it.

    with ServerProcess("--upload-dir", str(tmp_path)) as server:
        requests.options(server.url)

It can be stopped, killed and restarted on the same port, which is what tests of lost connections and
crashed servers need.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class ServerProcessError(Exception):
    """The server did not start, or did not stop; the message holds everything it printed."""


class ServerProcess:
    """`tusd-py serve` on a free port of the loopback interface, started by `with` or by `start()`.

    `args` are the arguments of `tusd-py serve`, `env` is added to the environment. The `TUSD_PY_*` settings
    of the calling process are not passed on, so a test means the same on every machine. `timeout` is how
    many seconds the server may take to accept connections, and to exit once told to. `python` is the interpreter
    of another environment in which tusd-py is installed.
    """

    _ready = re.compile(r"^You can now upload files to: (\S+)\n", re.MULTILINE)

    def __init__(
        self, *args: str, env: Mapping[str, str] | None = None, timeout: float = 60.0, python: str = sys.executable
    ) -> None:
        self._args = args
        self._python = python
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TUSD_PY_")}
        self._env = {**inherited, **(env or {})}
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._url: str | None = None
        # Output goes to a file without a name: unlike a pipe it never fills up and stops the server.
        with tempfile.TemporaryFile() as log:
            self._log = os.dup(log.fileno())
        weakref.finalize(self, os.close, self._log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last; it may have exited."""
        if self._process is None:
            raise ServerProcessError("the server was never started")
        return self._process

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group that holds the server's workers."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Where uploads are created, as the server printed it; the same after a restart."""
        if self._url is None:
            raise ServerProcessError("the server was never ready")
        return self._url

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        if self._process is not None and self._process.poll() is None:
            raise ServerProcessError(f"the server is already running as process {self.pid}")
        printed_before = len(self.output())
        # -P: the package that is installed is the one that runs, whatever lies in the current directory.
        command = [self._python, "-P", "-m", "tusd_py", *self._command(), *self._args]
        self._process = subprocess.Popen(  # noqa: S603 - a test starts the server it was written for
            command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + self._timeout
        while (ready := self._ready.search(self.output(), printed_before)) is None:
            if self._process.poll() is not None:
                self.kill()  # its workers, if it had any
                raise self._error(f"the server exited with {self._process.returncode} before it was ready")
            if time.monotonic() > deadline:
                self.kill()
                raise self._error(f"the server was not ready after {self._timeout:g} seconds")
            self._wait(0.02)
        self._url = ready[1]

    def stop(self) -> int:
        """Ask the server to shut down by SIGTERM, wait for it, and return its exit code."""
        self.process.terminate()
        if self._wait(self._timeout) is None:
            self.kill()
            raise self._error(f"the server was still running {self._timeout:g} seconds after SIGTERM")
        return self.process.returncode

    def kill(self) -> None:
        """End the server and its workers by SIGKILL, as a crash or the kernel would: nothing can be saved."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Start the server once more with the same arguments on the same port; stop it first if it runs."""
        if self.process.poll() is None:
            self.stop()
        self.start()

    def output(self) -> str:
        """Everything the server has printed since the first start, standard output and error together."""
        return os.pread(self._log, os.fstat(self._log).st_size, 0).decode(errors="replace")

    def _command(self) -> list[str]:
        return ["serve", "--port", str(self._port())]

    def _port(self) -> int:
        """The port of the first start, or 0 for a free one."""
        return (urlsplit(self._url).port or 0) if self._url else 0

    def _wait(self, seconds: float) -> int | None:
        """Return the exit code, or None if the server is still running after that time."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def _error(self, what: str) -> ServerProcessError:
        return ServerProcessError(f"{what}; its output:\n{self.output()}")


class WorkerProcess(ServerProcess):
    """`tusd-py worker`, whose `url` is its name; `pages` is where it shows itself, given `--worker-listen`."""

    _ready = re.compile(r"^You can now leave jobs to: (\S+)\n", re.MULTILINE)

    def _command(self) -> list[str]:
        return ["worker"]

    @property
    def pages(self) -> str:
        """The URL below which are its metrics and health checks, as the worker that was started last printed it."""
        found: list[str] = re.findall(r"^It shows itself at: (\S+)$", self.output(), re.MULTILINE)
        return found[-1]
