"""The calls on S3 of one upload, and how its object is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from tusd_py.content import Spool
from tusd_py.errors import StoreUnavailable, TusError
from tusd_py.headers import content_disposition, declared_type
from tusd_py.models import Part, Segment, Upload
from tusd_py.stores.s3_client import CUT_OFF, Bucket, Outgoing, Refused, decoded_crc, encoded_crc
from tusd_py.stores.s3_content import user_metadata
from tusd_py.stores.s3_names import Names
from tusd_py.stores.s3_parts import COPY_BYTES, MIN_PART, whole_crc
from tusd_py.stores.s3_write import Piece, Stored, copyable

_log = structlog.get_logger("tusd_py.s3")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How uploads are kept; the settings `s3_*` of the same names say more."""

    key: str = "{id}"
    part_size: int = 8 * 1024 * 1024
    max_size: int | None = None
    concurrency: int = 4
    memory: int = 128 * 1024 * 1024
    copy_bytes: int = COPY_BYTES
    """An object larger than this is copied in ranges."""
    checksum: str = "full"
    encryption: str | None = None
    storage_class: str | None = None
    tags: str | None = None
    quarantine_prefix: str | None = None
    spool: Spool = Spool()


def object_headers(upload: Upload, settings: Settings) -> dict[str, Any]:
    """Return what is said of an upload's object when it is begun."""
    kind, _, kms_key = (settings.encryption or "").partition("aws:kms:")
    headers: dict[str, Any] = {
        "ContentType": declared_type(upload),
        "ContentDisposition": content_disposition(upload),
        "Metadata": user_metadata(upload),
        "StorageClass": settings.storage_class,
        "Tagging": settings.tags,
        "ServerSideEncryption": "aws:kms" if kms_key else kind,
        "SSEKMSKeyId": kms_key,
    }
    return {name: value for name, value in headers.items() if value}


class Target:
    """The calls of one upload."""

    def __init__(self, bucket: Bucket, names: Names, settings: Settings, upload: Upload) -> None:
        """Make calls for `upload`."""
        self.part_size = int(upload.storage["part_size"])
        self.unit = min(self.part_size, max(MIN_PART, settings.memory // 4))
        self.concurrency = settings.concurrency
        self._bucket = bucket
        self._names = names
        self._settings = settings
        self._upload = upload
        self._key = names.key(upload)

    def stored(self, segment: Segment, *, verified: bool = True) -> Stored:
        """Return a segment's bytes as they are stored."""
        key = self._names.segments(self._upload.id, verified=verified) + segment.name
        read = self._bucket.read
        return Stored(read, key, 0, segment.size, crc=segment.crc, name=segment.name)

    async def put_segment(self, name: str, pieces: list[Piece], *, verified: bool = True) -> None:
        """Write a segment."""
        key = self._names.segments(self._upload.id, verified=verified) + name
        await self._put("put_object", pieces, Key=key)

    async def put_part(self, number: int, pieces: list[Piece]) -> Part:
        """Write a part, or the whole object if it is not made of parts."""
        multipart = self._upload.storage.get("multipart")
        if multipart is None:
            return await self._put("put_object", pieces, Key=self._key, **object_headers(self._upload, self._settings))
        place = {"Key": self._key, "UploadId": multipart, "PartNumber": number}
        if (source := copyable(pieces)) is None:
            try:
                return await self._put("upload_part", pieces, **place)
            except Refused as error:
                if error.reason in CUT_OFF:
                    # Some just hang up on who sends a part of what they do not have; versitygw does.
                    with contextlib.suppress(StoreUnavailable):
                        await self._bucket.call("list_parts", Key=self._key, UploadId=multipart, MaxParts=1)
                raise
        answer = await self._bucket.call(
            "upload_part_copy",
            CopySource={"Bucket": self._bucket.name, "Key": source.key},
            CopySourceRange=f"bytes={source.start}-{source.stop - 1}",
            **place,
        )
        made = answer["CopyPartResult"]
        # What the storage says of bytes that nobody here has seen; completing has to name it.
        crc = decoded_crc(made.get("ChecksumCRC32C")) if source.crc is None else source.crc
        return Part(source.size, str(made["ETag"]).strip('"'), crc)

    async def delete_segments(self, names: Iterable[str], *, verified: bool = True) -> None:
        """Delete segments; a failure is left to the reaper."""
        prefix = self._names.segments(self._upload.id, verified=verified)
        try:
            await self._bucket.delete([prefix + name for name in names])
        except TusError as error:
            _log.warning("segments are left to the reaper", upload=self._upload.id, error=error.message)

    async def _put(self, operation: str, pieces: list[Piece], **parameters: Any) -> Part:
        crc = whole_crc(Part(piece.size, "", piece.crc) for piece in pieces)
        if self._settings.checksum != "none" and crc is not None:
            parameters["ChecksumCRC32C"] = encoded_crc(crc)
        body = Outgoing(pieces)
        try:
            answer = await self._bucket.call(operation, Body=body, **parameters)
        except TusError as error:
            raise body.error or error from None
        return Part(body.size, str(answer["ETag"]).strip('"'), crc)
