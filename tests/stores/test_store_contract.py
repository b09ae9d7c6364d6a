"""Every store keeps the contract."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tusd_py.stores.base import Store
from tusd_py.stores.file import FileStore
from tusd_py.stores.memory import MemoryStore
from tusd_py.stores.s3 import S3Store, Settings
from tusd_py.stores.s3_client import Options
from tusd_py.testing.contracts import MovableContract, StoreContract
from tusd_py.testing.s3 import BUCKET, S3Server


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        store = MemoryStore()
        return lambda: store


class TestFileStore(StoreContract):
    @pytest.fixture(params=["never", "finish", "chunk"])
    def make_store(self, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Store]:
        return lambda: FileStore(tmp_path, fsync=request.param)


def make_s3_store(s3: S3Server, checksum: str) -> Callable[[], Store]:
    prefix = f"{secrets.token_hex(8)}/"
    options = Options(endpoint=s3.endpoint, path_style=True)
    return lambda: S3Store(BUCKET, prefix, options, Settings(checksum=checksum))


class TestS3Store(StoreContract):
    @pytest.fixture
    def make_store(self, s3: S3Server) -> Callable[[], Store]:
        return make_s3_store(s3, "full")


@pytest.mark.one_server
class TestS3StoreWithFewerChecksums(StoreContract):
    @pytest.fixture(params=["part", "none"])
    def make_store(self, s3: S3Server, request: pytest.FixtureRequest) -> Callable[[], Store]:
        return make_s3_store(s3, request.param)


class TestMovableMemoryStore(MovableContract):
    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        store = MemoryStore()
        return lambda: store


class TestMovableFileStore(MovableContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: FileStore(tmp_path)


class TestMovableFileStoreWithAnotherDisk(MovableContract):
    """What is under the prefix is on a file system of its own, so that no file can have a name on both."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Iterator[Callable[[], Store]]:
        own = tmp_path.stat().st_dev
        other = next(place for place in ("/dev/shm", "/var/tmp", "/tmp") if os.stat(place).st_dev != own)
        with tempfile.TemporaryDirectory(dir=other) as disk:
            (tmp_path / "apart").symlink_to(disk)
            yield lambda: FileStore(tmp_path)


class TestMovableS3Store(MovableContract):
    @pytest.fixture
    def make_store(self, s3: S3Server) -> Callable[[], Store]:
        prefix, options = f"{secrets.token_hex(8)}/", Options(endpoint=s3.endpoint, path_style=True)
        return lambda: S3Store(BUCKET, prefix, options, Settings())
