"""Every locker keeps the contract."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tusd_py.lockers.base import Locker
from tusd_py.lockers.file import FileLocker
from tusd_py.lockers.memory import MemoryLocker
from tusd_py.lockers.redis import RedisLocker
from tusd_py.testing.contracts import LockerContract


class TestMemoryLocker(LockerContract):
    @pytest.fixture
    def make_locker(self) -> Callable[[], Locker]:
        locker = MemoryLocker()
        return lambda: locker


class TestFileLocker(LockerContract):
    @pytest.fixture
    def make_locker(self, tmp_path: Path) -> Callable[[], Locker]:
        return lambda: FileLocker(tmp_path)


class TestFileLockerInDeepDirectory(LockerContract):
    """The path of its socket would be longer than the system takes."""

    @pytest.fixture
    def make_locker(self, tmp_path: Path) -> Callable[[], Locker]:
        return lambda: FileLocker(tmp_path / ("long" * 25))


class TestRedisLocker(LockerContract):
    @pytest.fixture
    def make_locker(self, redis_url: str) -> Callable[[], Locker]:
        return lambda: RedisLocker(redis_url)


class TestRedisLockerInCluster(LockerContract):
    @pytest.fixture
    def make_locker(self, cluster_url: str) -> Callable[[], Locker]:
        return lambda: RedisLocker(cluster_url)
