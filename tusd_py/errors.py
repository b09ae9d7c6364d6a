"""Every error the server answers with, one class per kind.

::

    TusError                        500 ERR_INTERNAL
    ├── InvalidRequest              400 ERR_INVALID_REQUEST
    │   ├── InvalidLength           400 ERR_INVALID_UPLOAD_LENGTH
    │   ├── InvalidOffset           400 ERR_INVALID_OFFSET
    │   ├── InvalidMetadata         400 ERR_INVALID_METADATA
    │   ├── InvalidConcat           400 ERR_INVALID_CONCAT
    │   ├── InvalidChecksum         400 ERR_INVALID_CHECKSUM
    │   └── UnexpectedEnd           400 ERR_UNEXPECTED_EOF
    ├── Unauthenticated             401 ERR_UNAUTHENTICATED
    ├── Forbidden                   403 ERR_FORBIDDEN
    │   └── FinalIsImmutable        403 ERR_MODIFY_FINAL
    ├── NotFound                    404 ERR_UPLOAD_NOT_FOUND
    │   └── NotFinished             404 ERR_UPLOAD_NOT_FINISHED
    ├── MethodNotAllowed            405 ERR_METHOD_NOT_ALLOWED
    ├── OffsetMismatch              409 ERR_MISMATCHED_OFFSET
    ├── AlreadyExists               409 ERR_UPLOAD_EXISTS
    ├── Gone                        410 ERR_UPLOAD_GONE
    ├── PreconditionFailed          412 ERR_PRECONDITION_FAILED
    │   └── UnsupportedVersion      412 ERR_UNSUPPORTED_VERSION
    ├── TooLarge                    413 ERR_MAX_SIZE_EXCEEDED
    │   └── SizeExceeded            413 ERR_UPLOAD_SIZE_EXCEEDED
    ├── InvalidContentType          415 ERR_INVALID_CONTENT_TYPE
    ├── RangeNotSatisfiable         416 ERR_RANGE_NOT_SATISFIABLE
    ├── Locked                      423 ERR_UPLOAD_LOCKED
    │   └── Interrupted             423 ERR_UPLOAD_INTERRUPTED
    ├── QuotaExceeded               429 ERR_QUOTA_EXCEEDED
    ├── Reject                      4xx ERR_UPLOAD_REJECTED       (raised by plugins)
    ├── ChecksumMismatch            460 ERR_CHECKSUM_MISMATCH
    ├── HookFailed                  500 ERR_HOOK_FAILED
    ├── Unavailable                 503 ERR_UNAVAILABLE
    │   ├── HookTimeout             503 ERR_HOOK_TIMEOUT
    │   ├── ReadTimeout             503 ERR_READ_TIMEOUT
    │   ├── ShuttingDown            503 ERR_SERVER_SHUTDOWN
    │   ├── Fenced                  503 ERR_LOCK_LOST
    │   └── StoreUnavailable        503 ERR_STORE_UNAVAILABLE
    └── StorageFull                 507 ERR_STORAGE_FULL

Codes are tusd's where tusd has one. Statuses follow what clients retry: tus-js-client repeats a request on 409, 423
and 5xx, and takes every other 4xx as final.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

RETRY_AFTER_SECONDS = "2"


class TusError(Exception):
    """An error with an HTTP status, a stable code, a sentence for the client, and response headers."""

    status: int = 500
    code: str = "ERR_INTERNAL"
    message: str = "the server could not process the request"

    def __init__(self, message: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Take the sentence that names what is wrong, and headers that belong to the answer."""
        self.message = message or type(self).message
        self.headers: dict[str, str] = dict(headers or {})
        super().__init__(self.message)


class InvalidRequest(TusError):
    """The request breaks a rule of the protocol."""

    status, code, message = 400, "ERR_INVALID_REQUEST", "the request is not valid"


