"""Whether binary files keep the rules of their formats, as far as their headers and footers tell.

Each function reads what it needs and raises `Broken`; what it allocates is bounded, whatever a header says.
"""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from tusd_py_validate import gguf, thrift
from tusd_py_validate.problems import printable
from tusd_py_validate.thrift import Broken

Check = Callable[[BinaryIO, int], None]

SAFETENSORS_HEADER = 100_000_000
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def read_at(file: BinaryIO, start: int, count: int) -> bytes:
    """Return `count` bytes from `start`; raise `Broken` if they are not there."""
    file.seek(start)
    data = file.read(count)
    if len(data) < count:
        raise Broken(f"it is cut: there are no {count} bytes at {start}")
    return data


def safetensors(file: BinaryIO, size: int) -> None:
    """Check a header and that the tensors fill the rest without holes. https://github.com/huggingface/safetensors"""
    (length,) = struct.unpack("<Q", read_at(file, 0, 8))
    if length > SAFETENSORS_HEADER or 8 + length > size:
        raise Broken(f"its header of {length} bytes does not fit into the file of {size}")
    try:
        header = json.loads(read_at(file, 8, length), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise Broken(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise Broken("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Broken("its __metadata__ has values that are no strings")
    end = 0
    for start, stop, name in sorted(_span(name, tensor) for name, tensor in header.items()):
        if start != end:
            what = "overlaps another one" if start < end else "leaves a hole before it"
            raise Broken(f"the tensor {name!r} {what}: it begins at {start}, the last one ended at {end}")
        end = stop
    if 8 + length + end != size:
        raise Broken(f"its tensors end at {8 + length + end}, the file at {size}")


def _span(name: str, tensor: Any) -> tuple[int, int, str]:
    try:
        bits = _BITS[tensor["dtype"]]
        start, stop = tensor["data_offsets"]
        shape = tensor["shape"]
    except (KeyError, TypeError, ValueError) as error:
        raise Broken(f"the tensor {name!r} has no known dtype, shape and data_offsets") from error
    if not all(type(number) is int and 0 <= number < 2**63 for number in (start, stop, *shape)) or len(shape) > 64:
        raise Broken(f"the tensor {name!r} has offsets or a shape that cannot be")
    if math.prod(shape) * bits != (stop - start) * 8:
        raise Broken(f"the tensor {name!r} has {stop - start} bytes, which is not what its shape and dtype need")
    return start, stop, name


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def npy(file: BinaryIO, size: int) -> None:
    """Check a header, and that it tells the file's size.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    magic = read_at(file, 0, 8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise Broken("it is no NumPy array of version 1, 2 or 3")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(read_at(file, 8, width), "little")
    if length > 65536:
        raise Broken(f"its header has {length} bytes")
    text = read_at(file, 8 + width, length).decode("latin-1")
    # Only what numpy writes itself is given to Python's parser, and nothing that is deep.
    if not re.fullmatch(r"\{[\w\s'\"<>|=.,:()\[\]{}+\-]*\}\s*", text) or _depth(text) > 20:
        raise Broken("its header is no dictionary")
    try:
        header = ast.literal_eval(text.strip())
        shape, descr = header["shape"], header["descr"]
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, KeyError) as error:
        raise Broken(f"its header cannot be read: {printable(str(error), 100)}") from error
    if not isinstance(shape, tuple) or not all(type(each) is int and 0 <= each < 2**63 for each in shape):
        raise Broken("its shape is none")
    items = _item_size(descr)
    if items is not None and 8 + width + length + math.prod(shape) * items != size:
        raise Broken(f"its shape {shape} and dtype {descr!r} do not fit {size} bytes")


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _item_size(descr: Any) -> int | None:
    """Return the bytes of an item, or None if it is made of parts."""
    match = re.fullmatch(r"[<>|=]([a-zA-Z])(\d{1,9})(?:\[.*\])?", descr) if isinstance(descr, str) else None
    if match is None or match[1] == "O":
        return None
    return int(match[2]) * (4 if match[1] == "U" else 1)


def parquet(file: BinaryIO, size: int) -> None:
    """Check the footer, and that all column chunks are in the file. https://parquet.apache.org/docs/file-format/"""
    if size < 12:
        raise Broken("it is too short for Parquet")
    head, end = read_at(file, 0, 4), read_at(file, size - 8, 8)
    if head != end[4:]:
        raise Broken("it has no end: the last four bytes are not those at its start")
    (length,) = struct.unpack("<I", end[:4])
    if length > size - 12:
        raise Broken(f"its footer of {length} bytes does not fit into the file of {size}")
    if head == b"PARE" or length > thrift.LONGEST:
        return  # the footer is encrypted, or too long to be read here
    footer = thrift.read(read_at(file, size - 8 - length, length))
    rows, groups = footer.get(3), footer.get(4)
    if not isinstance(rows, int) or not isinstance(groups, list) or not isinstance(footer.get(2), list):
        raise Broken("its footer has no schema, number of rows or row groups")
    total = 0
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get(3), int) or not isinstance(group.get(1), list):
            raise Broken("a row group has no columns or number of rows")
        total += group[3]
        for chunk in group[1]:
            column = chunk.get(3) if isinstance(chunk, dict) else None
            if isinstance(column, dict):
                _check_column(column, size - 8 - length)
    if total != rows or rows < 0:
        raise Broken(f"its footer says {rows} rows, its row groups have {total}")


def _check_column(column: dict[int, Any], data_end: int) -> None:
    starts = [column[key] for key in (9, 11) if isinstance(column.get(key), int) and column[key] > 0]
    length = column.get(7)
    if not starts or not isinstance(length, int) or length < 0:
        raise Broken("a column chunk has no place")
    if min(starts) < 4 or min(starts) + length > data_end:
        raise Broken(f"a column chunk at {min(starts)} with {length} bytes is outside the data of {data_end}")


def arrow(file: BinaryIO, size: int) -> None:
    """Check the end. https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format"""
    end = read_at(file, max(0, size - 10), min(10, size))
    if len(end) < 10 or end[4:] != b"ARROW1":
        raise Broken("it has no end: the last six bytes are not ARROW1")
    (length,) = struct.unpack("<i", end[:4])
    if not 0 < length <= size - 18:
        raise Broken(f"its footer of {length} bytes does not fit into the file of {size}")


def arrow_stream(file: BinaryIO, size: int) -> None:
    """Check that the first message, the schema, is in the file."""
    _, length = struct.unpack("<ii", read_at(file, 0, 8))
    if not 0 < length <= size - 8:
        raise Broken(f"its schema of {length} bytes does not fit into the file of {size}")


def feather(file: BinaryIO, size: int) -> None:
    """Check the end of the first version's format."""
    if size < 12 or read_at(file, size - 4, 4) != b"FEA1":
        raise Broken("it has no end: the last four bytes are not FEA1")


def orc(file: BinaryIO, size: int) -> None:
    """Check the postscript. https://orc.apache.org/specification/ORCv1/"""
    length = read_at(file, size - 1, 1)[0]
    if not 3 < length < size - 3 or b"ORC" not in read_at(file, size - 1 - length, length):
        raise Broken("it has no end: there is no postscript with ORC")


def sqlite(file: BinaryIO, size: int) -> None:
    """Check pages and size. https://www.sqlite.org/fileformat.html"""
    header = read_at(file, 0, 100)
    (page,) = struct.unpack(">H", header[16:18])
    page = 65536 if page == 1 else page
    if page < 512 or page & (page - 1):
        raise Broken(f"it has pages of {page} bytes")
    changed, pages, valid_for = *struct.unpack_from(">I", header, 24), *struct.unpack_from(">I", header, 28), 0
    (valid_for,) = struct.unpack_from(">I", header, 92)
    if size % page or (pages and changed == valid_for and pages * page != size):
        raise Broken(f"its {pages} pages of {page} bytes are not its size of {size}")


def hdf5(file: BinaryIO, size: int) -> None:
    """Check the end that the superblock tells. https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html"""
    start = 0
    while read_at(file, start, 8) != b"\x89HDF\r\n\x1a\n":
        start = start * 2 or 512
        if start + 8 > size or start > 2**20:
            raise Broken("it has no superblock")
    version = read_at(file, start + 8, 1)[0]
    if version > 3:
        raise Broken(f"its superblock has the version {version}")
    width = read_at(file, start + (13 if version < 2 else 9), 1)[0]
    if width not in (4, 8):
        raise Broken(f"its offsets have {width} bytes")
    # Base address, free space (or extension), end of file.
    at = start + (12 + 2 * width if version >= 2 else (24 if version == 0 else 28) + 2 * width)
    end = int.from_bytes(read_at(file, at, width), "little")
    if end > size:
        raise Broken(f"it is cut: it should have {end} bytes, and has {size}")


CHECKS: dict[str, Check] = {
    "arrow": arrow,
    "arrow-stream": arrow_stream,
    "feather": feather,
    "gguf": gguf.check,
    "hdf5": hdf5,
    "npy": npy,
    "orc": orc,
    "parquet": parquet,
    "safetensors": safetensors,
    "sqlite": sqlite,
}
