"""What is done in processes of their own, for it may be slow, large or crash: reading JSON, and tables with DuckDB."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import orjson

from tusd_py import processes
from tusd_py.processes import Progress
from tusd_py_validate import lines, schemas, tables
from tusd_py_validate.problems import Problem, TimeUp, Watch
from tusd_py_validate.source import Source

DUCKDB = 640 * 2**20
"""What DuckDB and its threads set aside besides what a task needs; most of it is never touched."""
Task = TypeVar("Task")
Found = TypeVar("Found")


class Range(msgspec.Struct):
    """Lines of a file to be checked."""

    source: Source
    start: int
    stop: int
    max_line: int
    max_problems: int
    folder: str | None = None
    schema: str | None = None
    show_values: bool = False


class Document(msgspec.Struct):
    """A JSON document to be checked."""

    source: Source
    folder: str | None = None
    schema: str | None = None
    show_values: bool = False


def check_range(task: Range, tell: Progress) -> lines.Part:
    """Check some lines."""
    gc.disable()  # what is made has no cycles, and is let go row by row
    with task.source.open() as file:
        return lines.check_range(
            file,
            task.start,
            task.stop,
            schema=_schema(task),
            max_line=task.max_line,
            max_problems=task.max_problems,
            read=tell,
        )


def check_document(task: Document, tell: Progress) -> list[Problem]:
    """Check a JSON document."""
    gc.disable()
    with task.source.open() as file:
        data = file.read()
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


def check_table(task: tables.Table, tell: Progress) -> list[Problem]:
    """Compare a table with its schema."""
    size = Path(task.path).stat().st_size
    return tables.check(task, lambda share: tell(int(share * size)))


def _schema(task: Range | Document) -> schemas.Schema | None:
    if task.folder is None or task.schema is None:
        return None
    return schemas.load(Path(task.folder), task.schema, show_values=task.show_values)


def has_duckdb() -> bool:
    """Return whether tables can be compared with a schema: DuckDB comes with the extra `tables`."""
    return importlib.util.find_spec("duckdb") is not None


def run(
    function: Callable[[Task, Progress], Found],
    *tasks: Task,
    memory: int,
    watch: Watch,
    tell: Progress,
    count: int = 1,
) -> Iterator[Found]:
    """Yield what each task finds in one of `count` processes; `tell` hears how many bytes they have read.

    Raises:
        ProcessFailed: one found nothing; the message says why.
        TimeUp: they took too long.
    """
    is_table = function is check_table
    try:
        yield from processes.run_each(
            function,
            tasks,
            processes=count,
            memory=memory + (DUCKDB if is_table else 0),
            seconds=watch.seconds_left,
            progress=tell,
            preload=["duckdb"] if is_table else [],
        )
    except processes.TookTooLong:
        raise TimeUp("the checks took too long") from None
