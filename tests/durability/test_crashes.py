"""`kill -9` at random moments loses no byte that was acknowledged.

Clients of every kind send to one server while it, one of its workers, or the parent of its workers is killed again and
again. Each client notes the highest offset that it was ever told, and checks it whenever it comes back.

TUSD_PY_CHAOS_SECONDS is how long each test goes on killing (by default it is a few times), and TUSD_PY_CHAOS_SEED
repeats the choices of an earlier run, which prints its seed.
"""

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
import random
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, Answer, RawClient
from tusd_py.testing.server import ServerProcess

log = logging.getLogger(__name__)
SECONDS = float(os.environ.get("TUSD_PY_CHAOS_SECONDS", "0"))
SEED = os.environ.get("TUSD_PY_CHAOS_SEED", "") or secrets.token_hex(4)
PIECE = 16 * 1024
CHUNK = 20 * PIECE
PAUSE = 0.004

pytestmark = pytest.mark.timeout(120 + 2 * SECONDS)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The choices of this test."""
    log.info("TUSD_PY_CHAOS_SEED=%s", SEED)
    return random.Random(f"{SEED} {request.node.name}")


class Sender:
    """Sends an upload that ends when the test says so, whatever happens to the server.

    This one sends as much as it can in one request, and leaves its upload unfinished in the end.
    """

    def __init__(self, client: RawClient, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.url = ""
        self.data = b""
        self.promised = 0
        self.sent = 0
        self.cut = 0
        self.enough = False
        self.is_done = False

    async def run(self) -> None:
        """Send until it was enough."""
        while not self.is_done:
            try:
                await self.step()
            except (OSError, asyncio.IncompleteReadError):
                # The server is gone; the client tries again, and asks before it sends.
                self.cut += 1
                await asyncio.sleep(0.05)

    async def step(self) -> None:
        """Create the upload, or ask for the offset and send from there."""
        if not self.url:
            self.url = await self.create()
            return
        answer = await self.client.head(self.url)
        if answer.status < 500:
            assert answer.status == 200, answer
            self.promise(answer)
            declared = answer.headers.get("Upload-Length")
            await self.go_on(int(declared) if declared else None)

    async def create(self) -> str:
        """Create the upload."""
        return await self.client.create(10_000 * CHUNK)

    async def go_on(self, length: int | None) -> None:
        """Send from the promised offset on."""
        if self.enough:
            self.is_done = True
        else:
            await self.patch(self.more(200 * CHUNK))

    async def patch(self, body: bytes, headers: dict[str, Any] | None = None) -> None:
        """Send a body piece by piece."""
        own = {"Upload-Offset": self.promised, "Content-Type": OFFSET_STREAM, "Content-Length": len(body)}
        async with self.client.connect() as connection:
            await connection.send(self.client.message("PATCH", self.url, {**own, **(headers or {})}))
            answering = asyncio.create_task(connection.answer("PATCH"))
            try:
                for start in range(0, len(body), PIECE):
                    if answering.done() or (self.enough and len(body) > CHUNK):
                        break
                    await connection.send(body[start : start + PIECE])
                    self.sent += 1
                    await asyncio.sleep(PAUSE)
                else:
                    await answering
                if answering.done() and (answer := answering.result()).status == 204:
                    self.promise(answer)
            finally:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)

    def more(self, count: int) -> bytes:
        """The next bytes from the promised offset on: the same ones whenever they are asked for."""
        while len(self.data) < self.promised + count:
            self.data += self.rng.randbytes(CHUNK)
        return self.data[self.promised : self.promised + count]

    def promise(self, answer: Answer) -> None:
        """Note an offset; it never goes back."""
        assert answer.offset is not None, answer
        assert answer.offset >= self.promised, f"{self.promised} bytes were acknowledged, and now: {answer}"
        self.promised = answer.offset

    def check(self, data: Path) -> None:
        """Compare what is stored with what was sent."""
        stored = (data / self.url.rsplit("/", 1)[-1]).read_bytes()
        assert self.promised > 0
        assert len(stored) >= self.promised
        assert hashlib.sha256(stored[: self.promised]).digest() == hashlib.sha256(self.data[: self.promised]).digest()


class Deferred(Sender):
    """Sends chunks, and declares the length with the last."""

    async def create(self) -> str:
        """Create the upload."""
        return await self.client.create(None, {"Upload-Defer-Length": "1"})

    async def go_on(self, length: int | None) -> None:
        """Send a chunk, or the rest if the length is declared."""
        if length is not None:
            self.is_done = self.promised == length
            if not self.is_done:
                await self.patch(self.more(length - self.promised))
        elif self.enough:
            await self.patch(self.more(CHUNK), {"Upload-Length": self.promised + CHUNK})
        else:
            await self.patch(self.more(CHUNK))


class Verified(Deferred):
    """Sends chunks under checksums: none counts in part."""

    async def patch(self, body: bytes, headers: dict[str, Any] | None = None) -> None:
        """Send a chunk."""
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        await super().patch(body, {**(headers or {}), "Upload-Checksum": f"sha256 {digest}"})

    def promise(self, answer: Answer) -> None:
        """Note an offset."""
        super().promise(answer)
        assert self.promised % CHUNK == 0, f"{self.promised} is in the middle of a chunk that was never verified"


class Created(Sender):
    """Creates uploads with their bytes in one request, again and again: what was answered is there."""

    def __init__(self, client: RawClient, rng: random.Random) -> None:
        super().__init__(client, rng)
        self.created: dict[str, bytes] = {}

    async def step(self) -> None:
        """Create one."""
        body = self.rng.randbytes(3 * PIECE)
        answer = await self.client.post({"Upload-Length": len(body)}, body)
        if answer.status == 201:
            assert answer.offset == len(body)
            self.created[answer.headers["Location"]] = body
            self.sent += 1
        self.is_done = self.enough
        await asyncio.sleep(PAUSE)

    def check(self, data: Path) -> None:
        """Compare them all."""
        assert self.created
        for url, body in self.created.items():
            assert (data / url.rsplit("/", 1)[-1]).read_bytes() == body


async def survive(server: ServerProcess, rng: random.Random, data: Path, count: int, kill: Callable[[], Any]) -> None:
    """Let clients send, kill so often or for so long, and check what is stored in the end.

    Each time all clients have sent something since the last, and a random moment has passed.
    """
    client = RawClient(server.url)
    senders = [kind(client, random.Random(rng.random())) for kind in (Sender, Deferred, Verified, Created)]
    tasks = [asyncio.create_task(sender.run()) for sender in senders]
    deadline = time.monotonic() + SECONDS
    kills = 0
    try:
        # One of several workers may have nothing to do when it is killed.
        while kills < count or time.monotonic() < deadline or not any(sender.cut for sender in senders):
            before = [sender.sent for sender in senders]
            while not all(sender.sent > sent for sender, sent in zip(senders, before, strict=True)):
                await asyncio.wait(tasks, timeout=0.01, return_when=asyncio.FIRST_EXCEPTION)
                assert not any(task.done() for task in tasks), await asyncio.gather(*tasks)
            await asyncio.sleep(rng.random() * 0.3)
            await kill()
            kills += 1
        for sender in senders:
            sender.enough = True
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    log.info("%d kills cut %d requests", kills, sum(sender.cut for sender in senders))
    for sender in senders:
        sender.check(data)


async def test_killed_server(start: Any, data: Path, rng: random.Random) -> None:
    """The server is killed and started again."""
    server = start("--fsync", "never")

    async def kill() -> None:
        server.kill()
        await asyncio.to_thread(server.start)

    await survive(server, rng, data, 3, kill)


async def test_killed_workers(start: Any, data: Path, rng: random.Random, workers: Any) -> None:
    """One of two workers is killed; the other goes on, and the parent starts a new one."""
    server = start("--workers", "2")

    async def kill() -> None:
        before = workers(server)
        os.kill(rng.choice(before), signal.SIGKILL)
        await wait_until(lambda: len(after := workers(server)) == 2 and after != before)

    await survive(server, rng, data, 3, kill)


async def test_killed_parent(start: Any, data: Path, rng: random.Random, workers: Any) -> None:
    """The parent of the workers is killed; they end by themselves, and the server can be started again."""
    server = start("--workers", "2", "--shutdown-timeout", "1s")

    async def kill() -> None:
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.to_thread(server.process.wait)
        await wait_until(lambda: not workers(server))
        await asyncio.to_thread(server.start)

    await survive(server, rng, data, 1, kill)


async def test_killed_while_concatenating(start: Any, data: Path, rng: random.Random) -> None:
    """A concatenation that a kill cut off is done when it is asked for again, and its parts are whole."""
    server = start("--fsync", "never")
    client = RawClient(server.url)
    body = rng.randbytes(8 * 1024 * 1024)
    part = await client.create(len(body), {"Upload-Concat": "partial"}, body)
    deadline, cut, number = time.monotonic() + SECONDS, 0, 0
    while cut < 1 or time.monotonic() < deadline:
        number += 1
        assert number < 20 + SECONDS * 5, f"only {cut} of {number} concatenations were cut off"
        headers = {
            "Upload-Concat": "final;" + " ".join([part] * 32),
            "Upload-Metadata": f"number {base64.b64encode(b'%d' % number).decode()}",
        }
        before = await asyncio.to_thread(lambda: set(data.iterdir()))
        request = asyncio.create_task(client.post(headers))
        final = await asyncio.to_thread(grown, data, before, rng.random() * 0.9 * 32 * len(body))
        server.kill()
        size = final.stat().st_size
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await request
        await asyncio.to_thread(server.start)
        answer = await client.post(headers)
        assert answer.status == 201, answer
        url = answer.headers["Location"]
        assert url.endswith(final.name)
        assert (await client.head(url)).offset == 32 * len(body)
        assert await asyncio.to_thread(same_parts, final, body, 32)
        assert (await client.delete(url)).status == 204
        cut += 0 < size < 32 * len(body)
    assert (data / part.rsplit("/", 1)[-1]).read_bytes() == body


def grown(data: Path, before: set[Path], size: float) -> Path:
    """Wait for a new file of that many bytes, and return it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for path in set(data.iterdir()) - before:
            if path.suffix == "" and path.is_file() and path.stat().st_size > size:
                return path
    raise AssertionError("no concatenation began")


def same_parts(path: Path, part: bytes, count: int) -> bool:
    """Whether a file is so many times the part."""
    with path.open("rb") as file:
        return all(file.read(len(part)) == part for _ in range(count)) and not file.read(1)
