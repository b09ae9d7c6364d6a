"""Every example runs as it says."""

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tusd_py.composer import load_plugins
from tusd_py.config import Config, ConfigError
from tusd_py.headers import format_upload_metadata
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_every_example_has_a_test():
    """An example that is added needs a test here."""
    tests = [name for name, test in globals().items() if name.startswith("test_") and inspect.isfunction(test)]
    for example in EXAMPLES.iterdir():
        if example.is_file():
            assert any(name.startswith(f"test_{example.stem}") for name in tests), example.name


def script(name, *arguments, cwd):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


async def test_01_upload_with_tuspy(server, tmp_path):
    """The file arrives, the address is printed, and a second run has nothing to send."""
    (tmp_path / "film.bin").write_bytes(b"0123456789" * 1_000_000)
    first, second = [script("01_upload_with_tuspy.py", "film.bin", server.url, cwd=tmp_path) for _ in range(2)]
    assert first.returncode == 0, first.stderr
    assert first.stderr == "8388608 of 10000000 bytes\n10000000 of 10000000 bytes\n"
    assert (await RawClient(server.url).get(first.stdout.strip())).body == (tmp_path / "film.bin").read_bytes()
    assert (second.stdout, second.stderr) == (first.stdout, "")


async def test_02_plugin_bearer_auth(tmp_path):
    """Only those with a token get in, and who may only read cannot write."""
    config = tmp_path / "tusd-py.toml"
    table = '[plugins.02_plugin_bearer_auth]\ntokens = { ann = "secret-a", bob = "secret-b" }\nread_only = ["bob"]\n'
    config.write_text(f'plugin = ["{EXAMPLES / "02_plugin_bearer_auth.py"}"]\n{table}')
    ann, bob = {"Authorization": "Bearer secret-a"}, {"Authorization": "bearer secret-b"}
    with ServerProcess("--config", str(config), "--upload-dir", str(tmp_path / "uploads")) as server:
        tus = RawClient(server.url)
        for stranger in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "Basic secret-a"}):
            assert (await tus.post({"Upload-Length": 1, **stranger})).status == 401
        url = await tus.create(1, ann, b"x")
        assert (await tus.get(url, ann)).body == b"x"
        assert (await tus.get(url, bob)).status == 403
        refused = await tus.post({"Upload-Length": 1, **bob})
        assert (refused.status, refused.code) == (403, "ERR_READ_ONLY")
        assert (await tus.request("GET", "/api/uploads", bob)).status == 200


def test_02_plugin_bearer_auth_without_tokens():
    """A server whose plugin has no tokens does not start."""
    with pytest.raises(ConfigError, match="missing required field `tokens`"):
        load_plugins(Config(plugin=[str(EXAMPLES / "02_plugin_bearer_auth.py")]))


async def test_03_plugin_type_check(server_with):
    """Parquet files are taken; others are refused by their first bytes, and those that were cut by their last."""
    tus = RawClient(server_with(f"--plugin={EXAMPLES / '03_plugin_type_check.py'}").url)
    assert (await tus.post({"Upload-Length": 12}, b"PAR1....PAR1")).status == 201
    text = await tus.post({"Upload-Length": 12}, b"hello, world")
    assert (text.status, text.body) == (415, b"ERR_UPLOAD_REJECTED: only Parquet files are taken here\n")
    cut = await tus.post({"Upload-Length": 8}, b"PAR1....")
    assert (cut.status, cut.body) == (422, b"ERR_UPLOAD_REJECTED: this Parquet file has no end: was it cut?\n")


