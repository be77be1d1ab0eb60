from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from recell.adapters.mysql.pipeline import Pipeline, ask
from recell.adapters.mysql.session import Lost, Session, Sessions
from recell.errors import StepFailed
from tests.private_server import Pair


@pytest.fixture
def session(clouds: Pair) -> Iterator[Session]:
    with closing(Session(clouds[0].endpoint())) as made:
        yield made


def test_answers_come_in_order(session: Session) -> None:
    both = Pipeline(session, [b"INSERT INTO s3_images VALUES (1, 'a'), (2, NULL)",
                              b"SELECT id, uuid FROM s3_images ORDER BY id", b"SELECT 1 FROM tags",
                              b"UPDATE s3_images SET uuid = 'b'"])
    assert both.answers() == [[], [(b"1", b"a"), (b"2", None)], [], []]
    assert both.changed == [2, 0, 0, 2]
    assert ask(session, []) == []


def test_more_than_a_socket_takes(session: Session) -> None:
    """Long questions with long answers: neither side waits for the other to read."""
    statements = [b"SELECT '" + bytes([97 + n % 26]) * 20_000 + b"', REPEAT('z', 400000)" for n in range(60)]
    for n, answer in enumerate(ask(session, statements)):
        assert answer == [(bytes([97 + n % 26]) * 20_000, b"z" * 400_000)]


def test_what_a_refused_statement_leaves(session: Session) -> None:
    with pytest.raises(StepFailed, match="no_such_table"):
        ask(session, [b"INSERT INTO s3_images VALUES (1, 'a')", b"SELECT * FROM no_such_table",
                      b"SELECT 2"])
    # The session is where it was: answers are not mistaken for each other's, and nothing is committed.
    assert ask(session, [b"SELECT COUNT(*) FROM s3_images", b"SELECT 3"]) == [[(b"1",)], [(b"3",)]]
    session.rollback()
    assert session.query("SELECT COUNT(*) FROM s3_images") == [(0,)]


def test_columns_as_rows_have_them(session: Session) -> None:
    sizes = (0, 1, 250, 251, 65_535, 65_536, 3_000_000)
    sql = " UNION ALL ".join([*(f"SELECT REPEAT('x', {size})" for size in sizes), "SELECT NULL"])
    assert list(session.column(sql)) == [v for (v,) in session.raw(sql)] == [
        *(b"x" * size for size in sizes), None]
    with pytest.raises(StepFailed, match="no_such_table"):
        list(session.column("SELECT 1 FROM no_such_table"))
    assert list(session.column("SELECT 1 FROM tags")) == []


def test_values_that_fill_several_packets(clouds: Pair) -> None:
    """Of 16 MiB each: one that fills one to the last byte is followed by an empty one."""
    before = clouds[0].sql("SELECT @@GLOBAL.max_allowed_packet")[0][0]
    clouds[0].sql("SET GLOBAL max_allowed_packet = 67108864")
    try:
        with closing(Session(clouds[0].endpoint())) as session:
            for size in ((1 << 24) - 5, (1 << 24) - 4, (1 << 24) + 9):
                assert list(session.column(f"SELECT REPEAT('x', {size})")) == [b"x" * size]
                assert list(session.raw(f"SELECT REPEAT('x', {size})")) == [(b"x" * size,)]
                assert session.query("SELECT 1") == [(1,)]
    finally:
        clouds[0].sql(f"SET GLOBAL max_allowed_packet = {before}")


def test_cut_in_the_middle(session: Session, clouds: Pair) -> None:
    asked = Pipeline(session, [b"SELECT 1", b"SELECT SLEEP(600)", b"SELECT 2"])
    clouds[0].cut()
    with pytest.raises(Lost):
        asked.answers()


def test_a_session_that_was_ended_while_nobody_asked(clouds: Pair) -> None:
    sessions = Sessions()
    first = sessions.ask(clouds[0].endpoint(), lambda s: s.query("SELECT CONNECTION_ID()"))
    assert sessions.ask(clouds[0].endpoint(), lambda s: s.query("SELECT CONNECTION_ID()")) == first
    clouds[0].cut()
    assert sessions.ask(clouds[0].endpoint(), lambda s: s.query("SELECT CONNECTION_ID()")) != first
    sessions.close()
