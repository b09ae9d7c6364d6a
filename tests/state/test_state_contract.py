"""Every state keeps the contract."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tusd_py.state.base import State
from tusd_py.state.memory import MemoryState
from tusd_py.state.redis import RedisState
from tusd_py.state.sqlite import SqliteState
from tusd_py.testing.contracts import StateContract


class TestMemoryState(StateContract):
    @pytest.fixture
    def make_state(self) -> Callable[[], State]:
        state = MemoryState()
        return lambda: state


class TestSqliteState(StateContract):
    @pytest.fixture
    def make_state(self, tmp_path: Path) -> Callable[[], State]:
        return lambda: SqliteState(tmp_path / "uploads.db")


class TestRedisState(StateContract):
    @pytest.fixture
    def make_state(self, redis_url: str) -> Callable[[], State]:
        return lambda: RedisState(redis_url)


class TestRedisStateInCluster(StateContract):
    @pytest.fixture
    def make_state(self, cluster_url: str) -> Callable[[], State]:
        return lambda: RedisState(cluster_url)
