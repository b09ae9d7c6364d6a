"""What goes wrong in a scan. No message holds a byte of what was scanned."""

from __future__ import annotations


class ScanFailed(Exception):
    """The file cannot be looked into as a whole, so nothing can be said of it; the message says why, and where."""

    def __init__(self, reason: str, offset: int | None = None) -> None:
        super().__init__(reason if offset is None else f"{reason} (byte {offset})")


class Unreadable(ScanFailed):
    """The bytes cannot be read this time, for a reason that is not in them; another time they may."""


class RuleError(Exception):
    """A rule cannot be used; the message names it."""
