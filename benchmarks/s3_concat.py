"""Partial uploads sent at once and concatenated, kept in S3: how long sending takes, and how long the final POST."""

from __future__ import annotations

import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bulk import MIB, create, make_source, patch
from s3_rounds import TUS_SERVERS, CannotTakePart, Figure, Turn, print_calls, print_table, take_turns
from servers import running, set_up_peers

from tusd_py.testing.s3 import S3Server


def upload(turn: Turn, root: Path, sources: list[Path], whole: Path) -> Figure:
    """Send all partial uploads at once, then concatenate them."""

    def send(source: Path) -> str:
        location = create(server.url, {"Upload-Length": str(source.stat().st_size), "Upload-Concat": "partial"})
        patch(location, source)
        return location

    with running(turn.name, root, s3=turn.endpoint) as server:
        turn.begin()
        cpu, started = server.cpu(), time.perf_counter()
        try:
            with ThreadPoolExecutor(len(sources)) as pool:
                locations = list(pool.map(send, sources))
            sent = time.perf_counter()
            create(server.url, {"Upload-Concat": "final;" + " ".join(locations)})
        except urllib.error.HTTPError as error:
            with error:
                raise CannotTakePart(
                    f"a POST of concatenation is answered with {error.code}: {error.read(80)!r}"
                ) from None
        figure = Figure([sent - started, time.perf_counter() - sent], server.cpu() - cpu, server.peak_memory())
        turn.check(whole)
    return figure


def run(root: Path, s3: S3Server, count: int, size_mib: int, rounds: int) -> None:
    """Print tables."""
    names = ["tusd-py", *set_up_peers(*TUS_SERVERS)]
    sources, whole = [root / f"source-{number}" for number in range(count)], root / "whole"
    with whole.open("wb") as file:
        for source in sources:
            make_source(source, size_mib * MIB)
            file.write(source.read_bytes())
    results = take_turns(s3, names, rounds, partial(upload, root=root, sources=sources, whole=whole))
    print(
        f"\n{count} partial uploads of {size_mib} MiB at once by curl, then the final POST, median of {rounds} rounds\n"
    )
    print_table(results, {"send": count * size_mib, "final POST": count * size_mib})
    print_calls(results, "all of that")
