"""Redacted copies: the values are gone, and everything else is as it was."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.redact import redact_file
from tusd_py_pii.rules import built_in
from tusd_py_pii.scan import FileSource, Scan, scan_file

SCAN = Scan(rules=tuple(built_in()), salt=b"salt")


def redacted(path, **options):
    """Redact a file, check that nothing is found in the copy, and return how many there were and the copy."""
    target = path.with_name("clean-" + path.name)
    count = redact_file(FileSource(str(path)), target, SCAN, name=path.name, **options)
    if not options:
        assert scan_file(FileSource(str(target)), SCAN, name=path.name).counts() == {}
    return count, target


def test_json_lines_stay_json_lines(tmp_path):
    """Strings, escaped strings and numbers are replaced, and every line still parses to the same shape."""
    path = tmp_path / "a.jsonl"
    rows = [
        {"t": "mail bob@corp.io or al@corp.io", "n": 4111111111111111, "k": [1.5, None]},
        {"t": 'é "x" \n 415-555-2671 \\ \uff14\uff11\uff11\uff11 1111 1111 1111!', "n": 2},
        {"t": "nothing", "n": 3},
    ]
    text = "".join(json.dumps(row, ensure_ascii=number == 1) + "\n" for number, row in enumerate(rows))
    path.write_text(text.replace("bob@", "bob\\u0040") + '{"t": "a@b-corp.io" , "n":1}\n')
    count, target = redacted(path)
    lines = target.read_text().splitlines()
    assert count == 6
    assert [json.loads(line) for line in lines] == [
        {"t": "mail [EMAIL] or [EMAIL]", "n": "[CARD]", "k": [1.5, None]},
        {"t": 'é "x" \n [PHONE] \\ [CARD]!', "n": 2},
        {"t": "nothing", "n": 3},
        {"t": "[EMAIL]", "n": 1},
    ]
    assert lines[3] == '{"t": "[EMAIL]" , "n":1}'


def test_csv_stays_csv(tmp_path):
    """Fields that held nothing stay byte for byte, those that did keep their quotes, and the columns stay."""
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'id,note\r\n1,"he said ""mail bob@corp.io"",\nthen left"\r\n2,4111 1111 1111 1111\r\n3,"a, b"\r\n'
    )
    count, target = redacted(path)
    assert count == 2
    assert target.read_bytes() == (b'id,note\r\n1,"he said ""mail [EMAIL]"",\nthen left"\r\n2,[CARD]\r\n3,"a, b"\r\n')
    assert all(len(row) == 2 for row in csv.reader(io.StringIO(target.read_text())))


def test_compressed_text_stays_compressed(tmp_path):
    """A gzip file becomes a gzip file; types that are kept stay."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x 536-90-4399\nmail bob@corp.io\n" * 1000))
    count, target = redacted(path, keep={"email"})
    assert count == 1000
    assert gzip.decompress(target.read_bytes()) == b"x [SSN]\nmail bob@corp.io\n" * 1000


def test_parquet_stays_parquet(tmp_path):
    """Text, nested text and numbers are replaced; types and other values stay."""
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "t": ["bob@corp.io", None, "nothing"],
            "chat": [[{"text": "call 415-555-2671"}], [], None],
            "ssn": pa.array([536904399, 1, 2], pa.int64()),
            "f": [1.5, 2.5, 3.5],
        }
    )
    pq.write_table(table, path)
    count, target = redacted(path)
    assert count == 3
    copy = pq.read_table(target)
    assert copy.schema == table.schema
    assert copy.to_pydict() == {
        "t": ["[EMAIL]", None, "nothing"],
        "chat": [[{"text": "call [PHONE]"}], [], None],
        "ssn": [None, 1, 2],
        "f": [1.5, 2.5, 3.5],
    }


def test_no_copy_is_left_of_what_cannot_be_redacted(tmp_path):
    """A file that fails leaves nothing behind, not even half a copy."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("".join(f"{n} bob@corp.io\n" for n in range(100_000)).encode())[:-20])
    with pytest.raises(ScanFailed, match="too early"):
        redacted(path)
    binary = tmp_path / "a.bin"
    binary.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(ScanFailed, match="no text"):
        redacted(binary)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.txt.gz"]
