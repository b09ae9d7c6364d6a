"""The audit log says who did what to which upload, and neither it nor any other log holds a secret."""

import json
from pathlib import Path

import pytest

from tusd_py.headers import format_upload_metadata
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

HERE = Path(__file__).parent
ANN = {"Authorization": "Name ann"}
SECRETS = ("sesame-token", "sesame-cookie", "sesame-query", "sesame-api-token", "sesame-proxy")


def lines_of(path, **wanted):
    lines = map(json.loads, path.read_text().splitlines())
    return [line for line in lines if line.items() >= wanted.items()]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A server with users and an audit log: its client and the log's path."""
    folder = tmp_path_factory.mktemp("audited")
    arguments = ("--plugin", str(HERE / "names.py"), "--audit-log", str(folder / "audit.jsonl"))
    with ServerProcess(*arguments, "--upload-dir", str(folder / "uploads")) as server:
        yield RawClient(server.url), folder / "audit.jsonl"


async def test_the_life_of_an_upload_is_told(audited):
    """Creation, each append, the finish, reading and removal are lines that name upload, person and outcome."""
    tus, log = audited
    url = await tus.create(4, {**ANN, "X-Request-ID": "the-creation"})
    upload_id = url.rpartition("/")[2]
    for offset, body in [(0, b"ab"), (2, b"cd")]:
        await tus.patch(url, offset, body, ANN)
    await tus.get(url, ANN)
    await tus.delete(url, ANN)

    told = await wait_until(lambda: len(found := lines_of(log, upload=upload_id)) == 7 and found)
    done = sorted((line["action"], line.get("identity") or line.get("owner"), line.get("status")) for line in told)
    assert done == sorted(
        [
            ("create", "ann", 201),
            ("append", "ann", 204),
            ("append", "ann", 204),
            ("finish", "ann", None),
            ("read", "ann", 200),
            ("terminate", "ann", 204),
            ("terminated", "ann", None),
        ]
    )
    [creation] = lines_of(log, upload=upload_id, action="create")
    assert creation["request"] == "the-creation"
    assert creation["remote"] == "127.0.0.1"
    assert creation["at"].endswith("Z")


async def test_what_was_refused_is_told_with_its_code(audited):
    """A stranger's attempt is a line with the status and the error's code."""
    tus, log = audited
    url = await tus.create(1, ANN)
    await tus.patch(url, 0, b"x", {"Authorization": "Name bob"})
    [line] = await wait_until(lambda: lines_of(log, upload=url.rpartition("/")[2], identity="bob"))
    assert (line["action"], line["status"], line["code"]) == ("append", 403, "ERR_FORBIDDEN")
    await tus.post({"Upload-Length": 1})
    await wait_until(lambda: lines_of(log, action="create", status=401, code="ERR_UNAUTHENTICATED"))


async def test_an_overridden_method_is_told_as_what_it_meant(audited):
    """A POST that means DELETE is a removal."""
    tus, log = audited
    url = await tus.create(1, ANN)
    await tus.request("POST", url, {**ANN, "X-HTTP-Method-Override": "DELETE"})
    await wait_until(lambda: lines_of(log, upload=url.rpartition("/")[2], action="terminate", status=204))


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_log_holds_a_secret(tmp_path, form):
    """Credentials in headers, cookies and queries appear in no log, whatever goes wrong on the way."""
    audit = tmp_path / "audit.jsonl"
    fails = tmp_path / "fails.py"
    fails.write_text(
        "from tusd_py import hookimpl, Identity\n"
        "@hookimpl\nasync def authenticate(request): return Identity('ann')\n"
        "@hookimpl\nasync def pre_create(request, upload):\n"
        "    token = request.headers['Authorization']\n"
        "    if upload.metadata: raise RuntimeError('it fails')\n"
        "@hookimpl\ndef register_routes(register):\n"
        "    register('GET', '/fails', page)\n"
        "def page(request):\n    cookie = request.headers['Cookie']\n    return 1 / 0\n"
    )
    arguments = ("--log-level=debug", f"--log-format={form}", f"--audit-log={audit}", f"--plugin={fails}")
    secret = {
        "Authorization": "Bearer sesame-token",
        "Cookie": "session=sesame-cookie",
        "Proxy-Authorization": "Basic sesame-proxy",
    }
    environment = {"TUSD_PY_API_TOKEN": "sesame-api-token"}
    with ServerProcess(*arguments, "--upload-dir", str(tmp_path / "uploads"), env=environment) as server:
        tus = RawClient(server.url)
        url = await tus.create(1, secret)
        await tus.patch(url + "?token=sesame-query", 0, b"x", secret)
        await tus.patch(url, 7, b"x", secret)
        await tus.get(url, secret)
        assert (await tus.request("GET", "/fails", secret)).status == 500
        failing = {"Upload-Metadata": format_upload_metadata({"a": "b"}), "Upload-Length": 1}
        assert (await tus.post({**secret, **failing})).status == 500
        assert (await tus.request("GET", "/nothing/here?token=sesame-query", secret)).status == 404
        await tus.request("GET", "/metrics", {"Authorization": "Bearer sesame-api-token"})
        async with tus.connect() as connection:
            await connection.send(b"GET / HTTP/1.1\r\nAuthorization: sesame-token\r\nCookie: sesame\x00-cookie\r\n\r\n")
            await connection.rest()
    logs = server.output() + audit.read_text()
    assert "it fails" in logs
    assert "division by zero" in logs
    assert "ERR_MISMATCHED_OFFSET" in logs
    assert [secret for secret in SECRETS if secret in logs] == []


async def test_a_dash_sends_the_audit_log_to_standard_error(tmp_path):
    """`--audit-log -` writes among the log lines."""
    with ServerProcess("--audit-log", "-", "--upload-dir", str(tmp_path)) as server:
        url = await RawClient(server.url).create(1)
    assert f'"action":"create","upload":"{url.rpartition("/")[2]}"' in server.output()
