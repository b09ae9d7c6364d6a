"""Every hook that a plugin can implement.

The first word of a hook's name is its contract: `register_` adds at start-up; `authenticate` and `authorize` say who
may do what; `pre_` and `inspect_` may refuse with `raise Reject(...)`; `post_` only observes. `check`, `describe` and
`deliver` are stages for what takes longer than a request: they run after an upload is complete, as jobs with attempts,
in the server or in `tusd-py worker` processes, and at least once.

Implement a hook as `async def` if it awaits, or as a plain `def` if it computes or blocks: plain functions run in a
thread, except those of `register_`. Take only the arguments that you need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import Future
from typing import Any, Literal, Protocol, get_args

import click
import msgspec
import pluggy

from tusd_py.models import Action, Changes, Content, Identity, Request, Response, Stage, Upload, Verdict

PROJECT = "tusd_py"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

RegisterBackend = Callable[[str, str, str], None]


class RegisterRoute(Protocol):
    """How a plugin adds a page."""

    def __call__(
        self,
        method: str,
        path: str,
        handler: Callable[..., Any],
        action: Action | None = None,
        /,
        *,
        query: type[msgspec.Struct] | None = None,
        answer: Any = None,
        media: str = "application/json",
    ) -> None:
        """Serve `path` with `handler`; with an `action`, `authorize` is asked first.

        The rest is for `/api/openapi.json`, beside the handler's docstring: a class whose fields are the parameters of
        the query, the type that an answer has as JSON, and its media type.
        """


class Allowed(Protocol):
    """How a page asks which uploads its request may see, from any thread."""

    def __call__(self, upload_ids: Iterable[str], action: Action = "status", /) -> Future[Mapping[str, Upload]]:
        """Give those of these uploads, by id, that are there and with which `authorize` lets the request do this."""


class JobProgress(Protocol):
    """How a stage tells how far it is, from any thread and as often as it likes."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """Have worked through `done` bytes, of `total` if that is not the upload's length."""


class Measure(msgspec.Struct, frozen=True):
    """One figure about the server's own work, for the `post_measure` hook."""

    name: Literal[
        "request",
        "lock_wait",
        "lock_handover",
        "hook",
        "event_dropped",
        "bytes_received",
        "chunk",
        "receiving",
        "job",
        "job_wait",
        "jobs",
        "jobs_age",
    ]
    value: float
    labels: dict[str, str] = {}


@hookspec
def register_settings(settings: Mapping[str, Any]) -> bool | Set[str] | None:
    """Receive this plugin's own table of settings, `[plugins.NAME]` of the TOML file.

    Runs before every other hook but `register_commands`. Raise `ValueError` for a setting that cannot be, as
    `msgspec.convert` does: the server then does not start and says why. Return False if the settings leave the plugin
    nothing to do: its other hooks are then not called, and uploads take the shorter way that there is without them.
    Return a set of names of hooks if these alone have nothing to do: no upload then gets a job for such a stage.
    """


@hookspec
def register_stores(register: RegisterBackend) -> None:
    """Add a backend: `register(kind, scheme, "module:Class")` with kind `store`, `state` or `locker`.

    The class is made with `Class.from_url(url, config)`, then its `open()` is awaited.
    """


