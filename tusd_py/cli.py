"""The command `tusd-py`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from tusd_py import __version__, logs
from tusd_py.cli_upload import upload
from tusd_py.composer import Parts, compose, load_plugins, plugin_routes
from tusd_py.config import Config, ConfigError, Field, Sources, fields, load
from tusd_py.errors import TusError
from tusd_py.hooks import specs
from tusd_py.hooks.plugins import PluginError, hook_names, implementations
from tusd_py.models import Status, Upload
from tusd_py.state.base import Filter
from tusd_py.units import format_duration, format_size
from tusd_py.web import serve as web_serve

T = TypeVar("T")
Command = Callable[..., Any]


def with_settings(command: Command) -> Command:
    """Add a flag for every setting, and pass the joined settings as the argument `sources`."""
    by_name = {field.name: field for field in fields() if not field.is_table}

    def invoke(config_file: str | None, **values: Any) -> Any:
        flags = {name: values.pop(name) for name in by_name}
        given = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in flags.items()
            if value not in (None, ())
        }
        try:
            sources = load(given, file=config_file)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        return command(sources=sources, **values)

    invoke.__name__, invoke.__doc__ = command.__name__, command.__doc__
    wrapped: Command = invoke
    for field in reversed(by_name.values()):
        wrapped = _flag(field)(wrapped)
    config_file = click.option(
        "--config", "config_file", metavar="FILE", help="TOML file with settings. [env: TUSD_PY_CONFIG]"
    )
    return config_file(wrapped)


def _flag(field: Field) -> Callable[[Command], Command]:
    text = f"{field.help} [env: {field.variable}]"
    if not field.secret and field.default not in (None, [], False):
        text += f" [default: {show(field.default)}]"
    if field.type is bool:
        return click.option(f"{field.flag}/--no-{field.name.replace('_', '-')}", field.name, default=None, help=text)
    kind = click.Choice(field.choices) if field.choices else str
    metavar = None if field.choices else ("TEXT" if field.type is str else None)
    return click.option(
        field.flag, field.name, default=None, help=text, type=kind, multiple=field.is_list, metavar=metavar
    )


def show(value: Any) -> str:
    """Return a setting's value as it would be written."""
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def reported(action: Callable[[], T]) -> T:
    """Run an action, and end with a message instead of a traceback if the configuration or the storage is wrong."""
    try:
        return action()
    except (ConfigError, PluginError) as error:
        raise click.ClickException(str(error)) from error
    except TusError as error:
        raise click.ClickException(error.message) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tusd-py")
def cli() -> None:
    """A resumable-upload server: tus 1.0 on local disk, with plugins.

    \b
    Start a server:   tusd-py serve
    Upload a file:    tusd-py upload FILE http://127.0.0.1:8080/files/
    See uploads:      tusd-py uploads list
    """


@cli.command()
@with_settings
def serve(sources: Sources) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Settings come from flags, then TUSD_PY_* variables, then the TOML file of --config.
    """
    logs.configure(sources.config)
    sys.exit(reported(lambda: web_serve.run(sources.config)))


@cli.command()
@with_settings
def check(sources: Sources) -> None:
    """Say what a server with these settings would use, and what is wrong with them."""
    config = sources.config
    logs.configure(msgspec.structs.replace(config, log_level="error"))
    problems: list[str] = []

    async def look() -> None:
        async with compose(config) as parts:
            click.echo(f"store       {config.store_url}")
            click.echo(f"state       {config.state_url}")
            click.echo(f"locker      {config.locker_url}")
            names = [name for extension in parts.protocol.extensions for name in extension.names]
            click.echo(f"extensions  {', '.join(names)}")
            click.echo("plugins     in the order in which they are called")
            for name, hooks in plugin_table(parts.manager):
                click.echo(f"            {name}: {', '.join(hooks)}")
            for route in parts.routes:
                click.echo(f"page        {route.method} {route.path} (plugin {route.plugin})")
            if problem := await parts.uploads.store.problem():
                problems.append(problem)

    reported(lambda: asyncio.run(look()))
    reported(lambda: web_serve.tls_context(config))
    reported(lambda: web_serve.listen(config).close())
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
    """Return each plugin's name and hooks, in the order in which plugins are called."""
    table: dict[str, list[str]] = {}
    for name, plugin in reversed(manager.list_name_plugin()):
        callers = manager.get_hookcallers(plugin) if plugin is not None else None
        if callers:
            table[name] = sorted(caller.name for caller in callers)
    return list(table.items())


@cli.command()
@with_settings
def config(sources: Sources) -> None:
    """Show every setting, its value and where it came from."""
    group = ""
    for field in fields():
        if field.group != group:
            group = field.group
            click.echo(click.style(f"\n{group}" if group != "Network" else group, bold=True))
        value = getattr(sources.config, field.name)
        text = "(set)" if field.secret and value else show(value) if not field.is_table else f"{len(value)} tables"
        click.echo(f"  {field.name:26}{text:24}{sources.origin.get(field.name, 'default'):28}{field.help}")


