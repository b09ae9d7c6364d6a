"""What a person sees of an upload: bars on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Never

import click
from tqdm import tqdm

from tusd_py.cli_upload.files import LocalFile
from tusd_py.cli_upload.transfer import Sent
from tusd_py.units import format_size

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows nothing; the base of those that do. Results go to stdout, all the rest to stderr.

    `slot` is the number of the thread that sends a file. All methods may be called from any thread.
    """

    def __enter__(self) -> Progress:
        """Start to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal clean."""

    def begin(self, slot: int, file: LocalFile) -> None:
        """A thread has taken a file."""

    def position(self, slot: int, position: int) -> None:
        """A thread is at this offset of its file; it may go back when bytes were lost."""

    def end(self, slot: int, sent: Sent | None) -> None:
        """A thread is done with its file; None: it did not arrive."""

    def note(self, text: str) -> None:
        """Something that explains a delay."""

    def tick(self) -> None:
        """Called every second or so."""

    def result(self, line: str) -> None:
        """Print one line to stdout."""
        click.echo(line)


class Lines(Progress):
    """A line per file and one every few seconds, for logs."""

    def __init__(self, files: Sequence[LocalFile], slots: int) -> None:
        """Nothing is printed yet."""
        self._files = len(files)
        self._total = sum(file.size for file in files)
        self._positions = [0] * slots
        self._ended_bytes = 0
        self._ended_files = 0
        self._lock = threading.Lock()
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        self._sizes = [0] * slots

    def begin(self, slot: int, file: LocalFile) -> None:
        """Count from nothing."""
        self._sizes[slot] = file.size

    def position(self, slot: int, position: int) -> None:
        """Remember for the next line."""
        self._positions[slot] = position

    def end(self, slot: int, sent: Sent | None) -> None:
        """One line for a file that has arrived."""
        with self._lock:
            self._ended_files += 1
            self._ended_bytes += self._sizes[slot]
            self._positions[slot] = 0
        if sent is not None:
            took = f"in {sent.seconds:.1f} s"
            if sent.resumed_from:
                took += f", resumed at {format_size(sent.resumed_from)}"
            if sent.resumed_from == sent.size > 0:
                took = "was there already"
            click.echo(f"{click.format_filename(sent.file.path)}: {format_size(sent.size)} {took}", err=True)

    def note(self, text: str) -> None:
        """One line at once."""
        click.echo(text, err=True)

    def tick(self) -> None:
        """One line every few seconds."""
        if time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        with self._lock:
            done = self._ended_bytes + sum(self._positions)
            files = self._ended_files
        of_all = f"{format_size(done)} of {format_size(self._total)}"
        click.echo(f"{files} of {self._files} files, {of_all}", err=True)


class Bars(Progress):
    """One bar per file on its way, and one for all of them."""

    def __init__(self, files: Sequence[LocalFile], slots: int) -> None:
        """Nothing is drawn yet."""
        self._files = files
        self._lock = threading.Lock()
        self._bars: list[tqdm[Never] | None] = [None] * slots

    def __enter__(self) -> Bars:
        """Draw the bar for all files."""
        total = sum(file.size for file in self._files)
        self._all = self._bar("total", total, position=0)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars."""
        for bar in [*self._bars, self._all]:
            if bar is not None:
                bar.close()

    def begin(self, slot: int, file: LocalFile) -> None:
        """Draw a bar in the line of this thread."""
        self._bars[slot] = self._bar(click.format_filename(file.path, shorten=True), file.size, position=slot + 1)

    def position(self, slot: int, position: int) -> None:
        """Move the bar, and the one for all."""
        bar = self._bars[slot]
        if bar is not None:
            moved = position - bar.n
            bar.update(moved)
            with self._lock:  # several threads move it, and update() is no atomic addition
                self._all.update(moved)

    def end(self, slot: int, sent: Sent | None) -> None:
        """Remove the bar."""
        bar = self._bars[slot]
        self._bars[slot] = None
        if bar is not None:
            bar.close()

    def note(self, text: str) -> None:
        """Print above the bars."""
        tqdm.write(text, file=sys.stderr)

    def result(self, line: str) -> None:
        """Print above the bars, to stdout."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def _bar(self, name: str, total: int, position: int) -> tqdm[Never]:
        return tqdm(
            desc=name[-30:],
            total=total,
            position=position,
            leave=False,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            file=sys.stderr,
        )
