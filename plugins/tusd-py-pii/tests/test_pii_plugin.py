"""The plugin as the server has it: settings, the stage `check` over real stores, and commands."""

import asyncio
import gzip
import io
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tusd_py_pii
from click.testing import CliRunner
from tusclient.client import TusClient
from tusd_py_pii.commands import pii
from tusd_py_pii.policy import settings_from
from tusd_py_pii.report import mask
from tusd_py_pii.rules import read_pack

from tusd_py.config import ConfigError
from tusd_py.errors import Unavailable
from tusd_py.stores.file import FileStore
from tusd_py.stores.memory import MemoryStore
from tusd_py.testing.contracts import Tap, new_upload, wait_until
from tusd_py.testing.plugins import hooks_of
from tusd_py.testing.server import ServerProcess

EMAIL, CARD = "bob.smith@corp.io", "4111 1111 1111 1111"
ROWS = "".join(json.dumps({"text": f"{EMAIL} paid with {CARD}", "n": n}) + "\n" for n in range(10)).encode()


@pytest.fixture(autouse=True)
def settings_end_with_the_test():
    """What a test sets is not there for the next module, which may use the plugin too."""
    yield
    tusd_py_pii.register_settings({})


@pytest.fixture(params=["file", "memory"])
async def store(request, tmp_path):
    """A real store, on disk and in memory."""
    made = FileStore(tmp_path / "data") if request.param == "file" else MemoryStore()
    await made.open()
    yield made
    await made.aclose()


async def stored(store, data, name):
    """Return an upload with these bytes, complete in the store."""
    upload = await store.create(new_upload(length=len(data), metadata={"filename": name}))
    tap = Tap()
    tap.let(data, b"")
    await store.append(upload, tap.body(), progress)
    return upload.changed(offset=len(data))


async def progress(_):
    """Nobody watches."""


async def checked(store, data, name, settings=None):
    """Return the verdict of the plugin with these settings on bytes in a store; it runs in a thread, as its jobs do."""
    upload = await stored(store, data, name)
    async with hooks_of(tusd_py_pii, settings):
        return await asyncio.to_thread(tusd_py_pii.check, upload, store.content(upload), lambda done: None)


async def test_the_verdict_names_types_columns_and_counts(store):
    """By default cards quarantine and addresses are told; no reason holds a value."""
    verdict = await checked(store, ROWS, "a.jsonl")
    assert not verdict.ok
    assert verdict.reasons == ("pii: card: 10 (10 in text)", "pii: email: 10 (10 in text)")


async def test_what_cannot_be_read_now_has_no_verdict(tmp_path):
    """A storage that does not give the bytes quarantines nothing: the check is repeated."""
    store = FileStore(tmp_path / "data")
    await store.open()
    upload = await stored(store, ROWS, "a.jsonl")
    content = store.content(upload)
    await asyncio.to_thread(Path(content.url.removeprefix("file://")).unlink)
    async with hooks_of(tusd_py_pii, {}):
        with pytest.raises(Unavailable, match="cannot be read now"):
            await asyncio.to_thread(tusd_py_pii.check, upload, content, lambda done: None)
    await store.aclose()


async def test_what_has_arrived_is_scanned_while_the_rest_does(tmp_path):
    """The report is that of a scan afterwards, and what was scanned on arrival is not looked at again."""
    filler = json.dumps({"text": "a vector of values is given " * 600}).encode() + b"\n"
    data = ROWS + filler * (20 * 2**20 // len(filler)) + ROWS
    settings = {"limits": {"max_record": 2**20}, "hash_key": "a", "report_dir": str(tmp_path)}
    store = FileStore(tmp_path / "data")
    await store.open()
    try:
        async with hooks_of(tusd_py_pii, settings) as hooks:
            upload = await stored(store, data, "a.jsonl")
            told = tmp_path / f"{upload.id}.pii.json"
            await asyncio.to_thread(tusd_py_pii.check, upload, store.content(upload), lambda done: None)
            afterwards = told.read_bytes()

            part = upload.changed(offset=18 * 2**20)
            hooks.post_receive(part, store.content(part))
            await wait_until(lambda: tusd_py_pii.ahead.answer(upload))
            path = Path(store.content(upload).url.removeprefix("file://"))
            await asyncio.to_thread(path.write_bytes, b" " * (len(ROWS) - 1) + data[len(ROWS) - 1 :])
            await asyncio.to_thread(tusd_py_pii.check, upload, store.content(upload), lambda done: None)
            assert told.read_bytes() == afterwards
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    ("settings", "ok", "reasons"),
    [
        ({"policy": {"card": "report"}}, True, 2),
        ({"policy": {"card": "ignore", "email": "quarantine"}}, False, 1),
        ({"threshold": {"card": 11}}, True, 2),
        ({"threshold": {"card": 10}}, False, 2),
        ({"without": ["card", "email"]}, True, 0),
        ({"engine": "re", "without": ["card_grouped", "email"]}, True, 0),
    ],
)
async def test_settings_decide(tmp_path, settings, ok, reasons):
    """Policy, thresholds and rules that are left out decide the verdict."""
    store = MemoryStore()
    verdict = await checked(store, ROWS, "a.jsonl", settings)
    assert (verdict.ok, len(verdict.reasons)) == (ok, reasons)


