"""A process that takes the lock `one` in Redis, prints its number, and holds it until it is asked."""

import asyncio
import sys

from tusd_py.lockers.redis import RedisLocker


async def main(url: str) -> None:
    locker = RedisLocker(url)
    await locker.open()
    asked = asyncio.Event()
    lock = await locker.acquire("one", timeout=30, let_go=lambda urgent, /, *, lost=False: asked.set())
    sys.stdout.write(f"{lock.fence}\n")
    sys.stdout.flush()
    await asked.wait()
    await lock.release()
    await locker.aclose()


asyncio.run(main(*sys.argv[1:]))
