"""ServerProcess, on which the other tests of this folder rely."""

import signal
from pathlib import Path

import pytest
import requests

from tusd_py.testing.server import ServerProcess, ServerProcessError


def test_restarts_on_the_same_port(tmp_path: Path) -> None:
    """However the server ended, it comes back at the same URL, and nothing it printed is lost."""
    with ServerProcess("--upload-dir", str(tmp_path)) as server:
        url, first = server.url, server.pid
        server.kill()
        assert server.process.returncode == -signal.SIGKILL
        with pytest.raises(requests.ConnectionError):
            requests.options(url, timeout=30)
        server.restart()
        assert server.pid != first
        server.restart()
        assert server.url == url
        assert requests.options(url, timeout=30).headers["Tus-Version"] == "1.0.0"
        assert server.stop() == 0
        assert server.output().count(f"You can now upload files to: {url}\n") == 3


def test_failed_start_shows_the_output() -> None:
    """Who mistypes an option reads the server's own complaint in the error."""
    server = ServerProcess("--no-such-option")
    with pytest.raises(ServerProcessError, match=r"exited with 2 .*(?s:.*)No such option"):
        server.start()


def test_settings_come_from_arguments_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests configures nothing; what the test itself passes does."""
    monkeypatch.setenv("TUSD_PY_MAX_SIZE", "1")
    for env, status in (None, 201), ({"TUSD_PY_MAX_SIZE": "4"}, 413):
        with ServerProcess("--upload-dir", str(tmp_path), env=env) as server:
            headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "5"}
            assert requests.post(server.url, headers=headers, timeout=30).status_code == status
