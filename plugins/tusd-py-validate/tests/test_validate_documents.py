"""What the documents say of the plugin is so."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tusd_py_validate.filetypes import TYPES, known_names
from tusd_py_validate.settings import Archives, Settings, read

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs/validate.md").read_text()
README = (ROOT / "plugins/tusd-py-validate/README.md").read_text()


def rows(title):
    """The rows of the table under a title."""
    part = DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [re.split(r" ?\| ?", line)[1:-1] for line in part.splitlines() if line.startswith("| `")]


def test_every_setting_is_in_the_table():
    """Names and defaults are those of the settings."""
    told = {key.strip("`"): default.strip("`") for key, default, _ in rows("Settings")}
    names = [*Settings.__struct_fields__, *(f"archives.{name}" for name in Archives.__struct_fields__)]
    assert sorted(told) == sorted(name for name in names if name != "archives")
    plain = {
        name: tomllib.loads(f"x = {default}")["x"] for name, default in told.items() if default not in ("all", "none")
    }
    archives = {name.split(".")[1]: value for name, value in plain.items() if name.startswith("archives.")}
    others = {name: value for name, value in plain.items() if not name.startswith("archives.")}
    assert read({**others, "archives": archives}) == Settings()


def test_every_type_and_group_is_in_the_table():
    """Each group has its types."""
    for group, names in rows("Types"):
        wanted = {each.name for each in TYPES.values() if group.strip("`") in each.groups}
        listed = set(re.findall(r"`([\w-]+)`", names))
        if "compressed" in listed:
            listed = listed - {"compressed"} | {each.name for each in TYPES.values() if "compressed" in each.groups}
        assert listed == wanted, group
    for name in known_names():
        assert f"`{name}`" in DOCUMENT, name


@pytest.mark.parametrize("number", [0, 1])
def test_settings_that_are_shown_can_be_set(number, tmp_path):
    """The tables of the README are accepted, with a folder of schemas beside them."""
    block = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[number]
    assert read(tomllib.loads(block.replace('"schemas"', f'"{tmp_path}"'))["plugins"]["validate"])


def test_code_that_is_shown_runs(tmp_path):
    """The example in Python checks a file."""
    [block] = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    ran = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr
