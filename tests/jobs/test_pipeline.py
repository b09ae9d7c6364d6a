"""A complete upload is checked, accepted or quarantined, described and delivered, in this order and by all plugins."""

import hashlib
import json
import os
import signal

import pytest

from tusd_py.testing.contracts import wait_until

DATA = b"hello"
SHA256 = hashlib.sha256(DATA).hexdigest()
ORDER = ["check", "describe", "deliver"]


async def test_stages_run_in_order(shared_house):
    """Each stage begins when the one before has ended, in all plugins, with the bytes and the facts."""
    house = shared_house
    url = await house.upload()
    shown = await house.ended(url)
    assert shown["status"] == "accepted"
    assert [(job["stage"], job["plugin"], job["status"], job["attempts"]) for job in shown["jobs"]] == [
        (stage, plugin, "done", 1) for stage in ORDER for plugin in ("first", "second")
    ]
    assert all((job["progress"], job["total"], job["error"]) == (5, 5, None) for job in shown["jobs"])
    lines = [line for line in house.log(url) if line["event"] in ("begin", "end")]
    assert [line["stage"] for line in lines] == [stage for stage in ORDER for _ in range(4)]
    assert {line["sha256"] for line in lines if line["event"] == "end"} == {SHA256}
    found = {"sha256": SHA256, "size": 5}
    assert [line["facts"] for line in house.log(url, event="end", stage="deliver")] == [
        {"first": found, "second": found}
    ] * 2
    assert {line["status"] for line in house.log(url, event="begin", stage="check")} == {"checking"}
    assert {line["status"] for line in house.log(url, event="begin", stage="deliver")} == {"accepted"}
    assert (await house.tus.get(url)).body == DATA


async def test_an_upload_is_complete_but_closed_while_it_is_checked(shared_house):
    """Clients learn that all bytes are there; before the verdict nobody reads them or hears of acceptance."""
    house = shared_house
    (house.folder / "go").unlink(missing_ok=True)
    url = await house.upload(check_first="wait")
    await wait_until(lambda: house.log(url, event="begin", plugin="first"))
    answer = await house.tus.head(url)
    assert (answer.status, answer.offset) == (200, 5)
    assert (await house.tus.patch(url, 5)).status == 204
    assert (await house.tus.get(url)).refused("ERR_FORBIDDEN")
    assert (await house.show(url))["status"] == "checking"
    assert house.log(url, event="finish") == house.log(url, stage="describe") == []
    shown = await house.until(url, lambda shown: shown["jobs"][0]["progress"] == 3)
    assert (shown["jobs"][0]["status"], shown["jobs"][0]["total"]) == ("running", 5)
    (house.folder / "go").touch()
    await house.ended(url)
    assert len(house.log(url, event="finish")) == 2


async def test_one_check_that_fails_is_enough(shared_house):
    """All verdicts are kept, and the upload is quarantined: not to be read, not delivered, but complete."""
    house = shared_house
    url = await house.upload(check_second="refuse")
    shown = await house.ended(url)
    assert (shown["status"], shown["reason"]) == ("quarantined", "first looked at it; second looked at it")
    assert [job["result"] for job in shown["jobs"][:2]] == [
        {"ok": True, "reasons": ["first looked at it"]},
        {"ok": False, "reasons": ["second looked at it"]},
    ]
    assert {job["status"] for job in shown["jobs"][2:]} == {"waiting"}
    assert (await house.tus.get(url)).refused("ERR_FORBIDDEN")
    assert (await house.tus.head(url)).offset == 5
    [verdict, _] = await wait_until(lambda: len(found := house.log(url, event="verdict")) == 2 and found)
    assert (verdict["status"], verdict["ok"]) == ("quarantined", False)
    assert house.log(url, stage="deliver") == house.log(url, event="finish") == []


async def test_reject_is_a_verdict(shared_house):
    """A check that raises `Reject` has found something, and is not repeated."""
    url = await shared_house.upload(check_first="reject")
    shown = await shared_house.ended(url)
    assert shown["status"] == "quarantined"
    assert (shown["jobs"][0]["result"], shown["jobs"][0]["attempts"]) == (
        {"ok": False, "reasons": ["first rejects it"]},
        1,
    )


