"""Files of every format: what is found, where, and that cutting a file changes nothing."""

import csv
import gzip
import io
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tusd_py_pii.report import MAX_COLUMNS, OTHER_COLUMNS, Found, Report, Sample, bounded
from tusd_py_pii.rules import built_in
from tusd_py_pii.scan import FileSource, Scan, Source, scan_file
from tusd_py_pii.streams import BLOCK
from tusd_py_pii.workers import in_processes

SCAN = Scan(rules=tuple(built_in()), salt=b"salt")
PLAIN_SCAN = msgspec.structs.replace(SCAN, engine="re")
EMAIL, CARD, PHONE, SSN = "bob.smith@corp.io", "4111 1111 1111 1111", "415-555-2671", "536-90-4399"
SECRETS = (EMAIL, CARD, PHONE, SSN, "AKIAIOSFODNN7EXAMPL2", "DE89370400440532013000", "221 Baker Street", "8.8.4.4")


class Held(msgspec.Struct, frozen=True):
    """Bytes in memory as a source."""

    data: bytes

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.data)


def where(report: Report, kind: str) -> dict[str, list[tuple[int, int]]]:
    return {
        column: [(sample.row, sample.offset) for sample in found.samples]
        for column, found in report.found.get(kind, {}).items()
    }


def scanned(data: bytes, name: str = "", scan: Scan = SCAN, **changes: int) -> Report:
    source: Source = Held(data)
    return scan_file(source, scan, name=name, **changes)


def test_json_lines_are_attributed_to_path_row_and_byte():
    """A value is found at its path, its line and its exact byte, whether it is a string, a number or a key."""
    lines = [
        json.dumps({"id": 1, "messages": [{"role": "user", "content": "nothing"}]}),
        json.dumps({"id": 2, "messages": [{"role": "user", "content": f'say "hi", write {EMAIL}'}], "tags": ["a{,b"]}),
        json.dumps({"pay": {"card": 4111111111111111}, "id": 3}),
        json.dumps({"who": {EMAIL: "x"}}),
    ]
    data = "\n".join(lines).encode()
    report = scanned(data, "rows.jsonl")
    assert (report.format, report.rows, report.bytes) == ("jsonl", 4, len(data))
    first, second = data.find(EMAIL.encode()), data.rfind(EMAIL.encode())
    assert where(report, "email") == {"messages[].content": [(1, first)], "who.*": [(3, second)]}
    assert where(report, "card") == {"pay.card": [(2, data.find(b"4111"))]}


def test_escapes_do_not_hide_a_value():
    """What JSON escapes is decoded: a letter, a line end before a number, a slash, halves of a pair."""
    lines = [
        '{"t": "bob\\u0040corp.io"}',
        '{"t": "call:\\n415-555-2671"}',
        '{"t": "\\ud83d\\ude00 4111\\u00a01111 1111 1111 \\ud800"}',
        '{"t": "postgres:\\/\\/me:s3cr3tpw@db.example.com"}',
        '{"t": "C:\\\\new 536-90-4399\\tx"}',
    ]
    report = scanned("\n".join(lines).encode())
    assert report.counts() == {"card": 1, "credential": 1, "email": 1, "phone": 1, "ssn": 1}
    assert list(where(report, "phone")) == ["t"]
    assert where(report, "email") == {"t": [(0, lines[0].find("bob"))]}


def test_a_whole_json_text_is_attributed_to_paths(tmp_path):
    """A document over many lines, larger than a block, has paths too."""
    document = {"people": [{"name": "x" * 100, "mail": f"p{number}@corp.io"} for number in range(15_000)]}
    data = json.dumps(document, indent=2).encode()
    assert len(data) > 2 * 1024 * 1024
    report = scanned(data)
    assert report.format == "json"
    assert {column: found.count for column, found in report.found["email"].items()} == {"people[].mail": 15_000}
    assert where(report, "email")["people[].mail"][0] == (4, data.find(b"p0@corp.io"))


