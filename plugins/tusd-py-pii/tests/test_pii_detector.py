"""What is found, what is not, and that both engines agree."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tusd_py_pii.detector import Detector
from tusd_py_pii.engines import HyperscanEngine, ReEngine, engine_for
from tusd_py_pii.errors import RuleError
from tusd_py_pii.gates import GATES
from tusd_py_pii.rules import Rule, built_in, chosen, compiled, judge, load_pack
from tusd_py_pii.text import _table, encode, fold, irregular, places

RULES = built_in()
WITH_RE = Detector(RULES, "re")
WITH_HYPERSCAN = Detector(RULES, "hyperscan")

FOUND = [
    ("email", "mail bob.smith+x@corp-mail.co.uk.", "bob.smith+x@corp-mail.co.uk"),
    ("phone", "ring (415) 555-2671 now", "(415) 555-2671"),
    ("phone", "+49 30 901820", "+49 30 901820"),
    ("phone", "tel: 020 7946 0958", "020 7946 0958"),
    ("phone", "01 23 45 67 89", "01 23 45 67 89"),
    ("card", "4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("card", "paid with 5555555555554444, thanks", "5555555555554444"),
    ("card", "5555555555554444.0", "5555555555554444.0"),
    ("card", "3782-822463-10005", "3782-822463-10005"),
    ("card", "4111 1111 1111 1111 5555 5555 5555 4444 1", "4111 1111 1111 1111 5555 5555 5555 4444"),
    ("card", "ext-2671 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("card", "7 4111-1111-1111-1111", "4111-1111-1111-1111"),
    ("iban", "to DE89 3704 0044 0532 0130 00 by Friday", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB29NWBK60161331926819", "GB29NWBK60161331926819"),
    ("ssn", "(536-90-4399)", "536-90-4399"),
    ("ssn", "her social security number is 536904399", "536904399"),
    ("ip", "from 8.8.4.4: refused", "8.8.4.4"),
    ("ip", "2001:4860:4860::8888", "2001:4860:4860::8888"),
    ("address", "at 221 Baker Street.", "221 Baker Street."),
    ("address", "in der Königstraße 5a", "Königstraße 5a"),
    ("address", "12 rue de la Paix", "12 rue de la Paix"),
    ("address", "Via Garibaldi, 12", "Via Garibaldi, 12"),
    ("national_id", "12345678Z", "12345678Z"),
    ("national_id", "RSSMRA85T10A562S", "RSSMRA85T10A562S"),
    ("national_id", "111.444.777-35", "111.444.777-35"),
    ("national_id", "nhs no 943 476 5919", "943 476 5919"),
    ("national_id", "811228-9874", "811228-9874"),
    ("national_id", "131052-308T", "131052-308T"),
    ("national_id", "11010519491231002X", "11010519491231002X"),
    ("national_id", "Steuer-ID 86 095 742 719", "86 095 742 719"),
    ("national_id", "AB 12 34 56 C", "AB 12 34 56 C"),
    ("credential", "AKIAIOSFODNN7EXAMPL2", "AKIAIOSFODNN7EXAMPL2"),
    ("credential", "aws_secret_access_key = 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",
     "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzAMPLEKEY"),
    ("credential", 'password: "hunter2Xk9!q"', 'password: "hunter2Xk9!q'),
    ("credential", "postgres://me:s3cr3tpw@db.example.com/x", "postgres://me:s3cr3tpw@d"),
]  # fmt: skip
NOT_FOUND = [
    "4111 1111 1111 1111 0000 0000 0000 0001", "1234 4111 1111 1111 1111", "1234-4111-1111-1111-1111",
    "0.4929918312264352", "4111 1111 1111 1112", "id 4111111111111111", "version 8.8.4.4", "10.1.2.3",
    "::1", "12:34:56",
    "std::vector<int>", "icon@2x.png", "@pytest.fixture", "git@github.com:org/repo.git", "666-12-3456", "000-12-3456",
    "SKU 536-90-4399", "550e8400-e29b-41d4-a716-446655440000", "d41d8cd98f00b204e9800998ecf8427e",
    "2024-05-12T10:11:12Z",
    "5555555555554444.05", "5555555555554444.0.1",
    "1716212345678", "978-3-16-148410-0", "DE00 3704 0044 0532 0130 00", "536904399", "In 2024 The Park",
    "password = os.environ['PASSWORD1']", "12345678A", "1,234,567.89", "sk-learn-contrib-is-a-package",
]  # fmt: skip


def cells(*texts):
    return b"\0" + b"\0".join(encode(fold(text)) for text in texts) + b"\0"


def found(detector, data, column=lambda _: ""):
    return [(detector.rules[hit.rule].type, data[hit.start : hit.stop].decode()) for hit in detector.hits(data, column)]


@pytest.mark.parametrize("detector", [WITH_RE, WITH_HYPERSCAN], ids=["re", "hyperscan"])
@pytest.mark.parametrize(("kind", "text", "value"), FOUND, ids=[text for _, text, _ in FOUND])
def test_values_are_found(detector, kind, text, value):
    """Each value is found whole, under its type, and nothing else is."""
    assert found(detector, cells(text)) == [(kind, value)]


@pytest.mark.parametrize("detector", [WITH_RE, WITH_HYPERSCAN], ids=["re", "hyperscan"])
@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_a_value_is_not_found(detector, text):
    """Wrong checksums, ids, versions, code and numbers are left alone."""
    assert found(detector, cells(text)) == []


def test_every_rule_has_an_example():
    """Each national id's and credential's rule finds something that its own pattern describes."""
    kinds = {rule.type for rule in RULES}
    assert kinds == {"email", "phone", "card", "iban", "ssn", "ip", "address", "national_id", "credential"}
    assert {kind for kind, _, _ in FOUND} == kinds


def test_context_can_be_the_name_of_the_column():
    """A number that needs a word near it is found if the column's name is that word."""
    data = cells("536904399")
    assert found(WITH_RE, data, lambda _: "person.socialSecurity_no") == [("ssn", "536904399")]
    assert found(WITH_RE, data, lambda _: "count") == []
    data = cells("4111111111111111")
    assert found(WITH_RE, data, lambda _: "orderId") == []


