"""Finds plugins and puts them in order.

The default plugins are registered first and so are called last: pluggy calls who came last first.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pluggy

from tusd_py.config import ConfigError
from tusd_py.hooks import specs

NOT_THE_PLUGINS = ("<frozen", __file__, *(os.path.dirname(str(module.__file__)) for module in (importlib, pluggy)))
"""How the names of files begin through which a plugin is loaded."""


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
        for name in sorted({entry.name for entry in importlib.metadata.entry_points(group=specs.PROJECT)}):
            if manager.has_plugin(name):
                raise PluginError(f"plugin {name!r} is installed, but the server has one of its own with this name")
            _checked(name, functools.partial(manager.load_setuptools_entrypoints, specs.PROJECT, name))
            _check_kinds(manager, name)
    for text in named:
        name, plugin = load(text)
        if manager.is_registered(plugin):
            continue  # an installed one that is named too
        if manager.has_plugin(name):
            raise PluginError(f"plugin {text!r}: there is already a plugin {name!r}")
        _register(manager, plugin, name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hook = str(error).split("'")[1]
        meant = difflib.get_close_matches(hook, hook_names(), 1)
        hint = f"; did you mean {meant[0]!r}?" if meant else "; `tusd-py hooks` lists them"
        raise PluginError(f"plugin {manager.get_name(error.plugin)!r}: there is no hook {hook!r}{hint}") from error
    return manager


def load(text: str) -> tuple[str, object]:
    """Return name and module of a plugin given as a module name or as the path of a Python file."""
    if not text.endswith(".py") and "/" not in text:
        try:
            return text, importlib.import_module(text)
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {text!r} cannot be imported: {_named(error)}") from error
    path = Path(text).absolute()
    name = path.stem
    spec = importlib.util.spec_from_file_location(f"tusd_py_plugin_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PluginError(f"plugin {text!r}: there is no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {text!r} cannot be imported: {_named(error)}") from error
    return name, module


def implementations(manager: pluggy.PluginManager, hook: str) -> list[pluggy.HookImpl]:
    """Return who implements a hook, in the order of the calls."""
    caller: pluggy.HookCaller = getattr(manager.hook, hook)
    return list(reversed(caller.get_hookimpls()))


def call_register(manager: pluggy.PluginManager, hook: str, arguments: Callable[[str], Mapping[str, Any]]) -> None:
    """Call a `register_` hook of all plugins; `arguments` returns what the plugin of this name gets.

    A plugin that returns False from `register_settings` is blocked from then on, and left out are the hooks of which
    it returns the names.

    Raises:
        ConfigError: a plugin does not like its settings.
        PluginError: a plugin fails.
    """
    for impl in implementations(manager, hook):
        values = arguments(impl.plugin_name)
        try:
            answer = impl.function(**{name: values[name] for name in impl.argnames})
        except ConfigError:
            raise
        except Exception as error:
            # Among them is what msgspec.convert raises.
            if hook == "register_settings" and isinstance(error, ValueError):
                raise ConfigError(f"[plugins.{impl.plugin_name}]: {error}") from error
            raise PluginError(f"plugin {impl.plugin_name!r} failed in {hook}: {_named(error)}") from error
        if hook == "register_settings" and answer is False:
            manager.set_blocked(impl.plugin_name)
        elif hook == "register_settings" and isinstance(answer, Set):
            if unknown := answer - {*hook_names()}:
                raise PluginError(f"plugin {impl.plugin_name!r}: there is no hook {min(unknown)!r} to leave out")
            for name in answer:
                # What `unregister` does with each hook; pluggy has no public name for one alone.
                with contextlib.suppress(ValueError):  # it has none
                    getattr(manager.hook, name)._remove_plugin(impl.plugin)


def hook_names() -> list[str]:
    """Return the names of all hooks in the order of the specifications."""
    return [name for name, value in vars(specs).items() if _is_spec(value)]


def _is_spec(value: Any) -> bool:
    return inspect.isfunction(value) and hasattr(value, f"{specs.PROJECT}_spec")


def signature(hook: str) -> str:
    """Return a hook's name with its arguments."""
    return f"{hook}({', '.join(inspect.signature(getattr(specs, hook)).parameters)})"


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    _checked(name, functools.partial(manager.register, plugin, name))
    _check_kinds(manager, name)


def _checked(name: str, register: Callable[[], object]) -> None:
    """Register a plugin, and say which it was if that fails."""
    try:
        register()
    except pluggy.PluginValidationError as error:
        lines = str(error).strip().splitlines()
        hook = next((hook for hook in hook_names() if f"hook '{hook}'" in lines[0]), None)
        expected = f"; the hook is {signature(hook)}" if hook else ""
        raise PluginError(f"plugin {name!r}: {lines[-1]}{expected}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {name!r} cannot be imported: {_named(error)}") from error


def _check_kinds(manager: pluggy.PluginManager, name: str) -> None:
    """Refuse functions that would be taken and never work."""
    plugin = manager.get_plugin(name)
    if plugin is None:
        return  # it is blocked
    for module in pkgutil.iter_modules(getattr(plugin, "__path__", ())):
        path = f"{plugin.__name__}.{module.name}"
        # One that is imported already, and has not taken the function's place, never will.
        is_harmless = path in sys.modules and getattr(plugin, module.name) is not sys.modules[path]
        if module.name in hook_names() and not is_harmless:
            raise PluginError(
                f"plugin {name!r}: its module {path} has the name of a hook, and when it is imported it takes the "
                "function's place; rename it"
            )
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise PluginError(f"plugin {name!r} implements no hook; mark its functions with @hookimpl")
    for caller in callers:
        for impl in caller.get_hookimpls():
            if impl.plugin is not plugin:
                continue
            if impl.hookwrapper or impl.wrapper:
                raise PluginError(f"plugin {name!r}: {caller.name} is a wrapper, which async hooks cannot have")
            if inspect.isgeneratorfunction(impl.function) or inspect.isasyncgenfunction(impl.function):
                raise PluginError(f"plugin {name!r}: {caller.name} has a `yield`; hooks return their answer")
            if caller.name.startswith("register_") and inspect.iscoroutinefunction(impl.function):
                raise PluginError(f"plugin {name!r}: {caller.name} must be a plain function, not async")


def _named(error: BaseException) -> str:
    """Return what went wrong, and the last line of the plugin's own folder that led there."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(NOT_THE_PLUGINS)
    ]
    if not frames:
        return f"{type(error).__name__}: {error}"
    own = Path(frames[0].filename).parent
    last = [frame for frame in frames if own in Path(frame.filename).parents][-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
