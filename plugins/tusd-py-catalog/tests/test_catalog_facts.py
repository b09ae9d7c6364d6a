"""What is found in data: the figures are right, meanings are guessed, and nothing personal is stored."""

import gzip
import hashlib
import json
import random
import statistics

import duckdb
import msgspec
import pytest
from tusd_py_catalog import samples
from tusd_py_catalog.child import Request, describe
from tusd_py_catalog.facts import Facts
from tusd_py_catalog.semantics import is_personal, semantic_type

EMAIL, CARD = "bob.smith@corp.io", 4111111111111111
WORDS = ["the", "model", "returns", "a", "vector", "of", "values", "when", "it", "is", "given", "an", "input", "text"]


def request(path, **changes):
    limits = {"memory": 2**28, "threads": 2, "max_line": 2**22, "max_fields": 100, "sample_rows": 3}
    return Request(**({"path": str(path), "name": path.name, "media": ""} | limits | changes))


def facts(path, data=None, **changes):
    """Describe a file in this process."""
    if data is not None:
        path.write_bytes(data)
    return describe(request(path, **changes), lambda done: None)


def rows():
    chance = random.Random(7)
    return [
        {
            "id": f"{chance.getrandbits(128):032x}",
            "page": f"https://example.org/{number}",
            "lang": chance.choice(["en", "de", "fr"]),
            "created": f"2026-0{chance.randint(1, 9)}-11T10:00:0{chance.randint(0, 9)}Z",
            "score": chance.random(),
            "tokens": chance.randint(1, 5000) if number % 10 else None,
            "ok": number % 4 == 0,
            "text": " ".join(chance.choices(WORDS, k=12)),
        }
        for number in range(500)
    ]


ROWS = rows()
MEANINGS = {
    "id": "id",
    "page": "url",
    "lang": "language",
    "created": "timestamp",
    "score": "score",
    "ok": "flag",
    "text": "prose",
}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_the_figures_of_a_table_are_right_in_every_format(tmp_path, kind):
    """Rows, nulls, bounds, means, lengths and distinct values are those that Python counts; so is the hash."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    else:
        path.write_bytes(lines)
    if kind in ("csv", "tsv", "parquet"):
        source = tmp_path / "rows.source"
        path.rename(source)
        how = {"csv": "format csv", "tsv": "format csv, delim '\t'", "parquet": "format parquet"}[kind]
        with duckdb.connect() as connection:
            connection.execute(f"COPY (FROM read_json('{source}', format = 'nd')) TO '{path}' ({how})")
    found = facts(path)
    by_name = {field.name: field for field in found.fields}
    assert (found.rows, found.problems) == (500, ())
    assert found.format == kind.removesuffix(".gz")
    assert found.compression == ("gzip" if kind.endswith("gz") else None)
    assert (found.bytes, found.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert {name: field.semantic for name, field in by_name.items() if field.semantic} == MEANINGS

    tokens = [row["tokens"] for row in ROWS if row["tokens"] is not None]
    field = by_name["tokens"]
    assert (field.type, field.values, field.nulls) == ("integer", 450, 50)
    assert (field.min, field.max, field.mean) == (min(tokens), max(tokens), pytest.approx(statistics.mean(tokens)))
    assert field.distinct == pytest.approx(len({*tokens}), rel=0.2)
    assert by_name["score"].type == "number"
    assert by_name["score"].max == max(row["score"] for row in ROWS)
    texts = [row["text"] for row in ROWS]
    field = by_name["text"]
    assert (field.min_length, field.max_length) == (min(map(len, texts)), max(map(len, texts)))
    assert field.mean_length == pytest.approx(statistics.mean(map(len, texts)), rel=1e-5)
    assert field.tokens == round(sum(map(len, texts)) / 4)
    assert (by_name["lang"].distinct, by_name["ok"].type, by_name["created"].type) == (3, "boolean", "timestamp")
    assert by_name["created"].min.startswith("2026-01-11")


def test_objects_and_lists_are_looked_into(tmp_path):
    """Chats become `messages[].content`, with figures over all messages of all rows."""
    chats = [
        {"messages": [{"role": "user", "content": "x" * n}, {"role": "assistant", "content": None}], "at": {"n": n}}
        for n in range(1, 11)
    ]
    found = facts(tmp_path / "chats.jsonl", "".join(json.dumps(chat) + "\n" for chat in chats).encode())
    by_name = {field.name: field for field in found.fields}
    assert list(by_name) == ["messages", "messages[].role", "messages[].content", "at", "at.n"]
    assert (by_name["messages"].semantic, by_name["messages"].mean_length) == ("conversation", 2)
    assert by_name["messages[].role"].semantic == "role"
    content = by_name["messages[].content"]
    assert (content.values, content.nulls, content.min_length, content.max_length) == (10, 10, 1, 10)
    assert (by_name["at.n"].min, by_name["at.n"].max) == (1, 10)


TYPES = {
    "1::utinyint": "integer",
    "1::ubigint": "integer",
    "1.5::decimal(38, 5)": "number",
    "'nan'::double": "number",
    "'inf'::float": "number",
    "true": "boolean",
    "date '2026-01-01'": "date",
    "time '10:00:00'": "time",
    "timestamptz '2026-01-01 10:00Z'": "timestamp",
    "timestamp_ns '2026-01-01 10:00:00.123456789'": "timestamp",
    "'infinity'::timestamp": "timestamp",
    "'\\xAA'::blob": "bytes",
    "uuid()": "string",
    "'a'::enum('a', 'b')": "string",
    "map{'k': 1}": "map",
    "interval '3 days'": "interval",
    "null": "null",
    "[[1], [2]]": "list",
    "[1.0, 2.0]::float[2]": "list",
    "[]::int[]": "list",
    "[{'x': [1, 2], 'y': {'z': 'hello'}}]": "list",
    "{'x y': 1, 'z''q': {'w\"e': [uuid()]}}": "object",
    """'{"a": 1}'::json""": "json",
}


def test_every_type_of_parquet_is_described(tmp_path):
    """Whatever a column holds, and whatever it is called, there are facts and a sample that JSON can hold."""
    path = tmp_path / "types.parquet"
    names = [f"""c{number}"'; --.[]""" for number in range(len(TYPES))]
    columns = ", ".join(f"""{sql} AS "{name.replace('"', '""')}\"""" for sql, name in zip(TYPES, names, strict=True))
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT {columns} FROM range(3)) TO '{path}' (format parquet)")
    found = facts(path, redaction=samples.rules())
    assert (found.rows, found.problems, len(found.sample)) == (3, (), 3)
    kinds = {field.name: field.type for field in found.fields}
    assert [kinds[name] for name in names] == list(TYPES.values())
    assert msgspec.json.decode(msgspec.json.encode(found), type=Facts) == found


