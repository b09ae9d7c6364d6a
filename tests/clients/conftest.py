"""Fixtures for the tests that drive real clients against a real server.

Set TUSD_PY_TEST_SIZE_MIB for quicker or harder runs: the size of the file that every client sends.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tusd_py.testing.server import ServerProcess

SIZE_MIB = int(os.environ.get("TUSD_PY_TEST_SIZE_MIB", "1024"))


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for large files: in memory if there is ample room, so that the disk does not set the pace."""
    wanted = 5 * SIZE_MIB * 2**20
    memory = Path("/dev/shm")
    free_memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    in_memory = memory.is_dir() and min(shutil.disk_usage(memory).free, free_memory) > wanted
    with tempfile.TemporaryDirectory(prefix="tusd-py-clients-", dir=memory if in_memory else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def random_file(scratch: Path) -> Callable[[int], Path]:
    """A function that returns a file of that many random bytes, the same one each time."""

    @cache
    def make(size: int) -> Path:
        path = scratch / f"source-{size}"
        with path.open("wb") as file:
            while size > 0:
                size -= file.write(os.urandom(min(size, 2**24)))
        return path

    return make


@pytest.fixture(scope="session")
def big_file(random_file: Callable[[int], Path]) -> Path:
    """The file that every client sends whole: of 1 GiB and a little, so that no chunk size divides it."""
    return random_file(SIZE_MIB * 2**20 + 4321)


@pytest.fixture
def upload_dir(scratch: Path) -> Iterator[Path]:
    """The directory of the test's server; what was uploaded goes with it, so disk use stays bounded."""
    with tempfile.TemporaryDirectory(prefix="uploads-", dir=scratch) as folder:
        yield Path(folder)


@pytest.fixture
def server(upload_dir: Path) -> Iterator[ServerProcess]:
    """A running server that keeps its uploads in `upload_dir`, and finds nothing wrong with any client."""
    with ServerProcess("--upload-dir", str(upload_dir), "--log-format", "json") as server:
        yield server
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    assert server.process.returncode == 0


@pytest.fixture
def assert_arrived(upload_dir: Path) -> Callable[[str, Path], None]:
    """A function that compares what is stored for an upload's URL with the file that was sent."""

    def compare(url: str, sent: Path) -> None:
        stored = upload_dir / url.rsplit("/", 1)[-1]
        assert stored.stat().st_size == sent.stat().st_size
        assert sha256(stored) == sha256_of_source(sent)

    return compare


@cache
def sha256_of_source(path: Path) -> str:
    """The digest of a source file, which never changes, taken once."""
    return sha256(path)


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
