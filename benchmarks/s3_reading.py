"""How fast plugins read what is on S3: `Content.open` of a worker and of another process, beside botocore's own stream.

    .venv/bin/python benchmarks/s3_reading.py --megabytes 1024

Starts SeaweedFS and stores one upload. Each reader is a process that reads it all in blocks of 1 MiB, in turns. CPU is
that of the reader alone; memory is its peak beyond what it had before it began.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tusd_py.body import Body
from tusd_py.models import Upload, now
from tusd_py.stores.s3 import S3Store, Settings
from tusd_py.stores.s3_client import Options
from tusd_py.testing.s3 import BUCKET, ENVIRONMENT, SeaweedServer

MIB = 1024 * 1024


def a_store(endpoint: str) -> S3Store:
    """Return a store in the bucket of the tests."""
    return S3Store(BUCKET, "reading/", Options(endpoint=endpoint, path_style=True), Settings())


async def stored(endpoint: str, size: int) -> tuple[Upload, bytes]:
    """Store an upload; return its record, and what another process gets if there is such a thing."""
    store, at = a_store(endpoint), now()
    await store.open()
    block = os.urandom(MIB)

    async def progress(upload: Upload) -> None:
        pass

    upload = await store.create(Upload(id="a" * 32, created_at=at, updated_at=at, length=size, metadata={}))
    body = Body.of([block] * (size // MIB))
    upload = await store.finish(await store.append(upload, body, progress))
    content = store.content(upload)
    try:
        given = await asyncio.to_thread(pickle.dumps, content)
    except TypeError:
        given = b""
    await store.aclose()
    return upload, given


def measured(opened: Callable[[], Any]) -> None:
    """Read it all, and print what that took."""
    memory, before, began = in_memory("VmRSS"), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    count = 0
    with contextlib.closing(opened()) as file:
        while block := file.read(MIB):
            count += len(block)
    wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(count, wall, cpu, in_memory("VmHWM") - memory)


def in_memory(figure: str) -> float:
    """Return what Linux says of this process's memory, in MiB: how much it is, or was at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(figure)) / 1024


async def in_worker(endpoint: str, upload: Upload) -> None:
    """Read in a thread beside the event loop of the store, as a plugin of a worker does."""
    store = a_store(endpoint)
    await store.open()
    content = store.content(upload)
    await asyncio.to_thread(measured, content.open)
    await store.aclose()


def in_another_process(given: bytes) -> None:
    """Read as a process that got the content by pickle."""
    content = pickle.loads(given)

    def opened() -> BinaryIO:
        return content.open()  # type: ignore[no-any-return]

    measured(opened)


def by_botocore(endpoint: str, upload: Upload) -> None:
    """Read the body of one `get_object`."""
    import botocore.session

    client = botocore.session.get_session().create_client("s3", endpoint_url=endpoint, region_name="us-east-1")
    key = f"reading/{upload.id}"
    measured(lambda: client.get_object(Bucket=BUCKET, Key=key)["Body"])


def main() -> None:
    """Run it all, or one reader in its process."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reader", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.reader:
        name, endpoint, folder = chosen.reader
        upload = pickle.loads((Path(folder) / "upload").read_bytes())
        if name == "open in a worker":
            asyncio.run(in_worker(endpoint, upload))
        elif name == "botocore":
            by_botocore(endpoint, upload)
        else:
            in_another_process((Path(folder) / "given").read_bytes())
        return
    size = chosen.megabytes * MIB
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder, SeaweedServer(Path(folder)) as s3:
        upload, given = asyncio.run(stored(s3.endpoint, size))
        (Path(folder) / "upload").write_bytes(pickle.dumps(upload))
        (Path(folder) / "given").write_bytes(given)
        readers = ["open in a worker", "botocore", *(["open in another process"] if given else [])]
        figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in readers}
        for _ in range(chosen.rounds):
            for name in readers:
                command = [sys.executable, __file__, "--reader", name, s3.endpoint, folder]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                assert int(said[0]) == size
                figures[name].append(tuple(map(float, said[1:])))
    print(f"| reader, {chosen.megabytes} MiB, median of {chosen.rounds} | wall s | CPU s | MB per CPU s | memory MiB |")
    print("|---|---|---|---|---|")
    for name, rows in figures.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {size / 1e6 / cpu:.0f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
