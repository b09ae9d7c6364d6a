"""The plugin as its users have it: installed, in a real server, with real clients; its command; its settings."""

import base64
import hashlib
import io
import json
import pickle
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import crc32c
import pytest
import tusd_py_validate
from click.testing import CliRunner
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusd_py_validate import child, settings
from tusd_py_validate.checks import Checks
from tusd_py_validate.command import validate
from tusd_py_validate.problems import TimeUp, Watch

from tusd_py import Status, Upload
from tusd_py.config import ConfigError
from tusd_py.content import StoredFile, StoredObject
from tusd_py.headers import format_upload_metadata
from tusd_py.models import now
from tusd_py.processes import NeedsMoreMemory, ProcessFailed
from tusd_py.ranges import Address, Unreachable
from tusd_py.stores.memory import MemoryContent
from tusd_py.testing.plugins import hooks_of
from tusd_py.testing.raw import RawClient
from tusd_py.testing.server import ServerProcess

PROGRAM = Path(sys.executable).read_bytes()
GOOD = b'{"id": 1}\n{"id": 2}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that checks, with a schema for JSON Lines."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "schemas").mkdir()
    (folder / "schemas/rows.json").write_text('{"required": ["id"], "properties": {"id": {"type": "integer"}}}')
    config = folder / "tusd-py.toml"
    config.write_text(
        f'[plugins.validate]\nschemas = "{folder / "schemas"}"\nfinish_size = "1MiB"\n'
        '[[plugins.validate.rules]]\nmatch = "*.jsonl"\nschema = "rows.json"\n'
    )
    with ServerProcess("--config", str(config), "--upload-dir", str(folder / "data")) as server:
        yield server
    assert server.process.returncode == 0


def upload(server, data, **metadata):
    TusClient(server.url).uploader(file_stream=io.BytesIO(data), metadata=metadata).upload()


def refused(server, data, **metadata):
    """What the server says of a file that it does not take."""
    with pytest.raises(TusCommunicationError) as error:
        upload(server, data, **metadata)
    return error.value.status_code, error.value.response_content.decode()


async def test_a_program_of_100_gb_is_refused_after_its_first_bytes(server):
    """Of a huge upload only the first 64 KiB are needed to refuse it; then it is gone, and says why."""
    tus = RawClient(server.url)
    metadata = format_upload_metadata({"filename": "rows.bin"})
    created = await tus.post({"Upload-Length": 10**11, "Upload-Metadata": metadata})
    assert created.status == 201
    answer = await tus.patch(created.headers["Location"], 0, PROGRAM[: 64 * 1024].ljust(64 * 1024, b"\0"))
    assert answer.status == 415
    assert "type: ELF program is not taken" in answer.body.decode()
    gone = await tus.get(created.headers["Location"])
    assert gone.status == 410
    assert "ELF program" in gone.body.decode()


