"""The fork server of `tusd_py.processes`, and the processes that it makes: copies of itself with limits.

It is a program of its own (`serve`), which holds two pairs of sockets for every call: `data` leads to the process that
does the call's tasks, `life` from the fork server to the caller. If the caller's end of `life` is closed, the process
is killed; when it has ended, `life` tells how.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tusd_py.errors import Reject
from tusd_py.ranges import Unreachable

IDLE_SECONDS = 60.0
MAX_TEXT = 300
NO_MEMORY = 3
"""The exit status of a process that needs more memory."""
_PROGRESS_SECONDS = 0.2
_NICENESS = 5
_PR_SET_PDEATHSIG = 1
_TASKS = Path("/proc/self/task")
_HEAD = struct.Struct("=cQ")
TASK, RESULT, PROGRESS, REJECT, UNREACHABLE, FAILED, STARTED, ENDED = (bytes([letter]) for letter in b"trpxufse")


# What both sides say to each other: a letter, a length, and so many bytes.


def send(to: socket.socket, kind: bytes, said: bytes) -> None:
    """Send a message."""
    to.sendall(_HEAD.pack(kind, len(said)) + said)


def receive(
    source: socket.socket, limit: int | None = None, seconds_left: Callable[[], float] | None = None
) -> tuple[bytes, bytes]:
    """Return kind and content of the next message.

    Raises:
        EOFError: there is none.
        ValueError: it is longer than the limit.
    """
    kind, size = _HEAD.unpack(_exactly(source, _HEAD.size, seconds_left))
    if limit is not None and size > limit:
        raise ValueError(f"a message of {size} bytes")
    return kind, _exactly(source, size, seconds_left)


def _exactly(source: socket.socket, size: int, seconds_left: Callable[[], float] | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if seconds_left is not None:
            source.settimeout(seconds_left())
        block = source.recv(min(size - len(data), 2**20))
        if not block:
            raise EOFError
        data += block
    return bytes(data)


# The fork server.


def serve(number: int) -> None:
    """Start processes for who holds the other end of this socket, until it is closed or nobody calls for a while."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # all end with the server, which may have to finish what it does
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    with contextlib.suppress(OSError, EOFError):
        _Serving(socket.socket(fileno=number)).serve()
    os._exit(0)


class _Serving:
    """The fork server's side of all calls."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lives: dict[int, socket.socket] = {}
        self._foul: str | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        for each in (self._wake, self._woken):
            each.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken.fileno())
        for each in (control, self._wake):
            self._selector.register(each, selectors.EVENT_READ)

    def serve(self) -> None:
        """Start and end processes; raises `EOFError` when the caller has ended."""
        try:
            while events := self._selector.select(None if self._lives else IDLE_SECONDS):
                for key, _ in events:
                    if key.fileobj is self._control:
                        self._take()
                    elif key.fileobj is self._wake:
                        self._wake.recv(4096)
                    else:  # its call is over
                        self._selector.unregister(key.fileobj)
                        os.kill(key.data, signal.SIGKILL)
                self._bury()
        finally:
            for pid in self._lives:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _take(self) -> None:
        said, numbers, *_ = socket.recv_fds(self._control, 1, 2)
        if not said:
            raise EOFError
        data, life = (socket.socket(fileno=number) for number in numbers)
        with data:
            try:
                order = json.loads(receive(life)[1])
                sys.path[:] = order["path"]
                self._import(order["modules"])
                server, pid = os.getpid(), os.fork()
            except Exception as error:
                with contextlib.suppress(OSError):
                    send(life, FAILED, f"{type(error).__name__}: {error}"[:MAX_TEXT].encode()[:MAX_TEXT])
                life.close()
                return
            if pid == 0:
                self._be_a_process(data, life, server, order)
        self._lives[pid] = life
        self._selector.register(life, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):  # its call is over
            send(life, STARTED, b"")

    def _import(self, modules: dict[str, str | None]) -> None:
        """Import modules, from their files if they are not to be found by their names.

        Raises:
            ImportError: one starts a thread, or did before: a copy of a process without its threads may hang.
            Exception: one cannot be imported.
        """
        missing = [name for name in modules if name not in sys.modules]
        for name in missing:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                path = modules[name]
                spec = importlib.util.spec_from_file_location(name, path) if path else None
                if spec is None or spec.loader is None:
                    raise
                module = importlib.util.module_from_spec(spec)
                sys.modules[name] = module
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[name]
                    raise
        if missing:
            gc.collect()
            gc.freeze()  # what is never looked at is never copied
            if _TASKS.is_dir() and len(os.listdir(_TASKS)) > 1:
                self._foul = self._foul or f"a thread is started when {' or '.join(missing)} is imported"
        if self._foul is not None:
            raise ImportError(self._foul)

    def _bury(self) -> None:
        """Tell how those processes ended that have."""
        while self._lives:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._lives.pop(pid) as life:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(life)
                with contextlib.suppress(OSError):
                    send(life, ENDED, str(os.waitstatus_to_exitcode(status)).encode())

    def _be_a_process(self, data: socket.socket, life: socket.socket, server: int, order: dict[str, Any]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for each in (self._control, self._wake, self._woken, life, *self._lives.values()):
                each.close()
            with contextlib.suppress(OSError, AttributeError):  # only Linux has it
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == server:
                _work(data, order)
        except EOFError:
            os._exit(0)
        except MemoryError:
            os._exit(NO_MEMORY)
        finally:
            os._exit(1)


# A process.


def _work(data: socket.socket, order: dict[str, Any]) -> None:
    """Do tasks; raises `EOFError` when there are no more."""
    tempfile.tempdir = order["temporary"]
    with contextlib.suppress(OSError):  # somebody has removed it
        os.chdir(order["folder"])
    if sys.platform == "linux":
        # Only there this counts what a process has mapped for itself.
        held = int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = held + order["memory"] if hard == resource.RLIM_INFINITY else min(hard, held + order["memory"])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    lock, told = threading.Lock(), 0.0  # a function may tell its progress from a thread

    def tell(done: int) -> None:
        nonlocal told
        with lock:
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                send(data, PROGRESS, str(int(done)).encode())

    while True:
        function, argument = pickle.loads(receive(data)[1])  # noqa: S301 - the server wrote it
        try:
            kind, said = RESULT, msgspec.json.encode(function(argument, tell))
        except Reject as refusal:
            kind, said = REJECT, msgspec.json.encode((refusal.message, refusal.status, refusal.code))
        except Unreachable as error:
            kind, said = UNREACHABLE, str(error.strerror).encode()
        except MemoryError:
            os._exit(NO_MEMORY)
        except BaseException as error:
            # Not its message, which may quote the data, but where in the function's module it was raised.
            own = sys.modules[function.__module__].__file__
            lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == own]
            where = f" ({Path(own or '').name}, line {lines[-1]})" if lines else ""
            kind, said = FAILED, f"{type(error).__name__}{where}".encode()
        with lock:
            send(data, kind, said)
