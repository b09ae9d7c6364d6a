"""`tusd-py validate`: the checks for files on this machine, before they are uploaded, and how fast they are."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import click

from tusd_py.config import ConfigError
from tusd_py.content import StoredFile


@click.group()
def validate() -> None:
    """Check files as the plugin `validate` checks uploads."""


def _settings(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    with config.open("rb") as file:
        table: dict[str, Any] = tomllib.load(file).get("plugins", {}).get("validate", {})
    return table


@validate.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--config", type=click.Path(exists=True, path_type=Path), help="TOML file of the server.")
@click.option("--schema", type=click.Path(exists=True, path_type=Path), help="JSON Schema that the files have to fit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file.")
def check(files: tuple[Path, ...], config: Path | None, schema: Path | None, as_json: bool) -> None:
    """Check FILES; exit with 1 if something is wrong with one."""
    from tusd_py_validate.checks import Checks
    from tusd_py_validate.settings import read

    table = _settings(config)
    if schema is not None:
        table |= {"schemas": str(schema.parent), "rules": [{"match": "*", "schema": schema.name}]}
    try:
        checks = Checks(read(table))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    are_right = True
    for path in files:
        report = checks.whole(StoredFile.at(path), {"filename": path.name})
        are_right = are_right and report.ok
        if as_json:
            problems = [str(problem) for problem in report.problems]
            click.echo(json.dumps({"file": str(path), "ok": report.ok, "type": report.type, "problems": problems}))
        else:
            click.echo(f"{path}: {report.type}, {'right' if report.ok else 'WRONG'} ({', '.join(report.checks)})")
            for problem in report.problems:
                click.echo(f"  {problem}")
    sys.exit(0 if are_right else 1)


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "messages"],
    "properties": {
        "id": {"type": "string", "pattern": "^row-[0-9]+$"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "lang": {"enum": ["en", "de", "fr"]},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
            },
        },
    },
}


@validate.command()
@click.option("--megabytes", default=500, show_default=True, help="Size of the file that is made for it.")
@click.option("--processes", default=0, help="How many processes read it; 0 takes one for each core.")
def bench(megabytes: int, processes: int) -> None:
    """Measure the check of a JSONL file with a schema, on a file that is made for it."""
    from tusd_py_validate.checks import Checks
    from tusd_py_validate.settings import read

    with tempfile.TemporaryDirectory() as folder:
        path, schema = Path(folder) / "chat.jsonl", Path(folder) / "chat.json"
        schema.write_text(json.dumps(SCHEMA))
        _write(path, megabytes * 10**6)
        rules = {"schemas": folder, "rules": [{"match": "*", "schema": "chat.json"}]}
        checks, source = Checks(read({**rules, "processes": processes})), StoredFile.at(path)
        began, used = time.perf_counter(), _processor_time()
        report = checks.whole(source, {"filename": path.name})
        seconds, used = time.perf_counter() - began, _processor_time() - used
    if not report.ok:
        raise click.ClickException(str(report.problems[0]))
    size = source.size / 1e6
    said = f"{size:.0f} MB of JSONL in {seconds:.2f} s: {size / seconds:.0f} MB/s"
    if processes == 1:  # others are not children of this one, and not counted
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        said += f", {size / used:.0f} MB per second of processor time, {largest:.0f} MiB of memory"
    click.echo(said)


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _write(path: Path, size: int) -> None:
    """Write chat rows of some 800 bytes until the size is reached."""
    words = [
        "the",
        "model",
        "reads",
        "a",
        "line",
        "of",
        "the",
        "set",
        "and",
        "tells",
        "whether",
        "it",
        "fits,",
        "for",
        "every",
        "row",
        "and",
        "every",
        "field",
        "of",
        "it;",
    ]
    with path.open("w", encoding="utf-8") as file:
        number = 0
        while file.tell() < size:
            batch = []
            for number in range(number + 1, number + 1001):  # noqa: B020
                text = " ".join(words[(number + step * step) % len(words)] for step in range(60))
                messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]
                row = {"id": f"row-{number}", "lang": "en", "score": number % 100 / 100, "messages": messages}
                batch.append(json.dumps(row))
            file.write("\n".join(batch) + "\n")
