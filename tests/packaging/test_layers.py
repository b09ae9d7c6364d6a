"""The layers of the house hold: see [tool.importlinter] in pyproject.toml."""

import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_imports_go_down_only():
    command = [str(Path(sysconfig.get_path("scripts")) / "lint-imports"), "--no-logo"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
