"""Every hook is called by a real server, with the right values; the plugin in recorder.py writes down what it gets."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tusd_py.composer import load_plugins
from tusd_py.config import Config
from tusd_py.headers import format_upload_metadata
from tusd_py.hooks.plugins import PluginError, hook_names, implementations
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

RECORDER = Path(__file__).parent / "recorder.py"
AS_ANN = {"Authorization": "Bearer ann"}


class Recorded:
    """A running server, and what its plugin wrote down."""

    def __init__(self, server: ServerProcess, file: Path) -> None:
        self.url = server.url
        self.tus = RawClient(server.url)
        self._file = file

    def calls(self, hook, **wanted):
        """The calls of a hook that have these values."""
        lines = map(json.loads, self._file.read_text().splitlines())
        return [line for line in lines if line["hook"] == hook and line.items() >= wanted.items()]

    async def call(self, hook, **wanted):
        """The one call of a hook with these values, once it was made."""
        [call] = await wait_until(lambda: self.calls(hook, **wanted))
        return call

    async def create(self, length=None, body=b"", **metadata):
        """Create an upload as Ann, and return its URL and id."""
        headers = {**AS_ANN, "Upload-Metadata": format_upload_metadata(metadata)}
        url = await self.tus.create(len(body) if length is None else length, headers, body)
        return url, url.rpartition("/")[2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    calls = folder / "calls.jsonl"
    config = folder / "tusd-py.toml"
    config.write_text(
        f'plugin = ["{RECORDER}"]\nhead_size = 4\n[plugins.recorder]\nfile = "{calls}"\ncolour = "blue"\n'
    )
    with ServerProcess("--config", str(config), "--upload-dir", str(folder / "uploads")) as server:
        yield Recorded(server, calls)


def test_every_hook_has_a_test():
    """A hook that is added to the specifications needs a test here."""
    tests = [name.removeprefix("test_") for name, test in globals().items() if inspect.isfunction(test)]
    for hook in hook_names():
        assert any(name == hook or name.startswith(f"{hook}_") for name in tests), f"{hook} has no test"


async def test_register_settings_gets_the_plugins_own_table(recorded):
    """The plugin gets its table of the TOML file, and nobody else's."""
    call = await recorded.call("register_settings")
    assert call["settings"].keys() == {"file", "colour"}
    assert call["settings"]["colour"] == "blue"


def test_register_settings_can_leave_a_plugin_out(tmp_path):
    """The other hooks of a plugin whose settings leave it nothing to do are not there for the server."""
    plugin = tmp_path / "idle.py"
    plugin.write_text(
        "from tusd_py import hookimpl\n"
        "@hookimpl\ndef register_settings(settings): return bool(settings)\n"
        "@hookimpl\ndef inspect_head(head): ...\n"
    )
    for settings, is_called in (({}, False), ({"idle": {"colour": "blue"}}, True)):
        manager = load_plugins(Config(plugin=[str(plugin)], plugins=settings))
        assert any(impl.plugin_name == "idle" for impl in implementations(manager, "inspect_head")) is is_called


def test_register_settings_can_leave_hooks_out(tmp_path):
    """Hooks that the settings leave nothing to do are not there, the others are; one that is none is named."""
    plugin = tmp_path / "partly.py"
    plugin.write_text(
        "from tusd_py import hookimpl\n"
        "@hookimpl\ndef register_settings(settings): return set(settings['without'])\n"
        "@hookimpl\ndef inspect_head(head): ...\n"
        "@hookimpl\ndef deliver(): ...\n"
    )
    for without in ([], ["deliver"], ["deliver", "inspect_head", "describe"]):
        manager = load_plugins(Config(plugin=[str(plugin)], plugins={"partly": {"without": without}}))
        for hook in ("deliver", "inspect_head"):
            names = [impl.plugin_name for impl in implementations(manager, hook)]
            assert ("partly" in names) is (hook not in without)
    with pytest.raises(PluginError, match="'partly': there is no hook 'delivr'"):
        load_plugins(Config(plugin=[str(plugin)], plugins={"partly": {"without": ["delivr"]}}))