async def test_large_files_and_parquet_are_scanned_by_processes(tmp_path):
    """What does not fit inline goes to processes, and the verdict is the same."""
    store = FileStore(tmp_path / "data")
    await store.open()
    inline = await checked(store, ROWS, "a.jsonl")
    apart = await checked(store, ROWS, "a.jsonl", {"inline_bytes": 0, "workers": 2})
    await store.aclose()
    assert apart == inline


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"\x1f\x8b\x08" + b"\0" * 50, "a.gz", "gzip file is broken"),
        (b"PAR1" + b"\0" * 50, "a.parquet", "footer"),
        (b"fine\n\xff\xfe\xfd" * 9, "a.txt", "not UTF-8"),
    ],
    ids=["gzip", "parquet", "text"],
)
async def test_what_cannot_be_looked_into_does_not_pass(store, data, name, reason):
    """A broken file gets a verdict with the reason, and no exception."""
    verdict = await checked(store, data, name)
    assert not verdict.ok
    assert reason in verdict.reasons[0]


async def test_a_report_is_written_and_holds_no_value(store, tmp_path, caplog):
    """The report in JSON has counts and masked samples; values are nowhere, not even in a debug log."""
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "reports"
    verdict = await checked(store, ROWS, "a.jsonl", {"report_dir": str(folder), "hash_key": "k"})
    [path] = folder.iterdir()
    report = json.loads(path.read_text())
    assert report["rows"] == 10
    assert report["found"]["card"]["text"]["count"] == 10
    assert len(report["found"]["card"]["text"]["samples"]) == 3
    shown = path.read_text() + repr(verdict) + caplog.text
    for value in (EMAIL, CARD, CARD.replace(" ", "")):
        assert value not in shown
    async with hooks_of(tusd_py_pii, {"report_dir": str(folder)}) as hooks:
        hooks.post_terminate(new_upload(length=1).changed(id=path.name.partition(".")[0]))
    assert list(folder.iterdir()) == []


def test_a_mask_shows_no_sign_of_a_password():
    """Of what may be a password only its length and what separates it from its name is shown."""
    assert mask("credential", "pass: p@$$w0rd!größe_1".encode()) == "****: ****************"


async def test_an_error_within_a_scan_shows_no_value(tmp_path, caplog, capsys):
    """If a check of somebody's own fails with a value in its message, neither verdict nor log has it."""
    pack = tmp_path / "pack.toml"
    pack.write_text("[[rule]]\nname = 'x'\ntype = 'x'\npattern = 'bob[.]smith@'\ncheck = 'builtins:int'\n")
    verdict = await checked(MemoryStore(), ROWS, "a.jsonl", {"packs": [str(pack)]})
    [reason] = verdict.reasons
    assert reason.startswith("pii: its process failed with ValueError (workers.py, line ")
    out = capsys.readouterr()
    assert "bob.smith" not in caplog.text + out.out + out.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"polcy": {}}, "polcy"),
        ({"policy": {"crad": "ignore"}}, "crad"),
        ({"policy": {"card": "explode"}}, "explode"),
        ({"without": ["crad"]}, "crad"),
        ({"packs": ["/nowhere.toml"]}, "nowhere"),
        ({"recognizers": ["no_such_module"]}, "no_such_module"),
        ({"workers": 0}, "workers"),
    ],
)
async def test_settings_that_cannot_be_are_named(settings, message):
    """A setting, type, rule or file that is not there keeps the server from starting, and is named."""
    with pytest.raises(ConfigError, match=message):
        async with hooks_of(tusd_py_pii, settings):
            pass


def test_a_module_registers_recognizers(tmp_path):
    """A module that the settings name adds a rule with a check of its own, also in other processes."""
    (tmp_path / "badge_rules.py").write_text(
        "from tusd_py_pii.hooks import hookimpl\nfrom tusd_py_pii.rules import Rule\n"
        "def real(value):\n    return value.endswith(b'7')\n"
        "@hookimpl\ndef register_recognizers(register):\n"
        "    register(Rule(name='badge', type='badge', pattern='B-[0-9]{6}', check='badge_rules:real'))\n"
    )
    config = tmp_path / "tusd-py.toml"
    config.write_text("[plugins.pii]\nrecognizers = ['badge_rules']\ninline_bytes = 0\n")
    data = tmp_path / "a.txt"
    data.write_text("B-123457 and B-123456\n")
    done = run("scan", str(data), "--config", str(config), path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "badge: 1 (1 in the text)" in done.stdout


def run(*arguments, path=None):
    """Run `tusd-py pii`."""
    command = [sys.executable, "-m", "tusd_py", "pii", *arguments]
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_commands_scan_redact_and_list(tmp_path):
    """`tusd-py pii` says what a server would say, writes a copy without values, and lists the rules."""
    data, clean = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    data.write_bytes(ROWS)
    scanned = run("scan", str(data))
    assert scanned.returncode == 1
    assert "fails" in scanned.stdout
    assert EMAIL not in scanned.stdout
    assert run("redact", str(data), str(clean)).stdout == f"{clean}: 20 replaced\n"
    commands = CliRunner()
    assert commands.invoke(pii, ["scan", str(clean), "--json"]).exit_code == 0
    assert "us_ssn" in commands.invoke(pii, ["rules"]).output
    broken = tmp_path / "c.gz"
    broken.write_bytes(gzip.compress(ROWS)[:-5])
    assert "ends too early" in commands.invoke(pii, ["scan", str(broken)]).output


def test_the_settings_that_the_readme_shows_can_be_set():
    """The README's table is accepted as it stands, and so is its pack."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    table, pack = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert settings_from(tomllib.loads(table)["plugins"]["pii"]).threshold == {"card": 3}
    assert [rule.name for rule in read_pack(pack, "README")] == ["badge"]


def test_a_server_starts_with_it(tmp_path):
    """A server finds the plugin, takes its settings, and serves."""
    config = tmp_path / "tusd-py.toml"
    config.write_text("[plugins.pii.policy]\nemail = 'quarantine'\n")
    with ServerProcess("--config", str(config), "--upload-dir", str(tmp_path / "data")) as server:
        TusClient(server.url).uploader(file_stream=io.BytesIO(b"hello"), metadata={"filename": "a.txt"}).upload()
