"""The catalog in a database: SQLite or PostgreSQL, through SQLAlchemy.

An entry keeps its number and its version when an upload is described again. What is removed leaves a mark, so that no
version is given twice and a description that comes too late is not stored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError

from tusd_py.config import ConfigError
from tusd_py.errors import Unavailable
from tusd_py_catalog.entries import Entry, Source
from tusd_py_catalog.facts import Facts
from tusd_py_catalog.schema import entries, fields, prepare, sources, tags

ATTEMPTS = 10
MAX_WORDS = 500
"""Characters of one value in a search."""
MAX_VERSIONS = 100
"""So many versions of one dataset are listed."""
BUSY_SECONDS = 30
CONNECT_SECONDS = 10
_log = structlog.get_logger("tusd_py_catalog")
DESCRIBED, REMOVED = "accepted", "removed"


Words = Annotated[str, msgspec.Meta(max_length=MAX_WORDS)] | None


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What entries to find; all that is given has to hold."""

    name: Annotated[Words, msgspec.Meta(description="name of the dataset; `*` stands for any characters")] = None
    field: Annotated[Words, msgspec.Meta(description="name of a field; `*` stands for any characters")] = None
    type: Annotated[Words, msgspec.Meta(description="type or meaning of a field; with `field`, of that one")] = None
    tag: Annotated[Words, msgspec.Meta(description="one of its tags")] = None
    owner: Annotated[Words, msgspec.Meta(description="who uploaded it")] = None
    format: Annotated[Words, msgspec.Meta(description="`jsonl`, `json`, `csv`, `tsv`, `parquet`, `text`, ...")] = None
    sha256: Annotated[Words, msgspec.Meta(description="hash of all bytes")] = None
    text: Annotated[Words, msgspec.Meta(description="words in name, description, tags or names of fields")] = None


class Version(msgspec.Struct, frozen=True):
    """A version of a dataset."""

    version: int
    upload_id: str
    created_at: str
    sha256: str


class Found(msgspec.Struct, frozen=True):
    """An entry with its place in the catalog."""

    number: int
    entry: Entry


