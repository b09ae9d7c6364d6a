"""The death of the server delays jobs: none is lost, and no stage runs out of order."""

import asyncio

from tusd_py.testing.contracts import wait_until

ORDER = ["check", "describe", "deliver"]


async def test_killed_server(house):
    """After a restart the jobs that were interrupted are begun again once their leases are over; the rest follows."""
    with house.server as server:
        urls = {stage: await house.upload(**{stage + "-first": "wait"}) for stage in ORDER}
        for stage, url in urls.items():
            await wait_until(lambda stage=stage, url=url: house.log(url, event="begin", stage=stage, plugin="first"))
            await house.until(url, lambda shown: 3 in [job["progress"] for job in shown["jobs"]])
        server.kill()
        (house.folder / "go").touch()
        server.start()
        for stage, url in urls.items():
            shown = await house.ended(url)
            jobs = {(job["stage"], job["plugin"]): (job["status"], job["attempts"]) for job in shown["jobs"]}
            assert jobs.pop((stage, "first")) == ("done", 2)
            assert {status for status, _ in jobs.values()} == {"done"}
            assert house.in_order(url)


async def test_a_job_that_kills_its_server(make_house):
    """What takes the server down with it is tried as often as is set, and then the upload is quarantined."""
    house = make_house("--job-attempts", "2")
    with house.server as server:
        url = await house.upload(check_first="wait")
        await house.until(url, lambda shown: shown["jobs"][1]["status"] == "done")
        for attempt in range(2):
            await wait_until(lambda n=attempt: len(house.log(url, event="begin", plugin="first")) > n)
            server.kill()
            server.start()
        shown = await house.ended(url)
    assert (shown["status"], shown["reason"]) == (
        "quarantined",
        "check first failed: its workers died; second looked at it",
    )
    assert len(house.log(url, event="begin", plugin="first")) == 2


async def test_stopped_server_gives_jobs_back(house):
    """SIGTERM does not wait for a check, and the interrupted attempt does not count."""
    with house.server as server:
        url = await house.upload(check_first="wait")
        await wait_until(lambda: house.log(url, event="begin", plugin="first"))
        assert await asyncio.to_thread(server.stop) == 0
        (house.folder / "go").touch()
        server.start()
        shown = await house.ended(url)
    assert (shown["jobs"][0]["status"], shown["jobs"][0]["attempts"]) == ("done", 1)


async def test_lost_records_bring_their_jobs_back(house):
    """With the file of records deleted, manifests tell what was done: that is not done again, and the rest is."""
    with house.server as server:
        done = await house.upload()
        await house.ended(done)
        open_ = await house.upload(deliver_first="wait")
        await wait_until(lambda: house.log(open_, event="begin", stage="deliver", plugin="first"))
        server.kill()
        for path in house.folder.glob("uploads/uploads.db*"):
            path.unlink()
        (house.folder / "go").touch()
        server.start()
        shown = await house.ended(open_)
        assert {job["status"] for job in shown["jobs"]} == {"done"}
        shown = await house.ended(done)
    assert [job["status"] for job in shown["jobs"]] == ["done"] * 6
    assert shown["jobs"][2]["result"]["size"] == 5
    assert len(house.log(done, event="begin")) == 6
    assert len(house.log(open_, event="begin", stage="check")) == 2
