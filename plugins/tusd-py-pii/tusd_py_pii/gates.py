"""Gates: cheap first looks at a buffer, which find the neighbourhoods that could hold anything, for many rules at once.

Without Hyperscan, a gate is a few passes of `find` over the buffer, or over a copy in which all digits look alike:
`re` would take ten times as long.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

SHAPE = bytes(
    48 if 48 <= byte <= 57 else 65 if 65 <= byte <= 90 else 97 if 97 <= byte <= 122 else byte for byte in range(256)
)
NUMBER_SIGNS = b" -./()+"
_NUMBER = b"0123456789" + NUMBER_SIGNS
_LETTERS_AND_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEX = b"0123456789abcdefABCDEF-"
_LONG_TOKEN = re.compile(rb"[A-Za-z0-9+/]{40,}")


class Buffer:
    """The data, and copies of it in which kinds of bytes look alike, made when somebody asks."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._known: dict[Spans, list[tuple[int, int]]] = {}

    def spans(self, find: Spans) -> list[tuple[int, int]]:
        """Return what a first look finds; several gates share one."""
        known = self._known.get(find)
        if known is None:
            known = self._known[find] = list(find(self))
        return known

    @functools.cached_property
    def shape(self) -> bytes:
        """The data with `0` for every digit, `A` for every capital and `a` for every small letter."""
        return self.data.translate(SHAPE)

    @functools.cached_property
    def lower(self) -> bytes:
        """The data in small letters."""
        return self.data.lower()


Spans = Callable[[Buffer], Iterator[tuple[int, int]]]


def _find(text: bytes, data: bytes) -> Iterator[tuple[int, int]]:
    place = data.find(text)
    while place >= 0:
        yield place, place + len(text)
        place = data.find(text, place + len(text))


def _literals(*texts: bytes) -> Spans:
    return lambda buffer: (span for text in texts for span in _find(text, buffer.data))


def _words(*texts: bytes) -> Spans:
    """Return where one of these is, in capitals or not."""
    return lambda buffer: (span for text in texts for span in _find(text, buffer.lower))


def _shapes(*shapes: bytes) -> Spans:
    return lambda buffer: (span for shape in shapes for span in _find(shape, buffer.shape))


def _shape_matches(pattern: bytes) -> Spans:
    expression = re.compile(pattern)
    return lambda buffer: (match.span() for match in expression.finditer(buffer.shape))


def _matches(pattern: bytes) -> Spans:
    expression = re.compile(pattern)
    return lambda buffer: (match.span() for match in expression.finditer(buffer.data))


def _numbers_behind_words(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return where a space and a digit follow a letter, or a sign that ends a word."""
    shape = buffer.shape
    place = shape.find(b" 0", 1)
    while place >= 0:
        before = shape[place - 1]
        if before in (97, 65, 46, 44, 39, 45) or before > 127:
            yield place - 1, place + 2
        place = shape.find(b" 0", place + 2)


def _runs(members: bytes, least: int) -> Callable[[Buffer], Iterator[tuple[int, int]]]:
    """Return the runs of at least so many of these bytes."""
    table = bytes(97 if byte in members else 32 for byte in range(256))
    run = b"a" * least

    def spans(buffer: Buffer) -> Iterator[tuple[int, int]]:
        flat = buffer.data.translate(table)
        place = flat.find(run)
        while place >= 0:
            end = flat.find(b" ", place)
            end = len(flat) if end < 0 else end
            yield place, end
            place = flat.find(run, end)

    return spans


_number_runs = _runs(_NUMBER, 6)
_token_runs = _runs(_LETTERS_AND_DIGITS + b"_-+/", 16)


def _numbers(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return the runs of digits and their signs, without signs at the ends, that could be something."""
    data = buffer.data
    for start, stop in _number_runs(buffer):
        text = data[start:stop]
        # The byte before is a plus at most, the one behind a letter.
        if (
            len(text.translate(None, NUMBER_SIGNS)) >= 7
            or text.count(b".") >= 3
            or b"+" in text
            or data[stop : stop + 1] == b"A"
        ):
            yield stop - len(text.lstrip(NUMBER_SIGNS)), start + len(text.rstrip(NUMBER_SIGNS))


def _tokens(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return the runs of what tokens are made of, but for numbers in hexadecimal."""
    data = buffer.data
    return (span for span in buffer.spans(_token_runs) if data[slice(*span)].translate(None, _HEX))


def _long_tokens(buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Return the parts of tokens that are made of their most usual signs."""
    data = buffer.data
    for start, stop in buffer.spans(_tokens):
        if stop - start >= 40:
            yield from (match.span() for match in _LONG_TOKEN.finditer(data, start, stop))


class Gate(NamedTuple):
    """A first look, and what is looked at around what it finds."""

    spans: Spans
    before: int
    """So far before a span a match or its trigger can begin."""
    after: int
    """So far behind a span a trigger can end."""
    by_shape: bool = False
    """Whether triggers take all digits for alike, all capitals and all small letters."""
    pattern: bytes = b""
    """What Hyperscan looks for: it ends at the end of a span, or, for a run, one byte behind. Without it Hyperscan
    looks for the triggers themselves."""
    width: int = 0
    """How long what Hyperscan finds can be; 0 for a run of `members`."""
    members: bytes = b""
    least: int = 0
    """For runs that Hyperscan finds only slowly as a whole: it is stopped when it has seen so many of `members`."""


# Every match of a rule with this gate overlaps a span, or has its trigger near it.
GATES: dict[str, Gate] = {
    "at": Gate(_literals(b"@"), 256, 2),
    # At least seven digits, or six behind a plus or before an A, or four and three dots.
    "digits": Gate(
        _numbers, 3, 6, by_shape=True, members=_NUMBER,
        pattern=rb"(?:[0-9](?:[ \-./()+]*[0-9]){6,}[ \-./()+]*|\+[0-9](?:[ \-./()+]*[0-9]){5}[ \-./()+]*"
        rb"|(?:[0-9]{1,3}\.){3}[0-9][0-9 \-./()+]*)[^0-9 \-./()+]|[0-9]{6}A",
    ),
    "upper": Gate(_shapes(b"AA00", b"AA 00"), 6, 48, pattern=rb"[A-Z]{2} ?[0-9]{2}", width=5),
    "colons": Gate(_matches(rb":[0-9A-Fa-f]{0,4}:"), 20, 20, pattern=rb":[0-9A-Fa-f]{0,4}:", width=6),
    "number_name": Gate(_shape_matches(rb"0[aA]?,? A"), 2, 100, pattern=rb"[0-9][A-Za-z]?,? [A-Z]", width=5),
    "number_word": Gate(_shape_matches(rb"0(?: aaa)?,? aaa"), 2, 16),
    "word_number": Gate(_numbers_behind_words, 12, 1, pattern=rb"[A-Za-z.,'\-\x80-\xff] [1-9]", width=3),
    "unit_number": Gate(_numbers_behind_words, 12, 10),
    "street_name": Gate(_numbers_behind_words, 180, 1),
    "token": Gate(_tokens, 16, 24),
    "token40": Gate(_long_tokens, 2, 2, members=_LETTERS_AND_DIGITS + b"+/", least=40),
    "begin": Gate(_literals(b"-----BEGIN "), 1, 60),
    "secret_word": Gate(_words(b"passw", b"pwd", b"secret", b"key", b"token"), 10, 12),
}  # fmt: skip
