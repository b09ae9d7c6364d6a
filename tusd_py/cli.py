"""The command `tusd-py`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from tusd_py import __version__, logs
from tusd_py.cli_jobs import jobs, worker
from tusd_py.cli_settings import SettingsCommand, reported, with_settings
from tusd_py.cli_upload import upload
from tusd_py.cli_uploads import uploads
from tusd_py.composer import compose, load_plugins, plugin_routes
from tusd_py.config import Config, ConfigError, redacted
from tusd_py.errors import TusError
from tusd_py.hooks import specs
from tusd_py.hooks.plugins import (
    PluginError,
    call_register,
    hook_names,
    implementations,
    plugin_manager,
    signature,
)
from tusd_py.settings import Sources, fields, show


class Commands(click.Group):
    """The commands of tusd-py, and those of installed plugins once one is asked for that is not its own."""

    _complete = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        self._add_plugin_commands()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command."""
        if cmd_name not in self.commands:
            self._add_plugin_commands()
        return super().get_command(ctx, cmd_name)

    def _add_plugin_commands(self) -> None:
        if self._complete:
            return
        self._complete, own = True, dict(self.commands)
        try:
            call_register(plugin_manager(), "register_commands", lambda _: {"cli": self})
        except (PluginError, ConfigError) as error:
            # A broken plugin costs commands, not the whole program.
            click.echo(f"warning: commands of plugins are missing: {error}", err=True)
        self.commands.update(own)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tusd-py")
def cli() -> None:
    """A resumable-upload server: tus 1.0 on local disk, with plugins.

    \b
    Start a server:   tusd-py serve
    Upload a file:    tusd-py upload FILE http://127.0.0.1:8080/files/
    See uploads:      tusd-py uploads list
    """


@cli.command(cls=SettingsCommand)
@with_settings(shown=True)
def serve(sources: Sources) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Settings come from flags, then TUSD_PY_* variables, then the TOML file of --config.
    """
    from tusd_py.web.serve import run  # not at the top, for the other commands start faster without aiohttp

    logs.configure(sources.config)
    sys.exit(reported(lambda: run(sources.config)))


@cli.command(cls=SettingsCommand)
@with_settings()
def check(sources: Sources) -> None:
    """Show what a server with these settings uses, and what is wrong."""
    from tusd_py.web.serve import tls_context, try_to_listen
    from tusd_py.worker import Worker

    config = sources.config
    logs.configure(msgspec.structs.replace(config, log_level="error"))
    problems: list[str] = []

    def attempt(action: Callable[[], object]) -> None:
        try:
            action()
        except (ConfigError, PluginError) as error:
            problems.append(str(error))
        except TusError as error:
            problems.append(error.message)

    async def look() -> None:
        async with compose(config) as parts:
            click.echo(f"store       {redacted(config.store_url)}")
            click.echo(f"state       {redacted(config.state_url)}")
            click.echo(f"locker      {redacted(config.locker_url)}")
            click.echo(f"jobs        {redacted(config.jobs_url)}")
            names = [name for extension in parts.protocol.extensions for name in extension.names]
            click.echo(f"extensions  {', '.join(names)}")
            click.echo("plugins     in the order in which they are called")
            for name, hooks in plugin_table(parts.manager):
                click.echo(f"            {name}: {', '.join(hooks)}")
            for route in parts.routes:
                click.echo(f"page        {route.method} {route.path} (plugin {route.plugin})")
            if problem := await parts.uploads.problem():
                problems.append(problem)
            if any(parts.hooks.has(stage) for stage in specs.STAGES):
                Worker(parts, runs=False)  # says what is missing

    attempt(lambda: asyncio.run(look()))
    attempt(lambda: tls_context(config))
    attempt(lambda: try_to_listen(config))
    problems += warnings(config)
    for problem in problems:
        click.echo(f"problem     {problem}", err=True)
    click.echo("ready to serve" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    sys.exit(1 if problems else 0)


def warnings(config: Config) -> list[str]:
    """Return what is allowed but hardly meant."""
    found = []
    if config.host not in ("127.0.0.1", "::1", "localhost") and not config.tls_cert and not config.behind_proxy:
        found.append(f"{config.host} is open to the network without TLS; set tls_cert and tls_key, or behind_proxy")
    for kind, url in (("store", config.store_url), ("state", config.state_url)):
        if url.startswith("memory:"):
            found.append(f"the {kind} is in memory: everything is lost when the server stops")
    return found


def plugin_table(manager: Any) -> list[tuple[str, list[str]]]:
    """Return each plugin's name and hooks, in the order in which plugins are called, and then those that are off."""
    table: dict[str, list[str]] = {}
    off: dict[str, list[str]] = {}
    for name, plugin in reversed(manager.list_name_plugin()):
        if plugin is None:
            off[name] = ["off: blocked, or its settings leave it nothing to do"]
        elif callers := manager.get_hookcallers(plugin):
            table[name] = sorted(caller.name for caller in callers)
    return [*table.items(), *off.items()]


@cli.command(cls=SettingsCommand)
@with_settings()
def config(sources: Sources) -> None:
    """Show every setting: value, origin, meaning, default."""
    click.echo(f"{'SETTING':28}{'VALUE':24} {'FROM':28} MEANING")
    group = ""
    for field in fields():
        if field.group != group:
            group = field.group
            click.echo(click.style(f"\n{group}", bold=True))
        value, origin = getattr(sources.config, field.name), sources.origin.get(field.name)
        text = "(set)" if field.secret and value else show(list(value) if field.is_table else value)
        default = f" (default: {show(field.default)})" if origin and not field.is_table else ""
        click.echo(f"  {field.name:26}{text:24} {origin or 'default':28} {field.help}{default}")


@cli.command(cls=SettingsCommand)
@with_settings()
def plugins(sources: Sources) -> None:
    """List the plugins in the order in which they are called."""
    manager = reported(lambda: load_plugins(sources.config))
    distributions = {
        id(plugin): f"{dist.project_name} {dist.version}" for plugin, dist in manager.list_plugin_distinfo()
    }
    for name, hooks in plugin_table(manager):
        plugin = manager.get_plugin(name)
        origin = distributions.get(id(plugin)) or getattr(plugin, "__file__", None) or (plugin and "part of tusd-py")
        click.echo(f"{name:20}{origin or '':32}{', '.join(hooks)}")
    for route in plugin_routes(manager):
        click.echo(f"{route.plugin:20}{'':32}{route.method} {route.path}")


@cli.command(cls=SettingsCommand)
@with_settings()
def hooks(sources: Sources) -> None:
    """List every hook that a plugin can implement, and who does."""
    manager = reported(lambda: load_plugins(sources.config))
    for name in hook_names():
        users = ", ".join(impl.plugin_name for impl in implementations(manager, name))
        click.echo(click.style(signature(name), bold=True) + (f"  used by {users}" if users else ""))
        click.echo(f"    {(getattr(specs, name).__doc__ or '').strip().splitlines()[0]}")


for command in (upload, uploads, jobs, worker):
    cli.add_command(command)


def main() -> None:
    """Run the command."""
    cli(prog_name="tusd-py")
