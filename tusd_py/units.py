"""Sizes and durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", re.IGNORECASE | re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", re.IGNORECASE | re.ASCII)


def parse_size(value: object) -> int:
    """Return a number of bytes from 1000, "64M" (powers of 1000) or "10GiB" (powers of 1024).

    Raises:
        ValueError: it is neither.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if not match or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write 1000, 64M or 10GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_size(count: float) -> str:
    """Return bytes in the largest binary unit that leaves a number of at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_exact_size(count: int) -> str:
    """Return bytes as `parse_size` reads them, in the largest binary unit that leaves a whole number."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if count and count % parse_size(f"1{unit}") == 0:
            return f"{count // parse_size(f'1{unit}')}{unit}"
    return str(int(count))


def parse_duration(value: object) -> timedelta:
    """Return a duration from seconds or from "500ms", "30s", "15m", "36h" or "7d".

    Raises:
        ValueError: it is neither.
    """
    match = _DURATION.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a duration; write 500ms, 30s, 15m, 36h or 7d")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2].lower()])


def format_duration(value: timedelta) -> str:
    """Return the duration in its largest unit that leaves a whole number."""
    seconds = value.total_seconds()
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"
