"""Fixtures for tests that talk HTTP to a real server.

Servers are shared: one for each set of options in each test process, since a start takes longer than most tests.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess


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
    """Fail if a server that has ended printed a traceback."""
    assert server.process.returncode == 0
    assert "Traceback" not in server.output(), server.output()


@pytest.fixture(scope="session")
def server(server_with: Callable[..., ServerProcess]) -> ServerProcess:
    """A running server with default settings."""
    return server_with()


@pytest.fixture
def tus(server: ServerProcess) -> RawClient:
    """A raw client of the server with default settings."""
    return RawClient(server.url)
