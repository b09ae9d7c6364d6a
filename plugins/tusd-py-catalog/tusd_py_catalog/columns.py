"""The fields of a table as DuckDB has it, each with the SQL that measures it and the SQL that shows it.

Objects become fields of their own (`author.name`), and so do the objects in a list (`messages[].content`). Text is
cut short where it is shown, so that a row of gigabytes does not become one in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

SHOWN_CHARACTERS = 1000
SHOWN_ITEMS = 8
MAX_DEPTH = 4
_INTEGERS = {f"{sign}{size}int" for sign in ("", "u") for size in ("tiny", "small", "big", "huge")} | {
    "integer",
    "uinteger",
}
_KINDS = {
    "varchar": "string",
    "enum": "string",
    "uuid": "string",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "boolean": "boolean",
    "date": "date",
    "time": "time",
    "time with time zone": "time",
    "blob": "bytes",
    "list": "list",
    "array": "list",
    "struct": "object",
    "map": "map",
    "json": "json",
    '"null"': "null",
    "sqlnull": "null",
}


class Column(msgspec.Struct, frozen=True):
    """A field of the table."""

    name: str
    kind: str
    """As in `facts.Field.type`."""
    value: str
    """SQL for one value; within a list, of the item `x`."""
    items: str | None = None
    """SQL for the list that `x` is from."""
    is_float: bool = False
    path: tuple[str, ...] = ()
    """Keys from the row to the value, with `[]` for the items of a list."""
    is_guess: bool = False
    """Whether it has whole numbers as far as its first rows tell: values are read as floats, and fractions counted."""

    def measures(self) -> dict[str, str]:
        """Return SQL of aggregates, by the names of `facts.Field` or the sums that these are made from."""
        return self._of_items() if self.items is not None else self._of_values()

    def _of_values(self) -> dict[str, str]:
        value, size = self.value, self._size()
        sums = {"values": f"count({value})"}
        if self.kind in ("string", "integer", "number", "boolean", "date", "time", "timestamp", "bytes"):
            sums["distinct"] = f"approx_count_distinct({value})"
        if size:
            sums |= {"min_length": f"min({size})", "max_length": f"max({size})", "sum_length": f"sum({size})"}
        if self.kind == "string":
            sums["bytes"] = f"sum(strlen({value}))"
        finite = f" FILTER (isfinite({value}))" if self.is_float else ""
        if self.kind in ("integer", "number"):
            sums |= {"min": f"min({value}){finite}", "max": f"max({value}){finite}"}
            sums["mean"] = f"favg(CAST({value} AS DOUBLE)){finite}"
        if self.kind in ("date", "time", "timestamp"):
            sums |= {"min": f"CAST(min({value}) AS VARCHAR)", "max": f"CAST(max({value}) AS VARCHAR)"}
        if self.is_guess:
            sums["fractions"] = f"count(*) FILTER (NOT isfinite({value}) OR {value} <> trunc({value}))"
        if self.kind == "boolean":
            sums["mean"] = f"avg(CAST({value} AS INTEGER))"
        return sums

    def _of_items(self) -> dict[str, str]:
        def each(what: str) -> str:
            return f"list_transform({self.items}, lambda x: {what})"

        sums = {"values": f"sum(list_aggregate({each(self.value)}, 'count'))", "items": f"sum(len({self.items}))"}
        if size := self._size():
            sizes = each(size)
            sums |= {
                "min_length": f"min(list_min({sizes}))",
                "max_length": f"max(list_max({sizes}))",
                "sum_length": f"sum(list_sum({sizes}))",
            }
        if self.kind == "string":
            sums["bytes"] = f"sum(list_sum({each(f'strlen({self.value})')}))"
        if self.kind in ("integer", "number"):
            value = f"CASE WHEN isfinite({self.value}) THEN {self.value} END" if self.is_float else self.value
            sums |= {"min": f"min(list_min({each(value)}))", "max": f"max(list_max({each(value)}))"}
        return sums

    def _size(self) -> str | None:
        match self.kind:
            case "string":
                return f"length({self.value})"
            case "list":
                return f"len({self.value})"
            case "bytes":
                return f"octet_length({self.value})"
        return None

    def in_row(self, row: dict[str, Any]) -> Iterator[Any]:
        """Yield the values of this field in a row as it is shown, without nulls."""
        yield from _at(row, self.path)


def _at(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if value is None:
        return
    if not path:
        yield value
    elif path[0] == "[]":
        for item in value if isinstance(value, list) else ():
            yield from _at(item, path[1:])
    elif isinstance(value, dict):
        yield from _at(value.get(path[0]), path[1:])


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


Labels = Callable[[Sequence[str]], list[str]]
"""Returns what to show for names, which may be no names but values; no two are the same."""


def columns_of(names: list[str], types: list[Any], labels: Labels) -> list[Column]:
    """Return all fields of a table, in order, parents before their children."""
    found: list[Column] = []
    for name, shown_name, kind in zip(names, labels(names), types, strict=True):
        _add(found, _column(shown_name, kind, quoted(name), None, (shown_name,)), kind, labels)
    return found


def _add(found: list[Column], column: Column, kind: Any, labels: Labels) -> None:
    found.append(column)
    if len(column.path) > MAX_DEPTH:
        return
    if column.kind == "object":
        _add_children(found, column, kind, column.value, column.items, column.name + ".", labels)
    elif column.kind == "list" and column.items is None:
        # A list within a list stays one field: what is in it would need a loop for each list.
        item, of_items = item_of(kind), msgspec.structs.replace(column, path=(*column.path, "[]"))
        if kind_of(item) == "object":
            _add_children(found, of_items, item, "x", column.value, column.name + "[].", labels)
        else:
            _add(found, _column(column.name + "[]", item, "x", column.value, of_items.path), item, labels)


def _add_children(
    found: list[Column], parent: Column, kind: Any, value: str, items: str | None, prefix: str, labels: Labels
) -> None:
    for (key, child), shown_key in zip(kind.children, labels([key for key, _ in kind.children]), strict=True):
        part = f"struct_extract({value}, {text(key)})"
        path = (*parent.path, shown_key)
        _add(found, _column(prefix + shown_key, child, part, items, path), child, labels)


def has_map(kind: Any) -> bool:
    """Whether a type is a map, or has one within."""
    inner = kind.children if kind.id in ("struct", "list", "array") else ()
    return kind.id == "map" or any(has_map(child) for _, child in inner if not isinstance(child, int))


def item_of(kind: Any) -> Any:
    """Return the type of a list's items."""
    return dict(kind.children)["child"]


