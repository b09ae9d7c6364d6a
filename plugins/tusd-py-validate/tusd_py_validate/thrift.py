"""Reads the footer of a Parquet file, which is Thrift's compact protocol, into plain values.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import struct
from typing import Any

LONGEST = 4 * 2**20
"""A longer footer is not read: this takes about a second for it."""
_DEEPEST = 32


class Broken(Exception):
    """A file does not keep the rules of its format."""


def read(data: bytes) -> dict[int, Any]:
    """Return a struct as its fields' numbers and values.

    Raises:
        Broken: it is none.
    """
    try:
        return _Reader(data).struct(0)
    except (IndexError, struct.error) as error:
        raise Broken("its footer ends in the middle of a value") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise Broken("its footer has a number that is too long")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise Broken("its footer has a text that is longer than it is itself")
        self._at += count
        return self._data[self._at - count : self._at]

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise Broken("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            fields[number] = self.value(head & 0x0F, depth, in_list=False)
        return fields

    def value(self, kind: int, depth: int, *, in_list: bool) -> Any:
        match kind:
            case 1 | 2:
                return self.byte() == 1 if in_list else kind == 1
            case 3:
                return self.byte()
            case 4 | 5 | 6:
                return self.zigzag()
            case 7:
                return struct.unpack("<d", self.take(8))[0]
            case 8:
                return self.take(self.varint())
            case 9 | 10:
                return self.list(depth + 1)
            case 12:
                return self.struct(depth + 1)
        raise Broken(f"its footer has a value of the unknown kind {kind}")

    def list(self, depth: int) -> list[Any]:
        if depth > _DEEPEST:
            raise Broken("its footer is nested too deeply")
        head = self.byte()
        count = head >> 4 if head >> 4 != 15 else self.varint()
        if count > len(self._data) - self._at:
            raise Broken("its footer has a list that is longer than it is itself")
        return [self.value(head & 0x0F, depth, in_list=True) for _ in range(count)]
