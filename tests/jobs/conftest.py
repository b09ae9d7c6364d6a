"""Servers with plugins that have stages, and what uploads and jobs look like from outside."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tusd_py.headers import format_upload_metadata
from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.redis import RedisProcess, valkey_binary
from tusd_py.testing.server import ServerProcess, WorkerProcess

PLUGIN = Path(__file__).parent / "stages.py"
# Short, so that what a crash delays is not delayed for long.
TIMES = ("--job-lease", "1.5s", "--job-backoff", "100ms", "--job-attempts", "3")


class House:
    """A folder with plugins `first` and `second`, and a server with them."""

    def __init__(self, folder, *options):
        """Start nothing yet; `options` go to every process."""
        self.folder = folder
        for name in ("first", "second"):
            shutil.copy(PLUGIN, folder / f"{name}.py")
        self.options = (
            *("--upload-dir", str(folder / "uploads"), "--log-format", "json"),
            *("--plugin", str(folder / "first.py"), "--plugin", str(folder / "second.py")),
            *TIMES,
            *options,
        )
        self.env = {"STAGES_FOLDER": str(folder)}
        self.server = ServerProcess(*self.options, env=self.env)
        (folder / "log").touch()

    def worker(self):
        """Return a worker process that is not started yet."""
        return WorkerProcess("--worker-listen", "127.0.0.1:0", *self.options, env=self.env)

    @property
    def tus(self):
        """A client of the server."""
        return RawClient(self.server.url)

    async def upload(self, data=b"hello", headers=None, **metadata):
        """Upload, with `check_first` for `check-first`, and return the URL."""
        wanted = {name.replace("_", "-"): value for name, value in metadata.items()}
        metadata_header = {"Upload-Metadata": format_upload_metadata(wanted)} if wanted else {}
        return await self.tus.create(len(data), {**metadata_header, **(headers or {})}, data)

    async def show(self, url):
        """Return what the status API says."""
        answer = await self.tus.get(url.replace("/files/", "/api/uploads/"))
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def until(self, url, condition, timeout=20):
        """Wait for a condition on what the status API says, and return that."""

        async def look():
            shown = await self.show(url)
            return condition(shown) and shown

        return await wait_until(look, timeout)

    async def ended(self, url, timeout=20):
        """Wait until nothing more happens to an upload by itself."""
        return await self.until(url, is_over, timeout)

    def log(self, url, **wanted):
        """Return what plugins have written down about an upload."""
        lines = map(json.loads, (self.folder / "log").read_text().splitlines())
        return [line for line in lines if line.items() >= {"upload": self.id_of(url), **wanted}.items()]

    @staticmethod
    @contextlib.contextmanager
    def stopped(process):
        """Keep a process from running meanwhile."""
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGCONT)

    @staticmethod
    def id_of(url):
        """Return the id of an upload."""
        return url.rpartition("/")[2]

    def in_order(self, url):
        """Whether no stage of an upload began before the one before had ended in both plugins."""
        lines, stages = self.log(url), ["check", "describe", "deliver"]
        for number, line in enumerate(lines):
            for stage in stages[: stages.index(line["stage"])] if line["event"] == "begin" else []:
                ends = {end["plugin"] for end in lines[:number] if (end["event"], end["stage"]) == ("end", stage)}
                if ends != {"first", "second"}:
                    return False
        return True

    async def command(self, *arguments, status=0):
        """Run `tusd-py` with the server's settings, and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tusd_py", *arguments, *self.options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **self.env},
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == status, output
        return output


def is_over(shown):
    """Whether nothing more happens to an upload by itself."""
    jobs = shown["jobs"]
    if any(job["due_at"] for job in jobs):
        return False  # the consequences of its end are being drawn
    if shown["status"] == "quarantined":
        return all(job["status"] not in ("waiting", "running") for job in jobs if job["stage"] == "check")
    return shown["status"] == "accepted" and all(job["status"] not in ("waiting", "running") for job in jobs)


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory):
    """A running server with stages, for tests that do not disturb each other."""
    house = House(tmp_path_factory.mktemp("house"), "--audit-log", str(tmp_path_factory.mktemp("audit") / "log"))
    with house.server:
        yield house


@pytest.fixture(scope="module")
def shared_house_with(tmp_path_factory):
    """A function that returns a running server with stages and further options, for the tests of a module."""
    with contextlib.ExitStack() as servers:

        def start(*options):
            house = House(tmp_path_factory.mktemp("house"), *options)
            servers.enter_context(house.server)
            return house

        yield start


@pytest.fixture
def make_house(tmp_path):
    """A function that returns a server with stages and further options that is not started yet."""
    return lambda *options: House(tmp_path, *options)


@pytest.fixture
def house(make_house):
    """The same with no further options."""
    return make_house()


class Crew:
    """A server that only hands jobs out, the Redis for that, and two workers."""

    def __init__(self, house, redis):
        """Start nothing yet."""
        self.house = house
        self.redis = redis
        self.workers = [house.worker(), house.worker()]

    async def at_work(self, url, stage):
        """Return the worker that has begun the first plugin's job of a stage last, and the other one."""
        line = (await wait_until(lambda: self.house.log(url, event="begin", stage=stage, plugin="first")))[-1]
        return sorted(self.workers, key=lambda worker: worker.pid != line["pid"])


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    """All of them, running; a test leaves them running."""
    with RedisProcess(valkey_binary()) as redis:
        crew = Crew(
            House(tmp_path_factory.mktemp("crew"), "--redis", f"{redis.url}?lease=1", "--job-attempts", "20"), redis
        )
        with crew.house.server, crew.workers[0], crew.workers[1]:
            yield crew


@pytest.fixture
def crew_house(crew):
    """The house of the crew, where nobody who waits may go on yet."""
    (crew.house.folder / "go").unlink(missing_ok=True)
    return crew.house
