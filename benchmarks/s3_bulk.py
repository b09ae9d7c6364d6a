"""One large PATCH by curl, kept in S3: beside other tus servers, and beside what sends the file to S3 directly."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from functools import partial
from pathlib import Path

from bulk import MIB, create, make_source, patch
from s3_rounds import TUS_SERVERS, Figure, Turn, print_calls, print_table, take_turns
from servers import HERE, PEERS, peak_memory_of, running, s3_environment, set_up_peers

from tusd_py.stores.s3 import Settings
from tusd_py.testing.s3 import BUCKET, S3Server

LIMITS = ("s5cmd", "boto3")


def send_directly(turn: Turn, source: Path) -> Figure:
    """Send the file with a client of S3; as large parts, and as many at once, as tusd-py sends."""
    settings = Settings()
    concurrency, part_size = str(settings.concurrency), settings.part_size
    commands = {
        "s5cmd": [
            str(PEERS / "s5cmd" / "s5cmd"), "--endpoint-url", turn.endpoint, "cp", "--concurrency", concurrency,
            "--part-size", str(part_size // MIB), str(source), f"s3://{BUCKET}/s5cmd",
        ],
        "boto3": [
            str(PEERS / "python" / "bin" / "python"), str(HERE / "peer_boto3.py"), str(source), concurrency,
            str(part_size),
        ],
    }  # fmt: skip
    turn.begin()
    memory, cpu, started = 0, _cpu_of_children(), time.perf_counter()
    with subprocess.Popen(
        commands[turn.name], env={**os.environ, **s3_environment(turn.endpoint)}, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            memory = max(memory, peak_memory_of(process.pid))
            time.sleep(0.01)
        wall = time.perf_counter() - started
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{turn.name} ended with {process.returncode}: {said}")
    turn.check(source)
    # Python's start and imports are not what is asked about.
    seconds = float(said) if turn.name == "boto3" else wall
    return Figure([seconds], _cpu_of_children() - cpu, memory)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def upload(turn: Turn, root: Path, source: Path) -> Figure:
    """Create an upload and send the file with one PATCH."""
    if turn.name in LIMITS:
        return send_directly(turn, source)
    with running(turn.name, root, s3=turn.endpoint) as server:
        turn.begin()
        cpu, started = server.cpu(), time.perf_counter()
        patch(create(server.url, {"Upload-Length": str(source.stat().st_size)}), source)
        figure = Figure([time.perf_counter() - started], server.cpu() - cpu, server.peak_memory())
        turn.check(source)
    return figure


def run(root: Path, s3: S3Server, size_mib: int, rounds: int) -> None:
    """Print tables."""
    names = ["tusd-py", *set_up_peers(*TUS_SERVERS, *LIMITS)]
    source = root / f"source-{size_mib}"
    make_source(source, size_mib * MIB)
    results = take_turns(s3, names, rounds, partial(upload, root=root, source=source))
    source.unlink()
    print(f"\n{size_mib} MiB in one PATCH by curl, kept in S3, median of {rounds} (least to most)\n")
    print_table(results, {"wall": size_mib})
    for name in LIMITS:
        if name in results:
            both = zip(results[name].walls(0), results["tusd-py"].walls(0), strict=True)
            print(f"tusd-py reaches {statistics.median(limit / ours for limit, ours in both):.2f} of {name}")
    print_calls(results, "that")
