"""Runs functions in processes of their own: what may be slow or large, or crash on bytes that somebody made for that.

    found = processes.run(measure, Request(path=...), memory=2**29, seconds=600, progress=progress)

`measure(request, progress)` is a plain function of a module. Its annotations say what it takes and returns: arguments
go to the process as pickles, but what comes back is JSON that is decoded as the type that it returns, for whoever
takes a process over with a hostile file must not be able to say more than that.

Each package has a *fork server* here: a process without threads, which has imported the package's modules and copies
itself for each call, in a few milliseconds. It is started by the first call and ends when nobody has called it for a
minute. It knows nothing of `__main__`, unlike that of `multiprocessing`, so it does not matter how the program was
started. It holds no file of the server but one end of a pair of sockets: when the server dies, however it does, that
says so, and the fork server ends and its copies with it. Every call has a pair of its own with the fork server, which
ends the process when the call's end is closed, and tells how the process ended.

A process has limits of time and memory, leaves no core file, yields to the server, and has none of the variables of the
environment in which the server may have credentials: those that begin with `AWS_` or `TUSD_PY_`. What it prints goes
nowhere, because what libraries print may quote the data.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import json
import os
import pickle
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar, get_type_hints

import msgspec

from tusd_py.errors import Reject
from tusd_py.fork_server import MAX_TEXT, NO_MEMORY, PROGRESS, REJECT, RESULT, STARTED, TASK, UNREACHABLE, receive, send
from tusd_py.ranges import Unreachable

Progress = Callable[[int], None]
"""Is called with the bytes that have been done, as often as one likes."""
Argument = TypeVar("Argument")
Result = TypeVar("Result")

MAX_RESULT = 64 * 2**20
AHEAD = 4
"""So many results for each process wait for those before them; then no more tasks are begun."""
_GRACE_SECONDS = 5.0
_SECRET = ("AWS_", "TUSD_PY_")
"""Variables with the server's credentials begin so; who takes over a process that reads hostile bytes gets none."""
_START = "import sys; _, name, number, *sys.path = sys.argv; from tusd_py.fork_server import serve; serve(int(number))"


class ProcessFailed(Exception):
    """A function did not return from its process; the message says how, and holds no data."""


class TookTooLong(ProcessFailed):
    """It took longer than it may."""


class NeedsMoreMemory(ProcessFailed):
    """It needs more memory than it may use."""


class WasEnded(ProcessFailed):
    """Its process was ended by a signal: it crashed, or was killed."""


def run(
    function: Callable[[Argument, Progress], Result],
    argument: Argument,
    *,
    memory: int,
    seconds: float,
    progress: Progress = lambda done: None,
    preload: Sequence[str] = (),
) -> Result:
    """Return what a function returns in a process of its own; this blocks, so it is not for an event loop.

    Args:
        function: a plain function of a module. It gets the argument, and a function to call with the bytes it has done.
        argument: anything that can be pickled.
        memory: bytes that it may take beyond what its modules take; there is no limit where the system is not Linux.
        seconds: how long it may take.
        progress: hears how many bytes are done, every now and then.
        preload: modules, besides that of the function, to be imported once and not by every process. A module that
            starts threads when it is imported cannot be among them: import it in the function.

    Raises:
        Reject, Unreachable: the function raised it.
        ProcessFailed: it did not return; the subclass and the message say how.
    """
    [result] = run_each(
        function, [argument], processes=1, memory=memory, seconds=seconds, progress=progress, preload=preload
    )
    return result


