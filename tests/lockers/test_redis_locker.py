"""The Redis locker when processes die or stand still, messages are lost, and Redis forgets, stands still or dies."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tusd_py.errors import Fenced, Locked, StoreUnavailable
from tusd_py.lockers.redis import RedisLock, RedisLocker
from tusd_py.state.redis import RedisState
from tusd_py.testing.contracts import new_upload, wait_until
from tusd_py.testing.redis import RedisProcess

LEASE = 1.5
"""That of the fixture `redis_url`."""
HANDOVER_SECONDS = 0.2


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisLocker]:
    """An open locker."""
    locker = RedisLocker(url)
    await locker.open()
    try:
        yield locker
    finally:
        await locker.aclose()


class Holder:
    """Notes how it was told to let go; lets go if it `yields`."""

    def __init__(self, *, yields: bool = False) -> None:
        self.asked: list[bool] = []
        self.has_lost = False
        self.yields = yields
        self.lock: RedisLock

    def __call__(self, urgent: bool, /, *, lost: bool = False) -> None:
        self.asked.append(urgent)
        self.has_lost = self.has_lost or lost
        if self.yields:
            asyncio.get_running_loop().create_task(self.lock.release())

    async def take(self, locker: RedisLocker, timeout: float = 5) -> RedisLock:
        self.lock = await locker.acquire("one", timeout=timeout, let_go=self)
        return self.lock


@contextlib.asynccontextmanager
async def holder(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has the lock."""
    script = str(Path(__file__).with_name("redis_holder.py"))
    process = await asyncio.create_subprocess_exec(sys.executable, script, url, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_dead_process(redis_url: str) -> None:
    """The lock of a process that was killed is free when its lease ends, and not before."""
    async with opened(redis_url) as locker, holder(redis_url) as process:
        process.kill()
        await process.wait()
        started = time.monotonic()
        with pytest.raises(Locked):
            await Holder().take(locker, timeout=0)
        await (await Holder().take(locker)).release()
        assert time.monotonic() - started < LEASE + 2


async def test_stopped_process(redis_url: str) -> None:
    """The lock of a process that stands still goes to the next; when it wakes up it knows at once that it has lost."""
    async with opened(redis_url) as locker, holder(redis_url) as process:
        process.send_signal(signal.SIGSTOP)
        lock = await Holder().take(locker)
        process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(process.wait(), 5)  # it was told to let go
        with pytest.raises(Locked):
            await Holder().take(locker, timeout=0)
        await lock.release()


async def test_lease_is_renewed(redis_url: str) -> None:
    """A lock is held for longer than its lease."""
    async with opened(redis_url) as one, opened(redis_url) as two:
        first = Holder()
        lock = await first.take(one)
        with pytest.raises(Locked):
            await Holder().take(two, timeout=LEASE * 1.5)
        assert not first.has_lost
        await lock.release()


async def test_many_locks_are_renewed_together(redis_url: str) -> None:
    """Hundreds of locks live on."""
    async with opened(redis_url.replace("lease=1.5", "lease=5")) as locker:
        holder = Holder()
        taken = [locker.acquire(f"upload{number}", timeout=5, let_go=holder) for number in range(520)]
        locks = await asyncio.gather(*taken)
        await asyncio.sleep(5 * 1.1)
        assert not holder.has_lost
        for number in (0, 505, 519):
            with pytest.raises(Locked):
                await locker.acquire(f"upload{number}", timeout=0, let_go=holder)
        await asyncio.gather(*(lock.release() for lock in locks))


async def test_handover_without_messages(redis_url: str, redis_server: RedisProcess) -> None:
    """If no message arrives, the holder finds the wish when it renews, and who waits finds the free lock."""
    async with opened(redis_url) as one, opened(redis_url) as two:
        for locker in (one, two):
            locker._loops[0].cancel()  # listens no more, as with a connection that is dead without anybody knowing
        first = Holder(yields=True)
        await first.take(one)
        started = time.monotonic()
        lock = await Holder().take(two)
        assert time.monotonic() - started < 3
        assert first.asked[0] is True
        await lock.release()


async def test_wish_ends_with_who_had_it(redis_url: str) -> None:
    """A holder is not asked for somebody who waits no longer."""
    async with opened(redis_url) as one, opened(redis_url) as two:
        one._loops[0].cancel()
        first = Holder()
        lock = await first.take(one)
        with pytest.raises(Locked):
            await Holder().take(two, timeout=0.01)
        await asyncio.sleep(LEASE / 2)
        assert first.asked == []
        await lock.release()


async def test_messages_after_a_broken_connection(start_redis: Callable[..., RedisProcess]) -> None:
    """After the connection of the messages broke, they arrive again."""
    redis = start_redis()
    url = f"{redis.url}?lease=30"
    async with opened(url) as one, opened(url) as two:
        with redis.client() as client:
            for _ in range(2):
                listeners = client.pubsub_numsub(*(locker._channels + locker._name for locker in (one, two)))
                assert [count for _, count in listeners] == [1, 1]
                assert client.client_kill_filter(_type="pubsub") == 2
                await wait_until(
                    lambda: client.client_list(_type="pubsub") and len(client.client_list(_type="pubsub")) == 2
                )
        seconds = [9.0]
        while min(seconds) > HANDOVER_SECONDS and len(seconds) < 5:
            await Holder(yields=True).take(one)
            started = time.monotonic()
            await (await Holder().take(two)).release()
            seconds.append(time.monotonic() - started)
        assert min(seconds) < HANDOVER_SECONDS


async def test_waiters_are_woken(redis_url: str) -> None:
    """Who has waited for long gets the lock when it is free, not when it next looks."""
    async with opened(redis_url) as one, opened(redis_url) as two:
        fastest = 9.0
        for _ in range(5):
            lock = await Holder().take(one)
            waiter = asyncio.create_task(Holder().take(two, timeout=10))
            await asyncio.sleep(1)  # by now it looks four times a second
            started = time.monotonic()
            await lock.release()
            await (await waiter).release()
            fastest = min(fastest, time.monotonic() - started)
            if fastest < 0.05:
                return
        pytest.fail(f"took {fastest} seconds at best")


# When Redis forgets


async def test_numbers_grow_over_a_flush(start_redis: Callable[..., RedisProcess]) -> None:
    """Numbers of locks are higher than before also when Redis has lost everything, and whoever asks."""
    redis = start_redis()
    async with opened(redis.url) as one, opened(redis.url) as two:
        fences = []
        for _ in range(3):
            for locker in (one, two):
                lock = await Holder().take(locker)
                fences.append(lock.fence)
                await lock.release()
            with redis.client() as client:
                client.flushall()
        assert fences == sorted(set(fences))


async def test_number_is_above_that_of_the_record(redis_url: str, redis_server: RedisProcess) -> None:
    """A lock can change a record whose number is from a clock that was ahead."""
    state = RedisState(redis_url)
    await state.open()
    upload = new_upload(id="one", fence=2**53 - 1000)
    await state.insert(upload)
    async with opened(redis_url) as locker:
        lock = await Holder().take(locker)
        assert lock.fence > upload.fence
        await state.save(upload.changed(offset=3), lock.fence)
        await lock.release()
        with pytest.raises(Fenced):
            await state.save(upload.changed(offset=4), lock.fence)
    await state.aclose()


async def test_holder_keeps_a_forgotten_lock(start_redis: Callable[..., RedisProcess]) -> None:
    """If Redis lost a lock and nobody else has had it since, its holder has it again with the next renewal."""
    redis = start_redis()
    url = f"{redis.url}?lease=1"
    async with opened(url) as one, opened(url) as two:
        first = Holder()
        lock = await first.take(one)
        with redis.client() as client:
            client.flushall()
            await wait_until(lambda: client.keys("*:lock:one"))
        with pytest.raises(Locked):
            await Holder().take(two, timeout=0)
        assert not first.has_lost
        await lock.release()
        await (await Holder().take(two, timeout=0)).release()


async def test_holder_loses_a_forgotten_lock(start_redis: Callable[..., RedisProcess]) -> None:
    """If another got the lock that Redis had lost, the former holder is told so, and that one keeps it."""
    redis = start_redis()
    url = f"{redis.url}?lease=2"
    async with opened(url) as one, opened(url) as two:
        first, second = Holder(), Holder()
        before = await first.take(one)
        with redis.client() as client:
            client.flushall()
        lock = await second.take(two)
        assert lock.fence > before.fence
        await wait_until(lambda: first.has_lost)
        await before.release()
        with pytest.raises(Locked):
            await Holder().take(one, timeout=0)
        assert not second.has_lost
        await lock.release()


async def test_late_writer_changes_nothing(redis_url: str) -> None:
    """Once another has got the lock, a former holder cannot change the record, whether or not the other has."""
    state = RedisState(redis_url)
    await state.open()
    upload = new_upload(id="one")
    await state.insert(upload)
    async with opened(redis_url) as one, opened(redis_url) as two:
        late = await Holder().take(one)
        saved = await state.save(upload.changed(offset=1), late.fence)
        one._loops[1].cancel()  # renews no more
        lock = await Holder().take(two)
        with pytest.raises(Fenced):
            await state.save(upload.changed(offset=2), late.fence)
        assert await state.get(upload.id) == saved
        await lock.release()
        with pytest.raises(Fenced):
            await state.save(upload.changed(offset=2), late.fence)
    await state.aclose()


# When Redis does not answer


async def test_holder_stops_in_time(start_redis: Callable[..., RedisProcess]) -> None:
    """A holder that cannot renew is told to stop before the lease ends."""
    redis = start_redis()
    async with opened(f"{redis.url}?lease=2&socket_timeout=0.2") as locker:
        first = Holder()
        started = time.monotonic()
        lock = await first.take(locker)
        redis.stop_running()
        try:
            await wait_until(lambda: first.has_lost)
            assert time.monotonic() - started < 2
            await lock.release()
        finally:
            redis.run_again()


async def test_short_silence_loses_nothing(start_redis: Callable[..., RedisProcess]) -> None:
    """A Redis that stands still for less than a lease costs no lock."""
    redis = start_redis()
    async with opened(f"{redis.url}?lease=3&socket_timeout=0.2") as locker:
        first = Holder()
        lock = await first.take(locker)
        with redis.client() as client:
            client.execute_command("CLIENT", "PAUSE", 1200, "ALL")
        with pytest.raises(StoreUnavailable):
            await locker.acquire("two", timeout=1, let_go=first)
        await asyncio.sleep(3)
        assert not first.has_lost
        await lock.release()


async def test_lock_whose_answer_was_lost(start_redis: Callable[..., RedisProcess]) -> None:
    """A lock that was given out without anybody hearing of it is free again soon."""
    redis = start_redis()
    async with opened(f"{redis.url}?lease=30&socket_timeout=0.3") as locker:
        redis.stop_running()
        with pytest.raises(StoreUnavailable):
            await Holder().take(locker)
        redis.run_again()
        await (await Holder().take(locker, timeout=5)).release()


async def test_dead_redis(start_redis: Callable[..., RedisProcess]) -> None:
    """Without Redis there are no locks, and releasing one is no error; with it they are there again."""
    redis = start_redis()
    async with opened(redis.url) as locker:
        lock = await Holder().take(locker)
        redis.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await locker.acquire("two", timeout=1, let_go=Holder())
        problem = await locker.problem()
        assert problem is not None
        assert "cannot be reached" in problem
        await lock.release()
        await asyncio.to_thread(redis.start)
        await (await Holder().take(locker)).release()
        assert await locker.problem() is None


async def test_no_tasks_or_descriptors_leak(redis_url: str) -> None:
    """Locks that were waited for in vain, dropped or released leave nothing running and no open files."""
    tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    async with opened(redis_url) as locker:
        for _ in range(20):
            lock = await Holder().take(locker)
            waiter = asyncio.create_task(Holder().take(locker))
            with pytest.raises(Locked):
                await Holder().take(locker, timeout=0)
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait([waiter])
            await lock.release()
        assert locker._held == locker._waiting._events == {}
    await wait_until(lambda: len(asyncio.all_tasks()) <= tasks)
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)
