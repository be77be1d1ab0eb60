"""The relay in front of real servers, with real clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from recell.errors import StalePlan, StepFailed
from recell.model.relay import Side
from recell.mover.cell import SIDES
from tests.mover.conftest import OPTIONS
from tests.mover.relays import (
    MODERN,
    NETWORK,
    PASSWORD,
    SESSIONS,
    USER,
    Rig,
    Writers,
    connections_to,
    one,
    ready,
    run,
    set_aside,
    state_of,
    until,
)
from tests.private_server import PrivateServer, Server, free_ports


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Server, Server, dict[Side, int]]]:
    ports: dict[Side, int] = dict(zip(SIDES, free_ports(2), strict=True))
    made: list[PrivateServer] = []
    try:
        for number, port in enumerate(ports.values(), 71):
            made.append(PrivateServer(*OPTIONS, *NETWORK, port=port, number=number, database="nova"))
        yield made[0], made[1], ports
    finally:
        for server in made:
            server.stop()


@pytest.fixture
def rig(tmp_path: Path, sides: tuple[Server, Server, dict[Side, int]]) -> Iterator[Rig]:
    old, new, ports = sides
    for server in (old, new):
        ready(server)
    directory = tmp_path / "relay"
    directory.mkdir()
    rig = Rig(directory, old, new, ports)
    try:
        rig.install()
        yield rig
    finally:
        rig.close()


def test_a_connection_goes_there_and_back_and_notices_nothing(rig: Rig) -> None:
    client = rig.connect()
    assert rig.where(client) == 71
    client.commit()
    rig.held()
    state = state_of(rig)
    assert (state.held, state.side, state.connections) == (True, "old", 1)
    switched = rig.relay.switch("new")
    assert (switched.carried, switched.closed) == (1, 0)
    rig.relay.release()
    assert rig.where(client) == 72
    run(client, "INSERT INTO done (who) VALUES (1)")
    client.commit()
    rig.through("old")
    assert rig.where(client) == 71
    assert one(client, "SELECT COUNT(*) FROM done") == 0
    assert rig.new.sql("SELECT who FROM done") == [(1,)]


def test_writers_notice_nothing_and_nothing_is_lost(rig: Rig) -> None:
    """PyMySQL as it is, oslo.db's sessions as Nova has them, and a client that connects every time."""
    with Writers(rig) as writers:
        sides: tuple[Side, ...] = ("new", "old", "new", "old")
        for side in sides:
            writers.more(20)
            source = rig.server("old" if side == "new" else "new")
            # So long that a client which this machine is slow to run has logged in by then.
            while not rig.relay.hold(30, 60).quiet:
                pass
            written = source.sql("SELECT COUNT(*) FROM done")
            assert rig.relay.switch(side).closed == 0
            rig.relay.release()
            writers.more(20)
            assert source.sql("SELECT COUNT(*) FROM done") == written
    assert writers.errors == []
    assert len(writers.acknowledged) > 150
    parts = "SELECT who, number FROM done GROUP BY who, number HAVING COUNT(*) = 3"
    old, new = set(rig.old.sql(parts)), set(rig.new.sql(parts))
    assert not old & new
    assert old | new == set(writers.acknowledged)
    for server in (rig.old, rig.new):
        assert server.sql("SELECT 1 FROM done GROUP BY who, number HAVING COUNT(*) <> 3") == []
    state = state_of(rig)
    assert (state.closed, state.holds >= 4, state.errors) == (0, True, ())


def test_a_client_that_leaves_while_a_hold_logs_it_in_elsewhere_is_no_obstacle(rig: Rig) -> None:
    """The other side's server takes no login for a while, as a process that the kernel has set aside."""
    leaving, staying = rig.connect(), rig.connect()
    found: list[bool] = []
    holding = threading.Thread(target=lambda: found.append(rig.relay.hold(20, 60).quiet))
    with set_aside(rig.new):
        holding.start()
        until(lambda: connections_to(rig.ports["new"]) == 2)
        leaving.close()
        until(lambda: state_of(rig).connections == 1)
    holding.join()
    assert found == [True]
    assert rig.relay.switch("new").carried == 1
    rig.relay.release()
    assert rig.where(staying) == 72


