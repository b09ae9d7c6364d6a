"""What a file is, by its content: real files of real libraries, and those made to deceive."""

import gzip
import io
import pickle
import sqlite3
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import fastavro
import h5py
import numpy
import pyarrow
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors
from tusd_py_validate.checks import Checks
from tusd_py_validate.detect import HEAD, TAIL, detect
from tusd_py_validate.filetypes import TYPES, declared
from tusd_py_validate.settings import Settings, read

from tusd_py.content import StoredFile

TABLE = pyarrow.table({"id": [1, 2, 3], "text": ["a", "b", "c"]})
ARRAY = numpy.arange(12, dtype="float32").reshape(3, 4)


def written(write):
    """The bytes that a function writes to a file object."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def avro():
    schema = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}]}
    return written(lambda file: fastavro.writer(file, schema, [{"id": 1}]))


def hdf5(folder):
    with h5py.File(folder / "data.h5", "w") as file:
        file["x"] = ARRAY
    return (folder / "data.h5").read_bytes()


def sqlite(folder):
    connection = sqlite3.connect(folder / "data.sqlite")
    connection.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1);")
    connection.close()
    return (folder / "data.sqlite").read_bytes()


def gguf(folder):
    writer = GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("weights", ARRAY)
    writer.add_tensor("more", numpy.ones((64,), dtype="float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "model.gguf").read_bytes()


def arrow_stream(file):
    with pyarrow.ipc.new_stream(file, TABLE.schema) as stream:
        stream.write_table(TABLE)


def tar(file):
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("rows/a.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))


def pytorch(file):
    """What torch.save writes, as far as its container goes: a zip that stores a pickle."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weights": [1.0]}, protocol=2))
        archive.writestr("model/data/0", b"\0" * 100)


