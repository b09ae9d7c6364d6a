"""How commands take settings, reach the uploads of a server, and tell what is wrong."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from tusd_py import logs
from tusd_py.composer import Parts, compose
from tusd_py.config import ConfigError
from tusd_py.errors import TusError
from tusd_py.hooks.plugins import PluginError
from tusd_py.jobs import Jobs
from tusd_py.settings import Field, Sources, fields, load, show

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


def printable(text: str) -> str:
    """Return a text without what would move the cursor, colour or turn around what a terminal shows."""
    return "".join(letter for letter in text if letter.isprintable())


def as_json(value: object, *, indent: int = -1) -> str:
    """Return a value as JSON that is the same in a terminal: what cannot be printed is escaped."""
    text = msgspec.json.format(msgspec.json.encode(value).decode(), indent=indent)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def operator() -> str:
    """Return the name of who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container can run as a number that has no name
        return f"user {os.getuid()}"


def run_beside(sources: Sources, action: Callable[[Parts], Coroutine[Any, Any, T]]) -> T:
    """Do something with the uploads of a server that may be running at the same time."""
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


def decide(
    sources: Sources, ids: tuple[str, ...], done: str, decision: Callable[[Jobs, str], Coroutine[Any, Any, None]]
) -> None:
    """Make an operator's decision about each of these, and end with 1 if that is not possible for one."""

    async def run(parts: Parts) -> int:
        failed, jobs = 0, Jobs(parts.uploads)
        for one in ids:
            try:
                await decision(jobs, one)
                click.echo(f"{one} {done}")
            except TusError as error:
                failed += 1
                click.echo(f"{one} not {done}: {error.message}", err=True)
        return failed

    sys.exit(1 if run_beside(sources, run) else 0)