@cli.command()
@with_settings
def plugins(sources: Sources) -> None:
    """List the plugins in the order in which they are called."""
    manager = reported(lambda: load_plugins(sources.config))
    distributions = {
        id(plugin): f"{dist.project_name} {dist.version}" for plugin, dist in manager.list_plugin_distinfo()
    }
    for name, hooks in plugin_table(manager):
        plugin = manager.get_plugin(name)
        origin = distributions.get(id(plugin)) or getattr(plugin, "__file__", None) or "part of tusd-py"
        click.echo(f"{name:20}{origin:32}{', '.join(hooks)}")
    for route in plugin_routes(manager):
        click.echo(f"{route.plugin:20}{'':32}{route.method} {route.path}")


@cli.command()
@with_settings
def hooks(sources: Sources) -> None:
    """List every hook that a plugin can implement, and who does."""
    manager = reported(lambda: load_plugins(sources.config))
    for name in hook_names():
        first = (getattr(specs, name).__doc__ or "").strip().splitlines()[0]
        users = ", ".join(impl.plugin_name for impl in implementations(manager, name))
        click.echo(f"{name:20}{first}" + (f"  [{users}]" if users else ""))


@cli.group()
def uploads() -> None:
    """Look at uploads and remove them; works beside a running server."""


def _run_beside(sources: Sources, action: Callable[[Parts], Coroutine[Any, Any, T]]) -> T:
    logs.configure(msgspec.structs.replace(sources.config, log_level="warning"))
    for url in (sources.config.state_url, sources.config.store_url):
        if url.startswith("memory:"):
            raise click.ClickException(f"{url} lives in the server's process; ask its status API instead")
    if not Path(sources.config.upload_dir).exists() and sources.config.state is None:
        raise click.ClickException(f"there is no upload directory {sources.config.upload_dir}; give --upload-dir")

    async def run() -> T:
        async with compose(sources.config) as parts:
            return await action(parts)

    return reported(lambda: asyncio.run(run()))


@uploads.command("list")
@click.option("--status", type=click.Choice(list(Status)), help="Only uploads with this status.")
@click.option("--owner", help="Only uploads of this owner.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most uploads to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_settings
def list_uploads(sources: Sources, status: str | None, owner: str | None, limit: int, as_json: bool) -> None:
    """List uploads, the newest first."""

    async def look(parts: Parts) -> tuple[list[Upload], bool]:
        found: list[Upload] = []
        after: str | None = None
        wanted = Filter(status=Status(status) if status else None, owner=owner)
        while len(found) < limit:
            page = await parts.uploads.state.page(wanted, after, min(1000, limit - len(found)))
            found += page.uploads
            if (after := page.next) is None:
                return found, False
        return found, True

    found, more = _run_beside(sources, look)
    if as_json:
        for upload in found:
            click.echo(msgspec.json.encode(upload))
        return
    click.echo(f"{'ID':34}{'STATUS':13}{'STORED':>10} {'OF':>10}  {'CREATED':21}NAME")
    for upload in found:
        length = "?" if upload.length is None else format_size(upload.length)
        name = "".join(letter for letter in upload.metadata.get("filename", "") if letter.isprintable())
        created = upload.created_at.strftime("%Y-%m-%d %H:%M:%SZ")
        click.echo(f"{upload.id:34}{upload.status:13}{format_size(upload.offset):>10} {length:>10}  {created:21}{name}")
    if more:
        click.echo(f"(the first {limit}; there are more)", err=True)


@uploads.command("show")
@click.argument("upload_id", metavar="ID")
@with_settings
def show_upload(sources: Sources, upload_id: str) -> None:
    """Show everything that is known of one upload, as JSON."""
    upload = _run_beside(sources, lambda parts: parts.uploads.find(upload_id))
    click.echo(msgspec.json.format(msgspec.json.encode(upload), indent=2))


@uploads.command("delete")
@click.argument("upload_ids", metavar="ID...", nargs=-1, required=True)
@with_settings
def delete_uploads(sources: Sources, upload_ids: tuple[str, ...]) -> None:
    """Remove uploads and their bytes; one that is being received is stopped."""

    async def remove(parts: Parts) -> int:
        failed = 0
        for upload_id in upload_ids:
            try:
                await parts.uploads.remove(upload_id)
                click.echo(f"{upload_id} removed")
            except TusError as error:
                failed += 1
                click.echo(f"{upload_id} not removed: {error.message}", err=True)
        return failed

    sys.exit(1 if _run_beside(sources, remove) else 0)


@uploads.command("expire")
@with_settings
def expire_uploads(sources: Sources) -> None:
    """Remove the uploads whose time has run out, as a running server does by itself."""

    async def expire(parts: Parts) -> int:
        total = 0
        while count := await parts.uploads.expire():
            total += count
        return total

    click.echo(f"{_run_beside(sources, expire)} expired or forgotten")


cli.add_command(upload)


def main() -> None:
    """Run the command."""
    _add_plugin_commands()
    cli(prog_name="tusd-py")


def _add_plugin_commands() -> None:
    """Let installed plugins add commands; a broken plugin costs its commands, not the whole program."""
    try:
        manager = load_plugins(load(file=None, environment={}).config)
    except (PluginError, ConfigError) as error:
        click.echo(f"warning: no commands from plugins: {error}", err=True)
        return
    for impl in implementations(manager, "register_commands"):
        impl.function(cli)
