"""Fixtures for tests that hurt a real server: kill it, stop it, fill its disk, take its files away."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest

from tusd_py.testing.raw import OFFSET_STREAM, Connection, RawClient
from tusd_py.testing.server import ServerProcess

# How many tests were left out for which missing means.
NOT_RUN = pytest.StashKey[dict[str, int]]()
MARKERS = {
    "needs_mount": "mounts file systems: as root, or inside `unshare --user --map-root-user --mount`",
    "needs_strace": "runs strace",
}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@cache
def missing(marker: str) -> str:
    """What this machine lacks for tests with a marker; nothing if they can run."""
    if marker == "needs_strace":
        return "" if shutil.which("strace") else "strace (not found on PATH)"
    with tempfile.TemporaryDirectory() as folder:
        if mounted := subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode == 0:
            subprocess.run(["umount", folder], check=True)
    return "" if mounted else "to mount file systems (root can, and `unshare --user --map-root-user --mount`)"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that this machine cannot run, or refuse to run if TUSD_PY_REQUIRE_ALL is 1."""
    lacks = {
        item: ", ".join(filter(None, (missing(mark.name) for mark in item.iter_markers() if mark.name in MARKERS)))
        for item in items
    }
    not_run = Counter(lack for lack in lacks.values() if lack)
    if not_run and os.environ.get("TUSD_PY_REQUIRE_ALL") == "1":
        raise pytest.UsageError("\n".join(not_run_lines(not_run)))
    config.hook.pytest_deselected(items=[item for item in items if lacks[item]])
    items[:] = [item for item in items if not lacks[item]]
    config.stash[NOT_RUN] = not_run
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist collects, but only its controller prints
        config.workeroutput["not_run_durability"] = dict(not_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist left out; each worker leaves out the same."""
    node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not_run_durability", {})


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, last of all."""
    for line in not_run_lines(config.stash.get(NOT_RUN, {})):
        terminalreporter.write_line(line, yellow=True, bold=True)


def not_run_lines(not_run: dict[str, int]) -> list[str]:
    """One line for each thing that is missing."""
    return [
        f"NOT RUN: {count} {'test needs' if count == 1 else 'tests need'} {lack}" for lack, count in not_run.items()
    ]


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


@pytest.fixture
def log_events() -> Callable[[ServerProcess, str], list[str]]:
    """A function that returns the log lines with an event."""
    return lambda server, event: [line for line in server.output().splitlines() if f'"event": "{event}"' in line]
