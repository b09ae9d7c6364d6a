"""Measures a file in a process of its own, which may be slow, large or crash without harm to the server.

The child is this module: it reads one task from standard input, tells its progress and its result on standard output,
and has a limit of memory. It ends with the thread that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tusd_py_catalog.facts import Facts

LIBRARIES = 640 * 2**20
"""What Python, DuckDB and their threads set aside besides what a task needs; most of it is never touched."""
BLOCK = 2**20
_PR_SET_PDEATHSIG = 1
Tell = Callable[[int], None]


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


class Crashed(Exception):
    """The process ended without a result; the message says how."""


def run(request: Request, *, max_seconds: float, tell: Tell) -> Facts:
    """Describe a file in a process of its own; `tell` hears how many bytes are done.

    Raises:
        Crashed: the process ended without a result, or took too long.
    """
    command = [sys.executable, "-P", "-m", __name__]
    late = threading.Event()
    # What a library prints may quote the data, so nobody hears it.
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max_seconds, kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(request))
                process.stdin.close()
            for line in process.stdout:
                if line.startswith(b"{"):
                    return msgspec.json.decode(line, type=Facts)
                if line.strip().isdigit():
                    tell(int(line))
            process.wait()
        finally:
            timer.cancel()
            process.kill()
    if late.is_set():
        raise Crashed(f"it took longer than {max_seconds:g} seconds")
    code = process.returncode
    raise Crashed(f"its reader was ended by {signal.Signals(-code).name}" if code < 0 else "its reader failed")


def main() -> None:
    """Do what standard input tells."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    if sys.platform == "linux":
        # Only there this counts what a process has mapped for itself.
        limit = request.memory + LIBRARIES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    output, told = sys.stdout.buffer, 0.0

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            output.write(b"%d\n" % done)
            output.flush()

    output.write(msgspec.json.encode(describe(request, tell)) + b"\n")
    output.flush()


def describe(request: Request, tell: Tell) -> Facts:
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


if __name__ == "__main__":
    main()
