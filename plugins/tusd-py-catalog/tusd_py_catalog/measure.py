"""Measures the data in a file with DuckDB: one pass for the figures, and a look at the first rows for the meaning.

This runs in a process of its own (see `child`), for a broken file may bring down what reads it. What DuckDB says of a
broken file quotes it, so none of that is passed on: reasons are sentences of our own.
"""

from __future__ import annotations

import math
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from tusd_py_catalog import columns
from tusd_py_catalog.columns import Column
from tusd_py_catalog.facts import BYTES_PER_TOKEN, Field
from tusd_py_catalog.samples import Redactor
from tusd_py_catalog.semantics import semantic_type

MAX_REJECTS = 100
"""So many rows of CSV that cannot be read are counted."""
LOOKED_AT = 1000
"""So many rows are looked at for what fields mean; fewer if there are many fields."""
CELLS = 20_000
CSV, JSON = ("csv", "tsv"), ("json", "jsonl")
_LINE = re.compile(r"\bline:? (\d+)", re.IGNORECASE)
_REASONS = (
    (r"sniffing file", "its rows do not fit one form of CSV"),
    (r"recursion depth", "it is nested too deeply"),
    (r"maximum_object_size|maximum line size|max_line_size|larger than the maximum|buffer size", "a line is too long"),
    (r"unicode|utf-?8", "it is not UTF-8"),
    (r"Malformed JSON|unexpected (character|end)|JSON parse", "not all of it is JSON"),
    (r"transform|Could not convert|cast", "its values change their type"),
    (r"columns", "its rows do not all have as many columns"),
)


class Task(msgspec.Struct, frozen=True):
    """What is to be measured, and how."""

    path: str
    format: str
    compression: str | None = None
    memory: int = 320 * 2**20
    threads: int = 2
    max_line: int = 16 * 2**20
    max_fields: int = 1000
    sample_rows: int = 5
    redaction: bytes | None = None
    """Rules for samples, as `samples.rules` gives them; without them there are no samples."""


class Measured(msgspec.Struct, frozen=True):
    """What was found."""

    rows: int | None = None
    fields: tuple[Field, ...] = ()
    tokens: int | None = None
    sample: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()


def measure(task: Task, progress: Callable[[float], None]) -> Measured:
    """Return what is found in a file; `progress` hears what share of it is read."""
    with tempfile.TemporaryDirectory() as folder:
        # To DuckDB a path can be a pattern for many files, tell a compression, and name columns (`/day=1/`).
        link = Path(folder, "data")
        link.symlink_to(Path(task.path).absolute())
        return _measured(msgspec.structs.replace(task, path=str(link)), progress)


def _measured(task: Task, progress: Callable[[float], None]) -> Measured:
    try:
        return _attempt(task, progress, is_tolerant=False)
    except duckdb.Error as error:
        problem = reason_of(error, task)
    if task.format != "parquet":
        try:
            found = _attempt(task, progress, is_tolerant=True)
            return msgspec.structs.replace(found, problems=(problem, *found.problems))
        except duckdb.Error:
            pass
    return Measured(problems=(problem,))


def _attempt(task: Task, progress: Callable[[float], None], *, is_tolerant: bool) -> Measured:
    """Read with all threads, and if that takes too much memory with one."""
    try:
        return _Table(task, task.threads, is_tolerant).measured(progress)
    except duckdb.OutOfMemoryException:
        return _Table(task, 1, is_tolerant).measured(progress)


