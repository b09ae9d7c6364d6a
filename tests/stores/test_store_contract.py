"""Every store keeps the contract."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tusd_py.stores.base import Store
from tusd_py.stores.file import FileStore
from tusd_py.stores.memory import MemoryStore
from tusd_py.testing.contracts import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        store = MemoryStore()
        return lambda: store


class TestFileStore(StoreContract):
    @pytest.fixture(params=["never", "finish", "chunk"])
    def make_store(self, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Store]:
        return lambda: FileStore(tmp_path, fsync=request.param)
