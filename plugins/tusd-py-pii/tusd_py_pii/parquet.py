"""Reads Parquet, one column of a row group at a time; needs the extra `parquet`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, BinaryIO

from tusd_py_pii.batches import Batch, Cells, Lines, Place, column_name
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.readers import Tally, irregular_places, without
from tusd_py_pii.streams import Limits

BATCH_ROWS = 8192
BATCH_NUMBERS = 65536
MAX_COLUMNS = 10_000
LEAST = 1_000_000
"""No number below it says who somebody is."""
_NUMBERS = ("INT32", "INT64", "DOUBLE")  # a FLOAT has too few digits


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
    """Yield text and whole numbers of the row groups `[start, stop)`, also those that are kept as fractions.

    Raises:
        ScanFailed: the file is broken.
    """
    import pyarrow

    parquet = open_parquet(file)
    for group in range(start, stop):
        base = tally.rows
        try:
            for number in range(parquet.metadata.num_columns):
                column = parquet.schema.column(number)
                if not _is_wanted(column.physical_type, column.logical_type.type):
                    continue
                size = BATCH_NUMBERS if column.physical_type in _NUMBERS else BATCH_ROWS
                row = base
                for batch in parquet.iter_batches(size, row_groups=[group], columns=[column.path], use_threads=False):
                    name = column_name(batch.schema.field(0).name)
                    yield from _column_batches(batch.column(0), name, row, tally)
                    row += batch.num_rows
        except MemoryError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError):
            raise ScanFailed(f"the Parquet file is broken in row group {group}") from None
        tally.rows += parquet.metadata.row_group(group).num_rows


def _is_wanted(physical: str, logical: str) -> bool:
    is_text_or_number = physical in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY", *_NUMBERS)
    return is_text_or_number and logical not in ("TIMESTAMP", "TIME", "DATE", "UUID", "FLOAT16")


def _column_batches(column: Any, name: str, row: int, tally: Tally) -> Iterator[Batch]:
    """Yield the values of one column as a batch: all at once, but for those that have to be decoded."""
    values, path, rows = _leaves(column, name)
    joined = _joined(values)

    def place(number: int) -> Place:
        return Place(path, row + (rows[number].as_py() if rows is not None else number), None)

    if joined is None:
        cells = Cells()
        for number, value in enumerate(column.to_pylist()):
            for text, inner in texts(value, name):
                tally.bytes += len(text)
                cells.add(text, 0, 0, (inner, row + number))
        if len(cells):
            yield cells.batch(lambda _, key: Place(*key, None))  # type: ignore[call-arg, misc]
    elif joined:
        tally.bytes += len(joined) - len(values) - 1
        data = joined
        marks = Lines(joined, b"\0")
        if places := irregular_places(joined, b"\0"):
            data, spans = without(joined, places, b"\0")
            cells = Cells()
            for first, last in spans:
                cells.add(joined[first:last].decode(), 0, 0, marks.at(first)[0] - 1)
            yield cells.batch(lambda _, number: place(number))  # type: ignore[arg-type]
        yield Batch(data, lambda index: place(marks.at(index)[0] - 1), None, lambda _: path)


def _leaves(values: Any, path: str) -> tuple[Any, str, Any]:
    """Return what is in lists and structs, the path to it, and the row of each value if it is not its number."""
    import pyarrow.compute as pc
    from pyarrow import types

    rows = None
    while True:
        kind = values.type
        if types.is_list(kind) or types.is_large_list(kind):
            parents = pc.list_parent_indices(values)
            rows = parents if rows is None else rows.take(parents)
            values = pc.list_flatten(values)
            path = path if path.endswith("[]") else path + "[]"
        elif types.is_struct(kind) and kind.num_fields == 1:
            path = f"{path}.{column_name(kind.field(0).name)}"
            [values] = values.flatten()
        else:
            return values, path, rows


def _joined(values: Any) -> bytes | None:
    """Return text and whole numbers with a NUL before and behind each; None if that cannot be done all at once.

    Raises:
        ValueError: what should be text is not UTF-8.
    """
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow import types

    kind = values.type
    if types.is_temporal(kind) or types.is_boolean(kind) or not len(values):
        return b""
    if not (types.is_string(kind) or types.is_large_string(kind)):
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
            return None
        values = _whole(values)
        if values.null_count == len(values):
            return b""
        values = values.cast(pyarrow.string())
    whole = pyarrow.LargeListArray.from_arrays([0, len(values)], values.fill_null(""))
    joined = b"".join((b"\0", pc.binary_join(whole, "\0")[0].as_buffer(), b"\0"))
    if not joined.isascii():
        joined.decode()
    return joined if joined.count(b"\0") == len(values) + 1 else None


def _whole(values: Any) -> Any:
    """Return the numbers of a column that are large enough to mean somebody, with null for the others.

    To many libraries a column of whole numbers with gaps is one of fractions; one that has fractions is a measurement.
    """
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow import types

    kind = values.type
    if types.is_floating(kind) or types.is_decimal(kind):
        if types.is_floating(kind):
            values = pc.if_else(pc.is_finite(values), values, None)
            most = float(2**53)  # beyond it not every whole number is one of these
        else:
            most = 10 ** min(kind.precision - kind.scale, 18) - 1
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less_equal(pc.abs(values), most))
        if pc.all(whole).as_py() is False:
            return pyarrow.nulls(len(values))
        values = values.cast(pyarrow.int64(), safe=False)
    return pc.if_else(pc.or_(pc.greater_equal(values, LEAST), pc.less_equal(values, -LEAST)), values, None)


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
