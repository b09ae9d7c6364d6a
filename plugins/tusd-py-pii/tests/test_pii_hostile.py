"""Files that are made to harm: each fails with a reason, soon, and the scanner lives on."""

import gzip
import io
import json
import os
import signal
import time
import zlib

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tusd_py_pii import examined
from tusd_py_pii.errors import ScanFailed, Unreadable
from tusd_py_pii.policy import settings_from
from tusd_py_pii.rules import Rule, built_in
from tusd_py_pii.scan import FileSource, Scan, run_here, scan_file
from tusd_py_pii.streams import Limits
from tusd_py_pii.workers import in_processes

SCAN = Scan(rules=tuple(built_in()), salt=b"salt")
EMAIL = "bob.smith@corp.io"


class Held(msgspec.Struct, frozen=True):
    """Bytes in memory as a source."""

    data: bytes

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.data)


def limited(**limits):
    return msgspec.structs.replace(SCAN, limits=Limits(**limits))


def fails(data, message, scan=SCAN, name=""):
    with pytest.raises(ScanFailed, match=message) as failed:
        scan_file(Held(data), scan, name=name)
    assert EMAIL not in str(failed.value)


def test_a_decompression_bomb_fails():
    """Zeros that become a thousand times as many fail long before they are all there."""
    deflate = zlib.compressobj(wbits=31)
    bomb = b"".join(deflate.compress(b"0" * 2**20) for _ in range(60)) + deflate.flush()
    assert len(bomb) < 100_000
    fails(bomb, "bomb")
    fails(gzip.compress(bomb), "bomb")
    fails(gzip.compress(gzip.compress(gzip.compress(b"x"))), "more than 2 times")
    fails(
        gzip.compress(bytes.hex(os.urandom(300_000), "\n").encode()),
        "more than 100000 bytes",
        limited(max_decompressed=100_000),
    )