def test_samples_are_redacted_and_bounds_tell_nobodys_value(tmp_path):
    """With tusd-py-pii, rows are stored with labels; names that are values, and numbers of people, are nowhere."""
    row = {"mail": EMAIL, "paid_with": CARD, "first_name": "Bob", "note": f"paid by {CARD}", "n": [EMAIL], EMAIL: 1}
    data = "".join(json.dumps(row | {"birth_year": 1900 + n}) + "\n" for n in range(5)).encode()
    found = facts(tmp_path / "people.jsonl", data, redaction=samples.rules())
    assert found.sample[0] == {
        "mail": "[EMAIL]",
        "paid_with": None,
        "first_name": "[WITHHELD]",
        "note": "paid by [CARD]",
        "n": ["[EMAIL]"],
        "field6": 1,
        "birth_year": "[WITHHELD]",
    }
    for value in (EMAIL, str(CARD), "Bob", "1900", "1904"):
        assert value not in repr(found)
    by_name = {field.name: field for field in found.fields}
    assert [getattr(by_name["paid_with"], figure) for figure in ("min", "max", "mean")] == [4.1e15] * 3


HIDDEN = "Hidden"
PERSONAL = {
    "within an object": {"birth": {"place": HIDDEN}, "address": [{"line1": HIDDEN, "is_flat": True}]},
    "deep within objects": {"a": {"b": {"c": {"d": {"first_name": HIDDEN}}}}},
    "in a text of JSON": {"raw": json.dumps([{"first_name": HIDDEN}])},
    "a name beside an address": {"name": HIDDEN, "email": EMAIL},
    "where a text is cut": {
        "text": " ".join(f"{'x' * 44}{n:02}@e.io" for n in range(19)) + " " * 5 + HIDDEN + "y" * 50
    },
}


@pytest.mark.parametrize("row", PERSONAL.values(), ids=PERSONAL)
def test_what_is_within_a_field_of_a_person_is_withheld_too(tmp_path, row):
    """Wherever a field stands, what its name says about it holds for all that is in it."""
    found = facts(tmp_path / "a.jsonl", json.dumps(row).encode(), redaction=samples.rules())
    assert len(found.sample) == 1
    assert HIDDEN[:4] not in repr(found)


def test_no_place_and_no_birthday_is_told(tmp_path):
    """Of coordinates there is about a tenth of a degree, and of personal dates nothing."""
    row = {"lat": 48.2082123, "born": "1985-03-12", "local_number": 12345678, "seen": "2026-01-02"}
    found = facts(tmp_path / "a.jsonl", json.dumps(row).encode())
    bounds = {field.name: (field.min, field.max, field.mean) for field in found.fields}
    day = "2026-01-02"
    assert bounds == {
        "lat": (48.2,) * 3, "born": (None,) * 3, "local_number": (1.2e7,) * 3, "seen": (day, day, None)
    }  # fmt: skip


