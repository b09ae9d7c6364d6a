"""What `tusd-py upload` sends, shows and refuses."""

import json
import os
import re
import termios
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from tusd_py.cli_upload import upload
from tusd_py.testing.server import ServerProcess

MIB = 2**20
TUS = {"Tus-Resumable": "1.0.0"}


def test_several_files_at_once_arrive_whole(client: Any, make_file: Callable[..., Path]) -> None:
    files = [make_file(f"{number}.bin", 3 * MIB + number) for number in range(8)]
    sent = client.send("--parallel", "4", "--chunk-size", "1MiB", *files)
    assert {item["path"] for item in sent} == {str(path) for path in files}
    for item in sent:
        client.assert_arrived(item["url"], Path(item["path"]))
        assert item["bytes"] == Path(item["path"]).stat().st_size
        assert item["resumed_from"] == 0
        assert item["seconds"] > 0


def test_urls_on_stdout_and_progress_on_stderr(client: Any, make_file: Callable[..., Path]) -> None:
    path = make_file("notes.txt", 2000)
    result = client.run(path)
    assert result.returncode == 0
    client.assert_arrived(result.stdout.removesuffix("\n"), path)
    assert re.fullmatch(rf"{re.escape(str(path))}: 2\.0 KiB in \d+\.\d s\n", result.stderr)


def test_quiet_shows_only_results(client: Any, make_file: Callable[..., Path]) -> None:
    result = client.run("-q", make_file("notes.txt", 2000))
    assert result.stdout.startswith(client.url)
    assert result.stderr == ""


def test_bars_on_a_terminal(client: Any, make_file: Callable[..., Path]) -> None:
    path = make_file("film.mp4", 8 * MIB)
    master, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = client.start(path, "--chunk-size", "1MiB", stderr=terminal)
    os.close(terminal)
    shown = bytearray()
    try:
        while block := os.read(master, 65536):
            shown += block
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    finally:
        os.close(master)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.startswith(client.url)
    text = shown.decode()
    assert "film.mp4:" in text
    assert "total: 100%" in text
    assert "8.00M/8.00M" in text


def test_a_directory_is_walked(client: Any, make_file: Callable[..., Path], tmp_path: Path) -> None:
    for name in (
        "photos/one.jpg",
        "photos/2026/two.jpg",
        "photos/2026/summer/three.jpg",
        "elsewhere/four.jpg",
    ):
        make_file(name, 1000)
    source = tmp_path / "source"
    (source / "photos" / "loop").symlink_to(source / "photos", target_is_directory=True)
    os.mkfifo(source / "photos" / "pipe")
    # One of the files is named twice, and arrives once.
    sent = client.send(source / "photos", source / "photos" / "one.jpg")
    relative = {client.metadata(item["url"])["relativePath"]: item for item in sent}
    assert sorted(relative) == ["photos/2026/summer/three.jpg", "photos/2026/two.jpg", "photos/one.jpg"]
    for name, item in relative.items():
        client.assert_arrived(item["url"], source / name)
    assert len(sent) == 3


