"""Two servers with one Redis and one directory: they agree, take over from each other, and outlive what Redis does."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import OFFSET_STREAM, Answer, RawClient
from tusd_py.testing.redis import RedisProcess
from tusd_py.testing.server import ServerProcess, ServerProcessError

HANDOVER_SECONDS = 0.2
LEASE = 1.5
DATA = bytes(range(256)) * 400
HALF = len(DATA) // 2

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Replicas:
    """Two servers, and what they share."""

    def __init__(self, redis: RedisProcess, servers: list[ServerProcess], data: Path) -> None:
        self.redis = redis
        self.servers = servers
        self.data = data
        self.clients = [RawClient(server.url) for server in servers]

    def on(self, number: int, url: str) -> str:
        """An upload's URL at one of the servers."""
        return self.clients[number].url + url.rsplit("/", 1)[-1]

    def stored(self, url: str) -> bytes:
        """What is in the upload's file."""
        return (self.data / url.rsplit("/", 1)[-1]).read_bytes()

    @contextlib.asynccontextmanager
    async def patching(self, number: int, url: str, data: bytes, **headers: str) -> AsyncIterator[Any]:
        """A PATCH of all bytes from 0 on, of which only some are sent; they are stored when this begins."""
        client = self.clients[number]
        fields = {"Upload-Offset": 0, "Content-Type": OFFSET_STREAM, "Content-Length": len(DATA), **headers}
        async with client.connect() as connection:
            await connection.send(client.message("PATCH", self.on(number, url), fields) + data)
            await wait_until(lambda: len(self.stored(url)) == len(data))
            yield connection

    async def finish(self, number: int, url: str) -> None:
        """Go on as a client does, from the offset that HEAD tells, until all is there; and see that it is right."""
        url = self.on(number, url)

        async def offset() -> int | None:
            answer = await self.clients[number].head(url)
            check_repeatable(answer)
            return answer.offset if answer.status == 200 else None

        while (at := await wait_until(lambda: as_tuple(offset()))) != (len(DATA),):
            check_repeatable(await self.clients[number].patch(url, at[0], DATA[at[0] :]))
        for client in self.clients:
            answer = await client.get(client.url + url.rsplit("/", 1)[-1])
            assert (answer.status, answer.body) == (200, DATA)


async def as_tuple(value: Any) -> tuple[int, ...]:
    """What was awaited in a tuple, which is empty for None: so 0 is something."""
    found = await value
    return () if found is None else (found,)


def check_repeatable(answer: Answer) -> None:
    """A request may be refused only in a way that clients repeat."""
    assert answer.status in (200, 201, 204, 409, 423, 503), answer
    if answer.status == 503:
        assert "Retry-After" in answer.headers


