"""Fixtures for tests that talk HTTP to a real server.

Servers are shared: one for each set of options in each test process, since a start takes longer than most tests.
HYPOTHESIS_PROFILE=soak runs property tests with random examples, and many more of them.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
from hypothesis import settings

from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

# Everybody is who they say; an upload gets the id that its metadata asks for.
PEOPLE = """
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Changes, Identity


@hookimpl
async def authenticate(request):
    name = request.headers.get("X-User")
    return Identity(name) if name else None


@hookimpl
async def pre_create(request, upload):
    return Changes(id=upload.metadata["id"]) if "id" in upload.metadata else None
"""

# What tests with a marker of pyproject.toml need on the PATH.
TOOLS = {
    "needs_node": ["node", "npm"],
    "needs_chromium": ["chromium"],
    "needs_curl": ["curl"],
    "needs_openssl": ["openssl"],
    "needs_strace": ["strace"],
    "needs_mount": ["mount", "umount"],
}

# How many tests were left out for which missing means.
NOT_RUN = pytest.StashKey[dict[str, int]]()

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that this machine cannot run, or refuse to run if TUSD_PY_REQUIRE_ALL is 1."""
    lacks = {
        item: ", ".join(sorted({lack for mark in item.iter_markers() for lack in missing(mark.name)})) for item in items
    }
    not_run = Counter(lack for lack in lacks.values() if lack)
    if not_run and os.environ.get("TUSD_PY_REQUIRE_ALL") == "1":
        raise pytest.UsageError("\n".join(not_run_lines(not_run)))
    config.hook.pytest_deselected(items=[item for item in items if lacks[item]])
    items[:] = [item for item in items if not lacks[item]]
    config.stash[NOT_RUN] = not_run
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist collects, but only its controller prints
        config.workeroutput["not_run"] = dict(not_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist left out; each worker leaves out the same."""
    node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not_run", {})


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, last of all."""
    for line in not_run_lines(config.stash.get(NOT_RUN, {})):
        terminalreporter.write_line(line, yellow=True, bold=True)


@cache
def missing(marker: str) -> tuple[str, ...]:
    """Return what this machine lacks for tests with a marker."""
    lacks = [f"{tool} (not found on PATH)" for tool in TOOLS.get(marker, []) if shutil.which(tool) is None]
    if marker == "needs_mount" and not lacks and not can_mount():
        lacks = ["to mount file systems (root can, and `unshare --user --map-root-user --mount`)"]
    return tuple(lacks)


def can_mount() -> bool:
    """Return whether file systems can be mounted, by mounting one."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode == 0
        if mounted:
            subprocess.run(["umount", folder], check=True)
    return mounted


def not_run_lines(not_run: dict[str, int]) -> list[str]:
    """Return one line for each thing that is missing."""
    return [
        f"NOT RUN: {count} {'test needs' if count == 1 else 'tests need'} {lack}" for lack, count in not_run.items()
    ]


@pytest.fixture(scope="session")
def server_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServerProcess]]:
    """A function that returns a running server with these options, the same one for the same options.

    However a server was treated, it ends in good order and has met no error that it did not expect.
    """
    with ExitStack() as servers:

        @cache
        def start(*options: str) -> ServerProcess:
            upload_dir = tmp_path_factory.mktemp("uploads")
            server = ServerProcess("--upload-dir", str(upload_dir), "--log-format", "json", *options)
            servers.callback(check_output, server)
            return servers.enter_context(server)

        yield start


def check_output(server: ServerProcess) -> None:
    """Fail if a server has not ended well or has logged an error."""
    assert server.process.returncode == 0
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    errors = [line for line in lines if line["level"] == "error"]
    assert not errors, json.dumps(errors, indent=1)


@pytest.fixture(scope="session")
def server(server_with: Callable[..., ServerProcess]) -> ServerProcess:
    """A running server with default settings."""
    return server_with()


@pytest.fixture(scope="session")
def tus(server: ServerProcess) -> RawClient:
    """A raw client of the server with default settings."""
    return RawClient(server.url)


@pytest.fixture(scope="session")
def limited(server_with: Callable[..., ServerProcess]) -> RawClient:
    """A raw client of a server that takes 100 bytes at most."""
    return RawClient(server_with("--max-size", "100").url)


@pytest.fixture(scope="session")
def people(server_with: Callable[..., ServerProcess], tmp_path_factory: pytest.TempPathFactory) -> RawClient:
    """A raw client of a server that takes everybody, by `X-User`, for who they say, and binds uploads to them."""
    plugin = tmp_path_factory.mktemp("plugins") / "people.py"
    plugin.write_text(PEOPLE)
    return RawClient(server_with("--plugin", str(plugin)).url)
