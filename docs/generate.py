"""Writes the generated parts of the documents anew: what stands between `<!-- generated: NAME -->` and `<!-- end -->`.

python docs/generate.py          writes them
python docs/generate.py --check  changes nothing, and fails and names the documents if some are out of date
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from prometheus_client.metrics import MetricWrapperBase

from tusd_py import Changes, Identity, Request, Response, Upload
from tusd_py.cli import cli
from tusd_py.default_plugins.metrics import Metrics
from tusd_py.hooks import specs
from tusd_py.hooks.plugins import hook_names
from tusd_py.models import Action, Content, Verdict
from tusd_py.settings import fields, show
from tusd_py.web.openapi import openapi

ROOT = Path(__file__).resolve().parents[1]
PART = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH = 100


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def hooks() -> str:
    """Return the table of hooks, and what is said of each."""
    contracts = {
        "register_": "at start-up",
        "authenticate": "may refuse",
        "authorize": "may refuse",
        "pre_": "may refuse",
        "inspect_": "may refuse",
        "post_": "observes",
        "": "stage, as a job",
    }
    rows, sections = [], []
    for name in hook_names():
        function = getattr(specs, name)
        contract = next(text for prefix, text in contracts.items() if name.startswith(prefix))
        document = inspect.cleandoc(function.__doc__)
        signature = inspect.signature(function)
        arguments = ", ".join(f"`{argument}`" for argument in signature.parameters)
        first = " ".join(document.split("\n\n")[0].split())
        rows.append([f"[`{name}`](#{name})", contract, first, arguments])
        types = ", ".join(f"{argument.name}: {argument.annotation}" for argument in signature.parameters.values())
        sections.append(
            f"### {name}\n\n```python\ndef {name}({types}) -> {signature.return_annotation}\n```\n\n{document}\n"
        )
    return "\n".join([table(["Hook", "Contract", "What it is for", "Arguments"], rows), *sections])


def values() -> str:
    """Return the fields of the values that hooks get and return."""
    parts = [f"`Action` is one of {', '.join(f'`{action}`' for action in get_args(Action))}.\n"]
    for kind in (Request, Upload, Content, Identity, Changes, Response, Verdict, specs.Measure):
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        rows, body = [], tree.body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                note = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                rows.append(
                    [f"`{ast.unparse(node.target)}`", f"`{ast.unparse(node.annotation)}`", _one_line(str(note))]
                )
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                is_property = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
                if is_property or kind is Content:
                    call = "" if is_property else f"({', '.join(arg.arg for arg in node.args.args[1:])})"
                    returns = ast.unparse(node.returns) if node.returns else ""
                    rows.append([f"`{node.name}{call}`", f"`{returns}`", _one_line(ast.get_docstring(node) or "")])
        title = f"### {kind.__name__}\n\n{_one_line(inspect.cleandoc(kind.__doc__ or ''))}\n\n"
        parts.append(title + table(["Field", "Type", "Meaning"], rows))
    return "\n".join(parts)


def settings() -> str:
    """Return one table of settings for each group."""
    parts = []
    for group in dict.fromkeys(field.group for field in fields()):
        rows = []
        for field in fields():
            if field.group == group:
                given = "TOML only" if field.is_table else f"`{field.flag}`<br>`{field.variable}`"
                values = f" One of {', '.join(f'`{choice}`' for choice in field.choices)}." if field.choices else ""
                default = "" if field.default in (None, [], {}) else f"`{show(field.default)}`"
                rows.append([f"`{field.name}`", given, default, field.help + values])
        parts.append(f"## {group}\n\n" + table(["Setting", "Flag and variable", "Default", "Meaning"], rows))
    return "\n".join(parts)


def commands() -> str:
    """Return the help of every command of the server; those of plugins are in their own documents."""
    cli._complete = True
    parts = []

    def add(command: click.Command, parent: click.Context | None, name: str) -> None:
        context = click.Context(command, parent, name, terminal_width=WIDTH, help_option_names=["-h", "--help"])
        path = context.command_path
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for child, its_name in [(command.commands[each], each) for each in sorted(command.commands)]:
                add(child, context, its_name)

    add(cli, None, "tusd-py")
    return "\n".join(parts)


def metrics() -> str:
    """Return the table of metrics."""
    rows = []
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            rows.append([f"`{name}`", family.type, labels, family.documentation])
    return table(["Metric", "Type", "Labels", "Meaning"], rows)


def api() -> str:
    """Return what the OpenAPI document says: pages with their parameters, and the fields of the answers."""
    document = openapi()
    parts = []
    for path, item in document["paths"].items():
        get = item["get"]
        rows = [
            [f"`{parameter['name']}`", parameter["in"], parameter.get("description", ""), _bounds(parameter["schema"])]
            for parameter in get["parameters"]
        ]
        answers = [f"{status} {answer['description']}" for status, answer in sorted(get["responses"].items())]
        head = f"## GET {path}\n\n{get['summary']}.\n\n"
        parts.append(
            head + table(["Parameter", "In", "Meaning", "Values"], rows) + f"\nAnswers: {'; '.join(answers)}.\n"
        )
    for name, schema in document["components"]["schemas"].items():
        if schema.get("type") == "object":
            rows = [[f"`{field}`", _type(kind)] for field, kind in schema["properties"].items()]
            description = _one_line(schema.get("description", ""))
            parts.append(f"### {name}\n\n{description}\n\n" + table(["Field", "Type"], rows))
        else:
            words = ", ".join(f"`{word}`" for word in schema["enum"])
            parts.append(f"### {name}\n\n{_one_line(schema.get('description', ''))}\n\nOne of {words}.\n")
    return "\n".join(parts)


def _bounds(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    default = [f"default {schema['default']}"] if "default" in schema else []
    return ", ".join([*bounds, *default])


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{word}`" if word is not None else "null" for word in schema["enum"])
    if schema.get("type") == "array" and "prefixItems" in schema:
        return f"[{', '.join(map(_type, schema['prefixItems']))}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("format") == "date-time":
        return "time"
    return str(schema.get("type", "anything"))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def file(name: str) -> str:
    """Return a file as a block of code."""
    kind = {".py": "python", ".toml": "toml", ".sh": "bash"}[Path(name).suffix]
    return f"```{kind}\n{(ROOT / name).read_text(encoding='utf-8')}```\n"


GENERATORS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (hooks, values, settings, commands, metrics, api)
}


def generated(text: str) -> str:
    """Return a document with its generated parts as they should be."""

    def replace(match: re.Match[str]) -> str:
        name = match[2]
        body = file(name.removeprefix("file ")) if name.startswith("file ") else GENERATORS[name]()
        return f"{match[1]}\n{body.rstrip()}\n\n{match[3]}"

    return PART.sub(replace, text)


def main() -> None:
    """Write the documents, or check them."""
    stale = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = generated(before)
        if after != before:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(after, encoding="utf-8")
    for path in stale:
        click.echo(f"{path} {'is out of date: run scripts/docs' if '--check' in sys.argv else 'written'}")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
