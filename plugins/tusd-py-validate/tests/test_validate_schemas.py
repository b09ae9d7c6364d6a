"""JSON Schema: the reference's verdict, for JSON Lines, CSV and Parquet; nothing is fetched, nothing hangs."""

import contextlib
import csv
import io
import json
import os
import time

import duckdb
import jsonschema
import orjson
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tusd_py_validate import schemas, sql, tables
from tusd_py_validate.checks import Checks
from tusd_py_validate.rows import Rows
from tusd_py_validate.settings import read

from tusd_py.config import ConfigError
from tusd_py.content import StoredFile
from tusd_py.stores.memory import MemoryContent


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory):
    """A file that the examples of a property write one after the other."""
    return tmp_path_factory.mktemp("rows") / "rows"


CHAT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "role"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "role": {"enum": ["user", "assistant"]},
        "text": {"type": "string", "maxLength": 10},
        "score": {"type": ["number", "null"], "maximum": 1},
        "day": {"type": "string", "format": "date"},
    },
    "additionalProperties": False,
}


@pytest.fixture
def folder(tmp_path):
    """A folder with one schema."""
    (tmp_path / "chat.json").write_text(json.dumps(CHAT))
    return tmp_path


def checks_for(folder, schema="chat.json", **more):
    return Checks(read({"schemas": str(folder), "rules": [{"match": "*", "schema": schema}], **more}))


def checked(checks, data, name):
    """The problems of some bytes under a name, as texts."""
    report = checks.whole(MemoryContent(data, "a"), {"filename": name})
    return [str(problem) for problem in report.problems]


def test_every_violation_has_its_place(folder):
    """Line, byte, path and reason, for each problem of each line; values are not told."""
    rows = [
        {"id": 1, "role": "user"},
        {"id": 0, "role": "user", "text": "x" * 11},
        {"role": "robot"},
        {"id": 2, "role": "user", "score": None, "day": "2026-02-30", "colour": "blue"},
        [],
    ]
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    second, third, fourth, fifth = (data.index(orjson.dumps(row)) for row in rows[1:])
    assert sorted(checked(checks_for(folder), data, "rows.jsonl")) == sorted(
        [
            f"schema: the value is less than the minimum of 1 (line 2, byte {second}, at /id)",
            f"schema: the value is longer than 10 characters (line 2, byte {second}, at /text)",
            f'schema: "id" is a required property (line 3, byte {third})',
            f'schema: the value is not one of "user" or "assistant" (line 3, byte {third}, at /role)',
            f"schema: Additional properties are not allowed ('colour' was unexpected) (line 4, byte {fourth})",
            f'schema: the value is not a "date" (line 4, byte {fourth}, at /day)',
            f'schema: the value is not of type "object" (line 5, byte {fifth})',
        ]
    )
    shown = checked(checks_for(folder, show_values=True), data, "rows.jsonl")
    assert "0 is less than the minimum of 1" in shown[0]


CSV = b"id,role,text,score,day\n1,user,hello,,\nx,user,hello,0.5,2026-01-31\n3,robot,,1.5,2026-1-1\n,user,,,\n"
WRONG = [
    'schema: the value is not of type "integer" (line 3, row 2, byte 38, at /id)',
    'schema: the value is not one of "user" or "assistant" (line 4, row 3, byte 66, at /role)',
    "schema: the value is greater than the maximum of 1 (line 4, row 3, byte 66, at /score)",
    'schema: the value is not a "date" (line 4, row 3, byte 66, at /day)',
    'schema: "id" is a required property (line 5, row 4, byte 88)',
]


def test_csv_is_compared_with_the_same_schema(folder):
    """Cells are what the schema says that they are; an empty one is null, or a property that is not there."""
    assert sorted(checked(checks_for(folder), CSV, "rows.csv")) == sorted(WRONG)
    path = folder / "rows.csv"
    path.write_bytes(CSV)
    report = checks_for(folder).whole(StoredFile.at(path), {"filename": "rows.csv"})
    assert sorted(map(str, report.problems)) == sorted(WRONG)
    assert report.checks == ("type", "structure", "schema")