def test_register_stores_adds_a_backend(tmp_path):
    """A URL with the scheme that a plugin registered opens the class it named."""
    config = tmp_path / "tusd-py.toml"
    config.write_text(f'plugin = ["{RECORDER}"]\n[plugins.recorder]\nfile = "{tmp_path / "calls"}"\n')
    with ServerProcess(
        "--config", str(config), "--store", "recorded:", "--state", "memory:", "--upload-dir", str(tmp_path / "uploads")
    ) as server:
        pass
    assert server.process.returncode == 0


async def test_register_routes_adds_a_page_behind_authorize(recorded):
    """A plugin's page is served, and `authorize` is asked for its action first."""
    answer = await recorded.tus.request("GET", "/recorder", {"Authorization": "Bearer reader-of-page"})
    assert (answer.status, answer.body) == (200, b"a page")
    await recorded.call("authorize", action="list", identity="reader-of-page")


async def test_a_page_on_one_upload_is_authorized_for_it_and_gone_with_it(recorded):
    """`{upload_id}` in a path is an upload: its owner gets the page, others 403, and without it is 404 or 410."""
    url, upload_id = await recorded.create(3)
    page = f"/recorder/{upload_id}"
    ann, bob = {"Authorization": "Bearer ann"}, {"Authorization": "Bearer bob"}
    answer = await recorded.tus.request("GET", page, ann)
    assert (answer.status, answer.body) == (200, upload_id.encode())
    assert (await recorded.tus.request("GET", page, bob)).status == 403
    assert (await recorded.tus.request("GET", "/recorder/nowhere", ann)).status == 404
    assert (await recorded.tus.request("GET", "/recorder/no.id", ann)).status == 404
    await recorded.tus.delete(url, ann)
    assert (await recorded.tus.request("GET", page, ann)).status == 410


async def test_a_page_on_many_uploads_learns_which_may_be_seen(recorded):
    """`allowed` gives those of the uploads that exist and are the caller's, to plain functions and coroutines."""
    _, upload_id = await recorded.create(3)
    for page in ("/recorder-some", "/recorder-awaited"):
        asked = f"{page}?{upload_id}&nowhere"
        for name, seen in (("ann", upload_id), ("bob", "")):
            answer = await recorded.tus.request("GET", asked, {"Authorization": f"Bearer {name}"})
            assert (answer.status, answer.body) == (200, seen.encode())


async def test_register_routes_describes_pages_in_the_openapi_document(recorded):
    """A page has its handler's first line, the parameters of its path and query, and the schema of its answer."""
    answer = await recorded.tus.request("GET", "/api/openapi.json", {"Authorization": "Bearer ann"})
    paths = json.loads(answer.body)["paths"]
    some = paths["/recorder-some"]["get"]
    assert (some["summary"], some["tags"]) == ("Answer which of the uploads in the query may be seen", ["recorder"])
    assert [(each["name"], each["in"], each["description"], each["schema"]) for each in some["parameters"]] == [
        ("first", "query", "an upload", {"type": "string", "maxLength": 9}),
        ("limit", "query", "", {"type": "integer", "default": 5}),
    ]
    assert some["responses"]["200"]["content"] == {"text/csv": {"schema": {"type": "string"}}}
    assert some["responses"].keys() == {"200", "400", "401", "403"}
    one = paths["/recorder/{upload_id}"]["get"]
    assert (one["parameters"][0]["name"], one["parameters"][0]["in"]) == ("upload_id", "path")
    assert "content" not in one["responses"]["200"]


def test_register_commands_adds_a_command(installed_plugin):
    """An installed plugin's command is listed by --help and can be run."""
    environment = installed_plugin("recorder", RECORDER.read_text())
    run = [sys.executable, "-P", "-m", "tusd_py"]
    listed = subprocess.run([*run, "--help"], env=environment, capture_output=True, text=True, check=True)
    said = subprocess.run([*run, "recorded"], env=environment, capture_output=True, text=True, check=True)
    assert "Say hello." in listed.stdout
    assert said.stdout == "hello from a plugin\n"


async def test_authenticate_sees_the_request_and_names_the_owner(recorded):
    """The hook gets the request with its headers; the identity it returns owns the upload."""
    _, upload_id = await recorded.create(3)
    call = (await recorded.call("post_create", id=upload_id))["request"]
    seen = await recorded.call("authenticate", request=call)
    assert (seen["method"], seen["path"], seen["headers"]["Authorization"]) == ("POST", "/files/", "Bearer ann")
    assert (await recorded.call("pre_create", id=upload_id))["owner"] == "ann"