def run_each(
    function: Callable[[Argument, Progress], Result],
    arguments: Iterable[Argument],
    *,
    processes: int,
    memory: int,
    seconds: float,
    progress: Progress = lambda done: None,
    preload: Sequence[str] = (),
) -> Iterator[Result]:
    """Yield what a function returns for each argument, in their order, from so many processes.

    A process does one task after the other, so what the function keeps in its module it has for the next. `seconds` is
    the time for all of them, `memory` is for each process, and `progress` hears the bytes of all tasks together. The
    first task that fails ends all.

    Raises:
        Reject, Unreachable: the function raised it.
        ProcessFailed: it did not return; the subclass and the message say how.
    """
    call = _Call(function, memory, seconds, preload)
    tasks, results = enumerate(arguments), dict[int, Result]()
    free, busy = list[_Process](), dict[int, _Process]()
    yielded = done = 0
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        while True:
            while len(busy) < processes and len(busy) + len(results) < AHEAD * processes:
                number, argument = next(tasks, (-1, None))
                if number < 0:
                    break
                process = free.pop() if free else stack.enter_context(_Process(call))
                process.begin(argument)
                busy[number] = process
                selector.register(process.data, selectors.EVENT_READ, number)
            if yielded in results:
                yield results.pop(yielded)
                yielded += 1
                continue
            if not busy:
                return
            for key, _ in selector.select(call.seconds_left()):
                process = busy[key.data]
                if process.hear(results, key.data):
                    done += process.done
                    selector.unregister(process.data)
                    free.append(busy.pop(key.data))
            call.seconds_left()
            progress(done + sum(each.done for each in busy.values()))


class _Call:
    """What all processes of one call have in common."""

    def __init__(self, function: Callable[..., Any], memory: int, seconds: float, preload: Sequence[str]) -> None:
        self.function = function
        self.decoder = _decoder(function)
        self.package = function.__module__.partition(".")[0]
        self.order = {
            "modules": {function.__module__: _file_of(function.__module__), **dict.fromkeys(preload)},
            "path": _path(),
            "memory": memory,
            "folder": os.getcwd(),
        }
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Return how long it may still take; raises `TookTooLong` if that is no time."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.too_long()
        return left

    def too_long(self) -> TookTooLong:
        return TookTooLong(f"it took longer than {self._seconds:g} seconds")


def _path() -> list[str]:
    return [place or os.getcwd() for place in sys.path]


@functools.lru_cache(256)
def _decoder(function: Callable[..., Any]) -> msgspec.json.Decoder[Any]:
    hints = get_type_hints(function)
    if "return" not in hints:
        raise TypeError(f"{function.__qualname__} does not say what it returns: annotate it")
    return msgspec.json.Decoder(hints["return"])


def _file_of(module: str) -> str | None:
    """Return the file of a module: plugins given as files cannot be imported by their names.

    Raises:
        ValueError: it is the program itself.
    """
    if module == "__main__":
        raise ValueError("a function of the program itself cannot run in another process; put it into a module")
    return getattr(sys.modules.get(module), "__file__", None)


