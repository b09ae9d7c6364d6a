"""One pool of connections to Redis or Valkey for a whole process: URLs, time-outs, scripts, errors, names of keys.

URLs are those of redis-py (`redis://`, `rediss://` for TLS, `unix://`), with its options as the query. Several hosts
between commas are for `redis+sentinel://` (the path begins with the name of the service) and `redis+cluster://`, both
with TLS as `rediss+...`. Some options are ours: `prefix` begins the names of all keys, `lease` is how many seconds a
lock outlives a dead server, `sentinel_username` and `sentinel_password` are for the Sentinels themselves.

All that belongs to one upload lies in one *bucket*, whose name in braces is the hash tag by which a Cluster places
keys. So one script can change a record and every index that has it at once, in a Cluster too, and there is no moment
between two commands in which a crash could part them. A single server has one bucket; a Cluster has 16, which it
spreads, and who looks for something asks all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from tusd_py.config import ConfigError, redacted
from tusd_py.errors import StoreUnavailable

try:
    from redis import exceptions
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.client import PubSub
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
    from redis.backoff import ExponentialBackoff
except ImportError as missing:
    raise ImportError("the package redis is missing; install it with: pip install 'tusd-py[redis]'") from missing

T = TypeVar("T")

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 3.0
# A pooled connection to a server that was restarted is dead, which only its next use shows.
RETRIES = 2
MAX_CONNECTIONS = 50
# For what is not a short command: those who listen, and the client of the rate limits.
FURTHER_CONNECTIONS = 20
CLUSTER_BUCKETS = 16
SILENCE_SECONDS = 5.0
SENTINEL_PORT = 26379
REDIS_PORT = 6379
NOT_FOR_SENTINELS = ("username", "password", "db")
# No braces, for they make the hash tag.
PREFIX = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclass(frozen=True)
class Address:
    """What a URL says."""

    url: str = field(repr=False)
    kind: str
    """`redis`, `sentinel` or `cluster`."""
    hosts: list[tuple[str, int]]
    service: str
    options: dict[str, Any] = field(repr=False)
    """What redis-py's connections want to know: user, password, database, TLS."""
    sentinel_options: dict[str, Any] = field(repr=False)
    """What differs for connections to Sentinels: user and password."""
    prefix: str = "tusd-py"
    lease: float = 6.0

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return what a URL says.

        Raises:
            ConfigError: it is not one; the message has no password.
        """
        try:
            return cls._parse(url)
        except ValueError as error:
            raise ConfigError(f"{redacted(url)!r} is no URL of Redis: {error}") from None

    @classmethod
    def _parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if kind not in ("", "sentinel", "cluster"):
            raise ValueError(f"{kind!r} is neither sentinel nor cluster")
        query = dict(parse_qsl(parts.query))
        own: dict[str, Any] = {"sentinel_options": {}}
        for name in ("sentinel_username", "sentinel_password"):
            if name in query:
                own["sentinel_options"][name.removeprefix("sentinel_")] = query.pop(name)
        if "prefix" in query:
            own["prefix"] = query.pop("prefix")
        if not PREFIX.fullmatch(own.get("prefix", "tusd-py")):
            raise ValueError("the prefix may have letters, digits, and any of . _ : -")
        if "lease" in query:
            own["lease"] = float(query.pop("lease"))
        if not 0.1 <= own.get("lease", 1) <= 3600:
            raise ValueError("lease is a number of seconds")
        if scheme == "unix":
            options = dict(parse_url(f"{url.partition('?')[0]}?{urlencode(query)}"))
            options["unix_socket_path"] = options.pop("path")
            del options["connection_class"]
            return cls(url, "redis", [], "", options, **own)
        credentials, _, places = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
        hosts = [(one.hostname or "localhost", one.port or port) for one in map(_split_host, places.split(","))]
        service, _, database = parts.path.strip("/").partition("/") if kind == "sentinel" else ("", "", parts.path)
        if kind == "sentinel" and not service:
            raise ValueError("the path has to begin with the name of the service, as in /mymaster/0")
        if kind == "cluster" and parts.path.strip("/"):
            raise ValueError("a Cluster has no numbered databases")
        if (database := database.strip("/")) and not database.isdecimal():
            raise ValueError(f"the database has a number, which {database!r} is not")
        options = dict(parse_url(f"{scheme}://host/{database}?{urlencode(query)}"))
        del options["host"]
        if options.pop("connection_class", None) is not None:
            options["ssl"] = True
        options |= {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}
        return cls(url, kind or "redis", hosts, service, options, **own)


def _split_host(place: str) -> Any:
    return urlsplit(f"//{place}")


class Script:
    """A script of Lua, run by its hash."""

    def __init__(self, source: str, *, needs_memory: bool = False, reads: bool = False) -> None:
        """Take the source; a server without memory refuses one that `needs_memory`, but none that only `reads`."""
        flags = ["no-writes"] * reads + ["allow-oom"] * (not needs_memory)
        self.source = f"#!lua flags={','.join(flags)}\n{source}"
        self.hash = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Bucket:
    """Names of keys that lie together."""

    def __init__(self, prefix: str, number: int) -> None:
        """Begin every name with the prefix and the number."""
        self.name = f"{prefix}:{{{number}}}"

    def key(self, kind: str, name: str = "") -> str:
        """Return the name of a key."""
        return f"{self.name}:{kind}:{name}" if name else f"{self.name}:{kind}"

    def upload(self, upload_id: str) -> str:
        """Return the name of an upload's record."""
        return self.key("upload", upload_id)

    def fence(self, upload_id: str) -> str:
        """Return the name of the highest number that a lock on the upload has had."""
        return self.key("fence", upload_id)


