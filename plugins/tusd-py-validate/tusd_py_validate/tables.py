"""Compares CSV and Parquet with a JSON Schema: DuckDB finds the rows that may not fit, the schema itself judges them.

This runs in a process of its own (see `child`), for a broken file may bring down what reads it.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tusd_py_validate import schemas, sql
from tusd_py_validate.problems import Problem, Problems, Stop, printable

if TYPE_CHECKING:
    import duckdb

BATCH = 256
_INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Table(msgspec.Struct):
    """What is to be compared."""

    path: str
    folder: str
    schema: str
    header: list[str] | None = None
    """The columns of CSV; None for Parquet."""
    delimiter: str = ","
    max_row: int = 2**23
    max_problems: int = 100
    memory: int = 2**29
    show_values: bool = False


def check(table: Table, progress: Callable[[float], None]) -> list[Problem]:
    """Return what is wrong with a table; rows are told by their number, from 1.

    `progress` hears what share of the table has been read, as far as DuckDB says.
    """
    import duckdb

    schema = schemas.load(Path(table.folder), table.schema, show_values=table.show_values)
    problems = Problems(table.max_problems)
    with tempfile.TemporaryDirectory() as spill:
        # To DuckDB a path can be a pattern for many files, tell a compression, and name columns (`/day=1/`).
        link = Path(spill, "data")
        link.symlink_to(Path(table.path).absolute())
        table = msgspec.structs.replace(table, path=str(link))
        connection = duckdb.connect(
            config={
                "memory_limit": f"{table.memory // 2**20}MiB",
                "temp_directory": spill,
                "threads": "2",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        try:
            # Statistics in the file's footer are what its author says: they may not decide which rows are read.
            connection.execute("SET disabled_optimizers = 'filter_pushdown,statistics_propagation'")
            _compare(connection, table, schema, problems, progress)
        except duckdb.Error as error:
            # DuckDB quotes what it cannot read.
            words = f": {printable(str(error).splitlines()[0], 200)}" if table.show_values else ""
            reason = f"it cannot be read as a table{words}"
            return [*problems, Problem(check="structure", reason=reason)]
        except Stop:
            pass
        finally:
            connection.close()
    return list(problems)


def _compare(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    schema: schemas.Schema,
    problems: Problems,
    progress: Callable[[float], None],
) -> None:
    source = _source(table)
    if table.header is None:
        described = connection.execute(f"DESCRIBE SELECT * EXCLUDE (file_row_number) FROM {source}").fetchall()  # noqa: S608
        columns = {name: ('"' + name.replace('"', '""') + '"', kind) for name, kind, *_ in described}
        row = "file_row_number + 1"
    else:
        columns = {name: (f"c{number}", "VARCHAR") for number, name in enumerate(table.header)}
        row = "row_number() OVER ()"
    condition = sql.suspicious(schema.document, columns, is_csv=table.header is not None)
    quoted = ", ".join(column for column, _ in columns.values())
    # Nothing here comes from the upload but names of columns, which are quoted or numbered.
    query = f"SELECT * FROM (SELECT {row}, {quoted} FROM {source}) WHERE {condition}"  # noqa: S608
    if table.header is None:
        query = f"SELECT {row}, {quoted} FROM {source} WHERE {condition}"  # noqa: S608
    result = connection.execute(query)
    types = {name: sql.json_types(_property(schema.document, name), schema.document) for name in columns}
    while rows := result.fetchmany(BATCH):
        for number, *cells in rows:
            value = as_object(dict(zip(columns, cells, strict=True)), types, is_csv=table.header is not None)
            problems.extend(schema.problems(value, row=number))
        progress(max(0.0, connection.query_progress()) / 100)


def _source(table: Table) -> str:
    path = sql.text(table.path)
    if table.header is None:
        return f"read_parquet({path}, file_row_number = true)"
    columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(table.header)))
    return (
        f"read_csv({path}, auto_detect = false, header = true, delim = {sql.text(table.delimiter)}, quote = '\"', "
        f"escape = '\"', columns = {{{columns}}}, nullstr = '', max_line_size = {table.max_row}, strict_mode = true)"
    )


def _property(document: Any, name: str) -> Any:
    document = sql.resolved(document, document)
    return document.get("properties", {}).get(name, True) if isinstance(document, dict) else True


def as_object(cells: Mapping[str, Any], types: Mapping[str, frozenset[str]], *, is_csv: bool) -> dict[str, Any]:
    """Return a row as the JSON object that the schema is about.

    A cell without a value is null if the schema takes null, and else a property that is not there.
    """
    value: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell is None:
            if "null" in types[name]:
                value[name] = None
        else:
            value[name] = _from_text(cell, types[name]) if is_csv else _as_json(cell)
    return value


def _from_text(cell: str, types: frozenset[str]) -> Any:
    """Return a cell of CSV as one of the types that the schema takes, or as the text that it is."""
    if types & {"integer", "number"} and _INTEGER.fullmatch(cell) and len(cell) < 300:
        number = int(cell)
        return number if abs(number) < 2**63 else float(cell)
    if types & {"integer", "number"} and _NUMBER.fullmatch(cell) and math.isfinite(float(cell)):
        return float(cell)
    if "boolean" in types and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    return cell


def _as_json(cell: Any) -> Any:
    """Return a value of Parquet as JSON has it; times are ISO 8601, bytes are Base64."""
    match cell:
        case bool() | str() | int() | None:
            return cell
        case float():
            return cell if math.isfinite(cell) else str(cell)
        case dict():
            return {str(key): _as_json(each) for key, each in cell.items()}
        case list() | tuple():
            return [_as_json(each) for each in cell]
        case datetime.datetime() if cell.tzinfo is None:
            return cell.isoformat() + "Z"
        case datetime.date() | datetime.time():
            return cell.isoformat()
        case bytes():
            return base64.b64encode(cell).decode()
        case decimal.Decimal():
            return float(cell)
        case uuid.UUID():
            return str(cell)
    return str(cell)
