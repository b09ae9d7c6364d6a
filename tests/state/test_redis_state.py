"""What the Redis state does beyond the contract: what it sends, what it forgets, and what it says of a broken Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import structlog

from tusd_py.config import ConfigError
from tusd_py.default_plugins.limits import Limits
from tusd_py.errors import AlreadyExists, Fenced, StoreUnavailable
from tusd_py.lockers.redis import RedisLocker
from tusd_py.models import Request, Status, Upload, now
from tusd_py.redis import Address
from tusd_py.state.base import Filter
from tusd_py.state.redis import RedisState
from tusd_py.testing.contracts import new_upload, wait_until
from tusd_py.testing.redis import RedisProcess, free_port


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisState]:
    """An open state."""
    state = RedisState(url, **options)
    await state.open()
    try:
        yield state
    finally:
        await state.aclose()


class Piece(msgspec.Struct, frozen=True, array_like=True):
    size: int
    etag: str


class Pieced(Upload, frozen=True, kw_only=True):
    """An upload with a list that may be long."""

    parts: tuple[Piece, ...] = ()


def pieced(count: int) -> Pieced:
    parts = tuple(Piece(number, f"etag-{number}-" + "x" * 24) for number in range(count))
    return Pieced(**{**msgspec.structs.asdict(new_upload()), "parts": parts})


def bytes_sent_to(server: RedisProcess) -> int:
    with server.client() as client:
        return client.info("stats")["total_net_input_bytes"]


async def test_only_new_parts_are_sent(redis_url: str, redis_server: RedisProcess) -> None:
    """A list of thousands that grows by one costs no more than a short one, also for who has only read it."""
    async with opened(redis_url, record=Pieced) as first:
        upload = pieced(5000)
        await first.insert(upload)
        assert await first.get(upload.id) == upload
        before = bytes_sent_to(redis_server)
        for number in range(10):
            upload = upload.changed(parts=(*upload.parts, Piece(number, "new")))
            upload = await first.save(upload, 1)
        assert bytes_sent_to(redis_server) - before < 50_000
        assert await first.get(upload.id) == upload
        assert len(upload.parts) == 5010


async def test_parts_that_another_has_changed(redis_url: str) -> None:
    """What one server knows of the list does not mix with what another made of it, longer, shorter or different."""
    async with opened(redis_url, record=Pieced) as one, opened(redis_url, record=Pieced) as two:
        upload = pieced(10)
        await one.insert(upload)
        for parts in (
            upload.parts[:3],
            (*upload.parts, Piece(1, "more")),
            (Piece(9, "other"), *upload.parts[1:]),
            (),
            upload.parts,
        ):
            # Both know the list as it was; two changes it, and one saves what it knew, with one more.
            known = await one.get(upload.id)
            assert known is not None
            changed = await two.save(known.changed(parts=parts), 1)
            assert await one.get(upload.id) == changed
            again = await two.save(changed.changed(parts=(*parts[:1], Piece(0, "mine"))), 1)
            saved = await one.save(changed.changed(parts=(*parts, Piece(2, "last"))), 1)
            assert await two.get(upload.id) == saved != again


async def test_lost_lock_changes_nothing(redis_url: str, redis_server: RedisProcess) -> None:
    """A writer is refused as soon as a newer lock was given out, even if that one's holder has saved nothing."""
    async with opened(redis_url) as state:
        upload = new_upload()
        await state.insert(upload)
        await state.save(upload.changed(offset=1), 5)
        prefix = Address.parse(redis_url).prefix
        with redis_server.client() as client:
            client.set(f"{prefix}:{{0}}:fence:{upload.id}", 6, px=10_000)
        with pytest.raises(Fenced):
            await state.save(upload.changed(offset=2), 5)
        found = await state.get(upload.id)
        assert found is not None
        assert found.offset == 1
        assert (await state.save(upload.changed(offset=3), 6)).offset == 3


async def test_insert_that_is_sent_again(redis_url: str) -> None:
    """An insert whose answer was lost may be sent again, but a different one is refused."""
    async with opened(redis_url) as state:
        upload = new_upload()
        await state.insert(upload)
        await state.insert(upload)
        with pytest.raises(AlreadyExists):
            await state.insert(upload.changed(owner="somebody else"))


