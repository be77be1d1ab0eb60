"""Schemas read from a real server, and compared: what differs in words, what only looks different."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pymysql
import pytest
from pymysql.cursors import DictCursor

from recell.adapters.schema import compare_schemas, read_schema
from recell.errors import Unreachable, Unsupported
from recell.model.scope import Column, ForeignKey, Schema, Table
from recell_bench.schemas import JUNO, TODAY, ddl, load
from tests.private_server import PrivateServer


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    made = PrivateServer()
    yield made
    made.stop()


def read(server: PrivateServer, database: str) -> Schema:
    with server.connect() as connection:
        found = read_schema(connection, database)
    return replace(found, tables=tuple(replace(t, rows=0) for t in found.tables))


@pytest.mark.parametrize("release", [JUNO, TODAY])
def test_a_real_schema_is_read_as_it_was_made(server: PrivateServer, release: str) -> None:
    wanted = load(release)
    server.create("nova", ddl(wanted))
    found = read(server, "nova")
    assert compare_schemas(found, wanted) == () == compare_schemas(wanted, found)
    by_name = {t.name: t for t in found.tables}
    for table in wanted.tables:
        mine = by_name[table.name]
        # The releases' files tell no collation: the server gives each text its character set's.
        assert all(c.collation.startswith(c.charset) and bool(c.collation) == bool(c.charset)
                   for c in mine.columns)
        columns = tuple(replace(c, collation="") for c in mine.columns)
        assert (columns, mine.key, sorted(mine.unique)) == (
            table.columns, table.key, sorted(table.unique))
        assert set(mine.foreign_keys) == set(table.foreign_keys)


def test_oddities(server: PrivateServer) -> None:
    server.create("nova", [
        "CREATE TABLE p (a INT, b INT, PRIMARY KEY (b, a))",
        "CREATE TABLE c (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT, y INT DEFAULT 7,"
        " z INT, v INT AS (z + 1) VIRTUAL, s INT AS (z + 2) PERSISTENT, at TIMESTAMP DEFAULT NOW(),"
        " UNIQUE u (y, x), FOREIGN KEY f (y, x) REFERENCES p (b, a) ON DELETE CASCADE ON UPDATE SET NULL)",
        "CREATE VIEW w AS SELECT 1",
    ])
    with server.connect(cursorclass=DictCursor, use_unicode=False) as connection:
        found = read_schema(connection, "nova")
    assert [t.name for t in found.tables] == ["c", "p"]
    assert found.table("p").key == ("b", "a")
    table = found.table("c")
    assert [c.name for c in table.columns if c.generated] == ["v", "s"]
    assert [c.name for c in table.columns if c.auto_increment] == ["id"]
    assert table.unique == (("u", ("y", "x")),)
    (key,) = table.foreign_keys
    assert (key.columns, key.parent, key.parent_columns) == (("y", "x"), "p", ("b", "a"))
    assert (key.on_delete, key.on_update) == ("CASCADE", "SET NULL")


def test_a_parent_in_another_database_is_not_taken_for_one_of_this(server: PrivateServer) -> None:
    server.create("other", ["CREATE TABLE p (id INT PRIMARY KEY)"])
    server.create("nova", ["CREATE TABLE p (id INT PRIMARY KEY)",
                           "CREATE TABLE c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES other.p (id))"])
    assert read(server, "nova").table("c").foreign_keys[0].parent == "other.p"


@pytest.mark.parametrize(("statement", "words"), [
    ("CREATE TABLE t (id INT PRIMARY KEY, x VARCHAR(50), UNIQUE u (x(10)))", "covers a part"),
    ("CREATE TABLE t (id INT PRIMARY KEY) WITH SYSTEM VERSIONING", "system versioned table"),
    ("CREATE SEQUENCE t", "sequence table"),
])
def test_refused(server: PrivateServer, statement: str, words: str) -> None:
    server.create("nova", [statement])
    with pytest.raises(Unsupported, match=words):
        read(server, "nova")


def test_no_such_database(server: PrivateServer) -> None:
    with pytest.raises(Unreachable, match="no database nowhere"):
        read(server, "nowhere")
    server.create("empty", [])
    assert read(server, "empty").tables == ()


def test_rows_are_estimated(server: PrivateServer) -> None:
    server.create("nova", ["CREATE TABLE t (id INT PRIMARY KEY)",
                           "INSERT INTO t SELECT seq FROM seq_1_to_500", "ANALYZE TABLE t"])
    with server.connect() as connection:
        assert 300 < read_schema(connection, "nova").table("t").rows < 700


def _table(**changes: object) -> Table:
    columns = (Column("id", "int", "int(11)", False, auto_increment=True),
               Column("host", "varchar", "varchar(255)", True, "utf8mb3"))
    made = Table("t", columns, ("id",), (("u", ("host", "id")),),
                 (ForeignKey("f", ("id",), "p", ("id",)),))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_only_looks_different() -> None:
    twin = _table(
        columns=(Column("host", "varchar", "varchar(255)", True, "utf8"),
                 Column("id", "int", "int", False, auto_increment=True)),
        unique=(("another_name", ("host", "id")),),
        foreign_keys=(ForeignKey("g", ("id",), "p", ("id",), "NO ACTION", "NO ACTION"),),
        rows=77,
    )
    assert compare_schemas(Schema("a", (_table(),)), Schema("b", (twin,))) == ()


@pytest.mark.parametrize(("other", "words"), [
    (_table(columns=_table().columns[:1]), "t.host is missing in the target"),
    (_table(columns=(*_table().columns, Column("x", "int", "int", True))), "t.x is only in the target"),
    (_table(columns=(_table().columns[0], Column("host", "varchar", "varchar(64)", True, "utf8mb3"))),
     "t.host is varchar(255) utf8mb3 in the source and varchar(64) utf8mb3 in the target"),
    (_table(columns=(_table().columns[0], Column("host", "varchar", "varchar(255)", True, "utf8mb4"))),
     "t.host is varchar(255) utf8mb3 in the source and varchar(255) utf8mb4 in the target"),
    (_table(columns=(_table().columns[0], Column("host", "varchar", "varchar(255)", False, "utf8mb3"))),
     "varchar(255) utf8mb3 NOT NULL in the target"),
    (_table(key=("host",)), "the primary key of t is (id) in the source and (host) in the target"),
    (_table(unique=()), "t has the unique key (host, id) only in the source"),
    (_table(foreign_keys=(ForeignKey("f", ("id",), "p", ("id",), "CASCADE"),)),
     "t has the foreign key (id) to p (id) on delete CASCADE on update RESTRICT only in the target"),
])
def test_differences_in_words(other: Table, words: str) -> None:
    found = compare_schemas(Schema("a", (_table(),)), Schema("b", (other,)))
    assert any(words in line for line in found), found


def test_missing_tables() -> None:
    a, b = Schema("a", (_table(),)), Schema("b", (replace(_table(), name="z"),))
    assert compare_schemas(a, b) == ("t is missing in the target", "z is only in the target")


def test_an_account_that_may_not_look_finds_no_database(server: PrivateServer) -> None:
    server.create("nova", ["CREATE TABLE t (id INT PRIMARY KEY)"])
    server.sql("CREATE OR REPLACE USER blind@localhost")
    with (server.connect(user="blind") as connection, pytest.raises(Unreachable, match="may not see")):
        read_schema(connection, "nova")
    with pytest.raises(pymysql.OperationalError):
        server.connect("nova", user="blind")
