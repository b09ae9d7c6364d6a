"""JSON Schemas of an operator: which one an upload has to fit, and whether a value does.

References lead to the same file or to others in the folder. Nothing is ever fetched. Patterns run on an engine that
takes linear time; those with look-around or back-references run on another one, which gives up after so many steps.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import jsonschema_rs
import orjson

from tusd_py_validate.filetypes import file_name
from tusd_py_validate.problems import Problem, printable
from tusd_py_validate.settings import Settings

BACKTRACKS = 10_000
LARGEST = 16 * 2**20
PER_ROW = 20
"""So many problems of one row are told."""
METADATA_KEY = "schema"
_ROOT = "https://schemas.invalid/"
"""Where the folder is for references; the name can never be somebody's (RFC 2606)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_META = ("http://json-schema.org/draft-", "https://json-schema.org/draft/")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaError(Exception):
    """A schema is not there, or cannot be used."""


class Schema:
    """One schema that values can be compared with."""

    def __init__(self, name: str, document: Any, validator: jsonschema_rs.Validator) -> None:
        """Keep what was loaded; `load` does."""
        self.name = name
        self.document = document
        self.validator = validator

    def problems(
        self, value: Any, *, line: int | None = None, offset: int | None = None, row: int | None = None
    ) -> list[Problem]:
        """Return why a value does not fit."""
        try:
            errors = list(islice(self.validator.iter_errors(value), PER_ROW))
        except (ValueError, TypeError) as error:
            return [Problem(check="schema", reason=printable(str(error)), line=line, offset=offset, row=row)]
        return [
            Problem(
                check="schema",
                reason=printable(error.message),
                line=line,
                offset=offset,
                row=row,
                path=_pointer(error.instance_path),
            )
            for error in errors
        ]


def _pointer(parts: Iterable[str | int]) -> str:
    """Return a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def load(folder: Path, name: str, *, show_values: bool = False) -> Schema:
    """Return the schema in a file of a folder.

    Raises:
        SchemaError: there is none, it is no schema, or it refers to what is not in the folder.
    """
    folder = folder.resolve()
    document = _read(folder, name)
    _check_references(folder, name, document, seen=set())
    validator = None
    for options in (
        jsonschema_rs.RegexOptions(size_limit=2**22),
        jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS, size_limit=2**22),
    ):
        try:
            jsonschema_rs.meta.validate(document)
            validator = jsonschema_rs.validator_for(
                document,
                validate_formats=True,
                mask=None if show_values else "the value",
                base_uri=_ROOT + name,
                retriever=lambda uri: _read(folder, _local(uri)),
                pattern_options=options,
            )
            break
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
            problem = error
    if validator is None:
        where = _pointer(getattr(problem, "instance_path", []))
        message = getattr(problem, "message", str(problem))
        raise SchemaError(
            f"the schema {name} cannot be used: {printable(message)}" + (f" (at {where})" if where else "")
        )
    return Schema(name, document, validator)


def _read(folder: Path, name: str) -> Any:
    if not _NAME.fullmatch(name):
        raise SchemaError(f"{printable(name, 100)!r} is no name of a schema: letters, digits, '.', '_', '-' and '/'")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise SchemaError(f"the schema {name} is not in the folder of the schemas")
    try:
        if path.stat().st_size > LARGEST:
            raise SchemaError(f"the schema {name} has more than {LARGEST} bytes")
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise SchemaError(f"there is no schema {name}") from error
    except ValueError as error:
        raise SchemaError(f"the schema {name} is no JSON: {error}") from error


def _local(uri: str) -> str:
    """Return the file that a reference leads to."""
    if not uri.startswith(_ROOT):
        raise SchemaError(f"it refers to {printable(uri, 200)!r}; only schemas in the same folder can be referred to")
    return unquote(urlsplit(uri).path).lstrip("/")


def _check_references(folder: Path, name: str, document: Any, seen: set[str]) -> None:
    """Refuse references that lead out of the folder, by their names, before anything is looked for."""
    if name in seen:
        return
    seen.add(name)
    own = set(_ids(document))
    for base, reference in _references(document, _ROOT + name):
        target = urldefrag(urljoin(base, reference)).url
        if target in own or target == _ROOT + name or target.startswith(_META):
            continue
        try:
            other = _local(target)
        except SchemaError as error:
            raise SchemaError(f"the schema {name} cannot be used: {error}") from error
        _check_references(folder, other, _read(folder, other), seen)


def _ids(document: Any) -> Iterable[str]:
    """Yield the identifiers that a document gives to itself and its parts."""
    for node, base in _nodes(document, _ROOT):
        if isinstance(node.get("$id"), str):
            yield urldefrag(urljoin(base, node["$id"])).url


def _references(document: Any, base: str) -> Iterable[tuple[str, str]]:
    for node, inner in _nodes(document, base):
        for key in _REFERENCES:
            if isinstance(node.get(key), str):
                yield inner, node[key]


def _nodes(document: Any, base: str) -> Iterable[tuple[dict[str, Any], str]]:
    """Yield all objects in a document, with the address that references in them start from."""
    todo = [(document, base)]
    while todo:
        node, base = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$id"), str):
                base = urljoin(base, node["$id"])
            yield node, base
            # What `const` and `enum` hold are values and no schemas.
            todo.extend((value, base) for key, value in node.items() if key not in ("const", "enum", "examples"))
        elif isinstance(node, list):
            todo.extend((value, base) for value in node)


class Schemas:
    """The folder of schemas, and the rules that choose one."""

    def __init__(self, settings: Settings) -> None:
        """Load what the rules name.

        Raises:
            SchemaError: one of them cannot be used.
        """
        self._folder = Path(settings.schemas) if settings.schemas else None
        self._settings = settings
        self._loaded: dict[tuple[str, int], Schema] = {}
        for rule in settings.rules:
            self.get(rule.schema)

    def name_for(self, metadata: Mapping[str, str]) -> str | None:
        """Return the name of the schema for an upload: a rule's, else the one that its metadata names."""
        name = file_name(metadata)
        for rule in self._settings.rules:
            if fnmatch.fnmatchcase(name, rule.match):
                return rule.schema
        asked = metadata.get(METADATA_KEY)
        if not asked or self._folder is None:
            return None
        return asked if asked.endswith(".json") else f"{asked}.json"

    def get(self, name: str) -> Schema:
        """Return a schema; it is loaded again if its file has changed.

        Raises:
            SchemaError: it is not there, or cannot be used.
        """
        assert self._folder is not None
        try:
            changed = (self._folder / name).stat().st_mtime_ns if _NAME.fullmatch(name) else 0
        except OSError:
            changed = 0
        key = (name, changed)
        if key not in self._loaded:
            self._loaded[key] = load(self._folder, name, show_values=self._settings.show_values)
        return self._loaded[key]