class _Table:
    """One attempt at a file."""

    def __init__(self, task: Task, threads: int, is_tolerant: bool) -> None:
        self._task = task
        self._threads = threads
        self._is_tolerant = is_tolerant
        self._source = source(task, is_tolerant=is_tolerant, delimiter="\t" if task.format == "tsv" else "")
        self._redactor = Redactor(task.redaction)

    def measured(self, progress: Callable[[float], None]) -> Measured:
        """Return what is found.

        Raises:
            duckdb.Error: it cannot be read so.
        """
        task = self._task
        with _connected(task, self._threads) as connection:
            header = self._header(connection)
            names, types = header
            if task.format == "csv" and len(names) == 1 and (found := re.search(r"[,;\t|]", names[0])):
                # Where rows have different numbers of columns, none looks like a delimiter; its header tells.
                self._source = source(task, is_tolerant=self._is_tolerant, delimiter=found[0])
                header = self._header(connection)
            # Where keys are values there may be millions of them, and so types: there the first rows tell.
            if task.format not in JSON or any(map(columns.has_map, types)):
                return self._with(connection, header, progress)
            return self._by_all_rows(connection, header, progress)

    def _by_all_rows(
        self, connection: duckdb.DuckDBPyConnection, header: _Header, progress: Callable[[float], None]
    ) -> Measured:
        """Measure with the types of all rows, or fractions behind the first ones would be rounded, and objects dropped.

        To tell them takes one core nearly as long as to measure, so meanwhile it is tried with those of the first rows.
        """
        source_of_all = source(self._task, is_tolerant=self._is_tolerant, all_rows=True)
        found: Measured | None = None
        with ThreadPoolExecutor(1) as aside, _connected(self._task, 1) as other:
            telling = aside.submit(_header_of, other, source_of_all)
            try:
                found = self._with(connection, header, progress)
            except duckdb.Error as error:
                failure = error
            right = telling.result()
        if right != header:
            self._source = source_of_all
            return self._with(connection, right, progress)
        if found is None:
            raise failure
        return found

    def _with(
        self, connection: duckdb.DuckDBPyConnection, header: _Header, progress: Callable[[float], None]
    ) -> Measured:
        """Return what is found with these names and types."""
        task, (names, types) = self._task, header
        every = columns.columns_of(names, types, self._redactor.labels)
        guesses: list[str] = []
        if task.format in CSV:
            # What begins with whole numbers may go on with fractions, which DuckDB would round.
            guesses = [name for name, column in zip(names, every, strict=True) if column.kind == "integer"]
            every = [
                msgspec.structs.replace(column, is_guess=True, is_float=True) if column.kind == "integer" else column
                for column in every
            ]
        kept = every[: task.max_fields]
        with _watched(connection, progress):
            rows, unread, sums = self._sums(connection, kept, guesses)
        left_out = self._left_out(connection)
        shown = self._first_rows(connection, names, types)
        fields = [_field(column, rows, measured, shown) for column, measured in zip(kept, sums, strict=True)]
        problems = []
        if left_out:
            more = "or more " if left_out >= MAX_REJECTS else ""
            problems.append(f"{left_out} {more}rows are left out")
        if unread:
            problems.append(f"{unread} rows have nothing that could be read")
        if formulas := sum(each.get("formulas", 0) for each in sums):
            problems.append(f"{formulas} cells begin as formulas of spreadsheets do")
        if len(every) > len(kept):
            problems.append(f"of {len(every)} fields only the first {len(kept)} are described")
        return Measured(
            rows=rows,
            fields=tuple(self._redactor.field(field) for field in fields),
            tokens=sum(field.tokens or 0 for field in fields),
            sample=self._redactor.sample(shown[: task.sample_rows]),
            problems=tuple(problems),
        )

    def _header(self, connection: duckdb.DuckDBPyConnection) -> _Header:
        return _header_of(connection, self._source)

    def _sums(
        self, connection: duckdb.DuckDBPyConnection, kept: Sequence[Column], guesses: Sequence[str]
    ) -> tuple[int, int, list[dict[str, Any]]]:
        """Return the rows, those of them without any value, and the aggregates of each field, in one pass."""
        task, wanted = self._task, ["count(*)", "0"]
        tops = [column.value for column in kept if len(column.path) == 1]
        if self._is_tolerant and task.format in JSON:
            wanted[1] = f"count(*) FILTER ({' AND '.join(f'{value} IS NULL' for value in tops)})"
        names: list[list[str]] = []
        for column in kept:
            measures = column.measures()
            if task.format in CSV and column.kind == "string":
                measures["formulas"] = f"count(*) FILTER (CASE WHEN {_begins_as_formula(column.value)} END)"
            names.append(list(measures))
            wanted += measures.values()
        # Nothing in it comes from the upload but names, which are quoted.
        counted = self._source
        if self._is_tolerant and task.format in CSV:
            counted = f"{counted[:-1]}, store_rejects = true, rejects_limit = {MAX_REJECTS})"
        if guesses:
            types = ", ".join(f"{columns.text(name)}: 'DOUBLE'" for name in guesses)
            counted = f"{counted[:-1]}, types = {{{types}}})"
        [row] = connection.execute(f"SELECT {', '.join(wanted)} FROM {counted}").fetchall()  # noqa: S608
        values = iter(row[2:])
        return row[0], row[1], [{name: next(values) for name in each} for each in names]

    def _left_out(self, connection: duckdb.DuckDBPyConnection) -> int:
        """Return how many rows of CSV could not be read and are not among those that were measured."""
        if not (self._is_tolerant and self._task.format in CSV):
            return 0
        row = connection.execute("SELECT count(DISTINCT line) FROM reject_errors").fetchone()
        return row[0] if row else 0

    def _first_rows(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str], types: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return the first rows as they may be shown, but not redacted yet."""
        names, types = names[: self._task.max_fields], types[: self._task.max_fields]
        limit = max(self._task.sample_rows, min(LOOKED_AT, CELLS // max(1, len(names))))
        labels = self._redactor.labels
        shown = ", ".join(
            columns.shown(kind, columns.quoted(name), labels) for name, kind in zip(names, types, strict=True)
        )
        # The first in the file, and not the first that some thread finds.
        connection.execute("SET preserve_insertion_order = true; SET threads = 1")
        found = connection.execute(f"SELECT {shown} FROM {self._source} LIMIT {limit}").fetchall()  # noqa: S608
        connection.execute(f"SET preserve_insertion_order = false; SET threads = {self._threads}")
        shown_names = labels(names)
        return [dict(zip(shown_names, row, strict=True)) for row in found]


_Header = tuple[list[str], list[Any]]
"""Names and types of the columns."""


def _header_of(connection: duckdb.DuckDBPyConnection, rows: str) -> _Header:
    relation = connection.sql(f"SELECT * FROM {rows}")  # noqa: S608
    return list(relation.columns), list(relation.types)


def _begins_as_formula(value: str) -> str:
    """Return SQL that tells a formula from its first character, unless it is a number's sign.

    Ranges of strings are compared several times as fast as first characters are cut off.
    """
    marks = " OR ".join(f"({value} >= '{mark}' AND {value} < '{chr(ord(mark) + 1)}')" for mark in "=+-@")
    return f"{marks} THEN TRY_CAST({value} AS DOUBLE) IS NULL"


def _field(column: Column, rows: int, sums: dict[str, Any], shown: Sequence[dict[str, Any]]) -> Field:
    """Return a field with its figures and what it seems to mean."""
    values, total = int(sums["values"] or 0), int(sums["items"] or 0) if "items" in sums else rows
    looked_at = [value for row in shown for value in column.in_row(row)][:LOOKED_AT]
    distinct = min(sums["distinct"], values) if "distinct" in sums else None
    kind = "number" if sums.get("fractions") else column.kind
    if distinct is not None:
        share = distinct / values if values else 0.0
    else:
        hashable = [str(value) for value in looked_at]
        share = len({*hashable}) / len(hashable) if hashable else 0.0
    return Field(
        name=column.name,
        type=kind,
        semantic=semantic_type(column.name, kind, looked_at, share),
        values=values,
        nulls=total - values,
        distinct=distinct,
        min=_plain(sums.get("min"), kind),
        max=_plain(sums.get("max"), kind),
        mean=_rounded(sums.get("mean")),
        min_length=sums.get("min_length"),
        max_length=sums.get("max_length"),
        mean_length=_rounded(sums["sum_length"] / values) if sums.get("sum_length") is not None and values else None,
        tokens=round(int(sums["bytes"] or 0) / BYTES_PER_TOKEN) if "bytes" in sums else None,
    )


def _plain(value: Any, kind: str) -> str | int | float | bool | None:
    if isinstance(value, float) and kind == "integer":
        value = int(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63) or isinstance(value, str):
        return value
    return None if value is None else float(value)


def _rounded(number: Any) -> float | None:
    """Return a mean with six digits: more would depend on the order in which rows were added up."""
    return float(f"{float(number):.6g}") if number is not None and math.isfinite(number) else None


def source(task: Task, *, is_tolerant: bool, delimiter: str = "", all_rows: bool = False) -> str:
    """Return SQL for the rows of a file, with types told by `all_rows` or the first 20,480 of them.

    Without a delimiter, one is looked for.
    """
    path, limit = columns.text(task.path), task.max_line
    packed = f", compression = '{task.compression}'" if task.compression else ""
    lenient = ", ignore_errors = true" if is_tolerant else ""
    lenient += ", sample_size = -1" if all_rows or (is_tolerant and task.format in CSV) else ""
    if task.format == "parquet":
        return f"read_parquet({path})"
    if task.format in CSV:
        delimited = f", delim = {columns.text(delimiter)}" if delimiter else ""
        # By itself DuckDB would set aside room for 32 of the longest lines, more than once.
        size = max(2 * limit, 2**25)
        # Left to itself, DuckDB skips as many lines as do not look like the last ones, and those that begin with `#`.
        whole = "skip = 0, comment = ''"
        return f"read_csv({path}, {whole}, max_line_size = {limit}, buffer_size = {size}{delimited}{packed}{lenient})"
    if task.format == "jsonl":
        kind = "newline_delimited"
    else:
        kind, lenient = "auto", lenient.replace(", ignore_errors = true", "")
    return (
        f"read_json({path}, format = '{kind}', maximum_depth = {columns.MAX_DEPTH}, maximum_object_size = {limit}, "
        f"convert_strings_to_integers = false{packed}{lenient})"
    )


@contextmanager
def _connected(task: Task, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory() as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": f"{task.memory // 2**20}MiB",
                "temp_directory": spill,
                "threads": str(threads),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        try:
            # Statistics in a file's footer are what its author says.
            connection.execute("SET disabled_optimizers = 'filter_pushdown,statistics_propagation'")
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar_print = false")
            yield connection
        finally:
            connection.close()


@contextmanager
def _watched(connection: duckdb.DuckDBPyConnection, progress: Callable[[float], None]) -> Iterator[None]:
    """Tell meanwhile how far DuckDB is."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.25):
            progress(max(0.0, connection.query_progress()) / 100)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def reason_of(error: duckdb.Error, task: Task) -> str:
    """Return why a file cannot be read, without what is in it."""
    # Behind the first lines come advice and all options, and among them the line as it is in the file.
    said = re.sub(r"Original Line:.*", "", re.split(r"Possible (?:fixes|solutions)|\n\nLINE ", str(error))[0])
    if isinstance(error, duckdb.OutOfMemoryException):
        return "it needs more memory than it may use"
    if isinstance(error, duckdb.BinderException | duckdb.ParserException):
        return "it has a field that cannot be described"
    line = _LINE.search(said)
    # Of JSON that cannot be parsed, DuckDB does not tell the right line.
    where = f" (line {line[1]})" if line and "Malformed JSON" not in said else ""
    if task.format == "parquet":
        return "the Parquet file is broken"
    for pattern, reason in _REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return reason + where
    return f"it cannot be read as {task.format}{where}"
