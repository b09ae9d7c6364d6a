"""Log lines say which request and which upload they are about, in the form that is asked for."""

import json

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess


def lines_of(server, **wanted):
    """The log lines that have these values."""
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line.items() >= wanted.items()]


async def test_a_request_is_one_line(server_with):
    """The line has time, level, ids, method, path, status, duration and address."""
    server = server_with()
    tus = RawClient(server.url)
    url = await tus.create(3)
    answer = await tus.patch(url, 0, b"abc")
    [line] = lines_of(server, request=answer.headers["X-Request-ID"])
    assert line["timestamp"].endswith("Z")
    assert 0 < line.pop("seconds") < 20
    assert (
        line.items()
        >= {
            "event": "request",
            "level": "info",
            "upload": url.rpartition("/")[2],
            "method": "PATCH",
            "path": f"/files/{url.rpartition('/')[2]}",
            "status": 204,
            "remote": "127.0.0.1",
        }.items()
    )


async def test_a_creation_has_the_id_of_the_new_upload(server_with):
    """The line of the request that makes an upload names it."""
    server = server_with()
    answer = await RawClient(server.url).post({"Upload-Length": 1})
    [line] = lines_of(server, request=answer.headers["X-Request-ID"])
    assert line["upload"] == answer.headers["Location"].rpartition("/")[2]


async def test_a_refused_request_has_its_code(server_with):
    """An error's code is in the line."""
    server = server_with()
    answer = await RawClient(server.url).head(server.url + "unknown")
    [line] = lines_of(server, request=answer.headers["X-Request-ID"])
    assert (line["status"], line["code"]) == (404, "ERR_UPLOAD_NOT_FOUND")


async def test_a_client_can_name_its_request(server_with):
    """An X-Request-ID that is harmless is kept; any other is replaced."""
    server = server_with()
    tus = RawClient(server.url)
    for given in ("trace-0815.a_B", "x" * 64):
        assert (await tus.post({"Upload-Length": 1, "X-Request-ID": given})).headers["X-Request-ID"] == given
        assert lines_of(server, request=given)
    for given in ("two words", '{"a":1}', "x" * 65, "caf\u00e9", ""):
        own = (await tus.post({"Upload-Length": 1, "X-Request-ID": given})).headers["X-Request-ID"]
        assert own != given
        assert own.isalnum()


async def test_what_happens_within_a_request_has_its_ids(server_with):
    """A line that is written on the way, such as of an ended upload, carries the request's and the upload's id."""
    server = server_with()
    tus = RawClient(server.url)
    url = await tus.create(1)
    answer = await tus.delete(url)
    request, upload = answer.headers["X-Request-ID"], url.rpartition("/")[2]
    assert lines_of(server, event="upload ended", request=request, upload=upload, status="terminated")


async def test_what_a_client_sends_cannot_forge_a_line(server_with):
    """Line breaks and terminal codes in a path stay inside one JSON string."""
    server = server_with()
    tus = RawClient(server.url)
    answer = await tus.request("GET", "/x%0a%7B%22event%22:%22forged%22%7D%1b[31m")
    assert answer.status == 404
    assert lines_of(server, request=answer.headers["X-Request-ID"])
    assert not lines_of(server, event="forged")
    assert "\x1b" not in server.output()


async def test_the_console_form_is_for_people(tmp_path):
    """With --log-format console a line is text with the same facts."""
    with ServerProcess("--upload-dir", str(tmp_path), "--log-format", "console") as server:
        url = await RawClient(server.url).create(1)
        await wait_until(lambda: "status=201" in server.output())
    assert "method=POST" in server.output()
    assert "{" not in server.output()
    assert url


async def test_only_lines_that_are_severe_enough_are_written(tmp_path):
    """With --log-level error requests are silent, and what was printed is the address alone."""
    with ServerProcess("--upload-dir", str(tmp_path), "--log-level", "error") as server:
        await RawClient(server.url).create(1)
    assert server.output() == f"You can now upload files to: {server.url}\n"


async def test_a_connection_that_breaks_is_no_error(server_with):
    """A client that vanishes in the middle of a body leaves a warning with the ids, and no traceback."""
    server = server_with()
    tus = RawClient(server.url)
    url = await tus.create(10)
    async with tus.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": 10, "X-Request-ID": "vanishes"}
        await connection.send(tus.message("PATCH", url, headers) + b"abc")
        connection.reset()
    await wait_until(lambda: lines_of(server, event="request", request="vanishes"))
    assert {line["level"] for line in lines_of(server, request="vanishes")} <= {"info", "warning"}
    assert not [line for line in lines_of(server, request="vanishes") if "exception" in line]
