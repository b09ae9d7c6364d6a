"""Fixtures for tests that talk HTTP to a real server.

Servers are shared: one for each set of options in each test process, since a start takes longer than most tests.
HYPOTHESIS_PROFILE=soak runs property tests with random examples, and many more of them.
"""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import settings

from tusd_py.testing.raw import RawClient
from tusd_py.testing.redis import RedisProcess, free_port, valkey_binary, wait_for
from tusd_py.testing.s3 import ENVIRONMENT, S3Server, s3_server
from tusd_py.testing.server import ServerProcess

# Everybody is who they say; an upload gets the id that its metadata asks for.
PEOPLE = """
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Changes, Identity


@hookimpl
async def authenticate(request):
    name = request.headers.get("X-User")
    return Identity(name) if name else None


@hookimpl
async def pre_create(request, upload):
    return Changes(id=upload.metadata["id"]) if "id" in upload.metadata else None
"""

# What tests with a marker of pyproject.toml need on the PATH.
TOOLS = {
    "needs_node": ["node", "npm"],
    "needs_chromium": ["chromium"],
    "needs_curl": ["curl"],
    "needs_openssl": ["openssl"],
    "needs_strace": ["strace"],
    "needs_redis": [os.environ.get("TUSD_PY_REDIS_SERVER", "redis-server")],
    "needs_nginx": ["nginx"],
    "needs_mount": ["mount", "umount"],
}

# The programs that drive clients of others.
CLIENTS = Path(__file__).parent / "clients"

# What the S3 store is tested against: `seaweedfs`, `localstack`, or `NAME=URL` for one that runs already and takes the
# keys `test` and `test`; scripts/backends has more.
S3_SERVERS = os.environ.get("TUSD_PY_TEST_S3", "seaweedfs,localstack").split(",")
STORES = Path(__file__).parent / "stores"