@pytest.mark.parametrize("stage", ORDER)
async def test_attempts_are_repeated(shared_house, stage):
    """What fails twice and then succeeds has succeeded, after waits that grow."""
    url = await shared_house.upload(**{stage + "-first": "crash-twice"})
    shown = await shared_house.ended(url)
    assert shown["status"] == "accepted"
    job = next(job for job in shown["jobs"] if (job["stage"], job["plugin"]) == (stage, "first"))
    assert (job["status"], job["attempts"], job["error"]) == ("done", 3, None)


async def test_what_cannot_be_checked_is_not_accepted(shared_house):
    """A check that fails every time quarantines the upload; the reason says which, and no details of the failure."""
    house = shared_house
    url = await house.upload(check_first="crash")
    shown = await house.ended(url)
    assert (shown["status"], shown["reason"]) == (
        "quarantined",
        "check first failed: plugin 'first' failed in check: RuntimeError; second looked at it",
    )
    assert (shown["jobs"][0]["status"], shown["jobs"][0]["attempts"]) == ("failed", 3)
    assert len(house.log(url, event="begin", plugin="first")) == 3
    assert "secret" not in json.dumps(shown)


async def test_a_description_that_fails_keeps_nothing_from_being_delivered(shared_house):
    """The upload has passed its checks; its delivery has the facts of those that succeeded."""
    url = await shared_house.upload(describe_first="reject")
    shown = await shared_house.ended(url)
    statuses = [(job["stage"], job["plugin"], job["status"]) for job in shown["jobs"]]
    assert statuses[2:] == [
        ("describe", "first", "failed"),
        ("describe", "second", "done"),
        ("deliver", "first", "done"),
        ("deliver", "second", "done"),
    ]
    assert list(shared_house.log(url, event="end", stage="deliver")[0]["facts"]) == ["second"]


async def test_parts_run_no_stage(shared_house):
    """A part of a concatenation is no file of its own; the whole that is made of it is checked and delivered."""
    house = shared_house
    parts = [await house.upload(text, {"Upload-Concat": "partial"}) for text in (b"hel", b"lo")]
    for part in parts:
        shown = await house.show(part)
        assert (shown["status"], shown["jobs"]) == ("accepted", [])
    final = (await house.tus.post({"Upload-Concat": f"final;{parts[0]} {parts[1]}"})).headers["Location"]
    shown = await house.ended(final)
    assert [job["status"] for job in shown["jobs"]] == ["done"] * 6
    assert house.log(final, event="end", stage="deliver")[0]["sha256"] == SHA256
    assert not any(house.log(part) for part in parts)


async def test_removing_an_upload_ends_its_jobs(shared_house):
    """Of an upload that a client removes while it is checked, no further stage runs."""
    house = shared_house
    (house.folder / "go").unlink(missing_ok=True)
    url = await house.upload(check_first="wait")
    await wait_until(lambda: house.log(url, event="begin", plugin="first"))
    assert (await house.tus.delete(url)).status == 204
    shown = await house.until(url, lambda shown: {job["status"] for job in shown["jobs"]} <= {"done", "cancelled"})
    assert [job["status"] for job in shown["jobs"]] == ["cancelled", "done"] + ["cancelled"] * 4
    assert shown["jobs"][0]["error"] == "the upload was terminated"
    (house.folder / "go").touch()
    assert house.log(url, event="finish") == house.log(url, stage="describe") == []


async def test_removing_what_is_quarantined_ends_its_jobs(shared_house):
    """No job waits for an upload that an operator or a client has removed."""
    house = shared_house
    url = await house.upload(check_first="refuse")
    await house.ended(url)
    assert (await house.tus.delete(url)).status == 204
    shown = await house.until(url, lambda shown: {job["status"] for job in shown["jobs"]} == {"done", "cancelled"})
    assert [job["status"] for job in shown["jobs"]] == ["done"] * 2 + ["cancelled"] * 4


async def test_events_tell_of_jobs(shared_house):
    """Who follows an upload sees its jobs change until the last has ended."""
    house = shared_house
    url = await house.upload(check_first="crash-twice")
    answer = await house.tus.get(url.replace("/files/", "/api/uploads/") + "/events", {"Connection": "close"})
    told = [json.loads(line[5:]) for line in answer.body.decode().splitlines() if line.startswith("data:")]
    assert told[0]["status"] == "checking"
    assert any(job["status"] == "waiting" and job["attempts"] for shown in told for job in shown["jobs"])
    assert {job["status"] for job in told[-1]["jobs"]} == {"done"}


