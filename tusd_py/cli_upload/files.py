"""Which files to send, and what a server is told of each."""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True)
class LocalFile:
    """A file to send; `relative_path` is set for those found in a directory."""

    path: Path
    size: int
    relative_path: str | None = None

    def metadata(self) -> dict[str, str]:
        """What a server is told of the file: `filename`, `filetype`, and Uppy's `relativePath`."""
        metadata = {
            "filename": _as_unicode(self.path.name),
            "filetype": mimetypes.guess_type(self.path.name)[0] or "application/octet-stream",
        }
        if self.relative_path is not None:
            metadata["relativePath"] = _as_unicode(self.relative_path)
        return metadata


def find_files(given: Iterable[Path], failures: dict[Path, str]) -> list[LocalFile]:
    """Return all files given or in directories given, each once; `failures` gets what cannot be read.

    Links to files count as files, links to directories are not followed.
    """
    files: dict[str, LocalFile] = {}
    for path, relative in _walk(given, failures):
        try:
            status = path.stat()
        except OSError as error:
            failures[path] = error.strerror or str(error)
            continue
        if stat.S_ISREG(status.st_mode):
            files.setdefault(os.path.abspath(path), LocalFile(path, status.st_size, relative))
        elif relative is None:
            raise click.BadParameter(f"{click.format_filename(path)} is neither a file nor a directory.")
        else:
            click.echo(f"{click.format_filename(path)}: passed over, not a file", err=True)
    return list(files.values())


def _walk(given: Iterable[Path], failures: dict[Path, str]) -> Iterator[tuple[Path, str | None]]:
    """The paths given, and those in directories with the way from (and with) the directory's own name."""

    def unreadable(error: OSError) -> None:
        failures[Path(error.filename)] = error.strerror or str(error)

    for top in given:
        if not top.is_dir():
            yield top, None
            continue
        name = Path(Path(os.path.abspath(top)).name)
        for directory, subdirectories, names in os.walk(top, onerror=unreadable):
            subdirectories.sort()
            links = [entry for entry in subdirectories if Path(directory, entry).is_symlink()]
            for entry in sorted(names + links):
                path = Path(directory, entry)
                yield path, (name / path.relative_to(top)).as_posix()


def _as_unicode(name: str) -> str:
    """Metadata is UTF-8; a file name on disk is any bytes."""
    return os.fsencode(name).decode("utf-8", "replace")