@pytest.mark.parametrize(
    "text",
    [
        "\uff14\uff11\uff11\uff11 1111 \uff11111 1111",
        "4111\u00a01111\u20111111\u20111111",
        "41\u200b11 1111 1111 11\u00ad11",
    ],
)
def test_unicode_does_not_hide_a_value(text):
    """Full-width digits, odd spaces and dashes, and characters without width do not hide a number."""
    [(kind, _)] = found(WITH_RE, cells(text))
    assert kind == "card"


def test_text_that_folding_changes_is_recognized_as_irregular():
    """The readers decode every line that has a character which folding changes."""
    for code, replacement in _table().items():
        assert irregular().search(chr(code).encode()), (hex(code), replacement)


@given(st.text(max_size=30))
def test_places_tell_where_each_character_went(text):
    """The places of the characters add up to the folded text, piece by piece."""
    folded, at = encode(fold(text)), places(text)
    for index, char in enumerate(text):
        assert folded[at[index] : at[index + 1]] == encode(fold(char))
    assert at[-1] == len(folded)


PIECES = st.sampled_from(
    [value for _, text, value in FOUND] + [text for _, text, _ in FOUND] + NOT_FOUND
    + [" ", "-", ".", ",", ": ", "\n", "@", "+1 ", "(", ")", "0", "7", "00", "x", "é", "电话"]
    + ["Street", "DE", "AB", "tel ", "/"]
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), max_size=4))
def test_both_engines_find_the_same(texts):
    """Whatever is glued together, `re` and Hyperscan find exactly the same."""
    data = cells(*texts)
    assert WITH_RE.hits(data) == WITH_HYPERSCAN.hits(data)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=2, max_size=6))
def test_cells_do_not_touch_each_other(texts):
    """What is found in a cell does not depend on its neighbours."""
    alone = [hit for text in texts for hit in found(WITH_RE, cells(text))]
    assert found(WITH_RE, cells(*texts)) == alone


