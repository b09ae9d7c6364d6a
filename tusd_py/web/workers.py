"""Several server processes on one socket, watched over by a parent that starts a new one for each that dies."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import structlog

from tusd_py import logs
from tusd_py.config import Config, ConfigError
from tusd_py.errors import TusError
from tusd_py.hooks.plugins import PluginError
from tusd_py.web.serve import allow_open_files, announce, serve

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 10.0
HEALTHY_SECONDS = 30.0
GRACE_SECONDS = 5.0

_log = structlog.get_logger("tusd_py.workers")
_context = multiprocessing.get_context("spawn")


class Worker:
    """One server process."""

    def __init__(self, config: Config, server_socket: socket.socket, number: int) -> None:
        """Start it."""
        self.number = number
        self.started = time.monotonic()
        self.is_ready = False
        self.pipe, theirs = _context.Pipe()
        self.process: SpawnProcess = _context.Process(
            target=_work, args=(config, server_socket, number, theirs), name=f"tusd-py worker {number}"
        )
        self.process.start()
        theirs.close()


def _work(config: Config, server_socket: socket.socket, number: int, pipe: Connection) -> None:
    logs.configure(config)
    structlog.contextvars.bind_contextvars(worker=number)
    allow_open_files()
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        stop = asyncio.Event()

        def orphaned() -> None:
            # The parent sends nothing: what can be read is the end of the pipe, and of the parent.
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            stop.set()

        def ready() -> None:
            with contextlib.suppress(BrokenPipeError):
                pipe.send(True)

        asyncio.get_running_loop().add_reader(pipe.fileno(), orphaned)
        await serve(config, server_socket, is_first=number == 0, ready=ready, stop=stop)

    try:
        asyncio.run(main())
    except (ConfigError, PluginError, TusError) as error:
        _log.error("worker cannot serve", problem=str(error))
        sys.exit(1)


def supervise(config: Config, server_socket: socket.socket) -> int:
    """Keep `config.workers` processes running until SIGTERM or SIGINT, and return the exit status."""
    stopping: list[int] = []
    wake_read, wake_write = _context.Pipe(duplex=False)

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        wake_write.send(True)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with _metrics_directory():
        server_socket.listen(1024)
        workers = {number: Worker(config, server_socket, number) for number in range(config.workers)}
        try:
            return _watch(config, server_socket, workers, stopping, wake_read)
        finally:
            _end(list(workers.values()), config.shutdown_timeout.total_seconds() + GRACE_SECONDS)


def _watch(
    config: Config,
    server_socket: socket.socket,
    workers: dict[int, Worker],
    stopping: list[int],
    wake: Connection,
) -> int:
    announced = False
    pauses: dict[int, float] = {}
    while not stopping:
        waited: list[object] = [wake]
        for worker in workers.values():
            waited.append(worker.process.sentinel)
            if not worker.is_ready:
                waited.append(worker.pipe)
        wait(waited)  # type: ignore[arg-type]
        for worker in list(workers.values()):
            if not worker.is_ready and worker.pipe.poll():
                with contextlib.suppress(EOFError):
                    worker.is_ready = worker.pipe.recv()
            if worker.process.is_alive() or stopping:
                continue
            _log.error("worker died", worker=worker.number, exitcode=worker.process.exitcode)
            _forget_metrics(worker.process.pid)
            if not announced and not worker.is_ready:
                return 1  # it cannot even start; its own log line says why
            lived = time.monotonic() - worker.started
            pause = FIRST_PAUSE_SECONDS if lived > HEALTHY_SECONDS else pauses.get(worker.number, FIRST_PAUSE_SECONDS)
            pauses[worker.number] = min(pause * 2, LAST_PAUSE_SECONDS)
            wake.poll(pause)
            if not stopping:
                workers[worker.number] = Worker(config, server_socket, worker.number)
        if not announced and all(worker.is_ready for worker in workers.values()):
            announced = True
            announce(config, server_socket)
    return 0


def _end(workers: list[Worker], seconds: float) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            _log.error("worker does not stop and is killed", worker=worker.number)
            worker.process.kill()
            worker.process.join()


@contextlib.contextmanager
def _metrics_directory() -> Iterator[None]:
    """Have the workers' metrics added up, in files of their own."""
    directory = tempfile.mkdtemp(prefix="tusd-py-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    try:
        yield
    finally:
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        shutil.rmtree(directory, ignore_errors=True)


def _forget_metrics(pid: int | None) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
