"""The binlog's reader, against mysql-replication's, and against itself on other servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from recell.adapters.mysql.binlog import (
    BinlogLost,
    BinlogReader,
    Commit,
    Idle,
    Rows,
    SchemaChanged,
    Statement,
)
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Session
from recell.errors import BadInput, Unsupported
from recell.mover.members import Members
from tests.mover import schema
from tests.mover.writers import Writer, fill
from tests.private_server import Pair, PrivateServer

Change = tuple[str, str, Any, Any]


def _end(server: PrivateServer) -> Position:
    session = Session(server.endpoint())
    try:
        return session.binlog_end()
    finally:
        session.close()


def _read(server: PrivateServer, start: Position, mark: str = "") -> list[Any]:
    """Every event up to where the binlog ends now."""
    end = _end(server)
    members = Members(schema.scope(schema.read(server), schema.WHOLE))
    reader = BinlogReader(server.endpoint(), start, members.wanted, server_id=4711, mark=mark,
                          heartbeat_s=0.1)
    events: list[Any] = []
    try:
        for event in reader.read():
            events.append(event)
            if isinstance(event, Commit | Idle) and event.position >= end:
                return events
    finally:
        reader.close()
    raise AssertionError("the stream ended")


def _changes(server: PrivateServer, events: list[Any]) -> list[Change]:
    members = Members(schema.scope(schema.read(server), schema.WHOLE))
    found: list[Change] = []
    for event in events:
        if isinstance(event, Rows):
            interest = members.interests[event.table]
            for before, after in event.images:
                found.append((event.table, event.operation, before and interest.values(before),
                              after and interest.values(after)))
    return found


def _oracle(server: PrivateServer, start: Position) -> list[Change]:
    read = schema.read(server)
    moving = [t.table for t in schema.scope(read, schema.WHOLE).moving]
    stream = BinLogStreamReader(
        connection_settings={"unix_socket": str(server.socket), "user": "root"}, server_id=4712,
        log_file=start.file, log_pos=start.offset, blocking=False, only_schemas=["nova"],
        only_tables=[t.name for t in moving], only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent])
    found: list[Change] = []
    for event in stream:
        table = read.table(event.table)

        def key(values: dict[str, Any] | None, columns: tuple[str, ...] = table.key) -> Any:
            return None if values is None else tuple(values[c] for c in columns)

        for row in event.rows:
            if isinstance(event, WriteRowsEvent):
                found.append((table.name, "insert", None, key(row["values"])))
            elif isinstance(event, DeleteRowsEvent):
                found.append((table.name, "delete", key(row["values"]), None))
            else:
                found.append((table.name, "update", key(row["before_values"]), key(row["after_values"])))
    stream.close()
    return found


def _work(server: PrivateServer, seed: int, steps: int) -> None:
    fill(server, seed)
    writer = Writer(server, seed)
    for _ in range(steps):
        writer.step()
    writer.close()


def test_keys_as_mysql_replication_reads_them(own: Callable[..., PrivateServer]) -> None:
    server = own(11, "binlog-row-metadata=FULL", "max-binlog-size=200000")
    start = _end(server)
    _work(server, 3, 250)
    server.sql("INSERT INTO every_type (id, lb) VALUES (1000, REPEAT('x', 15000000))",
               "DELETE FROM every_type WHERE id = 1000")
    ours = _changes(server, _read(server, start))
    assert len({c[0] for c in ours}) >= 9
    assert {c[1] for c in ours} == {"insert", "update", "delete"}
    assert ours == _oracle(server, start)
    assert _end(server).sequence > start.sequence + 3


@pytest.mark.parametrize("options", [("log-bin-compress=ON", "log-bin-compress-min-len=10"),
                                     ("binlog-checksum=NONE",), ("binlog-row-metadata=MINIMAL",)])
def test_other_servers_tell_the_same(own: Callable[..., PrivateServer], clouds: Pair,
                                     options: tuple[str, ...]) -> None:
    plain, other = clouds[0], own(12, *options)
    told = []
    for server in (plain, other):
        start = _end(server)
        _work(server, 5, 100)
        told.append(_changes(server, _read(server, start)))
    assert len(told[0]) > 200
    assert told[0] == told[1]


def test_transactions_and_statements(clouds: Pair) -> None:
    server = clouds[0]
    server.sql("CREATE TABLE marks (id INT PRIMARY KEY, n INT)", "INSERT INTO marks VALUES (1, 0)")
    start = _end(server)
    connection = server.connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE marks SET n = 1")
        cursor.execute("INSERT INTO s3_images (uuid) VALUES ('ours')")
        connection.commit()
        cursor.execute("INSERT INTO s3_images (uuid) VALUES ('theirs')")
        cursor.execute("UPDATE marks SET n = 2")
        cursor.execute("SAVEPOINT s")
        cursor.execute("DELETE FROM s3_images WHERE uuid = 'ours'")
        cursor.execute("ROLLBACK TO s")
        connection.commit()
        cursor.execute("ALTER TABLE services ADD COLUMN more INT")
    connection.close()
    events = [e for e in _read(server, start, mark="marks") if not isinstance(e, Idle)]
    assert [type(e).__name__ for e in events] == ["Commit", "Rows", "Commit", "Statement", "Commit"]
    statement = events[3]
    assert isinstance(statement, Statement)
    assert (statement.database, statement.text) == ("nova", "ALTER TABLE services ADD COLUMN more INT")
    commits = [e for e in events if isinstance(e, Commit)]
    assert commits[0].position < commits[1].position < commits[2].position
    assert all(c.gtid.startswith(f"0-{server.number}-") for c in commits)
    # A position that was told is one to go on from.
    again = [e for e in _read(server, commits[0].position) if not isinstance(e, Idle)]
    assert [type(e).__name__ for e in again] == ["Rows", "Commit", "Statement", "Commit"]


def test_a_transaction_in_two_phases(clouds: Pair) -> None:
    server = clouds[0]
    server.sql("CREATE TABLE marks (id INT PRIMARY KEY)")
    start = _end(server)
    server.sql("XA START 'a'", "INSERT INTO marks VALUES (1)", "XA END 'a'", "XA PREPARE 'a'",
               "XA COMMIT 'a'", "XA START 'b'", "INSERT INTO s3_images (uuid) VALUES ('x')", "XA END 'b'",
               "XA COMMIT 'b' ONE PHASE")
    events = [e for e in _read(server, start) if not isinstance(e, Idle)]
    assert [type(e).__name__ for e in events] == ["Commit", "Commit", "Rows", "Commit"]
    server.sql("XA START 'c'", "INSERT INTO s3_images (uuid) VALUES ('y')", "XA END 'c'", "XA PREPARE 'c'",
               "XA COMMIT 'c'")
    with pytest.raises(Unsupported, match="in two phases"):
        _read(server, start)


def test_rows_that_were_logged_as_the_text_of_a_load(clouds: Pair) -> None:
    server = clouds[0]
    file = server.directory / "rows.txt"
    file.write_text("loaded\n")
    file.chmod(0o644)
    start = _end(server)
    server.sql("SET SESSION binlog_format = STATEMENT",
               f"LOAD DATA INFILE '{file}' INTO TABLE s3_images (uuid)")
    (statement,) = (e for e in _read(server, start) if isinstance(e, Statement))
    assert statement.database == "nova" and statement.text.startswith("LOAD DATA INFILE")


def test_a_table_that_was_altered(clouds: Pair) -> None:
    server = clouds[0]
    members = Members(schema.scope(schema.read(server), schema.WHOLE))
    start = _end(server)
    server.sql("ALTER TABLE s3_images ADD COLUMN more INT", "INSERT INTO s3_images (uuid) VALUES ('x')")
    reader = BinlogReader(server.endpoint(), start, members.wanted, server_id=4713)
    with pytest.raises(SchemaChanged, match=r"s3_images .* was altered"):
        for _ in reader.read():
            pass
    reader.close()


def test_rows_that_are_not_whole(clouds: Pair) -> None:
    server = clouds[0]
    server.sql("INSERT INTO s3_images (uuid) VALUES ('x')")
    start = _end(server)
    server.sql("SET SESSION binlog_row_image = MINIMAL", "UPDATE s3_images SET uuid = 'y'")
    with pytest.raises(Unsupported, match="does not write whole rows"):
        _read(server, start)


def test_positions(own: Callable[..., PrivateServer]) -> None:
    server = own(13)
    first = _end(server)
    assert Position.parse(str(first)) == first
    for text in ("", "bin.000001", "bin.000001:x", ":4"):
        with pytest.raises(BadInput):
            Position.parse(text)
    assert Position("bin.000009", 500) < Position("bin.000010", 4)
    assert Position("bin.999999", 500) < Position("bin.1000000", 4)
    server.purge()
    with pytest.raises(BinlogLost, match=rf"what follows {first}"):
        _read(server, first)
