"""The settings `[plugins.validate]`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tusd_py.config import ConfigError, Size
from tusd_py.units import parse_size
from tusd_py_validate.filetypes import known_names

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Archives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.validate.archives]`: what an archive or a compressed file may be."""

    max_ratio: Positive = 200
    """So many times its compressed size may a member, or the file, become."""
    max_unpacked: Size = Size(2**40)
    """So many bytes may all members have together."""
    max_entries: Positive = 250_000
    max_depth: Positive = 3
    """Archives within archives: a tar.gz has a depth of 2."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[plugins.validate.rules]]`: uploads whose file name matches `match` have to fit `schema`."""

    match: str
    schema: str


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.validate]`."""

    enabled: bool = True
    allow: tuple[str, ...] = ()
    """Types and groups that are taken; without any, all that `deny` does not name."""
    deny: tuple[str, ...] = ("executable", "pickle")
    """Types and groups that are refused, also as members of archives."""
    declared: Literal["refuse", "ignore"] = "refuse"
    """What to do if a file is not what its name or media type says."""
    max_size: dict[str, Size] = {}
    """The largest size for a type or group."""
    checksum: Literal["given", "required", "ignore"] = "given"
    """Whether the metadata's digest of the whole file is verified."""
    finish_size: Size = Size(16 * 2**20)
    """Uploads up to this size are checked wholly before the client hears that they are complete."""
    max_problems: Positive = 100
    max_line: Size = Size(8 * 2**20)
    max_seconds: Positive = 3600
    max_json: Size = Size(64 * 2**20)
    """The largest document that is one JSON value."""
    memory: Size = Size(512 * 2**20)
    """What a process that reads JSON documents or tables may use."""
    processes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Processes for one large JSONL file; 0 takes one for each core."""
    ahead: bool = True
    """Whether JSONL on disk is checked while its bytes arrive; for nothing if the jobs are run by workers."""
    csv_formulas: Literal["refuse", "allow"] = "refuse"
    """Whether cells may be formulas for a spreadsheet."""
    schemas: str | None = None
    """Folder of JSON Schemas."""
    rules: tuple[Rule, ...] = ()
    schema_required: bool = False
    """Whether JSONL, CSV and Parquet without a schema are refused."""
    show_values: bool = False
    """Whether reasons quote the values that do not fit."""
    text_types: bool = False
    """Whether magika names the types of text files."""
    archives: Archives = Archives()


def read(table: Mapping[str, Any]) -> Settings:
    """Return the settings in a table of the TOML file.

    Raises:
        ConfigError: a key is unknown, or a value cannot be.
    """
    try:
        settings = msgspec.convert(table, Settings, dec_hook=_size)
    except msgspec.ValidationError as error:
        raise ConfigError(f"[plugins.validate]: {error}{_meant(str(error))}") from error
    if not settings.text_types:  # magika knows hundreds of further names
        for key, names in (("allow", settings.allow), ("deny", settings.deny), ("max_size", settings.max_size)):
            _check_names(key, names)
    if (settings.rules or settings.schema_required) and settings.schemas is None:
        raise ConfigError("[plugins.validate]: rules and schema_required need `schemas`, the folder of the schemas")
    if settings.schemas is not None and not Path(settings.schemas).is_dir():
        raise ConfigError(f"[plugins.validate]: schemas: {settings.schemas} is not a folder")
    return settings


def _size(kind: type, value: object) -> Size:
    return Size(parse_size(value))


def _meant(message: str) -> str:
    """Return a hint at the key that was meant, if a message is about an unknown one."""
    if "unknown field" not in message:
        return ""
    wrong = message.split("`")[1]
    fields = [*Settings.__struct_fields__, *Archives.__struct_fields__, *Rule.__struct_fields__]
    close = difflib.get_close_matches(wrong, fields, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(Settings.__struct_fields__)}"


def _check_names(key: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in known_names():
            close = difflib.get_close_matches(name, known_names(), 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known_names()))}"
            raise ConfigError(f"[plugins.validate]: {key}: there is no type or group {name!r}; {hint}")
