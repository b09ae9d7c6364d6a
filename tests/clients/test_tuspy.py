"""tuspy sends a file of 1 GiB."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.server import ServerProcess

pytestmark = pytest.mark.timeout(300)

CHUNK = 64 * 2**20


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"upload_checksum": True}, id="sha1 of every chunk"),
        pytest.param({"metadata": {"filename": "größe.bin", "empty": ""}}, id="metadata"),
    ],
)
def test_tuspy(
    run_client: Callable[..., list[dict[str, Any]]],
    assert_arrived: Callable[[str, Path], None],
    server: ServerProcess,
    big_file: Path,
    options: dict[str, Any],
) -> None:
    """Each chunk of 64 MiB is acknowledged with the offset behind it, and all of them are stored."""
    *answers, finished = run_client(
        sys.executable,
        "upload_tuspy.py",
        file=str(big_file),
        endpoint=server.url,
        chunk_size=CHUNK,
        **options,
    )
    size = big_file.stat().st_size
    assert [answer["offset"] for answer in answers] == [*range(0, size, CHUNK), size]
    assert_arrived(finished["finished"], big_file)
