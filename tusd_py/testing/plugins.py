"""Calls a plugin's hooks as the server does, without a server.

async with hooks_of(my_plugin, {"colour": "blue"}) as hooks:
    with pytest.raises(Reject):
        await hooks.inspect_head(upload, b"GIF89a")
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tusd_py.hooks.caller import Hooks
from tusd_py.hooks.plugins import call_register, plugin_manager


@contextlib.asynccontextmanager
async def hooks_of(
    plugin: object, settings: Mapping[str, Any] | None = None, *, timeout: float = 5
) -> AsyncIterator[Hooks]:
    """Give the hooks of one plugin, a module or an object, checked as at the start of a server.

    `settings` is the plugin's table of the TOML file. When the block ends, every event has been delivered.

    Raises:
        PluginError: it implements a hook that does not exist, or with other arguments.
        ConfigError: it does not like its settings.
    """
    manager = plugin_manager([("plugin", plugin)], entry_points=False)
    call_register(manager, "register_settings", lambda _: {"settings": settings or {}})
    hooks = Hooks(manager, timeout=timeout)
    await hooks.start()
    try:
        yield hooks
    finally:
        await hooks.stop(timeout)
