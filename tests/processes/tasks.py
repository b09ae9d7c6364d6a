"""What the tests do in processes of their own: each word is a way to end."""

import ctypes
import errno
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from tusd_py import Reject
from tusd_py.fork_server import RESULT, send
from tusd_py.ranges import Unreachable

SECRET = "bob@corp.io"
done = 0


class Seen(msgspec.Struct):
    """What a process knows of itself."""

    pid: int
    parent: int
    tasks: int
    niceness: int
    core: int
    folder: str
    temporary: str
    variables: list[str]


def look(word: str, progress) -> Seen:
    global done
    done += 1
    Path(tempfile.gettempdir(), "left").write_text(SECRET)
    progress(len(word))
    sys.stdout.write(SECRET)
    sys.stderr.write(SECRET)
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    folder, temporary = os.getcwd(), tempfile.gettempdir()
    return Seen(os.getpid(), os.getppid(), done, os.nice(0), core, folder, temporary, list(os.environ))


def end(way: str, progress) -> None:
    """End in some way."""
    os.write(2, SECRET.encode())
    if way == "crash":
        ctypes.string_at(0)
    elif way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "exit":
        os._exit(0)
    elif way == "quit":
        sys.exit(SECRET)
    elif way == "raise":
        raise ValueError(SECRET)
    elif way == "unreachable":
        raise Unreachable(errno.EIO, "the storage does not answer (status 503)")
    elif way == "reject":
        raise Reject("line 5 is too long", status=415, code="ERR_LINE")
    elif way == "memory":
        bytearray(2**30)
    elif way == "deep":
        end_deeply()
    time.sleep(60)


def end_deeply():
    end_deeply()


def sleep(path: str, progress) -> None:
    """Tell who sleeps, and sleep."""
    Path(path).write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(60)


def wait(seconds: float, progress) -> float:
    time.sleep(seconds)
    return seconds


class Bomb:
    """Code that runs where it is unpickled."""

    def __reduce__(self):
        return os._exit, (77,)


def forge(said: bytes, progress) -> list[Any]:
    """Say something else than the function returns, as who has taken the process over can."""
    import socket

    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            kind = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if kind.startswith("socket:"):
            send(socket.socket(fileno=os.dup(number)), RESULT, said)
    time.sleep(60)
    return []


BOMB = pickle.dumps(Bomb())
