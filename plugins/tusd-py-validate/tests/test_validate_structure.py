"""Binary formats and archives: what is broken, cut or made to hurt is a failed check with a reason."""

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import pickle
import struct
import tarfile
import time
import zipfile
import zlib

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors
from tusd_py_validate import formats, gguf
from tusd_py_validate.checks import Checks
from tusd_py_validate.settings import Settings, read
from tusd_py_validate.thrift import Broken

from tusd_py.stores.memory import MemoryContent

ARRAY = numpy.arange(12, dtype="float32").reshape(3, 4)


def checked(data, name, **settings):
    """The problems of some bytes under a name, as texts."""
    source = MemoryContent(data, "a")
    return [str(each) for each in Checks(read(settings)).whole(source, {"filename": name}).problems]


def parquet(rows=1000):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": range(rows), "text": ["x"] * rows}), buffer, row_group_size=100)
    return buffer.getvalue()


def safetensors(header, size=0):
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


def tensor(start, stop, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (struct.pack("<Q", 1000) + b'{"a": 1}', "header of 1000 bytes does not fit"),
        (safetensors(b'{"a": '), "its header is no JSON"),
        (safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, 12), "the tensor 'b' overlaps another one"),
        (safetensors({"a": tensor(0, 8), "b": tensor(12, 16)}, 16), "the tensor 'b' leaves a hole"),
        (safetensors({"a": tensor(0, 8)}, 4), "its tensors end at"),
        (safetensors({"a": tensor(0, 8)}, 9), "its tensors end at"),
        (safetensors({"a": tensor(0, 8, shape=[3])}, 8), "not what its shape and dtype need"),
        (safetensors({"a": tensor(0, 8, dtype="F3")}, 8), "no known dtype"),
        (safetensors({"a": tensor(0, 8, shape=[2**62, 2**62])}, 8), "not what its shape and dtype need"),
        (safetensors({"a": [1]}), "no known dtype"),
        (safetensors(b'{"a": {}, "a": {}}'), "a key is there twice"),
        (safetensors({"__metadata__": {"a": 1}}), "values that are no strings"),
        (safetensors(b'{"a": ' + b"[" * 100_000), "its header is no JSON"),
    ],
)
def test_broken_safetensors(data, said):
    """Headers that lie about bounds, overlaps, shapes and sizes are named."""
    [problem] = checked(data, "model.safetensors")
    assert said in problem


def test_broken_parquet():
    """A Parquet file that is cut, or whose footer lies, is named."""
    data = parquet()
    assert checked(data, "rows.parquet") == []
    assert "it has no end" in checked(data[:-1], "rows.parquet")[0]
    assert "does not fit" in checked(data[:-8] + struct.pack("<I", 2**31) + b"PAR1", "rows.parquet")[0]
    length = struct.unpack("<I", data[-8:-4])[0]
    missing = data[:4] + data[2000:]  # the columns are where the footer says that they are not
    assert "is outside the data" in checked(missing, "rows.parquet")[0]
    deep = b"\x1c" * length
    assert "nested too deeply" in checked(data[: -8 - length] + deep + data[-8:], "rows.parquet")[0]
    many = b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\0" * (length - 7)
    assert "longer than it is itself" in checked(data[: -8 - length] + many + data[-8:], "rows.parquet")[0]


def npy(header, size=0, version=b"\1\0"):
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + b"\0" * size


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 47), "do not fit"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 49), "do not fit"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "its shape is none"),
        (npy("{'descr': '<f4', 'shape': " + "(" * 500 + ")" * 500 + "}"), "its header is no dictionary"),
        (npy("{'descr': __import__('os').system('true')}"), "its header"),
        (npy("{'shape': (1,)}"), "its header cannot be read"),
        (npy("{" + "-" * 5000 + "1}"), "its header"),
        (npy("", version=b"\x09\0"), "of version 1, 2 or 3"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "its header has 4294967295 bytes"),
    ],
)
def test_broken_npy(data, said):
    """Headers that are no dictionary, or do not tell the file's size, are named; none is run."""
    [problem] = checked(data, "array.npy")
    assert said in problem


