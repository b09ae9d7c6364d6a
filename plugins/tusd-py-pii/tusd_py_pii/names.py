"""Names of people by presidio and a spaCy model: the model `presidio`, which needs the extra of that name."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.hooks import Model

TYPES = {"PERSON": "name", "LOCATION": "location", "NRP": "group"}
# Two words or more that begin with a capital and hold no digit: single words are too often names of things.
_NAME = re.compile(r"[^\W\d_][\w.'\u2019-]*(?: (?:[a-z]{1,3} )?[^\W\d_][^\W\d_.'\u2019-]*[\w.'\u2019-]*)+")


def presidio(spacy: str = "en_core_web_sm", language: str = "en", entities: str = "PERSON") -> Model:
    """Return a model that asks presidio for entities, by a spaCy model that is installed, or by its path.

    Raises:
        ScanFailed: presidio is not installed, or there is no such model.
    """
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise ScanFailed("presidio is not installed: pip install 'tusd-py-pii[presidio]'")
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer
    from spacy.util import is_package

    # Presidio would try to download it.
    if not is_package(spacy) and not Path(spacy).exists():
        raise ScanFailed(f"there is no spaCy model {spacy!r}")
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": spacy}]}
    engine = NlpEngineProvider(nlp_configuration=configuration).create_engine()
    registry = RecognizerRegistry([SpacyRecognizer(supported_language=language)], supported_languages=[language])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
    wanted = entities.split(",")

    def find(texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        answers = []
        for text, (_, artifacts) in zip(texts, engine.process_batch(texts, language), strict=True):
            hits = analyzer.analyze(text, language, entities=wanted, nlp_artifacts=artifacts)
            answers.append(
                [
                    (hit.start, hit.end, TYPES.get(hit.entity_type, hit.entity_type.lower()))
                    for hit in sorted(hits, key=lambda hit: (hit.start, hit.end))
                    if hit.entity_type != "PERSON" or _is_name(text[hit.start : hit.end])
                ]
            )
        return answers

    return find


def _is_name(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and words[0][:1].isupper() and words[-1][:1].isupper() and _NAME.fullmatch(text) is not None
