"""Reads JSON Lines: every line parses, and fits a schema if there is one.

A file can be divided into ranges of bytes that are read by several processes: a line belongs to the range in which it
begins. What is kept is one block and one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import msgspec
import orjson

from tusd_py_validate.problems import Problem, Problems, Stop
from tusd_py_validate.schemas import Schema

BLOCK = 2**18
"""Small enough for a processor's cache."""
_BOM = b"\xef\xbb\xbf"


class Part(msgspec.Struct, frozen=True):
    """What was found in a range of a file; lines are counted from the range's start."""

    problems: tuple[Problem, ...] = ()
    lines: int = 0
    is_complete: bool = True
    """Whether it was read to its end."""


class _TooLong(Exception):
    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def check_range(
    file: BinaryIO,
    start: int,
    stop: int,
    *,
    schema: Schema | None,
    max_line: int,
    max_problems: int,
    read: Callable[[int], None] = lambda _: None,
) -> Part:
    """Check the lines of a file that begin in `[start, stop)`.

    `read` hears how many bytes of the range have been read.
    """
    if start >= stop:
        return Part()
    begin, blocks = start, _read(file, start)
    if start > 0:  # the line that began before belongs to the range before
        begin, first = _next_line(file, start - 1, stop)
        if first is None:
            return Part()
        blocks = chain([first], _read(file, begin + len(first)))
    return check_blocks(
        blocks,
        begin,
        stop,
        schema=schema,
        max_line=max_line,
        max_problems=max_problems,
        read=lambda at: read(at - start),
    )


def _read(file: BinaryIO, start: int) -> Iterator[bytes]:
    file.seek(start)
    while block := file.read(BLOCK):
        yield block


def _next_line(file: BinaryIO, start: int, stop: int) -> tuple[int, bytes | None]:
    """Return where the first line after `start` begins, and the rest of its block, if one begins before `stop`."""
    file.seek(start)
    while start < stop and (block := file.read(BLOCK)):
        at = block.find(b"\n") + 1
        if at:
            return (start + at, block[at:]) if start + at < stop else (stop, None)
        start += len(block)
    return stop, None


def check_blocks(
    blocks: Iterable[bytes],
    begin: int = 0,
    stop: int | None = None,
    *,
    schema: Schema | None,
    max_line: int,
    max_problems: int,
    read: Callable[[int], None] = lambda _: None,
) -> Part:
    """Check the lines in blocks of bytes, of which the first begins at `begin`, up to the line that `stop` is in."""
    problems, count = Problems(max_problems), 0
    fits = schema.validator.is_valid if schema else _anything
    try:
        for offset, lines in _lines(blocks, begin, stop, max_line):
            if not _all_fit(fits, lines):
                for number, line in enumerate(lines):
                    if line and not line.isspace() and not _all_fit(fits, [line]):
                        at = offset + sum(map(len, lines[:number])) + number
                        problems.extend(_explain(line, count + number + 1, at, schema))
            count += len(lines)
            read(offset)
    except _TooLong as error:
        reason = f"the line has more than {max_line} bytes"
        too_long = Problem(check="limit", reason=reason, line=count + 1, offset=error.offset)
        return Part((*problems, too_long), count, is_complete=False)
    except Stop:
        return Part(tuple(problems), count, is_complete=False)
    return Part(tuple(problems), count)


def _all_fit(fits: Callable[[Any], bool], lines: list[bytes]) -> bool:
    try:
        return all(map(fits, map(orjson.loads, lines)))
    except (ValueError, TypeError):  # TypeError: the value is too deep
        return False


def _anything(_: Any) -> bool:
    return True


def _lines(blocks: Iterable[bytes], begin: int, stop: int | None, max_line: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield lists of whole lines that begin before `stop`, each with the offset of its first.

    Raises:
        _TooLong: a line is longer than `max_line`; those before it have been yielded.
    """
    pending: list[bytes] = []  # pieces of the line that is not complete
    held, offset = 0, begin
    for block in blocks:
        end = block.rfind(b"\n")
        if end < 0:
            pending.append(block)
            held += len(block)
            if held > max_line:
                raise _TooLong(offset)
            continue
        lines = b"".join([*pending, block[:end]]).split(b"\n")
        size = held + end + 1
        if stop is not None and offset + size >= stop:
            lines = _before(lines, offset, stop)
        if max(map(len, lines), default=0) > max_line:
            right = next(number for number, line in enumerate(lines) if len(line) > max_line)
            yield offset, lines[:right]
            raise _TooLong(offset + sum(map(len, lines[:right])) + right)
        yield offset, lines
        offset += size
        if stop is not None and offset >= stop:
            return
        tail = block[end + 1 :]
        pending, held = ([tail] if tail else []), len(tail)
    if held > max_line:
        raise _TooLong(offset)
    if held:
        yield offset, [b"".join(pending)]


def _before(lines: list[bytes], offset: int, stop: int) -> list[bytes]:
    """Return those lines that begin before `stop`."""
    for number, line in enumerate(lines):
        if offset >= stop:
            return lines[:number]
        offset += len(line) + 1
    return lines


def _explain(line: bytes, number: int, offset: int, schema: Schema | None) -> list[Problem]:
    """Say what is wrong with one line."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        reason, at = f"no JSON: {error.msg}", byte_of(error)
        if line.startswith(_BOM):
            reason, at = "no JSON: it begins with a byte order mark", 0
        elif b"\0" in line:
            reason, at = "no JSON: it has a byte 0", line.index(b"\0")
        return [Problem(check="structure", reason=reason, line=number, offset=offset + at)]
    assert schema is not None
    return schema.problems(value, line=number, offset=offset)


def byte_of(error: orjson.JSONDecodeError) -> int:
    """Return at which byte of its line or document an error is."""
    return len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))


def merge(parts: Iterable[Part], max_problems: int) -> Part:
    """Return what was found in ranges that follow each other, with the lines counted from the start of the first."""
    problems: list[Problem] = []
    before, is_complete = 0, True
    for part in parts:
        for problem in part.problems:
            problems.append(msgspec.structs.replace(problem, line=(problem.line or 0) + before))
        before += part.lines
        is_complete = part.is_complete
        if not is_complete:
            break  # how many lines there are before the next range is not known
    return Part(tuple(problems[:max_problems]), before, is_complete)
