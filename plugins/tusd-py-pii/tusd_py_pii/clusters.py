"""Runs the tasks of a file on Dask or Ray: the same pure function, on other machines, and the same report.

The file has to be where their workers can open it: in object storage, or on a disk that they share. How much memory a
task may take is the cluster's to say.
"""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from tusd_py_pii.errors import RuleError, ScanFailed
from tusd_py_pii.report import Report
from tusd_py_pii.scan import Run, Scan, Source, Task
from tusd_py_pii.workers import in_processes, run_piece

AHEAD = 64
"""So many tasks are handed out before the first is waited for."""
DIED = "workers that looked into it died; the file may be made to do that"


def run_on(cluster: str, workers: int) -> Run:
    """Return how the tasks of a file are run.

    Args:
        cluster: `dask:tcp://host:8786` (the scheduler), `ray:host:6379` or `ray:auto`; empty for this machine.
        workers: processes, on this machine.

    Raises:
        RuleError: it is none of these, or its library is not installed.
    """
    kind, colon, address = cluster.partition(":")
    if not cluster:
        return in_processes(workers)
    ways: dict[str, tuple[str, Callable[[str], Run]]] = {"dask": ("distributed", in_dask), "ray": ("ray", in_ray)}
    if kind not in ways or not colon or not address:
        raise RuleError(f"cluster {cluster!r} is not dask:ADDRESS or ray:ADDRESS")
    library, way = ways[kind]
    if importlib.util.find_spec(library) is None:
        raise RuleError(f"{library} is not installed: pip install 'tusd-py-pii[{kind}]'")
    return way(address)


def in_dask(address: str) -> Run:
    """Return a way to run tasks on the Dask cluster of this scheduler."""

    def run(source: Source, tasks: Sequence[Task], scan: Scan) -> Iterator[Report]:
        from distributed import Client, KilledWorker

        deadline = time.monotonic() + scan.limits.max_seconds
        encoded = msgspec.json.encode(scan)
        try:
            with Client(address, set_as_default=False) as client:
                waiting = deque[object]()
                for task in tasks:
                    seconds = deadline - time.monotonic()
                    waiting.append(client.submit(run_piece, source, task, encoded, seconds, pure=False))
                    if len(waiting) >= AHEAD:
                        yield waiting.popleft().result(deadline - time.monotonic())  # type: ignore[attr-defined]
                while waiting:
                    yield waiting.popleft().result(deadline - time.monotonic())  # type: ignore[attr-defined]
        except KilledWorker:
            raise ScanFailed(DIED) from None
        except TimeoutError:
            raise _too_long(scan) from None

    return run


def in_ray(address: str) -> Run:
    """Return a way to run tasks on the Ray cluster of this address."""

    def run(source: Source, tasks: Sequence[Task], scan: Scan) -> Iterator[Report]:
        import ray

        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        deadline = time.monotonic() + scan.limits.max_seconds
        encoded = msgspec.json.encode(scan)
        remote = ray.remote(max_retries=1)(run_piece)
        waiting = deque[object]()
        try:
            for task in tasks:
                waiting.append(remote.remote(source, task, encoded, deadline - time.monotonic()))
                if len(waiting) >= AHEAD:
                    yield ray.get(waiting.popleft(), timeout=max(0.0, deadline - time.monotonic()))
            while waiting:
                yield ray.get(waiting.popleft(), timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.WorkerCrashedError:
            raise ScanFailed(DIED) from None
        except ray.exceptions.GetTimeoutError:
            raise _too_long(scan) from None
        except ray.exceptions.RayTaskError as error:
            # Its message has the whole trace in it.
            raise ScanFailed(str(error.cause) if isinstance(error.cause, ScanFailed) else "a task failed") from None
        finally:
            for left in waiting:
                ray.cancel(left, force=True)

    return run


def _too_long(scan: Scan) -> ScanFailed:
    return ScanFailed(f"it took longer than {scan.limits.max_seconds:g} seconds")
