"""The catalog in its databases: SQLite, and a real PostgreSQL."""

import socket
import threading
from datetime import UTC, datetime

import msgspec
import pytest
import sqlalchemy as sa
from tusd_py_catalog import schema
from tusd_py_catalog.entries import Entry, Source
from tusd_py_catalog.facts import Facts, Field
from tusd_py_catalog.store import Catalog, Search

from tusd_py.config import ConfigError
from tusd_py.errors import Unavailable

FACTS = Facts(
    format="jsonl",
    bytes=10,
    sha256="a" * 64,
    rows=2,
    fields=(
        Field(name="messages[].content", type="string", semantic="prose", values=2, tokens=9),
        Field(name="score", type="number", values=2, min=0.5, max=1),
    ),
    sample=({"score": 0.5, "text": "nul \0 and \U0001f600"},),
)


def entry(upload_id, name="chat", **changes):
    at = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
    return Entry(**({"upload_id": upload_id, "owner": "ann", "name": name, "created_at": at, "facts": FACTS} | changes))


@pytest.fixture(params=["sqlite", "postgres"])
def catalog(request, tmp_path):
    """An empty catalog in each database."""
    url = f"sqlite:///{tmp_path}/catalog.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = Catalog(url)
    yield made
    with made._transaction(writes=True) as connection:
        schema.metadata.drop_all(connection)
    made.close()


def ids(catalog, **search):
    return [found.entry.upload_id for found in catalog.find(Search(**search))]


def test_an_entry_comes_back_as_it_was_and_twice_is_once(catalog):
    """What is stored is read again; a second description of an upload keeps its version."""
    given = entry(
        "u1", tags=("de", "en"), sources=(Source("u0", "u0"), Source("https://example.org")), description="A chat."
    )
    stored = catalog.put(given)
    assert stored == msgspec.structs.replace(given, version=1) == catalog.get("u1")
    assert catalog.put(given) == stored
    assert len(catalog.find(Search())) == 1
    better = msgspec.structs.replace(given, facts=msgspec.structs.replace(FACTS, rows=3))
    assert catalog.put(better).version == 1
    assert catalog.get("u1").facts.rows == 3


def test_uploads_of_one_name_are_versions_of_their_owner(catalog):
    """Versions count up for each owner and name, and no number is given twice."""
    assert [catalog.put(entry(f"u{n}")).version for n in range(3)] == [1, 2, 3]
    assert catalog.put(entry("b1", owner="bob")).version == 1
    assert catalog.put(entry("n1", owner=None)).version == 1
    assert catalog.put(entry("n2", owner=None)).version == 2
    catalog.remove("u2")
    assert catalog.put(entry("u3")).version == 4
    assert [version.version for version in catalog.versions("ann", "chat")] == [4, 2, 1]


def test_what_is_removed_is_gone_and_stays_so(catalog):
    """Nothing of a removed entry is left to read, and a description that comes too late is not stored."""
    catalog.put(entry("u1", description="secret words", tags=("x",)))
    for upload_id in ("u1", "never-described"):
        catalog.remove(upload_id)
        assert catalog.put(entry(upload_id)) is None
        assert catalog.get(upload_id) is None
        catalog.remove(upload_id)
    assert ids(catalog) == []
    with catalog._transaction() as connection:
        left = repr([list(connection.execute(sa.select(table))) for table in schema.metadata.sorted_tables])
    assert "secret" not in left
    assert "messages" not in left


def test_tables_of_an_older_version_are_brought_up_to_date(catalog):
    """What the first version stored is there in this one, also if two processes come at once; then nothing changes."""
    catalog.put(entry("u1"))
    catalog.put(entry("u2"))
    with catalog._transaction(writes=True) as connection:  # as it was: no version, and quarantine noted here
        schema.schema.drop(connection)
        connection.execute(sa.update(schema.entries).values(state="quarantined").where(schema.entries.c.version == 1))
    url = catalog._engine.url.render_as_string(hide_password=False)
    newer = [Catalog(url) for _ in range(4)]
    threads = [threading.Thread(target=each.check) for each in newer]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ids(newer[0]) == ["u2", "u1"]
    with newer[1]._transaction() as connection:
        assert connection.execute(sa.select(schema.schema.c.version)).scalars().all() == [schema.VERSION]
    for each in newer:
        each.close()


