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
from tusd_py_catalog.semantics import semantic_type

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
    assert by_name["paid_with"].min == 4.1e15


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
        (b'{"a":1}\n' * 30000 + b'{"a":"z"}\n', "a.jsonl", "jsonl", 30001, "its values change their type (line 30001)"),
        (b'[{"a":1},{"a":', "a.json", "json", None, "not all of it is JSON"),
        (b"a,b\n1,x\n2,y,z\n3,z\n", "a.csv", "csv", 2, "its rows do not fit one form of CSV"),
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
