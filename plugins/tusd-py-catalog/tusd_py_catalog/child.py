"""Measures a file in a process of its own, which may be slow, large or crash without harm to the server."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import msgspec

from tusd_py import processes
from tusd_py.processes import Progress
from tusd_py_catalog.facts import Facts

LIBRARIES = 640 * 2**20
"""What DuckDB and its threads set aside besides what a task needs; most of it is never touched."""
BLOCK = 2**20


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is to do."""

    path: str
    name: str
    media: str
    memory: int
    threads: int
    max_line: int
    max_fields: int
    sample_rows: int
    redaction: bytes | None = None


def run(request: Request, *, max_seconds: float, tell: Progress) -> Facts:
    """Describe a file in a process of its own; `tell` hears how many bytes are done.

    Raises:
        ProcessFailed: the process ended without a result, or took too long.
    """
    return processes.run(
        describe,
        request,
        memory=request.memory + LIBRARIES,
        seconds=max_seconds,
        progress=tell,
        preload=["tusd_py_catalog.formats", "tusd_py_catalog.measure"],
    )


def describe(request: Request, tell: Progress) -> Facts:
    """Return the facts of a file."""
    from tusd_py_catalog.formats import detect
    from tusd_py_catalog.measure import Measured, Task, measure

    path = Path(request.path)
    size = path.stat().st_size
    digests: list[str] = []
    # Beside the other threads: it lets go of Python's lock, and the file is read from the disk once.
    hashing = threading.Thread(target=lambda: digests.append(digest(path)))
    hashing.start()
    kind = detect(path, request.name, request.media)
    found = Measured(problems=(kind.problem,) if kind.problem else ())
    if kind.problem is None and kind.name == "text":
        found = Measured(rows=lines(path) if kind.compression is None else None, tokens=size // 4)
    elif kind.problem is None and kind.name not in ("binary", "empty"):
        task = Task(
            path=request.path,
            format=kind.name,
            compression=kind.compression,
            memory=request.memory,
            threads=request.threads,
            max_line=request.max_line,
            max_fields=request.max_fields,
            sample_rows=request.sample_rows,
            redaction=request.redaction,
        )
        found = measure(task, lambda share: tell(int(share * size)))
    hashing.join()
    return Facts(
        format=kind.name,
        compression=kind.compression,
        bytes=size,
        sha256=digests[0],
        rows=found.rows,
        fields=found.fields,
        tokens=found.tokens,
        sample=found.sample,
        problems=found.problems,
    )


def digest(path: Path) -> str:
    """Return the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lines(path: Path) -> int:
    """Return how many lines a text has."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")
