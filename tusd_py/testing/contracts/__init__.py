"""Contracts of stores, states and lockers as classes of tests: inherit one, and give it a fixture that makes yours.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def make_store(self, tmp_path: Path) -> Callable[[], Store]:
            return lambda: MyStore(tmp_path)

The fixture returns a function, because some tests want a second one that sees the same things, as another process
or the next start of the server does; what lives in one process returns the same object again. The tests are
coroutines: run them with pytest and pytest-asyncio in `auto` mode.
"""

from __future__ import annotations

import pytest

# Before they are imported, so that their assertions say what is wrong.
pytest.register_assert_rewrite(f"{__name__}.store", f"{__name__}.state", f"{__name__}.locker")

from tusd_py.testing.contracts.locker import LockerContract  # noqa: E402
from tusd_py.testing.contracts.parts import Tap, new_upload, wait_until  # noqa: E402
from tusd_py.testing.contracts.state import StateContract  # noqa: E402
from tusd_py.testing.contracts.store import MovableContract, StoreContract  # noqa: E402

__all__ = ["LockerContract", "MovableContract", "StateContract", "StoreContract", "Tap", "new_upload", "wait_until"]