async def test_what_is_forgotten_leaves_the_lists(redis_url: str, redis_server: RedisProcess) -> None:
    """Records whose time to live is over are no longer listed, and nothing of them stays."""
    at = now() - timedelta(seconds=5)
    uploads = [new_upload(owner="ada", expires_at=at) for _ in range(5)]
    prefix = Address.parse(redis_url).prefix
    async with opened(redis_url) as state:
        for upload in uploads:
            await state.insert(upload)
        with redis_server.client() as client:
            for upload in uploads[:3]:
                client.delete(f"{prefix}:{{0}}:upload:{upload.id}")
        wanted = [Filter(), Filter(owner="ada"), Filter(status=Status.RECEIVING)]
        wanted.append(Filter(owner="ada", status=Status.RECEIVING))
        for filter in wanted:
            page = await state.page(filter, None, 1)
            assert [upload.id for upload in page.uploads] == [uploads[4].id]
            page = await state.page(filter, page.next, 1)
            assert ([upload.id for upload in page.uploads], page.next) == ([uploads[3].id], None)
        assert len(await state.due(now(), 10)) == 2
        for upload in uploads[3:]:
            await state.remove(upload.id)
    with redis_server.client() as client:
        left = {key.decode().partition("}:")[2] for key in client.scan_iter(f"{prefix}:*")}
    assert left - {"probe"} <= {"highest", "kept"}


@pytest.mark.parametrize(
    ("changes", "days"),
    [
        ({}, 30),
        ({"expires_at": timedelta(days=1)}, 8),
        ({"expires_at": -timedelta(days=100)}, 7),
        ({"status": Status.TERMINATED, "expires_at": timedelta(days=2)}, 9),
        ({"status": Status.ACCEPTED, "expires_at": timedelta(days=3)}, 10),
        ({"status": Status.ACCEPTED}, None),
    ],
)
async def test_time_to_live(redis_url: str, redis_server: RedisProcess, changes: Any, days: int | None) -> None:
    """Records outlive what they stand for by a week; only those of finished uploads live for ever."""
    # The moment is that of the test and not of its collection.
    at = {name: now() + value for name, value in changes.items() if isinstance(value, timedelta)}
    upload = new_upload(**{**changes, **at})
    key = f"{Address.parse(redis_url).prefix}:{{0}}:upload:{upload.id}"
    async with opened(redis_url) as state:
        await state.insert(new_upload(id=upload.id))
        await state.save(upload, 1)
    with redis_server.client() as client:
        seconds = client.ttl(key)
    assert seconds == -1 if days is None else abs(seconds - days * 86400) < 300


async def test_clients_share_connections(redis_url: str, redis_server: RedisProcess) -> None:
    """However many requests there are at once, they use a bounded number of connections, all closed at the end."""

    def connections() -> int:
        with redis_server.client() as client:
            return len(client.client_list())

    before = connections()
    async with opened(redis_url) as state:
        uploads = [new_upload() for _ in range(500)]
        await asyncio.gather(*(state.insert(upload) for upload in uploads))
        assert connections() - before <= 50
        found = await asyncio.gather(*(state.get(upload.id) for upload in uploads))
        assert found == uploads
    assert connections() <= before


# What is wrong with it


async def problem_of(url: str) -> str:
    """What an operator is told who starts a server with this URL."""
    with pytest.raises(StoreUnavailable) as failure:
        async with opened(url):
            pass
    assert "secret" not in failure.value.message
    return failure.value.message


async def test_nobody_there(start_redis: Callable[..., RedisProcess]) -> None:
    """A server that is not there is named, without the password."""
    redis = start_redis()
    redis.kill()
    problem = await problem_of(f"redis://ada:secret@127.0.0.1:{redis.port}/3")
    assert f"redis://ada:***@127.0.0.1:{redis.port}/3" in problem
    assert "cannot be reached" in problem


