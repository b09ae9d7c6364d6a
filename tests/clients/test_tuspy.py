"""tuspy sends a file of 1 GiB, and smaller ones with each of its options."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.server import ServerProcess

pytestmark = pytest.mark.timeout(300)

CHUNK = 64 * 2**20


@pytest.fixture
def small_file(random_file: Callable[[int], Path]) -> Path:
    """A file of a few chunks, the last one shorter."""
    return random_file(2 * CHUNK + 4321)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        pytest.param("big_file", {}, id="plain"),
        pytest.param("small_file", {"upload_checksum": True}, id="sha1 of every chunk"),
        pytest.param("small_file", {"metadata": {"filename": "größe.bin", "empty": ""}}, id="metadata"),
    ],
)
def test_tuspy(
    run_client: Callable[..., list[dict[str, Any]]],
    assert_arrived: Callable[[str, Path], None],
    server: ServerProcess,
    request: pytest.FixtureRequest,
    file: str,
    options: dict[str, Any],
) -> None:
    """Each chunk of 64 MiB is acknowledged with the offset behind it, and all of them are stored."""
    source: Path = request.getfixturevalue(file)
    *answers, finished = run_client(
        sys.executable,
        "upload_tuspy.py",
        file=str(source),
        endpoint=server.url,
        chunk_size=CHUNK,
        **options,
    )
    size = source.stat().st_size
    assert [answer["offset"] for answer in answers] == [*range(0, size, CHUNK), size]
    assert_arrived(finished["finished"], source)
