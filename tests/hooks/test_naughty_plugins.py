"""A plugin that is slow, fails, hangs or blocks is named in the log, bounded in time, and costs others nothing."""

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tusd_py import hookimpl
from tusd_py.headers import format_upload_metadata
from tusd_py.hooks.caller import QUEUE_SIZE
from tusd_py.testing.contracts import new_upload, wait_until
from tusd_py.testing.plugins import hooks_of
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

HERE = Path(__file__).parent
TIMEOUT = 1.0
# A request takes milliseconds; a server whose loop was blocked would take as long as the plugin, 1.6 seconds.
UNDISTURBED = 0.7


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with both naughty plugins."""
    arguments = [f"--plugin={HERE / name}.py" for name in ("naughty", "naughty_plain")]
    folder = tmp_path_factory.mktemp("naughty")
    with ServerProcess(
        *arguments, f"--hook-timeout={TIMEOUT}s", "--log-format=json", f"--upload-dir={folder}"
    ) as server:
        yield server


@pytest.fixture
def tus(server):
    return RawClient(server.url)


def asking(**metadata):
    return {"Upload-Length": 1, "Upload-Metadata": format_upload_metadata(metadata)}


async def log_line(server, event, **facts):
    """The first log line with this event and these values, once it is there."""

    def find():
        lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event and line.items() >= facts.items()]

    return (await wait_until(find))[0]


async def slowest_head_during(task, tus, url):
    """Repeat HEAD until the task is done, and return how long the slowest took."""
    slowest = 0.0
    while not task.done():
        started = time.perf_counter()
        assert (await tus.head(url)).status == 200
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


@pytest.mark.parametrize(
    ("plugin", "metadata"),
    [
        ("naughty", {"do": "hang"}),
        ("naughty", {"do": "hang in a thread"}),
        ("naughty", {"do": "block"}),
        ("naughty_plain", {"plain": "hang"}),
    ],
    ids=["coroutine hangs", "its thread hangs", "coroutine blocks its loop", "plain function hangs"],
)
async def test_a_hook_that_takes_too_long_is_cut_and_disturbs_nobody(server, tus, plugin, metadata):
    """The request gets 503 when the time-out is over, the plugin is named, and other requests go on meanwhile."""
    other = await tus.create(10)
    started = time.perf_counter()
    task = asyncio.create_task(tus.post(asking(**metadata)))
    slowest = await slowest_head_during(task, tus, other)
    answer, seconds = task.result(), time.perf_counter() - started

    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "ERR_HOOK_TIMEOUT", "2")
    assert plugin.encode() in answer.body
    assert TIMEOUT <= seconds < TIMEOUT + UNDISTURBED
    assert slowest < UNDISTURBED
    await log_line(server, "plugin did not answer in time", plugin=plugin, hook="pre_create", level="error")

    async def works_again():
        return (await tus.post(asking())).status == 201

    await wait_until(works_again)


async def test_a_slow_hook_is_named(server, tus):
    """A hook that takes more than half of its time-out is answered, and the plugin is named in the log."""
    assert (await tus.post(asking(do="crawl"))).status == 201
    line = await log_line(server, "plugin is slow", plugin="naughty", hook="pre_create", level="warning")
    assert line["seconds"] > TIMEOUT / 2


@pytest.mark.parametrize(
    ("plugin", "metadata", "said"),
    [
        ("naughty", {"do": "fail"}, "RuntimeError"),
        ("naughty", {"do": "time out"}, "TimeoutError"),
        ("naughty", {"do": "exit"}, "RuntimeError"),
        ("naughty_plain", {"plain": "exit"}, "RuntimeError"),
    ],
)
async def test_a_failing_hook_is_the_plugins_fault(server, tus, plugin, metadata, said):
    """The request gets 500 and the plugin's name, nothing is created, and the log has the traceback."""
    answer = await tus.post(asking(**metadata))
    assert (answer.status, answer.code) == (500, "ERR_HOOK_FAILED")
    assert plugin.encode() in answer.body
    assert b"fails" not in answer.body, "what went wrong inside is for the operator alone"
    request = answer.headers["X-Request-ID"]
    line = await log_line(server, "plugin failed", plugin=plugin, hook="pre_create", level="error", request=request)
    assert line["exception"][0]["exc_type"] == said


async def test_a_hook_with_a_wrong_result_is_the_plugins_fault(server, tus):
    """A result of a wrong type answers 500 and is named in the log."""
    assert (await tus.post(asking(do="return"))).code == "ERR_HOOK_FAILED"
    await log_line(server, "plugin returned a wrong type", plugin="naughty", hook="pre_create", got="str")


async def test_an_upload_whose_last_hook_was_cut_can_be_finished(tus):
    """A time-out in `pre_finish` rejects nothing: the next HEAD asks the plugin again and tells the outcome."""
    url = await tus.create(3, {"Upload-Metadata": format_upload_metadata({"do": "hang once"})})
    assert (await tus.patch(url, 0, b"abc")).status == 503
    head = await tus.head(url)
    assert (head.status, head.offset) == (200, 3)
    assert (await tus.get(url)).body == b"abc"


async def test_an_observer_delays_no_request(server, tus):
    """A `post_` hook that hangs or fails is named in the log; the request was answered long before."""
    started = time.perf_counter()
    for what in ("hang when it is told", "refuse when it is told"):
        assert (await tus.post(asking(do=what))).status == 201
    assert time.perf_counter() - started < TIMEOUT
    await log_line(server, "plugin did not answer in time", plugin="naughty", hook="post_create")
    await log_line(server, "plugin failed", plugin="naughty", hook="post_create")


async def test_many_hanging_functions_leave_the_server_working_and_stopping(tmp_path):
    """More hanging calls than there are threads: other requests work, and SIGTERM ends the process in time."""
    with ServerProcess(
        f"--plugin={HERE / 'naughty_plain.py'}", "--shutdown-timeout=2s", f"--upload-dir={tmp_path}"
    ) as server:
        tus = RawClient(server.url)
        url = await tus.create(1)
        hanging = [asyncio.create_task(tus.post(asking(plain="hang"))) for _ in range(40)]
        for _ in range(20):
            assert (await asyncio.wait_for(tus.head(url), 5)).status == 200
        assert (await tus.patch(url, 0, b"x")).status == 204
        started = time.perf_counter()
        assert await asyncio.to_thread(server.stop) == 0
        assert time.perf_counter() - started < 4
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_events_beyond_what_a_slow_observer_can_take_are_dropped_and_counted():
    """The queue of a plugin is bounded: what is beyond is dropped, and the log says so once and not each time."""
    gate = threading.Event()
    seen = []

    class Slow:
        @hookimpl
        def post_receive(self, upload):
            gate.wait()
            seen.append(upload.offset)

    with capture_logs() as logs:
        async with hooks_of(Slow()) as hooks:
            for number in range(QUEUE_SIZE + 100):
                hooks.post_receive(new_upload(offset=number), None)
            gate.set()
    assert seen == list(range(QUEUE_SIZE)), "those that had room arrived in order"
    told = [line for line in logs if line["event"] == "plugin is too slow: events are dropped"]
    assert [(line["plugin"], line["hook"], line["dropped"]) for line in told] == [("plugin", "post_receive", 1)]
