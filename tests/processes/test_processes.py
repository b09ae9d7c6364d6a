"""Processes of their own: what comes back, how they can end, and that none is left."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipapp
from pathlib import Path

import pytest

from tusd_py import Reject, processes
from tusd_py.hooks.plugins import load
from tusd_py.ranges import Unreachable
from tusd_py.testing.contracts import wait_until

_, tasks = load(str(Path(__file__).with_name("tasks.py")))


def run(function, argument, *, memory=2**27, seconds=30, **options):
    return processes.run(function, argument, memory=memory, seconds=seconds, **options)


def run_each(function, arguments, count, *, seconds=30, **options):
    return processes.run_each(function, arguments, processes=count, memory=2**27, seconds=seconds, **options)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_function_has_to_say_what_it_returns():
    """Without an annotation nothing could be decoded, so nothing is begun."""
    with pytest.raises(TypeError, match="end_deeply does not say what it returns"):
        run(tasks.end_deeply, None)


def test_what_a_process_is(tmp_path, monkeypatch, capfd):
    """It has a folder for its files, no secrets, yields, leaves no core, prints nothing, and tells its progress."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_SECRET_ACCESS_KEY", "TUSD_PY_API_TOKEN", "OTHER"):
        monkeypatch.setenv(name, "secret")
    told = []
    seen = run(tasks.look, "four", progress=told.append)
    assert told[0] == 4
    assert (seen.core, seen.folder) == (0, str(tmp_path))
    assert seen.niceness >= os.nice(0) + 5
    assert "OTHER" in seen.variables
    assert not [name for name in seen.variables if name.startswith(("AWS_", "TUSD_PY_"))]
    assert not Path(seen.temporary).exists()
    assert is_gone(seen.pid)
    again = run(tasks.look, "four")
    assert (again.parent, again.tasks) == (seen.parent, 1)
    assert again.pid != seen.pid
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("way", "error", "message"),
    [
        ("crash", processes.WasEnded, "its process was ended by SIGSEGV"),
        ("kill", processes.WasEnded, "its process was ended by SIGKILL"),
        ("exit", processes.ProcessFailed, "its process ended without a result"),
        ("quit", processes.ProcessFailed, r"its process failed with SystemExit \(tasks.py, line \d+\)"),
        ("raise", processes.ProcessFailed, r"its process failed with ValueError \(tasks.py, line \d+\)"),
        ("deep", processes.ProcessFailed, r"its process failed with RecursionError \(tasks.py, line \d+\)"),
        ("memory", processes.NeedsMoreMemory, "it needs more memory than it may use"),
        ("sleep", processes.TookTooLong, r"it took longer than 0\.2 seconds"),
    ],
)
def test_each_way_to_end_has_an_error(way, error, message, capfd):
    """A process that ends badly is an error that says how, and says nothing of the data."""
    with pytest.raises(processes.ProcessFailed, match=f"^{message}$") as failed:
        run(tasks.end, way, seconds=0.2 if way == "sleep" else 30)
    assert type(failed.value) is error
    assert capfd.readouterr() == ("", "")


def test_a_refusal_arrives():
    """`Reject` is raised by the caller as it was in the process."""
    with pytest.raises(Reject, match="line 5 is too long") as refused:
        run(tasks.end, "reject")
    assert (refused.value.status, refused.value.code) == (415, "ERR_LINE")


def test_a_storage_that_does_not_answer_is_told():
    """`Unreachable` is raised by the caller too, for it says nothing of the bytes and calls for another attempt."""
    with pytest.raises(Unreachable, match=r"the storage does not answer \(status 503\)"):
        run(tasks.end, "unreachable")


@pytest.mark.parametrize("said", [tasks.BOMB, b'"text"', b"", b"[" * 100_000, b"1.5"])
def test_who_takes_a_process_over_can_only_answer(said):
    """What a process says is never unpickled, and is what the function returns or an error."""
    with pytest.raises(processes.ProcessFailed, match="its process answered what cannot be"):
        run(tasks.forge, said)


def test_an_answer_has_a_largest_size(monkeypatch):
    """A process cannot fill the memory of its caller."""
    monkeypatch.setattr(processes, "MAX_RESULT", 3)
    assert run(tasks.forge, b"[1]") == [1]
    with pytest.raises(processes.ProcessFailed, match="answered what cannot be"):
        run(tasks.forge, b"[12]")


