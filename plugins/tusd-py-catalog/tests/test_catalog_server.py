"""The plugin as its users have it: installed, in a real server, with real clients."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jsonschema
import pytest
import requests
import tusd_py_catalog
from tusclient.client import TusClient
from tusd_py_catalog.settings import Settings, read

from tusd_py import Reject, Upload
from tusd_py.config import ConfigError
from tusd_py.models import now
from tusd_py.stores.memory import MemoryStore
from tusd_py.testing.contracts import Tap, new_upload, wait_until
from tusd_py.testing.plugins import hooks_of
from tusd_py.testing.server import ServerProcess

ROOT = Path(__file__).parents[3]
CHAT = b"".join(b'{"id": %d, "text": "Write to bob.smith@corp.io about the weather today."}\n' % n for n in range(9))
WHO = """
from tusd_py import Identity, Reject, hookimpl

@hookimpl
def authenticate(request):
    name = request.headers.get("X-User", "root")
    return Identity(name, {"operator": name == "root"})

@hookimpl
def authorize(request, action, upload):
    if upload and action in upload.metadata.get("secret", "").split() and request.identity.name != "root":
        raise Reject("it is secret", status=403)
"""


class Served:
    """A running server, and what it answers."""

    def __init__(self, server, folder):
        self.server, self.folder, self.events = server, folder, folder / "events.jsonl"
        self.settings = ("--config", str(folder / "tusd-py.toml"), "--upload-dir", str(folder / "data"))

    def upload(self, user, data, **metadata):
        """Upload as somebody, and return the id when it is described."""
        uploader = TusClient(self.server.url, headers={"X-User": user}).uploader(
            file_stream=io.BytesIO(data), metadata=metadata
        )
        uploader.upload()
        return uploader.url.rpartition("/")[2]

    def get(self, user, path="", **query):
        url = self.server.url.replace("/files/", "/api/catalog") + path
        return requests.get(url, query, headers={"X-User": user}, timeout=10)

    def command(self, *words):
        """Run `tusd-py`, in the folder of the server."""
        return self.run([sys.executable, "-P", "-m", "tusd_py", *words])

    def run(self, words):
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state")}
        return subprocess.check_output(words, text=True, cwd=self.folder, env=environment)

    def delete(self, user, upload_id):
        headers = {"X-User": user, "Tus-Resumable": "1.0.0"}
        assert requests.delete(self.server.url + upload_id, headers=headers, timeout=10).status_code == 204

    def ids(self, user, **query):
        answer = self.get(user, **query)
        assert answer.status_code == 200, answer.text
        return [entry["upload_id"] for entry in answer.json()["entries"]]

    def validate(self, path, body):
        """Fail unless the server's OpenAPI document says that this is what the path answers."""
        document = self.get("root", "/../openapi.json").json()
        page = document["paths"][path]["get"]
        schema = page["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(body)
        assert page["tags"] == ["catalog"]
        assert page["summary"]
        return page

    async def described(self, user, data, **metadata):
        upload_id = self.upload(user, data, **metadata)
        await wait_until(lambda: self.get("root", f"/{upload_id}").status_code == 200)
        return upload_id


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    (folder / "who.py").write_text(WHO)
    config = folder / "tusd-py.toml"
    config.write_text(
        f'plugin = ["{folder / "who.py"}"]\n[plugins.catalog]\ndatabase = "sqlite:///{folder / "catalog.db"}"\n'
        f'openlineage = "{folder / "events.jsonl"}"\n'
    )
    with ServerProcess("--config", str(config), "--upload-dir", str(folder / "data")) as server:
        yield Served(server, folder)
    assert server.process.returncode == 0


async def test_an_upload_is_described_found_and_forgotten(served):
    """From the upload to its entry, its redacted sample, Croissant, an event, and to its end."""
    upload_id = await served.described(
        "ann", CHAT, filename="chat.jsonl", tags="Weather, en", description="Small talk.", license="CC0-1.0"
    )
    entry = served.get("ann", f"/{upload_id}").json()
    assert (entry["name"], entry["version"], entry["owner"]) == ("chat.jsonl", 1, "ann")
    assert (entry["facts"]["rows"], entry["facts"]["format"], entry["tags"]) == (9, "jsonl", ["en", "weather"])
    assert entry["facts"]["sample"][0] == {"id": 0, "text": "Write to [EMAIL] about the weather today."}
    assert "bob.smith" not in json.dumps(entry)
    assert served.ids("ann", tag="weather", text="small talk", field="text", type="prose") == [upload_id]
    croissant = served.get("ann", f"/{upload_id}/croissant")
    assert croissant.headers["Content-Type"] == "application/ld+json"
    assert croissant.json()["distribution"][0]["contentUrl"] == served.server.url + upload_id
    [event] = await wait_until(
        lambda: (
            [line for line in served.events.read_text().splitlines() if "chat.jsonl" in line]
            if served.events.exists()
            else []
        )
    )
    assert json.loads(event)["outputs"][0]["name"] == "ann/chat.jsonl"
    for path, shown in (
        ("/api/catalog", served.get("ann")),
        ("/api/catalog/{upload_id}", served.get("ann", f"/{upload_id}")),
        ("/api/catalog/{upload_id}/lineage", served.get("ann", f"/{upload_id}/lineage")),
    ):
        served.validate(path, shown.json())

    served.delete("ann", upload_id)
    assert served.get("ann", f"/{upload_id}").status_code == 410
    assert upload_id not in served.ids("root")


async def test_everybody_sees_what_authorize_lets_them_see(served):
    """Lists, entries, versions and lineage show nothing of what is somebody else's, or refused by a plugin."""
    mine = await served.described("ann", CHAT, dataset="talk", filename="a.jsonl")
    secret = await served.described(
        "ann", CHAT, dataset="talk", filename="b.jsonl", secret="status read", derivedFrom=mine
    )
    theirs = await served.described("bob", CHAT, dataset="talk", filename="a.jsonl", derivedFrom=f"{mine},x y")
    assert served.ids("ann", name="talk") == [mine]
    assert served.ids("bob", name="talk") == [theirs]
    assert served.ids("root", name="talk") == [theirs, secret, mine]
    assert served.ids("ann", owner="bob") == served.ids("ann", name="talk")
    for path in ("", "/croissant", "/lineage"):
        assert served.get("ann", f"/{mine}{path}").status_code == 200
        assert served.get("bob", f"/{mine}{path}").status_code == 403
        assert served.get("ann", f"/{secret}{path}").status_code == 403
    assert [version["version"] for version in served.get("ann", f"/{mine}").json()["versions"]] == [1]
    assert [version["version"] for version in served.get("root", f"/{mine}").json()["versions"]] == [2, 1]
    edges = {user: served.get(user, f"/{mine}/lineage").json()["edges"] for user in ("ann", "root")}
    assert edges["ann"] == []
    assert {edge["to"] for edge in edges["root"]} == {secret, theirs}
    nodes = served.get("bob", f"/{theirs}/lineage").json()["nodes"]
    assert nodes == [
        {"upload_id": theirs, "name": "talk", "version": 1, "format": "jsonl"},
        {"source": mine},
        {"source": "x"},
        {"source": "y"},
    ]


async def test_rows_are_for_who_may_read_them(served):
    """Who may see that an upload is there, but not read it, sees what is known of it without its rows."""
    upload_id = await served.described("ann", CHAT, filename="rows.jsonl", secret="read")
    facts = {user: served.get(user, f"/{upload_id}").json()["facts"] for user in ("ann", "root")}
    assert (facts["ann"]["rows"], facts["ann"]["sample"], len(facts["root"]["sample"])) == (9, [], 5)


async def test_what_goes_into_quarantine_is_not_in_the_catalog(served):
    """The server knows what is in quarantine: there is no page of it, for its owner neither, nor in lists."""
    upload_id = await served.described("ann", CHAT, filename="held.jsonl")
    child = await served.described("ann", CHAT, filename="child.jsonl", derivedFrom=upload_id)
    served.command("uploads", "quarantine", upload_id, "--reason", "odd", *served.settings)
    for user in ("ann", "root"):
        for path in ("", "/croissant", "/lineage"):
            assert served.get(user, f"/{upload_id}{path}").status_code == 404
        assert served.ids(user, name="held.jsonl") == []
        assert served.get(user, f"/{child}/lineage").json()["nodes"][1] == {"source": upload_id}


@pytest.mark.needs_curl
async def test_what_the_documents_show_works(served):
    """The upload of the README is found by all requests that it and docs/catalog.md show."""
    chat = {"messages": [{"role": "user", "content": "What will the weather be like tomorrow, please?"}]}
    (served.folder / "rows.jsonl").write_text(json.dumps(chat))
    shown = [
        line.replace("http://127.0.0.1:8080/", served.server.url.removesuffix("files/"))
        for document in ("plugins/tusd-py-catalog/README.md", "docs/catalog.md")
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
        for line in block.splitlines()
    ]
    upload, first, *others = map(shlex.split, shown)
    served.command(*upload[1:])
    [found] = await wait_until(lambda: json.loads(served.run(first))["entries"])
    assert (found["name"], found["tags"]) == ("weather-chat", ["chat", "en"])
    assert len(others) == 4
    for words in others:
        answer = served.run([word.replace("/ID", f"/{found['upload_id']}") for word in words])
        assert json.loads(answer)
        assert found["upload_id"] in answer


async def test_pages_go_on_where_the_former_ended(served):
    """With a limit, every entry is on one page."""
    made = [await served.described("eve", b"a,b\n1,2\n", filename="a.csv") for _ in range(3)]
    first = served.get("eve", limit=2).json()
    rest = served.get("eve", limit=2, after=first["next"]).json()
    assert [entry["upload_id"] for entry in first["entries"] + rest["entries"]] == made[::-1]
    assert rest["next"] is None
    assert first["entries"][0]["version"] == 3


@pytest.mark.parametrize(
    "query",
    ["nmae=x", "limit=0", "limit=x", "after=-1", "text=%FF", "text=%00", "text=" + "a+" * 251, "name=" + "*" * 501],
)
def test_queries_that_cannot_be_are_refused(served, query):
    """A misspelt parameter or a value that cannot be is answered 400."""
    assert served.get("ann", f"?{query}").status_code == 400


async def test_what_cannot_be_read_is_described_with_a_reason(served):
    """A broken file has an entry that says so, and the server goes on."""
    upload_id = await served.described("ann", b"PAR1 and no more", filename="a.parquet")
    assert served.get("ann", f"/{upload_id}").json()["facts"]["problems"] == ["the Parquet file is broken"]


async def stored(store, data, **changes):
    """Return an upload with these bytes, complete in a store that has no files."""
    upload = await store.create(new_upload(length=len(data), metadata={"filename": "a.csv"}))
    tap = Tap()
    tap.let(data, b"")

    async def progress(_: Upload) -> None: ...

    await store.append(upload, tap.body(), progress)
    return upload.changed(offset=len(data), finished_at=now(), **changes)


async def test_bytes_that_are_elsewhere_are_described_and_again_the_same(tmp_path):
    """An upload in a store without files is described like any other; twice gives one entry; after its end none."""
    store = MemoryStore()
    await store.open()
    upload = await stored(store, b"a,b\n1,x\n")
    settings = {"database": f"sqlite:///{tmp_path / 'catalog.db'}"}
    async with hooks_of(tusd_py_catalog, settings) as hooks:
        first = tusd_py_catalog.describe(upload, store.content(upload), lambda done: None)
        entry = tusd_py_catalog.catalog.get(upload.id)
        assert tusd_py_catalog.describe(upload, store.content(upload), lambda done: None) == first
        assert tusd_py_catalog.catalog.get(upload.id) == entry
        assert (first["rows"], first["version"], len(first["sample"])) == (1, 1, 0)
        assert not hooks.has("deliver")  # a job that nobody wants
        hooks.post_terminate(upload)
    with pytest.raises(Reject, match="removed"):
        tusd_py_catalog.describe(upload, store.content(upload), lambda done: None)
    await store.aclose()


class Receiver(BaseHTTPRequestHandler):
    """Takes events, and answers with the status that the path names."""

    def do_POST(self):
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *arguments): ...