class Server:
    """Connections to one URL; `Server.connect` gives all of a process the same ones."""

    _open: ClassVar[dict[tuple[asyncio.AbstractEventLoop, str], Server]] = {}

    def __init__(self, address: Address) -> None:
        """Connect to nothing yet."""
        self.address = address
        self.buckets = [
            Bucket(address.prefix, number) for number in range(CLUSTER_BUCKETS if address.kind == "cluster" else 1)
        ]
        self._users = 0
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sentinel: Sentinel | None = None
        self.client: Any = self._make_client()

    @classmethod
    def connect(cls, address: Address) -> Server:
        """Return the server at an address, to be closed when done; connections are made when they are needed."""
        key = asyncio.get_running_loop(), address.url
        server = cls._open.get(key)
        if server is None:
            server = cls._open[key] = cls(address)
        server._users += 1
        return server

    async def aclose(self) -> None:
        """Close the connections, unless others use them."""
        self._users -= 1
        if self._users:
            return
        del self._open[asyncio.get_running_loop(), self.address.url]
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.client.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    def bucket(self, upload_id: str) -> Bucket:
        """Return where an upload's keys are."""
        return self.buckets[zlib.crc32(upload_id.encode()) % len(self.buckets)]

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Run a script; its keys are all in one bucket.

        Raises:
            StoreUnavailable: the server does not answer, or refuses.
        """

        async def attempt() -> Any:
            try:
                return await self.client.evalsha(script.hash, len(keys), *keys, *arguments)
            except exceptions.NoScriptError:
                return await self.client.eval(script.source, len(keys), *keys, *arguments)

        return await self.call(attempt)

    async def commands(self, *commands: Sequence[str | int | float]) -> list[Any]:
        """Return the answers to commands that are sent together.

        Raises:
            StoreUnavailable: the server does not answer, or refuses one.
        """

        async def attempt() -> list[Any]:
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute()
            return answers

        return await self.call(attempt)

    async def problem(self) -> str | None:
        """Return why the server cannot be used, for the operator, or None if it can."""
        probes: list[Sequence[str | int | float]] = []
        for bucket in self.buckets:
            probes.append(("TYPE", bucket.key("all")))
            probes.append(("SET", bucket.key("probe"), "", "PX", 1000))
        try:
            answers = await self.commands(*probes)
        except StoreUnavailable as error:
            cause = error.__cause__
            assert isinstance(cause, Exception)
            told = str(cause) or type(cause).__name__
            return f"cannot use Redis at {redacted(self.address.url)}: {_reason(cause)} ({told})"
        for bucket, kind in zip(self.buckets, answers[::2], strict=True):
            if kind not in (b"none", b"zset"):
                return (
                    f"the key {bucket.key('all')} in Redis at {redacted(self.address.url)} is not ours; "
                    "another program uses this prefix"
                )
        return None

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """Listen to a channel by a connection of its own: yields a function that waits for the next message.

        Raises:
            StoreUnavailable: the connection broke, or the server has said nothing for too long.
        """
        client, is_own = self.client, False
        try:
            if self.address.kind == "cluster":
                # What is published reaches every node, so any will do.
                await client.initialize()
                node = random.choice(client.get_nodes())  # noqa: S311 - nothing depends on it
                client, is_own = self._single(node.host, node.port), True
            pubsub: PubSub = client.pubsub()
            try:
                await pubsub.subscribe(channel)
                yield lambda: _next_message(pubsub)
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
        except _ERRORS as error:
            raise translated(error) from error
        finally:
            if is_own:
                await client.aclose()

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await what the function gives, with other such calls on a bounded number of connections.

        Raises:
            StoreUnavailable: the server does not answer, or refuses.
        """

        async def work() -> T:
            try:
                async with self._slots:
                    return await attempt()
            except _ERRORS as error:
                raise translated(error) from error

        # In a task of its own: a request that is dropped amid a command would cost a connection, and while redis-py
        # (8.1) makes one, it swallows cancellations.
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _make_client(self) -> Any:
        address, options = self.address, self.client_options()
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return RedisCluster(startup_nodes=nodes, **options)
        if address.kind == "sentinel":
            # Their users are not those of the servers that they watch.
            own = {name: value for name, value in options.items() if name not in NOT_FOR_SENTINELS}
            own |= address.sentinel_options
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                address.hosts, sentinel_kwargs=own, **options
            )
            return self._sentinel.master_for(address.service)
        if not address.hosts:
            return Redis(**options)
        return self._single(*address.hosts[0])

    def _single(self, host: str, port: int) -> Any:
        return Redis(host=host, port=port, **self.client_options())

    def client_options(self) -> dict[str, Any]:
        """Return redis-py's options: what the URL says goes before our own."""
        wait = ExponentialBackoff(cap=0.1, base=0.02)
        # A command that may still be at work is not sent again; one whose connection broke is: all may be repeated.
        retry = Retry(wait, RETRIES, supported_errors=(exceptions.ConnectionError,))
        own: Mapping[str, Any] = {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            "max_connections": MAX_CONNECTIONS + FURTHER_CONNECTIONS,
            "protocol": 2,
            "retry": retry,
        }
        return {**own, **self.address.options}