def test_an_empty_directory_is_a_mistake(client: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    result = client.run(tmp_path / "nothing")
    assert result.returncode == 2
    assert "There is no file" in result.stderr


def test_an_empty_file_arrives(client: Any, make_file: Callable[..., Path]) -> None:
    [item] = client.send(make_file("empty.txt", 0))
    assert item["bytes"] == 0
    answer = requests.head(item["url"], headers=TUS, timeout=30)
    assert (answer.headers["Upload-Offset"], answer.headers["Upload-Length"]) == ("0", "0")


def test_metadata_arrives(client: Any, make_file: Callable[..., Path]) -> None:
    path = make_file("Ünïcode 文.png", 10)
    [item] = client.send(path, "--metadata", "project=Überraschung=1", "--metadata", "empty=")
    assert client.metadata(item["url"]) == {
        "filename": "Ünïcode 文.png",
        "filetype": "image/png",
        "project": "Überraschung=1",
        "empty": "",
    }


def test_metadata_can_replace_what_the_file_says(client: Any, make_file: Callable[..., Path]) -> None:
    [item] = client.send(make_file("a.unknown-type", 10), "--metadata", "filename=b.txt")
    assert client.metadata(item["url"]) == {"filename": "b.txt", "filetype": "application/octet-stream"}


def test_a_file_name_that_is_no_text(client: Any, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_bytes(b"bytes")
    result = client.run(os.fsdecode(path))
    assert result.returncode == 0, result.stderr
    assert client.metadata(result.stdout.strip())["filename"] == "caf\ufffd.txt"


def test_a_refused_upload(upload_dir: Path, client_of: Callable[[str], Any], make_file: Callable[..., Path]) -> None:
    small, large = make_file("small.bin", 100), make_file("large.bin", 2000)
    with ServerProcess("--upload-dir", str(upload_dir), "--max-size", "1000") as server:
        said = requests.post(server.url, headers=TUS | {"Upload-Length": "2000"}, timeout=30)
        assert said.status_code == 413
        result = client_of(server.url).run(small, large)
    assert result.returncode == 1
    assert result.stdout.count("\n") == 1
    assert result.stderr.endswith(f"1 of 2 did not arrive:\n  {large}: 413 {said.text.strip()}\n")


PLUGIN = """
import json
from tusd_py import Identity, Reject, hookimpl

@hookimpl
def authenticate(request):
    with open({log!r}, "a") as log:
        log.write(json.dumps([request.method, dict(request.headers)]) + "\\n")
    token = request.headers.get("Authorization", "")
    if token != "Bearer open-sesame-42":
        raise Reject(f"not a good token: {{token}}", status=401)
    return Identity("ali")
"""


def test_headers_are_sent_and_never_shown(
    tmp_path: Path, upload_dir: Path, client_of: Callable[[str], Any], make_file: Callable[..., Path]
) -> None:
    log, plugin, path = tmp_path / "requests", tmp_path / "tokens.py", make_file("notes.txt", 2000)
    plugin.write_text(PLUGIN.format(log=str(log)))
    with ServerProcess("--upload-dir", str(upload_dir), "--plugin", str(plugin)) as server:
        client = client_of(server.url)
        refused = client.run("--header", "Authorization: Bearer wrong-sesame-41", path)
        assert refused.returncode == 1
        assert "401" in refused.stderr
        assert "not a good token: Bearer ***" in refused.stderr
        client.env["TUSD_PY_UPLOAD_HEADERS"] = "Authorization: Bearer open-sesame-42\nX-Case: 17"
        accepted = client.run("--checksum", "sha256", "--chunk-size", "1500", path)
        assert accepted.returncode == 0, accepted.stderr
        shown = refused.stdout + refused.stderr + accepted.stdout + accepted.stderr
        url = accepted.stdout.strip()
        sent = [json.loads(line) for line in log.read_text().splitlines()]
    assert "sesame" not in shown
    assert b"sesame" not in client.state_file.read_bytes()
    assert (upload_dir / url.rpartition("/")[2]).read_bytes() == path.read_bytes()
    patches = [headers for method, headers in sent if method == "PATCH"]
    assert len(patches) == 2
    for headers in patches:
        by_name = {name.lower(): value for name, value in headers.items()}
        assert by_name["x-case"] == "17"
        assert by_name["upload-checksum"].startswith("sha256 ")


@pytest.mark.parametrize("algorithm", ["none", "sha1", "sha512", "md5"])
def test_checksums(client: Any, make_file: Callable[..., Path], algorithm: str) -> None:
    path = make_file("notes.bin", 3000)
    [item] = client.send("--checksum", algorithm, "--chunk-size", "1000", path)
    client.assert_arrived(item["url"], path)


def test_no_server(client_of: Callable[[str], Any], make_file: Callable[..., Path]) -> None:
    client = client_of("http://127.0.0.1:1/files/")
    result = client.run("--retries", "1", make_file("notes.txt", 10))
    assert result.returncode == 1
    assert "trying again in" in result.stderr
    assert result.stderr.endswith("Error: The server cannot be used: no connection: Connection refused\n")


def test_an_address_that_is_no_endpoint(client: Any, make_file: Callable[..., Path]) -> None:
    path = make_file("notes.txt", 10)
    result = client.run(path, url=client.url.replace("/files/", "/nothing-here/"))
    assert result.returncode == 1
    assert f"{path}: 404" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt", "http://localhost/files/"], "'missing.txt' does not exist"),
        (["notes.txt"], "Missing argument 'FILE...'"),
        (["notes.txt", "localhost/files/"], "begin with http:// or https://"),
        (["notes.txt", "https://"], "begin with http:// or https://"),
        (["notes.txt", "http://me:sesame@localhost/"], "leave the password out"),
        (["--chunk-size", "16 apples", "notes.txt", "http://localhost/"], "'16 apples' is not a size"),
        (["--chunk-size", "0", "notes.txt", "http://localhost/"], "is not between 1 byte and 1.0 GiB"),
        (["--chunk-size", "2GiB", "notes.txt", "http://localhost/"], "is not between 1 byte and 1.0 GiB"),
        (["--parallel", "0", "notes.txt", "http://localhost/"], "0 is not in the range"),
        (["--header", "sesame", "notes.txt", "http://localhost/"], "a header is written 'Name: value'"),
        (
            ["--header", "X: sesame\r\nY: 1", "notes.txt", "http://localhost/"],
            "the value of X has",
        ),
        (
            ["--header", "Upload-Offset: 1", "notes.txt", "http://localhost/"],
            "belongs to the protocol",
        ),
        (["--metadata", "a b=c", "notes.txt", "http://localhost/"], "'a b=c' is not KEY=VALUE"),
        (["--metadata", "abc", "notes.txt", "http://localhost/"], "'abc' is not KEY=VALUE"),
        (["/dev/null", "http://localhost/"], "/dev/null is neither a file nor a directory"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with chdir(tmp_path):
        result = CliRunner().invoke(upload, arguments)  # nothing is sent, so no process of its own is needed
    assert result.exit_code == 2
    assert message in result.stderr
    assert "sesame" not in result.output