async def test_jobs_are_measured(shared_house):
    """The metrics have how often and how long each plugin worked, and how long jobs waited."""
    house = shared_house
    await house.ended(await house.upload(check_first="reject"))
    await house.ended(await house.upload(deliver_first="crash-twice"))
    text = (await house.tus.get("/metrics")).body.decode()
    for sample in (
        'job_duration_seconds_count{outcome="done",plugin="first",stage="check"}',
        'job_duration_seconds_count{outcome="repeated",plugin="first",stage="deliver"}',
        'job_wait_seconds_count{stage="deliver"}',
        'uploads_total{file_type="none",status="quarantined"}',
    ):
        assert sample in text


async def test_waiting_and_running_jobs_are_counted(shared_house):
    """The metrics have how many jobs run and wait now, and how long the first has waited."""
    house = shared_house
    (house.folder / "go").unlink(missing_ok=True)
    urls = [await house.upload(check_first="wait", check_second="wait") for _ in range(3)]  # four run at a time

    async def counted(*samples):
        text = (await house.tus.get("/metrics")).body.decode()
        return all(sample in text for sample in samples) and text

    running, waiting = 'jobs{stage="check",status="running"}', 'jobs{stage="check",status="waiting"}'
    text = await wait_until(lambda: counted(f"{running} 4.0", f"{waiting} 2.0"))
    age = next(line for line in text.splitlines() if line.startswith('jobs_oldest_waiting_seconds{stage="check"}'))
    assert 0 < float(age.split()[1]) < 60
    (house.folder / "go").touch()
    for url in urls:
        await house.ended(url)
    await wait_until(lambda: counted(f"{running} 0.0", f"{waiting} 0.0"))


async def test_the_server_answers_while_checks_hang(make_house):
    """A check that hangs is given up after its time; other uploads and plugins go on meanwhile."""
    house = make_house("--job-timeout", "400ms")
    with house.server:
        url = await house.upload(check_first="hang")
        await wait_until(lambda: house.log(url, event="begin", plugin="first"))
        other = await house.upload()
        assert (await house.ended(other))["status"] == "accepted"
        shown = await house.ended(url)
    assert (shown["status"], shown["reason"]) == (
        "quarantined",
        "check first failed: plugin 'first' did not answer in time; second looked at it",
    )
    assert shown["jobs"][0]["attempts"] == 3


async def test_stages_of_uploads_on_s3(make_house, s3):
    """The same happens to an upload on S3, whose object is in quarantine meanwhile; a verdict is in its manifest."""
    house = make_house(*s3.options("stages"), "--quarantine-prefix", "held")
    with house.server:
        url = await house.upload(check_second="refuse")
        assert (await house.ended(url))["status"] == "quarantined"
        assert (await house.tus.get(url)).refused("ERR_FORBIDDEN")
        manifest = f"stages/{house.id_of(url)}.info"
        assert s3.keys("stages/held/") == [f"stages/held/{house.id_of(url)}"]
        assert s3.keys(f"stages/{house.id_of(url)}") == [manifest]
        await house.command("uploads", "release", house.id_of(url), "--reason", "fine")
        shown = await house.ended(url)
        assert s3.keys("stages/held/") == []
        assert s3.keys(f"stages/{house.id_of(url)}") == [f"stages/{house.id_of(url)}", manifest]
        assert (await house.tus.get(url)).body == DATA
        for path in house.folder.glob("uploads/uploads.db*"):
            path.unlink()
        house.server.restart()
        again = await house.ended(url)
    assert [job["status"] for job in shown["jobs"]] == ["done"] * 6
    assert {line["sha256"] for line in house.log(url, event="end")} == {SHA256}
    assert again["jobs"] == shown["jobs"]
    assert len(house.log(url, event="begin")) == 6


async def test_several_processes_of_a_server(make_house):
    """Each process does jobs of uploads that it has received; those of one that dies, another one does."""
    house = make_house("--workers", "2")
    with house.server:
        urls = [await house.upload(check_first="wait") for _ in range(6)]
        for url in urls:
            await wait_until(lambda url=url: house.log(url, event="begin", plugin="second"))
        [begun, *_] = await wait_until(lambda: house.log(urls[0], event="begin", plugin="first"))
        os.kill(begun["pid"], signal.SIGKILL)
        (house.folder / "go").touch()
        for url in urls:
            shown = await house.ended(url)
            assert [job["status"] for job in shown["jobs"]] == ["done"] * 6
            assert house.in_order(url)
