"""Versity's gateway over a folder, built by Go from the versions that `versitygw/go.mod` names."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from missing import Missing

from tusd_py.testing.redis import free_port
from tusd_py.testing.s3 import ACCESS_KEY, READER_KEY, READER_SECRET_KEY, SECRET_KEY, S3Process

MODULE = Path(__file__).parent / "versitygw"
BUILT = Path(__file__).parent / ".built"
PROGRAM = BUILT / "versitygw"


class VersityGateway(S3Process):
    """Versity's gateway, which keeps objects as files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "versitygw", free_port())

    def command(self) -> list[str]:
        for name in ("objects", "users"):
            (self.folder / name).mkdir(exist_ok=True)
        place = ["--port", f"127.0.0.1:{self.port}", "--iam-dir", str(self.folder / "users")]
        return [str(PROGRAM), *place, "posix", str(self.folder / "objects")]

    def start(self) -> None:
        super().start()
        admin = [str(PROGRAM), "admin", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--endpoint-url", self.endpoint]
        user = ["create-user", "--access", READER_KEY, "--secret", READER_SECRET_KEY, "--role", "user"]
        subprocess.run([*admin, *user], check=True, capture_output=True)

    def environment(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}


def set_up() -> None:
    """Build it, unless that was done.

    Raises:
        Missing: there is no Go, or it could not build it.
    """
    go = shutil.which("go")
    if go is None:
        raise Missing("go is not on the PATH")
    shutil.copytree(MODULE, BUILT, dirs_exist_ok=True)
    # `go install ...@v1.7.0` would ask for the list of all versions as well, which not every proxy gives.
    command = [go, "build", "-mod=mod", "-o", PROGRAM.name, "github.com/versity/versitygw/cmd/versitygw"]
    done = subprocess.run(command, cwd=BUILT, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"go build: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
