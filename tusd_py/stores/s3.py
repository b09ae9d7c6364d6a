"""Uploads as objects in a bucket of S3 or of a service that speaks its language.

An upload is an object `<prefix><id>` (or the key that a plugin or the setting `s3_key` chose) and a manifest
`<prefix><id>.info`. The object comes into being when the upload is complete. Until then its bytes are

- parts of one multipart upload, all of one size, sent while the next are received, and
- behind them a tail of segments, objects `<prefix><id>.tail/<offset>-<checksum>-<token>`, for what is too little for a
  part when a request ends. They are written before the client hears of their bytes and deleted when a later request
  shows that the record has the part that contains them.

An upload that fits into one part has no multipart upload: its object is written at once.

The record is the truth, and is made of nothing but what S3 has answered: HEAD costs no call, and a PATCH one for each
part and one for the tail. If the record is lost, it is made again from manifest and lists of parts and segments.
Two writers, of which one has lost its lock, cannot harm each other: segments have names of their own, and a part's
number tells what it contains. Completing names the ETags of our own parts, so that no other bytes can slip in.

Peak memory of a process is what `s3_memory` says for parts, plus `buffer_memory` for what is received and not taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import structlog

from tusd_py import places
from tusd_py.body import Body
from tusd_py.config import Config, ConfigError
from tusd_py.content import Spool
from tusd_py.errors import AlreadyExists, Gone, StoreUnavailable, TusError
from tusd_py.models import UPLOAD_ID, Part, Upload, now
from tusd_py.stores import manifest
from tusd_py.stores.base import Progress, Sweep
from tusd_py.stores.s3_client import Bucket, Options, Refused, encoded_crc
from tusd_py.stores.s3_content import S3Content
from tusd_py.stores.s3_lists import Lists
from tusd_py.stores.s3_names import Names
from tusd_py.stores.s3_parts import (
    Span,
    copy_plan,
    part_size_for,
    whole_crc,
)
from tusd_py.stores.s3_target import Settings, Target, object_headers
from tusd_py.stores.s3_write import Budget, Held, Piece, Stored, Writer, copyable

_NAME = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
# The parts in the storage are not those that we sent.
_DAMAGED = frozenset({"InvalidPart", "InvalidPartOrder", "BadDigest", "EntityTooSmall"})
_log = structlog.get_logger("tusd_py.s3")


class S3Store:
    """Bytes and manifests in one bucket."""

    def __init__(self, bucket: str, prefix: str, options: Options, settings: Settings) -> None:
        """Use what lies under `prefix` in the bucket."""
        self.prefix = prefix
        self.names = Names(prefix, settings.key, settings.quarantine_prefix)
        self.settings = settings
        self.bucket = Bucket(bucket, options)
        self.lists = Lists(self.bucket, self.names)
        self.budget = Budget(settings.memory)
        self._garbage: dict[str, set[str]] = {}
        """Segments by upload that a later request may delete."""

    @classmethod
    def from_url(cls, url: str, config: Config) -> S3Store:
        """Return the store of `s3://BUCKET/PREFIX`."""
        match = _NAME.fullmatch(url)
        if match is None:
            raise ConfigError(f"store {url!r} is not of the form s3://bucket or s3://bucket/prefix")
        prefix = (match[2] or "").strip("/")
        path_style = {"auto": True if config.s3_endpoint else None, "path": True, "virtual": False}
        options = Options(
            endpoint=config.s3_endpoint,
            path_style=path_style[config.s3_addressing],
            seconds=config.s3_timeout.total_seconds(),
            signed_for=config.job_timeout.total_seconds(),
        )
        settings = Settings(
            key=config.s3_key,
            part_size=config.s3_part_size,
            max_size=config.max_size,
            concurrency=config.s3_concurrency,
            memory=config.s3_memory,
            checksum=config.s3_checksum,
            encryption=config.s3_encryption,
            storage_class=config.s3_storage_class,
            tags=config.s3_tags,
            quarantine_prefix=config.quarantine_prefix,
            spool=Spool(config.spool_dir, config.spool_size),
        )
        return cls(match[1], f"{prefix}/" if prefix else "", options, settings)

    async def open(self) -> None:
        """Make the client and write a first object.

        Raises:
            StoreUnavailable: the bucket cannot be used.
        """
        await self.bucket.open()
        if problem := await self.problem():
            await self.aclose()
            raise StoreUnavailable(problem)

    async def create(self, upload: Upload) -> Upload:
        """Begin a multipart upload if there may be several parts, and write the manifest."""
        is_chosen = "path" in upload.storage
        place = places.first(upload.storage, self.names.path_of(upload))
        part_size = part_size_for(upload.length, self.settings.max_size, self.settings.part_size)
        storage = {"type": "s3", "bucket": self.bucket.name, **place, "part_size": str(part_size)}
        upload = upload.changed(storage=storage)
        keys = {self.names.at(upload, path) for path in place.values()}
        if is_chosen and any([await self._exists(key) for key in keys]):
            raise AlreadyExists("another upload has this key")
        if upload.length is None or upload.length > part_size:
            upload = upload.changed(storage={**storage, "multipart": await self._begin(upload)})
        try:
            await self._put_manifest(upload, IfNoneMatch="*")
        except TusError as error:
            # It is ours if it was written and the answer was lost.
            if isinstance(error, AlreadyExists) and await self._manifest(upload.id) == upload:
                return upload
            if not isinstance(error, AlreadyExists):
                with contextlib.suppress(TusError):
                    await self.bucket.delete([self.names.manifest(upload.id)])
            with contextlib.suppress(TusError):
                await self._abort(upload)
            raise
        return upload

    async def append(self, upload: Upload, body: Body, progress: Progress) -> Upload:
        """Send the body's bytes as parts, and what is left as a segment."""
        writer = Writer(self._target(upload), self.budget, upload, body, progress)
        clean = asyncio.create_task(self._clean(upload))
        try:
            upload = await writer.run()
        finally:
            if replaced := writer.replaced:
                self._garbage.setdefault(upload.id, set()).update(replaced)
            await asyncio.wait([clean])
        if isinstance(writer.error, Gone):
            upload = await self._newer(upload, writer.error)
            body.error = StoreUnavailable("the storage has more of the upload than its record; ask for the offset")
        if upload.tail:
            upload = upload.changed(storage={**upload.storage, "segments": "yes"})
        return upload

    async def measure(self, upload: Upload) -> Upload:
        """Return the record as it is: it is the truth."""
        return upload

    async def finish(self, upload: Upload) -> Upload:
        """Make the object, and delete what it was made of."""
        if "etag" in upload.storage:
            return upload
        crc: int | None = None
        try:
            etag, crc = await self._assemble(upload)
        except Gone as error:
            # An attempt that was cut off may have succeeded; its parts are gone then.
            if (found := await self.lists.whole(upload)) is not None:
                etag = found
            else:
                etag, crc = await self._assemble(await self._newer(upload, error))
        storage = {**upload.storage, "etag": etag}
        if crc is not None:
            storage["crc32c"] = f"{crc:08x}"
        await self._delete_rest(upload)
        return upload.changed(parts=(), tail=(), storage=storage)

    async def save(self, upload: Upload) -> None:
        """Replace the manifest."""
        await self._put_manifest(upload)

    async def load(self, upload_id: str) -> Upload | None:
        """Read the manifest, and for an unfinished upload what lists tell of parts and segments."""
        try:
            upload = manifest.decode(await self.bucket.get(self.names.manifest(upload_id)), now())
        except Gone:
            return None
        if upload is None or upload.id != upload_id or upload.storage.get("type") != "s3":
            raise StoreUnavailable(f"the manifest of upload {upload_id} is damaged; an operator has to look at it")
        if upload.status.is_finished or upload.status.is_tombstone:
            return upload
        return await self.lists.found(upload)

    async def ids(self) -> AsyncIterator[str]:
        """Yield the ids of all manifests under the prefix."""
        async for key, item in self.bucket.keys(self.prefix, "/"):
            name = key[len(self.prefix) :]
            if item is not None and name.endswith(".info") and UPLOAD_ID.fullmatch(name[:-5]):
                yield name[:-5]

    async def remove(self, upload: Upload) -> None:
        """Delete everything, the manifest last, so that a crash leaves nothing without a name."""
        self.budget.forget(segment.name for segment in upload.tail)
        self._garbage.pop(upload.id, None)
        await self._abort(upload)
        own = self.names.manifest(upload.id)
        keys = [key async for key, _ in self.bucket.keys(f"{self.prefix}{upload.id}.") if key != own]
        await self.clear(upload)
        await self.bucket.delete([*keys, self.names.key(upload)])
        await self.bucket.delete([own])

    async def concatenate(self, upload: Upload, members: Sequence[Upload], progress: Progress) -> Upload:
        """Copy ranges inside the storage; only what is too small for that is read and sent."""
        plan = copy_plan([member.offset for member in members])
        if "multipart" not in upload.storage:
            plan = [[span for part in plan for span in part]]
        parts: tuple[Part, ...] = ()
        try:
            parts = await self._copy(upload, plan, [self.names.key(member) for member in members])
        except Gone:
            # An attempt that was cut off may have succeeded.
            if await self.lists.whole(upload) is None:
                raise
        # Of copies the checksum is not known, but that of the whole follows from those of the members.
        crcs = [Part(member.offset, "", _crc_in(member)) for member in members]
        storage = dict(upload.storage)
        if (crc := whole_crc(crcs)) is not None:
            storage["crc32c"] = f"{crc:08x}"
        size = sum(member.offset for member in members)
        return upload.changed(offset=size, parts=parts, tail=(), storage=storage)

    async def move(self, upload: Upload, path: str) -> Upload:
        """Copy the object inside the storage, in ranges if it is large."""
        moved = places.moved(upload, path)
        if not await self._exists(self.names.key(moved)):
            etag = await self._copy_whole(upload, moved)
        elif (found := await self.lists.whole(moved)) is not None:
            etag = found
        else:
            raise AlreadyExists("another upload has this key")
        return moved.changed(storage={**moved.storage, "etag": etag})

    async def clear(self, upload: Upload) -> None:
        """Delete the other object; of a copy that was cut off the reaper removes the parts."""
        if left := upload.storage.get("left"):
            await self.bucket.delete([self.names.at(upload, left)])
        if moving := upload.storage.get("moving"):
            copy = places.moved(upload, moving)
            if await self.lists.whole(copy) is not None:
                await self.bucket.delete([self.names.key(copy)])

    def content(self, upload: Upload) -> S3Content:
        """Return the object's bytes, or those of the segments of an upload that has no parts yet."""

        def tail() -> list[Piece]:
            target = self._target(upload)
            return [self.budget.kept(segment.name) or target.stored(segment) for segment in upload.tail]

        return S3Content(upload, self.bucket, self.names.key(upload), tail, self.settings.spool)

    async def sweep(self, before: datetime) -> Sweep:
        """Remove multipart uploads and segments that belong to no upload and are older than `before`."""
        count, listed = 0, {""}  # the empty one for uploads that have none
        async for item in self.bucket.multiparts(self.prefix):
            key = item["Key"]
            listed.add(item["UploadId"])
            if item["Initiated"] < before and (upload_id := self.names.id_of(key)):
                upload = await self._manifest(upload_id)
                if upload is None or upload.storage.get("multipart") != item["UploadId"]:
                    with contextlib.suppress(Gone):
                        await self.bucket.call("abort_multipart_upload", Key=key, UploadId=item["UploadId"])
                    count += 1
        async for folder, known in self.bucket.keys(self.prefix, "/"):
            if known is not None or not (belongs := self.names.owner_of(folder)):
                continue
            upload_id, is_verified = belongs
            upload = await self._manifest(upload_id) if is_verified else None
            if upload is None or upload.status.is_finished or upload.status.is_tombstone:
                found = [key async for key, each in self.bucket.keys(folder) if each and each["LastModified"] < before]
                await self.bucket.delete(found)
                count += len(found)
        return Sweep(count, lambda upload: upload.storage.get("multipart", "") not in listed)

    async def problem(self) -> str | None:
        """Return why the bucket cannot be written to, or None."""
        return await self.bucket.probe(f"{self.prefix}.tusd-py")

    async def aclose(self) -> None:
        """Close the client."""
        await self.bucket.aclose()

    # Objects

    async def _begin(self, upload: Upload) -> str:
        """Begin a multipart upload, and return its id."""
        full = {"ChecksumType": "FULL_OBJECT"} if self.settings.checksum == "full" else {}
        algorithm = {"ChecksumAlgorithm": "CRC32C", **full} if self.settings.checksum != "none" else {}
        headers = object_headers(upload, self.settings)
        answer = await self.bucket.call("create_multipart_upload", Key=self.names.key(upload), **algorithm, **headers)
        return str(answer["UploadId"])

    async def _put_manifest(self, upload: Upload, **condition: str) -> None:
        place = {"Type": "s3store", "Bucket": self.bucket.name, "Key": self.names.key(upload)}
        # Parts and tail change with every request; who needs them asks the storage for the lists.
        data = manifest.encode(upload.changed(parts=(), tail=()), place)
        key = self.names.manifest(upload.id)
        await self.bucket.call("put_object", Key=key, Body=data, ContentType="application/json", **condition)

    async def _manifest(self, upload_id: str) -> Upload | None:
        """Return the record in a manifest, without the offset, or None if there is none that can be read."""
        try:
            return manifest.decode(await self.bucket.get(self.names.manifest(upload_id)), now())
        except Gone:
            return None

    async def _exists(self, key: str) -> bool:
        try:
            await self.bucket.call("head_object", Key=key)
        except Gone:
            return False
        return True

    async def _assemble(self, upload: Upload) -> tuple[str, int | None]:
        """Make the object of parts and tail, and return its ETag and checksum."""
        target, parts = self._target(upload), upload.parts
        if upload.tail or not parts:
            pieces = [self.budget.kept(segment.name) or target.stored(segment) for segment in upload.tail]
            parts = (*parts, await target.put_part(len(parts) + 1, pieces))
        crc = _crc_in(upload)
        crc = whole_crc(parts) if crc is None else crc
        if "multipart" not in upload.storage:
            return parts[0].etag, crc
        numbered = []
        for number, part in enumerate(parts, 1):
            # Amazon wants them with "part" alone, versitygw always.
            is_told = self.settings.checksum != "none"
            sums = {"ChecksumCRC32C": encoded_crc(part.crc)} if is_told and part.crc is not None else {}
            numbered.append({"PartNumber": number, "ETag": part.etag, **sums})
        full = {}
        if self.settings.checksum == "full" and crc is not None:
            full = {"ChecksumCRC32C": encoded_crc(crc), "ChecksumType": "FULL_OBJECT"}
        place = {"Key": self.names.key(upload), "UploadId": upload.storage["multipart"]}
        try:
            answer = await self.bucket.call(
                "complete_multipart_upload", MultipartUpload={"Parts": numbered}, **place, **full
            )
        except Refused as error:
            if error.reason not in _DAMAGED:
                raise
            _log.error("parts are not those that were sent", upload=upload.id, code=error.reason)
            raise Gone("the parts in the storage are not those that were sent") from error
        return str(answer["ETag"]).strip('"'), crc

    async def _copy(self, upload: Upload, plan: list[list[Span]], keys: Sequence[str]) -> tuple[Part, ...]:
        """Make the parts of an object from ranges of others; what is too small for a copy is read and sent."""
        target = self._target(upload)
        slots = asyncio.Semaphore(self.settings.concurrency)

        async def make(number: int, spans: list[Span]) -> Part:
            async with slots:
                pieces: list[Piece] = [
                    Stored(self.bucket.read, keys[span.source], span.start, span.stop) for span in spans
                ]
                size = sum(piece.size for piece in pieces)
                if not copyable(pieces):
                    held = Held()
                    self.budget.take(size)
                    for piece in pieces:
                        async for chunk in piece.chunks():
                            held.add(memoryview(chunk))
                    pieces = [held]
                try:
                    return await target.put_part(number, pieces)
                finally:
                    if isinstance(pieces[0], Held):
                        self.budget.free(size)

        tasks = [asyncio.create_task(make(number, spans)) for number, spans in enumerate(plan, 1)]
        try:
            return tuple(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy_whole(self, upload: Upload, moved: Upload) -> str:
        """Copy an upload's object to where the record `moved` says, and return the ETag of the copy."""
        source, size = self.names.key(upload), upload.offset
        if size <= self.settings.copy_bytes:
            headers = object_headers(upload, self.settings)
            answer = await self.bucket.call(
                "copy_object",
                Key=self.names.key(moved),
                CopySource={"Bucket": self.bucket.name, "Key": source},
                MetadataDirective="REPLACE",
                **({"TaggingDirective": "REPLACE"} if self.settings.tags else {}),
                **({"ChecksumAlgorithm": "CRC32C"} if self.settings.checksum != "none" else {}),
                **headers,
            )
            return str(answer["CopyObjectResult"]["ETag"]).strip('"')
        storage = {name: value for name, value in moved.storage.items() if name != "etag"}
        copy = moved.changed(storage={**storage, "multipart": await self._begin(moved)})
        try:
            parts = await self._copy(copy, copy_plan([size], self.settings.copy_bytes), [source])
            try:
                return (await self._assemble(copy.changed(parts=parts, tail=())))[0]
            except Gone as error:  # the copy, and not what is copied
                raise StoreUnavailable("a copy in the storage did not come about") from error
        except TusError:
            with contextlib.suppress(TusError):
                await self._abort(copy)
            raise

    def _target(self, upload: Upload) -> Target:
        return Target(self.bucket, self.names, self.settings, upload)

    # Leftovers

    async def _clean(self, upload: Upload) -> None:
        """Delete segments that a former request replaced, now that the record no longer has them."""
        names = self._garbage.pop(upload.id, set()) - {segment.name for segment in upload.tail}
        await self._target(upload).delete_segments(names)

    async def _delete_rest(self, upload: Upload) -> None:
        """Delete the segments of a complete upload; what fails is left to the reaper."""
        self.budget.forget(segment.name for segment in upload.tail)
        self._garbage.pop(upload.id, None)
        if "segments" not in upload.storage and not upload.tail:
            return
        try:
            await self.bucket.delete([key async for key, _ in self.bucket.keys(self.names.segments(upload.id))])
        except TusError as error:
            _log.warning("segments are left to the reaper", upload=upload.id, error=error.message)

    async def _newer(self, upload: Upload, error: Gone) -> Upload:
        """Return what lists tell if that is more than the record says, or raise the error.

        A record that was restored from a copy names segments that were deleted when a part had replaced them.
        """
        found = await self.lists.found(upload)
        if found.offset < upload.offset or found.tail == upload.tail:
            raise error
        return found

    async def _abort(self, upload: Upload) -> None:
        if "multipart" in upload.storage and "etag" not in upload.storage:
            with contextlib.suppress(Gone):
                place = {"Key": self.names.key(upload), "UploadId": upload.storage["multipart"]}
                await self.bucket.call("abort_multipart_upload", **place)


def _crc_in(upload: Upload) -> int | None:
    text = upload.storage.get("crc32c")
    return int(text, 16) if text else None
