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
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


async def test_12_plugin_check_xml(server_with):
    """XML passes; what is none, or becomes too large, quarantines the file and nothing else."""
    tus = RawClient(server_with(f"--plugin={EXAMPLES / '12_plugin_check_xml.py'}").url)

    async def verdict(data):
        url = await tus.create(len(data), {"Upload-Metadata": format_upload_metadata({"filename": "a.xml"})}, data)
        found = await shown(tus, url, lambda found: found["status"] != "checking")
        return found["status"], found["reason"]

    assert await verdict(b"<a>" + b"<b/>" * 2_000_000 + b"</a>") == (
        "quarantined",
        "it cannot be parsed: it needs more memory than it may use",
    )
    assert await verdict(b"<a>\n</b>") == ("quarantined", "it is no XML: mismatched tag: line 2, column 2")
    assert (await verdict(b"<a><b/></a>"))[0] == "accepted"


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
def test_11_pipeline(tmp_path, options):
    """Clean datasets are accepted and delivered, the others are quarantined for what is wrong with them."""
    done = script("11_pipeline.py", "--megabytes", "4", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\nall as it should be\n")
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:4]] == ["accepted"] * 3


DELIVERIES = ["08_plugin_deliver_webhook", "09_plugin_deliver_split", "10_plugin_deliver_embeddings"]


class Receiver:
    """A receiver of webhooks on a free port, which gives the answers that it is told to."""

    def __init__(self):
        """Answer 204 until told otherwise."""
        self.answers, self.received = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                receiver.received.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/uploads"


@pytest.fixture(scope="module")
def deliveries(tmp_path_factory):
    """A server with the plugins that deliver, and where they deliver to."""
    folder, receiver = tmp_path_factory.mktemp("deliveries"), Receiver()
    names = DELIVERIES
    config = folder / "tusd-py.toml"
    config.write_text(f"""
plugin = {[str(EXAMPLES / f"{name}.py") for name in names]}
job_backoff = "50ms"
[plugins.{names[0]}]
url = "{receiver.url}"
secret = "whsec_c2VzYW1l"
[plugins.{names[1]}]
folder = "{folder / "sets"}"
validation = 0.2
[plugins.{names[2]}]
database = "{folder / "vectors.db"}"
""")
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with ServerProcess("--config", str(config), "--upload-dir", str(folder / "uploads")) as server:
            yield RawClient(server.url), folder, receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


async def delivered(tus, name, data):
    """Upload a file, and return its id and its jobs by plugin when all have ended."""
    url = await tus.create(len(data), {"Upload-Metadata": format_upload_metadata({"filename": name})}, data)
    found = await shown(tus, url, lambda found: all(job["ended_at"] for job in found["jobs"]))
    return found["id"], {job["plugin"]: job for job in found["jobs"]}


async def test_08_plugin_deliver_webhook(deliveries):
    """The event comes signed, again after a failure with the same id, and not again if the receiver wants none."""
    tus, folder, receiver = deliveries
    receiver.answers = [503]
    upload_id, jobs = await delivered(tus, "a.bin", b"hello")
    assert (jobs["08_plugin_deliver_webhook"]["status"], jobs["08_plugin_deliver_webhook"]["attempts"]) == ("done", 2)
    first, (headers, body) = receiver.received
    event = json.loads(body)
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert (event["specversion"], event["id"], event["subject"]) == ("1.0", f"{upload_id}.accepted", upload_id)
    assert event["data"]["url"] == (folder / "uploads" / upload_id).as_uri()
    assert first[0]["webhook-id"] == headers["webhook-id"] == event["id"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(b"sesame", signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"

    receiver.answers = [410]
    _, jobs = await delivered(tus, "b.bin", b"hello")
    job = jobs["08_plugin_deliver_webhook"]
    assert (job["status"], job["attempts"], job["error"]) == ("failed", 1, "the webhook was answered with 410")
    assert len(receiver.received) == 3


async def test_09_plugin_deliver_split(deliveries):
    """Every example is in one of the sets, equal ones in the same one; what is no JSON is said."""
    tus, folder, _ = deliveries
    lines = [json.dumps({"prompt": f"question {number}", "completion": str(number)}) for number in range(1000)]
    again = json.dumps({"completion": "1", "prompt": "question 1"})
    upload_id, _ = await delivered(tus, "a.jsonl", "\n".join([*lines, "", again]).encode())
    train, validation = [
        (folder / "sets" / f"{upload_id}.{kind}.jsonl").read_text().splitlines() for kind in ("train", "validation")
    ]
    assert sorted([*train, *validation]) == sorted([*lines, again])
    assert (again in train) == (lines[1] in train)
    assert 150 <= len(validation) <= 250
    _, jobs = await delivered(tus, "b.jsonl", b'{"a": 1}\n{"a"\n')
    job = jobs["09_plugin_deliver_split"]
    assert (job["status"], job["attempts"], job["error"]) == ("failed", 1, "a line is no JSON")


async def test_10_plugin_deliver_embeddings(deliveries):
    """A search finds the paragraph that is nearest, and what is delivered again is there once."""
    tus, folder, _ = deliveries
    text = "Uploads can be resumed\nafter a loss.\n\nCats sleep most of the day.\n\nThe lock is handed over."
    upload_id, _ = await delivered(tus, "notes.md", text.encode())
    again = ["jobs", "retry", f"{upload_id}/deliver/10_plugin_deliver_embeddings"]
    options = ["--config", str(folder / "tusd-py.toml"), "--upload-dir", str(folder / "uploads")]
    command = [sys.executable, "-P", "-m", "tusd_py", *again, *options]
    assert await (await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)).wait() == 0
    url = f"{tus.url}{upload_id}"
    await shown(tus, url, lambda found: found["jobs"][-1]["ended_at"])
    found = script("10_plugin_deliver_embeddings.py", "vectors.db", "how to resume an upload", cwd=folder)
    assert found.returncode == 0, found.stderr
    said = [line.partition(" ")[2] for line in found.stdout.splitlines()]
    assert said[0] == "notes.md: Uploads can be resumed after a loss."
    assert len(said) == 3


@pytest.mark.parametrize("name", DELIVERIES)
def test_deliveries_without_settings(name):
    """A server whose plugin lacks its settings does not start."""
    with pytest.raises(ConfigError, match="missing required field"):
        load_plugins(Config(plugin=[str(EXAMPLES / f"{name}.py")]))
