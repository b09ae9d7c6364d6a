"""Runs servers in turns on one S3 service: what each takes, and which calls on the service it makes for that."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulk import MIB, spread

from tusd_py.testing.faults import FaultProxy
from tusd_py.testing.s3 import S3Server

TUS_SERVERS = ("tusd", "@tus/server", "tuspyserver", "resumable-upload")
_RANGE = 64 * MIB


@dataclass
class Figure:
    """What one turn took."""

    walls: list[float]
    """Seconds of each phase."""
    cpu: float
    memory: int
    notes: dict[str, Any] = field(default_factory=dict)


class CannotTakePart(Exception):
    """A server lacks what a benchmark needs; the message says how that showed."""


@dataclass
class Turn:
    """One server's turn in one round."""

    name: str
    s3: S3Server
    """The service, whose bucket is empty."""
    endpoint: str
    """Where the server has to find it: in the first round, that is a proxy."""
    proxy: FaultProxy | None = None
    right: set[str] = field(default_factory=set)
    """ETags of objects that were found right in former turns: they tell of bytes and parts."""
    _before: int = 0

    def begin(self) -> None:
        """Count calls from now on; those that a server makes when it starts have ended."""
        if self.proxy is not None:
            self._before = -1
            while self._before != (calls := len(self.proxy.calls)):
                self._before = calls
                time.sleep(1)

    def calls(self) -> Counter[str]:
        """Return the calls so far by kind."""
        return Counter(call.operation for call in self.proxy.calls[self._before :]) if self.proxy else Counter()

    def check(self, source: Path) -> None:
        """Fail unless the bucket has an object of the source's bytes."""
        size = source.stat().st_size
        found = {item["Key"]: item["ETag"] for item in objects(self.s3) if item["Size"] == size}
        if self.right.isdisjoint(found.values()):
            right = (etag for key, etag in found.items() if self._is_right(key, source))
            if (etag := next(right, None)) is None:
                raise RuntimeError(f"{self.name} did not store the bytes that it was sent")
            self.right.add(etag)

    def _is_right(self, key: str, source: Path) -> bool:
        with source.open("rb") as file:
            while expected := file.read(_RANGE):
                some = f"bytes={file.tell() - len(expected)}-{file.tell() - 1}"
                if self.s3.call("get_object", Key=key, Range=some)["Body"] != expected:
                    return False
        return True


def objects(s3: S3Server) -> Iterator[Mapping[str, Any]]:
    """Yield what is in the bucket."""
    token: dict[str, str] = {}
    while True:
        page = s3.call("list_objects_v2", **token)
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


@contextlib.contextmanager
def empty_bucket(s3: S3Server) -> Iterator[None]:
    """Make the bucket, and delete it with all that is in it, which gives the space back at once."""
    s3.wait()
    # The first object of a bucket makes SeaweedFS reserve space for it, which is nobody's to wait for.
    s3.call("put_object", Key="first", Body=b"first")
    try:
        yield
    finally:
        s3.call("delete_bucket")


@dataclass
class Result:
    """What came of all turns of one server."""

    figures: list[Figure] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Any] = field(default_factory=dict)
    """Those of the first round, in which calls are counted."""

    def walls(self, phase: int) -> list[float]:
        """Return the seconds of a phase in each round."""
        return [figure.walls[phase] for figure in self.figures]


def take_turns(s3: S3Server, names: Sequence[str], rounds: int, turn: Callable[[Turn], Figure]) -> dict[str, Result]:
    """Let all take turns, `A B C A B C ...`, after a round in which a proxy counts calls and nothing is timed."""
    results = {name: Result() for name in names}
    right: dict[str, set[str]] = {name: set() for name in names}
    for number in range(rounds + 1):
        for name in list(results):
            print(f"round {number}: {name}", file=sys.stderr)
            with contextlib.ExitStack() as stack:
                stack.enter_context(empty_bucket(s3))
                if number:
                    results[name].figures.append(turn(Turn(name, s3, s3.endpoint, right=right[name])))
                    continue
                proxy = stack.enter_context(FaultProxy(s3.endpoint))
                counted = Turn(name, s3, proxy.endpoint, proxy, right[name])
                try:
                    results[name].notes = turn(counted).notes
                except CannotTakePart as reason:
                    print(f"left out: {name} ({reason})")
                    del results[name]
                else:
                    results[name].calls = counted.calls()
    return results


def print_table(results: Mapping[str, Result], phases: Mapping[str, int]) -> None:
    """Print what each took; `phases` says how many MiB each phase moves."""
    ours = results["tusd-py"]
    heads = "".join(f"{f'{phase} s':>22}{'MiB/s':>8}{'ratio':>8}" for phase in phases)
    print(f"{'':18}{heads}{'CPU s':>22}{'ratio':>8}{'peak MiB':>10}")
    for name, result in results.items():
        row = f"{name:18}"
        for number, mib in enumerate(phases.values()):
            walls = result.walls(number)
            row += f"{spread(walls):>22}{mib / statistics.median(walls):8.0f}{_ratio(walls, ours.walls(number)):7.2f}x"
        cpus = [figure.cpu for figure in result.figures]
        ratio = _ratio(cpus, [figure.cpu for figure in ours.figures])
        row += f"{spread(cpus):>22}{ratio:7.2f}x{max(figure.memory for figure in result.figures) / MIB:10.0f}"
        print(row)


def print_calls(results: Mapping[str, Result], what: str) -> None:
    """Print the calls on S3."""
    print(f"\ncalls on S3 for {what}, in a round of its own through a proxy that counts\n")
    for name, result in results.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.calls.most_common())
        print(f"{name:18}{result.calls.total():6}   {kinds}")


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    # Taken round by round: neighbours in time share the machine's mood.
    return statistics.median(one / other for one, other in zip(theirs, ours, strict=True))