async def test_04_follow_an_upload(server, tmp_path):
    """What happens to the upload is printed until it is complete."""
    tus = RawClient(server.url)
    url = await tus.create(6)
    command = [sys.executable, str(EXAMPLES / "04_follow_an_upload.py"), url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"receiving: 0 of 6 bytes\n"
    await tus.patch(url, 0, b"abc")
    assert await process.stdout.readline() == b"receiving: 3 of 6 bytes\n"
    await tus.patch(url, 3, b"def")
    *_, last = (await process.stdout.read()).splitlines()  # it may be seen on its way there
    assert last == b"accepted: 6 of 6 bytes"
    assert await process.wait() == 0


@pytest.mark.needs_nginx
async def test_05_replicas(tmp_path):
    """Everything starts, takes an upload, and with Ctrl-C ends in good order and leaves nothing behind."""
    command = [sys.executable, str(EXAMPLES / "05_replicas.py")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True
        )
    assert process.stdout is not None
    said = (await process.stdout.readline()).decode()
    assert said.startswith("You can now upload files to: http://127.0.0.1:"), log.read_text()
    tus = RawClient(said.split()[-1])
    url = await tus.create(5, body=b"hello")
    assert (await tus.get(url)).body == b"hello"
    pids = [int(pid) for pid in re.findall(r"process (\d+)", log.read_text())]
    assert len(pids) == 5
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0, log.read_text()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert list(tmp_path.glob("tusd-py-replicas-*")) == []


async def shown(tus, url, condition):
    """Wait until the status API shows what is wanted."""

    async def look():
        found = json.loads((await tus.get(url.replace("/files/", "/api/uploads/"))).body)
        return condition(found) and found

    return await wait_until(look)


async def test_06_plugin_check_jsonl(server_with):
    """Good lines pass; bad ones, and ones without end, quarantine the file with their numbers."""
    tus = RawClient(server_with(f"--plugin={EXAMPLES / '06_plugin_check_jsonl.py'}").url)

    async def verdict(data, name="a.jsonl"):
        metadata = {"Upload-Metadata": format_upload_metadata({"filename": name})}
        url = await tus.create(len(data), metadata, data)
        found = await shown(tus, url, lambda found: found["status"] != "checking")
        return found["status"], found["reason"]

    assert await verdict(b'{"a": 1}\n{"b": 2}\n') == ("accepted", None)
    assert await verdict(b'{"a": 1}\n{"b"\n[]\n') == ("quarantined", "line 2 is no JSON; line 3 is no object")
    assert await verdict(b"[" * 100_000) == ("quarantined", "line 1 is no JSON")
    assert await verdict(b" " * 2**20) == ("quarantined", "line 1 is longer than 1048576 bytes")
    assert await verdict(b"no JSON", "a.txt") == ("accepted", None)


async def test_07_plugin_deliver_events(tmp_path):
    """An accepted upload becomes a file that tells what and where it is, and whose signature is right."""
    config = tmp_path / "tusd-py.toml"
    plugin = EXAMPLES / "07_plugin_deliver_events.py"
    table = f'[plugins.07_plugin_deliver_events]\nfolder = "{tmp_path}"\nsecret = "sesame"\n'
    config.write_text(f'plugin = ["{plugin}"]\n{table}')
    with ServerProcess("--config", str(config), "--upload-dir", str(tmp_path / "uploads")) as server:
        tus = RawClient(server.url)
        url = await tus.create(5, body=b"hello")
        await shown(tus, url, lambda found: found["jobs"][-1]["status"] == "done")
    event = json.loads((tmp_path / f"{url.rpartition('/')[2]}.json").read_text())
    signature = event.pop("signature")
    assert event["data"]["url"] == (tmp_path / "uploads" / event["subject"]).as_uri()
    assert event["data"]["facts"]["07_plugin_deliver_events"]["sha256"] == hashlib.sha256(b"hello").hexdigest()
    stamp = str(int(datetime.fromisoformat(event["time"]).timestamp()))
    signed = ".".join([event["id"], stamp, json.dumps(event, sort_keys=True)])
    expected = hmac.digest(b"sesame", signed.encode(), "sha256")
    assert signature == f"v1,{base64.b64encode(expected).decode()}"


def test_07_plugin_deliver_events_without_a_secret():
    """A server whose plugin lacks its settings does not start."""
    with pytest.raises(ConfigError, match="missing required field"):
        load_plugins(Config(plugin=[str(EXAMPLES / "07_plugin_deliver_events.py")]))


@pytest.mark.parametrize("options", [[], ["--scale-out"]])
def test_12_pipeline(tmp_path, options):
    """Clean datasets are accepted and delivered, the others are quarantined for what is wrong with them."""
    done = script("12_pipeline.py", "--megabytes", "4", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\nall as it should be\n")
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:4]] == ["accepted"] * 3
