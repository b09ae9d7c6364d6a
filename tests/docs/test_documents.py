"""The documents say what is so: generated parts are fresh, links lead somewhere, and code that is shown runs."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tusd_py.errors import TusError
from tusd_py.hooks.plugins import hook_names
from tusd_py.settings import load
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
# What is about any server of tus, with settings and errors of others.
ABOUT_OTHERS = [ROOT / "conformance" / "README.md", ROOT / "docs" / "conformance.md"]
OURS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
DOCUMENTS = [document for document in OURS if document not in ABOUT_OTHERS]
ADDRESS = "127.0.0.1:8080"


def blocks(document, *kinds):
    """The fenced blocks of these kinds, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [(kind, text) for kind, text in found if kind in kinds]


def anchors(document):
    """What a link can name in a document."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_generated_parts_are_fresh():
    """Running scripts/docs would change nothing."""
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("document", [*DOCUMENTS, *ABOUT_OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    """A relative link names a file that is there, and a heading that it has."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_tutorial_shows_the_plugin_as_it_is():
    """What docs/plugins.md shows of the plugin is, letter for letter, what is in its files."""
    shown = (ROOT / "docs" / "plugins.md").read_text()
    for name in ("pyproject.toml", "tusd_py_echo/__init__.py", "tests/test_echo.py"):
        assert (ROOT / "plugins" / "tusd-py-echo" / name).read_text() in shown, name


async def test_the_tutorials_first_plugin_does_what_it_says(tmp_path):
    """The file of the first step refuses an upload with the answer that is shown."""
    document = ROOT / "docs" / "plugins.md"
    plugin = tmp_path / "named.py"
    plugin.write_text(blocks(document, "python")[0][1])
    assert plugin.read_text().startswith("# named.py\n")
    with ServerProcess("--plugin", str(plugin), "--upload-dir", str(tmp_path / "uploads")) as server:
        answer = await RawClient(server.url).post({"Upload-Length": 5})
    shown = blocks(document, "text")[0][1].splitlines()
    assert shown[0] == f"HTTP/1.1 {answer.status} Bad Request"
    assert shown[-1] == answer.body.decode().strip()


@pytest.mark.parametrize("name", ["settings.md", "plugins.md"])
def test_settings_that_are_shown_can_be_set(tmp_path, name):
    """Every TOML block with settings is accepted, plugins' tables included."""
    shown = [text for _, text in blocks(ROOT / "docs" / name, "toml") if "[project]" not in text]
    assert shown
    for text in shown:
        path = tmp_path / "tusd-py.toml"
        path.write_text(text)
        assert load({}, {}, path).origin.keys() == tomllib.loads(text).keys()


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    """A server at the address that the README names, as far as its blocks can tell, and the folder they run in."""
    folder = tmp_path_factory.mktemp("readme")
    with ServerProcess("--upload-dir", str(folder / "data")) as server:
        yield server, folder


def run_block(kind, text, server, folder):
    """Run a block with the real address in the place of the one that is shown, and return what it printed."""
    assert "8080" not in text.replace(ADDRESS, ""), "only the address is replaced"
    text = text.replace(ADDRESS, urlsplit(server.url).netloc)
    command = {"bash": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[kind]
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "XDG_STATE_HOME": str(folder / "state")}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.needs_curl
async def test_the_readmes_examples_upload_the_same_file_three_times(readme):
    """curl, tuspy and the command, run in order as they are shown, each bring the file to the server."""
    server, folder = readme
    curl, tuspy, command = [run_block(*block, server, folder) for block in blocks(ROOT / "README.md", "bash", "python")]
    assert curl == "hello, world"
    tus = RawClient(server.url)
    for printed in (tuspy, command):
        url = printed.split()[-1]
        assert url.startswith(server.url)
        assert (await tus.get(url)).body == b"hello, world"


@pytest.mark.needs_curl
def test_the_apis_example_answers(readme):
    """The request of docs/api.md gets a page."""
    server, folder = readme
    for block in blocks(ROOT / "docs" / "api.md", "bash"):
        assert run_block(*block, server, folder).startswith('{"uploads":')


async def test_the_readme_names_the_extensions_and_checksums(server):
    """The table of what is supported is what the server says of itself."""
    text = (ROOT / "README.md").read_text()
    answer = await RawClient(server.url).request("OPTIONS")
    for name in answer.headers["Tus-Extension"].split(","):
        assert name in text
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    assert rows["Checksums"].split(";")[0].split(", ") == answer.headers["Tus-Checksum-Algorithm"].split(",")
    extensions = {name.removesuffix(" (setting)") for name in rows["Extensions"].split(", ")}
    assert extensions - set(answer.headers["Tus-Extension"].split(",")) == {"concatenation-unfinished"}


def test_operations_names_errors_that_exist():
    """Every error code in a document is one that the server has."""

    def codes(kind):
        return {kind.code}.union(*map(codes, kind.__subclasses__()))

    for document in DOCUMENTS:
        unknown = set(re.findall(r"\bERR_[A-Z_]+", document.read_text())) - codes(TusError) - {"ERR_CODE"}
        assert not unknown, document.name


def test_documents_name_hooks_settings_and_files_that_exist():
    """Whatever looks like a hook, a flag or a path of the repository in a document is one."""
    helps = (ROOT / "docs" / "cli.md").read_text()
    for document in DOCUMENTS:
        text = document.read_text()
        for word in re.findall(r"`((?:pre|post|register)_\w+)`", text):
            assert word in hook_names(), f"{document.name}: {word}"
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for flag in re.findall(r"`tusd-py[^`]*?(--[a-z-]+)|`(--[a-z-]+)", prose):
            assert max(flag) in helps, f"{document.name}: {flag}"
        for path in re.findall(r"`((?:web|protocol|state|tusd_py|scripts|docs|benchmarks|plugins)/[\w./-]+)`", text):
            assert (ROOT / path).exists() or (ROOT / "tusd_py" / path).exists(), f"{document.name}: {path}"
