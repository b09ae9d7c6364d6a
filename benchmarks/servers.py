"""Starts tus servers, and reads what they cost from /proc."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tusd_py.testing.s3 import BUCKET, ENVIRONMENT

HERE = Path(__file__).parent
PEERS = HERE / ".peers"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Running:
    """A server that runs."""

    name: str
    url: str
    directory: Path
    process: subprocess.Popen[bytes]
    log: Path

    def cpu(self) -> float:
        """Return user and system seconds of all its processes so far."""
        return sum(_cpu_of(pid) for pid in self.pids())

    def peak_memory(self) -> int:
        """Return the sum of the highest resident sizes of its processes in bytes."""
        return sum(peak_memory_of(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        """Return its processes."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory_of(pid: int) -> int:
    """Return the highest resident size of a process in bytes, or 0 if it has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def command(name: str, directory: Path, port: int, s3: str | None = None) -> list[str]:
    """Return how a server is started that keeps bytes in a directory, or in the bucket of an S3 service at a URL."""
    match name:
        case "tusd-py":
            return [
                sys.executable, "-m", "tusd_py", "serve", "--port", str(port), "--upload-dir", str(directory),
                "--log-level", "warning", "--create-rate", "0",
                *(["--store", f"s3://{BUCKET}", "--s3-endpoint", s3] if s3 else []),
            ]  # fmt: skip
        case "tusd":
            return [
                str(PEERS / "go" / "tusd"), "-host", "127.0.0.1", "-port", str(port), "-upload-dir", str(directory),
                "-verbose=false", *(["-s3-bucket", BUCKET, "-s3-endpoint", s3] if s3 else []),
            ]  # fmt: skip
        case "@tus/server":
            return ["node", str(PEERS / "node" / "server.mjs"), str(port), str(directory)]
        case "tuspyserver":
            return [
                str(PEERS / "python" / "bin" / "uvicorn"), "--app-dir", str(HERE), "peer_tuspyserver:app",
                "--port", str(port), "--log-level", "warning", "--no-access-log",
            ]  # fmt: skip
        case "resumable-upload" if s3:
            return [str(PEERS / "python" / "bin" / "python"), str(HERE / "peer_resumable_upload.py"), str(port)]
        case "resumable-upload":
            return [
                str(PEERS / "python" / "bin" / "resumable-upload"), "serve", "--host", "127.0.0.1",
                "--port", str(port), "--upload-dir", str(directory), "--db-path", str(directory / "uploads.db"),
                "--log-level", "WARNING",
            ]  # fmt: skip
    raise ValueError(name)


@contextlib.contextmanager
def running(name: str, root: Path, arguments: Sequence[str] = (), s3: str | None = None) -> Iterator[Running]:
    """Start a server with an empty directory and further arguments, and stop it; see `command`."""
    directory = root / name.strip("@").replace("/", "-")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Some put what they receive into temporary files, on the way to S3.
    environment = {**os.environ, "TUS_DIRECTORY": str(directory), "TMPDIR": str(directory)}
    if s3:
        environment |= s3_environment(s3)
    log_file = root / f"{directory.name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command(name, directory, port, s3), *arguments],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}/files/"
    try:
        _wait_for(url, process, log_file)
        yield Running(name, url, directory, process, log_file)
    except Exception as error:
        error.add_note(f"{name} said:\n{log_file.read_text()[-2000:]}")
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return what a process needs to find and to use the bucket."""
    region = ENVIRONMENT["AWS_DEFAULT_REGION"]
    return {**ENVIRONMENT, "AWS_REGION": region, "S3_ENDPOINT": endpoint, "S3_BUCKET": BUCKET}


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="OPTIONS"), timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer:\n{log.read_text()[-2000:]}")


class LeftOut(Exception):
    """This machine cannot set up a peer; the message says why."""


def set_up(name: str) -> None:
    """Install a peer, unless it is there.

    Raises:
        LeftOut: it cannot be installed here.
    """
    match name:
        case "tusd":
            directory = PEERS / "go"
            shutil.copytree(HERE / "peer_go", directory, dirs_exist_ok=True)
            # `go install ...@v2.10.0` would ask for the list of all versions as well, which not every proxy gives.
            _run("go", "build", "-mod=mod", "-o", "tusd", "github.com/tus/tusd/v2/cmd/tusd", directory=directory)
        case "s5cmd":
            directory = PEERS / "s5cmd"
            shutil.copytree(HERE / "peer_s5cmd", directory, dirs_exist_ok=True)
            _run("go", "build", "-mod=mod", "-o", "s5cmd", "github.com/peak/s5cmd/v2", directory=directory)
        case "@tus/server":
            directory = PEERS / "node"
            shutil.copytree(HERE / "peer_node", directory, dirs_exist_ok=True)
            if not (directory / "node_modules" / "@tus" / "s3-store").exists():
                _run("npm", "ci", "--no-audit", "--no-fund", "--silent", directory=directory)
        case "tuspyserver" | "resumable-upload" | "boto3":
            directory = PEERS / "python"
            if not (directory / "bin" / "pip").exists():
                _run(sys.executable, "-m", "venv", str(directory))
            pip = directory / "bin" / "pip"
            _run(str(pip), "install", "--quiet", "--disable-pip-version-check", "-r", "peer_requirements.txt")


def set_up_peers(*names: str) -> list[str]:
    """Install peers, and return those that this machine can run; say which it cannot."""
    found = []
    for name in names:
        try:
            set_up(name)
        except LeftOut as reason:
            print(f"left out: {name} ({reason})")
        else:
            found.append(name)
    return found


def _run(program: str, *arguments: str, directory: Path = HERE) -> None:
    if shutil.which(program) is None:
        raise LeftOut(f"{program} is not on the PATH")
    done = subprocess.run([program, *arguments], cwd=directory, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise LeftOut(f"{Path(program).name} {arguments[0]}: {lines[-1].strip()}")


def version(name: str) -> str:
    """Return the version of tusd-py, or the one at which a package of a peer is pinned."""
    if name == "tusd-py":
        return importlib.metadata.version(name)
    for pins in ("peer_go/go.mod", "peer_s5cmd/go.mod", "peer_node/package.json", "peer_requirements.txt"):
        if found := re.search(rf"(?<!\w){re.escape(name)}(?:==|\": \"|/v\d+ v)([\d.]+)", (HERE / pins).read_text()):
            return found[1]
    raise ValueError(name)
