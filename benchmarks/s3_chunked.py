"""Many small PATCHes to one upload that is kept in S3, one after another on one connection."""

from __future__ import annotations

import http.client
import statistics
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bulk import MIB, create, make_source
from s3_rounds import TUS_SERVERS, Figure, Turn, print_calls, print_table, take_turns
from servers import running, set_up_peers

from tusd_py.testing.s3 import S3Server

COUNTED = 24
"""So many requests are sent in the round in which calls are counted, with a HEAD after each."""
# tuspyserver answers HEAD with 400 if one of the two is missing.
METADATA = "filename YQ==,filetype dGV4dC9wbGFpbg=="
_TUS = {"Tus-Resumable": "1.0.0"}


def send(turn: Turn, root: Path, size: int) -> Figure:
    """Send an upload in requests of 1 MiB."""
    source = root / f"source-{size}"
    data, latencies, asked = memoryview(source.read_bytes()), [], 0
    with running(turn.name, root, s3=turn.endpoint) as server:
        turn.begin()
        cpu, started = server.cpu(), time.perf_counter()
        address = urlsplit(create(server.url, {"Upload-Length": str(size), "Upload-Metadata": METADATA}))
        connection = http.client.HTTPConnection(address.netloc, timeout=300)
        for offset in range(0, size, MIB):
            begun = time.perf_counter()
            headers = {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            answer = ask(connection, "PATCH", address.path, headers, data[offset : offset + MIB])
            latencies.append(time.perf_counter() - begun)
            if (answer.status, answer.headers["Upload-Offset"]) != (204, str(offset + MIB)):
                raise RuntimeError(f"{turn.name} answered {answer.status} to PATCH")
            if turn.proxy is not None:
                before = turn.calls().total()
                answer = ask(connection, "HEAD", address.path, _TUS)
                if answer.headers["Upload-Offset"] != str(offset + MIB):
                    raise RuntimeError(f"{turn.name} answered {answer.status} to HEAD")
                asked += turn.calls().total() - before
        figure = Figure([time.perf_counter() - started], server.cpu() - cpu, server.peak_memory())
        connection.close()
        figure.notes = {"median": statistics.median(latencies), "calls of HEAD": asked}
        turn.check(source)
    return figure


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: dict[str, str],
    body: memoryview | None = None,
) -> http.client.HTTPResponse:
    """Send one request, and return its answer, which has been read."""
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer


def upload(turn: Turn, root: Path, size: int) -> Figure:
    """Send all of it, or what is enough to count calls."""
    return send(turn, root, COUNTED * MIB if turn.proxy else size)


def run(root: Path, s3: S3Server, size_mib: int, rounds: int) -> None:
    """Print tables."""
    names = ["tusd-py", *set_up_peers(*TUS_SERVERS)]
    for size in (size_mib * MIB, COUNTED * MIB):
        make_source(root / f"source-{size}", size)
    results = take_turns(s3, names, rounds, partial(upload, root=root, size=size_mib * MIB))
    print(f"\n{size_mib} MiB in PATCHes of 1 MiB one after another, kept in S3, median of {rounds} (least to most)\n")
    print_table(results, {"wall": size_mib})
    print("\nmedian of one PATCH: ", end="")
    medians = {
        name: statistics.median(each.notes["median"] for each in result.figures) for name, result in results.items()
    }
    print(", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in medians.items()))
    print_calls(results, f"{COUNTED} PATCHes of 1 MiB with creation and completion, and a HEAD after each")
    for name, result in results.items():
        heads = result.notes["calls of HEAD"]
        print(f"{name:18}{result.calls.total() - heads} without those of HEAD, which are {heads / COUNTED:.1f} each")
