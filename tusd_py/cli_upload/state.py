"""Where unfinished uploads are remembered, so that the same command goes on with them."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path


def default_state_file() -> Path:
    """The state file in the user's state directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification says that a relative path in the variable is to be ignored.
    directory = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return directory / "tusd-py" / "uploads.sqlite3"


def file_key(path: Path, size: int, mtime_ns: int, endpoint: str) -> str:
    """One key per content of a file and endpoint: a file that has changed is another upload."""
    # repr of the raw bytes, because a file name need not be valid UTF-8.
    parts = [repr(os.fsencode(os.path.abspath(path))), size, mtime_ns, endpoint]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class UploadState:
    """Upload URL by file key, in a SQLite file: safe across threads, processes and crashes.

    tuspy's own storage (TinyDB) rewrites one JSON file without a lock, and loses URLs when several
    files go at once. Each call here opens its own connection, so that any thread may use it.
    """

    def __init__(self, path: Path) -> None:
        """Create the file if it is missing; raise `OSError` if it cannot be used."""
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever knows an upload's URL may write to it: the file is for its owner alone.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            with closing(self._connect()) as database:
                database.execute("CREATE TABLE IF NOT EXISTS uploads (key TEXT PRIMARY KEY, url TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise OSError(str(error)) from error

    def get(self, key: str) -> str | None:
        """The URL of the upload, or None if there is none."""
        with closing(self._connect()) as database:
            row = database.execute("SELECT url FROM uploads WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def put(self, key: str, url: str) -> None:
        """Remember the URL; it is on disk when this returns."""
        with closing(self._connect()) as database:
            database.execute("INSERT OR REPLACE INTO uploads (key, url) VALUES (?, ?)", (key, url))

    def forget(self, keys: Iterable[str]) -> None:
        """Forget uploads that are done, or that the server does not want any more."""
        with closing(self._connect()) as database, database:
            database.executemany("DELETE FROM uploads WHERE key = ?", ((key,) for key in keys))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None)
