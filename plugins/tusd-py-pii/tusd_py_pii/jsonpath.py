"""Finds where in JSON a byte stands, without recursion and without building anything."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tusd_py_pii.batches import MAX_DEPTH, MAX_PATH, column_name

STRING = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_STEP = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:"]', re.DOTALL)


def decode(raw: bytes) -> str:
    """Return the text of a JSON string, given without its quotes; what is malformed is taken as it stands."""
    text = raw.decode("utf-8", "replace")
    if "\\" not in text:
        return text
    try:
        decoded = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return text
    return decoded if isinstance(decoded, str) else text


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
        for place, step in enumerate(self._stack):
            is_last = place == len(self._stack) - 1
            if is_last and in_string and self._is_key[-1]:
                step = "*"  # a key itself
            path += "[]" if step == "[]" else ("." if path else "") + (column_name(step) if step else "")
        return path[:MAX_PATH].strip(".")
