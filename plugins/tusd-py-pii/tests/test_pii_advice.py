"""Models: what they are shown, what becomes of what they say, and that they decide nothing."""

import gzip
import json
import re
import sys

import pytest
from tusd_py_pii.advice import sample
from tusd_py_pii.clusters import run_on
from tusd_py_pii.errors import RuleError
from tusd_py_pii.policy import settings_from
from tusd_py_pii.scan import FileSource, run_here
from tusd_py_pii.streams import Limits

NAME = "Margaret Thompson"
MODULE = """
import os, re
from tusd_py_pii.hooks import hookimpl

@hookimpl
def register_models(register):
    register("pairs", "pii_test_models:pairs")
    register("broken", "pii_test_models:broken")
    register("deadly", "pii_test_models:deadly")

def pairs(pattern="[A-Z][a-z]+ [A-Z][a-z]+"):
    def find(texts):
        return [[(*match.span(), "name") for match in re.finditer(pattern, text)] for text in texts]
    return find

def broken():
    def find(texts):
        raise ValueError(texts[0])
    return find

def deadly():
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Returns the report and what is said about a file of names, with a model of a module of one's own."""
    (tmp_path / "pii_test_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"we met {NAME} at bob@corp.io"}) + "\n" for _ in range(50)))

    def tell(**table):
        settings = settings_from({"recognizers": ["pii_test_models"], "model_cells": 20} | table)
        report = settings.examined(FileSource(str(path)), path.name, run_here)
        return report, *settings.judged(report)

    yield tell
    sys.modules.pop("pii_test_models", None)


def test_a_model_is_shown_a_sample_and_only_advises(told):
    """Its findings are told with the cells it saw, masked; even a policy of quarantine lets the file pass."""
    options = {"pattern": "[A-Z]\\w+ [A-Z]\\w+"}
    report, ok, reasons = told(model="pairs", model_options=options, policy={"name": "quarantine"})
    assert ok
    assert report.counts() == {"email": 50}
    assert report.advice.cells == 20
    [(column, found)] = report.advice.found["name"].items()
    assert (column, found.count, found.samples[0].masked) == ("text", 20, "******** ********")
    assert reasons == ["email: 50 (50 in text)", "name: 20 in 20 cells, thinks pairs"]
    assert NAME not in repr(report)
    assert settings_from({"policy": {"name": "ignore"}}).judged(report)[1] == reasons[:1]


@pytest.mark.parametrize(("model", "reason"), [("broken", "failed with ValueError"), ("deadly", "ended by SIGKILL")])
def test_a_model_that_fails_leaves_the_file_checked(told, model, reason):
    """An exception, with text of the file in it, or a dead process is told as what it is, without that text."""
    report, ok, reasons = told(model=model)
    assert ok
    assert report.counts() == {"email": 50}
    assert re.search(reason, reasons[-1])
    assert NAME not in repr(report)


def test_the_sample_is_from_all_over_the_file(tmp_path):
    """Cells come from several places of a file that can be cut, and from the front of one that cannot."""
    lines = "".join(f"line {number} with some words\n" for number in range(20_000)).encode()
    path = tmp_path / "a.txt"
    path.write_bytes(lines)
    cells = list(sample(FileSource(str(path)), "a.txt", Limits(), 30, task_bytes=10_000))
    pieces = [cell.place.offset // 10_000 for cell in cells]
    assert len(cells) == 30
    assert pieces == sorted(pieces)
    assert len(set(pieces)) == 8
    assert pieces[-1] > 0.8 * len(lines) / 10_000
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(lines))
    assert [cell.place.row for cell in sample(FileSource(str(packed)), "a.txt.gz", Limits(), 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"model": "nobody"}, "no model 'nobody'"),
        ({"model_cells": 0}, "model_cells"),
        ({"cluster": "slurm:host"}, "dask:ADDRESS or ray:ADDRESS"),
        ({"cluster": "ray:"}, "dask:ADDRESS or ray:ADDRESS"),
    ],
)
def test_models_and_clusters_that_are_not_there_are_named(table, message):
    """A model that nobody registers and a cluster of no known kind keep the server from starting."""
    with pytest.raises(RuleError, match=message):
        settings_from(table)


@pytest.mark.parametrize("cluster", ["dask:tcp://127.0.0.1:1", "ray:auto"])
def test_a_cluster_needs_its_library(cluster):
    """Without the library the extra is named; neither is installed here."""
    with pytest.raises(RuleError, match=rf"pip install 'tusd-py-pii\[{cluster[: cluster.find(':')]}\]'"):
        run_on(cluster, 1)
