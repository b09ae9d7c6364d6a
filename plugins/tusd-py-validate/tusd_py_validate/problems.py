"""What a check finds wrong, how much of it is kept, and how long a check may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

REASON_LENGTH = 300


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong, and where."""

    check: str
    """Which check found it: `type`, `size`, `checksum`, `structure`, `archive`, `schema` or `limit`."""
    reason: str
    line: int | None = None
    """Counted from 1; in a table the first line of the row."""
    offset: int | None = None
    """Where the line, or what is wrong, begins; in bytes from 0, after decompression."""
    path: str | None = None
    """Where in the row or header, as a JSON pointer; in an archive the name of the member."""
    row: int | None = None
    """Number of the row of a table, from 1."""

    def __str__(self) -> str:
        """Return the problem in one printable line."""
        named = {"line": self.line, "row": self.row, "byte": self.offset, "at": self.path}
        place = ", ".join(f"{name} {value}" for name, value in named.items() if value not in (None, ""))
        return printable(f"{self.check}: {self.reason}" + (f" ({place})" if place else ""))


def printable(text: str, length: int = REASON_LENGTH) -> str:
    """Return untrusted text as a line that can be logged: no control characters, and not too long."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:length])
    return shown + ("..." if len(text) > length else "")


class Stop(Exception):
    """Ends a check early; the problems say why."""


class Problems:
    """The problems of one upload, up to a maximum.

    Iterates over them; is false if there are none.
    """

    def __init__(self, maximum: int = 100) -> None:
        """Keep `maximum` problems."""
        self.maximum = maximum
        self._kept: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Keep a problem.

        Raises:
            Stop: it is the last one that is kept, so looking for more is of no use.
        """
        self._kept.append(problem)
        if self.is_full:
            raise Stop

    def add_last(self, problem: Problem) -> None:
        """Keep the problem that ended the checks, even if it is one too many."""
        self._kept.append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Keep several problems; raises `Stop` as `add` does."""
        for problem in problems:
            self.add(problem)

    @property
    def is_full(self) -> bool:
        """Whether no more are kept."""
        return len(self._kept) >= self.maximum

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


Progress = Callable[[str, int, int], None]
"""Is called with the step, the bytes that it has read, and how many there are."""


class Watch:
    """Tells how far a check is, and ends it when its time is over."""

    def __init__(self, progress: Progress | None = None, seconds: float = 3600) -> None:
        """Call `progress` every now and then; allow `seconds` from now on."""
        self._progress = progress
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def __call__(self, step: str, done: int, total: int) -> None:
        """Tell that `done` of `total` bytes have been read in a step.

        Raises:
            TimeUp: the check has taken too long.
        """
        if self._progress is not None:
            self._progress(step, done, total)
        if self.seconds_left <= 0:
            raise TimeUp(f"the checks took longer than {self._seconds:g} seconds")

    @property
    def seconds_left(self) -> float:
        """How long the check may still take; below 0 if its time is over."""
        return self._deadline - time.monotonic()


class TimeUp(Exception):
    """A check has taken too long."""
