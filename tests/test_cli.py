"""The command `tusd-py`: what it prints, what it says is wrong, and how it works beside a running server."""

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys

import pytest
import structlog
from click.testing import CliRunner

from tusd_py import __version__
from tusd_py.cli import cli
from tusd_py.headers import format_upload_metadata
from tusd_py.settings import fields
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

COMMANDS = ["serve", "check", "config", "plugins", "hooks", "upload", "uploads", "jobs", "worker"]
SUBCOMMANDS = ["list", "show", "release", "quarantine", "recheck", "delete", "expire"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the command in this process, in an empty folder, and returns its result."""
    monkeypatch.chdir(tmp_path)
    handlers, level = logging.root.handlers, logging.root.level

    def run(*arguments, env=None):
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=env, prog_name="tusd-py")

    yield run
    # The command sets up logging for a process of its own.
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
async def beside(tmp_path, run):
    """A running server's client, and a function that runs `tusd-py uploads` on its directory."""
    folder = tmp_path / "uploads"
    with ServerProcess("--upload-dir", str(folder)) as server:

        async def uploads(command, *arguments):
            return await asyncio.to_thread(run, "uploads", command, *arguments, "--upload-dir", folder)

        yield RawClient(server.url), uploads


# What is printed


def test_the_program_runs_by_its_name():
    """`python -m tusd_py --version` prints the version."""
    command = [sys.executable, "-P", "-m", "tusd_py", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        == f"tusd-py, version {__version__}\n"
    )


def test_help_lists_every_command(run):
    """`--help` says what the program is, gives three examples and names each command with a sentence."""
    said = run("--help").stdout
    assert said.startswith("Usage: tusd-py [OPTIONS] COMMAND")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].+\.$", said, re.MULTILINE), command
    assert "tusd-py upload FILE http://127.0.0.1:8080/files/" in said


@pytest.mark.parametrize("command", [*[[name] for name in COMMANDS], *[["uploads", name] for name in SUBCOMMANDS]])
def test_help_of_a_command_begins_with_what_it_does(run, command):
    """Every command explains itself in a sentence, and no line is wider than a terminal."""
    result = run(*command, "-h")
    assert result.exit_code == 0, (result.exception, result.output)
    said = result.stdout
    usage, sentence = said.splitlines()[0], said.splitlines()[2]
    assert usage.startswith(f"Usage: tusd-py {' '.join(command)} ")
    assert re.match(r"  [A-Z][^.]+", sentence)
    assert max(map(len, said.splitlines())) <= 80


def test_help_of_serve_has_every_setting(run):
    """Each flag is there in its group, with its variable and default."""
    said = " ".join(run("serve", "--help").stdout.split())
    for field in fields():
        if not field.is_table:
            assert f"{field.flag} " in said or f"{field.flag} /" in said
            assert f"[env: {field.variable}]" in said
    for group in {field.group for field in fields()}:
        assert f" {group}: " in said
    assert "[default: 64MiB]" in said
    assert "[default: 7d]" in said


def test_other_commands_take_settings_without_listing_them(run):
    """Their own options are not buried: the help refers to `serve`."""
    said = run("uploads", "list", "--help").stdout
    assert "--status" in said
    assert "--cors-origin" not in said
    assert "`tusd-py serve --help`" in " ".join(said.split())


def test_config_shows_values_and_where_they_come_from(run, tmp_path):
    """Each setting is a line with value, origin and meaning; a changed one tells its default."""
    (tmp_path / "my.toml").write_text('max_size = "10GiB"\n[plugins.echo]\nfile = "x"\n')
    said = run("config", "--config", "my.toml", "--port", "9", env={"TUSD_PY_HOST": "::1"}).stdout
    lines = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in said.splitlines() if line.startswith("  ")}
    assert lines.keys() == {field.name for field in fields()}
    assert lines["port"][1:3] == ["9", "--port"]
    assert lines["port"][3].endswith("(default: 8080)")
    assert lines["host"][1:3] == ["::1", "TUSD_PY_HOST"]
    assert lines["max_size"][1:3] == ["10GiB", "my.toml"]
    assert lines["workers"][1:] == ["1", "default", "Number of server processes on this machine."]
    assert lines["plugins"][1] == "echo"