def test_a_pickle_at_the_end_is_refused(server):
    """A zip that shows its pickle only in the directory at its end is refused when it is complete."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/weights", bytes(2 * 2**20))  # more than the first bytes and than `finish_size`
        archive.writestr("model/data.pkl", pickle.dumps({"a": 1}))
    status, said = refused(server, buffer.getvalue(), filename="model.zip")
    assert status == 415
    assert "PyTorch file with pickles is not taken" in said


def test_small_uploads_are_checked_before_they_are_complete(server):
    """Schema and digest of a small upload are checked while the client waits."""
    upload(server, GOOD, filename="a.jsonl", sha256=hashlib.sha256(GOOD).hexdigest())
    status, said = refused(server, GOOD + b'{"id": "x"}\n', filename="a.jsonl")
    assert status == 422
    assert 'schema: the value is not of type "integer" (line 3, byte 20, at /id)' in said
    status, said = refused(server, GOOD, filename="a.jsonl", sha256=hashlib.sha256(b"").hexdigest())
    assert (status, "the file's sha256 is" in said) == (422, True)


def test_metadata_alone_is_enough_to_refuse(server):
    """Names, digests and schemas that cannot be are refused before a byte is sent."""
    assert "its name 'setup.exe' says that it is Windows program" in refused(server, b"x", filename="setup.exe")[1]
    assert "no digest of 32 bytes" in refused(server, b"x", sha256="abc")[1]
    assert "there is no schema other.json" in refused(server, b"x", filename="a.csv", schema="other")[1]


async def test_stages_get_a_verdict(tmp_path):
    """`check` tells all reasons, `ok` if there are none, and reads no more than it needs of what is elsewhere."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"x\n" * 5)

    class Stored:
        """Bytes that are in no file of this machine."""

        size, url = path.stat().st_size, "s3://bucket/rows.jsonl"

        def open(self):
            return path.open("rb")

    async with hooks_of(tusd_py_validate, {"enabled": True}):
        made = now()
        upload = Upload(
            id="a", created_at=made, updated_at=made, metadata={"filename": "rows.jsonl"}, status=Status.CHECKING
        )
        told: list[int] = []
        verdict = tusd_py_validate.check(upload, Stored(), lambda done, total: told.append(done))
        assert (verdict.ok, len(verdict.reasons)) == (False, 5)
        assert told
        assert all(0 <= done <= path.stat().st_size for done in told)
        path.write_bytes(GOOD)
        assert tusd_py_validate.check(upload, Stored(), lambda done, total: None).ok


@pytest.mark.parametrize("table", [{}, {"enabled": False, "deny": ["pickle"]}])
async def test_without_settings_nothing_is_checked(table):
    """An installed plugin that is not configured is not called."""
    async with hooks_of(tusd_py_validate, table) as hooks:
        assert not any(hooks.has(name) for name in ("pre_create", "inspect_head", "pre_finish"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"dney": ["pickle"]}, r"contains unknown field `dney`; did you mean 'deny'\?"),
        ({"archives": {"max_ration": 1}}, r"did you mean 'max_ratio'\?"),
        ({"deny": ["pikle"]}, r"deny: there is no type or group 'pikle'; did you mean 'pickle'\?"),
        ({"max_size": {"parquet": "big"}}, "'big' is not a size"),
        ({"max_size": {"parket": 1}}, r"max_size: there is no type or group 'parket'; did you mean 'parquet'\?"),
        ({"max_problems": 0}, "Expected `int` >= 1"),
        ({"checksum": "sometimes"}, "Invalid enum value 'sometimes'"),
    ],
)
async def test_settings_that_cannot_be_are_named(table, said):
    """A misspelt key, type or value keeps the server from starting, and what was meant is guessed."""
    with pytest.raises(ConfigError, match=said):
        async with hooks_of(tusd_py_validate, table):
            pass


# Digests

DATA = b"hello, world" * 1000
DIGESTS = {
    "md5": hashlib.md5(DATA).digest(),
    "sha1": hashlib.sha1(DATA).digest(),
    "sha256": hashlib.sha256(DATA).digest(),
    "sha512": hashlib.sha512(DATA).digest(),
    "crc32": zlib.crc32(DATA).to_bytes(4, "big"),
    "crc32c": crc32c.crc32c(DATA).to_bytes(4, "big"),
}
WRITTEN = {
    "hex": bytes.hex,
    "HEX": lambda digest: digest.hex().upper(),
    "Base64": lambda digest: base64.b64encode(digest).decode(),
    "Base64 for URLs": lambda digest: base64.urlsafe_b64encode(digest).decode().rstrip("="),
}


@pytest.mark.parametrize("algorithm", DIGESTS)
@pytest.mark.parametrize("write", WRITTEN)
def test_digests_are_verified(algorithm, write):
    """Every algorithm, in hexadecimal digits or Base64; another file's digest is a problem that names both."""
    checks, text = Checks(settings.read({})), WRITTEN[write](DIGESTS[algorithm])
    assert not checks.claims({algorithm: text}, len(DATA))
    assert checks.whole(MemoryContent(DATA, "a"), {algorithm: text}).checks[1] == "checksum"
    assert checks.whole(MemoryContent(DATA, "a"), {algorithm: text}).ok
    [problem] = checks.whole(MemoryContent(DATA[1:], "a"), {algorithm: text}).problems
    assert DIGESTS[algorithm].hex() in problem.reason
    assert problem.check == "checksum"