LATE = {
    "fraction.csv": (b"a\n" + b"1\n" * 30000 + b"1.5\n", ("number", 30001, 0, 1, 1.5)),
    "infinity.csv": (b"a\n" + b"1\n" * 30000 + b"inf\n", ("number", 30001, 0, 1, 1)),
    "hash.csv": (b"a,b\n" + b"1,2\n" * 9 + b"#3,4\n", ("string", 10, 0, None, None)),
    "fraction.jsonl": (b'{"a":1}\n' * 30000 + b'{"a":1.5}\n', ("number", 30001, 0, 1, 1.5)),
    "object.jsonl": (b'{"a":null}\n' * 30000 + b'{"a":{"b":1}}\n', ("object", 1, 30000, None, None)),
    "other.jsonl": (b'{"a":1}\n' * 30000 + b'{"a":"x"}\n', ("json", 30001, 0, None, None)),
}


def test_keys_that_are_values_do_not_become_fields(tmp_path):
    """Of objects with a key of their own in each row there is one map, and no type of a million fields."""
    data = b"".join(b'{"of":{"k%d":1}}\n' % number for number in range(30000))
    found = facts(tmp_path / "a.jsonl", data)
    assert [(field.name, field.type, field.values) for field in found.fields] == [("of", "map", 30000)]


@pytest.mark.parametrize("name", LATE)
def test_the_last_row_counts_like_the_first(tmp_path, name):
    """What comes late and is of another kind is neither rounded nor dropped without a word."""
    data, expected = LATE[name]
    field = facts(tmp_path / name, data).fields[0]
    assert (field.type, field.values, field.nulls, field.min, field.max) == expected


@pytest.mark.parametrize("place", ["*.jsonl", "[b]", "a?b.gz", "day=2026-01-01/rows", "it's"])
def test_a_path_is_a_path_and_no_pattern(tmp_path, place):
    """Whatever characters a path has, this one file is read and nothing beside it; no folder becomes a column."""
    for name, row in (("b", "other"), ("a-b.gz", "other"), ("other.jsonl", "other"), (place, "mine")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({row: 1}))
    found = facts(path, name="rows.jsonl", redaction=samples.rules())
    assert ([field.name for field in found.fields], found.sample) == (["mine"], ({"mine": 1},))


@pytest.mark.parametrize("row", [{"field2": 1, EMAIL: 2}, {"o": {"field2": 1, EMAIL: 2}}])
def test_what_stands_for_a_name_is_nobody_elses(tmp_path, row):
    """The label of a field whose name is a value is not the name of another one."""
    found = facts(tmp_path / "a.jsonl", json.dumps(row).encode(), redaction=samples.rules())
    [inner] = [row.get("o") or row for row in found.sample]
    assert inner == {"field2": 1, "field2_": 2}
    assert [(field.name.rpartition(".")[2], field.max) for field in found.fields][-2:] == [
        ("field2", 1),
        ("field2_", 2),
    ]


@pytest.mark.parametrize(
    ("name", "is_of_people"),
    [
        ("firstName", True), ("customer.birth.year", True), ("emailAddress", True), ("tel", True), ("user_name", True),
        ("id_card", True), ("DOB", True), ("card", True), ("syntax", False), ("gzip", False), ("discard", False),
        ("package_name", False), ("filename", False), ("image", False), ("language", False), ("tokens", False),
    ],
)  # fmt: skip
def test_names_tell_what_is_about_people(name, is_of_people):
    """A word in a field's name tells; a part of another word does not."""
    assert is_personal(name) is is_of_people


def test_without_redaction_no_row_is_stored(tmp_path):
    """Where tusd-py-pii is not installed there is no sample, and bounds and names are guarded all the same."""
    found = facts(tmp_path / "people.csv", f"{EMAIL},4155552671\nal@corp.io,4155552672\n".encode())
    assert found.sample == ()
    assert EMAIL not in repr(found)
    assert "4155552671" not in repr(found)


def test_the_same_bytes_give_the_same_facts(tmp_path):
    """Threads do not show in the facts: a job that runs twice stores the same."""
    data = "".join(json.dumps(row) + "\n" for row in ROWS * 20).encode()
    first = facts(tmp_path / "a.jsonl", data, redaction=samples.rules())
    assert facts(tmp_path / "a.jsonl", redaction=samples.rules()) == first