def test_broken_gzip_fails():
    """A gzip file that is cut or changed fails, wherever that is."""
    whole = gzip.compress("".join(f"{n} {EMAIL}\n" for n in range(20_000)).encode())
    fails(whole[:-1000], "ends too early")
    fails(whole[: len(whole) // 2] + b"garbage" + whole[len(whole) // 2 :], "broken")
    fails(whole[:12], "ends too early|broken")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.json"])
def test_a_line_without_end_fails(name):
    """A line, record or string beyond the limit fails, with the byte where it begins, and without holding it."""
    opening = {"a.json": b'{"a": 1,\n"b": "', "a.csv": b'a,b\n1,"'}.get(name, b"{}\n{")
    fails(opening + b"x" * 5_000_000, r"longer than 1048576 bytes \(byte \d+\)", limited(max_record=2**20), name)


def test_deep_json_is_read():
    """A hundred thousand brackets are no harder than ten."""
    deep = b'{"a":[' * 100_000 + json.dumps(EMAIL).encode() + b"]}" * 100_000
    for name in ("a.json", "a.jsonl"):
        report = scan_file(Held(deep), SCAN, name=name)
        assert report.counts() == {"email": 1}
        [column] = report.found["email"]
        assert column.startswith("a[].a[]")
        assert len(column) <= 200


@pytest.mark.parametrize("engine", ["re", "hyperscan"])
def test_malformed_json_is_searched_all_the_same(engine):
    """Lost quotes, brackets and commas, keys that come twice, and huge numbers hide nothing."""
    lines = [
        f'{{"a": "{EMAIL}',
        f'"{EMAIL}"}}}}]]',
        f'{{"a": "x", "a": "{EMAIL}", "n": {"9" * 5000}}}',
        f"\\ {EMAIL} \\",
    ]
    scan = msgspec.structs.replace(SCAN, engine=engine)
    assert scan_file(Held("\n".join(lines).encode()), scan, name="a.jsonl").count("email") == 4


@pytest.mark.parametrize("run", [run_here, in_processes(1)])
def test_keys_that_are_no_text_are_told(tmp_path, run):
    """Half of a character in a key, which JSON can have and no report can, hides nothing."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"\ud800 to": EMAIL}))
    report = scan_file(FileSource(str(path)), SCAN, name="a.jsonl", run=run)
    assert json.loads(msgspec.json.encode(report))["found"]["email"].keys() == {"? to"}


def test_bytes_that_are_not_utf8_are_counted_and_searched():
    """Lines that are not UTF-8 are told, and what is in them is found."""
    data = f"ok\n\xff {EMAIL} \xfe\n\xe4\n".encode("latin-1")
    for name in ("a.txt", "a.jsonl", "a.csv"):
        report = scan_file(Held(data), SCAN, name=name)
        assert (report.count("email"), report.invalid_lines) == (1, 2), name


def test_broken_parquet_fails(tmp_path):
    """A Parquet file that is cut or changed anywhere fails or is read; nothing else happens."""
    path = tmp_path / "a.parquet"
    table = pa.table({"t": [f"row {n} of some text {EMAIL}" for n in range(2000)]})
    pq.write_table(table, path, row_group_size=500, compression="zstd", use_dictionary=False)
    whole = path.read_bytes()
    fails(whole[: len(whole) // 2], "footer")
    fails(b"PAR1" + b"\0" * 100, "footer")
    outcomes = set()
    for place in range(8, len(whole) - 8, len(whole) // 30):
        broken = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        try:
            outcomes.add(scan_file(Held(broken), SCAN).format)
        except ScanFailed as error:
            outcomes.add("broken" if "broken" in str(error) or "more than" in str(error) else str(error))
    assert outcomes == {"parquet", "broken"}


def test_a_footer_that_ends_its_reader_ends_no_server(tmp_path):
    """Statistics that contradict the schema abort pyarrow: the process of the scan dies, and the scan fails."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [EMAIL, None]}), path)
    whole = path.read_bytes()
    assert whole.count(b"\x25\x02\x18\x01a") == 1, "the column is optional"
    path.write_bytes(whole.replace(b"\x25\x02\x18\x01a", b"\x25\x00\x18\x01a"))
    with pytest.raises(ScanFailed, match=r"died|ended"):
        scan_file(FileSource(str(path)), SCAN, run=in_processes(1))


def test_parquet_that_needs_too_much_memory_is_not_called_broken(tmp_path):
    """A string of 64 MB is right and still more than the process may hold."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["y" * 64_000_000]}), path, use_dictionary=False, compression="zstd")
    with pytest.raises(ScanFailed, match="memory"):
        scan_file(FileSource(str(path)), limited(memory=150_000_000), run=in_processes(1))


def test_a_parquet_column_that_is_too_large_fails(tmp_path):
    """What the footer says of a column's size is believed before it is read."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": ["x" * 1000 + str(n) for n in range(3000)]}), path, use_dictionary=False)
    with pytest.raises(ScanFailed, match="column of row group 0"):
        scan_file(FileSource(str(path)), limited(max_row_group=1_000_000))


def test_a_scan_that_takes_too_long_is_ended(tmp_path):
    """A pattern that backtracks for years is ended with its process when the time is over."""
    path = tmp_path / "a.txt"
    path.write_text("aaaa " * 20 + "\n" + "a" * 200 + "!\n")
    # Two repetitions that may share characters pass for harmless one by one; together they are not.
    slow = Rule(name="slow", type="slow", pattern=r"(?:a{1,60}){1,60}(?:a{1,60}){1,60}b", trigger="a!", reach=200)
    scan = Scan(rules=(slow,), engine="re", limits=Limits(max_seconds=1.5), salt=b"")
    start = time.monotonic()
    with pytest.raises(ScanFailed, match="longer than"):
        scan_file(FileSource(str(path)), scan, run=in_processes(1))
    assert time.monotonic() - start < 20


def test_a_worker_that_dies_is_a_failed_scan(tmp_path):
    """If a file kills the process that reads it, the scan fails and nothing else happens."""
    with pytest.raises(ScanFailed, match="its process was ended by SIGKILL"):
        scan_file(Deadly(str(tmp_path), os.getpid()), SCAN, run=in_processes(1), name="a.txt")


@pytest.mark.parametrize(
    "data",
    [b"text\n" * 60_000, gzip.compress(b"text\n"), b"PAR1" + b"\0" * 50 + b"PAR1"],
    ids=["large", "gzip", "parquet"],
)
def test_what_can_harm_is_not_read_by_the_server(tmp_path, data):
    """Only what is small, and stays small, is scanned without a process of its own."""
    settings = settings_from({"enabled": True})
    assert examined(Deadly(str(tmp_path), os.getpid()), settings, "a").format == "text"
    with pytest.raises(ScanFailed, match="its process was ended by SIGKILL"):
        examined(Deadly(str(tmp_path), os.getpid(), data), settings, "a")


def test_memory_is_limited(tmp_path):
    """A process that scans cannot take more memory than it may."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 60_000_000)
    scan = limited(max_record=2**40, memory=80_000_000)
    with pytest.raises(ScanFailed, match="memory"):
        scan_file(FileSource(str(path)), scan, run=in_processes(1))


class Deadly(msgspec.Struct, frozen=True):
    """A file that kills whoever opens it, but for the process that plans."""

    folder: str
    planner: int
    data: bytes = b"text\n"
    url: str = "deadly:"

    @property
    def size(self) -> int:
        return len(self.data)

    def open(self) -> io.BytesIO:
        if os.getpid() != self.planner:
            os.kill(os.getpid(), signal.SIGKILL)
        return io.BytesIO(self.data)


class Vanished(msgspec.Struct, frozen=True):
    """A file that can be opened so often, and then no more."""

    path: str

    def open(self):
        descriptor = os.open(self.path, os.O_RDONLY)
        os.unlink(self.path)
        return os.fdopen(descriptor, "rb")


def test_what_cannot_be_read_is_told_from_what_is_broken(tmp_path):
    """That the storage does not give the bytes is no word about them, from other processes neither."""
    path = tmp_path / "a.txt"
    for run in (run_here, in_processes(1)):
        path.write_text("hello\n")
        with pytest.raises(Unreadable, match="No such file"):
            scan_file(Vanished(str(path)), SCAN, run=run)