class Catalog:
    """Entries, and how they are found."""

    def __init__(self, url: str) -> None:
        """Use the database that a URL of SQLAlchemy names; nothing is opened yet.

        Raises:
            ConfigError: the URL cannot be, or its driver is not installed.
        """
        try:
            address = sa.make_url(url)
            options: dict[str, Any] = {"hide_parameters": True}  # they would end up in logs
            if address.get_backend_name() == "sqlite":
                options |= {"poolclass": sa.NullPool, "connect_args": {"timeout": BUSY_SECONDS}}
            else:
                options |= {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
            self._engine = sa.create_engine(address, **options)
        except ModuleNotFoundError as error:
            hint = ": pip install 'tusd-py-catalog[postgres]'" if "psycopg" in str(error) else ""
            raise ConfigError(f"[plugins.catalog]: the database needs more packages{hint}") from error
        except sa.exc.ArgumentError as error:
            raise ConfigError("[plugins.catalog]: database is no URL of SQLAlchemy") from error
        if address.get_backend_name() == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._lock = threading.Lock()
        self._is_made = False

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def prepare(self) -> None:
        """Make the tables, or bring them up to date.

        Raises:
            ConfigError: they were made by a newer version.
            sqlalchemy.exc.OperationalError: the database cannot be reached.
        """
        with self._lock:
            if not self._is_made:
                with self._engine.execution_options(writes=True).begin() as connection:
                    prepare(connection)
                self._is_made = True

    def check(self) -> None:
        """See whether the database can be used; one that does not answer now may do so when it is needed.

        Raises:
            ConfigError: its tables were made by a newer version, or there can be no file of SQLite.
        """
        try:
            self.prepare()
        except sa.exc.OperationalError as error:
            if self._engine.dialect.name == "sqlite":
                raise ConfigError(f"[plugins.catalog]: the database cannot be opened: {error.orig}") from error
            _log.warning("the database of the catalog does not answer yet", kind=type(error.orig).__name__)

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        """Give a connection, with all tables there.

        Raises:
            Unavailable: the database cannot be reached, or is busy for too long.
        """
        try:
            self.prepare()
            with self._engine.execution_options(writes=writes).begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            self._is_made = False  # the file may be gone
            raise Unavailable("the database of the catalog does not answer; try again") from error

    # Writing

    def put(self, entry: Entry) -> Entry | None:
        """Store an entry, anew if it is there, and return it with its version; None if its upload is removed."""
        for attempt in range(ATTEMPTS):
            try:
                with self._transaction(writes=True) as connection:
                    return _put(connection, entry)
            except IntegrityError:
                # Somebody else stored the same upload since we looked.
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def remove(self, upload_id: str) -> None:
        """Take out all that is known of an upload; a description that comes later is not stored."""
        gone: dict[str, Any] = {"state": REMOVED, "facts": "", "words": ""}
        gone |= dict.fromkeys(("filename", "description", "license", "sha256"))
        for attempt in range(ATTEMPTS):
            try:
                with self._transaction(writes=True) as connection:
                    number = _number_of(connection, upload_id)
                    if number is None:
                        mark = {"owner": "", "name": f"/{upload_id}", "version": 0, "created_at": "", "format": ""}
                        connection.execute(sa.insert(entries).values(upload_id=upload_id, **mark, **gone))
                        return
                    _clear(connection, number)
                    connection.execute(sa.update(entries).where(entries.c.number == number).values(**gone))
                    return
            except IntegrityError:
                if attempt == ATTEMPTS - 1:
                    raise

    # Reading

    def get(self, upload_id: str) -> Entry | None:
        """Return the entry of an upload, or None if there is none to show."""
        found = self._read(sa.select(entries).where(entries.c.upload_id == upload_id))
        return found[0].entry if found else None

    def find(self, search: Search, *, before: int | None = None, limit: int = 100) -> list[Found]:
        """Return entries, the newest first, from the one before number `before` on."""
        query = sa.select(entries).order_by(entries.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(entries.c.number < before)
        return self._read(query.where(*_conditions(search)))

    def versions(self, owner: str | None, name: str) -> list[Version]:
        """Return the versions of a dataset, the newest first."""
        columns = (entries.c.version, entries.c.upload_id, entries.c.created_at, entries.c.sha256)
        which = (entries.c.owner == (owner or "")) & (entries.c.name == name) & (entries.c.state == DESCRIBED)
        query = sa.select(*columns).where(which).order_by(entries.c.version.desc()).limit(MAX_VERSIONS)
        with self._transaction() as connection:
            return [Version(*row) for row in connection.execute(query)]

    def derived(self, upload_id: str, limit: int) -> list[Entry]:
        """Return the entries that say they are derived from an upload."""
        numbers = sa.select(sources.c.number).where(sources.c.upload_id == upload_id)
        query = sa.select(entries).where(entries.c.number.in_(numbers)).order_by(entries.c.number).limit(limit)
        return [found.entry for found in self._read(query)]

    def _read(self, query: sa.Select[Any]) -> list[Found]:
        with self._transaction() as connection:
            rows = connection.execute(query.where(entries.c.state == DESCRIBED)).mappings().all()
            numbers = [row["number"] for row in rows]
            tagged = _grouped(connection, sa.select(tags.c.number, tags.c.tag).order_by(tags.c.tag), tags, numbers)
            from_where = sa.select(sources.c.number, sources.c.text, sources.c.upload_id).order_by(sources.c.position)
            derived = _grouped(connection, from_where, sources, numbers)
        return [
            Found(
                row["number"],
                Entry(
                    upload_id=row["upload_id"],
                    owner=row["owner"] or None,
                    name=row["name"],
                    version=row["version"],
                    filename=row["filename"],
                    description=row["description"],
                    license=row["license"],
                    tags=tuple(tag for (tag,) in tagged.get(row["number"], ())),
                    sources=tuple(Source(*each) for each in derived.get(row["number"], ())),
                    created_at=datetime.fromisoformat(row["created_at"]),
                    facts=msgspec.json.decode(row["facts"], type=Facts),
                ),
            )
            for row in rows
        ]


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads and then writes would fail, and not wait, if another wrote in between.
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _number_of(connection: sa.Connection, upload_id: str) -> int | None:
    query = sa.select(entries.c.number).where(entries.c.upload_id == upload_id).with_for_update()
    return connection.execute(query).scalar_one_or_none()


def _put(connection: sa.Connection, entry: Entry) -> Entry | None:
    owner = entry.owner or ""
    if connection.dialect.name == "postgresql":
        # One after the other, or two that count the versions of the same dataset get the same number. SQLite has one
        # writer at a time anyway.
        name = sa.func.hashtextextended(f"{owner}\n{entry.name}", 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))
    query = sa.select(entries.c.number, entries.c.state, entries.c.version).where(
        entries.c.upload_id == entry.upload_id
    )
    known = connection.execute(query.with_for_update()).one_or_none()
    if known is not None and known.state == REMOVED:
        return None
    values = {
        "state": DESCRIBED,
        "filename": entry.filename,
        "description": entry.description,
        "license": entry.license,
        "created_at": entry.created_at.astimezone(UTC).isoformat(),
        "format": entry.facts.format,
        "sha256": entry.facts.sha256,
        "facts": msgspec.json.encode(entry.facts).decode(),
        "words": _words(entry),
    }
    if known is None:
        same = (entries.c.owner == owner) & (entries.c.name == entry.name)
        latest = connection.execute(sa.select(sa.func.max(entries.c.version)).where(same)).scalar()
        version = (latest or 0) + 1
        insert = sa.insert(entries).values(
            upload_id=entry.upload_id, owner=owner, name=entry.name, version=version, **values
        )
        number = connection.execute(insert.returning(entries.c.number)).scalar_one()
    else:
        number, version = known.number, known.version
        connection.execute(sa.update(entries).where(entries.c.number == number).values(**values))
        _clear(connection, number)
    _insert_all(
        connection,
        fields,
        [
            {"number": number, "position": position, "name": field.name, "type": field.type, "semantic": field.semantic}
            for position, field in enumerate(entry.facts.fields)
        ],
    )
    _insert_all(connection, tags, [{"number": number, "tag": tag} for tag in entry.tags])
    _insert_all(
        connection,
        sources,
        [
            {"number": number, "position": position, "text": source.text, "upload_id": source.upload_id}
            for position, source in enumerate(entry.sources)
        ],
    )
    return msgspec.structs.replace(entry, version=version)


def _clear(connection: sa.Connection, number: int) -> None:
    for table in (fields, tags, sources):
        connection.execute(sa.delete(table).where(table.c.number == number))


def _insert_all(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), rows)