def test_a_client_that_no_server_has_greeted_yet_is_greeted_by_the_new_one(rig: Rig) -> None:
    staying = rig.connect()
    came: list[int] = []
    with set_aside(rig.old):
        coming = threading.Thread(target=lambda: came.append(rig.where(rig.connect())))
        coming.start()
        until(lambda: connections_to(rig.ports["old"]) == 2)
        rig.held()
        assert state_of(rig).waiting == 1
        switched = rig.relay.switch("new")
        assert (switched.carried, switched.closed) == (1, 0)
        rig.relay.release()
        coming.join(60)
    assert came == [72] and rig.where(staying) == 72


def test_a_session_that_comes_late_leads_nobody_back(rig: Rig) -> None:
    """Its server ended a client's session, and makes another one so slowly that the side changes first."""
    client = rig.connect()
    rig.held()
    rig.old.sql(f"KILL USER {USER}@'127.0.0.1'", database="")
    until(lambda: not rig.old.sql(SESSIONS))
    with set_aside(rig.old):
        rig.relay.release()
        until(lambda: connections_to(rig.ports["old"]) == 1)
        rig.held()
        assert rig.relay.switch("new").carried == 1
        rig.relay.release()
        assert rig.where(client) == 72
    until(lambda: connections_to(rig.ports["old"]) == 0)
    client.commit()
    assert rig.where(client) == 72


def test_a_session_is_the_same_on_the_other_side(rig: Rig) -> None:
    client = rig.connect(client_flag=pymysql.constants.CLIENT.FOUND_ROWS, charset="latin1")
    for server in (rig.old, rig.new):
        server.sql("CREATE DATABASE IF NOT EXISTS `no``va`", f"GRANT ALL ON `no``va`.* TO {USER}@'127.0.0.1'",
                   database="")
    run(client, "INSERT INTO done (id, who) VALUES (40, 1)")
    run(client, "INSERT INTO done (who) VALUES (2)")
    client.commit()
    rig.new.sql("INSERT INTO done (id, who) VALUES (7, 1)")
    run(client, "SET SESSION sql_mode = 'TRADITIONAL,ANSI_QUOTES', lock_wait_timeout = 77,"
        " @@session.div_precision_increment=9",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET time_zone = '+03:00' /* here; */",
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin", "SET character_set_results = NULL",
        "USE `no``va`")
    asked = ("SELECT @@sql_mode, @@lock_wait_timeout, @@div_precision_increment, @@time_zone,"
             " @@session.tx_isolation, @@collation_connection, @@character_set_client,"
             " @@character_set_results, DATABASE(), LAST_INSERT_ID(), @@autocommit, CURRENT_USER()")
    before = run(client, asked)
    client.commit()
    rig.through("new")
    assert rig.where(client) == 72
    assert run(client, asked) == before
    assert before[0][1] == 77 and before[0][9] == 41 and before[0][10] == 0
    # The handshake's flag: rows that were found, not those that were changed.
    client.select_db("nova")
    assert client.cursor().execute("UPDATE done SET who = 1 WHERE id = 7") == 1


def test_the_next_transactions_isolation_goes_along(rig: Rig) -> None:
    """Said, and not yet used: a rehearsal must not spend it, nor leave it where it was used."""
    client, used = rig.connect(), rig.connect()
    run(client, "SET TRANSACTION READ ONLY")
    run(used, "SET TRANSACTION READ ONLY")
    busy = rig.connect()
    run(busy, "INSERT INTO done (who) VALUES (9)")
    assert rig.relay.hold(0.2, 60).busy  # rehearsed, and let go
    busy.commit()
    run(used, "SELECT COUNT(*) FROM done")
    used.commit()
    rig.through("new")
    with pytest.raises(pymysql.err.MySQLError, match="READ ONLY"):
        run(client, "INSERT INTO done (who) VALUES (1)")
    run(used, "INSERT INTO done (who) VALUES (2)")
    used.commit()


