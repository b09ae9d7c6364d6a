"""The process that reads: its results, its limits, and what happens when it dies."""

import os
import time

import pytest
from tusd_py_catalog.child import Request, run

from tusd_py.processes import TookTooLong


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
    with pytest.raises(TookTooLong, match=r"longer than 0\.5 seconds"):
        run(request(path), max_seconds=0.5, tell=lambda done: None)
    assert time.monotonic() - started < 10
