"""What an operator decides by commands beside the running server: verdicts of their own, and the fate of jobs."""

import json
from pathlib import Path

from tusd_py.testing.contracts import wait_until


def verdicts(house, url):
    """Return what the audit log has of decisions on an upload."""
    log = house.options[house.options.index("--audit-log") + 1]
    lines = map(json.loads, Path(log).read_text().splitlines())
    return [
        (line["status"], line["reasons"])
        for line in lines
        if line.items() >= {"upload": house.id_of(url), "action": "verdict"}.items()
    ]


async def test_release_and_quarantine(shared_house):
    """An operator accepts what a check refused, and takes it back; the audit log has who, what and why."""
    house = shared_house
    url = await house.upload(check_second="refuse", deliver="wait")
    (house.folder / "go").unlink(missing_ok=True)
    await house.ended(url)
    assert "released" in await house.command("uploads", "release", house.id_of(url), "--reason", "I know them")
    assert (await house.tus.get(url)).status == 200
    await wait_until(lambda: len(house.log(url, event="begin", stage="deliver")) == 2)

    await house.command("uploads", "quarantine", house.id_of(url), "--reason", "I was wrong")
    shown = await house.show(url)
    assert shown["status"] == "quarantined"
    assert shown["reason"].endswith(": I was wrong")
    assert {job["status"] for job in shown["jobs"] if job["stage"] == "deliver"} == {"waiting"}
    assert (await house.tus.get(url)).refused("ERR_FORBIDDEN")
    told = await wait_until(lambda: len(found := verdicts(house, url)) == 3 and found)
    assert [status for status, _ in told] == ["quarantined", "accepted", "quarantined"]
    assert told[1][1][0].endswith(": I know them")

    # What ran when it was taken back does not get its bytes any more, and runs again after another release.
    (house.folder / "go").touch()
    [refused, _] = await wait_until(lambda: len(found := house.log(url, event="refused")) == 2 and found)
    assert refused["error"] == "the upload was accepted and is quarantined now"
    assert house.log(url, event="end", stage="deliver") == []
    assert {job["status"] for job in (await house.show(url))["jobs"] if job["stage"] == "deliver"} == {"waiting"}
    await house.command("uploads", "release", house.id_of(url), "--reason", "no, I was right")
    shown = await house.ended(url)
    assert {job["status"] for job in shown["jobs"] if job["stage"] == "deliver"} == {"done"}


async def test_recheck(shared_house):
    """All checks look again, and what is delivered already is not delivered again."""
    house = shared_house
    url = await house.upload()
    await house.ended(url)
    assert "being checked" in await house.command("uploads", "recheck", house.id_of(url))
    await wait_until(lambda: len(house.log(url, event="end", stage="check")) == 4)
    shown = await house.ended(url)
    assert {job["status"] for job in shown["jobs"]} == {"done"}
    assert len(house.log(url, event="begin", stage="deliver")) == 2
    assert [status for status, _ in verdicts(house, url)] == ["accepted", "checking", "accepted"]
    # Each plugin hears of every verdict, and once that the upload is finished.
    await wait_until(lambda: len(house.log(url, event="verdict")) == 6)
    assert len(house.log(url, event="finish")) == 2


async def test_cancel_and_retry(shared_house):
    """A job that runs is given up, and its result is not taken; retried, it is done by a new attempt."""
    house = shared_house
    (house.folder / "go").unlink(missing_ok=True)
    url = await house.upload(deliver_first="wait")
    job_id = f"{house.id_of(url)}/deliver/first"
    await wait_until(lambda: house.log(url, event="begin", stage="deliver", plugin="first"))
    told = await house.command("jobs", "retry", job_id, "x/y/z", status=1)
    assert "running; cancel it first" in told
    assert "there is no job x/y/z" in told
    assert "cancelled" in await house.command("jobs", "cancel", job_id)
    shown = await house.ended(url)
    (house.folder / "go").touch()
    await wait_until(lambda: house.log(url, event="end", stage="deliver", plugin="first"))
    assert [job["status"] for job in shown["jobs"]] == ["done"] * 4 + ["cancelled", "done"]
    assert shown["jobs"][4]["error"].startswith("by ")
    assert "has ended" in await house.command("jobs", "cancel", job_id, status=1)

    await house.command("jobs", "retry", job_id)
    shown = await house.until(url, lambda shown: shown["jobs"][4]["status"] == "done")
    assert shown["jobs"][4]["attempts"] == 1


async def test_a_check_that_is_given_up_quarantines(shared_house):
    """Nothing is accepted unseen; retrying the check gives the upload its chance again."""
    house = shared_house
    (house.folder / "go").unlink(missing_ok=True)
    url = await house.upload(check_first="wait")
    await wait_until(lambda: house.log(url, event="begin", plugin="first"))
    await house.command("jobs", "cancel", f"{house.id_of(url)}/check/first")
    shown = await house.ended(url)
    assert shown["status"] == "quarantined"
    assert shown["reason"].startswith("check first cancelled: by ")
    (house.folder / "go").touch()
    await house.command("jobs", "retry", f"{house.id_of(url)}/check/first")
    assert (await house.ended(url))["status"] == "accepted"


async def test_jobs_are_shown(shared_house):
    """`jobs list` and `uploads show` tell what the status API tells."""
    house = shared_house
    url = await house.upload(deliver_second="reject")
    shown = await house.ended(url)
    table = await house.command("jobs", "list", "--status", "failed")
    [line] = [line for line in table.splitlines() if line.startswith(house.id_of(url))]
    assert line.split()[:4] == [f"{house.id_of(url)}/deliver/second", "failed", "1", "0%"]
    assert line.endswith("second rejects it")
    record = json.loads(await house.command("uploads", "show", house.id_of(url)))
    assert [(job["stage"], job["plugin"], job["status"], job.get("result")) for job in record["jobs"]] == [
        (job["stage"], job["plugin"], job["status"], job["result"]) for job in shown["jobs"]
    ]


async def test_progress_is_shown(shared_house):
    """While a job runs, its bytes are in the status API, the event stream, `uploads show` and `jobs list`."""
    house = shared_house
    (house.folder / "go").unlink(missing_ok=True)
    url = await house.upload(check_first="wait")
    async with house.tus.connect() as stream:
        await stream.send(house.tus.message("GET", url.replace("/files/", "/api/uploads/") + "/events", {}))
        told = await stream.until(b'"progress":3,"total":5')
    assert b"event: progress\n" in told
    shown = await house.show(url)
    [job, *_] = json.loads(await house.command("uploads", "show", house.id_of(url)))["jobs"]
    for running in (shown["jobs"][0], job):
        assert (running["status"], running["progress"], running["total"]) == ("running", 3, 5)
    assert " 60% " in await house.command("jobs", "list", "--status", "running")
    (house.folder / "go").touch()
    shown = await house.ended(url)
    assert (shown["jobs"][0]["progress"], shown["jobs"][0]["total"]) == (5, 5)


async def test_only_what_is_complete_is_judged(shared_house):
    """There is no verdict on an upload that is still received, nor on one that is not there."""
    house = shared_house
    url = await house.tus.create(5)
    told = await house.command("uploads", "release", house.id_of(url), "unknown", "--reason", "x", status=1)
    assert f"{house.id_of(url)} not released: upload {house.id_of(url)} is receiving" in told
    assert "unknown not released" in told
