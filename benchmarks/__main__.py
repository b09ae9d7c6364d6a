"""`scripts/bench`: compares tusd-py with its peers, and loads it with many uploads."""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import bulk
import many
import s3_bulk
import s3_chunked
import s3_concat
import s3_many
import verdict

from tusd_py.testing.s3 import SeaweedServer

ON_FILES = ("bulk", "many", "verdict")
ON_S3 = ("s3-bulk", "s3-chunked", "s3-concat", "s3-many")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=[*ON_FILES, *ON_S3, "all"], default="all")
    parser.add_argument("--directory", help="where servers store bytes (default: a new one in /dev/shm)")
    parser.add_argument("--size-mib", type=int, help="size of an upload, or of a partial one")
    parser.add_argument("--rounds", type=int, help="timed rounds, after one that is not")
    parser.add_argument("--uploads", type=int, default=1000, help="many, s3-many: uploads at once")
    parser.add_argument("--chunks", type=int, default=2, help="many, s3-many: chunks of each upload")
    parser.add_argument("--chunk-kib", type=int, default=512, help="s3-many: size of a chunk")
    parser.add_argument("--pause", type=float, default=10.0, help="many: seconds between the chunks of one upload")
    parser.add_argument("--workers", type=int, default=1, help="many: server processes")
    parser.add_argument("--rate", type=float, default=50.0, help="verdict: megabytes per second that arrive")
    parser.add_argument("--megabytes", type=int, default=1000, help="verdict: size of the upload")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536, hard))
    parent = arguments.directory or ("/dev/shm" if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="tusd-py-bench-", dir=parent) as directory:
        root, asked = Path(directory), [arguments.what] if arguments.what != "all" else [*ON_FILES, *ON_S3]
        if "bulk" in asked:
            bulk.run(root, arguments.size_mib or 2048, arguments.rounds or 5)
        if "many" in asked:
            many.run(root, arguments.uploads, arguments.chunks, arguments.pause, arguments.workers)
        if "verdict" in asked:
            verdict.run(root, arguments.megabytes, arguments.rate)
        if set(asked) & set(ON_S3):
            with SeaweedServer(root / "s3") as s3:
                if "s3-bulk" in asked:
                    s3_bulk.run(root, s3, arguments.size_mib or 1024, arguments.rounds or 5)
                if "s3-chunked" in asked:
                    s3_chunked.run(root, s3, arguments.size_mib or 256, arguments.rounds or 3)
                if "s3-concat" in asked:
                    s3_concat.run(root, s3, 4, arguments.size_mib or 64, arguments.rounds or 5)
                if "s3-many" in asked:
                    s3_many.run(root, s3, arguments.uploads, arguments.chunks, arguments.chunk_kib * 1024)


if __name__ == "__main__":
    main()