def test_tables_of_a_newer_version_are_left_alone(catalog):
    """A program that is older than the database does not start, and says what to do."""
    catalog.put(entry("u1"))
    with catalog._transaction(writes=True) as connection:
        connection.execute(sa.update(schema.schema).values(version=schema.VERSION + 1))
    older = Catalog(catalog._engine.url.render_as_string(hide_password=False))
    with pytest.raises(ConfigError, match=rf"version {schema.VERSION + 1}.*install the newer"):
        older.check()
    older.close()


def test_a_database_that_cannot_be_used_is_told(tmp_path):
    """Without its folder there can be no file; a server that does not answer may do so later."""
    with pytest.raises(ConfigError, match="cannot be opened"):
        Catalog(f"sqlite:///{tmp_path}/nowhere/catalog.db").check()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = Catalog(f"postgresql+psycopg://nobody@127.0.0.1:{port}/x")
    away.check()
    with pytest.raises(Unavailable, match="does not answer"):
        away.get("u1")


def test_a_search_finds_what_has_it_all(catalog):
    """Name, field, type, tag, owner, format, hash and words each narrow the search; the newest comes first."""
    other = msgspec.structs.replace(
        FACTS, format="csv", sha256="b" * 64, fields=(Field(name="url", type="string", semantic="url"),)
    )
    catalog.put(entry("u1", tags=("de",), description="Talks about 100% cotton"))
    catalog.put(entry("u2", "links_2026", facts=other, owner="bob", filename="links.csv"))
    assert ids(catalog) == ["u2", "u1"]
    for search, found in [
        ({"name": "chat"}, ["u1"]),
        ({"name": "LINKS*"}, ["u2"]),
        ({"name": "linksX2026"}, []),
        ({"name": "links_202?"}, []),
        ({"field": "url"}, ["u2"]),
        ({"field": "messages*"}, ["u1"]),
        ({"type": "prose"}, ["u1"]),
        ({"type": "string"}, ["u2", "u1"]),
        ({"field": "score", "type": "number"}, ["u1"]),
        ({"field": "score", "type": "string"}, []),
        ({"tag": "DE"}, ["u1"]),
        ({"owner": "bob"}, ["u2"]),
        ({"format": "csv"}, ["u2"]),
        ({"sha256": "A" * 64}, ["u1"]),
        ({"text": "COTTON talks"}, ["u1"]),
        ({"text": "100%"}, ["u1"]),
        ({"text": "1%cotton"}, []),
        ({"text": "links.csv"}, ["u2"]),
        ({"name": "'; DROP TABLE catalog_entries; --"}, []),
        ({"owner": "ann", "format": "csv"}, []),
    ]:
        assert ids(catalog, **search) == found, search
    newest = catalog.find(Search(), limit=1)[0]
    assert [each.entry.upload_id for each in catalog.find(Search(), before=newest.number)] == ["u1"]


def test_processes_that_write_at_once_get_versions_of_their_own(catalog):
    """Of many writers none fails and none gets another's version."""
    url = catalog._engine.url.render_as_string(hide_password=False)
    versions, lock = [], threading.Lock()

    def write(writer):
        own = Catalog(url)
        for number in range(5):
            stored = own.put(entry(f"w{writer}-{number}"))
            with lock:
                versions.append(stored.version)
        own.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(versions) == list(range(1, 21))


def test_lineage_goes_both_ways(catalog):
    """What was derived from an upload is found by it."""
    catalog.put(entry("u1"))
    catalog.put(entry("u2", "clean", sources=(Source("http://example.org/files/u1", "u1"),)))
    assert [each.upload_id for each in catalog.derived("u1", 9)] == ["u2"]
    assert catalog.derived("u2", 9) == []
