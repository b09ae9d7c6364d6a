"""`scripts/bench`: compares tusd-py with its peers, and loads it with many uploads."""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import bulk
import many


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["bulk", "many", "all"], default="all")
    parser.add_argument("--directory", help="where servers store bytes (default: a new one in /dev/shm)")
    parser.add_argument("--size-mib", type=int, default=2048, help="bulk: size of the upload")
    parser.add_argument("--rounds", type=int, default=5, help="bulk: counted rounds, after one that is not counted")
    parser.add_argument("--uploads", type=int, default=1000, help="many: uploads at once")
    parser.add_argument("--chunks", type=int, default=2, help="many: chunks of each upload")
    parser.add_argument("--pause", type=float, default=10.0, help="many: seconds between the chunks of one upload")
    parser.add_argument("--workers", type=int, default=1, help="many: server processes")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536, hard))
    parent = arguments.directory or ("/dev/shm" if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="tusd-py-bench-", dir=parent) as directory:
        if arguments.what in ("bulk", "all"):
            bulk.run(Path(directory), arguments.size_mib, arguments.rounds)
        if arguments.what in ("many", "all"):
            many.run(Path(directory), arguments.uploads, arguments.chunks, arguments.pause, arguments.workers)


if __name__ == "__main__":
    main()