def test_between_the_pools_ping_and_the_first_statement(rig: Rig) -> None:
    client = rig.connect()
    assert run(client, "SELECT 1") == [(1,)]  # as SQLAlchemy's and oslo.db's checkout asks
    rig.held()
    answers: list[Any] = []
    statement = threading.Thread(target=lambda: answers.append(run(client, "SELECT @@server_id")))
    statement.start()
    rig.relay.switch("new")
    assert not answers
    rig.relay.release()
    statement.join(60)
    assert answers == [[(72,)]]


def test_who_does_not_come_to_rest_is_named_and_nobody_waits_on(rig: Rig) -> None:
    client, other = rig.connect(), rig.connect()
    run(client, "INSERT INTO done (who) VALUES (1)")
    held = rig.relay.hold(0.3, 60)
    assert [(b.account, b.address.rpartition(":")[0], b.what) for b in held.busy] == [
        (USER, "127.0.0.1", "has had a transaction open")]
    assert f"{USER} at 127.0.0.1:" in str(held.busy[0]) and held.busy[0].seconds >= held.waited_s >= 0.3
    assert held.connections == 2 and not held.quiet
    assert rig.where(other) == 71
    with pytest.raises(StepFailed, match="lets connections through again"):
        rig.relay.switch("new")
    run(client, "INSERT INTO done (who) VALUES (2)")
    client.commit()
    rig.through("new")
    assert rig.old.sql("SELECT who FROM done") == [(1,), (2,)]

    def sleep() -> None:
        with pytest.raises(pymysql.err.OperationalError, match="interrupted"):
            run(other, "SELECT SLEEP(600)")

    sleeping = threading.Thread(target=sleep)
    sleeping.start()
    asleep = "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
    until(lambda: rig.new.sql(asleep))
    assert [b.what for b in rig.relay.hold(0.1, 60).busy] == ["has had a statement under way"]
    rig.new.sql(f"KILL QUERY {rig.new.sql(asleep)[0][0]}")
    sleeping.join()


def test_a_transaction_may_end_while_all_others_wait(rig: Rig) -> None:
    client, other = rig.connect(), rig.connect()
    run(client, "INSERT INTO done (who) VALUES (1)")
    holding = threading.Thread(target=rig.held)
    holding.start()
    until(lambda: state_of(rig).held)
    answers: list[Any] = []
    statement = threading.Thread(target=lambda: answers.append(rig.where(other)))
    statement.start()
    run(client, "INSERT INTO done (who) VALUES (2)")
    client.commit()
    holding.join()
    rig.relay.switch("new")
    assert not answers
    rig.relay.release()
    statement.join()
    assert answers == [72]
    assert rig.old.sql("SELECT who FROM done") == [(1,), (2,)]


def test_after_an_error_the_server_is_asked_whether_a_transaction_is_open(rig: Rig) -> None:
    """Errors carry no status: with autocommit off one may have begun a transaction."""
    harmless, begun = rig.connect(), rig.connect()
    run(begun, "INSERT INTO done (who, number, part) VALUES (1, 1, 1)")
    begun.commit()
    with pytest.raises(pymysql.err.ProgrammingError):
        run(harmless, "this is no SQL")
    with pytest.raises(pymysql.err.IntegrityError):
        run(begun, "INSERT INTO done (who, number, part) VALUES (1, 1, 1)")
    sock: Any = begun._sock  # type: ignore[attr-defined]
    # The other one rests as soon as its server has answered.
    until(lambda: [b.address for b in rig.relay.hold(0.3, 60).busy] == [
        f"127.0.0.1:{sock.getsockname()[1]}"])
    begun.rollback()
    rig.through("new")
    assert rig.where(harmless) == rig.where(begun) == 72


