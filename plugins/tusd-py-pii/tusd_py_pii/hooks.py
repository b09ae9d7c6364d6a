"""The hooks that this plugin offers to others: more recognizers, and models, from code.

    # my_rules.py, named in the setting `recognizers` or in the entry-point group "tusd_py_pii"
    from tusd_py_pii.hooks import hookimpl
    from tusd_py_pii.rules import Rule

    @hookimpl
    def register_recognizers(register):
        register(Rule(name="badge", type="badge", pattern=r"(?<![A-Z0-9])B-[0-9]{6}(?![0-9])", check="my_rules:real"))

It is a pluggy project of its own, so that processes that scan need nothing of the server.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import pluggy

from tusd_py_pii.errors import RuleError
from tusd_py_pii.rules import Rule, judge

PROJECT = "tusd_py_pii"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[Rule], None]
RegisterModel = Callable[[str, str], None]
Model = Callable[[Sequence[str]], Sequence[Sequence[tuple[int, int, str]]]]
"""Takes texts, and returns for each what it thinks is in it, as `(start, stop, type)`."""

PRESIDIO = "tusd_py_pii.names:presidio"


@hookspec
def register_recognizers(register: Register) -> None:
    """Add rules with `register(rule)`; one with the name of another replaces it.

    A `check` of the form `module:function` gets the bytes that matched and says whether they can be real; it runs in
    the processes that scan, so it is named and not handed over.
    """


@hookspec
def register_models(register: RegisterModel) -> None:
    """Add a model with `register("mine", "module:function")`; the setting `model` chooses one by its name.

    The function gets the setting `model_options` as keywords and returns a `Model`. It is called in a process of its
    own, for a sample of the cells of a file, and what it finds is advice: it quarantines nothing.
    """


def recognizers(modules: Sequence[str] = (), *, entry_points: bool = True) -> list[Rule]:
    """Return the rules that installed packages and the named modules register.

    Raises:
        RuleError: a module cannot be imported, or a rule cannot be used.
    """
    rules: list[Rule] = []

    def register(rule: Rule) -> None:
        judge(rule)
        rules.append(rule)

    _manager(modules, entry_points).hook.register_recognizers(register=register)
    return rules


def models(modules: Sequence[str] = ()) -> dict[str, str]:
    """Return the models that there are, as `module:function` by name.

    Raises:
        RuleError: a module cannot be imported.
    """
    known = {"presidio": PRESIDIO}

    def register(name: str, function: str) -> None:
        known[name] = function

    _manager(modules, True).hook.register_models(register=register)
    return known


def _manager(modules: Sequence[str], entry_points: bool) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(importlib.import_module(__name__))
    try:
        if entry_points:
            manager.load_setuptools_entrypoints(PROJECT)
        for name in modules:
            manager.register(importlib.import_module(name), name)
        manager.check_pending()
    except (ImportError, ValueError, pluggy.PluginValidationError) as error:
        raise RuleError(f"recognizers: {error}") from error
    return manager
