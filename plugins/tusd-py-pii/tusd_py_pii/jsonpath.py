"""Finds where in JSON a byte stands, without recursion and without building anything."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence

from tusd_py_pii.batches import MAX_DEPTH, MAX_PATH, column_name

STRING = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)
_STEP = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:"]', re.DOTALL)
_STRING_OR_REST = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)("|\Z)?', re.DOTALL)
_NO_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'{}[],:"')


def decode(raw: bytes) -> str:
    """Return the text of a JSON string, given without its quotes; what is malformed is taken as it stands."""
    text = raw.decode("utf-8", "replace")
    if "\\" not in text:
        return text
    try:
        decoded, end = _DECODER.raw_decode(f'"{text}"')
    except ValueError:
        return text
    return decoded if isinstance(decoded, str) and end == len(text) + 2 else text


class Walk:
    """Follows a JSON text from its start and knows the path of each place."""

    def __init__(self, stack: Sequence[str] = (), is_key: Sequence[bool | None] = (), depth: int = 0) -> None:
        # One entry for each open bracket: an object's key and whether a key comes next, or "[]" and None.
        self._stack = list(stack)
        self._is_key = list(is_key)
        self._depth = depth

    def copy(self) -> Walk:
        """Return another walk that is at the same place."""
        return Walk(self._stack, self._is_key, self._depth)

    def read(self, data: bytes, start: int, stop: int) -> int:
        """Go on from `start` to `stop`; return the end of the last token, before a string that has no end."""
        stack, is_key = self._stack, self._is_key
        end = start
        for match in _STEP.finditer(data, start, stop):
            token = match.group()
            head = token[0]
            if head == 34:
                if len(token) == 1:
                    return match.start()
                if is_key and is_key[-1] and self._depth <= MAX_DEPTH:
                    stack[-1] = decode(token[1:-1])
            elif head in (123, 91):  # { [
                self._depth += 1
                if self._depth <= MAX_DEPTH:
                    stack.append("" if head == 123 else "[]")
                    is_key.append(True if head == 123 else None)
            elif head in (125, 93):  # } ]
                if 0 < self._depth <= MAX_DEPTH:
                    stack.pop()
                    is_key.pop()
                self._depth = max(0, self._depth - 1)
            elif is_key and self._depth <= MAX_DEPTH and is_key[-1] is not None:
                is_key[-1] = head == 44  # , and not :
            end = match.end()
        return end

    def path(self, *, in_string: bool) -> str:
        """Return the path here, with `*` for keys that could be values."""
        path = ""
        for step in self._keys(in_string):
            path += "[]" if step == "[]" else ("." if path else "") + (column_name(step) if step else "")
        return path[:MAX_PATH].strip(".")

    def steps(self, *, in_string: bool) -> list[int | str]:
        """Return the path here if the keys are numbers."""
        return [int(step) if step.isdigit() else step for step in self._keys(in_string)]

    def _keys(self, in_string: bool) -> list[str]:
        if in_string and self._stack and self._is_key[-1]:
            return [*self._stack[:-1], "*"]  # a key itself
        return self._stack


def path_at(before: bytes) -> tuple[str, bool]:
    """Return the path at the end of what stands before a place, from the start of its JSON text, and whether that is
    within a string.

    Rows of a file are alike: what is left of them without their strings and numbers is walked through once.
    """
    if b"\\" in before:
        parts = _STRING_OR_REST.split(before)
        gaps, strings, in_string = parts[0::3], parts[1::3], len(parts) > 1 and not parts[-2]
    else:
        parts = before.split(b'"')
        gaps, strings, in_string = parts[0::2], parts[1::2], len(parts) % 2 == 0
    skeleton = b'"'.join(gaps + [b""] * (len(strings) + 1 - len(gaps))).translate(None, _NO_STRUCTURE)
    find = _known_steps if len(skeleton) < 1000 else _steps
    path = ""
    for step in find(skeleton, in_string):
        if step == "[]":
            path += "[]"
        else:
            name = _name(strings[step]) if isinstance(step, int) else step
            path += "." + name if path else name
    return path[:MAX_PATH].strip("."), in_string


@functools.lru_cache(10_000)
def _name(raw: bytes) -> str:
    return column_name(decode(raw))


def _steps(skeleton: bytes, in_string: bool) -> list[int | str]:
    """Return the steps of the path at the end of a skeleton; a key is given as the number of its string."""
    parts = skeleton.split(b'"')
    names = [b'"%d"' % number for number in range(len(parts) - 1)]
    if in_string:
        names[-1] = b'"'
    text = b"".join(part for pair in zip(parts, [*names, b""], strict=True) for part in pair)
    walk = Walk()
    walk.read(text, 0, len(text))
    return walk.steps(in_string=in_string)


_known_steps = functools.lru_cache(10_000)(_steps)
