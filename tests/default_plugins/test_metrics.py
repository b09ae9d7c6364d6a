"""What `/metrics` says is what happened, also when several processes had a part in it."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tusd_py.headers import format_upload_metadata
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess

NAUGHTY = Path(__file__).parents[1] / "hooks" / "naughty.py"


class Metered:
    """A running server and its figures."""

    def __init__(self, server):
        self.server = server
        self.tus = RawClient(server.url)

    async def text(self, **headers):
        answer = await self.tus.request("GET", "/metrics", headers)
        assert answer.status == 200
        return answer.body.decode()

    async def families(self):
        return {family.name: family for family in text_string_to_metric_families(await self.text())}

    async def value(self, name, **labels):
        """The sum of the samples that have these labels."""
        samples = [sample for family in (await self.families()).values() for sample in family.samples]
        return sum(
            sample.value for sample in samples if sample.name == name and sample.labels.items() >= labels.items()
        )

    async def becomes(self, wanted, name, **labels):
        async def reached():
            return await self.value(name, **labels) == wanted

        await wait_until(reached)


@pytest.fixture(scope="module")
def metered(tmp_path_factory):
    """A server that only these tests use, with a plugin that can fail."""
    arguments = ("--upload-dir", str(tmp_path_factory.mktemp("metered")), "--hook-timeout", "500ms")
    with ServerProcess(*arguments, "--plugin", str(NAUGHTY)) as server:
        yield Metered(server)


async def test_uploads_bytes_and_requests_are_counted(metered):
    """Uploads by status and type, chunks by outcome, bytes, durations, and latencies by method and status."""
    tus = metered.tus
    expected = [
        (4, "uploads_total", {"status": "created"}),
        (2, "uploads_total", {"status": "created", "file_type": "image"}),
        (1, "uploads_total", {"status": "accepted", "file_type": "image"}),
        (1, "uploads_total", {"status": "accepted", "file_type": "none"}),
        (1, "uploads_total", {"status": "terminated"}),
        (2, "upload_duration_seconds_count", {}),
        (9, "upload_received_bytes_total", {}),
        (2, "chunks_uploaded_total", {"status": "ok"}),
        (1, "chunks_uploaded_total", {"status": "ERR_CHECKSUM_MISMATCH"}),
        (4, "request_duration_seconds_count", {"method": "POST", "status": "201"}),
        (1, "request_duration_seconds_count", {"method": "PATCH", "status": "409"}),
        (1, "request_duration_seconds_count", {"method": "HEAD", "status": "200"}),
    ]
    before = [await metered.value(name, **labels) for _, name, labels in expected]
    image = {"Upload-Metadata": format_upload_metadata({"filetype": "image/png"})}
    first = await tus.create(5, image, b"01234")
    await tus.create(4, {}, b"0123")
    await tus.create(9)
    url = await tus.create(3, image)
    await tus.patch(url, 1, b"x")
    await tus.patch(url, 0, b"012", {"Upload-Checksum": "md5 AAAAAAAAAAAAAAAAAAAAAA=="})
    await tus.delete(url)
    await tus.head(first)

    for (more, name, labels), count in zip(expected, before, strict=True):
        assert await metered.value(name, **labels) == count + more, (name, labels)
    assert await metered.value("lock_wait_seconds_count", outcome="acquired") > 0


async def test_bodies_on_their_way_and_handovers_are_counted(metered):
    """A stalled PATCH is active until a newer one makes it let go, which counts as a hand-over."""
    tus = metered.tus
    url = await tus.create(10)
    assert await metered.value("active_uploads") == 0
    handovers = await metered.value("lock_handover_seconds_count")
    async with tus.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": 10}
        await connection.send(tus.message("PATCH", url, headers) + b"0123")
        await metered.becomes(1, "active_uploads")
        assert (await tus.patch(url, (await tus.offset(url)) or 0, b"")).status == 204
    await metered.becomes(0, "active_uploads")
    assert await metered.value("lock_handover_seconds_count") == handovers + 1
    assert await metered.value("chunks_uploaded_total", status="ERR_UPLOAD_INTERRUPTED") == 1


async def test_hooks_are_timed_by_plugin_and_outcome(metered):
    """Each hook of a plugin that is not the server's own is timed, with what came of it."""
    for what, outcome in (("nothing", "ok"), ("hang", "timeout"), ("fail", "error")):
        labels = {"hook": "pre_create", "plugin": "naughty", "outcome": outcome}
        before = await metered.value("hook_duration_seconds_count", **labels)
        await metered.tus.post({"Upload-Length": 1, "Upload-Metadata": format_upload_metadata({"do": what})})
        assert await metered.value("hook_duration_seconds_count", **labels) == before + 1


async def test_file_types_are_few_whatever_clients_send(metered):
    """The label has the registered top-level types, other and none; nothing of what a client chose."""
    sent = [f"type{number}/x" for number in range(50)] + ["IMAGE/png", "text/x\n", "video", "", "\U0001f4a9"]
    for file_type in sent:
        await metered.tus.create(1, {"Upload-Metadata": format_upload_metadata({"filetype": file_type})})
    families = await metered.families()
    types = {sample.labels["file_type"] for sample in families["uploads"].samples}
    assert types - {"none", "image"} == {"text", "video", "other"}
    for method in ("PUT", "PROPFIND", "TRACE"):
        await metered.tus.request(method)
    methods = {sample.labels["method"] for sample in (await metered.families())["request_duration_seconds"].samples}
    assert "other" in methods
    assert methods <= {"OPTIONS", "HEAD", "POST", "PATCH", "DELETE", "GET", "other"}


async def test_the_page_comes_in_the_form_that_is_asked_for(metered):
    """Prometheus text by default, OpenMetrics for who accepts it; never from a cache."""
    plain = await metered.tus.request("GET", "/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert plain.headers["Cache-Control"] == "no-store"
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = await metered.tus.request("GET", "/metrics", wanted)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


def workers_of(server):
    """Numbers of the workers that have answered a request, from the log."""
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    return {line["worker"] for line in lines if line.get("event") == "request" and "worker" in line}


def children_of(pid):
    """The worker processes of a server."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.fixture
def metered_workers(tmp_path):
    """A server in two processes."""
    with ServerProcess("--upload-dir", str(tmp_path), "--workers", "2") as server:
        yield Metered(server)


async def test_figures_of_several_workers_are_added_up(metered_workers):
    """Whichever process answers, figures are those of all; counters outlive a process, and gauges go with it."""
    metered, created = metered_workers, 0
    while len(workers_of(metered.server)) < 2 or created < 20:
        await asyncio.gather(*(metered.tus.create(2, {}, b"ab") for _ in range(10)))
        created += 10
        assert created < 2000, "one worker answers everything"
    for _ in range(10):
        assert await metered.value("uploads_total", status="accepted") == created
        assert await metered.value("upload_received_bytes_total") == 2 * created
        assert await metered.value("active_uploads") == 0

    url = await metered.tus.create(10)
    async with metered.tus.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": 10}
        await connection.send(metered.tus.message("PATCH", url, headers) + b"0123")
        await metered.becomes(1, "active_uploads")
        before = set(children_of(metered.server.pid))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: len(now := set(children_of(metered.server.pid))) == 2 and not before & now)

        async def answers():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await metered.value("uploads_total", status="accepted") == created

        await wait_until(answers)
        assert await metered.value("active_uploads") == 0
    await metered.tus.create(2, {}, b"ab")
    assert await metered.value("uploads_total", status="accepted") == created + 1
