"""Turns a JSON Schema into a condition in SQL that holds for every row that may not fit it.

The condition is a sieve: DuckDB reads all rows with it, and only those that it lets through are compared with the
schema itself. So it may let too many through, as it does for keywords that it does not know, and never too few.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_NOTES = frozenset(
    [
        "$schema",
        "$id",
        "$defs",
        "definitions",
        "$comment",
        "$anchor",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
    ]
)
_NUMERIC = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
_INTEGERS = frozenset(["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"])
_EXACT = 2**53
# What every engine reads the same way: ASCII, no look-around, no back-references, no classes but \d.
_PLAIN_PATTERN = re.compile(
    r"""(?: [A-Za-z0-9 _@#%&=:;,<>~/"'!-] | \\[.\-/+*?()\[\]{}^$|d] | [.^$|)] | \((?:\?:|(?!\?)) | [*+?](?![*+])
        | \{\d{1,3}(?:,\d{0,3})?\} | \[\^?(?:[A-Za-z0-9 _@#%&=:;,.<>/!+*?()$|-] | \\[.\-/\]\[\\])+\] )*""",
    re.VERBOSE | re.ASCII,
)
_FORMATS = {
    "uuid": "regexp_full_match({0}, '[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}')",
    "date": "regexp_full_match({0}, '[12][0-9]{{3}}-[01][0-9]-[0-3][0-9]') AND TRY_CAST({0} AS DATE) IS NOT NULL",
}


def text(value: str) -> str:
    """Return a string as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def resolved(schema: Any, root: Any) -> Any:
    """Return what a schema refers to, if it does no more than refer to a part of its own document."""
    for _ in range(16):
        if not (isinstance(schema, dict) and set(schema) - _NOTES == {"$ref"}):
            return schema
        reference, target = schema["$ref"], root
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target or ("$id" in target and target is not root):
                return schema
            target = target[key]
        schema = target
    return schema


def json_types(schema: Any, root: Any) -> frozenset[str]:
    """Return the JSON types that a schema may take; none if it does not say."""
    schema = resolved(schema, root)
    if not isinstance(schema, dict):
        return frozenset()
    if "type" in schema:
        told = schema["type"]
        return frozenset([told] if isinstance(told, str) else told)
    if "const" in schema or "enum" in schema:
        return frozenset(_json_type(value) for value in schema.get("enum", [schema.get("const")]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            branches = [json_types(branch, root) for branch in schema[key]]
            return frozenset().union(*branches) if all(branches) else frozenset()
    return frozenset()


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", type(None): "null", list: "array", dict: "object"}
    return kinds[type(value)]


def suspicious(document: Any, columns: Mapping[str, tuple[str, str]], *, is_csv: bool) -> str:
    """Return a condition that holds for every row that may not fit.

    `columns` has the column in SQL and its type in SQL for each name. A cell without a value stands for null if the
    schema takes null, and else for a property that is not there.
    """
    root = document
    document = resolved(document, root)
    if document is True or document == {}:
        return "FALSE"
    known = _NOTES | {"type", "properties", "required", "additionalProperties"}
    if not isinstance(document, dict) or set(document) - known or document.get("type", "object") != "object":
        return "TRUE"
    if "$ref" in document:
        return "TRUE"
    properties, required = document.get("properties", {}), document.get("required", [])
    others = document.get("additionalProperties", True)
    wrong = []
    for name, (column, kind) in columns.items():
        if name in properties:
            good = _good(properties[name], root, column, "CSV" if is_csv else kind)
            if good != "TRUE":
                wrong.append(f"({column} IS NOT NULL AND NOT coalesce(({good}), FALSE))")
        elif others is not True and others != {}:
            wrong.append(f"{column} IS NOT NULL")
        if (name in required and "null" not in json_types(properties.get(name, True), root)) or (
            "null" in json_types(properties.get(name), root) and not _takes_null(properties[name], root)
        ):
            wrong.append(f"{column} IS NULL")
    if any(name not in columns for name in required):
        return "TRUE"
    return " OR ".join(wrong) or "FALSE"


def _takes_null(schema: Any, root: Any) -> bool:
    """Return whether a schema that names the type null takes null for sure."""
    schema = resolved(schema, root)
    if not isinstance(schema, dict):
        return False
    if set(schema) - _NOTES == {"anyOf"}:
        return any(isinstance(each, dict) and each.get("type") == "null" and len(each) == 1 for each in schema["anyOf"])
    return "type" in schema and set(schema) - _NOTES <= {"type", "minLength", "maxLength", "pattern", *_NUMERIC}


def _good(schema: Any, root: Any, column: str, kind: str) -> str:
    """Return a condition that holds only for values that fit; FALSE for what this cannot tell."""
    schema = resolved(schema, root)
    if schema is True or schema == {}:
        return "TRUE"
    if not isinstance(schema, dict):
        return "FALSE"
    keys = set(schema) - _NOTES
    if keys == {"anyOf"}:
        # In CSV the type of a cell follows from all the types that are possible.
        branches = [each for each in schema["anyOf"] if json_types(each, root) != {"null"}]
        return _good(branches[0], root, column, kind) if len(branches) == 1 else "FALSE"
    types = json_types(schema, root) - {"null"}
    parts = [_type(types, column, kind)]
    value, is_text = column, types == {"string"}
    if not is_text:
        value = f"TRY_CAST({column} AS DOUBLE)"
        parts.append(f"abs({value}) < {_EXACT}" if types <= {"integer", "number"} else "TRUE")
    for key in sorted(keys - {"type"}):
        parts.append(_keyword(key, schema[key], value, is_text=is_text, is_number=types <= {"integer", "number"}))
    return "FALSE" if "FALSE" in parts else " AND ".join(f"({part})" for part in parts if part != "TRUE") or "TRUE"


def _type(types: frozenset[str], column: str, kind: str) -> str:
    """Return the condition that a value has one of some types."""
    if kind == "CSV":
        if types == {"string"}:
            return "TRUE"
        if types == {"integer"}:
            return f"regexp_full_match({column}, '-?(0|[1-9][0-9]{{0,17}})')"
        if types in ({"number"}, {"number", "integer"}):
            return f"regexp_full_match({column}, '-?(0|[1-9][0-9]{{0,17}})([.][0-9]{{1,30}})?')"
        return f"lower({column}) IN ('true', 'false')" if types == {"boolean"} else "FALSE"
    if kind == "VARCHAR":
        return "TRUE" if types == {"string"} else "FALSE"
    if kind == "BOOLEAN":
        return "TRUE" if types == {"boolean"} else "FALSE"
    if kind in _INTEGERS:
        return "TRUE" if types and types <= {"integer", "number"} else "FALSE"
    if kind in ("FLOAT", "DOUBLE"):
        return f"isfinite({column})" if types in ({"number"}, {"number", "integer"}) else "FALSE"
    return "FALSE"


def _keyword(key: str, wanted: Any, value: str, *, is_text: bool, is_number: bool) -> str:
    if key in ("enum", "const"):
        return _one_of(wanted if key == "enum" else [wanted], value, is_text=is_text, is_number=is_number)
    if key in _NUMERIC:
        if not is_number:
            return "TRUE"
        return f"{value} {_NUMERIC[key]} {wanted!r}" if _is_exact(wanted) else "FALSE"
    if key in ("minLength", "maxLength"):
        if not is_text:
            return "TRUE"
        return f"length({value}) {'>=' if key == 'minLength' else '<='} {wanted!r}" if _is_exact(wanted) else "FALSE"
    if key == "pattern":
        if not is_text:
            return "TRUE"
        if isinstance(wanted, str) and _PLAIN_PATTERN.fullmatch(wanted):
            return f"regexp_matches({value}, {text(wanted)})"
    if key == "format" and isinstance(wanted, str) and is_text and wanted in _FORMATS:
        return _FORMATS[wanted].format(value)
    return "FALSE"


def _one_of(values: Sequence[Any], value: str, *, is_text: bool, is_number: bool) -> str:
    fitting: list[str] = []
    if is_text:
        fitting = [text(each) for each in values if isinstance(each, str) and "\0" not in each]
    elif is_number:
        fitting = [repr(each) for each in values if _is_exact(each)]
    return f"{value} IN ({', '.join(fitting)})" if fitting else "FALSE"


def _is_exact(number: Any) -> bool:
    """Return whether a number means the same to every engine."""
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < _EXACT
