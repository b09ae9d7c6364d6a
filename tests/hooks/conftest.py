"""Fixtures for tests of plugins."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def installed_plugin(tmp_path: Path) -> Callable[[str, str], Mapping[str, str]]:
    """A function that installs a module as a plugin's distribution would, and returns the environment that sees it."""

    def install(name: str, source: str) -> Mapping[str, str]:
        site = tmp_path / "site-packages"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tusd_py]\n{name} = {name}\n")
        return {**os.environ, "PYTHONPATH": str(site)}

    return install
