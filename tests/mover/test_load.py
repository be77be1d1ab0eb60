"""LOAD DATA instead of statements: the same rows, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from recell.adapters.mysql.session import Session
from recell.adapters.schema import read_schema
from recell.model.scope import Scope, TableScope, Whole
from recell.mover import Move, Options, load
from recell.mover.load import Loader
from recell.mover.members import Interest
from tests.mover import schema
from tests.mover.writers import NAMES, TEXTS
from tests.private_server import Pair

TABLE = """CREATE OR REPLACE TABLE loaded (id BIGINT PRIMARY KEY, t TINYINT, su SMALLINT UNSIGNED,
 bu BIGINT UNSIGNED, f FLOAT, d DOUBLE, n DECIMAL(20, 5), y YEAR, da DATE, ti TIME(3), dt DATETIME(6),
 ts TIMESTAMP NULL, c CHAR(5), c2 CHAR(100) CHARACTER SET utf8mb4, v3 VARCHAR(4000) CHARACTER SET utf8mb3,
 mt MEDIUMTEXT CHARACTER SET utf8mb4, js LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, bi BINARY(4),
 vb VARBINARY(300), lb LONGBLOB, e ENUM('a', 'größe', 'it''s'), s SET('x', 'y', 'z'), last VARCHAR(20))"""
EVERY_BYTE = bytes(range(256))


@pytest.fixture
def ends(clouds: Pair) -> Iterator[tuple[Session, Session]]:
    for server in clouds:
        server.sql("SET NAMES utf8mb4", TABLE)
    with closing(Session(clouds[0].endpoint())) as source, \
            closing(Session(clouds[1].endpoint(), loads=True)) as target:
        yield source, target
    for server in clouds:
        server.sql("DROP TABLE loaded", "SET GLOBAL local_infile = ON")


def _fill(source: Session) -> int:
    source.execute("SET sql_mode = ''")
    texts = [*TEXTS, *NAMES, "\\N", "\\", "'", "','", "a\\'b", "x\ny\tz\r\n", "NULL,NULL", "-- \"'"]
    numbers = [(None,) * 5, (0, 0, 0, 0.0, 0.0), (-128, 65535, (1 << 64) - 1, 16777217.0, 1 / 3),
               (127, 1, 1 << 63, 1.2345678806, 1.7976931348623157e308), (1, 2, 3, 1e-38, 5e-324)]
    times = [(None,) * 5, (0, "0000-00-00", "-838:59:59.999", "0000-00-00 00:00:00", "2030-01-01 00:00:01"),
             (2026, "2012-02-29", "00:00:00.001", "9999-12-31 23:59:59.999999", "1970-01-01 00:00:01")]
    blobs = [None, b"", b"NULL", EVERY_BYTE, EVERY_BYTE[::-1], b"\xc3", b"'" * 300, b"\\" * 299, b"\n,'\n"]
    for number in range(60):
        text, blob = texts[number % len(texts)], blobs[number % len(blobs)]
        short = text and text[:5]
        source.execute(
            "INSERT INTO loaded VALUES (" + ", ".join(["%s"] * 23) + ")",
            (number, *numbers[number % 5], (None, "0.00001", "-99999.5")[number % 3],
             *times[number % 3], short, text and text[:90], text, text and text * 3, text, blob and blob[:4],
             blob and blob[:300], blob and blob * 700, (None, "a", "größe", "it's")[number % 4],
             (None, "", "x,z")[number % 3], text and text[-20:]))
    source.commit()
    return 60


def _interest(ends: tuple[Session, Session]) -> tuple[Interest, Scope]:
    table = read_schema(ends[0].connection, "nova").table("loaded")
    ends[0].commit()
    scoped = TableScope(table, Whole())
    return Interest(scoped, ()), Scope("nova", (scoped,), frozenset())


def _lines(source: Session, interest: Interest) -> Iterator[bytes]:
    return (row or b"" for row in source.column(f"SELECT {interest.rows.line} FROM loaded ORDER BY id"))


@pytest.mark.parametrize("size", [100_000, 1 << 24])
def test_every_value_arrives_as_it_was(ends: tuple[Session, Session], clouds: Pair, size: int,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = ends
    monkeypatch.setattr(load, "_BYTES", size)
    count = _fill(source)
    interest, scope = _interest(ends)
    loader = Loader(target)
    assert loader.takes(interest)
    assert loader.load(interest, iter([*_lines(source, interest)])) == count
    target.commit()
    assert schema.differing(clouds[0], clouds[1], scope) == []
    assert len(schema.contents(clouds[1], interest.rows.table)) == count


def test_a_row_that_is_there_is_told_and_stays(ends: tuple[Session, Session], clouds: Pair) -> None:
    source, target = ends
    _fill(source)
    interest, _ = _interest(ends)
    clouds[1].sql("INSERT INTO loaded (id, last) VALUES (7, 'mine')")
    assert Loader(target).load(interest, _lines(source, interest)) is None
    target.rollback()
    assert source.query("SELECT 5") == [(5,)], "what it was being read from is ready for more"
    assert clouds[1].sql("SELECT id, last FROM loaded") == [(7, "mine")]


@pytest.mark.parametrize("narrow", ["last VARCHAR(3)", "mt MEDIUMTEXT CHARACTER SET utf8mb3",
                                    "t TINYINT UNSIGNED", "e ENUM('a')",
                                    "v3 VARCHAR(4000) CHARACTER SET utf8mb3 NOT NULL"])
def test_a_value_that_does_not_fit_is_never_taken_for_another(
        ends: tuple[Session, Session], clouds: Pair, narrow: str) -> None:
    source, target = ends
    _fill(source)
    clouds[1].sql(f"ALTER TABLE loaded MODIFY {narrow}")
    interest, _ = _interest(ends)
    assert Loader(target).load(interest, _lines(source, interest)) is None


@pytest.mark.parametrize("change", ["ADD b BIT(3)", "MODIFY last VARCHAR(20) CHARACTER SET latin1",
                                    "ADD u UUID"])
def test_columns_that_want_statements(ends: tuple[Session, Session], clouds: Pair, change: str) -> None:
    interest, _ = _interest(ends)
    assert Loader(ends[1]).takes(interest)
    clouds[1].sql(f"ALTER TABLE loaded {change}")
    assert not Loader(ends[1]).takes(interest), "the target's column decides"
    clouds[0].sql("ALTER TABLE loaded ADD b2 BIT(3)")
    assert _interest(ends)[0].rows.line == "", "and the source's"


def test_a_server_that_forbids_it_gets_statements(ends: tuple[Session, Session], clouds: Pair) -> None:
    source, target = ends
    count = _fill(source)
    interest, scope = _interest(ends)
    loader = Loader(target)
    clouds[1].sql("SET GLOBAL local_infile = OFF")
    assert loader.takes(interest) and loader.load(interest, _lines(source, interest)) is None
    assert not loader.takes(interest), "it is not asked again"
    assert not Loader(target).takes(interest)
    move = Move(clouds[0].endpoint(), clouds[1].endpoint(), scope, Options(patience_s=20))
    try:
        move.prepare()
        assert move.copy() == count
        assert schema.differing(clouds[0], clouds[1], scope) == []
        move.finish()
    finally:
        move.close()


def test_rows_that_are_there_already_stay_beside_those_that_are_copied(
        ends: tuple[Session, Session], clouds: Pair) -> None:
    count = _fill(ends[0])
    _, scope = _interest(ends)
    clouds[1].sql("INSERT INTO loaded (id, last) VALUES (7, 'mine')")
    move = Move(clouds[0].endpoint(), clouds[1].endpoint(), scope, Options(patience_s=20))
    try:
        move.prepare()
        move.copy()
        assert clouds[1].sql("SELECT COUNT(*) FROM loaded") == [(count,)]
        assert clouds[1].sql("SELECT last FROM loaded WHERE id = 7") == [("mine",)]
        assert [d.split(":")[0] for d in schema.differing(clouds[0], clouds[1], scope)] == ["loaded (7,)"]
        move.finish()
    finally:
        move.close()


def test_a_server_that_asks_for_a_file_gets_none(ends: tuple[Session, Session], clouds: Pair) -> None:
    """Any statement's answer may be the server's wish for a file of ours."""
    with pytest.raises(RuntimeError, match="LOAD_LOCAL"):
        ends[1].execute("LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE loaded")
