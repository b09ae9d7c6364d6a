"""Two servers with bytes on S3 and records and locks in Redis, while everything around them fails at random.

Clients upload through both servers. Servers are killed and stopped for a while, Redis is killed, stopped, emptied, full
and set back, calls on S3 are refused, lost, broken and slow, and connections are cut. What a client was told is the
model: no offset goes back, what is complete has the right bytes, and once all is well again nothing is left over.

TUSD_PY_CHAOS_SECONDS is how long things go on failing, and TUSD_PY_CHAOS_SEED repeats the choices of an earlier run,
which prints its seed.
"""

import asyncio
import base64
import hashlib
import logging
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.faults import Fault, FaultProxy
from tusd_py.testing.raw import OFFSET_STREAM, Answer, RawClient
from tusd_py.testing.redis import RedisProcess
from tusd_py.testing.s3 import BUCKET, S3Server
from tusd_py.testing.server import ServerProcess

log = logging.getLogger(__name__)
SECONDS = float(os.environ.get("TUSD_PY_CHAOS_SECONDS", "0")) or 8
SEED = os.environ.get("TUSD_PY_CHAOS_SEED", "") or secrets.token_hex(4)
CLIENTS = 6
MIB = 1024 * 1024
PART = 5 * MIB
SIZES = (0, 1, 100_000, PART - 1, PART, PART + 1, 2 * PART + 300_000)
PIECE = 64 * 1024
REPEATABLE = frozenset({200, 201, 204, 409, 423, 503})
FAULTS = (
    Fault("refuse", 400, "BadRequest"),
    Fault("refuse", 500, "InternalError"),
    Fault("refuse", 503, "SlowDown"),
    Fault("lose", 500, "InternalError"),
    Fault("hang"),
    Fault("reset"),
    Fault("slow", seconds=0.05),
)

pytestmark = pytest.mark.timeout(300 + 2 * SECONDS)


class World:
    """The servers and what they need, what fails, and how often each thing has happened."""

    def __init__(self, servers: list[ServerProcess], redis: RedisProcess, proxy: FaultProxy, seed: str) -> None:
        self.servers = servers
        self.redis = redis
        self.proxy = proxy
        self.chance = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.is_over = False

    async def request(self, method: str, upload_id: str, headers: dict[str, Any], body: bytes = b"") -> Answer | None:
        """Make a request at one of the servers; a body may be sent slowly and cut. Return the answer, if any."""
        client = RawClient(self.chance.choice(self.servers).url)
        url = client.url + upload_id
        cut = (
            self.chance.randrange(len(body)) if body and not self.is_over and self.chance.random() < 0.2 else len(body)
        )
        try:
            async with client.connect() as connection:
                await connection.send(client.message(method, url, headers))
                for start in range(0, cut, PIECE):
                    await connection.send(body[start : min(cut, start + PIECE)])
                    if self.chance.random() < 0.1:
                        await asyncio.sleep(self.chance.random() / 5)
                if cut < len(body):
                    connection.reset()
                    return None
                answer = await connection.answer(method, timeout=15)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.seen[type(error).__name__] += 1
            return None
        self.seen[f"{method} {answer.status}"] += 1
        assert answer.status in REPEATABLE, (method, upload_id, headers, answer)
        assert answer.status != 503 or "Retry-After" in answer.headers
        return answer

    async def fail(self) -> None:
        """Let one thing after another fail, until it is over."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            *(self._kill_server, self._stop_server, self._kill_redis, self._stop_redis, self._fill_redis),
            *(self._flush, self._roll_back),
            *[self._break_s3] * 4,
        ]
        while not self.is_over:
            await asyncio.sleep(self.chance.random())
            kind = self.chance.choice(kinds)
            self.seen[kind.__name__] += 1
            await kind()

    async def _kill_server(self) -> None:
        server = self.chance.choice(self.servers)
        server.kill()
        await asyncio.sleep(self.chance.random())
        # While Redis or S3 is away a server does not begin, and says so.
        self.proxy.heal()
        await asyncio.to_thread(server.restart)

    async def _stop_server(self) -> None:
        process = self.chance.choice(self.servers).process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.chance.random() * 3)
        process.send_signal(signal.SIGCONT)

    async def _kill_redis(self) -> None:
        self.redis.kill()
        await asyncio.sleep(self.chance.random())
        await asyncio.to_thread(self.redis.start)

    async def _stop_redis(self) -> None:
        self.redis.stop_running()
        await asyncio.sleep(self.chance.random() * 2)
        self.redis.run_again()

    async def _flush(self) -> None:
        with self.redis.client() as client:
            client.flushall()

    async def _roll_back(self) -> None:
        with self.redis.forgetting():
            await asyncio.sleep(self.chance.random())

    async def _fill_redis(self) -> None:
        with self.redis.client(socket_timeout=10) as client:
            client.config_set("maxmemory", 1)
            await asyncio.sleep(self.chance.random())
            client.config_set("maxmemory", 0)

    async def _break_s3(self) -> None:
        # One call in two: what is repeated at once may still succeed.
        fault = self.chance.choice(FAULTS)
        self.proxy.choose = lambda call: fault if self.chance.random() < 0.5 else None
        await asyncio.sleep(self.chance.random() * 2)
        self.proxy.heal()


class Client:
    """Uploads one thing after another, and knows what it was told."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.chance = random.Random(f"{SEED} client {number}")
        self.finished: dict[str, bytes] = {}
        """SHA-256 of what is complete, by id."""

    async def run(self) -> None:
        """Upload until it is over, and then end what was begun."""
        while not self.world.is_over:
            await self.upload()

    async def upload(self) -> None:
        """Upload one thing, whatever happens."""
        data = self.chance.randbytes(self.chance.choice(SIZES))
        is_deferred = self.chance.random() < 0.2
        length = {"Upload-Defer-Length": 1} if is_deferred else {"Upload-Length": len(data)}
        answer = await self.world.request("POST", "", length)
        if answer is None or answer.status != 201:
            return
        upload_id = answer.headers["Location"].rpartition("/")[2]
        told = 0
        while (offset := await self.offset(upload_id)) != (len(data), True):
            assert offset[0] >= told, f"{told} bytes of {upload_id} were acknowledged, and now {offset[0]}"
            told = offset[0]
            stop = min(len(data), told + self.chance.choice((PIECE, MIB, PART, len(data))))
            headers: dict[str, Any] = {"Upload-Offset": told, "Content-Type": OFFSET_STREAM}
            if is_deferred and stop == len(data):
                headers["Upload-Length"] = len(data)
            piece = data[told:stop]
            if self.chance.random() < 0.2:
                headers["Upload-Checksum"] = f"sha256 {base64.b64encode(hashlib.sha256(piece).digest()).decode()}"
            answer = await self.world.request("PATCH", upload_id, {**headers, "Content-Length": len(piece)}, piece)
            if answer is not None and answer.status == 204:
                assert answer.offset is not None
                told = answer.offset
        self.finished[upload_id] = hashlib.sha256(data).digest()

    async def offset(self, upload_id: str) -> tuple[int, bool]:
        """Ask until there is an answer: the offset, and whether the upload is complete."""
        while True:
            answer = await self.world.request("HEAD", upload_id, {})
            if answer is not None and answer.status == 200:
                assert answer.offset is not None
                return answer.offset, answer.headers.get("Upload-Length") == str(answer.offset)
            await asyncio.sleep(0.1)