async def test_events_are_posted_and_refusals_are_final(tmp_path):
    """An event goes to a URL; an error of the receiver is for another attempt, a refusal is not."""
    store = MemoryStore()
    await store.open()
    upload = await stored(store, b"a,b\n1,x\n")
    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        receiver.got = []
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        try:
            for status, error in ((200, None), (503, requests.RequestException), (400, Reject)):
                settings = {
                    "database": f"sqlite:///{tmp_path / 'catalog.db'}",
                    "openlineage": f"http://127.0.0.1:{receiver.server_port}/{status}",
                }
                async with hooks_of(tusd_py_catalog, settings) as hooks:
                    assert hooks.has("deliver")
                    if error is None:
                        tusd_py_catalog.describe(upload, store.content(upload), lambda done: None)
                        tusd_py_catalog.deliver(upload)
                    else:
                        with pytest.raises(error):
                            tusd_py_catalog.deliver(upload)
        finally:
            receiver.shutdown()
            thread.join()
    assert [event["eventType"] for event in receiver.got] == ["START", "COMPLETE", "START", "START"]
    assert receiver.got[0] == receiver.got[2] == receiver.got[3]
    await store.aclose()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"databse": "x"}, "databse.*there are enabled, database"),
        ({"database": "mysql://x"}, "begins with sqlite"),
        ({"threads": 0}, "threads"),
        ({"memory": "much"}, "memory"),
        ({"database": "postgresql+nodriver://x/y"}, "database"),
    ],
)
async def test_settings_that_cannot_be_are_named(settings, message):
    """A setting that cannot be keeps the server from starting, and is named."""
    with pytest.raises(ConfigError, match=message):
        async with hooks_of(tusd_py_catalog, settings):
            pass


def test_without_settings_it_does_nothing():
    """The plugin stays out until its table has a key."""
    assert tusd_py_catalog.register_settings({}) is False
    assert tusd_py_catalog.register_settings({"enabled": False}) is False
    assert read({}).sample_rows == 5


def test_the_documents_name_every_setting_and_the_readme_can_be_set():
    """The table in docs/catalog.md has all settings, and what the README shows is accepted."""
    table = re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs/catalog.md").read_text(), re.MULTILINE)
    assert {name for name, _ in table} >= {*Settings.__struct_fields__}
    for shown in re.findall(r"```toml\n(.*?)```", (ROOT / "plugins/tusd-py-catalog/README.md").read_text(), re.DOTALL):
        assert read(tomllib.loads(shown)["plugins"]["catalog"]).enabled
