"""Servers with a defect in an extension are caught by the rule that they break (test_defects.py has the others)."""

import pytest
from creation_defects import CREATION_DEFECTS
from extension_defects import EXTENSION_DEFECTS
from judging import check


@pytest.mark.parametrize("defect", [*CREATION_DEFECTS, *EXTENSION_DEFECTS], ids=str)
def test_defect_in_an_extension_is_caught(defect, verdicts):
    """The suite finds the rule broken that is broken, and no other one."""
    check(defect, verdicts[str(defect)].result())
