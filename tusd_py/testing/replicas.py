"""The services of a Compose file as processes of this machine: what would run in containers, without Docker.

    with Replicas(Path("deploy/docker-compose.yml")) as replicas:
        requests.options(replicas.url)

The file stays the only place that says what is started, with which settings, and in which order. What containers have
and processes have not is put in its place: addresses of services become free ports of the loopback interface, volumes
become folders below a temporary one, and secrets are made up. Images are not used: `COMMANDS` stands in for their entry
points. Of the Compose specification this understands what deploy/docker-compose.yml says.
"""

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML

from tusd_py.testing.redis import valkey_binary

COMMANDS: Mapping[str, list[str]] = {
    "tusd-py": [sys.executable, "-P", "-m", "tusd_py"],
    "chrislusf/seaweedfs": [str(Path(sysconfig.get_path("scripts"), "weed"))],
}
"""What the entry point of an image puts before a service's command."""
START_SECONDS = 60
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")


class ReplicasError(Exception):
    """A service did not start; the message holds everything it printed."""


class Service:
    """One service as a process. It can be stopped, killed, and started again at the same address."""

    def __init__(self, name: str, spec: Mapping[str, Any], folder: Path, port: int = 0) -> None:
        """Keep everything below `folder`, listen on `port`; `connect` has to be called before it can be started."""
        self.name = name
        self.spec = spec
        self.ports = {inside: port or free_port() for inside in spec["expose"]}
        """Ports of this machine by those of the container, the first of which is the one that others use."""
        self._log = folder / f"{name}.log"
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._health = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._places = {"0.0.0.0": "127.0.0.1"} | {port: str(own) for port, own in self.ports.items()}  # noqa: S104
        for volume in [*spec.get("volumes", []), *spec.get("tmpfs", [])]:
            inside = next(part for part in volume.split(":") if part.startswith("/"))
            if not volume.startswith("."):
                self._places[inside] = str(folder / name / inside.strip("/"))
                Path(self._places[inside]).mkdir(parents=True)

    @property
    def address(self) -> str:
        """Host and port where others find it."""
        return f"127.0.0.1:{next(iter(self.ports.values()))}"

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def connect(self, others: Mapping[str, str], directory: Path) -> None:
        """Put addresses and folders of this machine into command and environment.

        `others` are addresses of this machine by what the file calls them; paths are relative to `directory`.
        """
        places = {**others, **self._places}
        longest_first = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        known = re.compile(rf"(?<![\w.])(?:{longest_first})(?![\w.-])")

        def here(text: str) -> str:
            return known.sub(lambda found: places[found[0]], text)

        self._environment = {name: here(value) for name, value in self.spec.get("environment", {}).items()}
        program, *arguments = COMMANDS.get(self.spec["image"].partition(":")[0], []) + self.spec["command"]
        program = valkey_binary() if program == "valkey-server" else program
        # Not only root's PATH should do.
        found = shutil.which(program, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"]))
        if found is None:
            raise ReplicasError(f"{self.name}: {program} is not installed")
        self._command = [found, *map(here, arguments)]
        self._health = next(iter(re.findall(r"http://[^\s\"']+", here(str(self.spec["healthcheck"]["test"])))), "")
        for source, target, *_ in (volume.split(":") for volume in self.spec.get("volumes", [])):
            if target.startswith("/etc/nginx/templates/"):
                # As the entry point of nginx's image does.
                text = (directory / source).read_text()
                text = re.sub(r"\$\{([A-Z_]+)\}", lambda found: self._environment[found[1]], text)
                Path(self._environment["NGINX_ENVSUBST_OUTPUT_DIR"], Path(target).stem).write_text(text)

    def start(self) -> None:
        """Start it, and do not wait."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        with self._log.open("ab") as log:
            output: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # A session of its own: Ctrl-C is for the one who started it all.
            self._process = subprocess.Popen(  # noqa: S603 - what the file says
                self._command, env=inherited | self._environment, start_new_session=True, **output
            )

    def wait(self) -> None:
        """Return when it can be used: when the URL of its health check answers, or its port if there is none.

        Raises:
            ReplicasError: it ended, or took too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.is_running or time.monotonic() > deadline:
                raise ReplicasError(f"{self.name} did not start:\n{self.output()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            if self._health:
                with urllib.request.urlopen(self._health, timeout=5) as answer:  # noqa: S310 - of the file
                    return bool(answer.status == 200)
            host, _, port = self.address.partition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
            return True
        return False

    def terminate(self) -> None:
        """Ask it to stop, as Compose does."""
        assert self._process is not None
        self._process.send_signal(getattr(signal, self.spec.get("stop_signal", "SIGTERM")))

    def stop(self) -> int:
        """Stop it and return its exit code; it is killed when its time to stop is over."""
        if self.is_running:
            self.terminate()
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(float(self.spec["stop_grace_period"].removesuffix("s")))
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End it and its children by SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def output(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(errors="replace")


class Replicas:
    """The services of a file, started in its order by `with`, and stopped in the opposite one."""

    def __init__(
        self, file: Path, port: int = 0, variables: Mapping[str, str] | None = None, profiles: Collection[str] = ()
    ) -> None:
        """Take what the file leaves open from `variables`; `port` is the one for clients, a free one by default.

        Services that have profiles are started if one of those is in `profiles`.
        """
        self._file = file
        self._profiles = frozenset(profiles)
        self._port = port
        self._variables = {**(variables or {})}
        self._stack = contextlib.ExitStack()
        self.services: dict[str, Service] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tusd-py-replicas-")))
            spec = YAML(typ="safe").load(self._filled(self._file.read_text()))
            for name, service in spec["services"].items():
                if "profiles" in service and self._profiles.isdisjoint(service["profiles"]):
                    continue
                given = service.get("environment", {})
                known = {name: self._variables.get(name) if value is None else value for name, value in given.items()}
                service["environment"] = {name: str(value) for name, value in known.items() if value is not None}
                port = self._port if "ports" in service else 0
                self.services[name] = Service(name, service, folder, port)
            addresses: dict[str, str] = {}
            for name, service in self.services.items():
                addresses |= {f"{name}:{port}": f"127.0.0.1:{own}" for port, own in service.ports.items()}
                if own := service.spec.get("networks", {}).get("default", {}).get("ipv4_address"):
                    addresses[own] = "127.0.0.1"
            for service in self.services.values():
                service.connect(addresses, self._file.parent)
            for service in self.services.values():
                for needed in service.spec.get("depends_on", {}):
                    self.services[needed].wait()
                stack.callback(service.kill)
                service.start()
            for service in self.services.values():
                service.wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            for service in reversed(self.services.values()):
                service.stop()

    @property
    def url(self) -> str:
        """Where clients create uploads."""
        return f"http://{self._public().address}/files/"

    @property
    def replicas(self) -> list[Service]:
        """The servers of ours."""
        return [
            service
            for service in self.services.values()
            if service.spec["image"].startswith("tusd-py:") and service.spec["command"][0] == "serve"
        ]

    def _public(self) -> Service:
        return next(service for service in self.services.values() if "ports" in service.spec)

    def _filled(self, text: str) -> str:
        """Fill in variables: those that have no default are secrets."""

        def value(found: re.Match[str]) -> str:
            name, kind, default = found.groups()
            if name is None:
                return "$"
            if kind == "?":
                return self._variables.setdefault(name, secrets.token_hex(16))
            return self._variables.get(name, default)

        return _VARIABLE.sub(value, text)


def free_port() -> int:
    """Return a free port whose number plus 10,000 is free too, for SeaweedFS takes that as well.

    Both are below those that the system gives to outgoing connections, so that none of these takes it meanwhile.
    """
    while True:
        port = random.randrange(10_000, 22_000)  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port