async def test_password(start_redis: Callable[..., RedisProcess]) -> None:
    """A missing or wrong password is called that; with the right one, also in a user's name, all is well."""
    allowed = (
        "+@read",
        "+@write",
        "+@connection",
        "+@scripting",
        "+@pubsub",
        "+time",
        "+info",
    )  # as docs/operations.md says
    user = ("--user", "ada", "on", ">secret2", "~tusd-py:*", "&tusd-py:*", "-@all", *allowed)
    redis = start_redis("--requirepass", "secret1", *user)
    for url in (redis.url, f"redis://:secret@127.0.0.1:{redis.port}", f"redis://ada:secret@127.0.0.1:{redis.port}"):
        assert "wants a user and password, or refuses them" in await problem_of(url)
    async with opened(f"redis://:secret1@127.0.0.1:{redis.port}") as state:
        upload = new_upload()
        await state.insert(upload)
    async with opened(f"redis://ada:secret2@127.0.0.1:{redis.port}") as state:
        assert await state.get(upload.id) == upload
        locker = RedisLocker(f"redis://ada:secret2@127.0.0.1:{redis.port}")
        await locker.open()
        lock = await locker.acquire(upload.id, timeout=1, let_go=lambda urgent, /, *, lost=False: None)
        await state.save(upload.changed(offset=5), lock.fence)
        await lock.release()
        await locker.aclose()
        await state.remove(upload.id)
        limits = Limits(5, 0, 0, "/", f"redis://ada:secret2@127.0.0.1:{redis.port}")
        with structlog.testing.capture_logs() as logs:
            await limits.authorize(Request("POST", "/", remote="203.0.113.1"), "create", None)
        await limits.aclose()
        assert logs == []
    assert "lacks a permission" in await problem_of(f"redis://ada:secret2@127.0.0.1:{redis.port}?prefix=other")


async def test_key_of_another_program(start_redis: Callable[..., RedisProcess]) -> None:
    """A key that is not ours is named."""
    redis = start_redis()
    with redis.client() as client:
        client.set("tusd-py:{0}:all", "mine", ex=100)
    assert "tusd-py:{0}:all" in await problem_of(redis.url)
    async with opened(f"{redis.url}?prefix=another") as state:
        assert await state.problem() is None


async def test_replica(start_redis: Callable[..., RedisProcess]) -> None:
    """A read-only replica is called that."""
    master = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(master.port))
    assert "read-only replica" in await problem_of(replica.url)


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.needs_redis)])
async def test_out_of_memory(start_redis: Callable[..., RedisProcess], kind: str) -> None:
    """Without memory no new upload is taken, but those that exist go on, and can be removed."""
    redis = start_redis("--maxmemory-policy", "noeviction", kind=kind)
    async with opened(redis.url) as state:
        upload = new_upload()
        await state.insert(upload)
        with redis.client() as client:
            client.config_set("maxmemory", 1)
            problem = await state.problem()
            assert problem is not None
            assert "out of memory" in problem
            with pytest.raises(StoreUnavailable, match="out of memory"):
                await state.insert(new_upload())
            assert await state.save(upload.changed(offset=7), 1) == await state.get(upload.id)
            await state.remove(upload.id)
            client.config_set("maxmemory", 0)
        assert await state.problem() is None
        await state.insert(new_upload())


async def test_slow(start_redis: Callable[..., RedisProcess]) -> None:
    """A server that answers nothing is given up after a few seconds, and is well once it goes on."""
    redis = start_redis()
    async with opened(f"{redis.url}?socket_timeout=0.3") as state:
        upload = new_upload()
        await state.insert(upload)
        redis.stop_running()
        try:
            started = asyncio.get_running_loop().time()
            with pytest.raises(StoreUnavailable, match="in time"):
                await state.get(upload.id)
            assert asyncio.get_running_loop().time() - started < 2
        finally:
            redis.run_again()
        assert await state.get(upload.id) == upload


async def test_restarted(start_redis: Callable[..., RedisProcess]) -> None:
    """After a restart, also one that nobody noticed, the records of unfinished uploads count as lost; others do not."""
    redis = start_redis(save=True)
    async with opened(redis.url) as state:
        begun, finished = new_upload(), new_upload(status=Status.ACCEPTED)
        for upload in (begun, finished):
            await state.insert(upload)
        begun = await state.save(begun, 7)
        assert [await state.has_lost_records() for _ in range(2)] == [True, False]
        await asyncio.to_thread(redis.restart)
        assert await state.get(finished.id) == finished
        assert await state.get(begun.id) is None
        assert [await state.has_lost_records() for _ in range(2)] == [True, False]
        await state.insert(begun.changed(offset=5, fence=0))
        with pytest.raises(AlreadyExists):
            await state.insert(begun)
        with pytest.raises(Fenced):
            await state.save(begun, 6)
        found = await state.get(begun.id)
        assert found is not None
        assert found.offset == 5