async def test_authenticate_refuses_with_its_own_code(recorded):
    """A refusal is answered with the plugin's status, code and sentence, and nothing is created."""
    answer = await recorded.tus.post({"Upload-Length": 1, "Authorization": "Bearer wrong"})
    assert (answer.status, answer.body) == (401, b"ERR_BAD_TOKEN: this token is not known\n")
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert not recorded.calls("authorize", identity="wrong")


async def test_authorize_is_asked_for_every_action(recorded):
    """Every request names its action and upload, each member of a concatenation included."""
    url, upload_id = await recorded.create(1)
    parts = [await recorded.tus.create(1, {**AS_ANN, "Upload-Concat": "partial"}, b"x") for _ in range(2)]
    for method, target in [("HEAD", url), ("GET", f"/api/uploads/{upload_id}")]:
        await recorded.tus.request(method, target, AS_ANN)
    await recorded.tus.patch(url, 0, b"x", AS_ANN)
    await recorded.tus.get(url, AS_ANN)
    await recorded.tus.delete(url, AS_ANN)
    await recorded.tus.create(headers={**AS_ANN, "Upload-Concat": f"final;{parts[0]} {parts[1]}"})

    asked = [call["action"] for call in recorded.calls("authorize", id=upload_id)]
    assert asked == ["head", "status", "append", "read", "terminate"]
    for part in parts:
        assert [call["action"] for call in recorded.calls("authorize", id=part.rpartition("/")[2])] == ["concatenate"]
    assert recorded.calls("authorize", action="create", identity="ann")


async def test_pre_create_sees_the_new_upload(recorded):
    """The hook gets length and metadata before a byte is stored."""
    _, upload_id = await recorded.create(body=b"abc", colour="red")
    call = await recorded.call("pre_create", id=upload_id)
    assert (call["length"], call["offset"], call["metadata"]) == (3, 0, {"colour": "red"})


async def test_pre_create_changes_metadata_id_and_path(recorded, tmp_path):
    """What the hook returns becomes the upload's id, Upload-Metadata and place on disk."""
    url, upload_id = await recorded.create(
        body=b"abc",
        **{
            "change-metadata": json.dumps({"colour": "green"}),
            "change-id": "chosen-by-plugin",
            "change-path": "2024/07/report",
        },
    )
    assert upload_id == "chosen-by-plugin"
    head = await recorded.tus.head(url, AS_ANN)
    assert head.headers["Upload-Metadata"] == "colour Z3JlZW4="
    finished = await recorded.call("pre_finish", id=upload_id)
    assert finished["url"].endswith("/uploads/2024/07/report")
    assert finished["text"] == "abc"


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", ".locks/inside", "uploads.db"])
async def test_pre_create_cannot_choose_a_path_that_is_not_its_own(recorded, path):
    """A path out of the directory, or to the server's own files, is refused and nothing is created."""
    headers = {**AS_ANN, "Upload-Metadata": format_upload_metadata({"change-path": path})}
    answer = await recorded.tus.post({"Upload-Length": 1, **headers}, b"x")
    assert answer.status == 403


async def test_pre_create_with_values_of_wrong_types_is_the_plugins_failure(recorded):
    """Changes that are no changes answer 500 in the plugin's name, and nothing is created."""
    headers = {**AS_ANN, "Upload-Metadata": format_upload_metadata({"change-metadata": json.dumps({"size": 5})})}
    answer = await recorded.tus.post({"Upload-Length": 1, **headers})
    assert (answer.status, answer.code) == (500, "ERR_HOOK_FAILED")
    assert b"recorder" in answer.body


async def test_pre_create_refuses_before_anything_is_stored(recorded):
    """A refused creation answers in the plugin's words, and no hook hears of an upload."""
    headers = {**AS_ANN, "Upload-Metadata": format_upload_metadata({"refuse": "pre_create", "number": "one"})}
    answer = await recorded.tus.post({"Upload-Length": 3, **headers}, b"abc")
    assert (answer.status, answer.body) == (422, b"ERR_UPLOAD_REJECTED: refused by pre_create\n")
    [refused] = [call for call in recorded.calls("pre_create") if call["metadata"].get("number") == "one"]
    assert (await recorded.tus.head(recorded.url + refused["id"], AS_ANN)).status == 404
    assert not recorded.calls("post_create", id=refused["id"])


