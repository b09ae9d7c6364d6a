"""What the server asks of the kernel: when bytes are forced to the disk, and who copies them."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

pytestmark = pytest.mark.needs_strace

DATA = os.urandom(300_000)
T = TypeVar("T")


@contextlib.asynccontextmanager
async def traced(server: ServerProcess, calls: str, output: Path) -> AsyncIterator[None]:
    """Write the server's system calls of these names to a file, with the paths of descriptors."""
    process = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-y", "-p", str(server.pid), "-e", f"trace={calls}", "-o", str(output)),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = await process.stderr.readline()
    assert b"attached" in line, line
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()


def forced(output: Path) -> list[str]:
    """The names of the files that were forced to the disk."""
    return [Path(path).name for path in re.findall(r"(?:fsync|fdatasync)\(\d+<([^>]*)>", output.read_text())]


@pytest.mark.parametrize(
    ("policy", "created", "begun", "finished"),
    [
        pytest.param("never", [], [], [], id="never"),
        pytest.param("finish", [], [], ["bytes", "manifest"], id="finish"),
        pytest.param("chunk", ["manifest"], ["bytes"], ["bytes", "manifest"], id="chunk"),
    ],
)
async def test_fsync(
    start: Any, data: Path, tmp_path: Path, policy: str, created: list[str], begun: list[str], finished: list[str]
) -> None:
    """Bytes, and what stands for them, are forced to the disk before the answer that acknowledges them, or never."""
    server = start("--fsync", policy)
    client = RawClient(server.url)

    async def during(action: Coroutine[Any, Any, T]) -> tuple[T, list[str]]:
        output = tmp_path / "trace"
        async with traced(server, "fsync,fdatasync", output):
            result = await action
        upload = re.compile(r"([0-9a-f]{32})(.*\.tmp)?(?: \(deleted\))?")
        found = [upload.fullmatch(name) for name in forced(output)]
        return result, sorted({"manifest" if match[2] else "bytes" for match in found if match})

    # A first upload, so that what is done once is done.
    await client.create(5, body=b"first")
    url, files = await during(client.create(len(DATA)))
    assert files == created
    answer, files = await during(client.patch(url, 0, DATA[:1000]))
    assert (answer.status, files) == (204, begun)
    answer, files = await during(client.patch(url, 1000, DATA[1000:]))
    assert (answer.status, files) == (204, finished)


async def test_kernel_copies(start: Any, data: Path, tmp_path: Path) -> None:
    """A concatenation is copied by the kernel: no byte of it passes through the server."""
    server = start()
    client = RawClient(server.url)
    part = await client.create(len(DATA), {"Upload-Concat": "partial"}, DATA)
    output = tmp_path / "trace"
    async with traced(server, "copy_file_range,pread64,pwrite64,pwritev,pwritev2,read", output):
        answer = await client.post({"Upload-Concat": f"final;{part} {part}"})
    assert answer.status == 201
    name = answer.headers["Location"].rsplit("/", 1)[-1]
    await wait_until(lambda: (data / name).stat().st_size == 2 * len(DATA))
    lines = [line for line in output.read_text().splitlines() if f"/{name}>" in line or part.rsplit("/", 1)[-1] in line]
    copied = [int(line.rsplit("= ", 1)[1]) for line in lines if "copy_file_range(" in line and "resumed" not in line]
    assert sum(copied) == 2 * len(DATA)
    moved = [line for line in lines if "copy_file_range" not in line and ".info" not in line and ".lock" not in line]
    assert moved == []