@pytest.mark.needs_redis
@pytest.mark.needs_openssl
async def test_tls(start_redis: Callable[..., RedisProcess], certificate: dict[str, str]) -> None:
    """A server is reached by TLS, and one whose certificate nobody vouches for is refused."""
    port = free_port()
    files = ("--tls-cert-file", certificate["cert"], "--tls-key-file", certificate["key"])
    start_redis(
        "--tls-port",
        str(port),
        *files,
        "--tls-ca-cert-file",
        certificate["cert"],
        "--tls-auth-clients",
        "no",
        kind="redis",
    )
    async with opened(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate['cert']}") as state:
        await state.insert(new_upload())
    assert "cannot be reached" in await problem_of(f"rediss://localhost:{port}/0")


async def test_socket(start_redis: Callable[..., RedisProcess]) -> None:
    """A server is reached by a Unix socket."""
    redis = start_redis()
    async with opened(f"unix://{redis.socket}?db=2") as state:
        await state.insert(new_upload())
    with redis.client(db=2) as client:
        assert client.dbsize() > 0


async def test_sentinel(start_redis: Callable[..., RedisProcess]) -> None:
    """Sentinels are asked for the master, and for the next one when that is dead."""
    master = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(master.port))
    sentinel = start_sentinel(start_redis, master)
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main/0?sentinel_password=guard"
    async with opened(url) as state:
        upload = new_upload()
        await state.insert(upload)
        with replica.client() as client:
            await wait_until(lambda: client.keys("*upload*"))
        master.kill()

        async def goes_on() -> bool:
            try:
                return await state.save(upload.changed(offset=5), 1) == upload.changed(offset=5, fence=1)
            except StoreUnavailable:
                return False

        await wait_until(goes_on, timeout=60)
        with replica.client() as client:
            assert client.role()[0] == b"master"
    assert "know no master" in await problem_of(
        f"redis+sentinel://127.0.0.1:{sentinel.port}/other?sentinel_password=guard"
    )


def start_sentinel(start_redis: Callable[..., RedisProcess], master: RedisProcess) -> RedisProcess:
    """Start a Sentinel that watches a master and is quick."""
    sentinel = start_redis("--requirepass", "guard", sentinel=True)
    with sentinel.client(password="guard") as client:
        client.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", master.port, 1)
        for name, value in (("down-after-milliseconds", 500), ("failover-timeout", 2000)):
            client.execute_command("SENTINEL", "SET", "main", name, value)
    return sentinel


async def test_cluster_spreads(cluster: list[RedisProcess], cluster_url: str) -> None:
    """Uploads are spread over the servers of a Cluster, and found from each."""
    async with opened(cluster_url) as state:
        uploads = [new_upload() for _ in range(60)]
        for upload in uploads:
            await state.insert(upload)
        for node in cluster:
            with node.client() as client:
                assert client.dbsize() > 0
        page = await state.page(Filter(), None, 100)
        assert {upload.id for upload in page.uploads} == {upload.id for upload in uploads}


@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:secret@127.0.0.1:port/0",
        "redis://ada:secret@127.0.0.1/one",
        "redis+sentinel://ada:secret@one,two",
        "redis+cluster://ada:secret@one,two/3",
        "redis+tower://ada:secret@127.0.0.1",
        "redis://ada:secret@127.0.0.1?prefix={a}",
        "redis://ada:secret@127.0.0.1?lease=long",
        "redis://ada:secret@127.0.0.1?lease=0",
        "redis://ada:secret@127.0.0.1?socket_timeout=soon",
    ],
)
def test_wrong_url(url: str) -> None:
    """A URL that cannot be is refused, without the password."""
    with pytest.raises(ConfigError) as failure:
        RedisState(url)
    assert "ada:***@" in str(failure.value)
    assert "secret" not in str(failure.value)


def test_parts_of_a_url() -> None:
    """Everything that a URL can say is understood."""
    address = Address.parse(
        "rediss+sentinel://ada:p%40ss@one,two:7000/main/3?prefix=mine&lease=2.5&ssl_ca_certs=/ca.pem"
    )
    assert address.hosts == [("one", 26379), ("two", 7000)]
    assert (address.kind, address.service, address.prefix, address.lease) == ("sentinel", "main", "mine", 2.5)
    assert address.options["db"] == 3
    assert (address.options["username"], address.options["password"]) == ("ada", "p@ss")
    assert address.options["ssl_ca_certs"] == "/ca.pem"
    assert "p@ss" not in repr(address)
    assert Address.parse("redis://[::1]").hosts == [("::1", 6379)]
