"""Locks in Redis or Valkey, shared by any number of servers.

A lock is a hash with a lease, which its holder renews: the lock of a dead server frees itself. Its number is the time
of the Redis server in microseconds, or one more than the last number of the upload, its record and this server's state
if that is higher. So numbers grow also over a FLUSHALL or a failover that lost the last of them, as long as the clocks
of the Redis servers are about right.

A holder that cannot renew in time takes its lock for lost a little before Redis gives it to another, by its own
monotonic clock, which runs on while the process is stopped. If Redis has lost the lock but has given out no newer
number since, renewing takes it again.

Who wants a lock leaves its wish in the hash, with the time until which it waits, and publishes it to the holder; who
releases a lock publishes that to those who wait. Messages only save time: the holder finds the wish when it renews, and
the others look again several times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Coroutine
from typing import Any

import structlog

from tusd_py.config import Config
from tusd_py.errors import Locked, StoreUnavailable, TusError
from tusd_py.lockers.base import LetGo
from tusd_py.lockers.waiting import LAST_POLL_SECONDS, Waiting
from tusd_py.redis import Address, Script, Server

RENEWALS = 6
"""A lease is renewed so often before it would end."""
MARGIN = 0.1
"""This share of a lease before its end a holder that could not renew stops."""
MOST_AT_ONCE = 500
NUMBER_MILLISECONDS = 24 * 3600 * 1000
"""How long a number is remembered after its lock is gone; a writer that sleeps longer only has the record's to fear."""

# KEYS: the lock, its number, the record. ARGV: token, lease in ms, least number, wish, milliseconds to wait, channels,
# id, own name, ms for which the number is remembered.
ACQUIRE = Script("""
local time = redis.call('TIME')
local token = redis.call('HGET', KEYS[1], 'token')
if token and token ~= ARGV[1] then
    local wish = ARGV[4]
    if wish ~= '' then
        local till = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[5])
        if till > tonumber(redis.call('HGET', KEYS[1], wish) or 0) then
            redis.call('HSET', KEYS[1], wish, string.format('%.0f', till))
        end
        redis.call('HSET', KEYS[1], 'waiter:' .. ARGV[8], 1)
        redis.call('PUBLISH', ARGV[6] .. string.match(token, '^[^:]+'), 'ask ' .. wish .. ' ' .. ARGV[7])
    end
    return ''
end
local number = time[1] * 1000000 + time[2]
number = math.max(number, tonumber(ARGV[3]))
number = math.max(number, tonumber(redis.call('GET', KEYS[2]) or 0) + 1)
number = math.max(number, tonumber(redis.call('HGET', KEYS[3], 'fence') or 0) + 1)
number = string.format('%.0f', number)
redis.call('HSET', KEYS[1], 'token', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], number, 'PX', ARGV[9])
return number
""")

# KEYS: a lock, its number, the next lock, ... ARGV: lease in ms, ms for numbers, then a token and a number for each.
RENEW = Script("""
local time, answers = redis.call('TIME'), {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #KEYS, 2 do
    local token, number = ARGV[i + 2], ARGV[i + 3]
    local lock = redis.call('HMGET', KEYS[i], 'token', 'now', 'if-stalled')
    if (lock[1] and lock[1] ~= token) or tonumber(redis.call('GET', KEYS[i + 1]) or 0) > tonumber(number) then
        answers[#answers + 1] = 'lost'
    else
        if not lock[1] then redis.call('HSET', KEYS[i], 'token', token) end
        redis.call('PEXPIRE', KEYS[i], ARGV[1])
        redis.call('SET', KEYS[i + 1], number, 'PX', ARGV[2])
        if tonumber(lock[2] or 0) > now then answers[#answers + 1] = 'now'
        elseif tonumber(lock[3] or 0) > now then answers[#answers + 1] = 'if-stalled'
        else answers[#answers + 1] = '' end
    end
end
return answers
""")

