"""A plugin that writes every call of every hook to a file, and refuses or changes what an upload's metadata asks for.

It is the plugin of a server that the tests start; the file is named in its settings.
"""

import asyncio
import json
import threading
from typing import Annotated

import click
import msgspec

from tusd_py import Changes, Identity, Reject, Response, Verdict, hookimpl

_lock = threading.Lock()
_file = None


def _record(hook, upload=None, **facts):
    if upload is not None:
        facts |= {"id": upload.id, "offset": upload.offset, "length": upload.length, "status": upload.status}
        facts |= {"metadata": upload.metadata, "reason": upload.reason, "owner": upload.owner}
    with _lock, open(_file, "a", encoding="utf-8") as file:
        file.write(json.dumps({"hook": hook, **facts}) + "\n")


def _facts(request):
    return {"method": request.method, "path": request.path, "headers": dict(request.headers), "request": request.id}


def _refuse(hook, upload):
    if upload.metadata.get("refuse") == hook:
        raise Reject(f"refused by {hook}", status=422)


@hookimpl
def register_settings(settings):
    global _file
    _file = settings["file"]
    _record("register_settings", settings=dict(settings))


@hookimpl
def register_stores(register):
    register("store", "recorded", "tusd_py.stores.memory:MemoryStore")


class Query(msgspec.Struct):
    first: Annotated[Annotated[str, msgspec.Meta(max_length=9)] | None, msgspec.Meta(description="an upload")] = None
    limit: int = 5


@hookimpl
def register_routes(register):
    register("GET", "/recorder", lambda request: Response(200, {"Content-Type": "text/plain"}, b"a page"), "list")
    register("GET", "/recorder/{upload_id}", lambda request: Response(200, {}, request.upload_id.encode()), "status")
    register("GET", "/recorder-some", some_uploads, query=Query, answer=str, media="text/csv")
    register("GET", "/recorder-awaited", some_uploads_awaited)


def some_uploads(request, allowed):
    """Answer which of the uploads in the query may be seen."""
    return Response(200, {}, ",".join(sorted(allowed(request.query.split("&")).result())).encode())


async def some_uploads_awaited(request, allowed):
    """Do the same in a coroutine."""
    return Response(200, {}, ",".join(sorted(await asyncio.wrap_future(allowed(request.query.split("&"))))).encode())


@hookimpl
def register_commands(cli: click.Group):
    @cli.command()
    def recorded():
        """Say hello."""
        click.echo("hello from a plugin")


@hookimpl
async def authenticate(request):
    _record("authenticate", **_facts(request))
    token = request.headers.get("Authorization", "")
    if token == "Bearer wrong":
        raise Reject("this token is not known", status=401, code="ERR_BAD_TOKEN")
    return Identity(token.removeprefix("Bearer ") or "nobody")


@hookimpl
async def authorize(request, action, upload):
    _record("authorize", upload, action=action, identity=request.identity.name)


@hookimpl
async def pre_create(request, upload):
    _record("pre_create", upload, **_facts(request))
    _refuse("pre_create", upload)
    wanted = {key.removeprefix("change-"): text for key, text in upload.metadata.items() if key.startswith("change-")}
    if "metadata" in wanted:
        wanted["metadata"] = json.loads(wanted["metadata"])
    return Changes(**wanted) if wanted else None


@hookimpl
async def inspect_head(upload, head):
    _record("inspect_head", upload, head=head.decode())
    _refuse("inspect_head", upload)


@hookimpl
def pre_finish(upload, content):
    with content.open() as file:
        _record("pre_finish", upload, size=content.size, text=file.read().decode(), url=content.url)
    _refuse("pre_finish", upload)


@hookimpl
async def pre_terminate(request, upload):
    _record("pre_terminate", upload, **_facts(request))
    _refuse("pre_terminate", upload)


@hookimpl
async def post_create(request, upload):
    _record("post_create", upload, **_facts(request))


@hookimpl
def post_receive(upload, content):
    with content.open() as file:
        _record("post_receive", upload, text=file.read(content.size).decode())


@hookimpl
async def post_finish(upload):
    _record("post_finish", upload)


@hookimpl
async def post_terminate(upload):
    _record("post_terminate", upload)


@hookimpl
async def post_verdict(upload, verdict):
    _record("post_verdict", upload, ok=verdict.ok, reasons=list(verdict.reasons))


@hookimpl
async def post_request(request, response, seconds):
    _record("post_request", id=request.upload_id, code=response.status, seconds=seconds, **_facts(request))


@hookimpl
async def post_measure(measure):
    _record("post_measure", name=measure.name, value=measure.value, labels=measure.labels)


@hookimpl
def check(upload, content, progress):
    _record("check", upload, content=_text(content))
    progress(content.size)
    return Verdict(ok=True, reasons=["well"])


@hookimpl
def describe(upload, content):
    _record("describe", upload, content=_text(content))
    return {"words": len(_text(content).split())}


@hookimpl
def deliver(upload, content, facts):
    _record("deliver", upload, content=_text(content), facts=dict(facts))


def _text(content):
    with content.open() as file:
        return file.read().decode(errors="replace")
