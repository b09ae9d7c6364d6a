"""Whether a GGUF file keeps the rules: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import math
import struct
from typing import Any, BinaryIO

from tusd_py_validate.thrift import Broken

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_TENSORS, _MOST_ITEMS = 100_000, 1_000_000, 10_000_000
_LONGEST = 64 * 2**20
# Number of a type: (values in a block, bytes of a block). Types that are not here are not measured.
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    30: (1, 2),
}


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        file.seek(0)
        self._file, self._size, self.at = file, size, 0

    def take(self, count: int) -> bytes:
        if count > self._size - self.at:
            raise Broken(f"its header ends outside the file, at byte {self.at}")
        data = self._file.read(count)
        if len(data) < count:
            raise Broken("it is cut")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        if count > self._size - self.at:
            raise Broken(f"its header ends outside the file, at byte {self.at}")
        self.at += count
        self._file.seek(self.at)

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        length = self.number("Q")
        if length > _LONGEST:
            raise Broken(f"a string has {length} bytes, at byte {self.at}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise Broken(f"a string before byte {self.at} is not UTF-8") from error


def check(file: BinaryIO, size: int) -> None:
    """Check header, metadata and where the tensors are.

    Raises:
        Broken: something is wrong.
    """
    reader = _Reader(file, size)
    if reader.take(4) != b"GGUF":
        raise Broken("it does not begin with GGUF")
    version = reader.number("I")
    if version not in (2, 3):
        raise Broken(f"it has the version {version}; 2 and 3 are known")
    tensors, keys = reader.number("Q"), reader.number("Q")
    if keys > _MOST_KEYS or tensors > _MOST_TENSORS:
        raise Broken(f"it says that it has {keys} keys and {tensors} tensors")
    alignment = 32
    for _ in range(keys):
        key, kind = reader.string(), reader.number("I")
        value = _value(reader, kind, 0)
        if key == "general.alignment":
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise Broken(f"it has an alignment of {value}")
            alignment = value
    spans = sorted(_tensor(reader, alignment) for _ in range(tensors))
    data = -(-reader.at // alignment) * alignment
    end = 0
    for start, length, name in spans:
        if start < end:
            raise Broken(f"the tensor {name!r} overlaps another one")
        end = start + length
        if data + end > size:
            raise Broken(f"the tensor {name!r} ends at byte {data + end}, the file at {size}")


def _value(reader: _Reader, kind: int, depth: int) -> Any:
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind == _STRING:
        return reader.string()
    if kind != _ARRAY or depth > 8:
        raise Broken(f"a value has the unknown type {kind}, at byte {reader.at}")
    items, count = reader.number("I"), reader.number("Q")
    if count > _MOST_ITEMS:
        raise Broken(f"an array says that it has {count} items, at byte {reader.at}")
    if items in _SCALARS:
        reader.skip(count * struct.calcsize("<" + _SCALARS[items]))
    else:
        for _ in range(count):
            _value(reader, items, depth + 1)
    return None


def _tensor(reader: _Reader, alignment: int) -> tuple[int, int, str]:
    name, dimensions = reader.string(), reader.number("I")
    if dimensions > 8:
        raise Broken(f"the tensor {name!r} has {dimensions} dimensions")
    shape = [reader.number("Q") for _ in range(dimensions)]
    kind, start = reader.number("I"), reader.number("Q")
    if start % alignment:
        raise Broken(f"the tensor {name!r} begins at {start}, which is no multiple of {alignment}")
    values, block = _BLOCKS.get(kind, (1, 0))
    return start, -(-math.prod(shape) // values) * block, name
