"""The process that reads: its results, its limits, and what happens when it dies."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tusd_py_catalog.child import Crashed, Request, run

from tusd_py.testing.contracts import wait_until


def request(path, **changes):
    limits = {"memory": 2**28, "threads": 2, "max_line": 2**22, "max_fields": 100, "sample_rows": 0}
    return Request(**({"path": str(path), "name": path.name, "media": ""} | limits | changes))


def test_a_table_that_needs_too_much_memory_is_described_without_it(tmp_path):
    """With a limit that does not suffice the reason says so, and there are size and hash."""
    path = tmp_path / "wide.csv"
    names = ",".join(f"c{number}" for number in range(20_000))
    path.write_text(f"{names}\n{names}\n")
    found = run(request(path, memory=2**26), max_seconds=60, tell=lambda done: None)
    assert found.problems == ("it needs more memory than it may use",)
    assert found.bytes == path.stat().st_size


def test_progress_is_told_and_time_is_limited(tmp_path):
    """A pipe that nobody writes to ends with the time-out, and no process is left."""
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    started = time.monotonic()
    with pytest.raises(Crashed, match=r"longer than 0\.5 seconds"):
        run(request(path), max_seconds=0.5, tell=lambda done: None)
    assert time.monotonic() - started < 10


async def test_a_reader_that_is_killed_is_told(tmp_path):
    """If the process dies, the caller lives and hears of what."""
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    told = []

    def call():
        try:
            run(request(path), max_seconds=60, tell=lambda done: None)
        except Crashed as error:
            told.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    [child] = await wait_until(lambda: children())
    os.kill(child, signal.SIGKILL)
    thread.join(10)
    assert told == ["its reader was ended by SIGKILL"]


def children():
    """The processes that this one has started and that run the module."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and b"tusd_py_catalog.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found