# KEYS: the lock, its number. ARGV: token, channels, id, ms for which the number is remembered.
# The number is used up, so that a renewal under way cannot take the lock again.
RELEASE = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return end
local fields = redis.call('HKEYS', KEYS[1])
redis.call('DEL', KEYS[1])
local number = tonumber(redis.call('GET', KEYS[2]) or 0) + 1
redis.call('SET', KEYS[2], string.format('%.0f', number), 'PX', ARGV[4])
for _, name in ipairs(fields) do
    local waiter = string.match(name, '^waiter:(.*)')
    if waiter then redis.call('PUBLISH', ARGV[2] .. waiter, 'free ' .. ARGV[3]) end
end
""")

_log = structlog.get_logger("tusd_py.lockers")


class RedisLocker:
    """Locks in Redis."""

    def __init__(self, url: str) -> None:
        """Use the server at `url`.

        Raises:
            ConfigError: this is no URL of Redis.
        """
        self._address = Address.parse(url)
        self.lease = self._address.lease
        self._channels = f"{self._address.prefix}:locker:"
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._first_fence = 1
        self._server: Server
        self._held: dict[str, RedisLock] = {}
        self._waiting = Waiting()
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(cls, url: str, config: Config) -> RedisLocker:
        """Return the locker of a URL that `tusd_py.redis` explains."""
        return cls(url)

    async def open(self, first_fence: int = 1) -> None:
        """Begin to listen and to renew.

        Raises:
            StoreUnavailable: the server cannot be used; the message is for the operator.
        """
        self._first_fence = first_fence
        self._server = Server.connect(self._address)
        if problem := await self.problem():
            await self._server.aclose()
            raise StoreUnavailable(problem)
        listening = asyncio.Event()
        self._loops = [asyncio.create_task(self._listen(listening)), asyncio.create_task(self._renew())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await listening.wait()

    async def acquire(self, upload_id: str, *, timeout: float, let_go: LetGo, urgent: bool = True) -> RedisLock:
        """Return the upload's lock, asking its holder wherever it runs.

        Raises:
            Locked: the holder did not let go in time.
            StoreUnavailable: Redis does not answer.
        """
        loop = asyncio.get_running_loop()
        token = f"{self._name}:{next(self._numbers)}"
        wish = ("now" if urgent else "if-stalled") if timeout else ""
        async with contextlib.aclosing(self._waiting.tries(upload_id, timeout)) as tries:
            async for remaining in tries:
                asked_at = loop.time()
                if number := await self._take(upload_id, token, wish, remaining):
                    lock = self._held[upload_id] = RedisLock(self, upload_id, token, number, let_go)
                    lock.hold_until(asked_at + self.lease * (1 - MARGIN))
                    return lock
        raise Locked()

    async def problem(self) -> str | None:
        """Return why locks cannot be given out now, or None if they can."""
        return await self._server.problem()

    async def aclose(self) -> None:
        """Stop listening and renewing."""
        while any(not task.done() for task in self._loops):
            for task in self._loops:
                task.cancel()  # not once: see Server.call
            await asyncio.wait(self._loops, timeout=0.1)
        while self._tasks:
            await asyncio.wait(self._tasks)
        for lock in list(self._held.values()):
            lock.end()
        await self._server.aclose()

    async def _take(self, upload_id: str, token: str, wish: str, wait: float) -> int:
        """Return the number of the lock, or 0 if another has it and was asked."""
        bucket = self._server.bucket(upload_id)
        keys = [bucket.key("lock", upload_id), bucket.fence(upload_id), bucket.upload(upload_id)]
        held: list[str | int] = [token, int(self.lease * 1000), self._first_fence]
        wanted: list[str | int] = [wish, int(wait * 1000), self._channels, upload_id, self._name]
        task = asyncio.create_task(self._server.run(ACQUIRE, keys, [*held, *wanted, NUMBER_MILLISECONDS]))
        try:
            return int(await asyncio.shield(task) or 0)
        except BaseException:
            self._background(self._give_back(task, upload_id, token))
            raise

    async def _give_back(self, task: asyncio.Task[Any], upload_id: str, token: str) -> None:
        """Release what may have been given to somebody who did not wait for it, or heard no answer."""
        await asyncio.wait([task])
        if task.exception() or task.result():
            await self._free(upload_id, token)

    async def _free(self, upload_id: str, token: str) -> None:
        bucket = self._server.bucket(upload_id)
        keys = [bucket.key("lock", upload_id), bucket.fence(upload_id)]
        try:
            await self._server.run(RELEASE, keys, [token, self._channels, upload_id, NUMBER_MILLISECONDS])
        except TusError as error:
            _log.warning("a lock is free only when its lease ends", upload=upload_id, error=error.message)

    async def _release(self, lock: RedisLock) -> None:
        if lock.end():
            await asyncio.shield(self._background(self._free(lock.upload_id, lock.token)))

    async def _listen(self, listening: asyncio.Event) -> None:
        while True:
            try:
                async with self._server.subscribed(self._channels + self._name) as next_message:
                    listening.set()
                    while True:
                        self._on_message((await next_message()).decode(errors="replace").split(" "))
            except TusError as error:
                if listening.is_set():  # said once, and not at each attempt
                    listening.clear()
                    _log.warning("messages about locks do not arrive now", error=error.message)
                await asyncio.sleep(LAST_POLL_SECONDS)

    def _on_message(self, words: list[str]) -> None:
        match words:
            case ["ask", ("now" | "if-stalled") as wish, upload_id] if upload_id in self._held:
                self._held[upload_id].let_go(wish == "now")
            case ["free", upload_id]:
                self._waiting.wake(upload_id)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.lease / RENEWALS)
            batches: dict[str, list[RedisLock]] = {}
            for number, lock in enumerate(self._held.values()):
                # The keys of one script have to be in one bucket.
                name = self._server.bucket(lock.upload_id).name
                batches.setdefault(f"{name} {number // MOST_AT_ONCE}", []).append(lock)
            await asyncio.gather(*map(self._renew_batch, batches.values()))

    async def _renew_batch(self, locks: list[RedisLock]) -> None:
        asked_at = asyncio.get_running_loop().time()
        keys, arguments = list[str](), list[str | int]([int(self.lease * 1000), NUMBER_MILLISECONDS])
        for lock in locks:
            bucket = self._server.bucket(lock.upload_id)
            keys += [bucket.key("lock", lock.upload_id), bucket.fence(lock.upload_id)]
            arguments += [lock.token, lock.fence]
        try:
            answers = await self._server.run(RENEW, keys, arguments)
        except TusError as error:
            _log.warning("locks could not be renewed", locks=len(locks), error=error.message)
            return
        for lock, answer in zip(locks, answers, strict=True):
            if self._held.get(lock.upload_id) is not lock:
                continue
            if answer == b"lost":
                lock.lose()
                continue
            lock.hold_until(asked_at + self.lease * (1 - MARGIN))
            if answer:
                lock.let_go(answer == b"now")

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class RedisLock:
    """A lock that is held."""

    def __init__(self, locker: RedisLocker, upload_id: str, token: str, fence: int, let_go: LetGo) -> None:
        """Hold what Redis knows by `token`."""
        self.fence = fence
        self.upload_id = upload_id
        self.token = token
        self.let_go = let_go
        self._locker = locker
        self._end: asyncio.TimerHandle | None = None

    async def release(self) -> None:
        """Let the next one in."""
        await self._locker._release(self)

    def hold_until(self, time: float) -> None:
        """Take the lock for lost at this time of the event loop, unless told a later one before."""
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_at(time, self.lose)

    def lose(self) -> None:
        """Stop the holder: another may have the lock."""
        if self.end():
            _log.warning("a lock is lost", upload=self.upload_id)
            self.let_go(True, lost=True)

    def end(self) -> bool:
        """Hold no longer; return whether it did."""
        if self._end is None:
            return False
        self._end.cancel()
        self._end = None
        if self._locker._held.get(self.upload_id) is self:
            del self._locker._held[self.upload_id]
        return True