class InvalidLength(InvalidRequest):
    """Upload-Length or Upload-Defer-Length is missing, malformed or contradicts the upload."""

    code, message = "ERR_INVALID_UPLOAD_LENGTH", "missing or invalid Upload-Length header"


class InvalidOffset(InvalidRequest):
    """Upload-Offset is missing or malformed."""

    code, message = "ERR_INVALID_OFFSET", "missing or invalid Upload-Offset header"


class InvalidMetadata(InvalidRequest):
    """Upload-Metadata does not follow the grammar of the specification or is too large."""

    code, message = "ERR_INVALID_METADATA", "invalid Upload-Metadata header"


class InvalidConcat(InvalidRequest):
    """Upload-Concat is malformed or names uploads that cannot be concatenated."""

    code, message = "ERR_INVALID_CONCAT", "invalid Upload-Concat header"


class InvalidChecksum(InvalidRequest):
    """Upload-Checksum is malformed or names an algorithm that the server does not have."""

    code, message = "ERR_INVALID_CHECKSUM", "invalid Upload-Checksum header"


class UnexpectedEnd(InvalidRequest):
    """The request body ended before the length that was announced for it."""

    code, message = "ERR_UNEXPECTED_EOF", "the request body ended too early"


class Unauthenticated(TusError):
    """Credentials are missing or wrong."""

    status, code, message = 401, "ERR_UNAUTHENTICATED", "valid credentials are required"


class Forbidden(TusError):
    """The caller may not do this."""

    status, code, message = 403, "ERR_FORBIDDEN", "this is not allowed"


class FinalIsImmutable(Forbidden):
    """A concatenated upload cannot be changed."""

    code, message = "ERR_MODIFY_FINAL", "modifying a final upload is not allowed"


class NotFound(TusError):
    """There is no such upload."""

    status, code, message = 404, "ERR_UPLOAD_NOT_FOUND", "upload not found"


class NotFinished(NotFound):
    """The upload exists but is not complete, so it has no content to give."""

    code, message = "ERR_UPLOAD_NOT_FINISHED", "the upload is not finished yet"


class MethodNotAllowed(TusError):
    """The resource does not have this method; `Allow` names those it has."""

    status, code, message = 405, "ERR_METHOD_NOT_ALLOWED", "method not allowed"


class OffsetMismatch(TusError):
    """Upload-Offset is not the offset of the upload; the answer carries the right one."""

    status, code, message = 409, "ERR_MISMATCHED_OFFSET", "mismatched offset"


class AlreadyExists(TusError):
    """An upload with this id, or another upload's file at this path, exists."""

    status, code, message = 409, "ERR_UPLOAD_EXISTS", "an upload with this id exists"


class Gone(TusError):
    """The upload was there and is no more: terminated, expired, rejected or lost."""

    status, code, message = 410, "ERR_UPLOAD_GONE", "the upload is gone"


class PreconditionFailed(TusError):
    """A conditional request's condition does not hold (RFC 9110 section 13)."""

    status, code, message = 412, "ERR_PRECONDITION_FAILED", "a precondition of the request does not hold"


class UnsupportedVersion(PreconditionFailed):
    """Tus-Resumable is missing or names a version that the server does not speak."""

    code, message = "ERR_UNSUPPORTED_VERSION", "missing, invalid or unsupported Tus-Resumable header"


class TooLarge(TusError):
    """The upload would be larger than the server takes."""

    status, code, message = 413, "ERR_MAX_SIZE_EXCEEDED", "maximum size exceeded"


class SizeExceeded(TooLarge):
    """The request carries more bytes than the upload has left."""

    code, message = "ERR_UPLOAD_SIZE_EXCEEDED", "upload's size exceeded"


class InvalidContentType(TusError):
    """The body's Content-Type is not the one of the protocol."""

    status, code, message = 415, "ERR_INVALID_CONTENT_TYPE", "missing or invalid Content-Type header"


