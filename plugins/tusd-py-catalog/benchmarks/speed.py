"""Measures how fast uploads are described, and with how much memory.

    python plugins/tusd-py-catalog/benchmarks/speed.py              JSON Lines, CSV and Parquet of 1 GB each
    python plugins/tusd-py-catalog/benchmarks/speed.py --size 10    of 10 GB each, for as long as the disk has room
    python plugins/tusd-py-catalog/benchmarks/speed.py --only csv   one of them

Each is described as a server does it: in a process of its own, with its SHA-256 and a redacted sample. The columns are
megabytes per second of the clock, megabytes per second of processor time, and the most memory that the process had in
RAM. Where others use the machine the second says more: two threads work, so an idle machine with two cores does about
twice as much per second. Of Parquet, "text" counts its bytes unpacked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from tusd_py_catalog import child, samples
from tusd_py_catalog.settings import Settings

WORDS = (
    "the model returns a vector of values when it is given input text and we compare the result with a baseline on "
    "held out data before training goes on with a smaller rate so that loss falls and nothing breaks in between"
)
BLOCK = 50_000_000
GB = 1_000_000_000


def rows(size: int) -> bytes:
    """Return rows of chat data as JSON lines, of about this size and all different."""
    chance, words, lines, held = random.Random(5), WORDS.split(), [], 0
    while held < size:
        row = {
            "id": f"{chance.getrandbits(128):032x}",
            "source": f"https://example.org/page/{chance.randrange(10**6)}",
            "lang": chance.choice(["en", "de", "fr"]),
            "created": f"2026-0{chance.randint(1, 9)}-1{chance.randint(0, 9)}T10:00:0{chance.randint(0, 9)}Z",
            "score": round(chance.random(), 6),
            "tokens": chance.randint(1, 5000),
            "prompt": " ".join(chance.choices(words, k=40)),
            "answer": " ".join(chance.choices(words, k=80)),
        }
        lines.append(json.dumps(row) + "\n")
        held += len(lines[-1])
    return "".join(lines).encode()


def write(folder: Path, kind: str, size: int) -> Path:
    """Write a file of about this size of text; what is beyond the first block repeats."""
    block, lines = rows(min(size, BLOCK)), folder / "block.jsonl"
    lines.write_bytes(block)
    path = folder / f"rows.{kind}"
    source = f"read_json('{lines}', format = 'newline_delimited')"
    if kind == "jsonl":
        with path.open("wb") as file:
            for _ in range(max(1, size // len(block))):
                file.write(block)
    elif kind == "csv":
        duckdb.execute(f"COPY (FROM {source}) TO '{folder / 'block.csv'}' (format csv)")
        header, _, body = (folder / "block.csv").read_bytes().partition(b"\n")
        with path.open("wb") as file:
            file.write(header + b"\n")
            for _ in range(max(1, size // len(body))):
                file.write(body)
    else:
        times = max(1, size // len(block))
        duckdb.execute(
            f"COPY (SELECT rows.* FROM {source} rows, range({times})) TO '{path}' (format parquet, compression zstd, "
            "row_group_size 100000)"
        )
    return path


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process: a process begins with the memory of its parent, and that would count."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(path: Path) -> tuple[float, float, int]:
    """Return the seconds of the clock and of the processors that describing takes, and the megabytes."""
    settings = Settings()
    request = child.Request(
        path=str(path),
        name=path.name,
        media="",
        memory=int(settings.memory),
        threads=settings.threads,
        max_line=int(settings.max_line),
        max_fields=settings.max_fields,
        sample_rows=settings.sample_rows,
        redaction=samples.rules(),
    )
    before, started = _used(), time.monotonic()
    facts = child.describe(request, lambda done: None)  # this process is new, and counts what it uses itself
    assert facts.rows, facts.problems
    assert not facts.problems, facts.problems
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return time.monotonic() - started, _used() - before, peak


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1, help="gigabytes of each file")
    parser.add_argument("--only", choices=["jsonl", "csv", "parquet"], help="one format")
    parser.add_argument("--dir", help="where the files are made")
    chosen = parser.parse_args()
    print("| Format | GB | MB/s | MB per second of processor | Peak MB |\n| --- | --- | --- | --- | --- |")
    for kind in [chosen.only] if chosen.only else ["jsonl", "csv", "parquet"]:
        with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
            path = apart(write, Path(folder), kind, int(chosen.size * GB))
            size, text = path.stat().st_size, ""
            if kind == "parquet":
                size, text = int(chosen.size * GB), ", as text"
            clock, used, peak = apart(measure, path)
            speeds = f"{size / clock / 1e6:.0f} | {size / used / 1e6:.0f}"
            print(f"| {kind}{text} | {size / GB:.1f} | {speeds} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
