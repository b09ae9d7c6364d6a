"""Fixtures for tests that hurt a real server: kill it, stop it, fill its disk, take its files away."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tusd_py.testing.raw import OFFSET_STREAM, Connection, RawClient
from tusd_py.testing.server import ServerProcess


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The upload directory; the server makes it."""
    return tmp_path / "data"


class Start(Protocol):
    """Starts a server."""

    def __call__(self, *options: str, data: Path = ..., env: dict[str, str] = ...) -> ServerProcess: ...


@pytest.fixture
def start(data: Path) -> Iterator[Start]:
    """A function that starts a server with these options; at the end all are killed, and none had an internal error."""
    own = data
    with ExitStack() as servers:

        def begin(*options: str, data: Path = own, env: dict[str, str] | None = None) -> ServerProcess:
            server = ServerProcess(
                *("--upload-dir", str(data), "--log-format", "json", "--shutdown-timeout", "4s", "--create-rate", "0"),
                *options,
                env=env,
            )
            servers.callback(assert_no_traceback, server)
            servers.callback(kill, server)
            server.start()
            return server

        yield begin


def kill(server: ServerProcess) -> None:
    """End a server, unless it never began."""
    with contextlib.suppress(Exception):
        server.kill()


def assert_no_traceback(server: ServerProcess) -> None:
    """Fail if the server met an error that it did not expect."""
    assert "Traceback" not in server.output(), server.output()


class Sending:
    """A PATCH that goes on as long as the test wants."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def send(self, data: bytes) -> None:
        """Send more of the body."""
        await self.connection.send(data)

    async def answer(self) -> Any:
        """Wait for the answer."""
        return await self.connection.answer("PATCH")


class BeginPatch(Protocol):
    """Begins a PATCH."""

    def __call__(
        self, client: RawClient, url: str, offset: int, length: int, data: bytes, *, over: Connection | None = None
    ) -> AbstractAsyncContextManager[Sending]: ...


@pytest.fixture
def begin_patch() -> BeginPatch:
    """A function that sends the head of a PATCH of `length` bytes and the first of them, and leaves it open."""

    @contextlib.asynccontextmanager
    async def begin(
        client: RawClient, url: str, offset: int, length: int, data: bytes, *, over: Connection | None = None
    ) -> AsyncIterator[Sending]:
        headers = {"Upload-Offset": offset, "Content-Type": OFFSET_STREAM, "Content-Length": length}
        async with contextlib.AsyncExitStack() as stack:
            connection = over or await stack.enter_async_context(client.connect())
            await connection.send(client.message("PATCH", url, headers) + data)
            yield Sending(connection)

    return begin


@pytest.fixture
def stored(data: Path) -> Callable[[str], int]:
    """A function that returns how many bytes of an upload's URL are on the disk."""
    return lambda url: (data / url.rsplit("/", 1)[-1]).stat().st_size


def children(server: ServerProcess) -> list[int]:
    """The ids of the server's worker processes that run, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                # Workers outlive a killed parent for a moment, but stay in its group.
                if state != "Z" and int(group) == server.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return sorted(found)


@pytest.fixture
def workers() -> Callable[[ServerProcess], list[int]]:
    """A function that returns the process ids of a server's workers."""
    return children


class ToWorker(Protocol):
    """Connects to one worker."""

    def __call__(
        self, client: RawClient, server: ServerProcess, pid: int
    ) -> AbstractAsyncContextManager[Connection]: ...


@pytest.fixture
def to_worker() -> ToWorker:
    """A function that opens a connection to the worker with this process id: the others are stopped for a moment."""

    @contextlib.asynccontextmanager
    async def connect(client: RawClient, server: ServerProcess, pid: int) -> AsyncIterator[Connection]:
        others = [other for other in children(server) if other != pid]
        with stopped(*others):
            async with client.connect() as connection:
                await connection.send(client.message("OPTIONS"))
                assert (await connection.answer()).status == 200
                for other in others:
                    os.kill(other, 18)  # SIGCONT; the one in `stopped` is for failures
                yield connection

    return connect


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Keep processes from running."""
    for pid in pids:
        os.kill(pid, 19)  # SIGSTOP
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 18)


@pytest.fixture
def stop_process() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """A context manager in which processes do not run."""
    return stopped


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts an empty file system in memory with these options, and returns its directory."""
    with ExitStack() as mounts:

        def make(options: str) -> Path:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
            mounts.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return folder

        yield make