def test_parquet_is_compared_with_the_same_schema(folder):
    """Columns keep their types, rows their numbers; nested columns are compared too."""
    schema = CHAT | {"properties": CHAT["properties"] | {"tags": {"type": "array", "items": {"maxLength": 2}}}}
    (folder / "chat.json").write_text(json.dumps(schema))
    table = pyarrow.table(
        {
            "id": [1, 2, 0, None],
            "role": ["user", "user", "user", "user"],
            "score": [None, 0.5, float("nan"), 2.0],
            "tags": [["a"], ["abc"], [], None],
        }
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    assert sorted(checked(checks_for(folder), buffer.getvalue(), "rows.parquet")) == [
        'schema: "id" is a required property (row 4)',
        "schema: the value is greater than the maximum of 1 (row 4, at /score)",
        "schema: the value is less than the minimum of 1 (row 3, at /id)",
        "schema: the value is longer than 2 characters (row 2, at /tags/0)",
        'schema: the value is not of types "null", "number" (row 3, at /score)',
    ]


def test_a_broken_parquet_file_is_a_problem(folder):
    """A file whose footer is right and whose pages are not is a failed check, and the process goes on."""
    buffer = io.BytesIO()
    table = pyarrow.table({"id": list(range(1, 5000)), "role": ["user"] * 4999})
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    data = bytearray(buffer.getvalue())
    data[4:400] = b"\xff" * 396
    [problem] = checked(checks_for(folder), bytes(data), "rows.parquet")
    assert problem == "structure: it cannot be read as a table"


def test_a_json_document_is_compared(folder):
    """A .json file is one value; what is no JSON has its place."""
    assert checked(checks_for(folder), b'{"id": 1,\n "role": "user"}', "one.json") == []
    assert "at /id" in checked(checks_for(folder), b'{"id": 0,\n "role": "user"}', "one.json")[0]
    assert "(line 1, byte 8)" in checked(checks_for(folder), b'{"id": 1,\n }', "one.json")[0]
    [problem] = checked(checks_for(folder, max_json=10), b'{"id": 1,\n "role": "user"}', "one.json")
    assert problem == "limit: a JSON document may have 10 bytes; use JSON Lines for more"


def test_the_schema_is_chosen_by_rule_or_metadata(folder):
    """A rule for the name comes first; without one the upload names its schema; one that is not there is refused."""
    (folder / "any.json").write_text("{}")
    checks = Checks(read({"schemas": str(folder), "rules": [{"match": "chat/*.jsonl", "schema": "chat.json"}]}))
    data = b'{"id": 0}\n{}\n'

    def problems(metadata):
        return checks.whole(MemoryContent(data, "a"), metadata).problems

    assert len(problems({"filename": "chat/a.jsonl", "schema": "any"})) == 4
    assert len(problems({"filename": "a.jsonl", "schema": "chat"})) == 4
    assert not problems({"filename": "a.jsonl", "schema": "any.json"})
    assert not problems({"filename": "a.jsonl"})
    [problem] = checks.claims({"filename": "a.jsonl", "schema": "other"}, 5)
    assert str(problem) == "schema: there is no schema other.json"
    for name in ("../secret", "/etc/passwd", "a/../../b", ".hidden", "x" * 5000, "a\0b"):
        [problem] = checks.claims({"filename": "a.jsonl", "schema": name}, 5)
        assert "is no name of a schema" in problem.reason or "there is no schema" in problem.reason


def test_a_schema_can_be_required(folder):
    """What could have a schema and has none is refused then; a picture could not."""
    checks = Checks(read({"schemas": str(folder), "schema_required": True}))
    assert checked(checks, b"a,b\n1,2\n", "a.csv") == ["schema: there is no schema for it, and one is required"]
    assert checked(checks, b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "a.png") == []
    [problem] = checked(checks_for(folder), b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "a.png")
    assert problem == "schema: PNG cannot be compared with a schema"


def test_a_schema_that_changes_is_loaded_again(folder):
    """An operator edits a schema without a restart."""
    checks = checks_for(folder)
    assert checked(checks, b'{"id": 0, "role": "user"}\n', "a.jsonl") != []
    path = folder / "chat.json"
    path.write_text("true")
    os.utime(path, ns=(1, 1))
    assert checked(checks, b'{"id": 0, "role": "user"}\n', "a.jsonl") == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "http://example.com/a.json"}, "it refers to 'http://example.com/a.json'; only schemas in the same"),
        ({"properties": {"a": {"$ref": "https://127.0.0.1/a"}}}, "it refers to 'https://127.0.0.1/a'"),
        ({"$ref": "file:///etc/passwd"}, "it refers to 'file:///etc/passwd'"),
        ({"$ref": "../../secret.json"}, "there is no schema secret.json"),
        ({"$ref": "other.json"}, "there is no schema other.json"),
        ({"$dynamicRef": "http://example.com/#x"}, "it refers to 'http://example.com/'"),
        ({"$id": "http://example.com/s/", "$ref": "x.json"}, "it refers to 'http://example.com/s/x.json'"),
        ({"$schema": "http://example.com/meta"}, "example.com/meta"),
        ({"type": "strin"}, "cannot be used"),
        ({"pattern": "(a"}, "cannot be used"),
        ({"pattern": "(\\w{1000}){1000}"}, "cannot be used"),
        ([1], "cannot be used"),
        ("{", "is no JSON"),
    ],
)
def test_schemas_that_cannot_be_used_keep_the_server_from_starting(folder, schema, said):
    """References out of the folder are named before anything is looked for, and so is what is no schema."""
    (folder / "bad.json").write_text(schema if isinstance(schema, str) else json.dumps(schema))
    with pytest.raises(ConfigError, match=r"\[plugins.validate\]: .*") as refused:
        checks_for(folder, "bad.json")
    assert said in str(refused.value)


