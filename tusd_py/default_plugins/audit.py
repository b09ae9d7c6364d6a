"""The audit log: who did what to which upload, one JSON object a line, without headers and so without secrets."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import msgspec

from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Request, Response, Upload, Verdict

_ACTIONS = {"POST": "create", "PATCH": "append", "DELETE": "terminate", "GET": "read"}


class Audit:
    """Appends to a file; lines are written whole, so several processes can share it."""

    def __init__(self, path: str) -> None:
        """Write to the file at `path`, or to standard error for `-`."""
        self._fd = sys.stderr.fileno() if path == "-" else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    @hookimpl
    def post_request(self, request: Request, response: Response) -> None:
        """Write who asked for what, and with which result."""
        action = _ACTIONS.get(request.method)
        if action is None:
            return
        upload_id = request.upload_id or response.headers.get("Location", "").rpartition("/")[2] or None
        self._write(
            action,
            upload_id,
            path=request.path,
            identity=request.identity.name if request.identity else None,
            remote=request.remote,
            request=request.id,
            status=response.status,
            code=response.error,
        )

    @hookimpl
    def post_finish(self, upload: Upload) -> None:
        """Write that an upload was accepted."""
        self._write("finish", upload.id, owner=upload.owner, length=upload.length)

    @hookimpl
    def post_verdict(self, upload: Upload, verdict: Verdict) -> None:
        """Write what checks or an operator decided, and why."""
        self._write("verdict", upload.id, owner=upload.owner, status=upload.status.value, reasons=list(verdict.reasons))

    @hookimpl
    def post_terminate(self, upload: Upload) -> None:
        """Write that an upload ended without success, and why."""
        self._write(upload.status.value, upload.id, owner=upload.owner, reason=upload.reason)

    def _write(self, action: str, upload_id: str | None, **facts: object) -> None:
        known = {name: value for name, value in facts.items() if value is not None}
        line = {"at": datetime.now(UTC), "action": action, "upload": upload_id, **known}
        os.write(self._fd, msgspec.json.encode(line) + b"\n")
