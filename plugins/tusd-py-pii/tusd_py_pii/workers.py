"""Runs tasks in processes of their own: on all cores, and so that a file that kills its reader kills nothing else."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import msgspec

from tusd_py_pii.detector import Detector
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.report import Report
from tusd_py_pii.scan import Run, Scan, Source, Task, scan_task

_detector: Detector | None = None
_scan: Scan | None = None


def in_processes(workers: int) -> Run:
    """Return a way to run tasks in so many processes.

    This is the seam for a cluster: Dask's or Ray's map over the same `scan_task` would be another `Run`.
    """

    def run(source: Source, tasks: Sequence[Task], scan: Scan) -> Iterator[Report]:
        deadline = time.monotonic() + scan.limits.max_seconds
        # Forked from a process without threads: a copy of this one could hang on a lock that a thread held.
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)), mp_context=context, initializer=_prepare, initargs=(msgspec.json.encode(scan),)
        )
        try:
            waiting: list[Future[Report]] = []
            left = list(reversed(tasks))
            while left or waiting:
                # A few ahead of what is merged: the pieces of a petabyte are not all in memory at once.
                while left and len(waiting) < 4 * workers:
                    waiting.append(pool.submit(_run_task, source, left.pop(), max(0.0, deadline - time.monotonic())))
                yield waiting.pop(0).result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise ScanFailed(f"it took longer than {scan.limits.max_seconds:g} seconds") from None
        except BrokenProcessPool:
            raise ScanFailed("a process that looked into it died; the file may be made to do that") from None
        finally:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()

    return run


def _prepare(encoded: bytes) -> None:
    """Get a process ready: its limit of memory, and its detector."""
    global _detector, _scan
    _scan = msgspec.json.decode(encoded, type=Scan)
    if sys.platform == "linux":
        # Only on Linux does this count what a process has mapped for itself.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = _scan.limits.memory if hard == resource.RLIM_INFINITY else min(hard, _scan.limits.memory)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    os.nice(5)  # an upload that is on its way comes first
    _detector = Detector(_scan.rules, _scan.engine)


def _run_task(source: Source, task: Task, seconds: float) -> Report:
    assert _detector is not None
    assert _scan is not None
    return scan_task(source, task, _scan, _detector, time.monotonic() + seconds)
