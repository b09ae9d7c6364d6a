"""Scans a file: plans tasks, runs each as a pure function, and adds up their reports.

    scan_file(FileSource("rows.jsonl"), Scan.of(built_in()))

A task is a range of bytes, or of row groups of Parquet. Where the file is cut does not show in the report.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from tusd_py_pii.batches import Batch
from tusd_py_pii.detector import Detector, detector_for
from tusd_py_pii.errors import ScanFailed, Unreadable
from tusd_py_pii.formats import Format, detect
from tusd_py_pii.parquet import parquet_batches, row_groups
from tusd_py_pii.readers import Tally, json_batches, json_line_batches, text_batches
from tusd_py_pii.records import csv_batches
from tusd_py_pii.report import Found, Report, Sample, bounded, digest, mask
from tusd_py_pii.rules import Rule
from tusd_py_pii.streams import Limits, Reader
from tusd_py_pii.text import encode

TASK_BYTES = 16 * 1024 * 1024


class Source(Protocol):
    """Where the bytes are; picklable, so that other processes can open it too."""

    def open(self) -> BinaryIO:
        """Return a seekable file object."""


class FileSource(msgspec.Struct, frozen=True):
    """A file of this machine."""

    path: str

    def open(self) -> BinaryIO:
        """Open the file."""
        return Path(self.path).open("rb")


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for and how."""

    rules: tuple[Rule, ...]
    engine: str = "auto"
    limits: Limits = Limits()
    samples: int = 3
    salt: bytes = b""
    """Makes hashes of values; the reports of one salt can be compared."""

    @classmethod
    def of(cls, rules: Iterable[Rule], *, engine: str = "auto", limits: Limits | None = None) -> Scan:
        """Return a scan for these rules, with a salt of its own."""
        return cls(rules=tuple(rules), engine=engine, limits=limits or Limits(), salt=secrets.token_bytes(16))


class Task(msgspec.Struct, frozen=True):
    """A piece of a file: a range of bytes, or of Parquet the row groups that are such a share of all."""

    format: Format
    start: int
    stop: int


