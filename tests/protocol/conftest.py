"""The protocol is the same whatever the bytes are kept in."""

import pytest

# What depends on the storage; the rest of the protocol is done before it is asked.
ON_S3 = {
    "test_checksum",
    "test_concatenation",
    "test_core",
    "test_defer_length",
    "test_download",
    "test_expiration",
    "test_termination",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of these modules on files and on S3."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_S3 and "server_with" in metafunc.fixturenames:
        metafunc.parametrize("storage", ["file", "s3"], indirect=True, scope="session")
