"""The status API: what is known of uploads, without taking any lock and so without disturbing one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import hdrs, web

from tusd_py.composer import Parts
from tusd_py.errors import InvalidRequest, NotFound
from tusd_py.models import UPLOAD_ID, Job, JobStatus, Request, Response, Stage, Status, Upload
from tusd_py.state.base import Filter
from tusd_py.web.adapter import Adapter

POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15
MAX_PAGE = 1000

Time = Annotated[datetime, msgspec.Meta(tz=True)]


_Shown = tuple[Status, int, int | None, list[Job]]


class Part(msgspec.Struct, frozen=True):
    """A partial upload of a concatenation."""

    id: str
    status: Status | None
    offset: int | None
    length: int | None


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin does, did or will do with a complete upload; progress in bytes, times in UTC."""

    stage: Stage
    plugin: str
    status: JobStatus
    attempts: int
    worker: str | None
    progress: int
    total: int | None
    result: Any
    error: str | None
    due_at: Time | None
    started_at: Time | None
    ended_at: Time | None


class UploadView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """An upload as the status API shows it; sizes in bytes, times in UTC."""

    id: str
    status: Status
    offset: int
    length: int | None
    missing: list[tuple[int, int | None]]
    metadata: dict[str, str]
    owner: str | None
    concat: Literal["partial", "final"] | None
    created_at: Time
    updated_at: Time
    finished_at: Time | None
    expires_at: Time | None
    reason: str | None


class UploadDetails(UploadView, frozen=True, kw_only=True):
    """An upload with what belongs to it."""

    parts: list[Part]
    jobs: list[JobView]


class UploadPage(msgspec.Struct, frozen=True):
    """Some uploads, the newest first; `next` is the `after` of the next page."""

    uploads: list[UploadView]
    next: str | None


class StatusApi:
    """Routes under `/api`."""

    def __init__(self, parts: Parts, adapter: Adapter, stopping: asyncio.Event, document: Mapping[str, Any]) -> None:
        """Show the uploads of these parts, and the document of OpenAPI; event streams end when the server stops."""
        self._uploads = parts.uploads
        self._hooks = parts.hooks
        self._document = document
        self._adapter = adapter
        self._stopping = stopping

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add all routes."""
        router.add_get("/api/uploads", self._list, allow_head=False)
        router.add_get("/api/uploads/{id}", self._show, allow_head=False)
        router.add_get("/api/uploads/{id}/events", self._events, allow_head=False)
        router.add_get("/api/openapi.json", self._openapi, allow_head=False)

    async def _list(self, http_request: web.Request) -> web.StreamResponse:
        request: Request = http_request["request"]
        await self._hooks.authorize(request, "list", None)
        query = http_request.query
        if unknown := set(query) - {"status", "owner", "after", "limit"}:
            raise InvalidRequest(
                f"unknown query parameter {min(unknown)[:40]!r}; there are status, owner, after and limit"
            )
        identity = request.identity
        owner = query.get("owner")
        if identity is not None and identity.claims.get("operator") is not True:
            owner = identity.name
        page = await self._uploads.state.page(
            Filter(status=_status(query.get("status")), owner=owner),
            query.get("after"),
            _limit(query.get("limit", "100")),
        )
        return await self._json(http_request, UploadPage([_view(upload) for upload in page.uploads], page.next))

    async def _show(self, http_request: web.Request) -> web.StreamResponse:
        upload = await self._authorized(http_request)
        return await self._json(http_request, await self._details(upload, await self._jobs(upload)))

    async def _events(self, http_request: web.Request) -> web.StreamResponse:
        """Send the upload whenever it changes, until it can change no more."""
        upload = await self._authorized(http_request)
        http_request["response"] = Response(200)
        answer = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream",
                hdrs.CACHE_CONTROL: "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        await answer.prepare(http_request)
        sent: _Shown | None = None
        silent = 0.0
        while True:
            jobs = await self._jobs(upload)
            shown = (upload.status, upload.offset, upload.length, jobs)
            if shown != sent:
                kind = "status" if sent is None or upload.status != sent[0] else "progress"
                data = msgspec.json.encode(await self._details(upload, jobs))
                await answer.write(b"event: %s\ndata: %s\n\n" % (kind.encode(), data))
                sent, silent = shown, 0.0
            elif silent >= KEEPALIVE_SECONDS:
                await answer.write(b": still here\n\n")
                silent = 0.0
            is_idle = all(job.status.has_ended for job in jobs) or upload.status is Status.QUARANTINED
            if upload.status.is_tombstone or (upload.status.is_finished and is_idle):
                return answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._stopping.wait()
                return answer
            silent += POLL_SECONDS
            found = await self._uploads.state.get(upload.id)
            if found is None:
                return answer
            upload = found

    async def _openapi(self, http_request: web.Request) -> web.StreamResponse:
        return await self._json(http_request, self._document)

    async def _authorized(self, http_request: web.Request) -> Upload:
        upload_id = http_request.match_info["id"]
        if not UPLOAD_ID.fullmatch(upload_id):
            raise NotFound()
        upload = await self._uploads.find(upload_id)
        await self._hooks.authorize(http_request["request"], "status", upload)
        return upload

    async def _details(self, upload: Upload, jobs: list[Job]) -> UploadDetails:
        parts = []
        for member_id in upload.concat.members if upload.concat else ():
            member = await self._uploads.state.get(member_id)
            parts.append(
                Part(member_id, member.status, member.offset, member.length)
                if member
                else Part(member_id, None, None, None)
            )
        fields = {**msgspec.structs.asdict(_view(upload)), "parts": parts, "jobs": [_job_view(job) for job in jobs]}
        return msgspec.convert(fields, UploadDetails)

    async def _jobs(self, upload: Upload) -> list[Job]:
        """Return the jobs of an upload; there are none before it is complete."""
        return await self._uploads.state.jobs(upload.id) if upload.finished_at else []

    async def _json(self, http_request: web.Request, value: object) -> web.StreamResponse:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        http_request["response"] = response = Response(200, headers, msgspec.json.encode(value))
        return await self._adapter.send(http_request, response)


def _view(upload: Upload) -> UploadView:
    return UploadView(
        id=upload.id,
        status=upload.status,
        offset=upload.offset,
        length=upload.length,
        missing=upload.missing(),
        metadata=upload.metadata,
        owner=upload.owner,
        concat=upload.concat.kind if upload.concat else None,
        created_at=upload.created_at,
        updated_at=upload.updated_at,
        finished_at=upload.finished_at,
        expires_at=upload.expires_at,
        reason=upload.reason,
    )


def _job_view(job: Job) -> JobView:
    return JobView(**{name: getattr(job, name) for name in JobView.__struct_fields__})


def _status(text: str | None) -> Status | None:
    try:
        return Status(text) if text is not None else None
    except ValueError:
        raise InvalidRequest(f"status must be one of {', '.join(Status)}") from None


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise InvalidRequest(f"limit must be a number from 1 to {MAX_PAGE}")
    return int(text)