@pytest.mark.parametrize(
    ("data", "name", "format", "rows", "problem"),
    [
        (b'{"a":1}\nno\n{"a":2}\n', "a.jsonl", "jsonl", 3, "not all of it is JSON"),
        (b'{"a":"\xff"}\n{"a":"y"}\n', "a.jsonl", "jsonl", 2, "it is not UTF-8"),
        (b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}\n", "a.jsonl", "jsonl", None, "it is nested too deeply"),
        (b'{"a":"' + b"x" * 2**25 + b'"}\n', "a.jsonl", "jsonl", None, "a line is too long"),
        (b"a\n" + b"1\n" * 30000 + b"z\n", "a.csv", "csv", 30001, "its values change their type (line 30002)"),
        (b'[{"a":1},{"a":', "a.json", "json", None, "not all of it is JSON"),
        (b"a,b\n1,x\n2,y,z\n3,z\n", "a.csv", "csv", 2, "its rows do not fit one form of CSV"),
        (b"a,b\n" + b"1,2\n" * 100 + b"1,2,3\n", "a.csv", "csv", 100, "1 rows are left out"),
        (b"a,b\n1,x\n2,\xff\n", "a.csv", "csv", 1, "it is not UTF-8 (line 3)"),
        (b"a,b\n=cmd(),-1\n@x,+y\n", "a.csv", "csv", 2, "3 cells begin as formulas of spreadsheets do"),
        ("a,b\n1,2\n".encode("utf-16"), "a.csv", "csv", None, "it is UTF-16 or UTF-32; only UTF-8 is read"),
        (b"PAR1" + b"\0" * 60 + b"\xff\xff\xff\x7fPAR1", "a.parquet", "parquet", None, "the Parquet file is broken"),
        (b"hello", "a.parquet", "parquet", None, "it does not begin like Parquet"),
        (gzip.compress(bytes(range(256)) * 99)[:-9], "a.jsonl.gz", "jsonl", None, "not all of it is JSON"),
    ],
)
def test_what_is_broken_has_a_reason(tmp_path, data, name, format, rows, problem):
    """Broken or hostile data is described as far as it can be, and the reason quotes nothing of it."""
    found = facts(tmp_path / name, data)
    assert (found.format, found.rows) == (format, rows)
    assert problem in found.problems
    assert found.bytes == len(data)


@pytest.mark.parametrize(
    ("data", "name", "format", "rows"),
    [(b"", "a.csv", "empty", None), (b"\0\1", "a", "binary", None), (b"one\ntwo", "a.txt", "text", 2)],
)
def test_what_is_no_table_has_few_facts(tmp_path, data, name, format, rows):
    """Of texts and binaries there are size, hash and lines."""
    found = facts(tmp_path / name, data)
    assert (found.format, found.rows, found.fields, found.problems) == (format, rows, (), ())


def test_fields_beyond_the_limit_are_counted(tmp_path):
    """A table with too many columns is described in part, and says so."""
    found = facts(tmp_path / "a.jsonl", json.dumps({f"c{n}": n for n in range(150)}).encode())
    assert len(found.fields) == 100
    assert found.problems == ("of 150 fields only the first 100 are described",)


@pytest.mark.parametrize(
    ("name", "kind", "values", "distinct", "meaning"),
    [
        ("source", "string", ["def f(x):\n    return x + 1\n", "for i in range(9):\n    print(i)\n"], 1, "code"),
        ("text", "string", ["Das Wetter ist heute sehr schön.", "Wir gehen morgen alle nach Hause."], 1, "prose"),
        ("text", "string", ["今天的天气非常好我们一起去公园散步吧大家都很高兴"], 1, "prose"),
        ("split", "string", ["train", "test"] * 20, 0.01, "category"),
        ("sum", "string", ["d41d8cd98f00b204e9800998ecf8427e"], 1, "hash"),
        ("key", "string", ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"], 1, "id"),
        ("x", "string", ["1.5", "-2"], 1, "number"),
        ("day", "string", ["2026-01-31"], 1, "date"),
        ("kind", "string", ["image/png", "text/plain"], 1, "media_type"),
        ("file", "string", ["data/train/0001.json"], 1, "path"),
        ("client", "string", ["192.0.2.1", "2001:db8::1"], 1, "ip"),
        ("created_at", "integer", [1700000000, 1700000001], 1, "timestamp"),
        ("vector", "list", [[0.5] * 384] * 3, 1, "embedding"),
        ("lat", "number", [48.2], 1, "coordinate"),
        ("word", "string", ["ok"], 1, None),
        ("n", "integer", [3], 1, None),
    ],
)
def test_meanings_are_guessed(name, kind, values, distinct, meaning):
    """Values tell what a field means, and its name where they do not."""
    assert semantic_type(name, kind, values, distinct) == meaning
