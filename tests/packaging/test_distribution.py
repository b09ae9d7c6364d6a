"""What is built from pyproject.toml is what users get."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import defaultdict
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tusd_py

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = ("constraints.txt", "constraints-dev.txt")
ALL_CONSTRAINTS = (*CONSTRAINTS, "constraints-localstack.txt")


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the source distribution and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tusd_py").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert "tusd_py/py.typed" in held


def test_the_wheel_holds_the_licence(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_installs_the_command(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "tusd-py = tusd_py.cli:main" in wheel.read(name).decode().splitlines()


def test_the_metadata_says_what_pyproject_says(metadata):
    assert metadata["Name"] == "tusd-py"
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    extras = PROJECT["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra")) == set(extras)
    required = {Requirement(line).name for line in metadata.get_all("Requires-Dist")}
    declared = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    assert required == {Requirement(line).name for line in declared}


def test_the_readme_is_the_description(metadata):
    assert PROJECT["readme"] == "README.md"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()


def test_the_source_distribution_holds_code_tests_and_no_rubbish(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tusd_py/py.typed", "tests/packaging/test_distribution.py", "README.md", "CHANGELOG.md"} <= names
    assert not [name for name in names if re.search(r"(^|/)(node_modules|__pycache__|\.venv)(/|$)", name)]


def test_the_package_knows_its_version():
    assert tusd_py.__version__ == PROJECT["version"]


def test_the_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(.+?)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == PROJECT["version"]


@pytest.mark.parametrize("name", ALL_CONSTRAINTS)
def test_constraints_are_names_versions_and_hashes_alone(name):
    requirement = r"[a-z0-9][a-z0-9._-]*==[0-9a-z.]+( ; [A-Za-z0-9_.'=<>!() -]+)? \\"
    for line in (ROOT / name).read_text().splitlines():
        assert re.fullmatch(rf"{requirement}|    --hash=sha256:[0-9a-f]{{64}}( \\)?", line), line


def test_every_dependency_is_pinned_to_versions_that_fit():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    check_that_all_are_pinned(PROJECT["dependencies"] + groups["build"] + groups["dev"], *CONSTRAINTS)
    check_that_all_are_pinned(groups["localstack"], "constraints-localstack.txt")


def check_that_all_are_pinned(requirements, *names):
    pinned = defaultdict(set)  # a set, for an old Python may need an old version
    for name in names:
        for package, version in re.findall(r"^([^ =]+)==([^ ]+)", (ROOT / name).read_text(), re.MULTILINE):
            pinned[package].add(version)
    for line in requirements:
        requirement = Requirement(line)
        assert pinned[requirement.name], f"{line} is not pinned: run scripts/lock"
        assert all(map(requirement.specifier.contains, pinned[requirement.name])), f"{line}: run scripts/lock"


def test_locks_of_the_javascript_packages_hold_no_address():
    locks = list(ROOT.glob("tests/*/package-lock.json"))
    assert locks
    for lock in locks:
        assert '"resolved"' not in lock.read_text(), lock