def test_digests_can_be_required():
    """Without any, an upload is refused at once; those that are no digests are refused too."""
    checks = Checks(settings.read({"checksum": "required"}))
    assert "no digest of the file" in checks.claims({}, 1)[0].reason
    assert "no digest of 16 bytes" in checks.claims({"md5": "x" * 32}, 1)[0].reason
    assert not Checks(settings.read({"checksum": "ignore"})).claims({"md5": "x"}, 1)


# Processes of their own


def test_a_storage_that_does_not_answer_is_no_problem_of_the_file():
    """It is raised, so that the job is repeated: here, and where lines are read by several processes."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/rows.jsonl"
    content = StoredObject("s3://bucket/rows.jsonl", Address(url, 5, waits=()))
    with pytest.raises(Unreachable):
        Checks(settings.read({})).whole(content, {})
    lines = child.Range(source=content, start=0, stop=5, max_line=10, max_problems=1)
    with pytest.raises(Unreachable):
        list(child.run(child.check_range, lines, memory=2**27, watch=Watch(), tell=lambda _: None))


def test_a_task_that_crashes_or_hangs_is_a_problem(tmp_path):
    """A process that is killed, that needs too much memory or too much time ends the check and nothing else."""
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b"[]," * 20_000_000 + b"[]]")
    document = child.Document(source=StoredFile.at(path))

    def checked(task=document, memory=2**31, seconds=60):
        return list(child.run(child.check_document, task, memory=memory, watch=Watch(seconds=seconds), tell=int))

    [[problem]] = checked(memory=2**27)
    assert str(problem) == "limit: it needs more memory than it may use"
    with pytest.raises(NeedsMoreMemory):
        checked(memory=2**20)
    with pytest.raises(TimeUp):
        checked(seconds=0.05)
    with pytest.raises(ProcessFailed, match=r"failed with FileNotFoundError \(child\.py, line \d+\)"):
        checked(child.Document(source=StoredFile(Path("/missing"), 1)))


# The command


def test_the_command_checks_files(tmp_path):
    """Files on this machine are checked as uploads are; the exit code tells whether all are right."""
    (tmp_path / "schema.json").write_text('{"required": ["id"]}')
    (tmp_path / "good.jsonl").write_bytes(GOOD)
    (tmp_path / "bad.jsonl").write_bytes(b"{}\n")
    arguments = ["check", "--schema", str(tmp_path / "schema.json")]
    right = CliRunner().invoke(validate, [*arguments, str(tmp_path / "good.jsonl")])
    assert (right.exit_code, right.output) == (0, f"{tmp_path}/good.jsonl: jsonl, right (type, structure, schema)\n")
    wrong = CliRunner().invoke(validate, [*arguments, str(tmp_path / "good.jsonl"), str(tmp_path / "bad.jsonl")])
    assert wrong.exit_code == 1
    assert wrong.output.endswith('  schema: "id" is a required property (line 1, byte 0)\n')
    as_json = CliRunner().invoke(validate, [*arguments, "--json", str(tmp_path / "bad.jsonl")])
    assert json.loads(as_json.output)["ok"] is False
    (tmp_path / "tusd-py.toml").write_text('[plugins.validate]\nallow = ["parquet"]\n')
    limited = CliRunner().invoke(
        validate, ["check", "--config", str(tmp_path / "tusd-py.toml"), str(tmp_path / "good.jsonl")]
    )
    assert "JSON Lines is not taken; these are: parquet" in limited.output


def test_the_command_is_one_of_tusd_py():
    """`tusd-py validate` is there when the plugin is installed."""
    command = [sys.executable, "-m", "tusd_py", "validate", "bench", "--megabytes", "2", "--processes", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "MB per second of processor time" in ran.stdout