def test_references_within_the_folder_work(folder):
    """To a part of the same file, to another file, to an identifier of its own, and round in a circle."""
    (folder / "parts").mkdir()
    (folder / "parts/id.json").write_text(json.dumps({"$defs": {"id": {"type": "integer"}}, "$ref": "../all.json"}))
    schema = {
        "properties": {
            "id": {"$ref": "parts/id.json#/$defs/id"},
            "next": {"$ref": "#"},
            "name": {"$ref": "urn:name"},
            "value": {"const": {"$ref": "http://example.com/is-a-value"}},
        },
        "$defs": {"name": {"$id": "urn:name", "type": "string"}},
    }
    (folder / "all.json").write_text(json.dumps(schema))
    data = b'{"id": 1, "next": {"id": "x", "name": 1}}\n{}\n'
    assert [problem.split("at ")[1] for problem in checked(checks_for(folder, "all.json"), data, "a.jsonl")] == [
        "/next/id)",
        "/next/name)",
    ]


@pytest.mark.parametrize("pattern", ["^(a|a)*$", "^(a+)+$", r"^(a|aa)+(?=c)$", r"^(a+)+\1$", "(.*)*x"])
def test_patterns_that_backtrack_end(folder, pattern):
    """A pattern and a text made for each other are a verdict or a problem, soon."""
    (folder / "evil.json").write_text(json.dumps({"properties": {"a": {"type": "string", "pattern": pattern}}}))
    checks, row = checks_for(folder, "evil.json"), orjson.dumps({"a": "a" * 50_000 + "b"}) + b"\n"
    began = time.perf_counter()
    problems = checked(checks, row * 20, "rows.jsonl")
    assert len(problems) == 20
    assert time.perf_counter() - began < 5


