"""The status API tells what is known of uploads, disturbs none, and says the same as its OpenAPI document."""

import asyncio
import contextlib
import json
import re
from datetime import datetime
from urllib.parse import quote

import jsonschema
import pytest

from tusd_py import Status
from tusd_py.headers import format_upload_metadata
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess


class Api:
    """The status API of a server; everything it answers is held against the OpenAPI document."""

    def __init__(self, url):
        self.tus = RawClient(url)
        self.document = {}

    async def get(self, path, status=200):
        """The JSON of a page, or the text of an error."""
        answer = await self.tus.request("GET", path, {"Tus-Resumable": None})
        assert answer.status == status, answer
        if status != 200:
            return answer.body.decode()
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        body = json.loads(answer.body)
        await self.validate(path, body)
        return body

    async def validate(self, path, body):
        """Fail unless the document says that this is what the path answers."""
        self.document = self.document or json.loads((await self.tus.request("GET", "/api/openapi.json")).body)
        pattern = "/api/uploads" if path.partition("?")[0] == "/api/uploads" else "/api/uploads/{id}"
        schema = self.document["paths"][pattern]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": self.document["components"]}
        jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker()).validate(body)

    async def show(self, url):
        """What is known of an upload."""
        return await self.get(f"/api/uploads/{id_of(url)}")

    async def ids(self, query=""):
        """The ids of a page."""
        return [upload["id"] for upload in (await self.get(f"/api/uploads?limit=1000{query}"))["uploads"]]


def id_of(url):
    return url.rpartition("/")[2]


@pytest.fixture
def api(server):
    return Api(server.url)


async def test_an_upload_is_shown_whole(api):
    """Status, offset, length, missing range, metadata and times are there."""
    url = await api.tus.create(10, {"Upload-Metadata": format_upload_metadata({"filename": "ä.txt"})})
    await api.tus.patch(url, 0, b"0123")
    shown = await api.show(url)
    created, updated, expires = (
        datetime.fromisoformat(shown.pop(f"{what}_at")) for what in ("created", "updated", "expires")
    )
    assert created < updated < expires
    assert shown == {
        "id": id_of(url),
        "status": "receiving",
        "offset": 4,
        "length": 10,
        "missing": [[4, 10]],
        "metadata": {"filename": "ä.txt"},
        "owner": None,
        "concat": None,
        "finished_at": None,
        "reason": None,
        "parts": [],
        "jobs": [],
    }


async def test_missing_ranges_say_what_is_still_to_come(api):
    """An open end while the length is not known, nothing once all bytes are there, nothing of a removed upload."""
    deferred = await api.tus.create(headers={"Upload-Defer-Length": "1"}, body=b"ab")
    assert (await api.show(deferred))["missing"] == [[2, None]]
    complete = await api.tus.create(2, {}, b"ab")
    shown = await api.show(complete)
    assert (shown["missing"], shown["status"]) == ([], "accepted")
    assert shown["finished_at"] is not None
    removed = await api.tus.create(2)
    await api.tus.delete(removed)
    shown = await api.show(removed)
    assert (shown["missing"], shown["status"]) == ([], "terminated")


async def test_a_concatenation_shows_its_parts(api):
    """The final upload lists its parts in order, with how far each has got, and each part says that it is one."""
    parts = [await api.tus.create(2, {"Upload-Concat": "partial"}, body) for body in (b"ab", b"cd")]
    final = await api.tus.create(headers={"Upload-Concat": f"final;{parts[1]} {parts[0]}"})
    shown = await api.show(final)
    assert (shown["concat"], shown["status"], shown["length"]) == ("final", "accepted", 4)
    assert shown["parts"] == [
        {"id": id_of(part), "status": "accepted", "offset": 2, "length": 2} for part in (parts[1], parts[0])
    ]
    assert (await api.show(parts[0]))["concat"] == "partial"


async def test_a_concatenation_that_waits_shows_what_is_missing(server_with):
    """With concatenation-unfinished the parts tell what the final upload waits for."""
    api = Api(server_with("--concatenation-unfinished").url)
    parts = [await api.tus.create(2, {"Upload-Concat": "partial"}) for _ in range(2)]
    final = await api.tus.create(headers={"Upload-Concat": f"final;{parts[0]} {parts[1]}"})
    await api.tus.patch(parts[0], 0, b"ab")
    shown = await api.show(final)
    assert shown["status"] == "receiving"
    assert [(part["status"], part["offset"]) for part in shown["parts"]] == [("accepted", 2), ("receiving", 0)]
    await api.tus.patch(parts[1], 0, b"cd")
    assert (await api.show(final))["status"] == "accepted"