class _Process:
    """A process of one call, which does its tasks one after the other and is killed in the end."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._temporary = tempfile.mkdtemp(prefix="tusd-py-")
        self.done = 0
        try:
            self.data, self._life = _forked(call, {**call.order, "temporary": self._temporary})
        except BaseException:
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self.data, self._life:
            with contextlib.suppress(OSError):
                self._life.shutdown(socket.SHUT_WR)  # it is killed then
            self._status()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def begin(self, argument: object) -> None:
        """Give it a task."""
        self.done = 0
        task = pickle.dumps((self._call.function, argument))
        try:
            self.data.settimeout(self._call.seconds_left())
            send(self.data, TASK, task)
        except TimeoutError:
            raise self._call.too_long() from None
        except ConnectionError:
            pass  # it is dead, and `hear` says how it died

    def hear(self, results: dict[int, Any], number: int) -> bool:
        """Take what it says next; return whether the task is done and its result among the others.

        Raises:
            Reject, Unreachable: the function raised it.
            ProcessFailed: it did not return.
        """
        try:
            kind, said = receive(self.data, MAX_RESULT, self._call.seconds_left)
            if kind == PROGRESS:
                self.done = msgspec.json.decode(said, type=int)
                return False
            if kind == RESULT:
                results[number] = self._call.decoder.decode(said)
                return True
            if kind == REJECT:
                message, status, code = msgspec.json.decode(said, type=tuple[str, int, str])
                raise Reject(_shown(message), status=status, code=_shown(code))
            if kind == UNREACHABLE:
                raise Unreachable(errno.EIO, _shown(said.decode("utf-8", "replace")))
        except TimeoutError:
            raise self._call.too_long() from None
        except (EOFError, ConnectionError):
            raise self._death() from None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise ProcessFailed("its process answered what cannot be") from None
        raise ProcessFailed(f"its process failed with {_shown(said.decode('utf-8', 'replace'))}")

    def _death(self) -> ProcessFailed:
        status = self._status()
        if status == NO_MEMORY:
            return NeedsMoreMemory("it needs more memory than it may use")
        if status is None or status >= 0:
            return ProcessFailed("its process ended without a result")
        with contextlib.suppress(ValueError):
            return WasEnded(f"its process was ended by {signal.Signals(-status).name}")
        return WasEnded(f"its process was ended by signal {-status}")

    def _status(self) -> int | None:
        """Return how the process ended, once it has."""
        with contextlib.suppress(OSError, EOFError):
            self._life.settimeout(_GRACE_SECONDS)
            return int(receive(self._life, MAX_TEXT)[1])
        return None


# The fork server, as its callers see it.


class _ForkServer:
    """The process that copies itself."""

    def __init__(self, package: str) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _START, f"processes of {package}", str(theirs.fileno()), *_path()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if not name.startswith(_SECRET)},
                start_new_session=True,  # Ctrl-C is for the server, which then ends what it started
            )
        self._lock = threading.Lock()

    def is_alive(self) -> bool:
        """Whether it takes calls."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until it has ended, as it is about to."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)

    def forked(self, order: bytes, seconds: float) -> tuple[socket.socket, socket.socket]:
        """Return the sockets to a new process, and to what is told of its life.

        Raises:
            ConnectionError: the fork server has ended; EOFError: likewise.
            ProcessFailed: the process cannot be started.
        """
        with contextlib.ExitStack() as stack:
            data, their_data = socket.socketpair()
            life, their_life = socket.socketpair()
            stack.callback(data.close)
            stack.callback(life.close)
            # Ours stay open until they have arrived: macOS loses what is closed on its way.
            with their_data, their_life:
                life.settimeout(seconds)
                with self._lock:
                    socket.send_fds(self._control, [b"+"], [their_data.fileno(), their_life.fileno()])
                send(life, TASK, order)
                kind, said = receive(life, MAX_TEXT)
            if kind != STARTED:
                raise ProcessFailed(f"its process cannot be started: {_shown(said.decode())}")
            stack.pop_all()
        return data, life

    def end(self) -> None:
        """End it, and all processes that it has started."""
        self._control.close()
        self.wait()
        self._process.kill()
        self._process.wait()


_servers: dict[str, _ForkServer] = {}
_starting = threading.Lock()


def _forked(call: _Call, order: dict[str, Any]) -> tuple[socket.socket, socket.socket]:
    encoded = json.dumps(order).encode()
    problem = ""
    for _ in range(2):
        try:
            server = _fork_server(call.package)
            try:
                return server.forked(encoded, call.seconds_left())
            except (ConnectionError, EOFError):
                server.wait()  # nobody had called it for too long, or it was killed: another one takes the call
        except TimeoutError:
            raise call.too_long() from None
        except OSError as error:
            problem = f": {error.strerror}"
    raise ProcessFailed(f"its process cannot be started{problem}")


def _fork_server(package: str) -> _ForkServer:
    with _starting:
        server = _servers.get(package)
        if server is not None and server.is_alive():
            return server
        if server is not None:
            server.end()
        server = _servers[package] = _ForkServer(package)
        return server


@atexit.register
def _end_all() -> None:
    for server in _servers.values():
        server.end()


def _shown(text: str) -> str:
    """Return text of a process as it may be shown: it may have been written by whoever wrote the file."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:MAX_TEXT])