# How many tests were left out for which missing means.
NOT_RUN = pytest.StashKey[dict[str, int]]()

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    """Let no test meet the credentials of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(ENVIRONMENT)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that this machine cannot run, or refuse to run if TUSD_PY_REQUIRE_ALL is 1."""
    lacks = {
        item: ", ".join(sorted({lack for mark in item.iter_markers() for lack in missing(mark.name)})) for item in items
    }
    not_run = Counter(lack for lack in lacks.values() if lack)
    if not_run and os.environ.get("TUSD_PY_REQUIRE_ALL") == "1":
        raise pytest.UsageError("\n".join(not_run_lines(not_run)))
    config.hook.pytest_deselected(items=[item for item in items if lacks[item]])
    items[:] = [item for item in items if not lacks[item]]
    config.stash[NOT_RUN] = not_run
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist collects, but only its controller prints
        config.workeroutput["not_run"] = dict(not_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist left out; each worker leaves out the same."""
    node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not_run", {})


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, last of all."""
    for line in not_run_lines(config.stash.get(NOT_RUN, {})):
        terminalreporter.write_line(line, yellow=True, bold=True)


@cache
def missing(marker: str) -> tuple[str, ...]:
    """Return what this machine lacks for tests with a marker."""
    lacks = [f"{tool} (not found on PATH)" for tool in TOOLS.get(marker, []) if shutil.which(tool) is None]
    if marker == "needs_mount" and not lacks and not can_mount():
        lacks = ["to mount file systems (root can, and `unshare --user --map-root-user --mount`)"]
    return tuple(lacks)


def can_mount() -> bool:
    """Return whether file systems can be mounted, by mounting one."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode == 0
        if mounted:
            subprocess.run(["umount", folder], check=True)
    return mounted


def not_run_lines(not_run: dict[str, int]) -> list[str]:
    """Return one line for each thing that is missing."""
    return [
        f"NOT RUN: {count} {'test needs' if count == 1 else 'tests need'} {lack}" for lack, count in not_run.items()
    ]


@pytest.fixture(scope="session")
def storage(request: pytest.FixtureRequest) -> Callable[[], tuple[str, ...]]:
    """A function that returns options for a storage that no other server uses: of files, or of S3 if a test says so."""
    if getattr(request, "param", "file") == "file":
        return lambda: ()
    s3: S3Server = request.getfixturevalue("s3")
    return lambda: s3.options(secrets.token_hex(8))


@pytest.fixture(scope="session")
def server_with(
    tmp_path_factory: pytest.TempPathFactory, storage: Callable[[], tuple[str, ...]]
) -> Iterator[Callable[..., ServerProcess]]:
    """A function that returns a running server with these options, the same one for the same options.

    However a server was treated, it ends in good order and has met no error that it did not expect.
    """
    with ExitStack() as servers:

        @cache
        def start(*options: str) -> ServerProcess:
            upload_dir = tmp_path_factory.mktemp("uploads")
            server = ServerProcess("--upload-dir", str(upload_dir), "--log-format", "json", *storage(), *options)
            servers.callback(check_output, server)
            return servers.enter_context(server)

        yield start


def check_output(server: ServerProcess) -> None:
    """Fail if a server has not ended well or has logged an error."""
    assert server.process.returncode == 0
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    errors = [line for line in lines if line["level"] == "error"]
    assert not errors, json.dumps(errors, indent=1)


@pytest.fixture(scope="session")
def s3_server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Server]]:
    """A function that returns the running S3 server of a name, the same one each time."""
    with ExitStack() as servers:
        yield cache(lambda name: servers.enter_context(s3_server(name, tmp_path_factory.mktemp("s3"))))


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest, s3_server_of: Callable[[str], S3Server]) -> S3Server:
    """A running S3 server, the same one for all tests; each test uses a prefix of its own.

    Those of tests/stores run against each of S3_SERVERS, all others against the first.
    """
    return s3_server_of(getattr(request, "param", S3_SERVERS[0]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of the S3 store against each server."""
    if "s3" in metafunc.fixturenames and STORES in metafunc.definition.path.parents:
        servers = S3_SERVERS[:1] if metafunc.definition.get_closest_marker("one_server") else S3_SERVERS
        names = [server.partition("=")[0] for server in servers]
        metafunc.parametrize("s3", servers, ids=names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def node_packages() -> None:
    """The packages of package-lock.json are in node_modules."""
    with (CLIENTS / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes may want to install at once
        installed = CLIENTS / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < os.fstat(lock.fileno()).st_mtime:
            npm = ["npm", "ci", "--ignore-scripts"]
            result = subprocess.run(npm, cwd=CLIENTS, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{' '.join(npm)} failed:\n{result.stdout}{result.stderr}"


@pytest.fixture
def run_client() -> Callable[..., list[dict[str, Any]]]:
    """A function that runs a client script of tests/clients to its end and returns the events it printed."""

    def run(interpreter: str, script: str, **options: Any) -> list[dict[str, Any]]:
        command = [interpreter, str(CLIENTS / script), json.dumps(options)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{script} failed:\n{result.stdout}{result.stderr}"
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


@pytest.fixture(scope="session")
def server(server_with: Callable[..., ServerProcess]) -> ServerProcess:
    """A running server with default settings."""
    return server_with()


@pytest.fixture(scope="session")
def tus(server: ServerProcess) -> RawClient:
    """A raw client of the server with default settings."""
    return RawClient(server.url)


@pytest.fixture(scope="session")
def limited(server_with: Callable[..., ServerProcess]) -> RawClient:
    """A raw client of a server that takes 100 bytes at most."""
    return RawClient(server_with("--max-size", "100").url)


@pytest.fixture(scope="session")
def people(server_with: Callable[..., ServerProcess], tmp_path_factory: pytest.TempPathFactory) -> RawClient:
    """A raw client of a server that takes everybody, by `X-User`, for who they say, and binds uploads to them."""
    plugin = tmp_path_factory.mktemp("plugins") / "people.py"
    plugin.write_text(PEOPLE)
    return RawClient(server_with("--plugin", str(plugin)).url)


REDIS = {"valkey": valkey_binary(), "redis": TOOLS["needs_redis"][0]}
BOTH = ["valkey", pytest.param("redis", marks=pytest.mark.needs_redis)]
# The indexes of records, which live as long as there are any.
INDEXES = {
    "all",
    "status",
    "owner",
    "both",
    "due",
    "waiting",
    "highest",
    "kept",
    "jobs",
    "jobdue",
    "jobqueue",
    "joball",
    "jobin",
}


@pytest.fixture(scope="session", params=BOTH)
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    """A server of Valkey, and one of Redis, that tests share; see `redis_url`."""
    with RedisProcess(REDIS[request.param]) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisProcess) -> Iterator[str]:
    """The URL of a shared server, with a prefix of the test's own and a short lease."""
    prefix = os.urandom(4).hex()
    yield f"{redis_server.url}?prefix={prefix}&lease=1.5"
    assert endless_keys(redis_server, prefix) == []


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[RedisProcess]]:
    """A Cluster of three servers of Valkey."""
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        buses = [free_port() for _ in range(3)]
        nodes = [
            stack.enter_context(RedisProcess(REDIS["valkey"], *options, "--cluster-port", str(bus))) for bus in buses
        ]
        clients = [stack.enter_context(node.client()) for node in nodes]
        for number, client in enumerate(clients):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])

        def is_ready() -> bool:
            return all(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for client in clients)

        wait_for(is_ready)
        yield nodes


@pytest.fixture
def cluster_url(cluster: list[RedisProcess]) -> Iterator[str]:
    """The URL of a Cluster, with a prefix of the test's own and a short lease."""
    prefix = os.urandom(4).hex()
    yield f"redis+cluster://127.0.0.1:{cluster[0].port},127.0.0.1:{cluster[1].port}?prefix={prefix}&lease=1.5"
    for node in cluster:
        assert endless_keys(node, prefix) == []


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisProcess]]:
    """A function that starts a server of one's own, by default of Valkey; options are those of `RedisProcess`."""
    with ExitStack() as servers:

        def start(*options: str, kind: str = "valkey", **more: Any) -> RedisProcess:
            server = servers.enter_context(RedisProcess(REDIS[kind], *options, **more))
            servers.callback(check_keys, server)
            return server

        yield start


def check_keys(server: RedisProcess) -> None:
    """Fail if a server has keys that live for ever and should not; one that is dead or keeps them secret has none."""
    with suppress(redis.RedisError):
        assert endless_keys(server, "tusd-py") == []


def endless_keys(server: RedisProcess, prefix: str) -> list[str]:
    """Return the keys of ours that live for ever and should not: all but indexes and records of what is finished."""
    found = []
    for key in server.without_end(f"{prefix}:*"):
        kind = key.split(":")[2]
        if kind in INDEXES:
            continue
        if kind == "upload":
            with server.client() as client:
                record = msgspec.json.decode(client.hget(key, "record"))
            if record["status"] in ("checking", "accepted", "quarantined") and record["expires_at"] is None:
                continue
        found.append(key)
    return found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The paths of a key and of a certificate for localhost that it has signed itself."""
    folder = tmp_path_factory.mktemp("certificate")
    files = {"key": str(folder / "key.pem"), "cert": str(folder / "cert.pem")}
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command_line = [*command.split(), *names, "-keyout", files["key"], "-out", files["cert"]]
    subprocess.run(command_line, check=True, capture_output=True)
    return files
