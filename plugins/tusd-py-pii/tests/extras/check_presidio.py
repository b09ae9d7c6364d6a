"""Names by presidio with a real spaCy model. Not part of the suite: run scripts/pii-extras, which installs both."""

import importlib.util
import json
import os
import random
from pathlib import Path

import pytest
from faker import Faker
from tusd_py_pii.advice import made
from tusd_py_pii.hooks import PRESIDIO
from tusd_py_pii.policy import settings_from
from tusd_py_pii.scan import FileSource, run_here

MODEL = os.environ["TUSD_PY_PII_SPACY"]
CARRIERS = (
    "Yesterday {} sent us the signed contract.", "Please ask {} about the invoice.", "The report was written by {}.",
    "I met {} and we talked about the release.", "{} lives in Boston and works for a bank.",
)  # fmt: skip
NOTHING = (
    "The function returns a list of tensors.", "Install PyTorch and run the Docker image.", "See Figure 3 for details.",
    "We trained BERT on Common Crawl for three days.", "The United Nations met in New York on Monday.",
    "Set Content-Type to application/json.", "Apache Spark reads Parquet from Amazon S3.",
)  # fmt: skip


def labelled(count, seed=3):
    """Return sentences, half with a name from Faker, and the name."""
    chance, fake = random.Random(seed), Faker("en_US")
    fake.seed_instance(seed)
    for number in range(count):
        name = f"{fake.first_name()} {fake.last_name()}" if number % 2 else ""
        yield (chance.choice(CARRIERS).format(name), name) if name else (chance.choice(NOTHING), "")


@pytest.fixture(scope="module")
def score():
    """Recall and precision of names."""
    examples = list(labelled(600))
    there = right = wrong = 0
    for (text, name), spans in zip(
        examples, made(PRESIDIO, {"spacy": MODEL})([text for text, _ in examples]), strict=True
    ):
        values = [text[start:stop] for start, stop, kind in spans if kind == "name"]
        there += bool(name)
        hit = any(name and (name in value or value in name) for value in values)
        right += hit
        wrong += len(values) - hit
    return right / there, right / (right + wrong)


def test_names_are_found_as_well_as_the_document_says(score):
    """Recall and precision of names have not fallen below the document's by more than a little."""
    recall, precision = score
    if figures := os.environ.get("TUSD_PY_PII_FIGURES"):
        with Path(figures).open("a") as out:
            out.write(f"| name, by presidio with {MODEL} | 300 | {recall:.3f} | {precision:.3f} |\n")
    assert recall > 0.8
    assert precision > 0.8


def test_a_file_gets_advice_and_passes(tmp_path):
    """Names in a sample are told, masked, with the cells that were looked at; they quarantine nothing."""
    path = tmp_path / "a.jsonl"
    rows = [{"text": text} for text, _ in labelled(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = settings_from(
        {"model": "presidio", "model_options": {"spacy": MODEL}, "model_cells": 100, "policy": {"name": "quarantine"}}
    )
    report = settings.examined(FileSource(str(path)), path.name, run_here)
    ok, reasons = settings.judged(report)
    assert ok
    assert report.advice.failed == ""
    assert report.advice.cells == 100
    assert 35 < report.advice.found["name"]["text"].count < 60
    assert any("name: " in reason and "100 cells, thinks presidio" in reason for reason in reasons)
    for _, name in labelled(200):
        assert not name or name not in repr(report)


def test_a_missing_model_is_named(tmp_path):
    """Without the spaCy model nothing is downloaded: the advice says what is missing, and the file is still checked."""
    path = tmp_path / "a.txt"
    path.write_text("write to bob@corp.io and to nobody else\n")
    settings = settings_from({"model": "presidio", "model_options": {"spacy": "no_such_model"}})
    report = settings.examined(FileSource(str(path)), path.name, run_here)
    assert report.counts() == {"email": 1}
    assert report.advice.failed == "there is no spaCy model 'no_such_model'"
    assert importlib.util.find_spec("no_such_model") is None