async def test_looking_takes_no_lock(api):
    """While a PATCH holds the upload and is silent, the status is answered at once and the PATCH goes on."""
    url = await api.tus.create(8)
    async with api.tus.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": 8}
        await connection.send(api.tus.message("PATCH", url, headers) + b"0123")

        async def arrived():
            return (await api.show(url))["offset"] == 4

        await wait_until(arrived)
        for _ in range(20):
            await api.show(url)
        await connection.send(b"4567")
        answer = await connection.answer("PATCH")
    assert (answer.status, answer.offset) == (204, 8)


async def test_lists_are_paged_from_the_newest(api):
    """Pages follow each other without a gap or repetition, also when uploads are added meanwhile."""
    urls = [await api.tus.create(1) for _ in range(7)]
    seen, query = [], ""
    while len(seen) < 7:
        page = await api.get(f"/api/uploads?limit=3{query}")
        assert len(page["uploads"]) == 3
        seen += [upload["id"] for upload in page["uploads"]]
        query = f"&after={quote(page['next'])}"
        await api.tus.create(1)
    assert seen[:7] == [id_of(url) for url in reversed(urls)]


async def test_the_last_page_has_no_next(api):
    """A list that is complete says so, an empty one too."""
    assert await api.get("/api/uploads?status=quarantined") == {"uploads": [], "next": None}
    for _ in range(2):
        await api.tus.create(1)
    assert (await api.get("/api/uploads?limit=1000"))["next"] is None
    assert (await api.get("/api/uploads?limit=1"))["next"] is not None


async def test_lists_are_filtered_by_status(api):
    """Only uploads with the status are listed."""
    urls = {"receiving": await api.tus.create(1), "accepted": await api.tus.create(1, {}, b"x")}
    urls["terminated"] = await api.tus.create(1)
    await api.tus.delete(urls["terminated"])
    for status in urls:
        listed = await api.ids(f"&status={status}")
        assert [wanted for wanted in urls if id_of(urls[wanted]) in listed] == [status]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=done", "status must be one of receiving, assembling"),
        ("limit=0", "limit must be a number from 1 to 1000"),
        ("limit=1001", "limit must be a number from 1 to 1000"),
        ("limit=-1", "limit must be a number"),
        ("limit=ten", "limit must be a number"),
        ("limit=" + "9" * 5000, "limit must be a number"),
        ("after=yesterday", "'after' must be the 'next' of a former page"),
        ("after=nan,x", "'after' must be the 'next' of a former page"),
        ("page=2", "unknown query parameter 'page'"),
    ],
)
async def test_a_query_that_means_nothing_is_refused(api, query, said):
    """What is wrong with a query is said with 400."""
    assert said in await api.get(f"/api/uploads?{query}", 400)


@pytest.mark.parametrize("upload_id", ["unknown", "a%2Fb", "..", "a" * 129, "%00", "caf%C3%A9"])
@pytest.mark.parametrize("rest", ["", "/events"])
async def test_an_upload_that_cannot_be_is_not_found(api, upload_id, rest):
    """An id that no upload has, or could have, answers 404."""
    assert "ERR_UPLOAD_NOT_FOUND" in await api.get(f"/api/uploads/{upload_id}{rest}", 404)


async def test_other_methods_are_refused(api):
    """The API only reads, and its errors come as problem details to who asks for them."""
    answer = await api.tus.request("POST", "/api/uploads", {"Accept": "application/problem+json"})
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.body)["title"] == "ERR_METHOD_NOT_ALLOWED"


