"""Locks shared by all processes of one machine: `flock` and a wake-up socket.

A lock is a file `<id>.lock` that its holder has locked with `flock`, so that the kernel frees it when the holder dies,
and that says at which Unix socket the holder can be asked. Who wants the lock sends a datagram there, and the holder
sends one back when it lets go. Datagrams only save time: a lost one costs a poll interval and no correctness.

The file is removed before the lock is released. Whoever then gets the lock of a removed file notices that the name
leads elsewhere, and tries anew. Fence numbers come from one counter file in the same directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import tempfile
import threading
from pathlib import Path

from tusd_py.config import Config, path_of
from tusd_py.errors import Locked, StoreUnavailable, from_os_error
from tusd_py.lockers.base import LetGo
from tusd_py.lockers.waiting import Waiting

# sun_path has 108 bytes on Linux and 104 on macOS.
MAX_SOCKET_PATH = 100


class FileLocker:
    """Locks in one directory."""

    def __init__(self, root: str | Path) -> None:
        """Use the directory `root`."""
        self._root = Path(root).absolute()
        self._first_fence = 1
        self._held: dict[str, FileLock] = {}
        self._waiting = Waiting()
        self._counter_lock = threading.Lock()
        self._counter = -1
        self._socket: socket.socket | None = None
        self._address = ""
        self._own_directory: Path | None = None

    @classmethod
    def from_url(cls, url: str, config: Config) -> FileLocker:
        """Return the locker of `file:DIRECTORY`."""
        return cls(path_of(url))

    async def open(self, first_fence: int = 1) -> None:
        """Make the directory, the counter and the wake-up socket.

        Numbers of locks begin at `first_fence` if no higher one was given out here.

        Raises:
            StoreUnavailable: that is not possible there.
        """
        self._first_fence = first_fence
        try:
            await asyncio.to_thread(self._prepare)
        except OSError as error:
            raise StoreUnavailable(f"cannot keep locks in {self._root}: {error.strerror}") from error
        assert self._socket is not None
        asyncio.get_running_loop().add_reader(self._socket, self._on_message)

    async def acquire(self, upload_id: str, *, timeout: float, let_go: LetGo, urgent: bool = True) -> FileLock:
        """Return the upload's lock, asking its holder wherever it runs."""
        async with contextlib.aclosing(self._waiting.tries(upload_id, timeout)) as tries:
            async for remaining in tries:
                taken = await self._take(upload_id)
                if not isinstance(taken, str):
                    lock = self._held[upload_id] = FileLock(self, upload_id, *taken, let_go)
                    return lock
                if remaining:
                    # Asked again every time: there may be another holder by now, or one that could not hear yet.
                    how = "now" if urgent else "if-stalled"
                    self._send(taken or self._address, f"ask {upload_id} {how} {self._address}")
        raise Locked()

    async def problem(self) -> str | None:
        """Return why no lock can be made in the directory, or None."""

        def probe() -> str | None:
            path = self._root / f".probe-{os.getpid()}"
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                path.unlink(missing_ok=True)  # it may be that two look at once
            except OSError as error:
                return f"cannot keep locks in {self._root}: {error.strerror}"
            return None

        return await asyncio.to_thread(probe)

    async def aclose(self) -> None:
        """Remove the wake-up socket."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            os.close(self._counter)

            def clean() -> None:
                Path(self._address).unlink(missing_ok=True)
                if self._own_directory:
                    self._own_directory.rmdir()

            await asyncio.to_thread(clean)

    async def _take(self, upload_id: str) -> tuple[int, int] | str:
        task = asyncio.ensure_future(asyncio.to_thread(self._try, self._root / f"{upload_id}.lock"))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if not task.exception() and not isinstance(taken := task.result(), str):
                os.close(taken[0])
            raise
        except OSError as error:
            raise from_os_error(error) from error

    def _try(self, path: Path) -> tuple[int, int] | str:
        """Return descriptor and fence of the lock, or the address of its holder."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_same_file(fd, path):
                    os.close(fd)
                    continue
                os.ftruncate(fd, 0)
                with contextlib.suppress(OSError):
                    # On a full disk there is no room for it: then only this process can ask, and others poll.
                    os.pwrite(fd, self._address.encode(), 0)
                return fd, self._next_fence()
            except BlockingIOError:
                holder = os.pread(fd, 4096, 0).decode(errors="replace")
                os.close(fd)
                return holder
            except BaseException:
                os.close(fd)
                raise

    def _next_fence(self) -> int:
        with self._counter_lock:
            fcntl.flock(self._counter, fcntl.LOCK_EX)
            try:
                fence = max(int(os.pread(self._counter, 32, 0) or b"0") + 1, self._first_fence)
                os.pwrite(self._counter, b"%020d" % fence, 0)
                return fence
            finally:
                fcntl.flock(self._counter, fcntl.LOCK_UN)

    def _prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._counter = os.open(self._root / "fence", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        server = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.setblocking(False)
        self._remove_dead_sockets()
        directory = self._root
        if len(os.fsencode(directory / f"{os.getpid()}-0000.sock")) > MAX_SOCKET_PATH:
            directory = self._own_directory = Path(tempfile.mkdtemp(prefix="tusd-py-"))
        for number in range(10_000):
            self._address = str(directory / f"{os.getpid()}-{number}.sock")
            with contextlib.suppress(FileExistsError):
                try:
                    server.bind(self._address)
                    break
                except OSError as error:
                    if not Path(self._address).exists():
                        raise error

    def _remove_dead_sockets(self) -> None:
        assert self._socket is not None
        for path in self._root.glob("*.sock"):
            try:
                self._socket.sendto(b"", str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue

    def _on_message(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                words = self._socket.recv(4096).decode(errors="replace").split(" ", 3)
                if words[0] == "ask" and len(words) == 4 and (lock := self._held.get(words[1])):
                    lock.askers.add(words[3])
                    lock.let_go(words[2] == "now")
                elif words[0] == "free" and len(words) == 2:
                    self._waiting.wake(words[1])

    def _send(self, address: str, message: str) -> None:
        if self._socket is not None and address:
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(), address)

    async def _release(self, lock: FileLock) -> None:
        self._held.pop(lock.upload_id, None)

        def free() -> None:
            try:
                with contextlib.suppress(OSError):  # a file that cannot be removed is as good for the next one
                    (self._root / f"{lock.upload_id}.lock").unlink()
            finally:
                os.close(lock.fd)

        task = asyncio.ensure_future(asyncio.to_thread(free))
        try:
            await asyncio.shield(task)
        finally:
            await asyncio.wait([task])
            for address in lock.askers:
                self._send(address, f"free {lock.upload_id}")


class FileLock:
    """A lock that is held."""

    def __init__(self, locker: FileLocker, upload_id: str, fd: int, fence: int, let_go: LetGo) -> None:
        """Hold the locked descriptor `fd`."""
        self.fence = fence
        self.upload_id = upload_id
        self.fd = fd
        self.let_go = let_go
        self.askers: set[str] = set()
        self._locker: FileLocker | None = locker

    async def release(self) -> None:
        """Let the next one in."""
        if self._locker is not None:
            locker, self._locker = self._locker, None
            await locker._release(self)


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
