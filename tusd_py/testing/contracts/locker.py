"""The contract of lockers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tusd_py.errors import Locked
from tusd_py.lockers.base import Lock, Locker
from tusd_py.testing.contracts.parts import second, wait_until

HANDOVER_SECONDS = 0.2


class _Holder:
    """Notes what a holder was asked, and lets go when asked if it should."""

    def __init__(self, *, yields: bool = False) -> None:
        self.asked: list[bool] = []
        self.has_lost = False
        self.yields = yields
        self.lock: Lock | None = None

    def let_go(self, urgent: bool, /, *, lost: bool = False) -> None:
        self.has_lost = self.has_lost or lost
        self.asked.append(urgent)
        if self.yields and self.lock is not None:
            lock, self.lock = self.lock, None
            asyncio.get_running_loop().create_task(lock.release())

    async def take(self, locker: Locker, upload_id: str = "one", *, timeout: float = 5, urgent: bool = True) -> Lock:
        lock = self.lock = await locker.acquire(upload_id, timeout=timeout, let_go=self.let_go, urgent=urgent)
        if self.asked:  # it may be asked before it knows that it has the lock
            self.let_go(self.asked[-1])
        return lock


class LockerContract:
    """What every locker does."""

    @pytest.fixture
    def make_locker(self) -> Callable[[], Locker]:
        """Return a function that makes a locker, not open yet; all that it makes give out the same locks."""
        raise NotImplementedError("give the tests a fixture make_locker")

    @pytest.fixture
    async def locker(self, make_locker: Callable[[], Locker]) -> AsyncIterator[Locker]:
        """Return an open locker."""
        locker = make_locker()
        await locker.open(1)
        yield locker
        await locker.aclose()

    @pytest.fixture
    async def other(self, locker: Locker, make_locker: Callable[[], Locker]) -> AsyncIterator[Locker]:
        """Return a second open locker for the same locks, as another process has it."""
        async with second(locker, make_locker, 1) as other:
            yield other

    async def test_lock_is_exclusive(self, locker: Locker, other: Locker) -> None:
        """A lock that is held is not given out, and who waits is told so when the time is up."""
        lock = await _Holder().take(locker)
        for which in (locker, other):
            started = time.monotonic()
            with pytest.raises(Locked):
                await _Holder().take(which, timeout=0.15)
            assert 0.1 <= time.monotonic() - started < 2
        await lock.release()
        await (await _Holder().take(other, timeout=0)).release()

    async def test_other_uploads_are_free(self, locker: Locker, other: Locker) -> None:
        """Locks of different uploads have nothing to do with each other."""
        one = await _Holder().take(locker, "one", timeout=0)
        two = await _Holder().take(other, "two", timeout=0)
        await one.release()
        await two.release()

    async def test_try_without_waiting(self, locker: Locker, other: Locker) -> None:
        """A time-out of 0 takes a free lock, and asks nobody for one that is held."""
        holder = _Holder()
        lock = await holder.take(locker, timeout=0)
        with pytest.raises(Locked):
            await _Holder().take(other, timeout=0)
        assert holder.asked == []
        await lock.release()
        await lock.release()
        await (await _Holder().take(other, timeout=0)).release()

    @pytest.mark.parametrize("urgent", [True, False])
    async def test_holder_is_asked(self, locker: Locker, other: Locker, urgent: bool) -> None:
        """The holder learns that somebody waits, and whether it is urgent."""
        holder = _Holder()
        lock = await holder.take(locker)
        waiter = asyncio.create_task(_Holder().take(other, urgent=urgent))
        await wait_until(lambda: holder.asked)
        assert set(holder.asked) == {urgent}
        await lock.release()
        await (await waiter).release()

    async def test_lock_is_handed_over(self, locker: Locker, other: Locker) -> None:
        """A holder that lets go when asked is followed at once."""
        for before, after in ((locker, locker), (locker, other), (other, locker)):
            seconds = [9.0]
            while min(seconds) > HANDOVER_SECONDS and len(seconds) < 5:  # the machine may be busy
                await _Holder(yields=True).take(before)
                started = time.monotonic()
                lock = await _Holder().take(after)
                seconds.append(time.monotonic() - started)
                await lock.release()
            assert min(seconds) < HANDOVER_SECONDS

    async def test_next_holder_is_asked_too(self, locker: Locker, other: Locker) -> None:
        """Who waits behind another waiter has its wish passed on."""
        first = await _Holder().take(locker)
        waiters = [asyncio.create_task(_Holder(yields=True).take(which)) for which in (other, locker, other)]
        await asyncio.sleep(0)
        await first.release()
        # Each lets go when asked, so all get their turn.
        await asyncio.wait_for(asyncio.gather(*waiters), 5)

    async def test_numbers_grow(self, locker: Locker, other: Locker) -> None:
        """Every lock on an upload has a higher number than all before it."""
        fences = []
        for which in (locker, other, locker, other):
            lock = await _Holder().take(which)
            fences.append(lock.fence)
            await lock.release()
        assert fences == sorted(set(fences))
        assert fences[0] >= 1

    async def test_numbers_begin_high_enough(self, make_locker: Callable[[], Locker]) -> None:
        """Numbers begin behind those that records have from before."""
        locker = make_locker()
        await locker.open(1000)
        lock = await _Holder().take(locker)
        assert lock.fence >= 1000
        await lock.release()
        await locker.aclose()

    async def test_no_problem(self, locker: Locker) -> None:
        """A locker that works has no problem, also while a lock is held."""
        lock = await _Holder().take(locker)
        assert await locker.problem() is None
        await lock.release()

    async def test_held_locks_are_not_lost(self, locker: Locker, other: Locker) -> None:
        """As long as a lock is held and its server runs, nobody else gets it and its holder is not told to stop."""
        holder = _Holder()
        lock = await holder.take(locker)
        with pytest.raises(Locked):
            await _Holder().take(other, timeout=1.8, urgent=False)
        assert not holder.has_lost
        await lock.release()

    async def test_dropped_waiter_leaves_nothing(self, locker: Locker, other: Locker) -> None:
        """A request that is dropped while it waits neither gets the lock nor keeps it from others."""
        for delay in (0, 0.001, 0.02):
            lock = await _Holder().take(locker)
            waiters = [asyncio.create_task(_Holder().take(which)) for which in (locker, other)]
            await asyncio.sleep(delay)
            release = asyncio.create_task(lock.release())
            for waiter in waiters:
                waiter.cancel()
            for waiter in waiters:
                with contextlib.suppress(asyncio.CancelledError):
                    await (await waiter).release()
            await release
            await (await _Holder().take(other, timeout=1)).release()

    async def test_nobody_shares(self, locker: Locker, other: Locker) -> None:
        """Many who want the same lock have it one after the other, each with a higher number."""
        inside, fences = 0, list[int]()

        async def work(which: Locker) -> None:
            nonlocal inside
            for _ in range(3):
                lock = await _Holder().take(which, timeout=20)
                inside += 1
                assert inside == 1
                fences.append(lock.fence)
                await asyncio.sleep(0.001)
                inside -= 1
                await lock.release()

        await asyncio.gather(*(work((locker, other)[number % 2]) for number in range(8)))
        assert fences == sorted(set(fences))
        assert len(fences) == 24
