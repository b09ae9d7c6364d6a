"""curl sends a file of 1 GiB."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tusd_py.testing.server import ServerProcess

pytestmark = [pytest.mark.needs_curl, pytest.mark.timeout(300)]


def curl(header: str, *arguments: str, stdin: BinaryIO | None = None) -> tuple[int, str]:
    """Send a request with curl and return the answer's status and one of its headers."""
    print_answer = ["--output", "/dev/stderr", "--write-out", f"%{{http_code}} %header{{{header}}}"]
    command = ["curl", "--no-progress-meter", *print_answer, "--header", "Tus-Resumable: 1.0.0", *arguments]
    result = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)} failed:\n{result.stderr}"
    status, _, value = result.stdout.partition(" ")
    return int(status), value


@pytest.mark.parametrize(
    "from_file",
    [
        pytest.param(True, id="from a file, announced by Content-Length"),
        pytest.param(False, id="from standard input, in chunks of HTTP"),
    ],
)
def test_curl(
    server: ServerProcess, big_file: Path, assert_arrived: Callable[[str, Path], None], from_file: bool
) -> None:
    """POST creates the upload, one PATCH carries the whole file."""
    size = big_file.stat().st_size
    status, url = curl("location", "--request", "POST", "--header", f"Upload-Length: {size}", server.url)
    assert status == 201
    patch = ["--request", "PATCH", "--header", "Upload-Offset: 0"]
    content_type = ["--header", "Content-Type: application/offset+octet-stream"]
    source = str(big_file) if from_file else "-"
    with big_file.open("rb") as stdin:
        sent = curl("upload-offset", *patch, *content_type, "--upload-file", source, url, stdin=stdin)
    assert sent == (204, str(size))
    assert_arrived(url, big_file)
