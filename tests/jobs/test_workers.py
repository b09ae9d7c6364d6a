"""Workers share the jobs of a server by Redis, and neither their death nor a Redis that forgets loses one.

TUSD_PY_CHAOS_KILLS is how often a process is killed, or Redis emptied, at random, and TUSD_PY_CHAOS_SEED repeats the
choices of a run.
"""

import asyncio
import contextlib
import functools
import os
import random

import pytest

from tusd_py.testing.contracts import wait_until
from tusd_py.testing.raw import RawClient

KILLS = int(os.environ.get("TUSD_PY_CHAOS_KILLS", "8"))
SEED = os.environ.get("TUSD_PY_CHAOS_SEED", "5")


async def test_workers_share_jobs(crew, crew_house):
    """The server only hands jobs out; two workers do all of them, each job once."""
    house = crew_house
    urls = [await house.upload() for _ in range(8)]
    for url in urls:
        shown = await house.ended(url)
        assert [job["status"] for job in shown["jobs"]] == ["done"] * 6
        assert house.in_order(url)
        assert len(house.log(url, event="begin")) == 6
    pids = {line["pid"] for url in urls for line in house.log(url, event="begin")}
    assert pids == {worker.pid for worker in crew.workers}


async def test_workers_show_themselves(crew, crew_house):
    """A worker tells its metrics, that it lives, and whether it can work: not while Redis is away."""
    house, worker = crew_house, crew.workers[0]
    pages = RawClient(worker.pages)
    url = await house.upload(check_first="wait")

    async def tells(*samples):
        text = (await pages.get("/metrics")).body.decode()
        return all(sample in text for sample in samples)

    await wait_until(lambda: tells('jobs{stage="check",status="running"} 1.0'))
    (house.folder / "go").touch()
    await house.ended(url)
    await wait_until(lambda: tells('jobs{stage="check",status="running"} 0.0', "job_duration_seconds_count{"))
    assert (await pages.get("/healthz")).status == 200
    assert (await pages.get("/readyz")).status == 200
    assert (await pages.get("/api/uploads")).status == (await pages.post({"Upload-Length": 1})).status == 404

    async def readiness(status):
        return (await pages.get("/readyz")).status == status

    crew.redis.kill()
    try:
        await wait_until(lambda: readiness(503))
        assert (await pages.get("/healthz")).status == 200
    finally:
        crew.redis.start()
    await wait_until(lambda: readiness(200))


async def test_killed_worker(crew, crew_house):
    """What a worker was at when it died, another one does."""
    house = crew_house
    url = await house.upload(deliver_first="wait")
    victim, heir = await crew.at_work(url, "deliver")
    victim.kill()
    (house.folder / "go").touch()
    shown = await house.ended(url)
    victim.start()
    assert (shown["jobs"][4]["status"], shown["jobs"][4]["attempts"], shown["jobs"][4]["worker"]) == (
        "done",
        2,
        heir.url,
    )


async def test_a_late_result_is_not_taken(crew, crew_house):
    """A worker that stood still until its job was another's is not heard when it comes back."""
    house = crew_house
    url = await house.upload(check_first="wait")
    sleeper, heir = await crew.at_work(url, "check")
    with house.stopped(sleeper):
        await house.until(url, lambda shown: shown["jobs"][0]["worker"] == heir.url)
        (house.folder / "go").touch()
        await house.ended(url)
    await wait_until(lambda: "the result is not taken" in sleeper.output())
    shown = await house.show(url)
    assert (shown["jobs"][0]["status"], shown["jobs"][0]["worker"]) == ("done", heir.url)
    assert len(house.log(url, event="begin", stage="deliver")) == 2


async def test_flushed_redis(crew, crew_house):
    """With everything gone from Redis amid the stages, manifests bring records and jobs back, and the rest is done."""
    house = crew_house
    done = await house.upload()
    await house.ended(done)
    urls = {stage: await house.upload(**{stage + "_first": "wait"}) for stage in ("check", "describe", "deliver")}
    for stage, url in urls.items():
        await crew.at_work(url, stage)
    with crew.redis.client() as client:
        client.flushall()
    (house.folder / "go").touch()
    for url in urls.values():
        shown = await house.ended(url)
        assert [job["status"] for job in shown["jobs"]] == ["done"] * 6
        assert house.in_order(url)
    assert [job["status"] for job in (await house.ended(done))["jobs"]] == ["done"] * 6
    assert len(house.log(done, event="begin")) == 6


def restart(process):
    """Kill a process where it stands, and start it again."""
    process.kill()
    process.start()


@pytest.mark.timeout(120 + 5 * KILLS)
async def test_random_kills(crew, crew_house):
    """However often server, workers and Redis die or forget, every job ends, in order, and all deliveries are alike."""
    house = crew_house
    (house.folder / "go").touch()
    dice = random.Random(SEED)
    urls = []

    def flush():
        with crew.redis.client() as client:
            client.flushall()

    processes = [house.server, *crew.workers, crew.redis]
    harms = [*(functools.partial(restart, process) for process in processes), flush]
    for harm in dice.sample(harms * KILLS, KILLS):
        for _ in range(3):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                urls.append(await house.upload(b"%d" % len(urls)))
        await asyncio.sleep(dice.uniform(0, 0.2))  # so that it is anywhere in the stages
        harm()
    for url in urls:
        shown = await house.until(url, lambda shown: all(job["ended_at"] for job in shown["jobs"]), 40)
        assert {job["status"] for job in shown["jobs"]} == {"done"}
        assert house.in_order(url)
        delivered = [(line["sha256"], line["facts"]) for line in house.log(url, event="end", stage="deliver")]
        assert all(delivery == delivered[0] for delivery in delivered)
    assert len(urls) >= 2 * KILLS