def _words(entry: Entry) -> str:
    """Return what the search for text looks through."""
    parts = [entry.name, entry.filename or "", entry.description or "", *entry.tags]
    return "\n".join([*parts, *(field.name for field in entry.facts.fields)]).lower()


def _conditions(search: Search) -> Iterable[sa.ColumnElement[bool]]:
    if search.name is not None:
        yield _like(entries.c.name, search.name)
    if search.owner is not None:
        yield entries.c.owner == search.owner
    if search.format is not None:
        yield entries.c.format == search.format
    if search.sha256 is not None:
        yield entries.c.sha256 == search.sha256.lower()
    if search.field is not None or search.type is not None:
        is_one = fields.c.number == entries.c.number
        if search.field is not None:
            is_one &= _like(fields.c.name, search.field)
        if search.type is not None:
            is_one &= (fields.c.type == search.type) | (fields.c.semantic == search.type)
        yield sa.exists().where(is_one)
    if search.tag is not None:
        yield sa.exists().where((tags.c.number == entries.c.number) & (tags.c.tag == search.tag.strip().lower()))
    for word in (search.text or "").lower().split():
        yield entries.c.words.contains(word, autoescape=True)


def _like(column: sa.ColumnElement[str], pattern: str) -> sa.ColumnElement[bool]:
    if "*" not in pattern:
        return column == pattern
    escaped = pattern.replace("/", "//").replace("%", "/%").replace("_", "/_").replace("*", "%")
    return column.ilike(escaped, escape="/")


def _grouped(
    connection: sa.Connection, query: sa.Select[Any], table: sa.Table, numbers: Sequence[int]
) -> dict[int, list[Any]]:
    """Return rows of a table by the entry that they belong to, without its number."""
    groups: dict[int, list[Any]] = {}
    if numbers:
        for number, *rest in connection.execute(query.where(table.c.number.in_(numbers))):
            groups.setdefault(number, []).append(rest)
    return groups
