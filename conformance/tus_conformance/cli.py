"""The command `tus-conformance`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from threading import Event
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

import click

from tus_conformance import reports
from tus_conformance.rules import rules
from tus_conformance.runner import run, selected
from tus_conformance.server import Options, Server
from tus_conformance.wire import NoAnswer

# As shells have it: 128 and the number of the signal.
_INTERRUPTED = 128 + signal.SIGINT


def _pairs(separator: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    def parse(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        pairs = {}
        for value in values:
            name, found, text = value.partition(separator)
            if not found or not name.strip() or "\n" in value or "\r" in value:
                raise click.BadParameter(f"{value!r} is not of the form 'name{separator}value'")
            pairs[name.strip()] = text.strip()
        return pairs

    return parse


def _url(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter(f"{value!r} is not a URL like http://127.0.0.1:8080/files/")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 118})
@click.argument("url", required=False, callback=_url)
@click.option(
    "--only",
    multiple=True,
    metavar="RULE",
    help="Only these rules: an id, a section, or a pattern such as 'core.*'. May be repeated.",
)
@click.option("--list", "is_list", is_flag=True, help="Print the rules and their cases, and test nothing.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_pairs(":"),
    metavar="'NAME: VALUE'",
    help="Send this with every request, for example for authentication. It is never printed. May be repeated.",
)
@click.option(
    "--metadata",
    multiple=True,
    callback=_pairs("="),
    metavar="NAME=VALUE",
    help="Create uploads with this metadata too, if the server requires it. May be repeated.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=10, show_default=True, help="Seconds that an answer may take."
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=3,
    show_default=True,
    help="Seconds to wait for what a server does by itself, such as to time out or to expire an upload.",
)
@click.option(
    "--download/--no-download",
    "downloads",
    default=True,
    help="Whether to ask for the bytes of uploads by GET; if not, offsets are all that is compared.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the results here as JSON; - is standard output.",
)
@click.option(
    "--junit",
    "junit_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the results here as JUnit XML.",
)
@click.option(
    "--markdown",
    "markdown_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the results here as a Markdown page.",
)
@click.version_option(package_name="tus-conformance")
def main(
    url: str | None,
    only: tuple[str, ...],
    is_list: bool,
    headers: dict[str, str],
    metadata: dict[str, str],
    timeout: float,
    patience: float,
    downloads: bool,
    json_file: Path | None,
    junit_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Say rule by rule of tus 1.0.0 what holds for the server that creates uploads at URL.

    What the server advertises decides which rules count. Uploads that are made are removed in the end, if the server
    lets them be. The exit status is 1 if a MUST does not hold, and 2 if the server could not be tested. Ctrl-C ends the
    run after the rule that is being tried, and removes uploads too.
    """
    chosen = selected(only)
    for pattern in only:
        if not selected([pattern]):
            _stop(f"no rule that can be tested fits {pattern!r}; --list shows them all")
    if is_list:
        wanted = {rule.id for rule in chosen}
        click.echo(reports.rule_list([rule for rule in rules().values() if not only or rule.id in wanted]))
        return
    if url is None:
        _stop("which server? tus-conformance http://127.0.0.1:8080/files/")
    files = [(json_file, reports.as_json), (junit_file, reports.as_junit), (markdown_file, reports.as_markdown)]
    # What people read goes to standard error if a machine reads standard output.
    to_people_on_stderr = any(path == Path("-") for path, _ in files)
    defaults = Options()
    server = Server(url, Options(headers, {**defaults.metadata, **metadata}, timeout, patience, downloads))
    stop = _first_interrupt()
    try:
        server.discover()
        strange = server.strange()
    except (NoAnswer, OSError) as error:
        _stop(f"{url} cannot be tested: {error}")
    if strange:
        _stop(f"{url} is no tus server: {strange}")
    results, section = [], None
    try:
        for result in run(server, takewhile(lambda _: not stop.is_set(), chosen)):
            if result.rule.section != section:
                section = result.rule.section
                click.echo(click.style(f"\n{section}", bold=True), err=to_people_on_stderr)
            click.echo(reports.rule_lines(result), err=to_people_on_stderr)
            results.append(result)
    except KeyboardInterrupt:
        stop.set()  # the second one
    finally:
        left = server.forget()
    if stop.is_set():
        click.echo("\n" + "\n".join(["interrupted", *reports.left_lines(left)]), err=True)
        sys.exit(_INTERRUPTED)
    report = reports.Report.of(server, results, left)
    click.echo("\n" + reports.total_lines(report), err=to_people_on_stderr)
    for path, write in files:
        if path is not None:
            with click.open_file(str(path), "w", encoding="utf-8") as file:
                file.write(write(report))
    sys.exit(0 if report.conforms else 1)


def _first_interrupt() -> Event:
    """Let the first Ctrl-C only say that it is time to stop, for an upload that is just being made has no URL yet."""
    interrupted = Event()

    def handle(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, handle)
    return interrupted


def _stop(reason: str) -> NoReturn:
    click.echo(f"tus-conformance: {reason}", err=True)
    sys.exit(2)
