"""Where an upload's bytes are, as pure functions: at home, or apart as long as no check has accepted them.

What `Upload.storage` says of it: `path` is where the bytes are, and `home` where they belong once they are accepted, if
that is another place. While they are moved, `moving` is where they will be, and there may or may not be a copy of them,
or another's; then that is `path`, and `left` is where they were, and a copy of them may still be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from tusd_py.errors import Forbidden
from tusd_py.models import Status, Upload


def born(storage: Mapping[str, str], prefix: str | None, *, is_checked: bool) -> dict[str, str]:
    """Return what a store is told of the place of a new upload: `under` which prefix it has to be.

    Raises:
        Forbidden: a plugin chose a path that is kept for what is not accepted.
    """
    if prefix and "path" in storage and PurePosixPath(storage["path"]).is_relative_to(prefix):
        raise Forbidden(f"a plugin chose a path below {prefix}/, which is kept for what no check has accepted yet")
    return {**storage, "under": prefix} if prefix and is_checked else {**storage}


def first(storage: Mapping[str, str], own: str) -> dict[str, str]:
    """Return what the record of a new upload says, whose bytes go to the path `own` if no plugin chose another."""
    path = storage.get("path", own)
    return {"path": f"{storage['under']}/{path}", "home": path} if "under" in storage else {"path": path}


def due(upload: Upload, status: Status, prefix: str | None) -> str | None:
    """Return the path at which the bytes have to be before the upload gets a status, or None if they are there."""
    home = upload.storage.get("home")
    # A part of a concatenation is never accepted by itself, so it stays where it was made.
    if upload.is_partial:
        return None
    if status is Status.ACCEPTED:
        return home
    return f"{prefix}/{upload.storage.get('path', upload.id)}" if prefix and home is None else None


def moving(upload: Upload, path: str) -> Upload:
    """Return the record that says that the bytes will be at `path`."""
    return upload.changed(storage={**upload.storage, "moving": path})


def moved(upload: Upload, path: str) -> Upload:
    """Return the record that says that the bytes are at `path`; where they were is left."""
    former = upload.storage.get("path", upload.id)
    rest = {name: value for name, value in upload.storage.items() if name not in ("home", "left", "moving")}
    home = {} if upload.storage.get("home") == path else {"home": former}
    return upload.changed(storage={**rest, **home, "path": path, "left": former})


def is_settled(upload: Upload) -> bool:
    """Whether there is no other place than `path` with bytes of the upload."""
    return not upload.storage.keys() & {"left", "moving"}


def settled(upload: Upload) -> Upload:
    """Return the record that says so."""
    storage = {name: value for name, value in upload.storage.items() if name not in ("left", "moving")}
    return upload.changed(storage=storage)
