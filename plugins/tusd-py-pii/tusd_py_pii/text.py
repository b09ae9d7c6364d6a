"""Makes text comparable: what looks like a digit, a dash, a space or a letter of ASCII becomes one.

Full-width and mathematical forms, digits of other scripts, non-breaking spaces and hyphens hide a value from patterns;
characters without width split it. Everything else keeps its UTF-8, which no pattern takes for a letter or a digit.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from itertools import accumulate

_RANGES = (
    (0xA0, 0x250), (0x660, 0x66A), (0x6F0, 0x6FA), (0x7C0, 0x7CA), (0x900, 0x1900), (0x1D00, 0x1DC0), (0x2000, 0x2500),
    (0x3000, 0x3001), (0xA620, 0xAC00), (0xFE00, 0xFFF0), (0x10400, 0x10500), (0x11000, 0x11E00), (0x1D400, 0x1D800),
    (0x1E900, 0x1EF00), (0xE0000, 0xE0200),
)  # fmt: skip


@functools.cache
def _table() -> dict[int, str]:
    table = {}
    for first, last in _RANGES:
        for code in range(first, last):
            folded = _folded(chr(code))
            if folded is not None:
                table[code] = folded
    return table


@functools.cache
def irregular() -> re.Pattern[bytes]:
    """Return what finds the characters that `fold` changes: text without them need not be decoded."""
    thirds: dict[bytes, set[int]] = {}
    for code in _table():
        encoded = chr(code).encode()
        last = thirds.setdefault(encoded[: min(2, len(encoded) - 1)], set())
        last.add(encoded[min(2, len(encoded) - 1)])
    parts = (re.escape(first) + b"[" + re.escape(bytes(sorted(last))) + b"]" for first, last in sorted(thirds.items()))
    return re.compile(b"|".join(parts))


def _folded(char: str) -> str | None:
    """Return what a character becomes, or None if it stays."""
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.digit(char))
    if category == "Cf" or char in "\u034f\ufe0f":
        return ""
    if category == "Zs":
        return " "
    if category in ("Zl", "Zp"):
        return "\n"
    if category == "Pd" or char == "\u2212":
        return "-" if char not in "\u2014\u2015" else None
    compatible = unicodedata.normalize("NFKC", char)
    return compatible if compatible.isascii() and compatible.strip() else None


def fold(text: str) -> str:
    """Return the text as patterns see it, without NUL."""
    if text.isascii():
        return text.replace("\0", " ") if "\0" in text else text
    return text.translate(_table()).replace("\0", " ")


def encode(text: str) -> bytes:
    """Return UTF-8; halves of surrogate pairs, which JSON can hold, become question marks."""
    return text.encode("utf-8", "replace")


def places(text: str) -> list[int]:
    """Return for each character where it begins in `encode(fold(text))`, and at last where that ends."""
    table = _table()
    sizes = (1 if code < 128 else len(encode(table[code] if code in table else chr(code))) for code in map(ord, text))
    return list(accumulate(sizes, initial=0))
