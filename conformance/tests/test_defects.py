"""Every rule that a server can break has a server that breaks it, and no other rule is found broken there.

The servers with defects in extensions are in test_extension_defects.py.
"""

import pytest
from core_defects import CORE_DEFECTS
from creation_defects import CREATION_DEFECTS
from extension_defects import EXTENSION_DEFECTS
from judging import check
from recommended_defects import RECOMMENDED_DEFECTS
from tus_conformance.rules import rules

DEFECTS = [*CORE_DEFECTS, *CREATION_DEFECTS, *EXTENSION_DEFECTS, *RECOMMENDED_DEFECTS]

# Rules whose cases only tell what they see, for whatever a server does is allowed.
UNBREAKABLE = {
    "core.options.optional": "tells which of the headers that may be there are there",
    "interruptions.means": "tells how soon an upload goes on while a client is silent",
    "creation.location.form": "tells whether Location is absolute",
    "expiration.changes": "tells whether a PATCH puts the expiration off",
    # These start clients, which look at nothing that another rule is not about.
    "clients.tuspy": "what breaks it breaks a rule of another section",
    "clients.tus-js-client": "what breaks it breaks a rule of another section",
}


@pytest.mark.parametrize("defect", [*CORE_DEFECTS, *RECOMMENDED_DEFECTS], ids=str)
def test_defect_is_caught_by_the_rule_it_breaks(defect, verdicts):
    """The suite finds the rule broken that is broken, and no other one."""
    check(defect, verdicts[str(defect)].result())


def test_every_rule_can_fail():
    """For each rule with cases there is a defect, or it is said why no server can break it."""
    assert len(set(map(str, DEFECTS))) == len(DEFECTS)
    with_cases = {rule.id for rule in rules().values() if not rule.untested}
    assert {defect.rule for defect in DEFECTS} == with_cases - UNBREAKABLE.keys()
    assert UNBREAKABLE.keys() <= with_cases
