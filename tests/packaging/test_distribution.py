"""What is built from pyproject.toml is what users get."""

import asyncio
import json
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
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

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


async def run(*command):
    """Run a command, and return what it prints."""
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=subprocess.PIPE)
    output = (await process.communicate())[0].decode().strip()
    assert process.returncode == 0, output
    return output


async def test_plugins_run_where_nothing_but_the_wheel_is_installed(dist, tmp_path):
    """An authenticator, a check and a delivery, a file each, work in an environment of their own: docs/plugins.md says
    to install tusd-py with its extra for jobs, and to name the files."""
    venv, wheel = tmp_path / "venv", next(dist.glob("*.whl"))
    python = venv / "bin" / "python"
    constraints = [argument for name in CONSTRAINTS for argument in ("--constraint", ROOT / name)]
    uv = (sys.executable, "-m", "uv", "--quiet")
    await run(*uv, "venv", "--python", sys.executable, venv)
    await run(*uv, "pip", "install", "--python", python, f"{wheel}[jobs]", *constraints)
    assert (await run(python, "-P", "-c", "import tusd_py; print(tusd_py.__file__)")).startswith(str(venv))
    names = ["02_plugin_bearer_auth", "06_plugin_check_jsonl", "07_plugin_deliver_events"]
    config = tmp_path / "tusd-py.toml"
    config.write_text(f"""
plugin = {[str(ROOT / "examples" / f"{name}.py") for name in names]}
[plugins.{names[0]}]
tokens = {{ ann = "secret" }}
[plugins.{names[2]}]
folder = "{tmp_path}"
secret = "sesame"
""")
    ann = {"Authorization": "Bearer secret", "Upload-Metadata": "filename YS5qc29ubA=="}
    options = ("--config", str(config), "--upload-dir", str(tmp_path / "uploads"))
    with ServerProcess(*options, python=str(python)) as server:
        tus = RawClient(server.url)
        assert (await tus.post({"Upload-Length": 1})).status == 401
        good, bad = [await tus.create(len(data), ann, data) for data in (b"{}\n", b"{\n")]
        good_id, bad_id = [url.rpartition("/")[2] for url in (good, bad)]
        event = tmp_path / f"{good_id}.json"
        await wait_until(event.exists)
        assert json.loads(event.read_text())["subject"] == good_id

        async def is_quarantined():
            return json.loads((await tus.get(f"/api/uploads/{bad_id}", ann)).body)["status"] == "quarantined"

        await wait_until(is_quarantined)
        assert (await tus.get(good, ann)).body == b"{}\n"
        assert not (tmp_path / f"{bad_id}.json").exists()