def test_deep_values_and_schemas_end(folder):
    """Values as deep as JSON is read, under a schema that follows them down, are a verdict."""
    (folder / "deep.json").write_text(json.dumps({"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}))
    checks = checks_for(folder, "deep.json")
    for depth in (100, 250, 1000, 1020, 5000, 100_000):
        line = b'{"a":' * depth + b"{}" + b"}" * depth + b"\n"
        problems = checked(checks, line + b"{}\n", "rows.jsonl")
        assert bool(problems) is (depth > 1020), depth


@pytest.mark.parametrize("depth", [100, 200, 500, 900])
def test_a_schema_that_is_deep_is_used_or_refused(folder, depth):
    """Hundreds of levels are no trouble, or are named before the server starts."""
    nested = '{"properties": {"a": ' * depth + '{"const": 1}' + "}}" * depth
    (folder / "nested.json").write_text(nested)
    with (
        contextlib.nullcontext()
        if depth < 120
        else pytest.raises(ConfigError, match=r"nested.json (cannot be used|is no JSON)")
    ):
        assert checked(checks_for(folder, "nested.json"), b'{"a": {"a": 1}}\n{}\n', "rows.jsonl") == []


def test_statistics_that_lie_hide_nothing(folder):
    """A footer that says a column's least value is 5 does not keep the row with another one from being read."""
    buffer = io.BytesIO()
    table = pyarrow.table({"id": [-7654321, 5, 6], "role": ["user"] * 3})
    pyarrow.parquet.write_table(table, buffer, use_dictionary=False, compression="none")
    data = buffer.getvalue()
    value, other = (number.to_bytes(8, "little", signed=True) for number in (-7654321, 5))
    footer = data.rindex(b"PAR1") - 4 - int.from_bytes(data[-8:-4], "little")
    forged = data[:footer] + data[footer:].replace(value, other)
    assert forged != data
    [problem] = checked(checks_for(folder), forged, "rows.parquet")
    assert problem == "schema: the value is less than the minimum of 1 (row 1, at /id)"


# Against the reference

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5, width=16) | st.text("ab1", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPE_NAMES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab1", max_size=4)


def keywords(inner):
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPE_NAMES | st.lists(TYPE_NAMES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(SCALARS, min_size=1, max_size=4, unique_by=repr),
            "const": SCALARS,
            "minimum": st.integers(-5, 5),
            "exclusiveMaximum": st.integers(-5, 5),
            "multipleOf": st.integers(1, 4),
            "minLength": st.integers(0, 4),
            "maxLength": st.integers(0, 4),
            "pattern": st.sampled_from(["^a", "b$", "^[ab]+$", "1", r"^\d*$", "a|b", "^(?:ab)?$"]),
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": inner | st.booleans(),
            "items": inner,
            "maxItems": st.integers(0, 3),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
        },
    )


SCHEMAS = st.recursive(st.just({}) | st.booleans(), keywords, max_leaves=6)


@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=6))
def test_verdicts_are_those_of_the_reference(rows_path, schema, values):
    """jsonschema-rs, which is fast, and jsonschema, which is the reference, say the same of every value."""
    folder = rows_path.parent
    (folder / "s.json").write_text(json.dumps(schema))
    checks = checks_for(folder, "s.json", max_problems=10_000)
    data = b"".join(orjson.dumps(value) + b"\n" for value in values)
    report = checks.whole(MemoryContent(data, "a"), {"filename": "rows.jsonl"})
    reference = jsonschema.Draft202012Validator(schema)
    wrong = [line for line, value in enumerate(values, 1) if not reference.is_valid(value)]
    assert sorted({problem.line for problem in report.problems}) == wrong


FLAT = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("object"),
        "properties": st.dictionaries(st.sampled_from("abc"), keywords(st.just({})), max_size=3),
        "required": st.lists(st.sampled_from("abcd"), max_size=2, unique=True),
        "additionalProperties": st.booleans() | st.just({"type": "string"}),
    },
)
CELLS = st.sampled_from(
    ["", "a", "ab", "b1", "1", "-2", "2.5", "007", "1e3", "true", "FALSE", "x\ny", "ä", '"', "99999999999999999999"]
)


def compared(connection, document, columns, source, *, is_csv):
    """The numbers of the rows that pass the sieve, and of those that the reference finds wrong."""
    condition = sql.suspicious(document, columns, is_csv=is_csv)
    names = ", ".join(column for column, _ in columns.values())
    every = connection.execute(f"SELECT ({condition}) IS TRUE, {names} FROM {source}").fetchall()
    reference = jsonschema.Draft202012Validator(document)
    types = {name: sql.json_types(tables._property(document, name), document) for name in columns}
    kept, wrong = set(), set()
    for number, (is_kept, *cells) in enumerate(every):
        value = tables.as_object(dict(zip(columns, cells, strict=True)), types, is_csv=is_csv)
        if is_kept:
            kept.add(number)
        if not reference.is_valid(value):
            wrong.add(number)
    return kept, wrong


