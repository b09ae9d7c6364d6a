"""Runs tasks in processes of their own: on all cores, and so that a file that kills its reader kills nothing else."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from tusd_py import Reject, processes
from tusd_py.processes import Progress
from tusd_py_pii.detector import detector_for
from tusd_py_pii.errors import ScanFailed, Unreadable
from tusd_py_pii.report import Report
from tusd_py_pii.scan import Run, Scan, Source, Task, failures, scan_task
from tusd_py_pii.streams import Limits

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")
Piece = tuple[Source, Task, bytes, float]
UNREADABLE = "ERR_UNREADABLE"


def in_processes(workers: int) -> Run:
    """Return a way to run tasks in so many processes."""

    def run(source: Source, tasks: Sequence[Task], scan: Scan) -> Iterator[Report]:
        encoded = msgspec.json.encode(scan)
        deadline = time.monotonic() + scan.limits.max_seconds
        pieces = ((source, task, encoded, deadline - time.monotonic()) for task in tasks)
        limits = scan.limits
        with _told():
            yield from processes.run_each(
                _scan_piece, pieces, processes=workers, memory=limits.memory, seconds=limits.max_seconds
            )

    return run


def apart(limits: Limits, function: Callable[[Argument, Progress], Answer], argument: Argument) -> Answer:
    """Return what a function returns in a process of its own, within the limits of time and memory.

    Raises:
        ScanFailed: it did not return; the message says why.
    """
    with _told():
        return processes.run(function, argument, memory=limits.memory, seconds=limits.max_seconds)


def run_piece(source: Source, task: Task, encoded: bytes, seconds: float) -> Report:
    """Return the report of one task; this is what runs in other processes, and on clusters."""
    scan = _decoded(encoded)
    return scan_task(source, task, scan, detector_for(scan.rules, scan.engine), time.monotonic() + seconds)


def _scan_piece(piece: Piece, progress: Progress) -> Report:
    with to_be_told(), failures():
        return run_piece(*piece)


@contextlib.contextmanager
def to_be_told() -> Iterator[None]:
    """Have what makes a scan fail arrive at who waits for this process."""
    try:
        yield
    except ScanFailed as error:
        raise Reject(str(error), code=UNREADABLE if isinstance(error, Unreadable) else Reject.code) from None


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Reject as error:
        raise (Unreadable if error.code == UNREADABLE else ScanFailed)(str(error)) from None
    except processes.ProcessFailed as error:
        raise ScanFailed(str(error)) from None


@functools.lru_cache(4)
def _decoded(encoded: bytes) -> Scan:
    return msgspec.json.decode(encoded, type=Scan)
