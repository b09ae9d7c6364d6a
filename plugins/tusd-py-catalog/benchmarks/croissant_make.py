"""Writes data in every format that can be loaded, and the Croissant documents of it, into a folder.

The first half of `scripts/check-croissant`.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from tusd_py_catalog.child import Request, describe
from tusd_py_catalog.croissant import croissant
from tusd_py_catalog.entries import Entry, Source


def main(folder: Path) -> None:
    """Write rows.jsonl, rows.csv, rows.tsv and rows.parquet, each with a document beside it."""
    lines = folder / "rows.jsonl"
    with lines.open("w") as file:
        for number in range(20):
            row = {
                "id": number,
                "page url": f"https://example.org/{number}",
                "score": number / 7,
                "ok": number % 2 == 0,
                "tags": ["a", "b"],
                "place": {"lat": 48.2, "city": {"name": "Wien"}},
                "messages": [{"role": "user", "content": f"Question {number}, please?"}],
                "day": f"2026-11-{number + 1:02}",
            }
            file.write(json.dumps(row) + "\n")
    flat = f"SELECT * EXCLUDE (tags, messages, place) FROM read_json('{lines}')"
    for name, source, options in (
        ("rows.csv", flat, "format csv"),
        ("rows.tsv", flat, "format csv, delim '\t'"),
        ("rows.parquet", f"FROM read_json('{lines}')", "format parquet"),
    ):
        duckdb.execute(f"COPY ({source}) TO '{folder / name}' ({options})")
    for path in sorted(folder.glob("rows.*")):
        request = Request(
            path=str(path),
            name=path.name,
            media="",
            memory=2**28,
            threads=2,
            max_line=2**24,
            max_fields=100,
            sample_rows=0,
        )
        entry = Entry(
            upload_id=path.suffix[1:], owner="ann", name="rows", version=2, filename=path.name, description="Rows.",
            license="https://creativecommons.org/publicdomain/zero/1.0/", tags=("en",), sources=(Source("u1", "u1"),),
            created_at=datetime(2026, 11, 22, tzinfo=UTC), facts=describe(request, lambda done: None),
        )  # fmt: skip
        document = croissant(entry, "https://uploads.example.org/files/")
        path.with_name(path.name + ".croissant.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