def gguf_file(keys=b"", key_count=0, tensors=b"", tensor_count=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + keys + tensors


def string(text):
    return struct.pack("<Q", len(text)) + text


def gguf_tensor(name=b"w", shape=(4,), kind=0, start=0):
    numbers = struct.pack(f"<{len(shape)}QIQ", *shape, kind, start)
    return string(name) + struct.pack("<I", len(shape)) + numbers


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gguf_file(version=1), "the version 1"),
        (gguf_file(key_count=2**60), "keys"),
        (gguf_file(key_count=1), "ends outside the file"),
        (gguf_file(struct.pack("<Q", 2**40), 1), "a string has"),
        (gguf_file(string(b"k") + struct.pack("<I", 77), 1), "unknown type 77"),
        (gguf_file(string(b"k") + struct.pack("<IIQ", 9, 8, 2**50), 1), "an array says"),
        (
            gguf_file(string(b"k") + struct.pack("<IIQ", 9, 9, 1) * 1 + struct.pack("<IQ", 9, 1) * 20, 1),
            "unknown type 9",
        ),
        (gguf_file(string(b"\xff") + struct.pack("<IB", 0, 1), 1), "not UTF-8"),
        (gguf_file(string(b"general.alignment") + struct.pack("<II", 4, 3), 1), "alignment of 3"),
        (gguf_file(tensors=gguf_tensor(start=8), tensor_count=1), "no multiple of 32"),
        (gguf_file(tensors=gguf_tensor(shape=(2**40, 2**40)), tensor_count=1), "ends at byte"),
        (
            gguf_file(tensors=gguf_tensor(shape=(16,)) + gguf_tensor(b"v", start=32), tensor_count=2) + b"\0" * 500,
            "overlaps",
        ),
    ],
)
def test_broken_gguf(data, said):
    """Counts, strings, types and tensors that cannot be are named."""
    [problem] = checked(data, "model.gguf")
    assert said in problem


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("rows.arrow", b"ARROW1\0\0" + b"\0" * 100, "the last six bytes are not ARROW1"),
        ("rows.orc", b"ORC" + b"\0" * 100, "no postscript"),
        ("data.sqlite", b"SQLite format 3\0\x10\0" + b"\0" * 5000, "are not its size"),
        (
            "data.h5",
            b"\x89HDF\r\n\x1a\n\2\x08\x08\0" + b"\0" * 16 + struct.pack("<Q", 9999) + b"\0" * 50,
            "should have 9999",
        ),
        ("rows.feather", b"FEA1" + b"\0" * 100, "are not FEA1"),
        ("notes.txt", b"a" * 20_000 + b"\n\xff", "it is not UTF-8: invalid start byte (line 2, byte 20001)"),
        ("notes.txt", b"a" * 20_000 + b"\n\0", "it has a byte 0 (line 2, byte 20001)"),
        ("notes.txt", b"a" * 20_000 + b"\xe2\x82", "unexpected end of data (line 1, byte 20000)"),
    ],
)
def test_other_formats_that_are_cut(name, data, said):
    """Ends that are missing are named."""
    [problem] = checked(data, name)
    assert said in problem


FILES = {
    "safetensors": save_safetensors({"a": ARRAY, "b": ARRAY[0]}),
    "parquet": parquet(50),
    "npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 48),
    "gguf": gguf_file(string(b"k") + struct.pack("<IIQQ", 9, 8, 1, 0), 1, gguf_tensor(), 1) + b"\0" * 64,
}


@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    st.data(),
)
def test_no_damage_breaks_the_readers(name, changes, data):
    """Real files with some bytes changed, or cut, are right or broken and nothing else, and quickly so."""
    content = bytearray(FILES[name])
    for at, value in changes:
        content[at % len(content)] = value
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    for check in (formats.CHECKS[name], gguf.check if name == "gguf" else formats.CHECKS["hdf5"]):
        with contextlib.suppress(Broken):
            check(io.BytesIO(bytes(content)), len(content))