def test_config_shows_no_secret(run):
    """A token is shown as set, and nothing of it."""
    said = run("config", env={"TUSD_PY_API_TOKEN": "sesame"}).output
    assert "sesame" not in said
    assert re.search(r"api_token +\(set\) +TUSD_PY_API_TOKEN", said)


def test_plugins_are_listed_in_the_order_of_calls(run, tmp_path):
    """Each plugin has its origin and hooks, and its pages."""
    (tmp_path / "mine.py").write_text("from tusd_py import hookimpl\n@hookimpl\ndef pre_create(upload): ...\n")
    said = run("plugins", "--plugin", "mine.py").stdout
    names = [line.split()[0] for line in said.splitlines()]
    assert names[0] == "mine"
    assert names.index("metrics") < names.index("access")
    assert str(tmp_path / "mine.py") in said
    assert re.search(r"^metrics +GET /metrics$", said, re.MULTILINE)


def test_hooks_are_listed_with_their_arguments_and_users(run):
    """Each hook has its arguments, a sentence, and who implements it."""
    said = run("hooks").stdout
    assert "pre_create(request, upload)" in said
    assert "    Refuse a new upload, or change its metadata, id or storage path." in said
    assert "authorize(request, action, upload)  used by limits, access" in said


# What is wrong


def test_check_says_what_would_be_used(run, tmp_path, free_port):
    """Backends, extensions, plugins in their order and pages are printed, and that all is well."""
    checked = run("check", "--upload-dir", tmp_path / "up", "--port", free_port)
    assert checked.exit_code == 0, checked.output
    said = checked.stdout
    assert f"store       file:{tmp_path / 'up'}" in said
    assert f"state       sqlite:{tmp_path / 'up' / 'uploads.db'}" in said
    assert "jobs        memory:\n" in said
    assert (
        "extensions  creation, creation-with-upload, creation-defer-length, expiration, checksum, termination" in said
    )
    assert said.index("metrics: ") < said.index("access: ")
    assert "page        GET /metrics (plugin metrics)" in said
    assert said.endswith("ready to serve\n")


