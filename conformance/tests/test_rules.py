"""The rules are all there, and each has a case or says why not."""

from itertools import groupby

from tus_conformance.rules import cases, registered, rules

EXTENSIONS = {
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "checksum-trailer",
    "termination",
    "concatenation",
    "concatenation-unfinished",
}


def test_every_rule_has_a_case_or_a_reason():
    """A rule that can be seen from outside has at least one case; for each other one it is said why it cannot."""
    without = [rule.id for rule in rules().values() if not cases()[rule.id] and not rule.untested]
    needless = [rule.id for rule in rules().values() if cases()[rule.id] and rule.untested]
    assert (without, needless) == ([], [])


def test_every_case_is_of_a_rule():
    """No case is about a rule that is not in the list, and no two cases have the same name."""
    found = registered()
    assert {case.rule for case in found} <= rules().keys()
    assert len({case.id for case in found}) == len(found)
    assert len(found) == sum(map(len, cases().values()))


def test_rules_are_in_order():
    """Rules of a section stand together, and what they need is an extension of the specification."""
    sections = [section for section, _ in groupby(rules().values(), key=lambda rule: rule.section)]
    assert len(sections) == len(set(sections))
    assert {rule.extension for rule in rules().values()} == EXTENSIONS | {None}


def test_levels_are_those_of_the_sentences():
    """The level of a rule is a word of its sentence; what the specification does not say is RECOMMENDED."""
    for rule in rules().values():
        words = {"MUST": ("MUST", "SHALL", "1 if upload size"), "SHOULD": ("SHOULD", "should"), "MAY": ("MAY",)}
        ours = rule.section in ("Recommended", "Clients")
        assert (rule.level == "RECOMMENDED") == ours, rule.id
        assert ours or any(word in rule.text for word in words[rule.level]), rule.id
