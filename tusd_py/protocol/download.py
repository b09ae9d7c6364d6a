"""Download by GET: not part of the specification, but what its servers offer.

Whatever was uploaded must not become a page of this server's origin: only types that cannot run scripts are shown in
the browser, everything else is saved as a file, and a sandbox stands behind that.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import parsedate_to_datetime

from tusd_py.body import Body
from tusd_py.errors import PreconditionFailed, RangeNotSatisfiable
from tusd_py.headers import Headers, content_disposition, content_type, format_http_date, single
from tusd_py.models import Request, Response
from tusd_py.protocol.base import Core, Extension, Routes

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Download(Extension):
    """GET on an upload returns its bytes once they are accepted."""

    def routes(self, core: Core) -> Routes:
        """Add GET."""

        async def get(request: Request, body: Body) -> Response:
            assert request.upload_id is not None
            upload, content = await core.uploads.read(request, request.upload_id)
            etag, modified = f'"{upload.id}"', upload.finished_at or upload.updated_at
            headers = {
                "Content-Type": content_type(upload),
                "Content-Disposition": content_disposition(upload),
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": "sandbox; default-src 'none'",
                "Accept-Ranges": "bytes",
                "ETag": etag,
                "Last-Modified": format_http_date(modified),
                "Cache-Control": "private, no-cache",
            }
            if not _is_changed(request.headers, etag, modified):
                return Response(304, headers)
            span = byte_range(request.headers, content.size, etag, modified)
            if span is None:
                return Response(200, headers, content=content, span=(0, content.size))
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{content.size}"
            return Response(206, headers, content=content, span=span)

        return {("upload", "GET"): get}


def byte_range(headers: Headers, size: int, etag: str, modified: datetime) -> tuple[int, int] | None:
    """Return the one range `[start, stop)` that is asked for, or None for all (RFC 9110 section 14).

    Several ranges, other units and a range under an If-Range that does not hold are answered in full, as allowed.

    Raises:
        RangeNotSatisfiable: the range begins behind the end.
    """
    value = single(headers, "Range")
    match = _RANGE.fullmatch(value.replace(" ", "")) if value else None
    if match is None or (not match[1] and not match[2]):
        return None
    if (
        (condition := single(headers, "If-Range"))
        and condition != etag
        and _date(condition) != modified.replace(microsecond=0)
    ):
        return None
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < int(match[1]):
            return None
    if start >= size:
        raise RangeNotSatisfiable(f"the content has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, stop


def _is_changed(headers: Headers, etag: str, modified: datetime) -> bool:
    """Evaluate the preconditions in the order of RFC 9110 section 13.2.2."""
    modified = modified.replace(microsecond=0)
    if (wanted := headers.get("If-Match")) is not None:
        if not _matches(wanted, etag):
            raise PreconditionFailed("the content is not the one of If-Match")
    elif (since := _date(headers.get("If-Unmodified-Since"))) and modified > since:
        raise PreconditionFailed("the content is newer than If-Unmodified-Since")
    if (known := headers.get("If-None-Match")) is not None:
        return not _matches(known, etag)
    since = _date(headers.get("If-Modified-Since"))
    return not (since and modified <= since)


def _matches(value: str, etag: str) -> bool:
    return value.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in value.split(","))


def _date(value: str | None) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value) if value else None
    except (TypeError, ValueError):
        return None
    return parsed if parsed and parsed.tzinfo else None
