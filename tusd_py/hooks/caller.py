"""Calls the plugins' hooks: one by one, within a time-out, and with the plugin's name in every error.

Every plugin has threads of its own for plain functions, and one with an event loop for its coroutines: whatever a
plugin does, the server's event loop and the other plugins go on, and the process can end. Hooks that can refuse are
awaited by the request. Hooks that only observe get their events through one bounded queue per plugin, in order; a
plugin that is slow delays itself alone, and one that falls too far behind loses events, which is logged and counted.
The server's own plugins are quick and are called in place.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import msgspec
import pluggy
import structlog

from tusd_py.errors import HookFailed, HookTimeout, Reject, TusError, Unauthenticated
from tusd_py.hooks.plugins import hook_names, implementations
from tusd_py.hooks.specs import Measure
from tusd_py.hooks.threads import PluginLoop, PluginThreads
from tusd_py.models import Action, Changes, Content, Identity, Job, Request, Response, Upload, Verdict

QUEUE_SIZE = 10_000
SLOW_SHARE = 0.5
MAX_RESULT = 256 * 1024
"""Largest answer of a stage, as JSON: it is kept with the upload's record."""

T = TypeVar("T")

_log = structlog.get_logger("tusd_py.hooks")
_Event = tuple[pluggy.HookImpl, str, Mapping[str, Any]]