async def _next_message(pubsub: PubSub) -> bytes:
    is_pinged = False
    while True:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=SILENCE_SECONDS)
        if message is None:
            # A connection of which only this end is left looks like one on which nothing happens.
            if is_pinged:
                raise exceptions.ConnectionError("no answer to a ping")
            await pubsub.ping()
            is_pinged = True
        elif message["type"] == "message":
            data: bytes = message["data"]
            return data
        else:
            is_pinged = False


# What redis-py lets through; a Cluster without a node that answers is not even a RedisError.
_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)


def translated(error: Exception) -> StoreUnavailable:
    """Return the error for the client."""
    return StoreUnavailable(f"the server's Redis cannot be used now: {_reason(error)}; try again")


def _reason(error: Exception) -> str:
    """Return what is wrong, without addresses and names of keys."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    code = str(error).partition(" ")[0]
    return _REPLIES.get(code, f"it answers {code}" if code.isupper() else f"it failed ({type(error).__name__})")


_REASONS: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
    ((exceptions.AuthenticationError, exceptions.AuthorizationError), "it wants a user and password, or refuses them"),
    (exceptions.NoPermissionError, "its user lacks a permission"),
    (exceptions.OutOfMemoryError, "it is out of memory"),
    (exceptions.ReadOnlyError, "it is a read-only replica"),
    (exceptions.BusyLoadingError, "it is loading its data"),
    ((exceptions.ClusterError, exceptions.RedisClusterException), "its cluster is down or incomplete"),
    (MasterNotFoundError, "its sentinels know no master that works"),
    ((exceptions.TimeoutError, TimeoutError), "it does not answer in time"),
    ((exceptions.ConnectionError, OSError), "it cannot be reached"),
]
_REPLIES = {
    "WRONGTYPE": "a key is not ours: another program uses the same prefix",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "it has too few replicas",
}
