"""Lets the tests import what stands beside them, and judges servers with defects."""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

DEFECTS_AT_ONCE = 4


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[dict[object, Future]]:
    """Judge the defects of all tests of a module that are going to be run, some at a time."""
    from judging import judged

    items = (item for item in request.session.items if item.module is request.module and hasattr(item, "callspec"))
    with ThreadPoolExecutor(DEFECTS_AT_ONCE) as pool:
        yield {str(defect): pool.submit(judged, defect) for item in items for defect in item.callspec.params.values()}
