"""One bucket behind one client: calls, the bodies that they send, and what their failures mean."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.handlers import add_expect_header
from botocore.httpsession import get_cert_path
from botocore.loaders import Loader, create_loader

from tusd_py.errors import AlreadyExists, Gone, StorageFull, StoreUnavailable, TusError
from tusd_py.ranges import Address

SEND_BYTES = 256 * 1024
ATTEMPTS = 3
"""How often a call is made before it has failed."""
PROBE_SECONDS = 10
MOST_SIGNED_SECONDS = 7 * 24 * 3600
"""What S3 allows."""
NEVER = float("-inf")
_log = structlog.get_logger("tusd_py.s3")

_GONE = frozenset({"NoSuchUpload", "NoSuchKey", "404", "NotFound"})
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLargeForQuota", "507"})
CUT_OFF = frozenset({"ConnectionClosedError", "EndpointConnectionError", "HTTPClientError"})
"""Reasons of a call whose connection broke while it was being sent."""
# What only an operator can mend, in words that name the cause.
_CAUSES = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "access is denied: the credentials lack a permission for the bucket",
    "AllAccessDisabled": "access is denied: the account or the bucket is closed",
    "InvalidAccessKeyId": "the access key is not known to the storage",
    "XAdminUserNotFound": "the access key is not known to the storage",  # versitygw
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidToken": "the session token is wrong",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine differs too much from the storage's",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "301": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region: set AWS_REGION",
    "NotImplemented": "the storage does not know something that is needed; docs/s3.md says what",
    "403": "access is denied",
}


class Refused(StoreUnavailable):
    """The storage refused a call; `reason` is its code."""

    def __init__(self, reason: str, cause: str) -> None:
        """Take the storage's code, and what it means for the operator."""
        super().__init__()
        self.reason = reason
        self.cause = cause


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a bucket is reached."""

    endpoint: str | None = None
    path_style: bool | None = None
    """Whether the bucket's name is part of the path rather than of the host; None lets the library choose."""
    seconds: float = 30
    """How long a call may be silent."""
    calls: int = 64
    """How many calls may be under way at once, besides those that read objects."""
    signed_for: float = 3600
    """How many seconds an address is good that other processes read an object at."""


class Source(Protocol):
    """Bytes to send that can be read as often as it takes."""

    size: int

    def chunks(self) -> AsyncIterator[bytes | bytearray | memoryview]:
        """Yield the bytes."""


class Outgoing:
    """The body of a call, made of sources; sent in small pieces, so that it is never in memory twice.

    It looks like a file to botocore, which only rewinds it before it repeats a call, and is iterated by aiohttp.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        """Send these one after the other."""
        self._sources = list(sources)
        self.size = sum(source.size for source in self._sources)
        self.error: TusError | None = None
        """Why a source could not be read; whoever sends this only sees a broken connection."""
        self.on_progress: Callable[[], None] = lambda: None
        """Called whenever some of it was sent."""

    def __len__(self) -> int:
        return self.size

    def read(self, size: int = -1) -> bytes:
        """Refuse: only iteration reads."""
        raise OSError("not to be read in this way")

    def seek(self, position: int, whence: int = 0) -> int:
        """Accept: every iteration begins at the start."""
        return 0

    def tell(self) -> int:
        """Return the start."""
        return 0

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        try:
            for source in self._sources:
                async for chunk in source.chunks():
                    view = memoryview(chunk)
                    for start in range(0, len(view), SEND_BYTES):
                        yield view[start : start + SEND_BYTES]
                        self.on_progress()
        except TusError as error:
            self.error = error
            raise


@functools.cache
def _api_descriptions() -> Loader:
    """Return what reads the descriptions of S3's API; reading them takes longer than all else before the first call."""
    return create_loader()


def _session() -> AioSession:
    session = get_session()
    session.register_component("data_loader", _api_descriptions())
    return session