# Archives


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def tarred(members, kind=tarfile.REGTYPE, link="", form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, link
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


TEXT = b"hello, world\n" * 10
LONG = "a/" * 120 + "long.txt"
BOMB = bytes(20 * 2**20)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped({"a.txt": TEXT, "b/c.csv": TEXT, "d/": b""})),
        ("a.zip", zipped({"a.txt": TEXT}, zipfile.ZIP_LZMA)),
        ("a.tar", tarred({"a.txt": TEXT, LONG: TEXT})),
        ("a.tar", tarred({"a.txt": TEXT, LONG: TEXT}, form=tarfile.GNU_FORMAT)),
        ("a.tar", tarred({"a.txt": TEXT}, form=tarfile.USTAR_FORMAT)),
        ("a.tar.gz", gzip.compress(tarred({"a.txt": TEXT}))),
        ("a.txt.gz", gzip.compress(TEXT) + gzip.compress(TEXT)),
        ("a.txt.bz2", bz2.compress(TEXT) + bz2.compress(TEXT)),
        ("a.txt.xz", lzma.compress(TEXT)),
        ("a.txt.zst", zstandard.compress(TEXT)),
        ("a.zip", zipped({"b.gz": gzip.compress(TEXT)})),
        ("a.gz", gzip.compress(b"")),
        ("a.zip", zipped({})),
    ],
    ids=itertools.count(),  # the bytes hold the time
)
def test_archives_that_are_right(name, data):
    """What archivers write passes."""
    assert checked(data, name) == []


def overlapping():
    """Two members of a zip's directory that share the same bytes."""
    data = zipped({"a.txt": TEXT})
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    record = data[start:end]
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, 2 * len(record), start, 0)
    return data[:start] + record * 2 + tail


def nested(depth):
    data = TEXT
    for number in range(depth):
        data = zipped({f"{number}.zip": data})
    return data


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.zip", zipped({"a": BOMB}), "the member 'a' unpacks to more than 200 times its size"),
        ("a.gz", gzip.compress(BOMB), "it unpacks to more than 200 times its size"),
        ("a.bz2", bz2.compress(BOMB), "it unpacks to more than 200 times its size"),
        ("a.xz", lzma.compress(BOMB), "it unpacks to more than 200 times its size"),
        ("a.zst", zstandard.compress(BOMB), "it unpacks to more than 200 times its size"),
        ("a.zip", zipped({"b.gz": gzip.compress(BOMB)}), "it unpacks to more than 200 times its size"),
        ("a.tar", tarred({"b.gz": gzip.compress(BOMB)}), "it unpacks to more than 200 times its size"),
        ("a.zip", nested(5), "one archive too deep: 3 are allowed"),
        ("a.gz", gzip.compress(gzip.compress(gzip.compress(gzip.compress(TEXT)))), "one archive too deep"),
        ("a.zip", overlapping(), "overlaps another one"),
        ("a.zip", zipped({"../a": TEXT}), "the member '../a' leads out of the folder"),
        ("a.zip", zipped({"/etc/passwd": TEXT}), "leads out of the folder"),
        ("a.zip", zipped({"a\\..\\..\\b": TEXT}), "leads out of the folder"),
        ("a.zip", zipped({"C:/a": TEXT}), "leads out of the folder"),
        ("a.tar", tarred({"a/../../b": TEXT}), "leads out of the folder"),
        ("a.tar", tarred({"../" * 60 + "b": TEXT}), "leads out of the folder"),
        ("a.tar", tarred({"a": b""}, tarfile.SYMTYPE, "/etc/passwd"), "leads out of the folder"),
        ("a.tar", tarred({"a": b""}, tarfile.CHRTYPE), "is a device"),
        ("a.zip", zipped({"a": TEXT})[:-10], "no directory at its end"),
        ("a.zip", zipped({"a": TEXT})[10:], "and not what its name"),
        ("a.gz", gzip.compress(TEXT)[:-9], "its end is missing"),
        ("a.gz", gzip.compress(TEXT)[:-8] + b"\0" * 8, "cannot be unpacked"),
        ("a.tar", tarred({"a": TEXT * 1000})[:2000], "cut in the middle of 'a'"),
        ("a.tar", tarred({"a": TEXT, "b": TEXT})[:1024] + b"x" * 512, "there is no header"),
        ("a.zip", zipped({"x.bin": b"\x7fELF" + b"\0" * 50}), "a member: ELF program is not taken (at x.bin)"),
        (
            "a.tar.gz",
            gzip.compress(tarred({"m/w.pkl": pickle.dumps([1, 2])})),
            "Python pickle is not taken (at content/m",
        ),
        ("a.joblib.gz", gzip.compress(pickle.dumps({"a": 1})), "Python pickle is not taken (at content)"),
    ],
    ids=itertools.count(),  # the bytes hold the time
)
def test_archives_that_hurt(name, data, said):
    """Bombs, names that lead out, members that are not taken, and what is cut: all are named, none is extracted."""
    began = time.perf_counter()
    [problem] = checked(data, name)
    assert said in problem
    assert time.perf_counter() - began < 5