def test_triggers_with_gates_by_shape_take_digits_alike():
    """A trigger that is looked for in shapes has to find the shape of whatever it finds."""
    shapes = bytes.maketrans(b"123456789", b"0" * 9)
    for rule in RULES:
        if rule.gate and GATES[rule.gate].by_shape:
            trigger = compiled(rule.trigger)
            for _, text, _ in FOUND:
                data = cells(text)
                if trigger.search(data):
                    assert trigger.search(data.translate(shapes)), (rule.name, text)


def test_a_long_run_of_digits_takes_no_long_time():
    """A megabyte of one digit is looked at in linear time."""
    assert found(WITH_RE, b"\0" + b"7" * 300_000 + b"\0") == []
    assert found(WITH_HYPERSCAN, b"\0" + b"7" * 300_000 + b"\0") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "("}, "no pattern"),
        ({"pattern": "(a+)+b"}, "for ever"),
        ({"pattern": "(?:(?:x|y)*z?)*"}, "nothing at all"),
        ({"pattern": "((?:x|y)*z)*q"}, "for ever"),
        ({"pattern": "a*"}, "nothing at all"),
        ({"pattern": "x", "check": "nonsense"}, "no check"),
        ({"pattern": "x", "check": "os:nonsense"}, "no check"),
        ({"pattern": "x", "needs_context": True}, "context"),
        ({"pattern": "x" * 5000}, "longer"),
        ({"pattern": "x", "max_length": 0}, "max_length"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(changes, message):
    """A rule that is malformed, endless or unknown is named, with the reason."""
    with pytest.raises(RuleError, match=message) as refused:
        judge(Rule(name="mine", type="mine", **changes))
    assert "mine" in str(refused.value)


def test_a_pack_adds_and_replaces_rules(tmp_path):
    """A TOML file adds a rule of its own, which both engines find, and replaces one of the same name."""
    pack = tmp_path / "pack.toml"
    pack.write_text(
        "[[rule]]\nname = 'badge'\ntype = 'badge'\npattern = '(?<![A-Z])B-[0-9]{6}(?![0-9])'\n"
        "[[rule]]\nname = 'email'\ntype = 'email'\npattern = 'nobody'\n"
    )
    rules = chosen([*RULES, *load_pack(pack)], ["phone"])
    for engine in ("re", "hyperscan"):
        assert found(Detector(rules, engine), cells("B-123456 AB-123456 bob@corp.io")) == [("badge", "B-123456")]
    with pytest.raises(RuleError, match="no rule or type 'emial'"):
        chosen(RULES, ["emial"])


@pytest.mark.parametrize(
    "text", ["[[rule]]\nname = 'x'", "rule = 3", "[[rule", "[[rule]]\nname='x'\ntype='x'\npattern='x'\ntypo=1"]
)
def test_a_broken_pack_is_named(tmp_path, text):
    """What is wrong with a pack is said with its name."""
    pack = tmp_path / "pack.toml"
    pack.write_text(text)
    with pytest.raises(RuleError, match=r"pack\.toml"):
        load_pack(pack)
    with pytest.raises(RuleError, match="cannot be read"):
        load_pack(tmp_path / "none.toml")


def test_auto_takes_hyperscan_if_it_is_there():
    """Without a choice the faster engine is taken; an unknown gate is refused by the other."""
    assert isinstance(engine_for(RULES), HyperscanEngine)
    assert isinstance(engine_for(RULES, "re"), ReEngine)
    with pytest.raises(RuleError, match="no gate 'moon'"):
        ReEngine([Rule(name="x", type="x", pattern="x", gate="moon")])


def test_engines_agree_on_random_bytes():
    """Noise of digits and signs, by the hundred kilobytes, is the same to both engines."""
    chance = random.Random(3)
    alphabet = "0123456789" * 3 + " -./()+:@AbZ,\0"
    data = ("\0" + "".join(chance.choices(alphabet, k=200_000)) + "\0").encode()
    assert WITH_RE.hits(data) == WITH_HYPERSCAN.hits(data)
    assert re.search(rb"\0[^\0]+\0", data)
