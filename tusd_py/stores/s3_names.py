"""The names of an upload's objects, and what names tell."""

from __future__ import annotations

import re

from tusd_py.errors import Forbidden
from tusd_py.models import UPLOAD_ID, Upload, now

MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 255
"""SeaweedFS takes no more between two slashes."""
_MANIFEST, _TAIL, _UNVERIFIED = ".info", ".tail", ".unverified"


class Names:
    """Keys under one prefix."""

    def __init__(self, prefix: str, form: str, quarantine: str | None = None) -> None:
        """Give objects keys of a form with `{id}` and maybe `{date}`, in quarantine or not."""
        self._prefix = prefix
        self._form = form
        before, _, after = (re.escape(part).replace(r"\{date\}", r"[\d/]{10}") for part in form.partition("{id}"))
        apart = f"(?:{re.escape(quarantine)}/)?" if quarantine else ""
        self._pattern = re.compile(f"{apart}{before}({UPLOAD_ID.pattern}){after}", re.ASCII)

    def path_of(self, upload: Upload) -> str:
        """Return where a new upload's object is to be, behind the prefix."""
        return self._form.format(id=upload.id, date=now().strftime("%Y/%m/%d"))

    def key(self, upload: Upload) -> str:
        """Return the key of an upload's object.

        Raises:
            Forbidden: it is one of the server's own objects, or one that not every storage takes.
        """
        return self.at(upload, upload.storage["path"])

    def at(self, upload: Upload, path: str) -> str:
        """Return the key that the upload's object has at another path.

        Raises:
            Forbidden: as for `key`.
        """
        parts = path.split("/")
        # A path comes from a plugin or from a manifest; neither may lead to our own objects.
        if any(not part or part in (".", "..") or not part.isprintable() for part in parts):
            raise Forbidden(f"the key of upload {upload.id} is not one that every storage takes")
        taken = len(parts) == 1 and parts[0] != upload.id and UPLOAD_ID.fullmatch(parts[0])
        if taken or parts[0].startswith(".") or any(part.endswith((_MANIFEST, _TAIL, _UNVERIFIED)) for part in parts):
            raise Forbidden(f"the key {path!r} is kept for the server's own objects; use a folder")
        key = self._prefix + path
        if len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
            raise Forbidden(f"the key of upload {upload.id} is too long")
        return key

    def manifest(self, upload_id: str) -> str:
        """Return the key of an upload's manifest."""
        return f"{self._prefix}{upload_id}{_MANIFEST}"

    def segments(self, upload_id: str, *, verified: bool = True) -> str:
        """Return what the keys of an upload's segments begin with."""
        return f"{self._prefix}{upload_id}{_TAIL if verified else _UNVERIFIED}/"

    def id_of(self, key: str) -> str | None:
        """Return the id in the key of an object; keys of another form are left alone, they may be anybody's."""
        match = self._pattern.fullmatch(key[len(self._prefix) :])
        return match[1] if match else None

    def owner_of(self, folder: str) -> tuple[str, bool] | None:
        """Return whose segments are in a folder, and whether they are verified, or None if it is another folder."""
        name, dot, kind = folder[len(self._prefix) :].removesuffix("/").rpartition(".")
        if dot + kind not in (_TAIL, _UNVERIFIED) or not UPLOAD_ID.fullmatch(name):
            return None
        return name, dot + kind == _TAIL
