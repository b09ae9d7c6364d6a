"""The file locker between processes, and with what crashes and other people leave in its directory."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tusd_py.errors import Locked, StoreUnavailable
from tusd_py.lockers.file import FileLocker
from tusd_py.testing.contracts import wait_until


@pytest.fixture
async def locker(tmp_path: Path) -> AsyncIterator[FileLocker]:
    """An open locker."""
    locker = FileLocker(tmp_path / "locks")
    await locker.open()
    yield locker
    await locker.aclose()


@contextlib.asynccontextmanager
async def holder(root: Path, how: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that takes the lock `one`; it has it when this returns."""
    script = str(Path(__file__).with_name("holder.py"))
    command = [sys.executable, script, str(root), "one", how]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        if how != "often":
            assert await process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def ignore(urgent: bool) -> None:
    """Do not let go."""


async def test_process_that_lets_go(locker: FileLocker, tmp_path: Path) -> None:
    """A process that lets go when it is asked is followed at once."""
    async with holder(tmp_path / "locks", "polite"):
        started = time.monotonic()
        lock = await locker.acquire("one", timeout=5, let_go=ignore)
        assert time.monotonic() - started < 1
        await lock.release()


async def test_killed_process(locker: FileLocker, tmp_path: Path) -> None:
    """The lock of a process that is killed is free at once."""
    async with holder(tmp_path / "locks", "stubborn") as process:
        with pytest.raises(Locked):
            await locker.acquire("one", timeout=0.1, let_go=ignore)
        process.kill()
        await process.wait()
        started = time.monotonic()
        lock = await locker.acquire("one", timeout=0, let_go=ignore)
        assert time.monotonic() - started < 0.5
        await lock.release()


async def test_process_that_stands_still(locker: FileLocker, tmp_path: Path) -> None:
    """A process that stands still keeps its lock, and gives it up when it runs again."""
    async with holder(tmp_path / "locks", "polite") as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(Locked):
            await locker.acquire("one", timeout=0.3, let_go=ignore)
        process.send_signal(signal.SIGCONT)
        lock = await locker.acquire("one", timeout=5, let_go=ignore)
        await lock.release()


async def test_processes_take_turns(locker: FileLocker, tmp_path: Path) -> None:
    """Processes that want the same lock have it one after the other, each with a higher number than the last."""
    root = tmp_path / "locks"
    async with holder(root, "often") as one, holder(root, "often") as two:
        numbers = []
        for process in (one, two):
            output, _ = await process.communicate()
            assert process.returncode == 0
            words = [int(word) for word in output.split()]
            # Nobody else had the lock between taking and releasing it.
            assert words[0::2] == words[1::2]
            assert words == sorted(words)
            numbers += words[0::2]
    assert len(set(numbers)) == 20


async def test_numbers_survive(tmp_path: Path) -> None:
    """Numbers go on where the last server stopped, or where the records say, whichever is higher."""
    fences = []
    for first in (1, 1, 50, 2):
        locker = FileLocker(tmp_path)
        await locker.open(first)
        lock = await locker.acquire("one", timeout=0, let_go=ignore)
        fences.append(lock.fence)
        await lock.release()
        await locker.aclose()
    assert fences == [1, 2, 50, 51]


async def test_nothing_is_left(locker: FileLocker, tmp_path: Path) -> None:
    """Locks leave no files, and a locker that is closed leaves no socket."""
    for number in range(5):
        await (await locker.acquire(f"upload{number}", timeout=0, let_go=ignore)).release()
    other = FileLocker(tmp_path / "locks")
    await other.open()
    await other.aclose()
    own = {f"{os.getpid()}-0.sock"} if not locker._own_directory else set()
    assert {path.name for path in (tmp_path / "locks").iterdir()} == {"fence"} | own


async def test_socket_of_a_killed_process(locker: FileLocker, tmp_path: Path) -> None:
    """What a killed process leaves behind is cleared away by the next that starts."""
    root = tmp_path / "locks"
    async with holder(root, "stubborn") as process:
        process.kill()
        await process.wait()
        left = list(root.glob(f"{process.pid}-*.sock"))
    if len(os.fsencode(root)) < 80:
        assert left
    async with holder(root, "stubborn"):
        assert not any(path.exists() for path in left)


async def test_name_that_cannot_be_removed(locker: FileLocker, tmp_path: Path) -> None:
    """A lock whose file cannot be removed is released all the same."""
    path = tmp_path / "locks" / "one.lock"
    lock = await locker.acquire("one", timeout=0, let_go=ignore)
    path.unlink()
    path.mkdir()
    await lock.release()
    path.rmdir()
    await (await locker.acquire("one", timeout=0, let_go=ignore)).release()


async def test_old_lock_file(locker: FileLocker, tmp_path: Path) -> None:
    """A lock file that nobody holds is no lock, whatever is in it."""
    for content in (b"", b"nonsense\0" * 1000, str(tmp_path / "nobody.sock").encode()):
        (tmp_path / "locks" / "one.lock").write_bytes(content)
        await (await locker.acquire("one", timeout=0, let_go=ignore)).release()


async def test_strangers_on_the_socket(locker: FileLocker, tmp_path: Path) -> None:
    """Whatever is sent to the wake-up socket, locks work."""
    lock = await locker.acquire("one", timeout=0, let_go=ignore)
    for message in (b"", b"ask", b"ask one", b"free", b"free one two", b"\xff" * 100, b"ask nobody now x"):
        assert locker._socket is not None
        locker._socket.sendto(message, locker._address)
    waiter = asyncio.create_task(locker.acquire("one", timeout=5, let_go=ignore))
    await asyncio.sleep(0.05)
    await lock.release()
    await (await waiter).release()


async def test_lost_directory(locker: FileLocker, tmp_path: Path) -> None:
    """While the directory is away no lock is given out; afterwards all is as before."""
    (tmp_path / "locks").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable):
        await locker.acquire("one", timeout=1, let_go=ignore)
    (tmp_path / "away").rename(tmp_path / "locks")
    await (await locker.acquire("one", timeout=1, let_go=ignore)).release()


async def test_directory_that_is_a_file(tmp_path: Path) -> None:
    """What is wrong with the directory is said to the operator, with its path."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "file")):
        await FileLocker(tmp_path / "file").open()


async def test_waiters_are_woken(locker: FileLocker, tmp_path: Path) -> None:
    """Who has waited for long gets the lock when it is free, not when it next looks."""
    fastest = 9.0
    for _ in range(5):
        lock = await locker.acquire("one", timeout=0, let_go=ignore)
        waiter = asyncio.create_task(locker.acquire("one", timeout=10, let_go=ignore))
        await asyncio.sleep(1)  # by now it looks four times a second
        started = time.monotonic()
        await lock.release()
        await (await waiter).release()
        fastest = min(fastest, time.monotonic() - started)
        if fastest < 0.05:
            return
    pytest.fail(f"took {fastest} seconds at best")


async def test_no_descriptors_leak(locker: FileLocker) -> None:
    """Locks that were waited for in vain, dropped or released leave no open files."""
    await (await locker.acquire("one", timeout=0, let_go=ignore)).release()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        lock = await locker.acquire("one", timeout=0, let_go=ignore)
        waiter = asyncio.create_task(locker.acquire("one", timeout=10, let_go=ignore))
        with pytest.raises(Locked):
            await locker.acquire("one", timeout=0, let_go=ignore)
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        await lock.release()
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
