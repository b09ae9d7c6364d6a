"""Writes a copy of a file in which values are replaced by their types: `[EMAIL]`, `[CARD]`.

Everything else stays byte for byte, but for Parquet, which is written anew, and text in UTF-16 or 32, which becomes
UTF-8. What was compressed is compressed again.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tusd_py_pii.batches import Batch, Cell
from tusd_py_pii.detector import Detector, Hit, detector_for
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.formats import Format
from tusd_py_pii.parquet import BATCH_ROWS, open_parquet
from tusd_py_pii.readers import Tally
from tusd_py_pii.scan import Scan, Source, batches, plan
from tusd_py_pii.streams import BLOCK, Reader, full_read
from tusd_py_pii.text import encode, fold, places

Edit = tuple[int, int, bytes, int]


def redact_file(source: Source, target: Path, scan: Scan, *, name: str = "", keep: Collection[str] = ()) -> int:
    """Write the redacted copy and return how many values were replaced; types in `keep` stay.

    Raises:
        ScanFailed: the file cannot be looked into as a whole; no copy is left then.
    """
    detector = detector_for(scan.rules, scan.engine)
    temporary = target.with_name(target.name + ".tmp")
    try:
        with source.open() as file:
            tasks = plan(file, name, scan.limits)
            kind = tasks[0].format if tasks else Format("empty")
            if kind.name == "binary":
                raise ScanFailed("it is no text and no Parquet, so it cannot be redacted")
            if kind.name == "parquet":
                count = _redact_parquet(file, temporary, scan, detector, keep)
            else:
                whole = tasks[0] if len(tasks) == 1 else type(tasks[0])(kind, 0, tasks[-1].stop) if tasks else None
                with source.open() as again, temporary.open("wb") as raw:
                    out: Any = gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) if kind.gzip else raw
                    edits = _edits(file, whole, scan, detector, keep) if whole else iter(())
                    count = _copy(kind.stream(again, scan.limits), out, edits)
                    if kind.gzip:
                        out.close()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _edits(file: BinaryIO, task: Any, scan: Scan, detector: Detector, keep: Collection[str]) -> Iterator[list[Edit]]:
    """Yield what to replace, in lists that are in order."""
    waiting: list[Edit] = []
    for batch in batches(file, task, scan.limits, Tally()):
        first = batch.place(1).offset or 0
        ready = [edit for edit in waiting if edit[1] <= first]
        waiting = [edit for edit in waiting if edit[1] > first]
        yield sorted(ready)
        hits = detector.hits(batch.data, batch.column)
        hits = [hit for hit in hits if detector.rules[hit.rule].type not in keep]
        waiting += _batch_edits(batch, hits, detector, task.format.name)
    yield sorted(waiting)


def _batch_edits(batch: Batch, hits: list[Hit], detector: Detector, kind: str) -> Iterator[Edit]:
    is_json = kind in ("json", "jsonl")
    cells: dict[int, tuple[Cell, list[tuple[int, int, str]]]] = {}
    for hit in hits:
        label = _label(detector, hit)
        place = batch.place(hit.start)
        if is_json and not place.in_string:
            label = f'"{label}"'
        if batch.cell is None:
            start = place.offset or 0
            yield start, start + hit.stop - hit.start, label.encode(), 1
        else:
            begin = batch.data.rfind(b"\0", 0, hit.start) + 1
            inside = cells.setdefault(begin, (batch.cell(hit.start), []))[1]
            inside.append((hit.start - begin, hit.stop - begin, label))
    for begin, (cell, inside) in cells.items():
        new = replaced(cell.text, inside)
        if is_json and batch.place(begin).in_string:
            new = json.dumps(new, ensure_ascii=False)[1:-1]
        elif kind == "csv":
            new = '"' + new.replace('"', '""') + '"'
        yield cell.start, cell.stop, encode(new), len(inside)


def replaced(text: str, hits: list[tuple[int, int, str]]) -> str:
    """Return the text with ranges of its folded bytes replaced."""
    at = places(text)
    parts, end = [], 0
    for start, stop, label in hits:
        first, last = bisect_left(at, start), bisect_left(at, stop)
        parts += [text[end:first], label]
        end = last
    return "".join([*parts, text[end:]])


def _label(detector: Detector, hit: Hit) -> str:
    return f"[{detector.rules[hit.rule].type.upper()}]"


def _copy(reader: Reader, out: Any, lists: Iterator[list[Edit]]) -> int:
    """Copy the stream with its edits; return how many there were."""
    place, count = 0, 0
    for edits in lists:
        for start, stop, new, values in edits:
            while place < start:
                place += out.write(_exactly(reader, min(BLOCK, start - place)))
            _exactly(reader, stop - place)
            place = stop
            out.write(new)
            count += values
    while data := full_read(reader, BLOCK):
        out.write(data)
    return count


def _exactly(reader: Reader, size: int) -> bytes:
    data = full_read(reader, size)
    if len(data) != size:
        raise ScanFailed("the file became shorter while it was read")
    return data


def _redact_parquet(file: BinaryIO, target: Path, scan: Scan, detector: Detector, keep: Collection[str]) -> int:
    import pyarrow
    import pyarrow.parquet

    parquet = open_parquet(file)
    schema = parquet.schema_arrow
    total = 0
    try:
        with pyarrow.parquet.ParquetWriter(target, schema) as writer:
            for batch in parquet.iter_batches(BATCH_ROWS, use_threads=False):
                columns = []
                for field, column in zip(batch.schema, batch.columns, strict=True):
                    values = column.to_pylist()
                    new, count = redacted_values(values, field.name, detector, keep)
                    columns.append(pyarrow.array(new, field.type) if count else column)
                    total += count
                writer.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=batch.schema))
    except (pyarrow.ArrowException, OSError, ValueError):
        raise ScanFailed("the Parquet file is broken") from None
    return total


def redacted_values(values: list[Any], name: str, detector: Detector, keep: Collection[str]) -> tuple[list[Any], int]:
    """Return a column's values, whatever they are made of, with labels in them, and how many were put there."""
    count = 0

    def walk(value: Any, column: str) -> Any:
        nonlocal count
        if isinstance(value, bytes):
            new = walk(value.decode("utf-8", "surrogateescape"), column)
            return new.encode("utf-8", "surrogateescape")
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            data = b"\0" + encode(fold(str(value))) + b"\0"
            hits = [hit for hit in detector.hits(data, lambda _: column) if detector.rules[hit.rule].type not in keep]
            count += len(hits)
            if not hits:
                return value
            if isinstance(value, int):
                return None
            return replaced(value, [(hit.start - 1, hit.stop - 1, _label(detector, hit)) for hit in hits])
        if isinstance(value, list | tuple):
            return type(value)(walk(item, column) for item in value)
        if isinstance(value, dict):
            return {key: walk(item, f"{column}.{key}") for key, item in value.items()}
        return value

    return [walk(value, name) for value in values], count
