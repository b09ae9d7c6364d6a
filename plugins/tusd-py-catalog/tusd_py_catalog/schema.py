"""The tables of the catalog, and how those of an older version become these.

The database tells the version of its tables. Whoever comes first brings them up to date, in one transaction, while the
others wait; a database that is newer than this program is left alone. A change of the tables is a new `VERSION`, and a
function in `_UPGRADES` that makes it of the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from tusd_py.config import ConfigError

VERSION = 2
_MAKING = 0x74757363  # the number of the lock, which only has to be the same everywhere

metadata = sa.MetaData()
_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up by itself only for this type
schema = sa.Table("catalog_schema", metadata, sa.Column("version", sa.Integer, nullable=False))
entries = sa.Table(
    "catalog_entries",
    metadata,
    sa.Column("number", _number, primary_key=True, autoincrement=True),
    sa.Column("upload_id", sa.String(128), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("filename", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("license", sa.Text),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("format", sa.String(32), nullable=False),
    sa.Column("sha256", sa.String(64), index=True),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    # No owner is the empty one: two NULLs would be different.
    sa.UniqueConstraint("owner", "name", "version"),
)
fields = sa.Table(
    "catalog_fields",
    metadata,
    sa.Column("number", _number, sa.ForeignKey(entries.c.number), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("semantic", sa.String(32)),
)
tags = sa.Table(
    "catalog_tags",
    metadata,
    sa.Column("number", _number, sa.ForeignKey(entries.c.number), primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True, index=True),
)
sources = sa.Table(
    "catalog_sources",
    metadata,
    sa.Column("number", _number, sa.ForeignKey(entries.c.number), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("upload_id", sa.String(128), index=True),
)


def prepare(connection: sa.Connection) -> None:
    """Make the tables, or bring them up to date, within the connection's transaction.

    Raises:
        ConfigError: they were made by a newer version.
    """
    if connection.dialect.name == "postgresql":
        # One process after the other: two that make the same table at the same moment would fail.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
    known = sa.inspect(connection).get_table_names()
    if entries.name not in known:
        version = VERSION
    elif schema.name not in known:
        version = 1  # the first tables told no version
    else:
        version = connection.execute(sa.select(schema.c.version)).scalar_one()
    if version > VERSION:
        raise ConfigError(
            f"[plugins.catalog]: the database has tables of version {version}, and this tusd-py-catalog knows them up "
            f"to {VERSION}: install the newer tusd-py-catalog, or name another database"
        )
    metadata.create_all(connection)
    for upgrade in _UPGRADES[version - 1 :]:
        upgrade(connection)
    if version != VERSION or schema.name not in known:
        connection.execute(sa.delete(schema))
        connection.execute(sa.insert(schema).values(version=VERSION))


def _forget_quarantine(connection: sa.Connection) -> None:
    """To version 2: whether an upload is in quarantine is asked of the server, and not noted here."""
    connection.execute(sa.text("UPDATE catalog_entries SET state = 'accepted' WHERE state = 'quarantined'"))


_UPGRADES: tuple[Callable[[sa.Connection], None], ...] = (_forget_quarantine,)
