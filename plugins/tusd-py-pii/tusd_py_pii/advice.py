"""Asks a model what it thinks of a sample of a file: names, above all, which no pattern tells.

A model is a thousand times slower than everything else here and often wrong in technical text. So it sees some hundred
cells of each file, it runs in a process of its own, and what it says is advice: it never quarantines, and a model that
fails leaves no file unchecked.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from tusd_py.processes import Progress
from tusd_py_pii.batches import Place
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.hooks import Model
from tusd_py_pii.readers import Tally
from tusd_py_pii.report import Advice, Found, Report, Sample, bounded, digest, mask
from tusd_py_pii.scan import TASK_BYTES, Scan, Source, batches, plan
from tusd_py_pii.streams import Limits
from tusd_py_pii.workers import apart, to_be_told

PIECES = 8
MAX_LENGTH = 1000
MIN_SPACES = 2


class Question(msgspec.Struct, frozen=True):
    """Which model is asked, and about how much."""

    model: str
    function: str
    options: dict[str, str]
    cells: int


class Cell(NamedTuple):
    """A text of the sample, and where it stands."""

    text: str
    place: Place
    is_row_known: bool


def advised(report: Report, source: Source, scan: Scan, question: Question, name: str) -> Report:
    """Return the report with the advice of the model; if the model fails, the advice says so."""
    try:
        advice = apart(scan.limits, _ask, (source, msgspec.json.encode(scan), question, name))
    except ScanFailed as error:
        advice = Advice(model=question.model, failed=str(error))
    return msgspec.structs.replace(report, advice=advice)


def _ask(asked: tuple[Source, bytes, Question, str], progress: Progress) -> Advice:
    source, encoded, question, name = asked
    scan = msgspec.json.decode(encoded, type=Scan)
    with to_be_told():
        model = made(question.function, question.options)
        cells = list(sample(source, name, scan.limits, question.cells))
    found: dict[str, dict[str, Found]] = {}
    for cell, spans in zip(cells, model([cell.text for cell in cells]), strict=True):
        for start, stop, kind in spans:
            value = cell.text[start:stop].encode("utf-8", "replace")
            place = cell.place
            row = place.row if cell.is_row_known else -1
            offset = -1 if place.offset is None else place.offset
            one = Found(
                1, {question.model: 1}, (Sample(row, offset, mask(kind, value), digest(scan.salt, kind, value)),)
            )
            columns = found.setdefault(kind, {})
            before = columns.get(place.column)
            columns[place.column] = one if before is None else before.plus(one, scan.samples)
    found = {kind: bounded(columns, scan.samples) for kind, columns in sorted(found.items())}
    return Advice(model=question.model, cells=len(cells), found=found)


def made(function: str, options: Mapping[str, str]) -> Model:
    """Return the model that a `module:function` makes.

    Raises:
        ScanFailed: there is no such function.
    """
    module, _, attribute = function.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise ScanFailed(f"there is no {function!r}") from None
    model: Model = make(**options)
    return model


def sample(source: Source, name: str, limits: Limits, cells: int, task_bytes: int = TASK_BYTES) -> Iterator[Cell]:
    """Yield up to so many cells that hold words, from places all over the file if it can be cut.

    Raises:
        ScanFailed: the file cannot be read.
    """
    with source.open() as file:
        tasks = plan(file, name, limits, max(task_bytes, -(-file.seek(0, 2) // PIECES)))
        taken = 0
        for number, task in enumerate(tasks, 1):
            wanted = cells * number // len(tasks)
            for batch in batches(file, task, limits, Tally()):
                start = 1
                while taken < wanted and start < len(batch.data):
                    stop = batch.data.find(b"\0", start)
                    text = batch.data[start : min(stop, start + MAX_LENGTH)].decode("utf-8", "ignore")
                    if text.count(" ") >= MIN_SPACES:
                        taken += 1
                        yield Cell(text, batch.place(start), task.start == 0)
                    start = stop + 1
                if taken >= wanted:
                    break