@pytest.fixture
def prefix() -> str:
    """Where this test's objects are."""
    return secrets.token_hex(8)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """What stands between the servers and S3."""
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


async def test_everything_fails(
    start: Any, start_redis: Callable[..., RedisProcess], proxy: FaultProxy, s3: S3Server, prefix: str
) -> None:
    """No acknowledged byte is lost, what is complete is right, and nothing is left over."""
    log.info("TUSD_PY_CHAOS_SEED=%s", SEED)
    redis = start_redis(save=True)
    bytes_on = ("--store", f"s3://{BUCKET}/{prefix}", "--s3-endpoint", proxy.endpoint, "--s3-part-size", "5MiB")
    # The grace is more than a creation takes while S3 fails: until it is over its multipart upload belongs to nobody.
    times = ("--s3-timeout", "1s", "--orphan-grace", "5s", "--progress-interval", "50ms", "--read-timeout", "5s")
    servers = [start(*bytes_on, *times, "--redis", f"{redis.url}?lease=1.5") for _ in range(2)]
    world = World(servers, redis, proxy, SEED)
    clients = [Client(world, number) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        failing = group.create_task(world.fail())
        await asyncio.sleep(SECONDS)
        world.is_over = True
        await failing
        proxy.heal()
    finished = {upload_id: digest for client in clients for upload_id, digest in client.finished.items()}
    log.info("%d uploads are complete; %s", len(finished), dict(sorted(world.seen.items())))
    assert finished
    for upload_id, digest in finished.items():
        stored = await asyncio.to_thread(s3.read, f"{prefix}/{upload_id}")
        assert hashlib.sha256(stored).digest() == digest, upload_id

    async def nothing_is_left() -> bool:
        keys = set(await asyncio.to_thread(s3.keys, f"{prefix}/"))
        multiparts = await asyncio.to_thread(s3.multiparts, prefix)
        whole = {f"{prefix}/{upload_id}" for upload_id in finished}
        # Of a creation whose answer was lost nobody knows; it has a manifest, and expires.
        begun = {key.removesuffix(".info") for key in keys if key.endswith(".info")} - whole
        rest = {key for key in keys if key.partition(".")[0] not in begun} - {f"{prefix}/.tusd-py"}
        return rest == whole | {f"{key}.info" for key in whole} and set(multiparts) <= begun

    await wait_until(nothing_is_left, timeout=60)
