"""What other processes get of stored bytes, and copies on the disk."""

import asyncio
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tusd_py.content import Spool, StoredFile, disk_for_copies, kind_of
from tusd_py.errors import Forbidden, StorageFull
from tusd_py.guarded import GuardedContent

DATA = b"01234" * 1000


def opened() -> io.BytesIO:
    return io.BytesIO(DATA)


def test_a_copy_is_there_for_as_long(tmp_path: Path) -> None:
    """It is where the setting says, and gone when it is no longer needed, also after an error."""
    with Spool(str(tmp_path)).copied(opened, len(DATA)) as path:
        assert path.parent == tmp_path
        assert path.read_bytes() == DATA
        assert path.stat().st_mode & 0o77 == 0
    with pytest.raises(ZeroDivisionError), Spool(str(tmp_path)).copied(opened, len(DATA)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("most", "folder", "size", "said"),
    [
        (4999, ".", 5000, r"it has 5000 bytes, and 4999 may be copied to the disk \(spool_size\)"),
        (None, "missing", 5000, r"nothing can be copied to the disk \(spool_dir\): No such file"),
        (None, ".", 10**18, r"it has 10{18} bytes, and the disk \(spool_dir\) has room for \d+"),
    ],
)
def test_a_copy_that_does_not_fit(tmp_path: Path, most: int | None, folder: str, size: int, said: str) -> None:
    """Nothing is copied that is larger than it may be or than the disk has room for, and the reason is told."""
    with pytest.raises(StorageFull, match=said), Spool(str(tmp_path / folder), most).copied(opened, size):
        pass
    assert list(tmp_path.iterdir()) == []


def test_never_in_memory_by_accident() -> None:
    """A directory for temporary files that is in memory is passed over, and taken only if the setting says so."""
    assert kind_of(Path("/dev/shm")) == "tmpfs"
    program = "from tusd_py.content import *; print(disk_for_copies())"
    environment = {"TMPDIR": "/dev/shm", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert kind_of(Path(ran.stdout.strip())) != "tmpfs"
    assert kind_of(disk_for_copies()) != "tmpfs"
    with Spool("/dev/shm").copied(opened, len(DATA)) as path:
        assert path.parent == Path("/dev/shm")


async def test_guarded(tmp_path: Path) -> None:
    """Once the upload has left its stage, nothing new is given away."""
    path = tmp_path / "a"
    path.write_bytes(DATA)
    refusal: list[Forbidden] = []

    async def permit() -> None:
        if refusal:
            raise refusal[0]

    content = GuardedContent(StoredFile.at(path), permit)  # type: ignore[arg-type]

    def paths() -> Path:
        with content.on_disk() as where:
            return where

    given = await asyncio.to_thread(lambda: pickle.loads(pickle.dumps(content)))
    assert given == StoredFile(path, len(DATA))
    assert given.url == path.as_uri()
    assert await asyncio.to_thread(paths) == path
    refusal.append(Forbidden("the upload was checking and is quarantined now"))
    for work in (content.open, paths, lambda: pickle.dumps(content)):
        with pytest.raises(Forbidden):
            await asyncio.to_thread(work)
    with pytest.raises(RuntimeError, match="in a thread"):
        content.open()
