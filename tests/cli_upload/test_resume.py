"""`tusd-py upload` goes on after everything that can interrupt it."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tusd_py.cli_upload.state import UploadState
from tusd_py.testing.server import ServerProcess

MIB = 2**20
TUS = {"Tus-Resumable": "1.0.0"}
# A thousand requests: enough time to interrupt it, whatever the machine. What is left is then sent in one.
SLOW = ("--chunk-size", "64KiB")
BIG = 64 * MIB


def test_killed_and_run_again(client: Any, make_file: Callable[..., Path], wait_for_bytes: Callable[..., str]) -> None:
    path = make_file("big.bin", BIG)
    with client.start(*SLOW, path) as process:
        url = wait_for_bytes(process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    [item] = client.send(path)
    assert item["url"] == url
    assert MIB <= item["resumed_from"] < BIG
    client.assert_arrived(url, path)


def test_stopped_by_ctrl_c_and_run_again(
    client: Any, make_file: Callable[..., Path], wait_for_bytes: Callable[..., str]
) -> None:
    path = make_file("big.bin", BIG)
    with client.start(*SLOW, path) as process:
        url = wait_for_bytes(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("Stopped. To resume, run the same command again.\n")
    assert "Traceback" not in err
    [item] = client.send(path)
    assert item["url"] == url
    assert MIB <= item["resumed_from"] < BIG
    client.assert_arrived(url, path)


def test_no_resume_begins_anew(client: Any, make_file: Callable[..., Path], wait_for_bytes: Callable[..., str]) -> None:
    path = make_file("big.bin", BIG)
    with client.start(*SLOW, path) as process:
        url = wait_for_bytes(process)
        process.kill()
    [item] = client.send("--no-resume", path)
    assert item["url"] != url
    assert item["resumed_from"] == 0
    client.assert_arrived(item["url"], path)


def test_server_killed_and_restarted(
    client: Any, server: ServerProcess, make_file: Callable[..., Path], wait_for_bytes: Callable[..., str]
) -> None:
    path = make_file("big.bin", BIG)
    with client.start("--json", *SLOW, path) as process:
        url = wait_for_bytes(process)
        server.kill()
        server.restart()
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "trying again in" in err
    assert json.loads(out)["url"] == url
    client.assert_arrived(url, path)


def test_an_upload_that_is_gone_starts_anew(
    client: Any, make_file: Callable[..., Path], wait_for_bytes: Callable[..., str]
) -> None:
    path = make_file("big.bin", BIG)
    with client.start(*SLOW, path) as process:
        url = wait_for_bytes(process)
        process.kill()
    assert requests.delete(url, headers=TUS, timeout=30).status_code == 204
    result = client.run("--json", path)
    assert result.returncode == 0, result.stderr
    assert "starting anew" in result.stderr
    item = json.loads(result.stdout)
    assert item["url"] != url
    assert item["resumed_from"] == 0
    client.assert_arrived(item["url"], path)


@pytest.mark.parametrize("change", ["longer", "shorter", "touched"])
def test_a_file_that_changes_on_the_way_is_reported(
    client: Any, make_file: Callable[..., Path], wait_for_bytes: Callable[..., str], change: str
) -> None:
    path = make_file("big.bin", BIG)
    with client.start(*SLOW, path) as process:
        url = wait_for_bytes(process)
        if change == "longer":
            with path.open("ab") as file:
                file.write(b"one more line")
        elif change == "shorter":
            os.truncate(path, MIB // 2)
        else:
            path.write_bytes(os.urandom(BIG))
        out, err = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert f"{path}: the file changed while it was being uploaded" in err
    # What has both old and new bytes is never complete on the server.
    answer = requests.head(url, headers=TUS, timeout=30)
    assert int(answer.headers["Upload-Offset"]) < int(answer.headers["Upload-Length"])
    [item] = client.send(path)
    assert item["url"] != url
    assert item["resumed_from"] == 0
    client.assert_arrived(item["url"], path)


def test_what_has_arrived_is_not_sent_again_until_all_has(
    client: Any, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    first = make_file("source/first.bin", 2000)
    missing = first.with_name("missing.bin")
    missing.symlink_to(tmp_path / "nowhere")
    command = ("--json", first.parent)
    result = client.run(*command)
    assert result.returncode == 1
    url = json.loads(result.stdout)["url"]
    assert result.stderr.endswith(f"1 of 2 did not arrive:\n  {missing}: No such file or directory\n")
    missing.unlink()
    missing.write_bytes(b"here now")
    again = {item["path"]: item for item in client.send(*command)}
    assert again[str(first)]["url"] == url
    assert again[str(first)]["resumed_from"] == 2000
    assert again[str(missing)]["resumed_from"] == 0
    assert client.remembered() == []
    # All of it has arrived: the same command is a new wish now.
    assert url not in {item["url"] for item in client.send(*command)}


def test_a_state_file_that_is_something_else(client: Any, make_file: Callable[..., Path]) -> None:
    path = make_file("notes.txt", 5000)
    before = path.read_bytes()
    result = client.run("--state-file", path, path)
    assert result.returncode == 1
    assert f"The state file {path} cannot be used" in result.stderr
    assert path.read_bytes() == before


def test_the_state_is_safe_across_threads_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.sqlite3"
    keys = [f"key {number}" for number in range(100)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: UploadState(path).put(key, f"https://example.org/{key}"), keys))
    state = UploadState(path)
    assert [state.get(key) for key in keys] == [f"https://example.org/{key}" for key in keys]
    state.forget(keys[1:])
    assert [state.get(key) for key in keys] == [f"https://example.org/{keys[0]}"] + [None] * 99
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