@pytest.mark.parametrize(("statement", "why"), [
    ("SET @mine = 1", "a variable of its own"),
    ("CREATE TEMPORARY TABLE mine (a INT)", "a temporary table"),
    ("SELECT GET_LOCK('mine', 1)", "GET_LOCK"),
    ("LOCK TABLES done READ", "LOCK TABLES"),
    ("SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI')", "computed a setting"),
])
def test_what_cant_be_carried_over_is_named_and_closed(rig: Rig, statement: str, why: str) -> None:
    client, other = rig.connect(), rig.connect()
    run(client, statement)
    client.commit()
    held = rig.relay.hold(20, 60)
    assert [why in c.what for c in held.stateful] == [True]
    switched = rig.relay.switch("new")
    rig.relay.release()
    assert (switched.carried, switched.closed) == (1, 1) and why in switched.reasons[0]
    assert rig.where(other) == 72
    with pytest.raises(pymysql.err.MySQLError):
        run(client, "SELECT 1")
    state = state_of(rig)
    assert (state.carried, state.closed, state.stateful) == (1, 1, ())


def test_a_prepared_statement_is_state_until_it_is_closed(rig: Rig) -> None:
    client: Any = rig.connect()
    client._execute_command(0x16, "SELECT id, who FROM done WHERE who = ? OR id = ?")
    answer = client._read_packet()
    number, columns, parameters = answer.get_all_data()[1:5], 2, 2
    for _ in range(columns + parameters + 2):
        client._read_packet()
    assert [c.what for c in state_of(rig).stateful] == ["has prepared a statement"]
    # Executed with two NULLs: no row.
    client._execute_command(0x17, number + b"\0" + b"\1\0\0\0" + b"\3" + b"\1" + b"\6\0\6\0")
    for _ in range(1 + columns + 2):
        client._read_packet()
    client._execute_command(0x19, number)
    client.ping(reconnect=False)
    client.commit()
    assert state_of(rig).stateful == ()
    rig.through("new")
    assert rig.where(client) == 72


def test_big_statements_and_big_results(rig: Rig) -> None:
    """Over 16 MiB a packet goes on in another one; 0xFFFFFF bytes exactly are followed by an empty one."""
    client = rig.connect(max_allowed_packet=64 << 20)
    for size in (0xFFFFFF - len("SELECT LENGTH('')") - 1 + number for number in (-1, 0, 1)):
        assert one(client, f"SELECT LENGTH('{'x' * size}')") == size
    run(client, "INSERT INTO big (data) VALUES (REPEAT(UNHEX('FFFE'), 9000000)), ('a'), (NULL)")
    client.commit()
    rig.through("new")
    rig.through("old")
    rows = run(client, "SELECT data FROM big")
    assert [r[0] and len(r[0]) for r in rows] == [18_000_000, 1, None] and set(rows[0][0]) == {0xFF, 0xFE}
    client.commit()
    # A hundred thousand small rows, left unread for a while.
    streaming = rig.connect(cursorclass=pymysql.cursors.SSCursor)
    cursor = streaming.cursor()
    cursor.execute("SELECT seq, REPEAT('r', 90) FROM seq_1_to_100000")
    assert rig.relay.hold(0.1, 60).busy
    assert sum(1 for _ in cursor) == 100_000
    cursor.close()
    streaming.rollback()
    rig.through("new")
    assert rig.where(streaming) == 72


def test_several_statements_at_once(rig: Rig) -> None:
    client = rig.connect(client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS)
    cursor = client.cursor()
    cursor.execute("SET lock_wait_timeout = 66; SELECT 1; INSERT INTO done (who) VALUES (1);"
                   " SELECT ';'; SELECT 3")
    seen = [cursor.fetchall()]
    while cursor.nextset():
        seen.append(cursor.fetchall())
    assert seen[1] == ((1,),) and seen[3:] == [((";",),), ((3,),)]
    client.commit()
    rig.through("new")
    assert one(client, "SELECT @@lock_wait_timeout") == 66
    client.commit()
    with pytest.raises(pymysql.err.MySQLError):
        cursor.execute("SET lock_wait_timeout = 65; this is no SQL")
        while cursor.nextset():
            pass
    client.rollback()
    assert "one failed" in state_of(rig).stateful[0].what


