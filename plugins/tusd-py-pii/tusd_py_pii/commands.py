"""`tusd-py pii`: the scanner on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from tusd_py_pii.errors import RuleError, ScanFailed
from tusd_py_pii.policy import Settings, settings_from
from tusd_py_pii.redact import redact_file
from tusd_py_pii.scan import FileSource, run_here


def _settings(config: Path | None) -> Settings:
    try:
        table = tomllib.loads(config.read_text("utf-8")).get("plugins", {}).get("pii", {}) if config else {}
        return settings_from(table)
    except (RuleError, tomllib.TOMLDecodeError) as error:
        raise click.ClickException(f"{config}: {error}") from error


def _config(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TOML file of the server, of which [plugins.pii] is used.",
    )(command)


_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def pii() -> None:
    """Find personal data and credentials in files."""


@pii.command("scan")
@click.argument("file", type=_file)
@_config
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def scan_command(file: Path, config: Path | None, as_json: bool) -> None:
    """Scan FILE; exit with 1 if it would be quarantined."""
    settings = _settings(config)
    run = settings.run() if file.stat().st_size > settings.inline_bytes else run_here
    try:
        report = settings.examined(FileSource(str(file)), file.name, run)
    except ScanFailed as error:
        raise click.ClickException(str(error)) from error
    ok, reasons = settings.judged(report)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(f"{file}: {report.format}, {report.rows} rows, {report.bytes} bytes: {'passes' if ok else 'fails'}")
        for reason in reasons:
            click.echo(f"  {reason}")
    raise SystemExit(0 if ok else 1)


@pii.command("redact")
@click.argument("file", type=_file)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@_config
@click.option("--keep", multiple=True, metavar="TYPE", help="Leave values of this type; may be repeated.")
def redact_command(file: Path, target: Path, config: Path | None, keep: tuple[str, ...]) -> None:
    """Write a copy of FILE to TARGET in which what is found is replaced by its type."""
    settings = _settings(config)
    try:
        count = redact_file(FileSource(str(file)), target, settings.scan(), name=file.name, keep=keep)
    except ScanFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{target}: {count} replaced")


@pii.command("rules")
@_config
def rules_command(config: Path | None) -> None:
    """List the rules: name, type, and what is done about the type."""
    settings = _settings(config)
    for rule in settings.rules():
        click.echo(f"{rule.name:28} {rule.type:14} {settings.action(rule.type)}")
