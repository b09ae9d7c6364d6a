"""Fixtures for tests that talk HTTP to a real server.

Servers are shared: one for each set of options in each test process, since a start takes longer than most tests.
HYPOTHESIS_PROFILE=soak runs property tests with random examples, and many more of them.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

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

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


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
    """Fail if a server has not ended well or has logged an error other than that a request was no HTTP."""
    assert server.process.returncode == 0
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    assert [line for line in lines if line["level"] == "error" and line["logger"] != "aiohttp.server"] == []


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
