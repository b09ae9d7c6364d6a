"""Looks for names in a sample of the text, with presidio and a spaCy model; needs the extra `presidio`.

Recognizing names is slow (a thousand times slower than everything else here) and often wrong in technical text: so it
is done for some hundred cells of each file, what it finds is advice, and it never quarantines by default.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import msgspec

from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.policy import Settings
from tusd_py_pii.readers import Tally
from tusd_py_pii.report import Found, Report, Sample, digest, mask
from tusd_py_pii.scan import Source, batches, plan

SAMPLED = 500
MAX_LENGTH = 2000


def with_names(report: Report, source: Source, settings: Settings, name: str) -> Report:
    """Return the report with names that were found in the first cells that have words.

    Raises:
        ScanFailed: presidio is not installed, or there is no such model.
    """
    analyzer = _analyzer(settings.names_model)
    scan = settings.scan()
    left = SAMPLED
    columns: dict[str, Found] = {}
    with source.open() as file:
        for task in plan(file, name, scan.limits)[:1]:
            for batch in batches(file, task, scan.limits, Tally()):
                start = 1
                while left and start < len(batch.data):
                    stop = batch.data.find(b"\0", start)
                    text = batch.data[start : min(stop, start + MAX_LENGTH)].decode("utf-8", "replace")
                    if text.count(" ") >= 2:
                        left -= 1
                        for hit in analyzer.analyze(text, language="en", entities=["PERSON"]):
                            value = text[hit.start : hit.end].encode()
                            place = batch.place(start)
                            offset = -1 if place.offset is None else place.offset
                            sample = Sample(place.row, offset, mask("name", value), digest(scan.salt, "name", value))
                            one = Found(1, {"presidio": 1}, (sample,))
                            before = columns.get(place.column)
                            columns[place.column] = one if before is None else before.plus(one, scan.samples)
                    start = stop + 1
                if not left:
                    break
    return msgspec.structs.replace(report, found={**report.found, "name": columns}) if columns else report


def _analyzer(model: str) -> Any:
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise ScanFailed("presidio, which looks for names, is not installed: pip install 'tusd-py-pii[presidio]'")
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": model or "en_core_web_sm"}]
    configuration = {"nlp_engine_name": "spacy", "models": models}
    try:
        engine = NlpEngineProvider(nlp_configuration=configuration).create_engine()
    except (OSError, ImportError, SystemExit):
        raise ScanFailed(f"there is no spaCy model {model or 'en_core_web_sm'!r} to look for names with") from None
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