class RangeNotSatisfiable(TusError):
    """The requested range lies outside the content."""

    status, code, message = 416, "ERR_RANGE_NOT_SATISFIABLE", "the requested range is outside the content"


class Locked(TusError):
    """Another request works on the upload and did not let go in time."""

    status, code, message = 423, "ERR_UPLOAD_LOCKED", "another request works on this upload; try again"


class Interrupted(Locked):
    """A newer request for the same upload asked this one to stop; what arrived is kept."""

    code, message = (
        "ERR_UPLOAD_INTERRUPTED",
        "a newer request for this upload took over; what arrived is kept",
    )


class QuotaExceeded(TusError):
    """The caller has announced as many bytes as it may for today; clients take it as final, for hours will pass."""

    status, code, message = 429, "ERR_QUOTA_EXCEEDED", "the quota for today is used up"


class Reject(TusError):
    """Raised by a plugin to refuse a request or an upload for good.

    Example::

        raise Reject("only Parquet files are taken here", status=415)
    """

    status, code, message = 422, "ERR_UPLOAD_REJECTED", "the upload was rejected"

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int = 422,
        code: str = "ERR_UPLOAD_REJECTED",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the reason for the client; `status` is a 4xx, which clients take as final."""
        if not 400 <= status < 500:
            raise ValueError(f"Reject.status is a 4xx, not {status}: clients repeat requests that got a 5xx")
        super().__init__(message, headers)
        self.status = status
        self.code = code


class ChecksumMismatch(TusError):
    """The body's digest is not the one announced; its bytes were discarded."""

    status, code, message = (
        460,
        "ERR_CHECKSUM_MISMATCH",
        "the checksum does not match; the chunk was discarded",
    )


class HookFailed(TusError):
    """A plugin failed with an exception that is not a refusal."""

    code, message = "ERR_HOOK_FAILED", "a plugin of this server failed"


class Unavailable(TusError):
    """The server cannot do this now; the same request may succeed later."""

    status, code, message = 503, "ERR_UNAVAILABLE", "the server cannot do this now; try again"

    def __init__(self, message: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Add Retry-After to the given headers."""
        super().__init__(message, {"Retry-After": RETRY_AFTER_SECONDS, **(headers or {})})


class HookTimeout(Unavailable):
    """A plugin did not answer within its time-out."""

    code, message = "ERR_HOOK_TIMEOUT", "a plugin of this server did not answer in time"


class ReadTimeout(Unavailable):
    """No byte of the body arrived for the length of the read time-out; what arrived is kept."""

    code, message = "ERR_READ_TIMEOUT", "no data arrived in time; what arrived is kept"


class ShuttingDown(Unavailable):
    """The server stops; what arrived is kept."""

    code, message = "ERR_SERVER_SHUTDOWN", "the server is shutting down; what arrived is kept"


class Fenced(Unavailable):
    """A newer holder of the upload's lock has written since, so this writer changes nothing."""

    code, message = "ERR_LOCK_LOST", "the upload's lock was lost to a newer request"


class StoreUnavailable(Unavailable):
    """The storage does not answer or refuses to work."""

    code, message = "ERR_STORE_UNAVAILABLE", "the storage is not available now; try again"


class StorageFull(TusError):
    """There is no space left; everything acknowledged is intact."""

    status, code, message = (
        507,
        "ERR_STORAGE_FULL",
        "no space left in the storage; what was acknowledged is kept",
    )

    def __init__(self, message: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Add Retry-After to the given headers."""
        super().__init__(message, {"Retry-After": RETRY_AFTER_SECONDS, **(headers or {})})


def from_os_error(error: OSError) -> TusError:
    """Translate an error of the operating system into one for the client, without paths."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoreUnavailable("the server has too many open files; try again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreUnavailable("the storage is read-only for this server; an operator has to mend that")
    return StoreUnavailable(f"the storage failed ({errno.errorcode.get(error.errno or 0, 'unknown error')}); try again")
