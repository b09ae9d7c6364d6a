"""Runs a task in a process of its own, which may be slow, large or crash without harm to the server.

The child is this module: it reads one task from standard input, tells its progress and its result on standard output,
and has a limit of memory. It ends with the thread that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, overload

import msgspec
import orjson

from tusd_py_validate import lines, schemas, tables
from tusd_py_validate.problems import Problem, TimeUp, Watch, printable

LIBRARIES = 256 * 2**20
"""What Python and libraries map into memory, besides what a task needs."""
DUCKDB = 1280 * 2**20
"""What DuckDB maps beyond that; most of it is never touched."""
_PR_SET_PDEATHSIG = 1
Tell = Callable[[int], None]


class Crashed(Exception):
    """A task's process has ended without a result."""


class Range(msgspec.Struct):
    """Lines of a file to be checked."""

    path: str
    start: int
    stop: int
    max_line: int
    max_problems: int
    folder: str | None = None
    schema: str | None = None
    show_values: bool = False


class Document(msgspec.Struct):
    """A JSON document to be checked."""

    path: str
    folder: str | None = None
    schema: str | None = None
    show_values: bool = False


def _range(task: Range, tell: Tell) -> lines.Part:
    with Path(task.path).open("rb") as file:
        return lines.check_range(
            file,
            task.start,
            task.stop,
            schema=_schema(task),
            max_line=task.max_line,
            max_problems=task.max_problems,
            read=tell,
        )


def _document(task: Document, tell: Tell) -> list[Problem]:
    data = Path(task.path).read_bytes()
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "memory" in error.msg:
            return [Problem(check="limit", reason="it needs more memory than it may use")]
        at = lines.byte_of(error)
        return [Problem(check="structure", reason=f"no JSON: {error.msg}", line=error.lineno, offset=at)]
    tell(len(data))
    schema = _schema(task)
    return schema.problems(value) if schema else []


def _table(task: tables.Table, tell: Tell) -> list[Problem]:
    size = Path(task.path).stat().st_size
    return tables.check(task, lambda share: tell(int(share * size)))


def _schema(task: Range | Document) -> schemas.Schema | None:
    if task.folder is None or task.schema is None:
        return None
    return schemas.load(Path(task.folder), task.schema, show_values=task.show_values)


_TASKS: dict[str, tuple[type[Any], Callable[[Any, Callable[[int], None]], Any]]] = {
    "Range": (Range, _range),
    "Document": (Document, _document),
    "Table": (tables.Table, _table),
}


def has_duckdb() -> bool:
    """Return whether tables can be compared with a schema: DuckDB comes with the extra `tables`."""
    return importlib.util.find_spec("duckdb") is not None


@overload
def run(task: Range, *, memory: int, watch: Watch, tell: Tell) -> lines.Part: ...
@overload
def run(task: Document | tables.Table, *, memory: int, watch: Watch, tell: Tell) -> list[Problem]: ...


def run(task: Range | Document | tables.Table, *, memory: int, watch: Watch, tell: Tell) -> lines.Part | list[Problem]:
    """Run a task in a process of its own, and return its result; `tell` hears how many bytes it has read.

    Raises:
        Crashed: the process ended without one; the message says how.
        TimeUp: it took too long.
    """
    memory += LIBRARIES + (DUCKDB if isinstance(task, tables.Table) else 0)
    command = [sys.executable, "-P", "-m", __name__, type(task).__name__, str(memory)]
    with tempfile.TemporaryFile() as said, _started(command, said) as process:
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max(0.0, watch.seconds_left), kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(task))
                process.stdin.close()
            for line in process.stdout:
                if line.startswith(b"{"):
                    answer = msgspec.json.decode(line)["result"]
                    if isinstance(task, Range):
                        return msgspec.convert(answer, lines.Part)
                    return msgspec.convert(answer, list[Problem])
                tell(int(line))
            process.wait()
        finally:
            timer.cancel()
            process.kill()
        if late.is_set():
            raise TimeUp("the checks took too long")
        said.seek(0)
        last = said.read().decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
        code = process.returncode
        raise Crashed(printable(last, 200) if code > 0 else f"its reader was ended by {signal.Signals(-code).name}")


def _started(command: list[str], said: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)  # noqa: S603 - ourselves


def main(name: str, memory: int) -> None:
    """Do the task that standard input tells."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.disable()  # what is made has no cycles, and is let go row by row
    kind, do = _TASKS[name]
    output, told = sys.stdout, [0.0]

    def tell(done: int) -> None:
        if time.monotonic() - told[0] > 0.2:
            told[0] = time.monotonic()
            output.write(f"{done}\n")
            output.flush()

    try:
        result = do(msgspec.json.decode(sys.stdin.buffer.read(), type=kind), tell)
    except MemoryError:
        sys.exit("it needs more memory than it may use")
    output.write(msgspec.json.encode({"result": result}).decode() + "\n")
    output.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