async def test_the_document_is_openapi(api):
    """The document has what OpenAPI 3.1 requires, its references lead somewhere, and its statuses are all there are."""
    document = await api.tus.request("GET", "/api/openapi.json")
    whole = json.loads(document.body)
    assert whole["openapi"] == "3.1.0"
    assert whole["info"].keys() >= {"title", "version"}
    for schema in whole["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    references = set(re.findall(r'"#/components/schemas/(.*?)"', document.body.decode()))
    assert references <= whole["components"]["schemas"].keys()
    assert set(whole["components"]["schemas"]["Status"]["enum"]) == set(Status)
    for path in whole["paths"].values():
        for status in path["get"]["responses"].values():
            assert status["description"]


class Events:
    """The server-sent events of an upload, as they come."""

    def __init__(self, connection):
        self._connection = connection

    async def next(self):
        """The next event's name and upload, or nothing at the end."""
        fields = {}
        async with asyncio.timeout(20):
            while (line := (await self._connection._reader.readline()).decode()) != "\r\n" or not fields:
                if not line:
                    return None, None
                name, _, value = line.strip().partition(": ")
                if name in ("event", "data"):
                    fields[name] = value
                if not line.strip() and "data" in fields:
                    break
        return fields["event"], json.loads(fields["data"])


@pytest.fixture
def follow(api):
    """A function that connects to an upload's events."""

    @contextlib.asynccontextmanager
    async def follow(url, tus=api.tus):
        async with tus.connect() as connection:
            # HTTP/1.0 has no chunks: the stream is what it is.
            target = f"/api/uploads/{id_of(url)}/events"
            await connection.send(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head = (await connection._reader.readuntil(b"\r\n\r\n")).decode()
            assert " 200 " in head.splitlines()[0]
            assert "Content-Type: text/event-stream" in head
            assert "Cache-Control: no-store" in head
            yield Events(connection)

    return follow


async def test_events_tell_progress_and_the_end(api, follow):
    """The first event is how things stand; each change is told; after acceptance the stream ends."""
    url = await api.tus.create(6)
    async with follow(url) as events:
        kind, shown = await events.next()
        assert (kind, shown["offset"], shown["status"]) == ("status", 0, "receiving")
        await api.validate(f"/api/uploads/{id_of(url)}", shown)
        await api.tus.patch(url, 0, b"012")
        kind, shown = await events.next()
        assert (kind, shown["offset"]) == ("progress", 3)
        await api.tus.patch(url, 3, b"345")
        kind, shown = await events.next()
        assert (kind, shown["offset"], shown["status"]) == ("status", 6, "accepted")
        assert await events.next() == (None, None)


async def test_events_tell_progress_within_a_request(server_with, follow):
    """A PATCH that goes on shows how far it has got, as often as `progress_interval` says."""
    tus = RawClient(server_with("--progress-interval", "100ms").url)
    url = await tus.create(9)
    async with follow(url, tus) as events, tus.connect() as connection:
        await events.next()
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": 9}
        await connection.send(tus.message("PATCH", url, headers))
        for stop in (3, 6):
            await connection.send(b"abc")
            kind, shown = await events.next()
            assert (kind, shown["offset"]) == ("progress", stop)
        await connection.send(b"abc")
        assert (await events.next())[1]["status"] == "accepted"


async def test_events_of_what_has_ended_are_one(api, follow):
    """Who asks too late is told how it ended."""
    url = await api.tus.create(1)
    await api.tus.delete(url)
    async with follow(url) as events:
        kind, shown = await events.next()
        assert (kind, shown["status"]) == ("status", "terminated")
        assert await events.next() == (None, None)


async def test_events_work_across_workers(tmp_path, follow):
    """Whichever process receives the bytes, the stream of another tells of them."""
    with ServerProcess("--upload-dir", str(tmp_path), "--workers", "2") as server:
        tus = RawClient(server.url)
        url = await tus.create(20)
        async with follow(url, tus) as events:
            await events.next()
            for offset in range(0, 20, 2):  # ten connections: one process would have to take them all
                await tus.patch(url, offset, b"ab")
            seen = 0
            while seen < 20:
                seen = (await events.next())[1]["offset"]


async def test_a_server_that_stops_ends_its_streams(tmp_path, follow):
    """Watchers do not hold a shutdown up, nor do those who have gone leave an error in the log."""
    with ServerProcess("--upload-dir", str(tmp_path), "--shutdown-timeout", "8s") as server:
        tus = RawClient(server.url)
        url = await tus.create(1)
        async with follow(url, tus) as events:
            await events.next()
        async with follow(url, tus) as events:
            await events.next()
            await tus.patch(url, 0, b"")
            started = asyncio.get_running_loop().time()
            assert await asyncio.to_thread(server.stop) == 0
            assert asyncio.get_running_loop().time() - started < 3
    assert "error" not in server.output().lower()
