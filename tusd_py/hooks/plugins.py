"""Finds plugins and puts them in order.

The default plugins are registered first and so are called last: pluggy calls who came last first.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pluggy

from tusd_py.hooks import specs


class PluginError(Exception):
    """A plugin cannot be loaded; the message names it."""


def plugin_manager(
    defaults: Iterable[tuple[str, object]] = (),
    *,
    named: Sequence[str] = (),
    blocked: Sequence[str] = (),
    entry_points: bool = True,
) -> pluggy.PluginManager:
    """Return a manager with default, installed and named plugins, checked against the specifications.

    Args:
        defaults: names and plugins that belong to the server.
        named: modules or paths of Python files to load besides the installed ones.
        blocked: names of plugins not to load.
        entry_points: whether to load installed distributions' plugins (entry-point group `tusd_py`).

    Raises:
        PluginError: one cannot be imported, or implements a hook that does not exist or with other arguments.
    """
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs)
    for name in blocked:
        manager.set_blocked(name)
    for name, plugin in defaults:
        _register(manager, plugin, name)
    if entry_points:
        for entry in sorted(importlib.metadata.entry_points(group=specs.PROJECT), key=lambda entry: entry.name):
            if manager.is_blocked(entry.name) or manager.has_plugin(entry.name):
                continue
            try:
                plugin = entry.load()
            except Exception as error:
                raise PluginError(f"plugin {entry.name!r} ({entry.value}) cannot be imported: {error}") from error
            _register(manager, plugin, entry.name)
    for text in named:
        name, plugin = load(text)
        if not manager.is_blocked(name) and not manager.has_plugin(name):
            _register(manager, plugin, name)
    for name in blocked:
        _check_block(manager, name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"plugin {manager.get_name(error.plugin)!r}: {_short(error)}; `tusd-py hooks` lists them"
        ) from error
    return manager


def load(text: str) -> tuple[str, object]:
    """Return name and module of a plugin given as a module name or as the path of a Python file."""
    if not text.endswith(".py") and "/" not in text:
        try:
            return text, importlib.import_module(text)
        except Exception as error:
            raise PluginError(f"plugin {text!r} cannot be imported: {error}") from error
    path = Path(text).absolute()
    name = path.stem
    spec = importlib.util.spec_from_file_location(f"tusd_py_plugin_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PluginError(f"plugin {text!r} is not a Python file that can be read")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(f"plugin {text!r} cannot be imported: {type(error).__name__}: {error}") from error
    return name, module


def implementations(manager: pluggy.PluginManager, hook: str) -> list[pluggy.HookImpl]:
    """Return who implements a hook, in the order of the calls."""
    caller: pluggy.HookCaller = getattr(manager.hook, hook)
    return list(reversed(caller.get_hookimpls()))


def hook_names() -> list[str]:
    """Return the names of all hooks in the order of the specifications."""
    return [name for name, value in vars(specs).items() if _is_spec(value)]


def _is_spec(value: Any) -> bool:
    return inspect.isfunction(value) and hasattr(value, f"{specs.PROJECT}_spec")


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {name!r}: {_short(error)}; `tusd-py hooks` shows the hooks") from error
    for caller in manager.get_hookcallers(plugin) or ():
        for impl in caller.get_hookimpls():
            if impl.plugin is plugin and (impl.hookwrapper or impl.wrapper):
                raise PluginError(f"plugin {name!r}: {caller.name} is a wrapper, which async hooks cannot have")


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if "\n" in str(error).strip() else str(error)


def _check_block(manager: pluggy.PluginManager, name: str) -> None:
    if manager.has_plugin(name):
        raise PluginError(f"plugin {name!r} could not be blocked")