def test_csv_is_attributed_to_columns_and_records():
    """Quoted fields with delimiters, quotes and line ends in them keep their column and record."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "note", "mail"])
    writer.writerow([1, 'he said "no",\nand left', EMAIL])
    writer.writerow([2, f"card {CARD}, ok", ""])
    writer.writerow([3, "plain", "x"])
    data = out.getvalue().encode()
    report = scanned(data, "a.csv")
    assert report.rows == 4
    assert where(report, "email") == {"mail": [(1, data.find(EMAIL.encode()))]}
    assert {column: rows[0][0] for column, rows in where(report, "card").items()} == {"note": 2}


CELLS = dict.fromkeys(["", "a", "1", "é", "b,c", 'so "he"', "x\ny"], "") | {
    EMAIL: "email", f'"{EMAIL}",': "email", CARD: "card", "\uff14111 1111 1111 1111": "card", SSN: "ssn",
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from(list(CELLS))] * 2), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", 'say 5" pipe,x\n']),
)
def test_csv_has_what_its_cells_have(rows, end, odd):
    """Quotes, delimiters, line ends and odd characters in fields, and a quote where none should be, move nothing."""
    out = io.StringIO()
    csv.writer(out, lineterminator=end).writerows([["one", "two"], *rows])
    report = scanned((out.getvalue() + odd).encode(), "a.csv")
    assert report.rows == 1 + len(rows) + bool(odd)
    for kind in ("email", "card", "ssn"):
        found = {column: [row for row, _ in places] for column, places in where(report, kind).items()}
        for column, name in enumerate(["one", "two"]):
            wanted = [row for row, cells in enumerate(rows, 1) if CELLS[cells[column]] == kind]
            assert found.get(name, []) == wanted[:3]
            assert not wanted or report.found[kind][name].count == len(wanted)


@pytest.mark.parametrize("note", ["plain", '"a, b"', 'a 5" pipe'])
def test_csv_that_is_cut_behind_a_delimiter_keeps_its_records(note):
    """Where a block ends within a record, the record goes on in the next one."""
    start = f"id,note,mail\n1,{note},x\n"
    data = (start + "2" * (BLOCK - len(start) - 1) + f",y,{EMAIL}\n3,z,{EMAIL}\n").encode()
    assert data[:BLOCK].endswith(b"2,")
    report = scanned(data, "a.csv")
    assert report.rows == 4
    assert [row for row, _ in where(report, "email")["mail"]] == [2, 3]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_without_quotes_has_columns(delimiter):
    """Plain CSV with any delimiter has columns; without a header they have numbers, and are never values."""
    with_header = delimiter.join(["id", "mail"]) + "\n" + "".join(f"{n}{delimiter}p{n}@corp.io\n" for n in range(50))
    report = scanned(with_header.encode(), "a.csv")
    assert list(report.found["email"]) == ["mail"]
    assert report.found["email"]["mail"].samples[0].row == 1
    without = with_header.partition("\n")[2]
    assert list(scanned(without.encode(), "a.csv").found["email"]) == ["column 2"]


def test_parquet_is_attributed_to_columns_and_rows(tmp_path):
    """Text, nested text and numbers are looked at in all row groups."""
    path = tmp_path / "t.parquet"
    rows = 5000
    table = pa.table(
        {
            "mail": [EMAIL if n == 3210 else None for n in range(rows)],
            "chat": [[{"role": "user", "text": CARD if n == 17 else "é"}] for n in range(rows)],
            "ssn": pa.array([536904399 if n == 4999 else n for n in range(rows)], pa.int64()),
            "score": [0.5] * rows,
        }
    )
    pq.write_table(table, path, row_group_size=1000)
    report = scan_file(FileSource(str(path)), SCAN)
    assert (report.format, report.rows) == ("parquet", rows)
    assert where(report, "email") == {"mail": [(3210, -1)]}
    assert where(report, "card") == {"chat[].text": [(17, -1)]}
    assert where(report, "ssn") == {"ssn": [(4999, -1)]}
    assert report == scan_file(FileSource(str(path)), PLAIN_SCAN)


def test_parquet_of_every_type_is_read(tmp_path):
    """Lists, structs, maps, bytes, dictionaries, NULs and odd characters are looked at; times are not."""
    path = tmp_path / "t.parquet"
    texts = ["a", None, EMAIL, f"x\0{EMAIL}", "bob.smith\uff20corp.io", "é"]
    lists = [[], None, [None], ["a", EMAIL], [EMAIL], []]
    table = pa.table(
        {
            "plain": texts,
            "coded": pa.array(texts).dictionary_encode(),
            "bytes": pa.array([text and text.encode() for text in texts], pa.binary()),
            "lists": lists,
            "deep": [[lists[number]] for number in range(6)],
            "structs": [text and {"one": text, "two": 1} for text in texts],
            "maps": pa.array([[("k", text or "")] for text in texts], pa.map_(pa.string(), pa.string())),
            "whole": pa.array([1, None, 4111111111111111, 3, 5, 6], pa.uint64()),
            "at": pa.array([4111111111111111] * 6, pa.timestamp("us")),
            "float": [1.0, float("nan"), 4111111111111111.0, None, float("inf"), 2.0],
            "measure": [1.5, 4111111111111111.0, 4111111111111111.0, None, 1e300, 2.0],
            "single": pa.array([4111111111111111.0] * 6, pa.float32()),
            "decimal": pa.array([None, Decimal("4111111111111111.00"), Decimal("41.00")] * 2),
            "ssn": pa.array([1, 536904399, None, -5, 6, 7], pa.int32()),
            "day": pa.array([536904399] * 6, pa.int32()).cast(pa.date32()),
        }
    )
    pq.write_table(table, path, row_group_size=4)
    report = scan_file(FileSource(str(path)), SCAN)
    counts = {column: [sample.row for sample in found.samples] for column, found in report.found["email"].items()}
    assert counts == {
        **{column: [2, 3, 4] for column in ("bytes", "coded", "plain", "structs.one", "maps[].value")},
        "deep[]": [3, 4],
        "lists[]": [3, 4],
    }
    assert where(report, "card") == {"whole": [(2, -1)], "float": [(2, -1)], "decimal": [(1, -1), (4, -1)]}
    assert where(report, "ssn") == {"ssn": [(1, -1)]}
    assert report.counts() == {"email": 19, "card": 4, "ssn": 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_compressed_and_wide_text_is_read(encoding, times):
    """Gzip once or twice, and UTF-16 or 32 with a mark, hide nothing."""
    data = f"one\ntwo {EMAIL}\nthree\n".encode(encoding)
    for _ in range(times):
        data = gzip.compress(data[:20]) + gzip.compress(data[20:])
    report = scanned(data)
    assert report.counts() == {"email": 1}
    assert report.rows == 3


def test_no_value_is_in_any_report(caplog):
    """Neither the report nor its form as text holds any of the values; equal values have equal hashes."""
    lines = "".join(json.dumps({"text": f"{secret} and {secret}", secret: secret}) + "\n" for secret in SECRETS)
    report = scanned(lines.encode())
    assert len(report.found) == 8
    shown = repr(report) + msgspec.json.encode(report).decode() + caplog.text
    for secret in SECRETS:
        assert secret not in shown
        assert secret.replace(" ", "") not in shown
    [found] = [found for column, found in report.found["card"].items() if column == "text"]
    assert [sample.masked for sample in found.samples] == ["**** **** **** 1111"] * 2
    assert len({sample.hash for sample in found.samples}) == 1
    other = msgspec.structs.replace(SCAN, salt=b"other")
    assert scanned(lines.encode(), scan=other).found["card"]["text"].samples[0].hash != found.samples[0].hash


VALUES = st.sampled_from(
    [
        *SECRETS,
        "nothing",
        "é",
        "\uff14\uff11\uff11\uff11 1111 1111 1111",
        "x" * 50,
        '"',
        "\\",
        "1.2.3",
        "電話 4155552671",
    ]
)
ROWS = st.lists(st.lists(VALUES, max_size=3).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 400), st.booleans(), st.sampled_from(["jsonl", "txt"]))
def test_any_split_gives_the_same_report(rows, task_bytes, end, kind):
    """Wherever a file is cut into tasks, and with either engine, the report is the same."""
    lines = [json.dumps({"t": row, "n": [{"m": row}]}, ensure_ascii=len(row) % 2 == 0) for row in rows]
    data = ("\n".join(lines if kind == "jsonl" else rows) + ("\n" if end else "")).encode()
    name = f"a.{kind}"
    whole = scanned(data, name)
    assert scanned(data, name, task_bytes=task_bytes) == whole
    assert scanned(data, name, PLAIN_SCAN, task_bytes=task_bytes * 3) == whole


def in_order(samples):
    """Return samples as a report keeps them."""
    return tuple(sorted(samples, key=lambda sample: (sample.row, sample.offset)))


SAMPLES = st.builds(Sample, st.integers(0, 9), st.integers(0, 9), st.just("*"), st.just("h"))
FOUNDS = st.builds(
    Found,
    st.integers(1, 5),
    st.dictionaries(st.sampled_from("rs"), st.integers(1, 5), min_size=1),
    st.lists(SAMPLES, max_size=3).map(in_order),
)
REPORTS = st.builds(
    Report,
    rows=st.integers(0, 20),
    bytes=st.integers(0, 20),
    invalid_lines=st.integers(0, 3),
    found=st.dictionaries(
        st.sampled_from(["email", "card"]), st.dictionaries(st.sampled_from("abc"), FOUNDS, min_size=1)
    ),
)


@settings(max_examples=40, deadline=None)
@given(REPORTS, REPORTS, REPORTS)
def test_reports_merge_associatively(a, b, c):
    """Reports can be added up in any grouping, and an empty one changes nothing but the order of rules."""
    assert (a + b) + c == a + (b + c)
    assert (a + Report()).counts() == a.counts()


def test_columns_are_bounded_alike_however_they_come():
    """With more columns than are kept, the same ones are kept whichever piece they were in."""
    one = Found(1, {"r": 1}, ())
    names = [f"c{number:05}" for number in range(MAX_COLUMNS + 50)]
    whole = bounded(dict.fromkeys(names, one), 3)
    pieces = [Report(found={"x": bounded(dict.fromkeys(names[start::3], one), 3)}) for start in range(3)]
    assert (pieces[2] + (pieces[0] + pieces[1])).found["x"] == whole
    assert len(whole) == MAX_COLUMNS + 1
    assert whole[OTHER_COLUMNS].count == 50


def test_processes_give_the_same_report(tmp_path):
    """A file cut into tasks for two processes has the report of one pass."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"t": f"{n} p{n}@corp.io {CARD if n % 7 == 0 else ''}"}) + "\n" for n in range(3000))
    )
    source = FileSource(str(path))
    told: list[int] = []
    assert scan_file(source, SCAN, run=in_processes(2), task_bytes=20_000, progress=told.append) == scan_file(
        source, SCAN
    )
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == path.stat().st_size


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Scanning 24 MB takes little more memory than scanning one."""
    path = tmp_path / "a.jsonl"
    line = json.dumps({"id": 1, "text": "some words and more words " * 30}) + "\n"
    with path.open("w") as file:
        for _ in range(24 * 1024 * 1024 // len(line)):
            file.write(line)
        file.write(json.dumps({"text": EMAIL}) + "\n")
    program = (
        "import re, sys; from tusd_py_pii.scan import *; from tusd_py_pii.rules import built_in\n"
        "report = scan_file(FileSource(sys.argv[1]), Scan.of(built_in(), engine='hyperscan'))\n"
        "print(report.counts(), re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    counts, _, used = done.stdout.strip().rpartition(" ")
    assert counts == "{'email': 1}"
    assert int(used) < 100_000, "kilobytes"
    assert Path(path).stat().st_size > 20_000_000
