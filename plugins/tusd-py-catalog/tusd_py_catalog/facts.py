"""What is known of the data in one upload: frozen values, as they are stored and shown."""

from __future__ import annotations

from typing import Any

import msgspec

BYTES_PER_TOKEN = 4
"""A rule of thumb for English, with the tokenizers of today; facts that rest on it say that they are estimates."""


class Field(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column, or one place within the objects of a column: `messages[].content`."""

    name: str
    type: str
    """string, integer, number, boolean, date, time, timestamp, bytes, list, object, map, json or null."""
    semantic: str | None = None
    """What the values mean, as far as the first rows tell: id, url, email, language, timestamp, code, prose, ..."""
    values: int | None = None
    """How many there are, within a list as many as all lists have together."""
    nulls: int | None = None
    distinct: int | None = None
    """How many values differ, estimated."""
    min: str | int | float | bool | None = None
    max: str | int | float | bool | None = None
    mean: float | None = None
    min_length: int | None = None
    """The shortest value: characters of a text, items of a list, bytes of what is binary."""
    max_length: int | None = None
    mean_length: float | None = None
    tokens: int | None = None
    """Estimated from the bytes of all texts."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one upload's data."""

    format: str
    """jsonl, json, csv, tsv, parquet, text, binary or empty."""
    bytes: int
    sha256: str
    compression: str | None = None
    rows: int | None = None
    fields: tuple[Field, ...] = ()
    tokens: int | None = None
    """Estimated: a quarter of the bytes of all texts."""
    sample: tuple[dict[str, Any], ...] = ()
    """The first rows, redacted."""
    problems: tuple[str, ...] = ()
    """What kept some or all of it from being described, and what a user of the data should know."""
