"""A process that takes a lock, prints its number, and holds it: for ever, until it is asked, or for a moment."""

import asyncio
import sys

from tusd_py.lockers.file import FileLocker


def tell(fence: int) -> None:
    sys.stdout.write(f"{fence}\n")
    sys.stdout.flush()


async def main(root: str, upload_id: str, how: str) -> None:
    locker = FileLocker(root)
    await locker.open()
    asked = asyncio.Event()
    for _ in range(10 if how == "often" else 1):
        lock = await locker.acquire(upload_id, timeout=30, let_go=lambda urgent: asked.set())
        tell(lock.fence)
        if how == "stubborn":
            await asyncio.Event().wait()
        if how == "polite":
            await asked.wait()
        tell(lock.fence)
        await lock.release()
    await locker.aclose()


asyncio.run(main(*sys.argv[1:]))