@given(FLAT, st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=12))
def test_no_wrong_row_of_csv_passes_the_sieve(connection, rows_path, schema, rows):
    """Whatever the schema, DuckDB's condition keeps every row that does not fit."""
    path = rows_path
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    task = tables.Table(path=str(path), folder="", schema="", header=["a", "b", "c"])
    columns = {name: (f"c{number}", "VARCHAR") for number, name in enumerate("abc")}
    kept, wrong = compared(connection, schema, columns, tables._source(task), is_csv=True)
    assert wrong <= kept


@given(
    FLAT,
    st.lists(
        st.tuples(
            st.none() | st.integers(-5, 2**60), st.none() | st.floats(), st.none() | st.text("ab1\n", max_size=4)
        ),
        max_size=12,
    ),
)
def test_no_wrong_row_of_parquet_passes_the_sieve(connection, rows_path, schema, rows):
    """The same for columns that have types."""
    path = rows_path
    kinds = [pyarrow.int64(), pyarrow.float64(), pyarrow.string()]
    cells = zip(*rows, strict=True) if rows else [[], [], []]
    arrays = [pyarrow.array(list(column), kind) for column, kind in zip(cells, kinds, strict=True)]
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=["a", "b", "c"]), path)
    columns = {"a": ("a", "BIGINT"), "b": ("b", "DOUBLE"), "c": ("c", "VARCHAR")}
    kept, wrong = compared(connection, schema, columns, f"read_parquet('{path}')", is_csv=False)
    assert wrong <= kept


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12))
def test_rows_have_the_same_numbers_for_both_readers(connection, rows_path, rows):
    """The row that DuckDB finds wrong is the one whose line is told: both read the same cells from the same file."""

    assume(all(any(row) for row in rows))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("a", "b"), *rows])
    path = rows_path
    path.write_text(text.getvalue().replace("\n", "\n\n") if "x" not in text.getvalue() else text.getvalue())
    task = tables.Table(path=str(path), folder="", schema="", header=["a", "b"])
    found = connection.execute(f"SELECT * FROM {tables._source(task)}").fetchall()
    own = [tuple(cell or None for cell in row.cells) for row in Rows([path.read_bytes()], ",", 10**6)]
    assert own[1:] == found


@pytest.mark.parametrize("place", ["[b]", "day=2026-01-01/rows"])
def test_a_path_is_a_path_and_no_pattern(connection, tmp_path, place):
    """Whatever characters a path has, this one file is compared and nothing beside it; no folder becomes a column."""
    (tmp_path / "rows.json").write_text('{"properties": {"mine": {}}, "additionalProperties": false}')
    for name, column in (("b", "other"), (place, "mine")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        connection.execute(f"COPY (SELECT 1 AS {column}) TO '{path}' (format parquet)")
    task = tables.Table(path=str(path), folder=str(tmp_path), schema="rows.json")
    assert tables.check(task, lambda share: None) == []


def test_the_sieve_lets_few_right_rows_through(connection):
    """For the keywords that it knows, DuckDB alone decides: a right row never reaches Python."""
    columns = {name: (f"c{number}", "VARCHAR") for number, name in enumerate(CHAT["properties"])}
    condition = sql.suspicious(CHAT, columns, is_csv=True)
    kept = connection.execute(
        f"SELECT count(*) FROM (VALUES ('1', 'user', 'hi', '0.5', '2026-01-31'), ('2', 'user', NULL, NULL, NULL),"
        f" ('0', 'user', NULL, NULL, NULL)) AS t(c0, c1, c2, c3, c4) WHERE {condition}"
    ).fetchone()
    assert kept == (1,)


def test_schema_names_are_checked(tmp_path):
    """A folder that is not there, and rules without one, are said at the start."""
    with pytest.raises(ConfigError, match="is not a folder"):
        read({"schemas": str(tmp_path / "missing")})
    with pytest.raises(ConfigError, match="need `schemas`"):
        read({"rules": [{"match": "*", "schema": "a.json"}]})
    with pytest.raises(schemas.SchemaError, match="there is no schema"):
        schemas.load(tmp_path, "missing.json")
