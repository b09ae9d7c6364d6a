"""Runs tasks in processes of their own: on all cores, and so that a file that kills its reader kills nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import msgspec

from tusd_py_pii.detector import Detector
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.report import Report
from tusd_py_pii.scan import Run, Scan, Source, Task, scan_task
from tusd_py_pii.streams import Limits

_detector: Detector | None = None
_scan: Scan | None = None


Answer = TypeVar("Answer")


def in_processes(workers: int) -> Run:
    """Return a way to run tasks in so many processes."""

    def run(source: Source, tasks: Sequence[Task], scan: Scan) -> Iterator[Report]:
        deadline = time.monotonic() + scan.limits.max_seconds
        with _pool(min(workers, len(tasks)), scan.limits, _prepare, msgspec.json.encode(scan)) as pool:
            waiting: list[Future[Report]] = []
            left = list(reversed(tasks))
            while left or waiting:
                # A few ahead of what is merged: the pieces of a petabyte are not all in memory at once.
                while left and len(waiting) < 4 * workers:
                    waiting.append(pool.submit(_run_task, source, left.pop(), max(0.0, deadline - time.monotonic())))
                yield waiting.pop(0).result(max(0.0, deadline - time.monotonic()))

    return run


def apart(limits: Limits, function: Callable[..., Answer], *arguments: object) -> Answer:
    """Return what a function returns in a process of its own, within the limits of time and memory.

    Raises:
        ScanFailed: it took too long, or its process died.
    """
    with _pool(1, limits, _limit_memory, limits.memory) as pool:
        return pool.submit(function, *arguments).result(limits.max_seconds)


@contextlib.contextmanager
def _pool(size: int, limits: Limits, prepare: Callable[..., None], *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """Processes that are killed in the end, whatever they do.

    Raises:
        ScanFailed: what was waited for took too long, or a process died.
    """
    # Forked from a process without threads: a copy of this one could hang on a lock that a thread held.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once and not by each process
    pool = ProcessPoolExecutor(size, mp_context=context, initializer=prepare, initargs=arguments)
    try:
        yield pool
    except TimeoutError:
        raise ScanFailed(f"it took longer than {limits.max_seconds:g} seconds") from None
    except BrokenProcessPool:
        raise ScanFailed("a process that looked into it died; the file may be made to do that") from None
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _limit_memory(memory: int) -> None:
    if sys.platform == "linux":
        # Only on Linux does this count what a process has mapped for itself.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(
            resource.RLIMIT_DATA, (memory if hard == resource.RLIM_INFINITY else min(hard, memory), hard)
        )
    os.nice(5)  # an upload that is on its way comes first


def _prepare(encoded: bytes) -> None:
    """Get a process ready: its limit of memory, and its detector."""
    global _detector, _scan
    _scan = msgspec.json.decode(encoded, type=Scan)
    _limit_memory(_scan.limits.memory)
    _detector = Detector(_scan.rules, _scan.engine)


def _run_task(source: Source, task: Task, seconds: float) -> Report:
    assert _detector is not None
    assert _scan is not None
    return scan_task(source, task, _scan, _detector, time.monotonic() + seconds)
