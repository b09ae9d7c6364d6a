"""Many uploads at once, each sending chunks at the pace of its own line: latency of PATCH, CPU, memory, failures."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from servers import running

CHUNK = 1024 * 1024
_HEAD = "Host: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\n"


@dataclass
class Outcome:
    """What all clients saw."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: bytes = b""
) -> tuple[int, dict[str, str]]:
    """Send one request and return status and headers."""
    writer.write(head.encode())
    if body:
        writer.write(body)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers


async def client(url: str, chunks: int, pause: float, outcome: Outcome, data: bytes, start_after: float) -> None:
    """Create one upload and send its chunks, which are all `data`, one every `pause` seconds."""
    parts, size = urlsplit(url), len(data)
    try:
        await asyncio.sleep(start_after)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"POST {parts.path} HTTP/1.1\r\n{_HEAD}Upload-Length: {chunks * size}\r\nContent-Length: 0\r\n\r\n"
        status, headers = await exchange(reader, writer, head)
        if status != 201:
            raise RuntimeError(f"POST answered {status}")
        path = urlsplit(headers["location"]).path
        for number in range(chunks):
            started = time.perf_counter()
            head = (
                f"PATCH {path} HTTP/1.1\r\n{_HEAD}Upload-Offset: {number * size}\r\n"
                f"Content-Type: application/offset+octet-stream\r\nContent-Length: {size}\r\n\r\n"
            )
            status, headers = await exchange(reader, writer, head, data)
            seconds = time.perf_counter() - started
            outcome.latencies.append(seconds)
            if status != 204 or headers["upload-offset"] != str((number + 1) * size):
                raise RuntimeError(f"PATCH answered {status}")
            await asyncio.sleep(max(0.0, pause - seconds))
        writer.close()
    except Exception as error:
        outcome.failures.append(f"{type(error).__name__}: {error}")


async def load(url: str, uploads: int, chunks: int, pause: float, chunk: int = CHUNK) -> Outcome:
    """Run all clients."""
    outcome, data = Outcome(), os.urandom(chunk)
    starts = random.Random(1)
    await asyncio.gather(*(client(url, chunks, pause, outcome, data, starts.uniform(0, pause)) for _ in range(uploads)))
    return outcome


def run(root: Path, uploads: int, chunks: int, pause: float, workers: int) -> None:
    """Print a table."""
    with running("tusd-py", root, ["--workers", str(workers)]) as server:
        cpu, started = server.cpu(), time.perf_counter()
        outcome = asyncio.run(load(server.url, uploads, chunks, pause))
        wall = time.perf_counter() - started
        cpu, memory = server.cpu() - cpu, server.peak_memory()
        stored = [path for path in server.directory.iterdir() if len(path.name) == 32]
        complete = sum(path.stat().st_size == chunks * CHUNK for path in stored)
    print(f"\n{uploads} uploads at once, {chunks} chunks of 1 MiB each, one every {pause:g} s, {workers} worker(s)\n")
    print(f"  rate           {len(outcome.latencies) / wall:.0f} PATCH/s = MiB/s")
    print(f"  PATCH latency  {spread(outcome.latencies)}")
    print(f"  server CPU     {cpu:.1f} s of {wall:.1f} s")
    print(f"  peak memory    {memory / CHUNK:.0f} MiB")
    print(f"  complete       {complete} of {uploads}, failures {len(outcome.failures)} {outcome.failures[:3] or ''}")


def spread(latencies: list[float]) -> str:
    """Return what half, most and all of them took at most."""
    quantiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return (
        f"P50 {quantiles[49] * 1000:.0f} ms, P95 {quantiles[94] * 1000:.0f} ms, "
        f"P99 {quantiles[98] * 1000:.0f} ms, most {max(latencies, default=0) * 1000:.0f} ms"
    )
