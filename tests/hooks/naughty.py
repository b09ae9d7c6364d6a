"""A plugin whose coroutines do what an upload's metadata asks for."""

import asyncio
import sys
import time

from tusd_py import hookimpl

tries = set()


@hookimpl
async def pre_create(upload):
    result = None
    match upload.metadata.get("do"):
        case "hang":
            await asyncio.Event().wait()
        case "hang in a thread":
            await asyncio.to_thread(time.sleep, 3600)
        case "block":
            time.sleep(1.6)  # noqa: ASYNC251 - this is what it should not do
        case "crawl":
            await asyncio.sleep(0.6)
        case "fail":
            raise RuntimeError("the naughty plugin fails")
        case "time out":
            raise TimeoutError("somebody else did not answer")
        case "exit":
            sys.exit(3)
        case "return":
            result = "not a change"
    return result


@hookimpl
async def pre_finish(upload):
    if upload.metadata.get("do") == "hang once" and upload.id not in tries:
        tries.add(upload.id)
        await asyncio.Event().wait()


@hookimpl
async def post_create(upload):
    if upload.metadata.get("do") == "hang when it is told":
        await asyncio.Event().wait()
    if upload.metadata.get("do") == "refuse when it is told":
        raise ValueError("too late")