@hookspec
def register_routes(register: RegisterRoute) -> None:
    """Add a page: `register(method, path, handler, action)`; the handler takes a `Request` and returns a `Response`.

    With an `action`, `authorize` is asked whether the request may do it; without one the page is for everybody who
    can authenticate. A path with `{upload_id}` is about that upload: `authorize` is asked about it, `request.upload_id`
    has the id, and who asks for one that is not there gets 404 or 410.

    A page about many uploads takes a second argument `allowed`. `allowed(ids)` asks `authorize` about each, with the
    action `status` or the one that is named, and gives the records of those that are there and may be seen, by id, as a
    future: call `.result()` in a plain function, or await `asyncio.wrap_future(...)` in a coroutine.

    `/api/openapi.json` has each page: the first line of the handler's docstring, and what `query` and `answer` say.
    """


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to `tusd-py` with `@cli.command()`; for installed plugins alone, and before settings are read."""


@hookspec
async def authenticate(request: Request) -> Identity | None:
    """Say who makes the request, from its headers.

    Return an `Identity`, or None if this plugin does not know; the first answer counts. Raise
    `Reject(..., status=401)` for credentials that are wrong. Runs for every request but OPTIONS and health checks.
    """


@hookspec
async def authorize(request: Request, action: Action, upload: Upload | None) -> None:
    """Refuse what the request's identity may not do, with `raise Reject(..., status=403)`.

    Runs for every request on uploads, once more for each member of a concatenation, for the status API, and for pages
    of plugins that have an action. `upload` is None for actions on no single upload (`create`, `list`, `metrics`).
    """


@hookspec
async def pre_create(request: Request, upload: Upload) -> Changes | None:
    """Refuse a new upload, or change its metadata, id or storage path.

    Runs before any byte is read, and not for partial uploads, which are no files of their own; their final upload gets
    it.
    """


@hookspec
async def inspect_head(upload: Upload, head: bytes) -> None:
    """Refuse an upload by its first bytes (setting `head_size`), before more is stored.

    `head` is shorter only if the whole upload is. Not for partial uploads; a final upload's head is looked at when it
    is put together.
    """


@hookspec
async def pre_finish(upload: Upload, content: Content) -> None:
    """Refuse a complete upload before the client is told that it is complete.

    It may run again if the server died meanwhile. What takes longer than seconds is a `check`.
    """


@hookspec
async def pre_terminate(request: Request, upload: Upload) -> None:
    """Refuse that a client removes an upload."""


@hookspec
async def post_create(request: Request, upload: Upload) -> None:
    """See that an upload was created, be it a part of a concatenation."""


@hookspec
async def post_receive(upload: Upload, content: Content | None) -> None:
    """See that bytes arrived: at the end of each request that brought some, and every `progress_interval` within it.

    `content` has the bytes that are there, up to its `size`; it is None if the store does not give bytes back, and what
    is on S3 can be read only when the upload is complete. `tusd_py.ahead` helps to work on them.
    """


@hookspec
async def post_finish(upload: Upload) -> None:
    """See that an upload is complete and accepted, for the first time; not for partial uploads.

    What is decided about it later, `post_verdict` tells.
    """


@hookspec
async def post_terminate(upload: Upload) -> None:
    """See that an upload ended without success; `upload.status` says how: terminated, expired, rejected or lost."""


@hookspec
async def post_verdict(upload: Upload, verdict: Verdict) -> None:
    """See what the checks or an operator decided: `upload.status` is accepted, quarantined, or checking once more."""


@hookspec
async def post_request(request: Request, response: Response, seconds: float) -> None:
    """See a request that was answered, refused ones included; the request's headers hold no credentials here."""


@hookspec
async def post_measure(measure: Measure) -> None:
    """See one figure about the server's own work: lock waits, hook durations, bytes."""


@hookspec
async def check(upload: Upload, content: Content, progress: JobProgress) -> Verdict:
    """Stage: examine a complete upload, for minutes if need be; all checks must pass before it is accepted.

    `raise Reject(...)` is a verdict too. Any other error is no verdict: the check is repeated, and an upload that
    cannot be checked is quarantined. Tell `progress(bytes_done)` now and then.
    """


@hookspec
async def describe(upload: Upload, content: Content, progress: JobProgress) -> Mapping[str, Any]:
    """Stage: return facts about an accepted upload, of what JSON has."""


@hookspec
async def deliver(upload: Upload, content: Content, facts: Mapping[str, Any], progress: JobProgress) -> None:
    """Stage: hand an accepted upload to somewhere else; `facts` has what `describe` returned, by plugin.

    It may run more than once, also after a success that could not be recorded: give what you make names that follow
    from the upload's id. `raise Reject(...)` ends it without another attempt.
    """


STAGES: tuple[Stage, ...] = get_args(Stage)
