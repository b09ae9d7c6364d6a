"""Real clients, each in a process of its own, so that none of them can stop the suite.

A client gets a task as one JSON object on its standard input, where nobody else reads what is secret in it, and prints
one JSON object per line: `created` with the URL of each upload it made, and `paused`, `terminated` or `finished` with
that of the whole.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tus_conformance.server import Failed, Server, Skipped

_INSTALL_SECONDS = 300
_FOLDER = resources.files(__name__)


def tuspy(server: Server, task: Mapping[str, Any]) -> dict[str, str]:
    """Let tuspy do a task; return the last URL of each thing it told."""
    return _run([sys.executable, "-P", "-m", f"{__name__}.with_tuspy"], server, task)


def tus_js_client(server: Server, task: Mapping[str, Any]) -> dict[str, str]:
    """Let tus-js-client do a task; return the last URL of each thing it told.

    Raises:
        Skipped: there is no Node.js, or the client could not be installed.
    """
    packages = _installed()
    if isinstance(packages, str):
        raise Skipped(packages)
    with resources.as_file(_FOLDER / "with_tus_js_client.mjs") as script:
        return _run(["node", str(script)], server, {**task, "packages": str(packages)})


def _run(command: Sequence[str], server: Server, task: Mapping[str, Any]) -> dict[str, str]:
    headers, metadata = dict(server.options.headers), dict(server.options.metadata)
    given = {"endpoint": server.url, "headers": headers, "metadata": metadata, **task}
    # The suite's own connections take no detour, so clients do not either.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    seconds = 6 * server.options.timeout
    client = subprocess.Popen(  # noqa: S603 - the command is one of the two above
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        output, errors = client.communicate(json.dumps(given), timeout=seconds)
    except subprocess.TimeoutExpired:
        client.kill()
        output, errors = client.communicate()
        errors += f"\nit had not finished after {seconds:g} seconds"
    told: dict[str, str] = {}
    for line in output.splitlines():
        event = json.loads(line)
        told.update(event)
        if "created" in event:
            server.created.append(event["created"])
    if client.returncode:
        raise Failed("that the client succeeds", errors.strip().splitlines()[-1] if errors.strip() else "an error")
    return told


@cache
def _installed() -> Path | str:
    """Return the folder with the packages of package-lock.json, or why there is none.

    They are installed once, into the user's cache.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "node and npm are not on the PATH"
    wanted = json.loads((_FOLDER / "package.json").read_text())["dependencies"]["tus-js-client"]
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tus-conformance"
    folder = cache_folder / f"tus-js-client-{wanted}"
    if (folder / "node_modules").is_dir():
        return folder
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder) as name:
            for file in ("package.json", "package-lock.json"):
                Path(name, file).write_text((_FOLDER / file).read_text())
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            result = subprocess.run(  # noqa: S603 - npm installs what the lock file of this package names
                command, cwd=name, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS
            )
            if result.returncode:
                errors = [line for line in result.stderr.splitlines() if line.startswith("npm error")]
                return "tus-js-client could not be installed: " + "; ".join(errors[:2] or ["npm ci failed"])
            # Only now the folder gets its name, so that one that has it is whole.
            os.replace(Path(name, "node_modules"), _made(folder) / "node_modules")
    except (OSError, subprocess.SubprocessError) as error:
        if not (folder / "node_modules").is_dir():  # another process may have been quicker
            return f"tus-js-client could not be installed: {error}"
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
