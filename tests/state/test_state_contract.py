"""Every state keeps the contract."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tusd_py.state.base import State
from tusd_py.state.memory import MemoryState
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
