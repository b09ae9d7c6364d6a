"""Reads Parquet, one column of a row group at a time; needs the extra `parquet`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, BinaryIO

from tusd_py_pii.batches import Batch, Cells, Lines, Place, column_name
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.readers import Tally
from tusd_py_pii.streams import Limits

BATCH_ROWS = 8192
MAX_COLUMNS = 10_000


def open_parquet(file: BinaryIO) -> Any:
    """Return a `pyarrow.parquet.ParquetFile`.

    Raises:
        ScanFailed: pyarrow is missing, or this is no Parquet that it can read.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ScanFailed("this is Parquet, and pyarrow is not installed: pip install 'tusd-py-pii[parquet]'")
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(
            file, buffer_size=1024 * 1024, thrift_string_size_limit=64 * 1024**2, thrift_container_size_limit=1_000_000
        )
    except MemoryError:  # Arrow's own is an ArrowException as well
        raise
    except (pyarrow.ArrowException, OSError, ValueError):
        raise ScanFailed("the Parquet file is broken: its footer cannot be read") from None


def row_groups(file: BinaryIO, start: int, stop: int, limits: Limits) -> range:
    """Return as large a share of the row groups as the bytes `[start, stop)` are of the file.

    Where a row group lies does not matter: the footer says it, and may lie. So each is in exactly one share.

    Raises:
        ScanFailed: the file is broken, or a column is too large to be looked at.
    """
    metadata = open_parquet(file).metadata
    if metadata.num_columns > MAX_COLUMNS:
        raise ScanFailed(f"the Parquet file has more than {MAX_COLUMNS} columns")
    size = file.seek(0, 2)
    groups = range(metadata.num_row_groups * start // size, metadata.num_row_groups * stop // size)
    for number in groups:
        group = metadata.row_group(number)
        for column in range(metadata.num_columns):
            if group.column(column).total_uncompressed_size > limits.max_row_group:
                raise ScanFailed(f"a column of row group {number} has more than {limits.max_row_group} bytes")
    return groups


def parquet_batches(file: BinaryIO, start: int, stop: int, limits: Limits, tally: Tally) -> Iterator[Batch]:
    """Yield text and whole numbers of the row groups `[start, stop)`.

    Raises:
        ScanFailed: the file is broken.
    """
    import pyarrow

    parquet = open_parquet(file)
    for group in range(start, stop):
        base = tally.rows
        try:
            for column in range(parquet.metadata.num_columns):
                if not _is_wanted(parquet.schema.column(column).physical_type):
                    continue
                path = parquet.schema.column(column).path
                row = base
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[path], use_threads=False):
                    name = column_name(batch.schema.field(0).name)
                    yield from _column_batches(batch.column(0), name, row, tally)
                    row += batch.num_rows
        except MemoryError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError):
            raise ScanFailed(f"the Parquet file is broken in row group {group}") from None
        tally.rows += parquet.metadata.row_group(group).num_rows


def _is_wanted(physical: str) -> bool:
    return physical in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY", "INT64")


def _column_batches(column: Any, name: str, row: int, tally: Tally) -> Iterator[Batch]:
    """Yield the values of one column as a batch."""
    values = column.to_pylist()
    if all(isinstance(value, str) or value is None for value in values):
        joined = "\0".join(["", *(value or "" for value in values), ""])
        if joined.isascii() and joined.count("\0") == len(values) + 1:
            tally.bytes += len(joined)
            data = joined.encode()
            marks = Lines(data, b"\0")
            yield Batch(data, lambda index: Place(name, row + marks.at(index)[0] - 1, None))
            return
    cells = Cells()
    for number, value in enumerate(values):
        for text, path in texts(value, name):
            tally.bytes += len(text)
            cells.add(text, 0, 0, (path, row + number))
    if len(cells):
        yield cells.batch(lambda _, key: Place(key[0], key[1], None))  # type: ignore[index]


def texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield what is text or a whole number within a value, with its path."""
    if value is None or isinstance(value, bool | float):
        return
    if isinstance(value, str):
        yield value, path
    elif isinstance(value, int):
        yield str(value), path
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace"), path
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, path if path.endswith("[]") else path + "[]")
    elif isinstance(value, tuple):
        for item in value:
            yield from texts(item, path + "[]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, f"{path}.{column_name(str(key))}")