class Hooks:
    """The hooks of all plugins, as typed methods."""

    def __init__(self, manager: pluggy.PluginManager, *, timeout: float = 30, own: Collection[str] = ()) -> None:
        """Call the manager's plugins, each for at most `timeout` seconds.

        `own` names the server's plugins, which are known to be quick and are called in place.
        """
        self._timeout = timeout
        self._own = frozenset(own)
        self._loops: dict[str, PluginLoop] = {}
        self._threads: dict[str, PluginThreads] = {}
        self._impls = {name: implementations(manager, name) for name in hook_names()}
        self._queues: dict[str, asyncio.Queue[_Event]] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._dropped: dict[str, int] = {}

    async def start(self) -> None:
        """Start delivering events to observers."""
        observers = {
            impl.plugin_name for name, impls in self._impls.items() if name.startswith("post_") for impl in impls
        }
        for plugin in sorted(observers):
            queue = self._queues[plugin] = asyncio.Queue(QUEUE_SIZE)
            self._workers.append(asyncio.create_task(self._deliver(queue), name=f"events of plugin {plugin}"))

    async def stop(self, timeout: float) -> None:
        """Deliver what is queued for at most `timeout` seconds, then stop."""
        drained = asyncio.gather(*(queue.join() for queue in self._queues.values()))
        try:
            async with asyncio.timeout(timeout):
                await drained
        except TimeoutError:
            left = {plugin: queue.qsize() for plugin, queue in self._queues.items() if queue.qsize()}
            _log.warning("events were not delivered before the server stopped", plugins=left)
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for rooms in (self._loops, self._threads):
            for room in rooms.values():
                room.stop()

    def has(self, hook: str) -> bool:
        """Whether any plugin implements the hook."""
        return bool(self._impls.get(hook))

    def plugins_of(self, hook: str) -> list[str]:
        """Return the names of the plugins that implement the hook, in the order of the calls."""
        return [impl.plugin_name for impl in self._impls.get(hook, [])]

    async def authenticate(self, request: Request) -> Identity | None:
        """Return the first plugin's answer to who makes the request.

        Raises:
            Unauthenticated: a plugin that is not the server's own authenticates, and none knows the request.
        """
        for impl in self._impls["authenticate"]:
            identity = await self._call("authenticate", impl, {"request": request})
            if identity is not None:
                known = self._expect("authenticate", impl.plugin_name, identity, Identity)
                self._expect("authenticate", impl.plugin_name, known.name, str)
                return known
        if any(plugin not in self._own for plugin in self.plugins_of("authenticate")):
            raise Unauthenticated(headers={"WWW-Authenticate": 'Bearer realm="uploads"'})
        return None

    async def authorize(self, request: Request, action: Action, upload: Upload | None) -> None:
        """Ask every plugin whether the request may do this; any may refuse."""
        await self._ask("authorize", {"request": request, "action": action, "upload": upload})

    async def pre_create(self, request: Request, upload: Upload) -> Changes:
        """Ask every plugin to refuse or change a new upload; who is asked later sees the changes so far."""
        total = Changes()
        for impl in self._impls["pre_create"]:
            changes = await self._call("pre_create", impl, {"request": request, "upload": upload})
            if changes is None:
                continue
            self._expect("pre_create", impl.plugin_name, changes, Changes)
            total = Changes(
                metadata=total.metadata if changes.metadata is None else changes.metadata,
                id=changes.id or total.id,
                path=changes.path or total.path,
            )
            upload = upload.changed(metadata=upload.metadata if total.metadata is None else total.metadata)
        return total

    async def inspect_head(self, upload: Upload, head: bytes) -> None:
        """Ask every plugin whether the first bytes are welcome."""
        await self._ask("inspect_head", {"upload": upload, "head": head})

    async def pre_finish(self, upload: Upload, content: Content) -> None:
        """Ask every plugin whether a complete upload is welcome."""
        await self._ask("pre_finish", {"upload": upload, "content": content})

    async def pre_terminate(self, request: Request, upload: Upload) -> None:
        """Ask every plugin whether the upload may be removed."""
        await self._ask("pre_terminate", {"request": request, "upload": upload})

    async def page(self, plugin: str, handler: Callable[[Request], Any], request: Request) -> Response:
        """Have a page that a plugin added answer the request."""
        response = await self._run("page", plugin, functools.partial(handler, request))
        return self._expect("page", plugin, response, Response)

    async def run_stage(self, job: Job, timeout: float, arguments: Mapping[str, Any]) -> Any:
        """Have a plugin do its job, and return its answer as JSON has it.

        Raises:
            Reject: the plugin says that another attempt would not help.
            TusError: this attempt failed; the message may be shown to the upload's owner.
        """
        hook, plugin = job.stage, job.plugin
        impl = next((impl for impl in self._impls[hook] if impl.plugin_name == plugin), None)
        if impl is None:
            raise HookFailed(f"there is no plugin {plugin!r} here that has {hook}")
        call = functools.partial(impl.function, **{name: arguments[name] for name in impl.argnames})
        try:
            answer = await self._run(hook, plugin, call, timeout)
        except Reject as refusal:
            if hook != "check":
                raise
            answer = Verdict(ok=False, reasons=[refusal.message])
        kind: type[Any] = {"check": Verdict, "describe": Mapping, "deliver": type(None)}[hook]
        try:
            result = msgspec.json.encode(self._expect(hook, plugin, answer, kind))
        except (TypeError, ValueError, RecursionError) as error:
            raise HookFailed(f"plugin {plugin!r} returned from {hook} what cannot be JSON: {error}") from error
        if len(result) > MAX_RESULT:
            raise Reject(f"plugin {plugin!r} returned {len(result)} bytes from {hook}; {MAX_RESULT} are allowed")
        return msgspec.json.decode(result)

    def post_create(self, request: Request, upload: Upload) -> None:
        """Tell that an upload was created."""
        self._observe("post_create", {"request": request, "upload": upload})

    def post_receive(self, upload: Upload, content: Content | None) -> None:
        """Tell that bytes arrived."""
        self._observe("post_receive", {"upload": upload, "content": content})

    def post_finish(self, upload: Upload) -> None:
        """Tell that an upload was accepted."""
        self._observe("post_finish", {"upload": upload})

    def post_terminate(self, upload: Upload) -> None:
        """Tell that an upload ended without success."""
        self._observe("post_terminate", {"upload": upload})

    def post_verdict(self, upload: Upload, verdict: Verdict) -> None:
        """Tell what was decided."""
        self._observe("post_verdict", {"upload": upload, "verdict": verdict})

    def post_request(self, request: Request, response: Response, seconds: float) -> None:
        """Tell that a request was answered."""
        self._observe("post_request", {"request": request, "response": response, "seconds": seconds})

    def measure(self, name: Any, value: float, **labels: str) -> None:
        """Tell one figure."""
        if self._impls["post_measure"]:
            self._observe("post_measure", {"measure": Measure(name, value, labels)})

    async def _ask(self, hook: str, arguments: Mapping[str, Any]) -> None:
        """Let every plugin refuse; one that returns anything thinks that this refuses, which it must not seem to."""
        for impl in self._impls[hook]:
            self._expect(hook, impl.plugin_name, await self._call(hook, impl, arguments), type(None))

    def _observe(self, hook: str, arguments: Mapping[str, Any]) -> None:
        for impl in self._impls[hook]:
            plugin = impl.plugin_name
            if plugin in self._own:
                try:
                    impl.function(**{name: arguments[name] for name in impl.argnames})
                except Exception:
                    _log.exception("plugin failed", plugin=plugin, hook=hook)
                continue
            try:
                self._queues[plugin].put_nowait((impl, hook, arguments))
            except asyncio.QueueFull:
                self._dropped[plugin] = dropped = self._dropped.get(plugin, 0) + 1
                if dropped == 1 or dropped % 1000 == 0:
                    _log.error("plugin is too slow: events are dropped", plugin=plugin, hook=hook, dropped=dropped)
                if hook != "post_measure":
                    self.measure("event_dropped", 1, plugin=plugin)

    async def _deliver(self, queue: asyncio.Queue[_Event]) -> None:
        while True:
            impl, hook, arguments = await queue.get()
            try:
                await self._call(hook, impl, arguments)
            except TusError as error:
                if not isinstance(error, HookFailed | HookTimeout):
                    _log.warning("a post_ hook cannot refuse", plugin=impl.plugin_name, hook=hook, error=error.message)
            finally:
                queue.task_done()

    async def _call(self, hook: str, impl: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
        values = {name: arguments[name] for name in impl.argnames if name in arguments}
        if impl.plugin_name in self._own:
            result = impl.function(**values)
            return await result if inspect.iscoroutine(result) else result
        return await self._run(hook, impl.plugin_name, functools.partial(impl.function, **values))

    async def _run(self, hook: str, plugin: str, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """Run one function of a plugin where it disturbs nobody, within the time-out."""
        started, outcome, timeout = time.perf_counter(), "ok", timeout or self._timeout
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                if not inspect.iscoroutinefunction(function):
                    return await self._threads_of(plugin).call(function)
                return await self._loop_of(plugin).call(function())
        except TusError as error:
            outcome = "refused"
            _log.info("plugin refused", plugin=plugin, hook=hook, code=error.code, reason=error.message)
            raise
        except Exception as error:
            if limit.expired():
                outcome = "timeout"
                _log.error("plugin did not answer in time", plugin=plugin, hook=hook, seconds=timeout)
                raise HookTimeout(f"plugin {plugin!r} did not answer in time") from error
            outcome = "error"
            _log.exception("plugin failed", plugin=plugin, hook=hook)
            raise HookFailed(f"plugin {plugin!r} failed in {hook}: {type(error).__name__}") from error
        finally:
            if hook != "post_measure":
                seconds = time.perf_counter() - started
                self.measure("hook", seconds, hook=hook, plugin=plugin, outcome=outcome)
                if seconds > timeout * SLOW_SHARE and outcome != "timeout":
                    _log.warning("plugin is slow", plugin=plugin, hook=hook, seconds=round(seconds, 3))

    def _loop_of(self, plugin: str) -> PluginLoop:
        if plugin not in self._loops:
            self._loops[plugin] = PluginLoop(plugin)
        return self._loops[plugin]

    def _threads_of(self, plugin: str) -> PluginThreads:
        if plugin not in self._threads:
            self._threads[plugin] = PluginThreads(plugin)
        return self._threads[plugin]

    def _expect(self, hook: str, plugin: str, answer: Any, kind: type[T]) -> T:
        """Return what a plugin answered if it is of this kind, and its fields of their types."""
        got, wanted = ("None" if one is type(None) else one.__name__ for one in (type(answer), kind))
        said = f"returned {got} from {hook} instead of {wanted}"
        if isinstance(answer, kind):
            if not isinstance(answer, Changes | Verdict):
                return answer
            try:  # msgspec does not look at what Python code puts into its fields
                return msgspec.convert(msgspec.to_builtins(answer), kind)
            except (msgspec.ValidationError, TypeError, RecursionError) as error:
                said = f"returned a wrong {got} from {hook}: {error}"
        _log.error("plugin returned a wrong type", plugin=plugin, hook=hook, got=got)
        raise HookFailed(f"plugin {plugin!r} {said}")
