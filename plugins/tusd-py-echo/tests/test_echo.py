"""The plugin as its users have it: installed, in a real server, with a real client."""

import json
from io import BytesIO

import pytest
import tusd_py_echo
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from tusd_py.config import ConfigError
from tusd_py.testing.plugins import hooks_of
from tusd_py.testing.server import ServerProcess


def test_echoes_finished_uploads_and_refuses_those_without_a_name(tmp_path):
    """A finished upload becomes a line of the file; one without a name is refused in the plugin's words."""
    echoed = tmp_path / "finished.jsonl"
    config = tmp_path / "tusd-py.toml"
    config.write_text(f'[plugins.echo]\nfile = "{echoed}"\nrequire_filename = true\n')

    with ServerProcess("--config", str(config), "--upload-dir", str(tmp_path / "data")) as server:
        client = TusClient(server.url)
        client.uploader(file_stream=BytesIO(b"hello"), metadata={"filename": "hello.txt"}).upload()
        with pytest.raises(TusCommunicationError) as refused:
            client.uploader(file_stream=BytesIO(b"hello")).upload()

    assert refused.value.status_code == 400
    assert b"no filename" in refused.value.response_content
    [line] = echoed.read_text().splitlines()
    assert json.loads(line).items() >= {"filename": "hello.txt", "bytes": 5}.items()


async def test_settings_that_cannot_be_are_named():
    """A misspelt setting keeps the server from starting, and is named."""
    with pytest.raises(ConfigError, match="require_filenam"):
        async with hooks_of(tusd_py_echo, {"require_filenam": True}):
            pass