async def test_inspect_head_gets_the_first_bytes_once_they_are_there(recorded):
    """The hook waits for `head_size` bytes over several requests, and is called once."""
    url, upload_id = await recorded.create(10)
    await recorded.tus.patch(url, 0, b"ab", AS_ANN)
    assert not recorded.calls("inspect_head", id=upload_id)
    await recorded.tus.patch(url, 2, b"cdefgh", AS_ANN)
    await recorded.tus.patch(url, 8, b"ij", AS_ANN)
    assert (await recorded.call("inspect_head", id=upload_id))["head"] == "abcd"


async def test_inspect_head_gets_less_only_of_a_smaller_upload(recorded):
    """An upload that is smaller than `head_size` is shown whole."""
    _, upload_id = await recorded.create(body=b"ab")
    assert (await recorded.call("inspect_head", id=upload_id))["head"] == "ab"


async def test_inspect_head_sees_a_concatenation_but_not_its_parts(recorded):
    """Partial uploads are not shown; the final one's head is made of their bytes."""
    partial = {**AS_ANN, "Upload-Concat": "partial"}
    parts = [await recorded.tus.create(len(text), partial, text) for text in (b"ab", b"cde")]
    final = await recorded.tus.create(headers={**AS_ANN, "Upload-Concat": f"final;{parts[0]} {parts[1]}"})
    assert (await recorded.call("inspect_head", id=final.rpartition("/")[2]))["head"] == "abcd"
    for hook in ("pre_create", "inspect_head", "pre_finish", "post_finish"):
        for part in parts:
            assert not recorded.calls(hook, id=part.rpartition("/")[2])


@pytest.mark.parametrize("hook", ["inspect_head", "pre_finish"])
async def test_an_upload_that_a_hook_refuses_is_gone(recorded, hook):
    """The PATCH that completes it is refused, and HEAD, GET and a repeated PATCH say that it is gone."""
    url, upload_id = await recorded.create(6, refuse=hook)
    refused = await recorded.tus.patch(url, 0, b"abcdef", AS_ANN)
    assert (refused.status, refused.body) == (422, f"ERR_UPLOAD_REJECTED: refused by {hook}\n".encode())
    for offset, body in [(0, b"abcdef"), (6, b"")]:
        again = await recorded.tus.patch(url, offset, body, AS_ANN)
        assert (again.status, again.code) == (410, "ERR_UPLOAD_GONE")
    head = await recorded.tus.head(url, AS_ANN)
    assert (head.status, head.offset) == (410, None)
    ended = await recorded.call("post_terminate", id=upload_id)
    assert (ended["status"], ended["reason"]) == ("rejected", f"refused by {hook}")
    assert not recorded.calls("post_finish", id=upload_id)
    assert (await recorded.tus.get(url, AS_ANN)).status == 410


async def test_inspect_head_refuses_before_the_rest_is_sent(recorded):
    """The answer comes when the first bytes are there, while the client still has most of the body to send."""
    url, _ = await recorded.create(1_000_000, refuse="inspect_head")
    async with recorded.tus.connect() as connection:
        headers = {**AS_ANN, "Upload-Offset": 0, "Content-Type": "application/offset+octet-stream"}
        await connection.send(
            recorded.tus.message("PATCH", url, {**headers, "Content-Length": 1_000_000}) + b"abcdefgh"
        )
        assert (await connection.answer()).status == 422


async def test_pre_finish_sees_the_whole_content(recorded):
    """The hook can read all bytes before the client is told that the upload is complete."""
    url, upload_id = await recorded.create(6)
    await recorded.tus.patch(url, 0, b"abc", AS_ANN)
    assert not recorded.calls("pre_finish", id=upload_id)
    await recorded.tus.patch(url, 3, b"def", AS_ANN)
    call = await recorded.call("pre_finish", id=upload_id)
    assert (call["size"], call["text"], call["status"]) == (6, "abcdef", "assembling")


async def test_pre_terminate_refuses_a_removal(recorded):
    """A DELETE that the hook refuses leaves the upload as it is."""
    url, upload_id = await recorded.create(body=b"abc", refuse="pre_terminate")
    assert (await recorded.tus.delete(url, AS_ANN)).status == 422
    assert (await recorded.tus.head(url, AS_ANN)).offset == 3
    assert (await recorded.call("pre_terminate", id=upload_id))["method"] == "DELETE"


