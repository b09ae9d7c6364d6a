"""The command `tusd-py`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from tusd_py import __version__, logs
from tusd_py.cli_upload import upload
from tusd_py.composer import Parts, compose, load_plugins, plugin_routes
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
from tusd_py.models import Status, Upload
from tusd_py.settings import Field, Sources, fields, load, show
from tusd_py.state.base import Filter
from tusd_py.units import format_size

T = TypeVar("T")
Command = Callable[..., Any]


class SettingOption(click.Option):
    """The flag of a setting, and the group in which the help shows it."""

    def __init__(self, *args: Any, group: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.group = group


class SettingsCommand(click.Command):
    """A command that takes every setting; `serve` shows them in groups, the others do not bury their own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        sections: dict[str, list[tuple[str, str]]] = {}
        params = self.get_params(ctx)
        for param in params:
            if record := param.get_help_record(ctx):
                sections.setdefault(getattr(param, "group", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if any(isinstance(param, SettingOption) and param.hidden for param in params):
            formatter.write_paragraph()
            formatter.write_text(
                "Takes the settings of the server too, such as --upload-dir: `tusd-py serve --help` lists them."
            )


def with_settings(*, shown: bool = False) -> Callable[[Command], Command]:
    """Add a flag for every setting, in the help if `shown`, and pass the joined settings as `sources`."""
    by_name = {field.name: field for field in fields() if not field.is_table}

    def decorate(command: Command) -> Command:
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
            wrapped = _flag(field, hidden=not shown)(wrapped)
        config_file = click.option(
            "--config", "config_file", metavar="FILE", help="TOML file with settings. [env: TUSD_PY_CONFIG]"
        )
        return config_file(wrapped)

    return decorate


def _flag(field: Field, *, hidden: bool) -> Callable[[Command], Command]:
    text = f"{field.help}{' Repeatable.' if field.is_list else ''} [env: {field.variable}]"
    if not field.secret and field.default not in (None, [], False):
        text += f" [default: {show(field.default)}]"
    names = [field.flag, field.name]
    if field.type is bool:
        names[0] += f"/--no-{field.name.replace('_', '-')}"
    kind = click.BOOL if field.type is bool else click.Choice(field.choices) if field.choices else click.STRING

    return click.option(
        *names,
        cls=SettingOption,
        group=field.group,
        default=None,
        help=text,
        type=kind,
        multiple=field.is_list,
        metavar=None if field.choices or field.type is bool else field.metavar,
        hidden=hidden,
    )


def reported(action: Callable[[], T]) -> T:
    """Run an action, and end with a message instead of a traceback if the configuration or the storage is wrong."""
    try:
        return action()
    except (ConfigError, PluginError) as error:
        raise click.ClickException(str(error)) from error
    except TusError as error:
        raise click.ClickException(error.message) from error


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
            names = [name for extension in parts.protocol.extensions for name in extension.names]
            click.echo(f"extensions  {', '.join(names)}")
            click.echo("plugins     in the order in which they are called")
            for name, hooks in plugin_table(parts.manager):
                click.echo(f"            {name}: {', '.join(hooks)}")
            for route in parts.routes:
                click.echo(f"page        {route.method} {route.path} (plugin {route.plugin})")
            if problem := await parts.uploads.problem():
                problems.append(problem)

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
    """Return each plugin's name and hooks, in the order in which plugins are called."""
    table: dict[str, list[str]] = {}
    for name, plugin in reversed(manager.list_name_plugin()):
        callers = manager.get_hookcallers(plugin) if plugin is not None else None
        if callers:
            table[name] = sorted(caller.name for caller in callers)
    return list(table.items())


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
        origin = distributions.get(id(plugin)) or getattr(plugin, "__file__", None) or "part of tusd-py"
        click.echo(f"{name:20}{origin:32}{', '.join(hooks)}")
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


@cli.group()
def uploads() -> None:
    """Look at uploads and remove them; works beside a running server."""


def _run_beside(sources: Sources, action: Callable[[Parts], Coroutine[Any, Any, T]]) -> T:
    logs.configure(msgspec.structs.replace(sources.config, log_level="warning"))
    for url in (sources.config.state_url, sources.config.store_url):
        if url.startswith("memory:"):
            raise click.ClickException(f"{url} lives in the server's process; ask its status API instead")
    if not Path(sources.config.upload_dir).exists() and sources.config.state is sources.config.redis is None:
        raise click.ClickException(f"there is no upload directory {sources.config.upload_dir}; give --upload-dir")

    async def run() -> T:
        async with compose(sources.config) as parts:
            return await action(parts)

    return reported(lambda: asyncio.run(run()))


@uploads.command("list", cls=SettingsCommand)
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    metavar="STATUS",
    help=f"Only uploads that are {', '.join(Status)}.",
)
@click.option("--owner", help="Only uploads of this owner.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most uploads to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_settings()
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


@uploads.command("show", cls=SettingsCommand)
@click.argument("upload_id", metavar="ID")
@with_settings()
def show_upload(sources: Sources, upload_id: str) -> None:
    """Show everything that is known of one upload, as JSON."""
    upload = _run_beside(sources, lambda parts: parts.uploads.find(upload_id))
    click.echo(msgspec.json.format(msgspec.json.encode(upload), indent=2))


@uploads.command("delete", cls=SettingsCommand)
@click.argument("upload_ids", metavar="ID...", nargs=-1, required=True)
@with_settings()
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


@uploads.command("expire", cls=SettingsCommand)
@with_settings()
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
    cli(prog_name="tusd-py")
