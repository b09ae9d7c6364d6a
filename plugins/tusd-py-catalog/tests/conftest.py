"""A real PostgreSQL, which has its database for all tests of a module."""

import pytest

from tusd_py.testing.postgres import PostgresProcess


@pytest.fixture(scope="module")
def postgres():
    """The URL of an empty database; the server ends with the tests."""
    with PostgresProcess() as server:
        yield server.url
