"""Starts tus servers, and reads what they cost from /proc."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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

    def cpu(self) -> float:
        """Return user and system seconds of all its processes so far."""
        return sum(_cpu_of(pid) for pid in self.pids())

    def peak_memory(self) -> int:
        """Return the sum of the highest resident sizes of its processes in bytes."""
        return sum(_status_of(pid, "VmHWM") for pid in self.pids())

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


def _status_of(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def command(name: str, directory: Path, port: int, workers: int = 1) -> list[str]:
    """Return how a server is started."""
    match name:
        case "tusd-py":
            return [
                sys.executable, "-m", "tusd_py", "serve", "--port", str(port), "--upload-dir", str(directory),
                "--log-level", "warning", "--create-rate", "0", "--workers", str(workers),
            ]  # fmt: skip
        case "@tus/server":
            return ["node", str(PEERS / "node" / "server.mjs"), str(port), str(directory)]
        case "tuspyserver":
            return [
                str(PEERS / "python" / "bin" / "uvicorn"), "--app-dir", str(HERE), "peer_tuspyserver:app",
                "--port", str(port), "--log-level", "warning", "--no-access-log",
            ]  # fmt: skip
    raise ValueError(name)


@contextlib.contextmanager
def running(name: str, root: Path, workers: int = 1) -> Iterator[Running]:
    """Start a server with an empty directory, and stop it."""
    directory = root / name.strip("@").replace("/", "-")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "TUS_DIRECTORY": str(directory)}
    with (root / f"{directory.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command(name, directory, port, workers), stdout=log, stderr=log, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}/files/"
    try:
        _wait_for(url, process, root / f"{directory.name}.log")
        yield Running(name, url, directory, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


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


def set_up_peers() -> list[str]:
    """Install the peers that this machine can run, and return their names; say which it cannot."""
    names = []
    if shutil.which("npm"):
        node = PEERS / "node"
        if not (node / "node_modules" / "@tus").exists():
            shutil.copytree(HERE / "peer_node", node, dirs_exist_ok=True)
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=node, check=True)
        names.append("@tus/server")
    else:
        print("left out: @tus/server (npm is not on the PATH)")
    python = PEERS / "python"
    if not (python / "bin" / "uvicorn").exists():
        subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
        requirements = HERE / "peer_requirements.txt"
        subprocess.run([str(python / "bin" / "pip"), "install", "-q", "-r", str(requirements)], check=True)
    return [*names, "tuspyserver"]
