"""One large PATCH by curl to each server in turn: time, CPU, memory, and whether the bytes are the same."""

from __future__ import annotations

import filecmp
import os
import statistics
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from servers import Running, running, set_up_peers

MIB = 1024 * 1024


@dataclass
class Figure:
    """What one upload cost."""

    wall: float
    cpu: float
    memory: int


def make_source(path: Path, size: int) -> None:
    """Write random bytes."""
    if path.exists() and path.stat().st_size == size:
        return
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def create(url: str, headers: dict[str, str]) -> str:
    """Create an upload and return its URL."""
    request = urllib.request.Request(url.rstrip("/"), method="POST", headers={"Tus-Resumable": "1.0.0", **headers})
    with urllib.request.urlopen(request) as response:
        location = response.headers["Location"]
    return urljoin(url, location)


def patch(location: str, source: Path) -> None:
    """Send a file with one PATCH."""
    status = subprocess.run(
        [
            "curl", "--silent", "--show-error", "--output", os.devnull, "--write-out", "%{http_code}",
            "--request", "PATCH", "--upload-file", str(source), "--header", "Expect:",
            "--header", "Tus-Resumable: 1.0.0", "--header", "Upload-Offset: 0",
            "--header", "Content-Type: application/offset+octet-stream", location,
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if status != "204":
        raise RuntimeError(f"{location} answered {status}")


def upload(server: Running, source: Path) -> Figure:
    """Send the file with one PATCH, check it, and remove it."""
    location = create(server.url, {"Upload-Length": str(source.stat().st_size)})
    cpu, started = server.cpu(), time.perf_counter()
    patch(location, source)
    figure = Figure(time.perf_counter() - started, server.cpu() - cpu, server.peak_memory())
    stored = server.directory / location.rstrip("/").rpartition("/")[2]
    if not filecmp.cmp(source, stored, shallow=False):
        raise RuntimeError(f"{server.name} stored other bytes")
    stored.unlink()
    return figure


def run(root: Path, size_mib: int, rounds: int) -> None:
    """Print a table."""
    names = ["tusd-py", *set_up_peers("tusd", "@tus/server", "tuspyserver")]
    source = root / f"source-{size_mib}"
    make_source(source, size_mib * MIB)
    figures: dict[str, list[Figure]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            # A new process each time, so that no server's memory or cache is another round's.
            with running(name, root) as server:
                figure = upload(server, source)
            if number:  # the first round warms up the page cache
                figures[name].append(figure)
    source.unlink()
    print(f"\n{size_mib} MiB in one PATCH by curl, median of {rounds} (least to most)\n")
    print(f"{'server':14}{'wall s':>22}{'MiB/s':>9}{'CPU s':>22}{'peak MiB':>10}{'wall ratio':>12}{'CPU ratio':>11}")
    ours = figures["tusd-py"]
    for name in names:
        wall, cpu = [figure.wall for figure in figures[name]], [figure.cpu for figure in figures[name]]
        # Ratios are taken round by round: neighbours in time share the machine's mood.
        wall_ratio = statistics.median(theirs / mine.wall for theirs, mine in zip(wall, ours, strict=True))
        cpu_ratio = statistics.median(theirs / mine.cpu for theirs, mine in zip(cpu, ours, strict=True))
        print(
            f"{name:14}{spread(wall):>22}{size_mib / statistics.median(wall):9.0f}{spread(cpu):>22}"
            f"{max(figure.memory for figure in figures[name]) / MIB:10.0f}{wall_ratio:11.2f}x{cpu_ratio:10.2f}x"
        )


def spread(values: list[float]) -> str:
    """Return the median, the least and the most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
