"""A cell's database on two real servers: made, followed, held, turned, shut, and all of it back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pymysql
import pytest

from recell.adapters.mysql.session import Session as Connection
from recell.errors import Denied, Locked, StepFailed, Unknowable, VerifyFailed
from recell.model.moving import End, Ends, Login, Pace, Standing
from recell.model.relay import Side
from recell.mover import rights
from recell.mover.cell import CellMove
from recell_bench.schemas import TODAY, ddl, load
from tests.private_server import DatabaseHost, PrivateServer

ENDS = Ends(End("db1", "db1", 3306, ("10.0.0.1",)), End("db2", "db2", 3306, ("10.0.0.2",)), "nova")
OURS = Login("recell_0123abcd", "of its own making")
NOVA = Login("nova", "n'pw\\%")


@pytest.fixture(scope="module")
def pair() -> Iterator[dict[Side, PrivateServer]]:
    made: dict[Side, PrivateServer] = {}
    try:
        for number, side in enumerate(("old", "new"), 1):
            made[side] = PrivateServer(  # type: ignore[index]
                "log-bin=binlog", "binlog-format=ROW", f"server-id={number}", "expire-logs-days=3",
                "performance-schema=OFF",
            )
        yield made
    finally:
        for server in made.values():
            server.stop()


@pytest.fixture
def servers(pair: dict[Side, PrivateServer]) -> dict[Side, PrivateServer]:
    """The old one with Nova's tables, a few rows, and Nova's account; the new one bare."""
    old, new = pair["old"], pair["new"]
    for server in pair.values():
        for user in ("nova", OURS.user):
            for (host,) in server.sql(f"SELECT Host FROM mysql.user WHERE User = '{user}'"):
                server.sql(f"DROP USER '{user}'@'{host}'")
    new.sql("DROP DATABASE IF EXISTS nova")
    old.create("nova", ddl(load(TODAY)))
    with old.connect() as root, root.cursor() as cursor:
        cursor.execute("CREATE USER nova@'%%' IDENTIFIED BY %s", (NOVA.password,))
        cursor.execute("GRANT ALL ON nova.* TO nova@'%'")
    for number in range(1, 4):
        write(old, number)
    return pair


def write(server: PrivateServer, number: int) -> None:
    """As Nova does, by its own account."""
    with server.connect("nova", NOVA.user, NOVA.password) as nova, nova.cursor() as cursor:
        cursor.execute("INSERT INTO instances (id, uuid, host, compute_id, display_name, deleted)"
                       " VALUES (%s, %s, 'c1', 1, %s, 0)",
                       (number, f"uuid-{number}", f"naïve {number}"))


def ids(server: PrivateServer) -> list[int]:
    return [row[0] for row in server.sql("SELECT id FROM instances ORDER BY id", database="nova")]


@pytest.fixture
def moves(servers: dict[Side, PrivateServer]) -> Iterator[Any]:
    """Makes movers, each as a process of its own would have it."""
    made: list[CellMove] = []
    hosts = {side: DatabaseHost(f"db-{side}", server) for side, server in servers.items()}

    def make() -> CellMove:
        made.append(CellMove(hosts, ENDS, OURS, NOVA))
        return made[-1]

    yield make
    for move in made:
        with suppress(Exception):
            move.close()


def prepare(move: CellMove) -> None:
    move.make("old", "recell")
    for thing in ("recell", "database", "nova"):
        move.make("new", thing)


def test_what_is_made_is_there_and_dropped_again(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    move = moves()
    assert move.troubles(3600) == ()
    assert move.there("new") == frozenset() and move.there("old") == {"nova", "database", "tables"}
    assert move.standing() == Standing("none")
    prepare(move)
    prepare(move)
    assert move.there("new") == {"recell", "database", "tables", "nova"} and "recell" in move.there("old")
    assert len(servers["new"].sql("SHOW TABLES", database="nova")) == len(load(TODAY).tables)
    write(servers["new"], 7)  # Nova's password and rights came along
    assert ids(servers["new"]) == [7]
    troubled = move.troubles(3600)
    assert any(v.id.startswith("mover:in-the-way") and v.severity == "stop" for v in troubled)
    for thing in ("nova", "database", "recell"):
        move.drop("new", thing)
        move.drop("new", thing)
    move.drop("old", "recell")
    assert move.there("new") == frozenset() and "recell" not in move.there("old")
    assert ids(servers["old"]) == [1, 2, 3]


def test_a_session_of_recells_that_ends_by_itself_when_its_account_is_dropped(
    moves: Any, servers: dict[Side, PrivateServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    move = moves()
    move.make("old", "recell")
    session = servers["old"].connect("nova", OURS.user, OURS.password)
    (gone,) = servers["old"].sql(f"SELECT id FROM information_schema.processlist WHERE user = '{OURS.user}'")
    asked = Connection.query

    def late(self: Connection, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        found = asked(self, sql, args)
        if "PROCESSLIST" in sql and gone in found:
            self.execute(f"KILL {gone[0]}")
            while gone in asked(self, sql, args):
                time.sleep(0.01)
        return found

    monkeypatch.setattr(Connection, "query", late)
    move.drop("old", "recell")
    assert "recell" not in move.there("old")
    session.close()


def test_what_would_fail_later_is_said_before(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    old, new = servers["old"], servers["new"]

    def found() -> set[str]:
        return {v.id.split(":")[1] for v in moves().troubles(3600) if v.severity == "stop"}

    assert found() == set()
    old.sql("ALTER USER nova@'%' REQUIRE SSL")
    assert found() == {"tls-account"}
    old.sql("ALTER USER nova@'%' REQUIRE NONE")
    new.sql("SET GLOBAL require_secure_transport = ON")
    try:
        assert found() == {"tls"}
    finally:
        new.sql("SET GLOBAL require_secure_transport = OFF")
    old.sql("CHANGE MASTER TO master_host = 'db9'")
    try:
        assert found() == {"replica"}
    finally:
        old.sql("RESET SLAVE ALL")


def test_collations_that_the_new_server_does_not_know(
    moves: Any, servers: dict[Side, PrivateServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Connection.query

    def older(self: Connection, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if "COLLATE" in sql and "SCHEMA" not in sql:
            sql = sql.replace("utf8mb3_general_ci", "utf8mb3_of_tomorrow_ci")
        return asked(self, sql, args)

    monkeypatch.setattr(Connection, "query", older)
    found = [v for v in moves().troubles(3600) if v.severity == "stop"]
    assert [v.what for v in found] == [
        "it doesn't know the collation utf8mb3_general_ci, which nova has"
    ]


def test_a_database_that_the_server_spells_in_another_way() -> None:
    server = PrivateServer("log-bin=binlog", "binlog-format=ROW", "lower-case-table-names=1")
    try:
        server.create("nova", ddl(load(TODAY)))
        hosts: dict[Side, Any] = {side: DatabaseHost(f"db-{side}", server) for side in ("old", "new")}
        found = CellMove(hosts, replace(ENDS, database="Nova"), OURS, NOVA).troubles(3600)
        assert [v.what for v in found] == ["Nova's URL names Nova, and the server calls it nova"]
    finally:
        server.stop()


def test_there_and_back(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    old, new = servers["old"], servers["new"]
    move = moves()
    prepare(move)
    assert move.pace() is None
    with pytest.raises(StepFailed, match="nothing to compare"):
        move.compare(lambda figures: None)
    told: list[dict[str, float]] = []
    assert "3 rows" in move.follow(told.append)
    assert told and all(set(figures) <= {"rows", "rows_per_s", "lag_s", "eta_s"} for figures in told)
    write(old, 4)
    assert move.catch_up(60) <= 1
    assert ids(new) == [1, 2, 3, 4]
    assert "none differs" in move.compare(told.append)
    assert move.pace() == Pace()
    moves().set_pace(Pace(1000, paused=True))  # another process may say it
    assert move.pace() == Pace(1000, paused=True)
    moves().set_pace(Pace(1000))
    move.close()

    move = moves()  # another process goes on
    assert move.standing() == Standing("following", verified=True)
    write(old, 5)
    move.catch_up(60)
    rights = move.rights("old")
    move.prepare_hold("old", 5)
    move.hold("old")
    impatient = old.connect("nova", NOVA.user, NOVA.password, init_command="SET lock_wait_timeout = 1")
    with impatient, pytest.raises(pymysql.err.OperationalError, match="Lock wait"):
        impatient.cursor().execute("DELETE FROM instances")
    assert "proven equal" in move.drain(30)
    move.prove_held()
    write(new, 6)  # writers are let in, and recell dies before it has turned the rows
    move.close()

    move = moves()
    assert move.standing() == Standing("drained", verified=True)
    move.turn()
    assert move.standing().backward
    move.shut("old", rights)
    assert move.is_shut("old", rights)
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        write(old, 99)
    write(new, 7)
    assert move.catch_up(60) <= 1
    assert ids(old) == [1, 2, 3, 4, 5, 6, 7], "what was written before the turn came back too"
    assert "none differs" in move.compare(told.append)
    new.sql("SET sql_log_bin = 0", "UPDATE instances SET host = 'c9' WHERE id = 7", database="nova")
    with pytest.raises(VerifyFailed, match="instances"):
        move.compare(told.append)
    move = moves()
    new.sql("SET sql_log_bin = 0", "UPDATE instances SET host = 'c1' WHERE id = 7", database="nova")
    assert "none differs" in move.compare(told.append)
    kept = move.retention("new")
    assert kept.seconds == 3 * 86400 and kept.there and kept.needed_from.startswith("binlog.")
    move.close()

    move = moves()
    write(new, 8)
    move.catch_up(60)
    back = move.rights("new")
    move.prepare_hold("new", 5)
    move.hold("new")
    move.drain(30)
    move.prove_held()
    move.reopen("old", rights)
    move.shut("new", back)
    move.let_go()
    write(old, 9)
    assert ids(old) == [1, 2, 3, 4, 5, 6, 7, 8, 9] and ids(new) == [1, 2, 3, 4, 5, 6, 7, 8]
    move.forget()
    move.forget()
    assert move.standing() == Standing("none")
    for server in servers.values():
        assert not server.sql("SHOW TABLES LIKE 'recell%'", database="nova")


def test_numbers_of_rows_that_are_gone_are_not_given_again(
    moves: Any, servers: dict[Side, PrivateServer]
) -> None:
    """Archived rows keep theirs in the shadow tables, where a second row of one number finds no place."""
    old, new = servers["old"], servers["new"]

    def born_and_gone(server: PrivateServer, number: int) -> None:
        write(server, number)
        server.sql(f"DELETE FROM instances WHERE id = {number}", database="nova")

    def next_of(server: PrivateServer) -> int:
        server.sql("INSERT INTO instances (uuid, host, deleted) VALUES (UUID(), 'c1', 0)", database="nova")
        return max(ids(server))

    move = moves()
    prepare(move)
    born_and_gone(old, 50)
    move.follow(lambda figures: None)
    move.catch_up(60)
    move.drain(30)
    assert next_of(new) == 51
    move.turn()
    move.shut("old", move.rights("old"))
    move.close()
    born_and_gone(new, 200)
    move = moves()
    move.catch_up(60)
    move.drain(30)
    assert next_of(old) == 201


def test_after_the_old_server_died_all_rows_are_compared_again(
    moves: Any, servers: dict[Side, PrivateServer]
) -> None:
    move = moves()
    prepare(move)
    move.follow(lambda figures: None)
    servers["old"].restart(signal.SIGKILL)
    write(servers["old"], 4)
    move.catch_up(60)
    assert "proven equal" in move.drain(60)
    assert ids(servers["new"]) == [1, 2, 3, 4]


def test_a_stranger_after_the_proof_stops_the_turn(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    move = moves()
    prepare(move)
    move.follow(lambda figures: None)
    move.catch_up(60)
    move.prepare_hold("old", 5)
    move.hold("old")
    move.drain(30)
    move.let_go()
    write(servers["old"], 9)  # past the relay, after both were proven equal
    with pytest.raises(Unknowable, match="changed after they were proven equal"):
        move.turn()


def test_nova_with_another_password_there_is_refused(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    servers["new"].sql("CREATE USER nova@'%' IDENTIFIED BY 'other'")
    move = moves()
    move.make("old", "recell")
    move.make("new", "recell")
    move.make("new", "database")
    with pytest.raises(Denied, match="refuses the account nova"):
        move.make("new", "nova")


def test_an_account_that_serves_others_there_stays(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    new = servers["new"]
    with new.connect() as root, root.cursor() as cursor:
        cursor.execute("CREATE USER nova@'%%' IDENTIFIED BY %s", (NOVA.password,))
        cursor.execute("CREATE DATABASE IF NOT EXISTS nova_cell2")
        cursor.execute("GRANT ALL ON nova_cell2.* TO nova@'%'")
    move = moves()
    prepare(move)
    write(new, 7)
    move.drop("new", "nova")
    assert new.sql("SELECT User FROM mysql.user WHERE User = 'nova'") == [("nova",)]
    new.connect("nova_cell2", NOVA.user, NOVA.password).close()
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        write(new, 8)
    new.sql("DROP DATABASE nova_cell2")


def test_a_transaction_that_goes_on_is_named(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    move = moves()
    prepare(move)
    with servers["old"].connect("nova", NOVA.user, NOVA.password, autocommit=False) as nova:
        nova.cursor().execute("UPDATE instances SET host = 'c2' WHERE id = 1")
        move.prepare_hold("old", 0.3)
        with pytest.raises(StepFailed, match=r"session .* of nova"):
            move.hold("old")
        nova.rollback()


def test_a_run_that_was_fenced_changes_nothing(servers: dict[Side, PrivateServer]) -> None:
    def refuse() -> None:
        raise Locked("another machine took the journal over")

    hosts = {side: DatabaseHost(f"db-{side}", server) for side, server in servers.items()}
    move = CellMove(hosts, ENDS, OURS, NOVA, refuse)
    for act in (
        lambda: move.make("old", "recell"), lambda: move.drop("new", "database"), lambda: move.follow(print),
    ):  # fmt: skip
        with pytest.raises(Locked):
            act()
    assert ids(servers["old"]) == [1, 2, 3] and OURS.user not in str(
        servers["old"].sql("SELECT User FROM mysql.user")
    )


class Entered(DatabaseHost):
    """Its root is another account, as /root/.my.cnf says."""

    def read(self, path: str) -> bytes | None:
        return b"[client]\nuser = admin\npassword = 'a'\n" if path == "/root/.my.cnf" else None


NEEDED = (
    "PROCESS, REPLICATION SLAVE, CONNECTION ADMIN, BINLOG MONITOR, CREATE USER, SELECT, INSERT, UPDATE,"
    " DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE,"
    " CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER, DELETE HISTORY"
)


@pytest.fixture
def lesser(servers: dict[Side, PrivateServer]) -> Iterator[CellMove]:
    """Both servers are entered as an account that has what recell needs, and nothing else."""
    for server in servers.values():
        server.sql("CREATE OR REPLACE USER admin@localhost IDENTIFIED BY 'a'",
                   f"GRANT {NEEDED} ON *.* TO admin@localhost WITH GRANT OPTION")
    move = CellMove({s: Entered(f"db-{s}", server) for s, server in servers.items()}, ENDS, OURS, NOVA)
    yield move
    with suppress(Exception):
        move.close()
    for server in servers.values():
        server.sql("DROP USER admin@localhost")


def test_a_root_that_has_what_recell_needs(lesser: CellMove, servers: dict[Side, PrivateServer]) -> None:
    assert lesser.troubles(3600) == ()
    prepare(lesser)
    assert "3 rows" in lesser.follow(lambda figures: None)
    lesser.catch_up(60)
    for side, server in servers.items():
        lesser.prepare_hold(side, 5)
        lesser.hold(side)
        lesser.let_go()
        rights = lesser.rights(side)
        lesser.shut(side, rights)
        lesser.reopen(side, rights)
        assert server.sql("SHOW TABLES", database="nova")
    lesser.forget()
    for thing in ("nova", "database", "recell"):
        lesser.drop("new", thing)
    lesser.drop("old", "recell")


@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize("right", ["LOCK TABLES", "CONNECTION ADMIN", "BINLOG MONITOR", "EVENT",
                                   "DELETE HISTORY", "GRANT OPTION"])
def test_a_right_that_root_can_not_give_is_said_before_anything_is_made(
    lesser: CellMove, servers: dict[Side, PrivateServer], side: Side, right: str
) -> None:
    servers[side].sql(f"REVOKE {right} ON *.* FROM admin@localhost")
    (found,) = [v for v in lesser.troubles(3600) if v.severity == "stop"]
    assert found.id == f"mover:root-rights:{ENDS.at(side).where}" and "admin" in found.what
    assert right == "GRANT OPTION" or found.what.endswith(f": {right}")
    with pytest.raises(Denied):  # what it would have met, halfway
        prepare(lesser)


def test_rights_on_these_databases_alone_do_as_well(
    lesser: CellMove, servers: dict[Side, PrivateServer]
) -> None:
    new = servers["new"]
    new.sql("REVOKE ALL, GRANT OPTION FROM admin@localhost")
    new.sql("GRANT PROCESS, REPLICATION SLAVE, CONNECTION ADMIN, BINLOG MONITOR ON *.* TO admin@localhost"
            " WITH GRANT OPTION",
            "GRANT ALL ON `nov_`.* TO admin@localhost WITH GRANT OPTION")
    assert "LOCK TABLES" in lesser.troubles(3600)[0].what, "a pattern is not this database"
    new.sql("GRANT ALL ON nova.* TO admin@localhost WITH GRANT OPTION",
            "GRANT SELECT ON mysql.* TO admin@localhost WITH GRANT OPTION")
    assert [v.what.rpartition(": ")[2] for v in lesser.troubles(3600)] == ["CREATE USER"]
    with pytest.raises(Denied):
        prepare(lesser)
    new.sql("GRANT CREATE USER ON *.* TO admin@localhost")
    assert [v for v in lesser.troubles(3600) if v.severity == "stop"] == []
    prepare(lesser)


def test_what_nova_would_lack_on_the_new_server(moves: Any, servers: dict[Side, PrivateServer]) -> None:
    old, new = servers["old"], servers["new"]

    def found() -> list[str]:
        return [v.what for v in moves().troubles(3600) if v.severity == "stop"]

    old.sql("REVOKE SELECT, DELETE ON nova.* FROM nova@'%'", "GRANT SELECT, DELETE ON *.* TO nova@'%'")
    assert [what for what in found() if "by itself" in what] == [
        "Nova's account nova has no SELECT, DELETE on nova by itself, and would lack that on db2:3306"]
    old.sql("REVOKE SELECT, DELETE ON *.* FROM nova@'%'", "GRANT ALL ON nova.* TO nova@'%'")
    assert found() == []
    new.sql("CREATE USER nova@'10.%' IDENTIFIED BY 'another'")
    assert found() == ["there is an account nova already, with another password than Nova's"]
    with new.connect() as root, root.cursor() as cursor:
        cursor.execute("ALTER USER nova@'10.%%' IDENTIFIED BY %s", (NOVA.password,))
    assert found() == []


def test_a_right_that_the_new_server_does_not_know(
    moves: Any, servers: dict[Side, PrivateServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_known", lambda session: rights._IN_DATABASES - {"DELETE HISTORY"})
    (found,) = [v for v in moves().troubles(3600) if v.severity == "stop"]
    assert found.what == "it doesn't know DELETE HISTORY, which Nova's account nova has on nova"