@pytest.fixture(scope="module")
def shared(redis_server: RedisProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two servers that tests share."""
    data = tmp_path_factory.mktemp("shared")
    options = ("--upload-dir", str(data), "--redis", f"{redis_server.url}?prefix={os.urandom(4).hex()}")
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(*options, "--log-format", "json")) for _ in range(2)]
        yield Replicas(redis_server, servers, data)
    for server in servers:
        assert "Traceback" not in server.output(), server.output()


@pytest.fixture
def own(start: Any, start_redis: Callable[..., RedisProcess], data: Path) -> Callable[..., Replicas]:
    """A function that starts a Redis and two servers of one's own; options are those of `RedisProcess`."""

    def begin(*options: str, query: str = "", **more: Any) -> Replicas:
        redis = start_redis(*options, **more)
        url = f"{redis.url}?lease={LEASE}&{query}"
        return Replicas(redis, [start("--redis", url, "--progress-interval", "100ms") for _ in range(2)], data)

    return begin


async def test_offsets_agree(shared: Replicas) -> None:
    """An upload can go on at either server, request by request, and both tell the same of it."""
    first, second = shared.clients
    url = await first.create(len(DATA), {"Upload-Metadata": "filename YQ=="})
    for number, at in enumerate(range(0, len(DATA), HALF // 4)):
        client = shared.clients[number % 2]
        answer = await client.patch(shared.on(number % 2, url), at, DATA[at : at + HALF // 4])
        assert answer.status == 204
        heads = [await other.head(shared.on(number, url)) for number, other in enumerate(shared.clients)]
        assert [head.offset for head in heads] == [answer.offset] * 2
    assert (await second.get(shared.on(1, url))).body == DATA
    assert (await second.patch(shared.on(1, url), 0, DATA)).status == 409
    assert (await second.delete(shared.on(1, url))).status == 204
    assert (await first.head(url)).status == 410


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
@pytest.mark.parametrize("holder", [0, 1])
async def test_stalled_patch(shared: Replicas, method: str, holder: int, record_property: Any) -> None:
    """A PATCH on a dead connection hands over to the client's next request at the other server, in no time."""
    other, seconds = shared.clients[1 - holder], list[float]()
    for _ in range(5):
        url = await shared.clients[holder].create(len(DATA))
        async with shared.patching(holder, url, DATA[:HALF]) as stalled, other.connect() as connection:
            message = other.message("HEAD", shared.on(1 - holder, url))
            if method == "PATCH":
                message = other.patch_message(shared.on(1 - holder, url), HALF, DATA[HALF:])
            started = time.monotonic()
            await connection.send(message)
            answer = await connection.answer(method)
            seconds.append(time.monotonic() - started)
            assert (await stalled.answer("PATCH")).code == "ERR_UPLOAD_INTERRUPTED"
        assert (answer.status, answer.offset) == ((200, HALF) if method == "HEAD" else (204, len(DATA)))
        await shared.finish(1 - holder, url)
        if seconds[-1] < HANDOVER_SECONDS:
            record_property("seconds", seconds)
            return
    pytest.fail(f"took {seconds} seconds")


async def test_healthy_patch_goes_on(shared: Replicas) -> None:
    """A HEAD at the other server is answered while a PATCH whose bytes flow goes on."""
    url = await shared.clients[0].create(len(DATA))
    async with shared.patching(0, url, DATA[:1000]) as healthy:
        head = asyncio.create_task(shared.clients[1].head(shared.on(1, url)))
        at = 1000
        while not head.done():
            await healthy.send(DATA[at : at + 10])
            at += 10
            await asyncio.sleep(0.01)
        assert (await head).status == 200
        await healthy.send(DATA[at:])
        assert (await healthy.answer("PATCH")).status == 204


async def test_concatenation(shared: Replicas) -> None:
    """Parts that went to different servers are put together by either."""
    parts = [
        await client.create(HALF, {"Upload-Concat": "partial"}, DATA[start : start + HALF])
        for client, start in zip(shared.clients, (0, HALF), strict=True)
    ]
    paths = [part.split("/", 3)[3] for part in parts]
    answer = await shared.clients[1].post({"Upload-Concat": f"final;/{' /'.join(paths)}"})
    assert answer.status == 201
    assert (await shared.clients[0].get(shared.on(0, answer.headers["Location"]))).body == DATA


async def test_rates_are_shared(shared: Replicas, start: Any, tmp_path: Path) -> None:
    """Uploads that one address creates count at all servers together."""
    url = f"{shared.redis.url}?prefix={os.urandom(4).hex()}"
    options = ("--redis", url, "--create-rate", "3", "--behind-proxy", "127.0.0.1")
    clients = [RawClient(start(*options, data=tmp_path / "rates").url) for _ in range(2)]
    statuses = [(await clients[number % 2].post({"Upload-Length": 1})).status for number in range(5)]
    assert statuses == [201, 201, 201, 503, 503]
    assert (await clients[0].post({"Upload-Length": 1, "X-Forwarded-For": "203.0.113.2"})).status == 201


# A server that dies or stands still


async def test_killed_server(own: Callable[..., Replicas]) -> None:
    """The upload of a server that was killed goes on at the other when the lease ends, without anybody's help."""
    replicas = own()
    url = await replicas.clients[0].create(len(DATA))
    async with replicas.patching(0, url, DATA[:HALF]):
        replicas.servers[0].kill()
    started = time.monotonic()
    offset = await replicas.clients[1].offset(replicas.on(1, url))
    assert offset is not None
    answer = await replicas.clients[1].patch(replicas.on(1, url), offset, DATA[offset:])
    assert answer.status == 204
    assert time.monotonic() - started < LEASE + 3
    assert replicas.stored(url) == DATA


@pytest.mark.parametrize("checksum", [False, True])
async def test_stopped_server(own: Callable[..., Replicas], checksum: bool) -> None:
    """A server that stood still while another took over stores nothing that reached it meanwhile, nor cuts anything."""
    replicas = own()
    client, other = replicas.clients
    url = await client.create(len(DATA))
    wrong = b"\xff" * HALF
    sums = {"Upload-Checksum": "sha1 " + base64.b64encode(hashlib.sha1(DATA[:HALF] + wrong).digest()).decode()}
    async with replicas.patching(0, url, DATA[:HALF], **(sums if checksum else {})) as late:
        if not checksum:

            async def recorded() -> bool:
                return b'"offset":51200' in (await other.request("GET", f"/api/uploads/{url.rsplit('/', 1)[-1]}")).body

            await wait_until(recorded)
        replicas.servers[0].process.send_signal(signal.SIGSTOP)
        try:
            # What is still on its way comes when nobody wants it any more.
            await late.send(wrong)
            await wait_until(lambda: has_lock(replicas, url) is False)
            offset = await other.offset(replicas.on(1, url))
            assert offset == (0 if checksum else HALF)
            headers = {"Upload-Offset": offset, "Content-Type": OFFSET_STREAM, "Content-Length": len(DATA) - offset}
            async with other.connect() as connection:
                await connection.send(other.message("PATCH", replicas.on(1, url), headers) + DATA[offset : offset + 10])
                await wait_until(lambda: len(replicas.stored(url)) == offset + 10)
                replicas.servers[0].process.send_signal(signal.SIGCONT)
                answer = await late.answer("PATCH")
                assert (answer.status, answer.code) == (503, "ERR_LOCK_LOST")
                assert replicas.stored(url) == DATA[: offset + 10]
                await connection.send(DATA[offset + 10 :])
                assert (await connection.answer("PATCH")).status == 204
        finally:
            replicas.servers[0].process.send_signal(signal.SIGCONT)
    assert replicas.stored(url) == DATA
    for number, one in enumerate(replicas.clients):
        assert await one.offset(replicas.on(number, url)) == len(DATA)


def has_lock(replicas: Replicas, url: str) -> bool:
    """Whether somebody holds the upload's lock."""
    with replicas.redis.client() as client:
        return bool(client.exists(f"tusd-py:{{0}}:lock:{url.rsplit('/', 1)[-1]}"))


# A Redis that forgets, stands still, or dies


@pytest.mark.parametrize("how", ["flushed", "restarted", "restarted with its data"])
async def test_redis_forgets(own: Callable[..., Replicas], how: str) -> None:
    """Uploads in flight and at rest survive that Redis loses everything, at the offsets that they have."""
    replicas = own(save="with" in how)
    first, second = replicas.clients
    urls = [await first.create(len(DATA), body=DATA[:size]) for size in (0, HALF, len(DATA))]
    url = await first.create(len(DATA))
    async with replicas.patching(0, url, DATA[:HALF]) as running:
        if how == "flushed":
            with replicas.redis.client() as client:
                client.flushall()
        else:
            await asyncio.to_thread(replicas.redis.restart)
        for number, one in enumerate(replicas.clients):
            offsets = []
            for known in urls:
                answer = await one.head(replicas.on(number, known))
                check_repeatable(answer)
                if answer.status == 503:  # the connection was the old one's
                    answer = await one.head(replicas.on(number, known))
                offsets.append(answer.offset)
            assert offsets == [0, HALF, len(DATA)]
        await running.send(DATA[HALF:])
        answer = await running.answer("PATCH")
        check_repeatable(answer)
    await replicas.finish(1, url)
    assert (await second.patch(replicas.on(1, urls[1]), HALF, DATA[HALF:])).status == 204
    assert (await first.get(urls[1])).body == DATA
    listed = json.loads((await second.request("GET", "/api/uploads")).body)["uploads"]
    assert {upload["id"] for upload in listed} == {one.rsplit("/", 1)[-1] for one in (*urls, url)}


async def test_records_nobody_asks_for(start: Any, start_redis: Callable[..., RedisProcess]) -> None:
    """Records that Redis lost come back by and by also if nobody asks for them, so that the uploads still expire."""
    redis = start_redis()
    clients = [RawClient(start("--redis", redis.url, "--expire-after", "4s").url) for _ in range(2)]
    urls = [await clients[0].create(len(DATA), body=DATA) for _ in range(3)]
    begun = await clients[1].create(len(DATA), body=DATA[:HALF])
    with redis.client() as client:
        client.flushall()

    async def listed(status: str) -> int:
        answer = await clients[1].request("GET", f"/api/uploads?status={status}")
        return len(json.loads(answer.body)["uploads"])

    async def are_back() -> bool:
        return (await listed("accepted"), await listed("receiving")) == (len(urls), 1)

    await wait_until(are_back)
    await wait_until(lambda: listed("expired"))
    assert (await clients[1].head(begun)).status == 410


async def test_redis_is_away(own: Callable[..., Replicas]) -> None:
    """Without Redis all requests get 503 with Retry-After, and what is received is kept; then all goes on."""
    replicas = own()
    first, second = replicas.clients
    url, idle = await first.create(len(DATA)), await first.create(len(DATA))
    async with replicas.patching(0, url, DATA[:HALF]) as running:
        replicas.redis.kill()
        answers = [await running.answer("PATCH")]
        answers.append(await second.head(replicas.on(1, url)))
        answers.append(await second.patch(replicas.on(1, idle), 0, DATA))
        answers.append(await first.post({"Upload-Length": 1}))
        answers.append(await first.delete(idle))
        answers.append(await first.request("GET", "/readyz"))
        for answer in answers:
            assert answer.status == 503, answer
            assert "Retry-After" in answer.headers
        assert (await first.request("GET", "/healthz")).status == 200
        assert "cannot use Redis at redis://127.0.0.1" in replicas.servers[0].output()
    assert replicas.stored(url) == DATA[:HALF]
    await asyncio.to_thread(replicas.redis.start)
    await wait_until(lambda: is_ready(first))
    assert await second.offset(replicas.on(1, url)) == HALF
    await replicas.finish(1, url)
    await replicas.finish(0, idle)
    # Nor does it keep a server from stopping.
    replicas.redis.kill()
    assert await asyncio.to_thread(replicas.servers[0].stop) == 0


async def is_ready(client: RawClient) -> bool:
    """Whether a server says that it can take uploads."""
    return (await client.request("GET", "/readyz")).status == 200


async def test_redis_stands_still(own: Callable[..., Replicas]) -> None:
    """While Redis is silent requests get 503 after some seconds; a PATCH that runs is stopped, and goes on later."""
    replicas = own(query="socket_timeout=0.5")
    first, second = replicas.clients
    url = await first.create(len(DATA))
    async with replicas.patching(0, url, DATA[:HALF]) as running:
        with replicas.redis.client() as client:
            client.execute_command("CLIENT", "PAUSE", 4000, "ALL")
            started = time.monotonic()
            answers = await asyncio.gather(
                running.answer("PATCH"), second.head(replicas.on(1, url)), second.post({"Upload-Length": 1})
            )
            assert time.monotonic() - started < 4
            assert [answer.status for answer in answers] == [503] * 3
    await replicas.finish(1, url)


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.needs_redis)])
async def test_redis_is_full(own: Callable[..., Replicas], kind: str) -> None:
    """Without memory new uploads get 503; those that have begun go on, and can be removed."""
    replicas = own("--maxmemory-policy", "noeviction", kind=kind)
    first, second = replicas.clients
    url, other = await first.create(len(DATA)), await first.create(len(DATA))
    async with replicas.patching(0, url, DATA[:HALF]) as running:
        with replicas.redis.client() as client:
            client.config_set("maxmemory", 1)
            before = sorted(replicas.data.iterdir())
            refused = await second.post({"Upload-Length": 1})
            assert sorted(replicas.data.iterdir()) == before
            assert (refused.status, refused.code) == (503, "ERR_STORE_UNAVAILABLE")
            assert "Retry-After" in refused.headers
            assert "out of memory" in refused.body.decode()
            assert await is_ready(first) is False
            await running.send(DATA[HALF:])
            assert (await running.answer("PATCH")).status == 204
            assert (await second.delete(replicas.on(1, other))).status == 204
            client.config_set("maxmemory", 0)
    assert await is_ready(first) is True
    await replicas.finish(1, url)
    assert (await second.post({"Upload-Length": 1})).status == 201


async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command prints."""
    command = [sys.executable, "-m", "tusd_py", *arguments]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)


async def test_failover(start: Any, start_redis: Callable[..., RedisProcess], data: Path) -> None:
    """When the master dies uploads pause until the Sentinels have made another, and go on."""
    master = start_redis()
    start_redis("--replicaof", "127.0.0.1", str(master.port))
    sentinel = start_redis(sentinel=True)
    with sentinel.client() as client:
        client.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", master.port, 1)
        for name, value in (("down-after-milliseconds", 500), ("failover-timeout", 2000)):
            client.execute_command("SENTINEL", "SET", "main", name, value)
        await wait_until(lambda: client.execute_command("SENTINEL", "REPLICAS", "main"))
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
    replicas = Replicas(master, [start("--redis", url, "--progress-interval", "100ms") for _ in range(2)], data)
    upload = await replicas.clients[0].create(len(DATA))
    async with replicas.patching(0, upload, DATA[:HALF]) as running:
        master.kill()
        answer = await running.answer("PATCH")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    await wait_until(lambda: is_ready(replicas.clients[1]), timeout=60)
    await replicas.finish(1, upload)


async def test_cluster(start: Any, cluster: list[RedisProcess], cluster_url: str, data: Path) -> None:
    """In a Cluster servers agree, take over from each other and list everything as with a single server."""
    replicas = Replicas(cluster[0], [start("--redis", cluster_url) for _ in range(2)], data)
    first, second = replicas.clients
    urls, seconds = [await first.create(len(DATA)) for _ in range(8)], list[float]()
    for url in urls:
        async with replicas.patching(0, url, DATA[:HALF]) as stalled:
            started = time.monotonic()
            assert await second.offset(replicas.on(1, url)) == HALF
            seconds.append(time.monotonic() - started)
            assert (await stalled.answer("PATCH")).code == "ERR_UPLOAD_INTERRUPTED"
        await replicas.finish(1, url)
    assert min(seconds) < HANDOVER_SECONDS
    listed = json.loads((await second.request("GET", "/api/uploads?status=accepted")).body)["uploads"]
    assert {upload["id"] for upload in listed} == {one.rsplit("/", 1)[-1] for one in urls}
    assert [(await first.delete(url)).status for url in urls] == [204] * 8


async def test_wrong_password(start_redis: Callable[..., RedisProcess], tmp_path: Path) -> None:
    """A server that may not use Redis says so when it starts and when it is checked, and never tells the password."""
    redis = start_redis("--requirepass", "right")
    url = redis.url.replace("//", "//:verysecret@")
    with pytest.raises(ServerProcessError) as failure:
        await asyncio.to_thread(ServerProcess("--redis", url, "--upload-dir", str(tmp_path)).start)
    checked = await run("check", "--redis", url, "--upload-dir", str(tmp_path))
    shown = await run("config", "--redis", url)
    assert checked.returncode == 1
    for text in (str(failure.value), checked.stdout + checked.stderr):
        assert f"cannot use Redis at redis://:***@127.0.0.1:{redis.port}/0: it wants a user and password" in text
        assert "Traceback" not in text
    assert f"redis://:***@127.0.0.1:{redis.port}/0" in shown.stdout
    for text in (str(failure.value), checked.stdout, checked.stderr, shown.stdout):
        assert "verysecret" not in text


async def test_check_of_a_good_redis(shared: Replicas, tmp_path: Path) -> None:
    """A check names what is used, and finds nothing wrong."""
    url = f"{shared.redis.url}?prefix=check"
    checked = await run("check", "--redis", url, "--upload-dir", str(tmp_path), "--port", "0")
    assert checked.returncode == 0, checked.stderr
    assert f"state       {url}\nlocker      {url}" in checked.stdout
