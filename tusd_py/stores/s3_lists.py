"""What the storage itself tells of an upload, for when the record is lost or older than what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tusd_py.errors import Gone
from tusd_py.models import Part, Upload
from tusd_py.stores.s3_client import Bucket, decoded_crc
from tusd_py.stores.s3_content import ID_KEY
from tusd_py.stores.s3_names import Names
from tusd_py.stores.s3_parts import Listed, chain, contiguous, parse_segment


class Lists:
    """The lists of parts and segments in one bucket."""

    def __init__(self, bucket: Bucket, names: Names) -> None:
        """Ask this bucket."""
        self._bucket = bucket
        self._names = names

    async def whole(self, upload: Upload) -> str | None:
        """Return the ETag of the object if it is the complete one of this upload."""
        try:
            found = await self._bucket.call("head_object", Key=self._names.key(upload))
        except Gone:
            return None
        is_ours = found["ContentLength"] == upload.length and found.get("Metadata", {}).get(ID_KEY) == upload.id
        return str(found["ETag"]).strip('"') if is_ours else None

    async def found(self, upload: Upload) -> Upload:
        """Return the record of an unfinished upload as parts and segments tell it.

        Raises:
            Gone: there is neither its multipart upload nor its object.
        """
        length, multipart = upload.length, upload.storage.get("multipart")
        parts: tuple[Part, ...] = ()
        try:
            if multipart is not None:
                listed = await self._bucket.parts(self._names.key(upload), multipart)
                parts = contiguous(map(_listed, listed), int(upload.storage["part_size"]), length)
            elif (etag := await self.whole(upload)) is not None and length is not None:
                parts = (Part(length, etag),)
        except Gone:
            if await self.whole(upload) is None:
                raise
            return upload.changed(offset=length, parts=(), tail=())
        start = sum(part.size for part in parts)
        segments = [
            parse_segment(key.rpartition("/")[2], item["Size"], item["LastModified"])
            async for key, item in self._bucket.keys(self._names.segments(upload.id))
            if item is not None
        ]
        tail = chain([segment for segment in segments if segment is not None], start, length)
        if any(segments):
            upload = upload.changed(storage={**upload.storage, "segments": "yes"})
        return upload.changed(parts=parts, tail=tail, offset=start + sum(segment.size for segment in tail))


def _listed(item: Mapping[str, Any]) -> Listed:
    etag, crc = str(item["ETag"]).strip('"'), decoded_crc(item.get("ChecksumCRC32C"))
    return Listed(item["PartNumber"], item["Size"], etag, item["LastModified"], crc)
