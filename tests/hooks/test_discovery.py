"""How plugins are found, ordered, left out, and what is said of one that is wrong."""

import subprocess
import sys

import pytest

from tusd_py.composer import load_plugins
from tusd_py.config import Config, ConfigError
from tusd_py.hooks.plugins import PluginError, implementations, plugin_manager
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess, ServerProcessError

REFUSES = """
from tusd_py import Reject, hookimpl

@hookimpl
def pre_create(upload):
    raise Reject("refused by {name}")
"""


def tusd_py(*arguments, environment):
    """Run the command in an environment, and return what it printed."""
    command = [sys.executable, "-P", "-m", "tusd_py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


async def refusal(*arguments, environment=None):
    """What a server with a refusing plugin answers to a creation; nothing if it takes it."""
    with ServerProcess(*arguments, env=environment) as server:
        answer = await RawClient(server.url).post({"Upload-Length": 1})
        return answer.body.decode().strip()


async def test_an_installed_plugin_is_found_and_can_be_blocked(installed_plugin, tmp_path):
    """A distribution with an entry point in the group `tusd_py` is loaded by its name, unless that is blocked."""
    environment = installed_plugin("installed_one", REFUSES.format(name="an installed plugin"))
    uploads = ("--upload-dir", str(tmp_path / "uploads"))
    assert await refusal(*uploads, environment=environment) == "ERR_UPLOAD_REJECTED: refused by an installed plugin"
    listed = tusd_py("plugins", environment=environment)
    assert "installed_one       installed_one 1.0               pre_create" in listed
    blocked = tusd_py("plugins", "--block-plugin", "installed_one", environment=environment)
    assert f"{'installed_one':52}off: blocked" in blocked


async def test_a_plugin_is_loaded_from_a_path(tmp_path):
    """`--plugin PATH.py` loads a file under its name without the ending."""
    plugin = tmp_path / "from_path.py"
    plugin.write_text(REFUSES.format(name="a file"))
    arguments = ("--upload-dir", str(tmp_path / "uploads"), "--plugin", str(plugin))
    assert await refusal(*arguments) == "ERR_UPLOAD_REJECTED: refused by a file"


async def test_a_plugin_is_loaded_from_a_module(tmp_path):
    """`--plugin MODULE` imports a module."""
    (tmp_path / "module_of_mine.py").write_text(REFUSES.format(name="a module"))
    arguments = ("--upload-dir", str(tmp_path / "uploads"), "--plugin", "module_of_mine")
    environment = {"PYTHONPATH": str(tmp_path)}
    assert await refusal(*arguments, environment=environment) == "ERR_UPLOAD_REJECTED: refused by a module"


@pytest.mark.parametrize(
    ("source", "is_taken"),
    [
        ("@hookimpl\ndef check(upload): ...\n", False),
        ("from {name}.check import LIMIT\n@hookimpl\ndef pre_create(upload): ...\n", False),
        ("from {name}.check import LIMIT\n@hookimpl\ndef check(upload): ...\n", True),
    ],
)
def test_a_module_with_the_name_of_a_hook_is_refused(tmp_path, monkeypatch, source, is_taken):
    """A package's module `check` would take the place of its function `check` when it is imported."""
    name = tmp_path.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from tusd_py import hookimpl\n" + source.format(name=name))
    (tmp_path / name / "check.py").write_text("LIMIT = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    if is_taken:
        assert implementations(plugin_manager(named=[name], entry_points=False), "check")
    else:
        with pytest.raises(PluginError, match=rf"its module {name}\.check has the name of a hook"):
            plugin_manager(named=[name], entry_points=False)


def test_a_server_does_not_start_with_a_broken_plugin(tmp_path):
    """The plugin and what is wrong with it are named in one line, without a traceback."""
    plugin = tmp_path / "broken.py"
    plugin.write_text("import no_such_module\n")
    with pytest.raises(ServerProcessError) as failed:
        ServerProcess("--upload-dir", str(tmp_path), "--plugin", str(plugin)).start()
    assert "Error: plugin" in str(failed.value)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in str(failed.value)
    assert "Traceback" not in str(failed.value)


@pytest.fixture
def load(tmp_path):
    """A function that loads a plugin of this source, given by path."""

    def load(source, **settings):
        path = tmp_path / "mine.py"
        path.write_text(f"from tusd_py import hookimpl\n{source}\n")
        return load_plugins(Config(plugin=[str(path)], **settings))

    return load


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "@hookimpl\ndef pre_craete(upload): ...",
            "plugin 'mine': there is no hook 'pre_craete'; did you mean 'pre_create'?",
        ),
        (
            "@hookimpl\ndef on_party(upload): ...",
            "plugin 'mine': there is no hook 'on_party'; `tusd-py hooks` lists them",
        ),
        (
            "@hookimpl\ndef pre_create(upload, colour): ...",
            r"\{'colour'\} .* the hook is pre_create\(request, upload\)",
        ),
        ("@hookimpl(wrapper=True)\ndef pre_create(upload): yield", "pre_create is a wrapper"),
        ("@hookimpl\nasync def register_settings(settings): ...", "register_settings must be a plain function"),
        ("@hookimpl\ndef check(content): yield", "plugin 'mine': check has a `yield`; hooks return their answer"),
        ("@hookimpl\nasync def check(content): yield", "check has a `yield`"),
        ("def pre_create(upload): ...", "plugin 'mine' implements no hook; mark its functions with @hookimpl"),
        ("def pre_create(upload) ...", "mine.py' cannot be imported: SyntaxError"),
        ("raise RuntimeError('not today')", r"cannot be imported: RuntimeError: not today \(.*/mine.py, line 2\)"),
        ("import sys\nsys.exit('bye')", r"mine.py' cannot be imported: SystemExit: bye \(.*/mine.py, line 3\)"),
        ("import json\njson.loads('')", r"JSONDecodeError: .* \(.*/mine.py, line 3\)"),
        (
            "@hookimpl\ndef register_settings(settings): settings['colour']",
            r"plugin 'mine' failed in register_settings: KeyError: 'colour' \(.*/mine.py, line 3\)",
        ),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said(load, source, said):
    """A hook that does not exist, wrong arguments, a wrong kind of function and failures are named with the plugin."""
    with pytest.raises(PluginError, match=said):
        load(source)


def test_settings_of_no_plugin_are_an_error(load):
    """A table of settings for a plugin that is not loaded is a mistake in its name."""
    with pytest.raises(ConfigError, match=r"\[plugins.mien\], .* did you mean \[plugins.mine\]\?"):
        load("@hookimpl\ndef pre_create(upload): ...", plugins={"mien": {}})


def test_a_blocked_plugin_may_have_settings(load):
    """Blocking a plugin does not need its settings to be taken out."""
    manager = load("@hookimpl\ndef pre_create(upload): ...", plugins={"echo": {}}, block_plugin=["echo"])
    assert manager.get_plugin("echo") is None


def test_two_plugins_of_one_name_are_an_error(tmp_path):
    """A second file of the same name is not silently left out."""
    paths = [tmp_path / folder / "mine.py" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("from tusd_py import hookimpl\n@hookimpl\ndef pre_create(upload): ...\n")
    with pytest.raises(PluginError, match="there is already a plugin 'mine'"):
        load_plugins(Config(plugin=[str(path) for path in paths]))


@pytest.mark.parametrize("text", ["no_such_module", "no/such/file.py", "tests.py"])
def test_a_plugin_that_is_not_there_is_named(text):
    """A module or path that does not exist is named."""
    with pytest.raises(PluginError, match=text):
        load_plugins(Config(plugin=[text]))


def test_plugins_are_called_before_the_servers_own_and_the_last_named_first(tmp_path):
    """The order is: named plugins from the last to the first, installed ones, the server's own."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text("from tusd_py import hookimpl\n@hookimpl\ndef authorize(upload): ...\n")
    manager = load_plugins(Config(plugin=[str(tmp_path / "first.py"), str(tmp_path / "second.py")]))
    order = [impl.plugin_name for impl in implementations(manager, "authorize")]
    assert order == ["second", "first", "limits", "access"]


def test_the_servers_own_plugins_can_be_blocked():
    """`--block-plugin` leaves out a default plugin too."""
    manager = load_plugins(Config(block_plugin=["metrics", "limits"]))
    assert not manager.has_plugin("metrics")
    assert manager.has_plugin("access")


def test_a_module_that_is_installed_and_named_is_loaded_once():
    """Naming an installed plugin's module too changes nothing."""
    import tusd_py_echo

    manager = load_plugins(Config(plugin=["tusd_py_echo"]))
    assert [name for name, plugin in manager.list_name_plugin() if plugin is tusd_py_echo] == ["echo"]


def test_plugins_can_be_had_without_the_installed_ones():
    """An embedding program or a test can leave the entry points out."""
    assert plugin_manager(entry_points=False).get_plugins() == set()
