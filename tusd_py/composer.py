"""Makes the objects of a server from its configuration and puts them together."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pluggy

from tusd_py.backends import Rules
from tusd_py.config import Config, ConfigError, redacted
from tusd_py.default_plugins import default_plugins
from tusd_py.default_plugins.access import Access
from tusd_py.default_plugins.limits import Limits
from tusd_py.default_plugins.metrics import Metrics
from tusd_py.hooks.caller import Hooks
from tusd_py.hooks.plugins import call_register, plugin_manager
from tusd_py.hooks.specs import RegisterRoute
from tusd_py.models import Action
from tusd_py.protocol import extensions_for
from tusd_py.protocol.core import Protocol
from tusd_py.stores.base import Movable
from tusd_py.uploads import Uploads

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")

# "module:Class" by kind and URL scheme; imported only when chosen, so that what is not used need not be installed.
BACKENDS: dict[tuple[str, str], str] = {
    ("store", "file"): "tusd_py.stores.file:FileStore",
    ("store", "s3"): "tusd_py.stores.s3:S3Store",
    ("store", "memory"): "tusd_py.stores.memory:MemoryStore",
    **{("state", scheme): "tusd_py.state.redis:RedisState" for scheme in REDIS_SCHEMES},
    ("state", "sqlite"): "tusd_py.state.sqlite:SqliteState",
    ("state", "memory"): "tusd_py.state.memory:MemoryState",
    **{("locker", scheme): "tusd_py.lockers.redis:RedisLocker" for scheme in REDIS_SCHEMES},
    ("locker", "file"): "tusd_py.lockers.file:FileLocker",
    ("locker", "memory"): "tusd_py.lockers.memory:MemoryLocker",
}


EXTRAS = {"aiobotocore": "s3", "botocore": "s3"}
"""Packages that are only installed with an extra of ours."""

OWN = frozenset({Access, Limits, Metrics})
"""The plugins that are called in place, because they do not block and wait for nothing but Redis, in time."""


@dataclass(frozen=True)
class Route:
    """A page that a plugin adds."""

    method: str
    path: str
    handler: Callable[..., Any]
    action: Action | None
    plugin: str
    query: type[msgspec.Struct] | None = None
    """What the query may hold, for the document of OpenAPI."""
    answer: Any = None
    """The type of an answer in JSON, for that too."""
    media: str = "application/json"


@dataclass(frozen=True)
class Parts:
    """One server, put together and open."""

    config: Config
    manager: pluggy.PluginManager
    hooks: Hooks
    uploads: Uploads
    protocol: Protocol
    routes: list[Route]


def load_plugins(config: Config) -> pluggy.PluginManager:
    """Return the plugins of a configuration, each with its own settings.

    Raises:
        PluginError: one cannot be loaded.
        ConfigError: one does not like its settings, or there are settings of a plugin that is not there.
    """
    manager = plugin_manager(default_plugins(config), named=config.plugin, blocked=config.block_plugin)
    for name in config.plugins:
        if not manager.has_plugin(name) and not manager.is_blocked(name):
            meant = difflib.get_close_matches(name, [name for name, _ in manager.list_name_plugin()], 1)
            hint = f"; did you mean [plugins.{meant[0]}]?" if meant else "; `tusd-py plugins` lists them"
            raise ConfigError(f"there are settings [plugins.{name}], but no plugin of this name is loaded{hint}")
    call_register(manager, "register_settings", lambda plugin: {"settings": config.plugins.get(plugin, {})})
    return manager


def make_backend(kind: str, url: str, config: Config, manager: pluggy.PluginManager) -> Any:
    """Return the store, state or locker that a URL names, not open yet.

    Raises:
        ConfigError: nothing serves the URL's scheme, or its module cannot be imported.
    """
    table = dict(BACKENDS)

    def register(backend: str, scheme: str, target: str) -> None:
        table[backend, scheme] = target

    call_register(manager, "register_stores", lambda plugin: {"register": register})
    scheme = url.partition(":")[0]
    target = table.get((kind, scheme))
    if target is None or ":" not in url:
        known = ", ".join(sorted(f"{name}:" for backend, name in table if backend == kind))
        raise ConfigError(f"{kind} {redacted(url)!r} is of no known kind; there are {known}")
    module, _, name = target.partition(":")
    try:
        backend = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if extra := EXTRAS.get((error.name or "").partition(".")[0]):
            raise ConfigError(f"{kind} {scheme}: needs more packages: pip install 'tusd-py[{extra}]'") from error
        raise ConfigError(f"{kind} {scheme}: cannot be loaded from {target}: {error}") from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{kind} {scheme}: cannot be loaded from {target}: {error}") from error
    if scheme == "memory" and config.workers > 1:
        raise ConfigError(f"{kind} memory: lives in one process; {config.workers} workers need a shared one")
    return backend.from_url(url, config)


@contextlib.asynccontextmanager
async def compose(config: Config, plugins: Mapping[str, object] | None = None) -> AsyncIterator[Parts]:
    """Open everything that a server needs, and close it in reverse order.

    Args:
        config: the settings.
        plugins: further plugins by name, for tests and embedding.

    Raises:
        ConfigError, PluginError: the configuration does not work.
        StoreUnavailable: a backend cannot be used.
    """
    manager = load_plugins(config)
    for name, plugin in (plugins or {}).items():
        manager.register(plugin, name)
    store = make_backend("store", config.store_url, config, manager)
    if config.quarantine_prefix and not isinstance(store, Movable):
        raise ConfigError("quarantine_prefix: this store cannot move uploads")
    state = make_backend("state", config.state_url, config, manager)
    locker = make_backend("locker", config.locker_url, config, manager)
    hooks = Hooks(
        manager,
        timeout=config.hook_timeout.total_seconds(),
        own=[name for name, plugin in manager.list_name_plugin() if type(plugin) in OWN],
    )
    async with contextlib.AsyncExitStack() as stack:
        for backend in (store, state):
            await backend.open()
            stack.push_async_callback(backend.aclose)
        await locker.open(await state.highest_fence() + 1)
        stack.push_async_callback(locker.aclose)
        for plugin in manager.get_plugins():
            if isinstance(plugin, Limits):
                stack.push_async_callback(plugin.aclose)
        await hooks.start()
        stack.push_async_callback(hooks.stop, config.shutdown_timeout.total_seconds() / 4)
        uploads = Uploads(store, state, locker, hooks, _rules(config))
        protocol = Protocol(uploads, extensions_for(store, config), config.max_size)
        yield Parts(config, manager, hooks, uploads, protocol, plugin_routes(manager))


def plugin_routes(manager: pluggy.PluginManager) -> list[Route]:
    """Return the pages that plugins add."""
    routes: list[Route] = []

    def register_for(plugin: str) -> RegisterRoute:
        def register(
            method: str, path: str, handler: Callable[..., Any], action: Action | None = None, /, **described: Any
        ) -> None:
            routes.append(Route(method, path, handler, action, plugin, **described))

        return register

    call_register(manager, "register_routes", lambda plugin: {"register": register_for(plugin)})
    return routes


def _rules(config: Config) -> Rules:
    return Rules(
        max_size=config.max_size,
        expire_after=config.expire_after or None,
        remember_ended=config.remember_ended,
        lock_timeout=config.lock_timeout.total_seconds(),
        progress_interval=config.progress_interval.total_seconds(),
        head_size=config.head_size,
        concatenation_unfinished=config.concatenation_unfinished,
        quarantine_prefix=config.quarantine_prefix,
    )