class Bucket:
    """One bucket."""

    def __init__(self, name: str, options: Options) -> None:
        """Use the bucket called `name`."""
        self.name = name
        self._options = options
        self._ca_file: str | None = None
        self._stack = contextlib.AsyncExitStack()
        self._slots = asyncio.Semaphore(options.calls)
        self._client: Any = None
        self._probed = NEVER
        """When the bucket was found to be well, unless a call has failed since."""

    async def open(self) -> None:
        """Make the client.

        Raises:
            StoreUnavailable: the settings cannot be right.
        """
        options = self._options
        style = {None: "auto", True: "path", False: "virtual"}[options.path_style]
        config = AioConfig(
            signature_version="s3v4",
            # Our checksums go with the calls; hashing every part once more to sign it would cost more than sending it.
            s3={"payload_signing_enabled": False, "addressing_style": style},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=min(5.0, options.seconds),
            read_timeout=options.seconds,
            # `call` sets the limit. If reads were in it, slow downloads could keep all connections, and so could calls
            # whose bodies are read from the storage: each would wait for one more.
            max_pool_connections=0,
        )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if options.endpoint:
            region = region or "us-east-1"
        session = _session()
        # At the level debug it logs signatures, and that of an address is all that it takes to read an object.
        logging.getLogger("botocore.auth").setLevel(logging.INFO)
        try:
            self._client = await self._stack.enter_async_context(
                session.create_client("s3", endpoint_url=options.endpoint, region_name=region, config=config)
            )
            # As the library finds out whom it trusts.
            named = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
            self._ca_file = get_cert_path(named or True)
        except (BotoCoreError, ValueError) as error:
            raise StoreUnavailable(f"cannot use S3: {error}") from error
        # It costs a round trip for each part, and a service that never says "100 Continue" is waited for without end.
        self._client.meta.events.unregister("before-call.s3", add_expect_header)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._stack.aclose()

    async def call(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """Make one call on the bucket, such as `put_object`, and return the answer.

        Raises:
            Gone: there is no such object or multipart upload.
            AlreadyExists: a condition of the call does not hold.
            StorageFull: the storage has no space left.
            Refused, StoreUnavailable: it failed otherwise.
        """
        loop = asyncio.get_running_loop()
        # The library's own time-outs do not see a service that stops to take a body.
        patience = self._options.seconds * (ATTEMPTS + 1) * (5 if operation == "complete_multipart_upload" else 1)
        slot = contextlib.nullcontext() if operation == "get_object" else self._slots
        try:
            async with slot, asyncio.timeout(patience) as limit:
                if isinstance(body := parameters.get("Body"), Outgoing):
                    body.on_progress = lambda: limit.reschedule(loop.time() + patience)
                answer: Mapping[str, Any] = await getattr(self._client, operation)(Bucket=self.name, **parameters)
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            failure = _translated(operation, error)
            if not isinstance(failure, Gone | AlreadyExists):
                self._probed = NEVER
            raise failure from error
        return answer

    async def probe(self, key: str) -> str | None:
        """Return why an object cannot be written now, or None, which it remembers until a call fails or for a while."""
        if time.monotonic() - self._probed >= PROBE_SECONDS:
            problem = None
            try:
                # First, because some services make a bucket for whoever writes to it.
                await self.call("list_objects_v2", Prefix=key, MaxKeys=1)
                await self.call("put_object", Key=key, Body=b"tusd-py keeps uploads here\n")
            except Refused as error:
                problem = f"the bucket {self.name} cannot be used: {error.cause}"
            except TusError as error:
                problem = f"the bucket {self.name} cannot be used: {error.message}"
            if problem:
                return problem
            self._probed = time.monotonic()
        return None

    async def get(self, key: str) -> bytes:
        """Return a small object's bytes.

        Raises:
            Gone: there is none.
        """
        answer = await self.call("get_object", Key=key)
        try:
            async with answer["Body"] as body:
                data: bytes = await body.read()
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise _translated("get_object", error) from error
        return data

    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes `[start, stop)` of an object.

        Raises:
            Gone: there is none, or it is shorter.
        """
        if start >= stop:
            return
        answer = await self.call("get_object", Key=key, Range=f"bytes={start}-{stop - 1}")
        position = start
        try:
            async with answer["Body"] as body:
                while chunk := await body.read(SEND_BYTES):
                    position += len(chunk)
                    yield chunk
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise _translated("get_object", error) from error
        if position < stop:
            raise Gone("the storage has fewer bytes than the upload")

    async def address(self, key: str, size: int, etag: str | None) -> Address:
        """Return where whoever has the answer can read an object for a while, without credentials.

        Raises:
            StoreUnavailable: there are no credentials to sign with.
        """
        seconds = min(MOST_SIGNED_SECONDS, max(1, round(self._options.signed_for)))
        place = {"Bucket": self.name, "Key": key}
        try:
            url = await self._client.generate_presigned_url("get_object", Params=place, ExpiresIn=seconds)
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise _translated("get_object", error) from error
        return Address(url, size, etag, self._ca_file, self._options.seconds)

    async def keys(self, prefix: str, delimiter: str = "") -> AsyncIterator[tuple[str, Mapping[str, Any] | None]]:
        """Yield keys with what is known of their objects; with a delimiter also what lies before one, with None."""
        token: dict[str, str] = {}
        while True:
            answer = await self.call("list_objects_v2", Prefix=prefix, Delimiter=delimiter, **token)
            for common in answer.get("CommonPrefixes", []):
                yield common["Prefix"], None
            for item in answer.get("Contents", []):
                yield item["Key"], item
            if not answer.get("IsTruncated") or not answer.get("NextContinuationToken"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    async def parts(self, key: str, multipart: str) -> list[Mapping[str, Any]]:
        """Return all parts of a multipart upload."""
        found: list[Mapping[str, Any]] = []
        marker: dict[str, int] = {}
        while True:
            answer = await self.call("list_parts", Key=key, UploadId=multipart, **marker)
            page = answer.get("Parts", [])
            found += page
            if not answer.get("IsTruncated") or not page:
                return found
            marker = {"PartNumberMarker": int(answer.get("NextPartNumberMarker") or page[-1]["PartNumber"])}

    async def multiparts(self, prefix: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield all multipart uploads under a prefix.

        Paged by hand: SeaweedFS leaves the next page's place out, which is the last upload of this one.
        """
        marker: dict[str, str] = {}
        while True:
            answer = await self.call("list_multipart_uploads", Prefix=prefix, **marker)
            page = answer.get("Uploads", [])
            for item in page:
                yield item
            if not answer.get("IsTruncated") or not page:
                return
            key = answer.get("NextKeyMarker") or page[-1]["Key"]
            upload_id = answer.get("NextUploadIdMarker") or page[-1]["UploadId"]
            marker = {"KeyMarker": key, "UploadIdMarker": upload_id}

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; it is no error if one is not there."""
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            if len(some) == 1:
                with contextlib.suppress(Gone):
                    await self.call("delete_object", Key=some[0])
                continue
            answer = await self.call(
                "delete_objects", Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
            )
            errors = [error for error in answer.get("Errors", []) if error.get("Code") not in _GONE]
            if errors:
                code = str(errors[0].get("Code"))
                _log.warning("could not delete objects", count=len(errors), code=code)
                raise Refused(code, _CAUSES.get(code, "objects could not be deleted"))


def encoded_crc(crc: int) -> str:
    """Return a checksum as S3 writes it."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def decoded_crc(text: str | None) -> int | None:
    """Return a checksum that S3 wrote, or None if it wrote none, or one that was made of checksums (`...-2`)."""
    return int.from_bytes(base64.b64decode(text)) if text and "-" not in text else None


def _translated(operation: str, error: Exception) -> TusError:
    """Return what a failure of a call means; details go to the log, where no client sees them."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _GONE:
            return Gone("the storage no longer has this upload")
        if code == "PreconditionFailed" or status == 412:
            return AlreadyExists("another upload has this id or key")
        _log.warning("S3 refused a call", operation=operation, code=code, status=status)
        if code in _FULL or status == 507:
            return StorageFull()
        return Refused(code, _CAUSES.get(code, f"it answered {code or status} to {operation}"))
    cause = f"{type(error).__name__} in {operation}"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        cause = "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif isinstance(error, ConnectionError | HTTPClientError | OSError | asyncio.TimeoutError):
        cause = f"the endpoint does not answer ({type(error).__name__})"
    elif isinstance(error, ParamValidationError):
        cause = f"a value cannot be sent to S3 ({operation})"
    _log.warning("S3 cannot be used", operation=operation, cause=cause)
    return Refused(type(error).__name__, cause)