def _column(name: str, kind: Any, value: str, items: str | None, path: tuple[str, ...]) -> Column:
    if kind.id in ("uuid", "enum"):  # texts, but not for functions of text
        value = f"CAST({value} AS VARCHAR)"
    return Column(name, kind_of(kind), value, items, kind.id in ("float", "double"), path)


def kind_of(kind: Any) -> str:
    """Return the type that facts give to a type of DuckDB."""
    if str(kind) == "JSON":
        return "json"
    if kind.id in _INTEGERS:
        return "integer"
    if kind.id.startswith("timestamp"):
        return "timestamp"
    return _KINDS.get(kind.id, str(kind.id))


def shown(kind: Any, value: str, labels: Labels, depth: int = 0) -> str:
    """Return SQL that gives a value short, and as JSON has it; what is binary or a map is left out."""
    name = kind_of(kind)
    if name == "json":
        # As a whole or not at all: nobody could tell what is in the rest of an object.
        return f"CASE WHEN length(CAST({value} AS VARCHAR)) < {SHOWN_CHARACTERS} THEN CAST({value} AS VARCHAR) END"
    if name == "string":
        return f"left(CAST({value} AS VARCHAR), {SHOWN_CHARACTERS})"
    if name == "boolean" or (name == "integer" and "huge" not in kind.id and kind.id != "ubigint"):
        return value
    if name in ("integer", "number"):
        number = f"CAST({value} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END"
    if name in ("date", "time", "timestamp"):
        return f"CAST({value} AS VARCHAR)"
    if name == "object" and depth < MAX_DEPTH:
        parts = (
            f"{quoted(name)} := {shown(child, f'struct_extract({value}, {text(key)})', labels, depth + 1)}"
            for (key, child), name in zip(kind.children, labels([key for key, _ in kind.children]), strict=True)
        )
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"
    if name == "list" and depth < MAX_DEPTH:
        item, variable = item_of(kind), f"x{depth}"
        items = value if kind.id == "list" else f"CAST({value} AS {item}[])"
        return (
            f"list_transform({items}[1:{SHOWN_ITEMS}], lambda {variable}: {shown(item, variable, labels, depth + 1)})"
        )
    return "NULL"