def test_what_a_relay_cant_carry_is_refused_in_words(rig: Rig) -> None:
    with pytest.raises(pymysql.err.OperationalError, match="SSL is required"):
        rig.connect(ssl={"ca": None, "check_hostname": False}, ssl_verify_cert=False)
    compressing: Any = pymysql.connections.Connection(
        host="127.0.0.1", port=rig.port, user=USER, password=PASSWORD, defer_connect=True)
    compressing.client_flag |= pymysql.constants.CLIENT.COMPRESS
    with pytest.raises(pymysql.err.OperationalError, match="relay carries no compressed protocol"):
        compressing.connect()
    client: Any = rig.connect()
    for command in (0x11, 0x12):  # change user, send the binlog
        client._execute_command(command, b"\0" * 20)
        with pytest.raises(pymysql.err.OperationalError, match=f"carries no command 0x{command:02x}"):
            client._read_packet()
    with pytest.raises(pymysql.err.MySQLError):
        run(client, "LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE done")
    assert rig.where(client) == 71
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        rig.connect(password="wrong")
    assert any("compressed" in error for error in state_of(rig).errors)


def test_new_connections_wait_at_the_door(rig: Rig) -> None:
    rig.held()
    clients: list[Any] = []
    knocking = threading.Thread(target=lambda: clients.append(rig.connect()))
    knocking.start()
    until(lambda: state_of(rig).waiting == 1)
    rig.relay.switch("new")
    assert not clients
    rig.relay.release()
    knocking.join()
    assert rig.where(clients[0]) == 72
    assert state_of(rig).longest_wait_s > 0


def test_clients_may_go_while_they_are_held(rig: Rig) -> None:
    clients = [rig.connect() for _ in range(3)]
    rig.held()
    clients[0].close()
    clients[1]._force_close()  # type: ignore[attr-defined]
    until(lambda: state_of(rig).connections == 1)
    assert rig.relay.switch("new").carried == 1
    assert rig.relay.switch("new").carried == 0  # it is there already
    rig.relay.release()
    assert rig.where(clients[2]) == 72


def test_an_account_of_ed25519(rig: Rig) -> None:
    """PyMySQL needs another package for MariaDB's own way to log in, the relay doesn't."""
    assert rig.relay.try_logins() == ()
    changed = f"ALTER USER {MODERN}@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('changed')"
    rig.new.sql(changed, database="")
    (refused,) = rig.relay.try_logins()
    assert f"refuses the relay's login as {MODERN} (1045: Access denied" in refused


def test_installing(rig: Rig) -> None:
    directory = rig.directory / "relay-p1"
    assert rig.host.verbs == ["daemon-reload", "enable", "restart"]
    rig.install()
    assert rig.host.verbs == ["daemon-reload", "enable", "restart"]
    unit = rig.host.units / rig.relay.unit
    assert "Restart=always" in unit.read_text()
    for path in (directory, *directory.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    assert json.loads((directory / "config.json").read_text())["accounts"][USER] == PASSWORD
    assert PASSWORD not in unit.read_text() + " ".join(rig.host.argv) + rig.host.log.read_text()
    client = rig.connect()
    with pytest.raises(StalePlan, match="1 connections go through it"):
        rig.install(nova="another password")
    with pytest.raises(StepFailed, match="1 connections still go through the relay on db1, from 127"):
        rig.relay.remove()
    client.close()
    until(lambda: not state_of(rig).connections)
    rig.held()
    rig.relay.switch("new")
    rig.relay.release()
    rig.install(nova=PASSWORD)
    assert state_of(rig).side == "new"  # a new configuration, and where it was
    for _ in range(2):
        rig.relay.remove()
        assert not directory.exists() and not unit.exists() and rig.relay.state() is None
    assert not rig.host.enabled and rig.host.process is None


def test_a_port_that_is_taken(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    second = Rig(tmp_path, rig.old, rig.new, rig.ports, port=rig.port)
    waited: list[float] = []
    second.relay._wait = waited.append
    with pytest.raises(StepFailed, match="does not answer after its start"):
        second.install()
    assert waited
    until(lambda: second.host.process is None or second.host.process.poll() == 1)
    assert "the relay can't begin" in second.host.log.read_text()
    second.close()
