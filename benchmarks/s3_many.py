"""Many uploads at once that one process keeps in S3: whether any fails, and whether memory stays in its bounds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bulk import MIB
from many import load, spread
from s3_rounds import empty_bucket, objects
from servers import running

from tusd_py.config import Config
from tusd_py.testing.s3 import S3Server

OWN_MEMORY = 80 * MIB
"""What docs/s3.md says that a process takes besides the two budgets, and"""
PER_REQUEST = 128 * 1024
"""for each request that is under way."""


def run(root: Path, s3: S3Server, uploads: int, chunks: int, chunk: int) -> None:
    """Print figures."""
    config = Config()
    budget = OWN_MEMORY + config.buffer_memory + config.s3_memory + uploads * PER_REQUEST
    with empty_bucket(s3), running("tusd-py", root, s3=s3.endpoint) as server:
        cpu, started = server.cpu(), time.perf_counter()
        outcome = asyncio.run(load(server.url, uploads, chunks, 0, chunk))
        wall = time.perf_counter() - started
        cpu, memory = server.cpu() - cpu, server.peak_memory()
        complete = sum(item["Size"] == chunks * chunk and "." not in item["Key"] for item in objects(s3))
    moved = len(outcome.latencies) * chunk / MIB
    print(f"\n{uploads} uploads at once, {chunks} chunks of {chunk // 1024} KiB each, kept in S3\n")
    print(f"  rate           {len(outcome.latencies) / wall:.0f} PATCH/s, {moved / wall:.0f} MiB/s")
    print(f"  PATCH latency  {spread(outcome.latencies)}")
    print(f"  server CPU     {cpu:.1f} s of {wall:.1f} s")
    print(f"  peak memory    {memory / MIB:.0f} MiB of {budget / MIB:.0f} MiB that docs/s3.md allows")
    print(f"  complete       {complete} of {uploads}, failures {len(outcome.failures)} {outcome.failures[:3] or ''}")