def test_archives_limits_are_settings():
    """Ratio, size and number of members can be set."""
    data = zipped({"a": BOMB})
    assert checked(data, "a.zip", archives={"max_ratio": 2000}) == []
    assert (
        "more than 1048576 bytes together"
        in checked(data, "a.zip", archives={"max_ratio": 2000, "max_unpacked": "1MiB"})[0]
    )
    many = zipped({str(number): b"" for number in range(20)})
    assert "more than 10 members" in checked(many, "a.zip", archives={"max_entries": 10})[0]
    assert (
        "more than 10 members"
        in checked(tarred({str(number): b"" for number in range(20)}), "a.tar", archives={"max_entries": 10})[0]
    )


def test_a_huge_tar_header_is_not_kept():
    """A pax header that says it has 8 GiB is refused before it is read."""
    header = bytearray(tarfile.TarInfo("x").tobuf())
    header[124:136], header[156:157], header[148:156] = b"100000000000", b"x", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "a tar header of more than 1 MiB" in checked(bytes(header) + b"\0" * 2048, "a.tar")[0]


KINDS = {
    "zip": zipped({"a.txt": TEXT, "b.gz": gzip.compress(TEXT)}),
    "tar": tarred({"a.txt": TEXT, LONG: TEXT}),
    "gz": gzip.compress(tarred({"a.txt": TEXT})),
    "xz": lzma.compress(TEXT),
    "zst": zstandard.compress(TEXT),
}


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    st.data(),
)
def test_no_damage_breaks_the_archives(name, changes, data):
    """Archives with some bytes changed, or cut, pass or fail, and nothing else."""
    content = bytearray(KINDS[name])
    for at, value in changes:
        content[at % len(content)] = value
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    assert all(isinstance(problem, str) for problem in checked(bytes(content), f"a.{name}"))


def test_zlib_streams_are_read_in_small_pieces():
    """Unpacking a bomb takes no more memory than a block: the check ends long before the bomb does."""
    packer = zlib.compressobj(wbits=31)
    data = b"".join([*(packer.compress(bytes(2**20)) for _ in range(100)), packer.flush()])
    began = time.perf_counter()
    assert "200 times" in checked(data, "a.gz")[0]
    assert time.perf_counter() - began < 2


@given(st.sampled_from(["a.jsonl", "a.csv", "a.txt", "a.bin", ""]), st.binary(max_size=400))
def test_no_bytes_break_a_whole_check(name, data):
    """Any bytes under any name pass or fail, and nothing else."""
    report = Checks(Settings()).whole(MemoryContent(data, "a"), {"filename": name})
    assert report.ok is not bool(report.problems)
