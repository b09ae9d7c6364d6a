"""JSON Lines and CSV: every problem with its line, byte, path and reason; any division of a file finds the same."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import time

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tusd_py_validate import lines, rows
from tusd_py_validate.checks import MANY, PIECE, Checks
from tusd_py_validate.problems import Problem, Problems, Stop, TimeUp, Watch
from tusd_py_validate.settings import Settings, read

from tusd_py.content import StoredFile
from tusd_py.stores.memory import MemoryContent


def checked(data, name, **settings):
    """The problems of some bytes under a name, as texts."""
    source = MemoryContent(data, "a")
    return [str(each) for each in Checks(read(settings)).whole(source, {"filename": name}).problems]


GOOD = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            GOOD * 3 + b'{"a": }\n' + GOOD,
            "expected a JSON value (line 4, byte 33)",
        ),
        (GOOD + b"\n \n" + b"[1, 2\n", "(line 4, byte 17)"),
        (GOOD + "{'ä': 1}\n".encode(), "(line 2, byte 10)"),
        (GOOD + b'{"a": "\xff"}\n', "line 2"),
        (GOOD + b'{"a": NaN}\n', "line 2"),
        (GOOD * 3000 + b'{"a": "\0"}\n', "it has a byte 0 (line 3001, byte 27007)"),
        (b"\xef\xbb\xbf" + GOOD, "it begins with a byte order mark (line 1, byte 0)"),
        (GOOD + b"[" * 100_000 + b"\n", "line 2"),
        (GOOD + b'{"a": 1} {"a": 2}\n', "line 2"),
        (GOOD + b'{"a":\n1}\n', "line 2"),
    ],
)
def test_lines_that_are_no_json(data, said):
    """The line, and the byte in the file at which it stops being JSON."""
    assert said in checked(data, "rows.jsonl")[0]


def test_lines_that_are_json():
    """Blank lines, carriage returns and a missing last newline are taken."""
    assert checked(GOOD + b"\n\r\n[1]\r\n" + b'"text"\nnull\n3', "rows.jsonl") == []


def test_problems_are_capped():
    """After so many problems the check ends."""
    assert len(checked(b"x\n" * 1000, "rows.jsonl")) == 100
    assert len(checked(b"x\n" * 1000, "rows.jsonl", max_problems=7)) == 7


def test_a_line_without_end_is_a_problem_and_not_kept():
    """A line that is too long ends the check where it begins, and what is before it was checked."""
    data = GOOD + b"x\n" + b'"' + b"a" * 3_000_000 + b'"\n' + GOOD
    wrong, long = checked(data, "rows.jsonl", max_line="1MiB")
    assert "line 2" in wrong
    assert long == "limit: the line has more than 1048576 bytes (line 3, byte 11)"


def test_a_line_of_a_gigabyte_takes_no_gigabyte(tmp_path):
    """A sparse file that is one line is refused after its first megabytes have been read."""
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": "')
        file.truncate(10**9)
    reached = []
    problems = Problems()
    with path.open("rb") as file:
        part = lines.check_range(file, 0, 10**9, schema=None, max_line=2**23, max_problems=9, read=reached.append)
        assert file.tell() < 2**24
    assert "more than 8388608 bytes" in str(part.problems[0])
    assert not problems
    # Under its name it is no text: the bytes that a hole reads as are none.
    assert "type: it is unknown" in str(
        Checks(Settings()).whole(StoredFile.at(path), {"filename": "rows.jsonl"}).problems[0]
    )


LINES = st.lists(
    st.one_of(
        st.just(b"{}"),
        st.just(b""),
        st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
        st.integers().map(lambda number: str(number).encode()),
        st.text(max_size=20).map(lambda text: json.dumps(text).encode()),
        st.integers(1, 60).map(lambda size: b'"' + b"a" * size + b'"'),
    ),
    max_size=25,
)


@given(LINES, st.booleans(), st.lists(st.integers(0, 500), max_size=4), st.sampled_from([10, 40, 1000]))
def test_any_division_finds_the_same(content, ends, cuts, max_line):
    """Ranges that are checked one by one and merged tell what the whole file tells."""
    data = b"\n".join(content) + (b"\n" if ends else b"")
    limits = {"schema": None, "max_line": max_line, "max_problems": 1000}
    whole = lines.check_range(io.BytesIO(data), 0, len(data), **limits)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [lines.check_range(io.BytesIO(data), *edge, **limits) for edge in itertools.pairwise(edges)]
    assert lines.merge(parts, 1000) == whole


@given(LINES)
def test_what_orjson_reads_is_right(content):
    """A line is wrong exactly if the library cannot read it, and its problem begins within it."""
    data = b"\n".join(content)
    part = lines.check_range(io.BytesIO(data), 0, len(data), schema=None, max_line=10**6, max_problems=1000)
    wrong = {}
    for number, line in enumerate(content, 1):
        try:
            assert not line.strip() or orjson.loads(line) is not Ellipsis
        except ValueError:
            wrong[number] = line
    assert [problem.line for problem in part.problems] == sorted(wrong)
    for problem in part.problems:
        begin = sum(len(line) + 1 for line in content[: problem.line - 1])
        assert begin <= problem.offset <= begin + len(wrong[problem.line])


def test_a_large_file_is_read_by_several_processes(tmp_path):
    """Lines are counted through all ranges, and progress reaches the whole size."""
    path, told = tmp_path / "rows.jsonl", []
    row = b'{"id": 1, "text": "' + b"a" * 2000 + b'"}\n'
    count = MANY // len(row) + 1000
    wrong = {count // 3: b"wrong", count - 2: b"{"}
    with path.open("wb") as file:
        for number in range(count):
            file.write(wrong[number] + b"\n" if number in wrong else row)
    checks = Checks(read({"processes": 2}))
    watch = Watch(lambda step, done, total: told.append((step, done, total)))
    report = checks.whole(StoredFile.at(path), {"filename": "rows.jsonl"}, watch)
    assert [problem.line for problem in report.problems] == [number + 1 for number in sorted(wrong)]
    assert report.problems[0].offset == len(row) * (count // 3)
    assert report.problems[1].offset == len(row) * (count - 3) + 6 + 1
    assert all(step == "structure" and 0 <= done <= total == path.stat().st_size for step, done, total in told)


def test_lines_are_checked_while_others_arrive(tmp_path):
    """What was found on arrival is part of the report, which is that of a check afterwards, and is not read again."""
    path, metadata = tmp_path / "rows.jsonl", {"filename": "rows.jsonl"}
    row = b'{"id": 1, "text": "' + b"a" * 2000 + b'"}\n'
    count = 2 * PIECE // len(row)
    with path.open("wb") as file:
        file.write(row * 10 + b"wrong\n" + row * count + b"{\n")
    checks, whole = Checks(read({"max_line": "1 MiB"})), StoredFile.at(path)
    afterwards = checks.whole(whole, metadata)
    assert [problem.line for problem in afterwards.problems] == [11, count + 12]

    [first] = checks.ahead(StoredFile(path, PIECE + 2**20), metadata, None)
    assert (first.stop, len(first.part.problems)) == (PIECE, 1)
    assert list(checks.ahead(StoredFile(path, PIECE + 2**20), metadata, first)) == []
    with path.open("r+b") as file:
        file.seek(10 * len(row))
        file.write(b"12345")
    assert checks.whole(whole, metadata, begun=first) == afterwards
    assert list(checks.ahead(whole, {"filename": "rows.txt"}, None)) == []


def test_time_is_limited():
    """A check that takes too long ends with a reason."""
    data = b"{}\n" * 10**6
    report = Checks(Settings()).whole(MemoryContent(data, "a"), {"filename": "rows.jsonl"}, Watch(seconds=0))
    assert [str(problem) for problem in report.problems] == ["limit: the checks took longer than 0 seconds"]
    with pytest.raises(TimeUp):
        Watch(seconds=0)("structure", 0, 0)


def test_compressed_rows_are_read(tmp_path):
    """rows.jsonl.gz and rows.csv.gz are checked as what is in them; places are those after decompression."""
    assert checked(gzip.compress(GOOD * 10), "rows.jsonl.gz") == []
    [problem] = checked(gzip.compress(GOOD + b"{\n"), "rows.jsonl.gz")
    assert "line 2, byte 10" in problem
    [problem] = checked(gzip.compress(b"a,b\n1\n"), "rows.csv.gz")
    assert "the row has 1 cells, the header 2" in problem


# CSV


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a,b\n1,2\n1,2,3\n", "the row has 3 cells, the header 2 (line 3, row 2, byte 8)"),
        (b"a,b\n1,2\n1\n", "the row has 1 cells, the header 2 (line 3, row 2, byte 8)"),
        (b'a,b\n"x\ny",2\n1\n', "(line 4, row 2, byte 12)"),
        (b'a,b\n1,"2\n', "no CSV: unexpected end of data (line 2, byte 4)"),
        (b'a,b\n1,"2"x\n', "no CSV: ',' expected after '\"' (line 2, byte 4)"),
        (b"a,b\n1,\xff\n", "it is not UTF-8: invalid start byte (line 2, byte 6)"),
        (b"a,b\n1,\0\n", "it has a byte 0 (line 2, byte 6)"),
        (b"a,a\n1,2\n", "the header has 'a' twice (line 1, byte 0)"),
        (b"a,b\n1,=1+1\n", "the cell is a formula, which a spreadsheet would run (line 2, row 1, byte 4, at /b)"),
        (b'a,b\n1,"@SUM(1,1)"\n', "the cell is a formula"),
        (b"a,b\n1,+cmd|'/C calc'!A0\n", "the cell is a formula"),
        (b'a,b\n1,-HYPERLINK("x")\n', "the cell is a formula"),
        (b'a,b\n1,"\t=1"\n', "the cell is a formula"),
    ],
)
def test_broken_csv(data, said):
    """Rows, cells and bytes that are wrong, each with its place."""
    [problem] = _csv(data)
    assert said in str(problem)


def _csv(data, max_row=2**20):
    problems = Problems()
    with contextlib.suppress(Stop):
        rows.check([data], ",", problems, max_row=max_row, formulas=False)
    return problems


@pytest.mark.parametrize(
    "data",
    [
        b"a,b\n1,2\n",
        b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n",
        b"a\n1\n\n",
        b'a,b\n-5,+1.5e-3\n-1%,"-1,000.50"\n',
        b"a,b\n@user said (this),- an item (of a list)\n",
        b"a,b\n=,== headline\n",
        "a,b\nä,ß\n".encode(),
        b"",
    ],
)
def test_csv_that_is_right(data):
    """Numbers with signs, user names and lists are no formulas; a byte order mark and blank lines are taken."""
    assert [str(problem) for problem in _csv(data)] == []


def test_csv_has_limits():
    """A quotation mark that is never closed, a line without end and a header without end are problems of their own."""
    [problem] = _csv(b'a,b\n1,"' + b"x\n" * 50_000, max_row=10_000)
    assert "a quotation mark may be missing" in str(problem)
    [problem] = _csv(b"a,b\n" + b"x" * 50_000, max_row=10_000)
    assert "more than 10000 bytes" in str(problem)
    [problem] = _csv(b"," * 20_000)
    assert "more than 10000 columns" in str(problem)
    assert not _csv(b'a,b\n1,"' + b"x" * 200_000 + b'"\n')


def test_other_delimiters_are_found():
    """Semicolons and tabs separate if the header has more of them."""
    assert checked(b"a;b\n1,5;2\n", "rows.csv") == []
    assert checked(b'"a;b;c\n;;",d\n1,2\n', "rows.csv") == []
    assert checked(b"a\tb\n1,5\t2\n", "rows.tsv") == []
    assert "has 3 cells" in checked(b"a\tb\n1\t2\t3\n", "rows.tsv")[0]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=10), st.integers(1, 40))
def test_rows_are_those_that_were_written(table, size):
    """What csv.writer wrote is read again, in blocks of any size, each row where it begins."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    data = text.getvalue().encode()
    assume(not data.startswith(b"\xef\xbb\xbf"))
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    found = list(rows.Rows(blocks, ",", 10**6))
    assert [row.cells for row in found] == table
    for number, row in enumerate(found):
        assert data[: row.offset].count(b"\n") + 1 == row.line
        rest = rows.Rows([data[row.offset :]], ",", 10**6)
        assert [each.cells for each in rest] == table[number:]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_break_the_rows(data, size):
    """Any bytes are rows or problems."""
    problems = Problems()
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    try:
        rows.check(blocks, ",", problems, max_row=100, formulas=False)
    except Stop:
        assert problems.is_full
    assert all(isinstance(problem, Problem) for problem in problems)


def test_reading_rows_is_linear():
    """Rows of many short lines in quotation marks, and lines in many blocks, take no quadratic time."""
    began = time.perf_counter()
    list(rows.Rows([b"a,b\n"] + [b'1,"x' + b"\n" * 50 + b'"\n'] * 2000, ",", 10**6))
    list(rows.Rows([b"a"] * 200_000, ",", 10**6))
    assert time.perf_counter() - began < 5
