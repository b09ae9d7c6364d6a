"""The rules of stages, and what a server without their plugins or their package does."""

import subprocess
import sys
from itertools import product

import pytest

from tusd_py.models import JobStatus, Status, now
from tusd_py.stages import facts_of, misplaced, next_jobs, planned, restored, stage_of, verdict_of
from tusd_py.testing.contracts.parts import new_job, new_upload

PASSED = {"status": JobStatus.DONE, "result": {"ok": True, "reasons": ["fine"]}}
REFUSED = {"status": JobStatus.DONE, "result": {"ok": False, "reasons": ["bad"]}}
BROKEN = {"status": JobStatus.FAILED, "error": "it broke"}
CANCELLED = {"status": JobStatus.CANCELLED, "error": "by me"}
WAITING = {"status": JobStatus.WAITING}
RUNNING = {"status": JobStatus.RUNNING}


def checks(*all_changes):
    return [new_job("u", "check", f"p{number}", **changes) for number, changes in enumerate(all_changes)]


@pytest.mark.parametrize("states", list(product([PASSED, REFUSED, BROKEN, CANCELLED, WAITING, RUNNING], repeat=2)))
def test_only_checks_that_all_passed_accept(states):
    """There is no verdict before all checks have ended, and only passed ones make a good one."""
    verdict = verdict_of(checks(*states))
    if any(state in (WAITING, RUNNING) for state in states):
        assert verdict is None
    else:
        assert verdict is not None
        assert verdict.ok == all(state is PASSED for state in states)
        assert len(verdict.reasons) == 2


def test_no_check_is_no_verdict():
    """Records of jobs that are missing accept nothing."""
    assert verdict_of([]) is verdict_of([new_job("u", "deliver", "p")]) is None


def test_reasons_say_which_check_could_not_look():
    """The reasons of verdicts are the plugin's own; those of failures name the plugin."""
    verdict = verdict_of(checks(PASSED, BROKEN, CANCELLED, {**REFUSED, "result": {"ok": False, "reasons": []}}))
    assert verdict is not None
    assert verdict.reasons == [
        "fine",
        "check p1 failed: it broke",
        "check p2 cancelled: by me",
        "check p3 gives no reason",
    ]


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("described", [WAITING, RUNNING, BROKEN, CANCELLED, {"status": JobStatus.DONE, "result": {}}])
def test_one_stage_at_a_time(status, described):
    """Checks while it is checked, descriptions once it is accepted, deliveries once these have ended; else nothing."""
    jobs = [*checks(WAITING), new_job("u", "describe", "p", **described), new_job("u", "deliver", "p")]
    is_described = described not in (WAITING, RUNNING)
    expected = {Status.CHECKING: "check", Status.ACCEPTED: "deliver" if is_described else "describe"}.get(status)
    assert stage_of(status, jobs) == expected
    assert {job.stage for job in next_jobs(status, jobs)} <= {expected}
    due = [job.changed(due_at=now()) for job in jobs]
    for job in misplaced(status, due):
        assert not job.status.has_ended
        assert job.stage != expected


def test_plan():
    """Each plugin gets a job in each of its stages; a part of a concatenation has none."""
    plugins = {"check": ["b", "a"], "describe": [], "deliver": ["b"]}
    upload = new_upload()
    assert [(job.stage, job.plugin) for job in planned(upload, plugins.__getitem__, now())] == [
        ("check", "a"),
        ("check", "b"),
        ("deliver", "b"),
    ]


def test_what_a_manifest_brings_back():
    """What has ended stays so; what had not begins anew, and an old worker's number is too low."""
    done, running = checks(PASSED, {**RUNNING, "attempts": 2, "fence": 5, "due_at": now(), "worker": "w"})
    first, second = restored(Status.ACCEPTED, [done, running], now())
    assert first == done
    assert (second.status, second.attempts, second.due_at, second.worker) == (JobStatus.WAITING, 0, None, None)
    assert second.fence > 5


def test_verdicts_that_a_manifest_lacks_are_drawn():
    """If all checks have ended in a manifest that knows of no verdict, somebody has to look at them."""
    jobs = [*checks(PASSED, REFUSED), new_job("u", "deliver", "p")]
    *ended, deliver = restored(Status.CHECKING, jobs, now())
    assert all(job.due_at for job in ended)
    assert deliver.due_at is None
    *ended, deliver = restored(Status.ACCEPTED, jobs, now())
    assert not any(job.due_at for job in ended)
    assert deliver.due_at


def test_facts():
    """Deliveries get what was found, by plugin, of descriptions that succeeded."""
    jobs = [
        new_job("u", "describe", "a", status=JobStatus.DONE, result={"rows": 3}),
        new_job("u", "describe", "b", **BROKEN),
        *checks(PASSED),
    ]
    assert facts_of(jobs) == {"a": {"rows": 3}}


def run(code, *arguments):
    return subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, timeout=60)


COMPOSE = """
import asyncio, sys
from tusd_py.composer import compose
from tusd_py.config import Config
from tusd_py.worker import working

async def main():
    config = Config(upload_dir=sys.argv[1], plugin=sys.argv[2:])
    async with compose(config) as parts, working(parts):
        print("docket" in sys.modules)
"""


def test_without_stages_the_package_is_not_needed(tmp_path):
    """A server whose plugins have no stage does not even load it."""
    done = run(f"{COMPOSE}\nasyncio.run(main())", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_with_stages_a_missing_package_is_named(tmp_path):
    """A server whose plugins have stages does not start without it, and says what to install."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from tusd_py import Verdict, hookimpl\n@hookimpl\ndef check(upload):\n    return Verdict(ok=True)\n"
    )
    done = run(f"{COMPOSE}\nsys.modules['docket'] = None\nasyncio.run(main())", str(tmp_path), str(plugin))
    assert done.returncode == 1
    assert "pip install 'tusd-py[jobs]'" in done.stderr
    checked = run(
        "import sys\nsys.modules['docket'] = None\nfrom tusd_py.cli import main\nmain()",
        *("check", "--port", "0", "--upload-dir", str(tmp_path), "--plugin", str(plugin)),
    )
    assert checked.returncode == 1
    assert "problem     a plugin has stages, which need more packages" in checked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "with jobs in memory: the server does them itself"),
        (["--jobs", "https://user:secret@host"], "jobs 'https://user:***@host' is of no known kind"),
    ],
)
def test_a_worker_without_work(tmp_path, arguments, words):
    """A worker that could do nothing says why and ends."""
    code = "from tusd_py.cli import main\nmain()"
    plugin = tmp_path / "plugin.py"
    plugin.write_text("from tusd_py import hookimpl\n@hookimpl\ndef deliver(upload):\n    pass\n")
    done = run(code, "worker", "--upload-dir", str(tmp_path / "up"), "--plugin", str(plugin), *arguments)
    assert done.returncode == 1
    assert words in done.stderr