def problem(run, *arguments, **options):
    """What `check` says is wrong, which it must."""
    checked = run("check", "--port", "0", *arguments, **options)
    assert checked.exit_code != 0, checked.output
    assert "Traceback" not in checked.output
    return checked.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store", "ftp://x"], "store 'ftp://x' is of no known kind; there are file:, memory:"),
        (["--store", "data"], "store 'data' is of no known kind"),
        (["--state", "postgres:x"], "state 'postgres:x' is of no known kind; there are memory:, redis"),
        (["--locker", "etcd://a:b@x"], "locker 'etcd://a:***@x' is of no known kind; there are file:, memory:, redis"),
        (["--redis", "redis://x/one"], "'redis://x/one' is no URL of Redis"),
        (["--store", "file://host/x"], "names a host"),
        (["--locker", "memory:", "--workers", "2"], "locker memory: lives in one process; 2 workers need a shared one"),
        (["--store", "memory:"], "the store is in memory: everything is lost when the server stops"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], "cannot use tls_cert no.pem with tls_key no.pem"),
        (["--tls-cert", "no.pem"], "tls_cert and tls_key belong together"),
        (["--host", "0.0.0.0"], "0.0.0.0 is open to the network without TLS"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1:0: Cannot assign requested address"),
        (["--host", "no-such-host.invalid"], "cannot listen on no-such-host.invalid:0"),
        (["--unix-socket", "no/such/folder/s"], "cannot listen on no/such/folder/s: No such file or directory"),
        (["--upload-dir", "/proc/nowhere"], "cannot use the upload directory /proc/nowhere"),
        (["--state", "sqlite:/proc/nowhere/x.db"], "cannot use the records in /proc/nowhere/x.db"),
        (["--locker", "file:/proc/nowhere"], "cannot keep locks in /proc/nowhere"),
        (["--plugin", "no_such_plugin"], "plugin 'no_such_plugin' cannot be imported"),
        (["--behind-proxy", "nginx"], "behind_proxy: 'nginx' does not appear to be"),
        (["--audit-log", "/no/such/folder/audit"], "/no/such/folder/audit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_check_names_what_is_wrong(run, arguments, said):
    """Whatever would keep a server from working is named in a sentence."""
    assert said in problem(run, *arguments)


def test_check_names_a_port_in_use(run, tmp_path):
    """A port on which something listens is named."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in problem(run, "--port", port)


def test_check_names_a_damaged_database(run, tmp_path):
    """A file that is no database is named, with what can be done."""
    (tmp_path / "uploads.db").write_bytes(b"this is no database" * 100)
    said = problem(run, "--upload-dir", tmp_path)
    assert f"cannot use the records in {tmp_path / 'uploads.db'}" in said
    assert "made again from the uploads' manifests" in said


def test_check_names_all_that_is_wrong(run):
    """Several problems are several lines, and their number is the last."""
    checked = run("check", "--port", "0", "--store", "ftp:x", "--tls-cert", "no.pem", "--tls-key", "no.pem")
    assert len(re.findall(r"^problem     ", checked.stderr, re.MULTILINE)) == 2
    assert checked.stdout.endswith("2 problems\n")


def test_check_leaves_a_free_unix_socket_free(run, tmp_path):
    """Looking whether the socket can be used does not leave one behind."""
    assert run("check", "--unix-socket", "s.sock").exit_code == 0
    assert not (tmp_path / "s.sock").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("prot = 1", "unknown setting 'prot'"), ("[plugins.ecco]", "[plugins.ecco], but no plugin of this name")],
)
def test_a_mistake_in_the_file_is_named(run, tmp_path, text, said):
    """An unknown key or plugin in the TOML file is an error that names it."""
    (tmp_path / "my.toml").write_text(text)
    assert said in problem(run, "--config", "my.toml")


def test_serve_says_what_is_wrong_in_one_line(run):
    """A server that cannot start ends with a message and status 1."""
    served = run("serve", "--upload-dir", "/proc/nowhere", "--port", "0")
    assert served.exit_code == 1
    assert served.stderr == "Error: cannot use the upload directory /proc/nowhere: No such file or directory\n"


def test_a_broken_installed_plugin_does_not_break_other_commands(tmp_path):
    """Its commands are missing, which is said, and the rest works."""
    info = tmp_path / "bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tusd_py]\nbad = no_such_module\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "tusd_py", "--help"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "warning: commands of plugins are missing: plugin 'bad' cannot be imported" in said.stderr
    assert "serve" in said.stdout


# Beside a running server


async def test_uploads_list_shows_what_the_server_has(beside):
    """The newest comes first, with status, sizes and name; filters and limits hold."""
    tus, uploads = beside
    name = {"Upload-Metadata": format_upload_metadata({"filename": "film\x1b[31m.mp4"})}
    first = await tus.create(3 * 2**20, name)
    second = await tus.create(2, {}, b"ab")
    ids = [url.rpartition("/")[2] for url in (second, first)]

    lines = (await uploads("list")).stdout.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "STORED", "OF", "CREATED", "NAME"]
    assert [line.split()[0] for line in lines[1:]] == ids
    assert re.match(rf"{ids[1]} +receiving +0 B +3.0 MiB +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ +film\[31m.mp4$", lines[2])

    accepted = (await uploads("list", "--json", "--status", "accepted")).stdout.splitlines()
    assert [json.loads(line)["id"] for line in accepted] == [ids[0]]
    limited = await uploads("list", "--limit", "1")
    assert limited.stdout.count("\n") == 2
    assert limited.stderr == "(the first 1; there are more)\n"
    assert (await uploads("list", "--owner", "ann")).stdout.count("\n") == 1


async def test_metadata_cannot_play_with_the_terminal(beside):
    """What would colour, erase or turn around text is escaped, in JSON that means the same."""
    tus, uploads = beside
    name = "a\x1b[2J\x9b31m\u202egpj\u2028\U000e0041\x7fé😀"
    url = await tus.create(5, {"Upload-Metadata": format_upload_metadata({"filename": name})}, b"abc")
    upload_id = url.rpartition("/")[2]
    for said in ((await uploads("show", upload_id)).stdout, (await uploads("list", "--json")).stdout.splitlines()[0]):
        assert all(letter.isprintable() for letter in said.replace("\n", ""))
        assert "é😀" in said
        assert json.loads(said)["metadata"] == {"filename": name}


async def test_uploads_show_prints_everything(beside):
    """One upload is shown as JSON; one that is unknown is an error."""
    tus, uploads = beside
    upload_id = (await tus.create(5, {}, b"abc")).rpartition("/")[2]
    shown = json.loads((await uploads("show", upload_id)).stdout)
    assert (shown["id"], shown["offset"], shown["length"], shown["status"]) == (upload_id, 3, 5, "receiving")
    unknown = await uploads("show", "unknown")
    assert unknown.exit_code == 1
    assert unknown.stderr.startswith("Error: ")


async def test_uploads_delete_removes_beside_the_server(beside):
    """Uploads are gone for clients too, also one that is being received; what is unknown is named."""
    tus, uploads = beside
    finished, receiving = await tus.create(2, {}, b"ab"), await tus.create(10)
    async with tus.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": "application/offset+octet-stream", "Content-Length": 10}
        await connection.send(tus.message("PATCH", receiving, headers) + b"abc")
        ids = [url.rpartition("/")[2] for url in (finished, receiving)]
        removed = await uploads("delete", ids[0], "unknown", ids[1])
        assert (await connection.answer("PATCH")).status in (410, 423)
    assert removed.exit_code == 1
    assert removed.stdout == f"{ids[0]} removed\n{ids[1]} removed\n"
    assert removed.stderr.startswith("unknown not removed: ")
    for url in (finished, receiving):
        gone = await tus.head(url)
        assert gone.status == 410
    assert (await uploads("delete", ids[0])).exit_code == 1


def test_uploads_expire_removes_what_has_run_out(tmp_path, run):
    """Only uploads whose time is over are removed, and their number is printed."""
    with ServerProcess("--upload-dir", str(tmp_path), "--expire-after", "1s") as server:
        tus = RawClient(server.url)
        asyncio.run(tus.create(1))
        kept = asyncio.run(tus.create(1, {}, b"x")).rpartition("/")[2]
        server.kill()  # it would do the same by itself

    while "1 expired" not in (said := run("uploads", "expire", "--upload-dir", tmp_path).stdout):
        assert said == "0 expired or forgotten\n"
    listed = run("uploads", "list", "--json", "--upload-dir", tmp_path).stdout.splitlines()
    assert {json.loads(line)["status"] for line in listed} == {"expired", "accepted"}
    assert (tmp_path / kept).read_bytes() == b"x"


def test_uploads_of_nothing_are_explained(run):
    """Without an upload directory, and with records in memory, the command says what to do."""
    assert "there is no upload directory ./data; give --upload-dir" in run("uploads", "list").stderr
    said = run("uploads", "list", "--state", "memory:").stderr
    assert "memory: lives in the server's process; ask its status API instead" in said


@pytest.mark.parametrize("setting", ["--redis", "--state", "--locker"])
def test_without_the_extra(tmp_path, free_port, setting):
    """Where the package for Redis is not installed all else works, and who wants Redis is told what to install."""
    code = "import sys; sys.modules['redis'] = None; from tusd_py.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "check", "--upload-dir", str(tmp_path), "--port", free_port]
    assert subprocess.run(command, capture_output=True).returncode == 0
    url = "redis://:secret@localhost"
    checked = subprocess.run([*command, setting, url], capture_output=True, text=True)
    assert checked.returncode == 1
    assert "pip install 'tusd-py[redis]'" in checked.stderr
    assert "secret" not in checked.stderr + checked.stdout