REAL = {
    "rows.parquet": ("parquet", lambda _: written(lambda file: pyarrow.parquet.write_table(TABLE, file))),
    "rows.feather": ("arrow", lambda _: written(lambda file: pyarrow.feather.write_feather(TABLE, file))),
    "rows.arrows": ("arrow-stream", lambda _: written(arrow_stream)),
    "rows.orc": ("orc", lambda _: written(lambda file: pyarrow.orc.write_table(TABLE, file))),
    "rows.avro": ("avro", lambda _: avro()),
    "array.npy": ("npy", lambda _: written(lambda file: numpy.save(file, ARRAY))),
    "arrays.npz": ("npz", lambda _: written(lambda file: numpy.savez(file, a=ARRAY, b=ARRAY))),
    "squeezed.npz": ("npz", lambda _: written(lambda file: numpy.savez_compressed(file, a=ARRAY))),
    "data.h5": ("hdf5", hdf5),
    "data.sqlite": ("sqlite", sqlite),
    "model.gguf": ("gguf", gguf),
    "model.safetensors": ("safetensors", lambda _: save_safetensors({"w": ARRAY, "b": ARRAY[0]}, {"format": "np"})),
    "rows.tar": ("tar", lambda _: written(tar)),
    "rows.tar.gz": ("gz", lambda _: gzip.compress(written(tar))),
    "rows.jsonl": ("jsonl", lambda _: b'{"a": 1}\n{"a": 2}\n'),
    "one.json": ("json", lambda _: b'{\n "a": [1, 2]\n}\n'),
    "rows.csv": ("csv", lambda _: b'a,b\n1,"x,\ny"\n'),
    "rows.tsv": ("tsv", lambda _: b"a\tb\n1\t2\n"),
    "page.html": ("html", lambda _: b"<!DOCTYPE html><p>hello"),
    "picture.svg": ("xml", lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "words.txt": ("text", lambda _: b"cat\ncow\ncar\n"),
}
REFUSED = {
    "model.pt": ("pytorch", lambda _: written(pytorch)),
    "model.pkl": ("pickle", lambda _: pickle.dumps({"a": [1, 2]})),
    "old.pkl": ("pickle", lambda _: pickle.dumps({"a": [1, 2]}, protocol=0)),
    "evil.bin": ("pickle", lambda _: b"cos\nsystem\n(S'true'\ntR."),
    "objects.npy": ("npy-objects", lambda _: written(lambda file: numpy.save(file, numpy.array([{}], dtype=object)))),
    "program": ("elf", lambda _: Path(sys.executable).read_bytes()[:100_000]),
    "program.bin": ("pe", lambda _: b"MZ\x90\0\x03" + b"\0" * 55 + struct.pack("<I", 64) + b"PE\0\0" + b"\0" * 100),
    "program.dat": ("macho", lambda _: b"\xcf\xfa\xed\xfe" + b"\0" * 100),
    "fat.dat": ("macho", lambda _: b"\xca\xfe\xba\xbe\0\0\0\x02" + b"\0" * 100),
    "Main.dat": ("java-class", lambda _: b"\xca\xfe\xba\xbe\0\0\x00\x41" + b"\0" * 100),
    "run": ("script", lambda _: b"#!/bin/sh\necho hello\n"),
}


@pytest.mark.parametrize("name", [*REAL, *REFUSED])
def test_files_are_known_by_their_content(tmp_path, name):
    """A file of a real library is told apart by its head alone, and by both its ends."""
    wanted, make = (REAL | REFUSED)[name]
    data = make(tmp_path)
    assert detect(data[:HEAD], is_whole=len(data) <= HEAD).name == wanted
    assert detect(data[:HEAD], data[-TAIL:], is_whole=len(data) <= HEAD).name == wanted


@pytest.mark.parametrize("name", REAL)
def test_real_files_pass_all_checks(tmp_path, name):
    """Nothing is wrong with what real libraries write, under its own name."""
    path = tmp_path / f"copy-{name}"
    path.write_bytes(REAL[name][1](tmp_path))
    report = Checks(Settings()).whole(StoredFile.at(path), {"filename": name})
    assert not report.problems, report.problems
    assert report.type == REAL[name][0]


@pytest.mark.parametrize("name", REFUSED)
def test_programs_and_pickles_are_not_taken(tmp_path, name):
    """They are refused by their first bytes and once more when they are complete, whatever their name."""
    path = tmp_path / "copy"
    path.write_bytes(REFUSED[name][1](tmp_path))
    checks, head = Checks(Settings()), path.read_bytes()[:HEAD]
    [by_head] = checks.inspect(head, path.stat().st_size, {"filename": name})
    [at_end] = checks.whole(StoredFile.at(path), {}).problems
    assert by_head.check == at_end.check == "type"
    assert by_head.reason == at_end.reason == f"{TYPES[REFUSED[name][0]].title} is not taken"


@pytest.mark.parametrize(("name", "is_taken"), [("model.pt", True), ("program", False)])
def test_an_operator_can_take_pickles(tmp_path, name, is_taken):
    """`deny` is a list of names, and the settings replace the default."""
    path = tmp_path / name
    path.write_bytes(REFUSED[name][1](tmp_path))
    checks = Checks(read({"deny": ["executable"]}))
    assert checks.whole(StoredFile.at(path), {"filename": name}).ok is is_taken


def test_only_what_is_allowed_is_taken():
    """With `allow`, everything else is refused in words that say what is taken."""
    checks = Checks(read({"allow": ["parquet", "jsonl"]}))
    assert not checks.inspect(b'{"a": 1}\n{"a": 2}\n', 18, {"filename": "rows.jsonl"})
    [problem] = checks.inspect(b"\x89PNG\r\n\x1a\n" + b"\0" * 50, 58, {})
    assert problem.reason == "PNG is not taken; these are: jsonl, parquet"


@pytest.mark.parametrize(
    ("data", "metadata", "said"),
    [
        (
            b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
            {"filename": "rows.jsonl"},
            "it is PNG, and not what its name 'rows.jsonl' says",
        ),
        (b"hello, world", {"filename": "a.parquet"}, "it is text, and not what its name 'a.parquet' says"),
        (b"hello, world", {"filetype": "image/png"}, "it is text, and not what its media type 'image/png' says"),
        (b"PK\x03\x04" + b"\0" * 60, {"filename": "photo.jpg"}, "it is zip, and not what its name 'photo.jpg' says"),
    ],
)
def test_what_is_claimed_is_compared(data, metadata, said):
    """A file that is not what its name or media type says is refused, unless the settings say otherwise."""
    [problem] = Checks(Settings()).inspect(data, len(data), metadata)
    assert problem.reason == said
    assert not Checks(read({"declared": "ignore"})).inspect(data, len(data), metadata)


@pytest.mark.parametrize(
    ("metadata", "data"),
    [
        ({"filename": "rows.csv", "filetype": "text/plain"}, b'{"a": 1}\n'),
        ({"filename": "notes.md"}, b"a,b\n1,2\n"),
        ({"filename": "data.bin", "filetype": "application/octet-stream"}, b"\0\1\2\3"),
        ({"filename": "rows.csv", "filetype": "application/vnd.ms-excel"}, b"a,b\n1,2\n"),  # as Windows says
        ({"filename": "photo.heic"}, b"\0\0\0\x18ftypmsf1" + b"\0" * 20),
        ({"filename": "film.mov"}, b"\0\0\0\x08wide" + b"\0" * 20),
        ({"filename": "paper.pdf"}, b"\n\n%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
        ({"filename": "song.mp3", "filetype": "audio/mpeg"}, b"\xff\xf2\x90\0" + b"\0" * 20),
        ({"filename": "no-extension"}, b"\x89PNG\r\n\x1a\n"),
        ({"filename": "report.zip"}, written(pytorch).replace(b"data.pkl", b"data.txt")),
    ],
)
def test_claims_that_say_little_are_not_held_against_a_file(metadata, data):
    """Texts are compared when they are read, and octet-stream is what browsers say of what they do not know."""
    assert not Checks(Settings()).inspect(data, len(data), metadata)


def test_a_zip_behind_another_file_is_seen():
    """A picture with a zip at its end is both."""
    picture = b"\x89PNG\r\n\x1a\n" + b"\0" * 100_000
    data = picture + written(lambda file: zipfile.ZipFile(file, "w").close())
    assert detect(data[:HEAD], data[-TAIL:]).types == ("png", "zip")
    assert detect(picture[:HEAD], picture[-TAIL:]).types == ("png",)


def test_sizes_are_limited_by_type():
    """A type's own limit counts, then those of its groups; the metadata's claim is enough to be refused."""
    checks = Checks(read({"max_size": {"text": "1KiB", "jsonl": "1MiB"}}))
    assert not checks.claims({"filename": "rows.jsonl"}, 2**20)
    [problem] = checks.claims({"filename": "rows.jsonl"}, 2**20 + 1)
    assert problem.reason == "JSON Lines may have 1048576 bytes, and this has 1048577"
    [problem] = checks.inspect(b"a,b\n1,2\n", 2000, {})
    assert str(problem) == "size: CSV may have 1024 bytes, and this has 2000"


def test_every_extension_is_one_that_somebody_claims():
    """The table has no extension with a dot or in capitals, which would never be found."""
    for each in TYPES.values():
        assert each.extensions == tuple(extension.lower().strip(".") for extension in each.extensions)
    assert declared({"filename": "a/b/MODEL.SafeTensors"}) == [("its name 'MODEL.SafeTensors'", {"safetensors"})]


MAGICS = [
    b"",
    b"PK\x03\x04",
    b"\x93NUMPY\x01\0",
    b"\x80\x04",
    b"(d",
    b"cos\n",
    b"MZ",
    b"{",
    b"\x1f\x8b\x08",
    b"\xff\xff\xff\xff",
]


@given(st.sampled_from(MAGICS), st.binary(max_size=600), st.binary(max_size=100), st.booleans())
def test_no_bytes_break_the_detection(magic, data, tail, is_whole):
    """Whatever a file begins and ends with, it has a type."""
    found = detect(magic + data, tail, is_whole=is_whole)
    assert all(name in TYPES for name in found.types)


def test_magika_names_texts():
    """With `text_types`, texts have the names that magika gives them, and can be allowed and denied by them."""
    code = (
        b"import os\n\n\ndef main() -> None:\n    for name in os.listdir('.'):\n        print(name)\n\n\nmain()\n" * 3
    )
    checks = Checks(read({"text_types": True, "deny": ["python"]}))
    [problem] = checks.inspect(code, len(code), {"filename": "main.py"})
    assert problem.reason == "python is not taken"
    assert not checks.inspect(b"Dear reader, this is prose and nothing else.\n" * 5, None, {"filename": "letter.txt"})