def test_results_come_in_the_order_of_their_arguments():
    """Whichever process is first, the results are in order, and no more is begun than four for each process."""
    begun = []

    def arguments():
        for number in range(40):
            begun.append(number)
            yield 0.3 if number == 0 else 0.0

    results = run_each(tasks.wait, arguments(), 2)
    assert next(results) == 0.3
    assert len(begun) <= 8
    assert list(results) == [0.0] * 39


def test_a_process_keeps_what_it_has_for_its_next_task():
    """Many tasks are done by few processes, and their progress is added up."""
    told = []
    seen = list(run_each(tasks.look, ["x" * 10] * 30, 2, progress=told.append))
    assert len({one.pid for one in seen}) <= 2
    assert max(one.tasks for one in seen) >= 15
    assert told == sorted(told)
    assert 10 <= told[-1] <= 300


def test_the_first_failure_ends_all():
    """If one of several processes dies, the others do not go on."""
    started = time.monotonic()
    with pytest.raises(processes.WasEnded):
        list(run_each(tasks.end, ["sleep", "kill"], 2))
    assert time.monotonic() - started < 20


async def test_nothing_is_left_when_the_caller_is_killed(tmp_path):
    """After SIGKILL for the server, in the middle of a task, neither its process nor the fork server is there."""
    pids = tmp_path / "pids"
    program = (
        "from tusd_py import processes\nfrom tusd_py.hooks.plugins import load\n"
        f"_, tasks = load({tasks.__file__!r})\n"
        f"processes.run(tasks.sleep, {str(pids)!r}, memory=2**27, seconds=60)\n"
    )
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    found = (await wait_until(lambda: pids.exists() and pids.read_text())).split()
    caller.kill()
    await caller.wait()
    for pid in map(int, found):
        await wait_until(lambda pid=pid: is_gone(pid))


async def test_a_fork_server_that_is_killed_takes_its_processes_along(tmp_path):
    """Whoever waits for one hears of it, and the next call has another fork server."""
    path, told = tmp_path / "pids", []

    def call():
        try:
            run(tasks.sleep, str(path))
        except processes.ProcessFailed as error:
            told.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    pid, server = map(int, (await wait_until(lambda: path.exists() and path.read_text())).split())
    os.kill(server, signal.SIGKILL)
    await wait_until(lambda: is_gone(pid))
    thread.join(10)
    assert told == ["its process ended without a result"]
    assert run(tasks.wait, 0.0) == 0.0


def test_a_fork_server_that_nobody_calls_ends():
    """It frees its memory after a while."""
    ours, theirs = socket.socketpair()
    program = f"from tusd_py import fork_server as f; f.IDLE_SECONDS = 0.01; f.serve({theirs.fileno()})"
    with ours, theirs:
        ran = subprocess.run([sys.executable, "-c", program], pass_fds=[theirs.fileno()], check=False, timeout=30)
    assert ran.returncode == 0


def test_modules_that_start_threads_are_refused():
    """A copy of a process without its threads may hang, so the error names the module."""
    _, module = load(str(Path(__file__).with_name("starts_a_thread.py")))
    for _ in range(2):
        with pytest.raises(processes.ProcessFailed, match="a thread is started when tusd_py_plugin_starts_a_thread is"):
            run(module.work, 1)


def test_the_program_itself_is_not_imported(tmp_path):
    """A program without a guard, in a zip file, runs once: no process looks at `__main__`."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "work.py").write_text("def double(number: int, progress) -> int:\n    return 2 * number\n")
    (app / "__main__.py").write_text(
        "from tusd_py import processes\nimport work\n"
        "print('started')\nprint(processes.run(work.double, 21, memory=2**27, seconds=30))\n"
        "def own(number: int, progress) -> int: return number\n"
        "try: processes.run(own, 1, memory=2**27, seconds=30)\nexcept ValueError as error: print(error)\n"
    )
    zipapp.create_archive(app, tmp_path / "app.pyz")
    for command in ([str(tmp_path / "app.pyz")], [str(app)]):
        ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=tmp_path)
        started, result, refused = ran.stdout.splitlines()
        assert (started, result, ran.stderr) == ("started", "42", "")
        assert "put it into a module" in refused


def test_calls_from_many_threads_do_not_disturb_each_other():
    """Each gets its own answer, and nothing stays open."""
    run(tasks.wait, 0.0)
    before, answers = len(os.listdir("/proc/self/fd")), {}

    def call(number):
        with contextlib.suppress(processes.WasEnded):
            answers[number] = run(tasks.wait, number / 1000) if number % 3 else run(tasks.end, "kill")

    threads = [threading.Thread(target=call, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == {number: number / 1000 for number in range(24) if number % 3}
    assert len(os.listdir("/proc/self/fd")) == before
