"""Threads and event loops of plugins: one that hangs keeps neither others waiting nor the process alive."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

THREADS = 16
"""So many plain functions of one plugin run at a time; further calls wait, within their time-out."""
P = ParamSpec("P")
T = TypeVar("T")


class _Daemons:
    """A few threads, which end with the process; those of the standard library's pools keep it from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._threads = 0

    def put(self, job: Callable[[], None]) -> None:
        """Have a job done, which raises nothing."""
        self._jobs.put(job)
        with self._lock:
            self._unfinished += 1
            is_one_more = self._threads < min(self._unfinished, THREADS)
            self._threads += is_one_more
        if is_one_more:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Ask the threads to end; one that hangs ends with the process."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._unfinished -= 1


class PluginThreads:
    """Threads for a plugin's plain functions."""

    def __init__(self, plugin: str) -> None:
        """Start none yet."""
        self._daemons = _Daemons(f"plugin {plugin}")

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run the function in a thread, in the caller's context."""
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result((result, error))

        def job() -> None:
            result, error = None, None
            try:
                if not ended.done():  # else its time ran out before a thread was free
                    result = context.run(function)
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(settle, result, error)

        self._daemons.put(job)
        result, error = await ended
        if error is not None:
            raise _harmless(error)
        return result

    def stop(self) -> None:
        """Ask the threads to end."""
        self._daemons.stop()


class PluginLoop:
    """An event loop in a thread of its own, so that what a plugin blocks is its own loop and not the server's."""

    def __init__(self, plugin: str) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Executor(f"plugin {plugin}"))
        threading.Thread(target=self._run, name=f"plugin {plugin}", daemon=True).start()

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await the coroutine there, in the caller's context."""

        async def guarded() -> Any:
            try:
                return await coroutine
            except (SystemExit, KeyboardInterrupt) as error:
                raise _harmless(error) from error

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(guarded(), self._loop))

    def stop(self) -> None:
        """Ask the loop to end; a blocked one ends with the process."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancel_others())
        finally:
            self._loop.close()


class _Executor(ThreadPoolExecutor):
    """What `asyncio.to_thread` runs in; a loop takes no executor that is not of this class."""

    def __init__(self, name: str) -> None:
        super().__init__(max_workers=1)  # none of its own threads is ever started
        self._daemons = _Daemons(name)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._daemons.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._daemons.stop()


def _harmless(error: BaseException) -> Exception:
    """Return what a plugin raised as an error that ends the call and not the server, as `sys.exit()` would."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} in a plugin: {error}")


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