async def test_post_create_sees_the_upload_and_its_request(recorded):
    """The hook gets the upload as it was stored, and who asked for it how."""
    _, upload_id = await recorded.create(5, colour="blue")
    call = await recorded.call("post_create", id=upload_id)
    assert (call["method"], call["length"], call["metadata"], call["owner"]) == ("POST", 5, {"colour": "blue"}, "ann")


async def test_post_receive_sees_the_bytes_after_each_request(recorded):
    """The hook is told how far the upload has got, and can read that far."""
    url, upload_id = await recorded.create(4)
    await recorded.tus.patch(url, 0, b"ab", AS_ANN)
    await recorded.tus.patch(url, 2, b"cd", AS_ANN)
    first = await recorded.call("post_receive", id=upload_id, offset=2)
    last = await recorded.call("post_receive", id=upload_id, offset=4)
    assert (first["text"], last["text"]) == ("ab", "abcd")


async def test_post_finish_sees_an_accepted_upload(recorded):
    """The hook is called once, with the upload complete and accepted; not for an empty PATCH that repeats the last."""
    url, upload_id = await recorded.create(body=b"abc")
    assert (await recorded.tus.patch(url, 3, b"", AS_ANN)).status == 204
    call = await recorded.call("post_finish", id=upload_id)
    assert (call["status"], call["offset"]) == ("accepted", 3)


async def test_post_terminate_sees_how_an_upload_ended(recorded):
    """The hook gets the tombstone of an upload that a client removed."""
    url, upload_id = await recorded.create(body=b"abc")
    assert (await recorded.tus.delete(url, AS_ANN)).status == 204
    assert (await recorded.call("post_terminate", id=upload_id))["status"] == "terminated"


async def test_post_request_sees_answers_but_no_credentials(recorded):
    """The hook gets every request with its answer and duration, refused ones included, without Authorization."""
    url, upload_id = await recorded.create(3)
    await recorded.tus.patch(url, 2, b"x", {**AS_ANN, "Cookie": "session=1", "User-Agent": "test"})
    call = await recorded.call("post_request", id=upload_id, method="PATCH")
    assert (call["code"], call["path"]) == (409, f"/files/{upload_id}")
    assert 0 < call["seconds"] < 20
    assert call["headers"]["User-Agent"] == "test"
    assert not call["headers"].keys() & {"Authorization", "Cookie"}


async def test_post_measure_sees_the_servers_own_work(recorded):
    """The hook gets figures on bytes, locks and hooks."""
    await recorded.create(body=b"0123456789abcdef")
    await recorded.call("post_measure", name="bytes_received", value=16)
    names = {call["name"] for call in recorded.calls("post_measure")}
    assert names >= {"bytes_received", "chunk", "receiving", "lock_wait", "hook"}
    hooks = [call["labels"] for call in recorded.calls("post_measure", name="hook")]
    assert {"hook": "pre_finish", "plugin": "recorder", "outcome": "ok"} in hooks


async def test_check_sees_a_complete_upload(recorded):
    """The stage `check` runs after the last byte, with the content, before the upload is accepted."""
    _, upload_id = await recorded.create(body=b"abc")
    call = await recorded.call("check", id=upload_id)
    assert (call["status"], call["content"]) == ("checking", "abc")


async def test_describe_sees_an_accepted_upload(recorded):
    """The stage `describe` runs on what has passed, and the status API shows what it returns."""
    _, upload_id = await recorded.create(body=b"abc")
    call = await recorded.call("describe", id=upload_id)
    assert (call["status"], call["content"]) == ("accepted", "abc")


async def test_deliver_gets_the_facts(recorded):
    """The stage `deliver` runs on what is accepted, with what `describe` returned."""
    _, upload_id = await recorded.create(body=b"abc")
    call = await recorded.call("deliver", id=upload_id)
    assert (call["status"], call["content"]) == ("accepted", "abc")
    assert call["facts"] == {"recorder": {"words": 1}}


async def test_post_verdict_sees_the_verdict(recorded):
    """The hook gets the upload as it is after the verdict, and the reasons."""
    _, upload_id = await recorded.create(body=b"abc")
    call = await recorded.call("post_verdict", id=upload_id)
    assert (call["status"], call["ok"], call["reasons"]) == ("accepted", True, ["well"])
