"""The settings `[plugins.catalog]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from tusd_py.config import ConfigError, Size
from tusd_py.units import parse_size

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[plugins.catalog]` of the server's TOML file."""

    enabled: bool = True
    """Whether the plugin does anything."""
    database: str = "sqlite:///catalog.db"
    """Where the catalog is: a URL of SQLAlchemy for SQLite, or for PostgreSQL with `postgresql+psycopg:`."""
    memory: Size = Size(320 * 2**20)
    """What DuckDB may use for one upload."""
    threads: Positive = 2
    """Threads for one upload."""
    max_seconds: Positive = 3600
    """How long one upload may take."""
    max_line: Size = Size(16 * 2**20)
    """The longest line or JSON object."""
    max_fields: Positive = 1000
    """So many fields of one upload are described."""
    sample_rows: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5
    """Rows to store after redaction; they need tusd-py-pii."""
    openlineage: str | None = None
    """Where events of OpenLineage go: a file that gets a line for each, or an http(s) URL that gets a POST."""
    namespace: str = "tusd-py"
    """The namespace of datasets and jobs in events."""


def read(table: Mapping[str, Any]) -> Settings:
    """Return the settings in a table of the TOML file.

    Raises:
        ConfigError: a key is unknown, or a value cannot be.
    """
    try:
        settings = msgspec.convert(table, Settings, dec_hook=lambda kind, value: Size(parse_size(value)))
    except msgspec.ValidationError as error:
        known = f"; there are {', '.join(Settings.__struct_fields__)}" if "unknown field" in str(error) else ""
        raise ConfigError(f"[plugins.catalog]: {error}{known}") from error
    if urlsplit(settings.database).scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise ConfigError("[plugins.catalog]: database is a URL that begins with sqlite: or postgresql+psycopg:")
    return settings