class Begun(msgspec.Struct, frozen=True):
    """A scan, and what it has found in the first tasks of a file."""

    scan: Scan
    report: Report = Report()
    done: int = 0
    """How many tasks that is."""
    last: Task | None = None

    def plus(self, task: Task, report: Report) -> Begun:
        """Return the same with the next task."""
        total = self.report if self.done else Report(samples=self.scan.samples)
        return Begun(self.scan, total + report, self.done + 1, task)

    def left_of(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return those of a file's tasks that are left; all, if these are not those that were begun with."""
        return tasks[self.done :] if self.done and tasks[self.done - 1 : self.done] == [self.last] else tasks


def plan(file: BinaryIO, name: str, limits: Limits, task_bytes: int = TASK_BYTES) -> list[Task]:
    """Return the tasks that together scan a file; its `name` helps to tell the format.

    Raises:
        ScanFailed: the file is broken or beyond the limits.
    """
    size = file.seek(0, 2)
    kind = detect(file, name, limits)
    if kind.name in ("empty", "binary"):
        return [Task(kind, 0, 0)]
    # The footer of Parquet is for those who do the tasks, in processes: one that is made to can end its reader.
    if not kind.is_splittable and kind.name != "parquet":
        return [Task(kind, 0, size)]
    return [Task(kind, start, min(size, start + task_bytes)) for start in range(0, size, task_bytes)]


def plan_ahead(file: BinaryIO, name: str, size: int, limits: Limits) -> list[Task]:
    """Return those tasks of a file that will be as they are now, when more is written behind its first `size` bytes.

    Raises:
        ScanFailed: the file is broken or beyond the limits, as far as it is there.
    """
    # A task reads on to the end of its last line.
    return [
        task for task in plan(file, name, limits) if task.format.is_splittable and task.stop + limits.max_record <= size
    ]


def batches(file: BinaryIO, task: Task, limits: Limits, tally: Tally) -> Iterator[Batch]:
    """Yield the cells of a task."""
    kind = task.format
    if kind.name == "parquet":
        groups = row_groups(file, task.start, task.stop, limits)
        return parquet_batches(file, groups.start, groups.stop, limits, tally)
    if kind.name == "json":
        return json_batches(kind.stream(file, limits), limits, tally)
    if kind.name == "csv":
        return csv_batches(kind.stream(file, limits), kind.delimiter, kind.header, limits, tally)
    if kind.name in ("empty", "binary"):
        return iter(())
    read = json_line_batches if kind.name == "jsonl" else text_batches
    if kind.is_splittable:
        return read(file, task.start, task.stop, limits, tally)
    return read(Forward(kind.stream(file, limits)), 0, 1 << 62, limits, tally)


class Forward:
    """A stream in the place of a file that is read from its start."""

    def __init__(self, reader: Reader) -> None:
        self.read = reader.read

    def seek(self, offset: int, /) -> int:
        """Stay at the start, which is the only place that readers of streams ask for."""
        return 0


def scan_task(source: Source, task: Task, scan: Scan, detector: Detector, deadline: float) -> Report:
    """Return what is in one piece: a pure function of its arguments.

    Raises:
        ScanFailed: the piece is broken or beyond the limits.
    """
    tally = Tally()
    found: dict[str, dict[str, Found]] = {}
    rules = scan.rules
    shown = functools.lru_cache(1000)(functools.partial(_shown, detector))
    with source.open() as file:
        for batch in batches(file, task, scan.limits, tally):
            if time.monotonic() > deadline:
                raise ScanFailed(f"it took longer than {scan.limits.max_seconds:g} seconds")
            for hit in detector.hits(batch.data, batch.column):
                rule = rules[hit.rule]
                place = batch.place(hit.start)
                columns = found.setdefault(rule.type, {})
                column = shown(place.column)
                before = columns.get(column)
                samples: tuple[Sample, ...] = ()
                offset = -1 if place.offset is None else place.offset
                if before is None or _is_wanted(before, place.row, offset, scan.samples):
                    value = batch.data[hit.start : hit.stop]
                    samples = (
                        Sample(
                            place.row,
                            offset,
                            mask(rule.type, value),
                            digest(scan.salt, rule.type, value),
                        ),
                    )
                one = Found(1, {rule.name: 1}, samples)
                columns[column] = one if before is None else before.plus(one, scan.samples)
                if len(columns) > 4096:
                    found[rule.type] = bounded(columns, scan.samples)
    return Report(
        format=task.format.name,
        rows=tally.rows,
        bytes=tally.bytes,
        invalid_lines=tally.invalid_lines,
        samples=scan.samples,
        found={kind: bounded(columns, scan.samples) for kind, columns in sorted(found.items())},
    )


def _shown(detector: Detector, column: str) -> str:
    """Return a column's name as it may be shown: a key of JSON can be a value itself."""
    if detector.candidates(b"\0" + encode(column.replace(".", "\0")) + b"\0"):
        return "*"
    return column.encode("utf-8", "replace").decode()  # JSON may have halves of characters, which no report can


def _is_wanted(found: Found, row: int, offset: int, samples: int) -> bool:
    """Whether a value is among the first: those of lines that had to be decoded come later than their neighbours."""
    if len(found.samples) < samples:
        return True
    return samples > 0 and (row, offset) < (found.samples[-1].row, found.samples[-1].offset)


Run = Callable[[Source, Sequence[Task], Scan], Iterable[Report]]
"""How tasks are run: here, by processes (`workers.in_processes`), or by a cluster; reports come in the tasks' order."""


def run_here(source: Source, tasks: Sequence[Task], scan: Scan) -> Iterator[Report]:
    """Run the tasks one after the other in this thread."""
    detector = detector_for(scan.rules, scan.engine)
    deadline = time.monotonic() + scan.limits.max_seconds
    for task in tasks:
        yield scan_task(source, task, scan, detector, deadline)


def scan_file(
    source: Source,
    scan: Scan,
    *,
    name: str = "",
    run: Run = run_here,
    task_bytes: int = TASK_BYTES,
    begun: Begun | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Return the report of a file; `progress` hears how many of its bytes are in pieces that are done.

    If it is what has `begun`, the scan goes on from there.

    Raises:
        ScanFailed: it cannot be looked into as a whole; the message says why.
    """
    with failures():
        with source.open() as file:
            tasks = plan(file, name, scan.limits, task_bytes)
            size = file.seek(0, 2)
        begun = begun or Begun(scan)
        left = begun.left_of(tasks)
        total = begun.report if len(left) < len(tasks) else Report(samples=scan.samples)
        for number, report in enumerate(run(source, left, scan), len(tasks) - len(left) + 1):
            total += report
            progress(size * number // len(tasks))
    return total


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Raise `ScanFailed` for what a file can do to its reader."""
    try:
        yield
    except MemoryError:
        raise ScanFailed("it needs more memory than a scan may use") from None
    except RecursionError:
        raise ScanFailed("it is nested too deeply") from None
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror or type(error).__name__}") from None
