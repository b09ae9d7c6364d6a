"""A delivery that makes accepted texts searchable: a vector for each paragraph, in a table of SQLite.

    # tusd-py.toml
    plugin = ["examples/10_plugin_deliver_embeddings.py"]

    [plugins.10_plugin_deliver_embeddings]
    database = "vectors.db"

    python examples/10_plugin_deliver_embeddings.py vectors.db "resumable uploads"

Needs numpy. `embed` counts words and parts of words into buckets that their hashes choose: it needs no model and no
network, finds what shares words, and is the one function to replace by a model of yours. Up to some 100,000 paragraphs
a search that looks at each of them takes milliseconds; beyond that put the vectors into a store with an index.
"""

import sqlite3
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, BinaryIO

import msgspec
import numpy as np

from tusd_py import Upload, hookimpl
from tusd_py.hooks.specs import JobProgress
from tusd_py.models import Content

DIMENSIONS = 512
LONGEST_TEXT = 4000
TABLE = """CREATE TABLE IF NOT EXISTS vectors (
    upload TEXT NOT NULL, number INTEGER NOT NULL, filename TEXT, text TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID"""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    database: str


chosen: Settings


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> None:
    """Take the settings; without a database the server does not start."""
    global chosen
    chosen = msgspec.convert(settings, Settings)


def embed(text: str) -> np.ndarray:
    """Return a vector of length 1 for a text; texts that share words have vectors that point the same way."""
    vector = np.zeros(DIMENSIONS, np.float32)
    for word in "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split():
        padded = f"^{word}$"
        for piece in (word, *(padded[start : start + 3] for start in range(len(padded) - 2))):
            code = zlib.crc32(piece.encode())
            vector[code % DIMENSIONS] += (1 if code >> 31 else -1) * (1.0 if piece == word else 0.3)
    return vector / (np.linalg.norm(vector) or 1)


def opened(database: str) -> sqlite3.Connection:
    """Return the database, with its table."""
    connection = sqlite3.connect(database, timeout=60)
    connection.execute(TABLE)
    return connection


def paragraphs(file: BinaryIO) -> Iterator[str]:
    """Yield what stands between empty lines, in pieces that are not too long."""
    lines: list[str] = []
    while line := file.readline(LONGEST_TEXT):
        text = line.decode("utf-8", "replace").strip()
        if lines and (not text or sum(map(len, lines)) > LONGEST_TEXT):
            yield " ".join(lines)
            lines = []
        if text:
            lines.append(text)
    if lines:
        yield " ".join(lines)


@hookimpl
def deliver(upload: Upload, content: Content, progress: JobProgress) -> None:
    """Put the vectors of a text into the table, all or none; a second run puts the same there."""
    name = upload.metadata.get("filename", "")
    if not name.endswith((".txt", ".md")):
        return
    with content.open() as file, closing(opened(chosen.database)) as connection, connection:
        # A table of this connection alone, so that others can write until all vectors are made.
        connection.execute("CREATE TEMPORARY TABLE made AS SELECT * FROM vectors LIMIT 0")
        for number, text in enumerate(paragraphs(file)):
            row = (upload.id, number, name, text, embed(text).tobytes())
            connection.execute("INSERT INTO made VALUES (?, ?, ?, ?, ?)", row)
            progress(file.tell())
        connection.execute("DELETE FROM vectors WHERE upload = ?", (upload.id,))
        connection.execute("INSERT INTO vectors SELECT * FROM made")


def search(database: str, question: str, count: int = 5) -> list[tuple[float, str, str]]:
    """Return the nearest paragraphs: how near, of which file, and the text."""
    with closing(opened(database)) as connection:
        rows = connection.execute("SELECT filename, text, vector FROM vectors").fetchall()
    nearness = [float(np.frombuffer(vector, np.float32) @ embed(question)) for _, _, vector in rows]
    order = sorted(range(len(rows)), key=nearness.__getitem__, reverse=True)[:count]
    return [(nearness[number], rows[number][0], rows[number][1]) for number in order]


if __name__ == "__main__":
    for nearness, filename, text in search(sys.argv[1], " ".join(sys.argv[2:])):
        print(f"{nearness:.3f} {filename}: {text}")
