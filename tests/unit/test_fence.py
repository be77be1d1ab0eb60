"""Writers of one database held or shut out, and nobody else's; proven, timed, undone, and let go when
recell dies. One account serves nova, nova_api and nova_cell0, as in most clouds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pymysql
import pytest

from recell.adapters.mysql.session import Session
from recell.adapters.schema import read_schema
from recell.errors import RecellError, StepFailed, Unsupported, VerifyFailed
from recell.model.scope import Scope, TableScope, Whole
from recell.mover import Move
from recell.mover.fence import Hold, events_since, open_writers
from recell.mover.shut import Grants, keep_shut, prove_shut, reopen, shut, survey
from tests.private_server import PrivateServer

TABLES = ("instances", "instance_extra", "migrations", "services")
DATABASES = ("nova", "nova_api", "nova_cell0")


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    made = PrivateServer("log-bin=bin", "binlog-format=ROW", "server-id=5", "event-scheduler=ON")
    yield made
    made.stop()


@pytest.fixture
def cloud(server: PrivateServer) -> PrivateServer:
    for database in DATABASES:
        server.create(database, [f"CREATE TABLE {t} (id INT AUTO_INCREMENT PRIMARY KEY, n INT)"
                                 for t in TABLES])
    server.sql("CREATE OR REPLACE USER nova@localhost IDENTIFIED BY 'secret'",
               *(f"GRANT ALL ON {database}.* TO nova@localhost" for database in DATABASES),
               "CREATE OR REPLACE USER backup@localhost", "GRANT SELECT ON nova.* TO backup@localhost")
    return server


class Pool:
    """Writers with connections that they keep, as services have; transactions over two tables."""

    def __init__(self, server: PrivateServer, database: str, writers: int = 8) -> None:
        self.server, self.database = server, database
        self.written = 0
        self.errors: list[str] = []
        self.longest = 0.0
        self._stop = threading.Event()
        # Connected before anything is done to the server, however late their threads are run.
        self._threads = [threading.Thread(target=self._write, args=(n, self._connect()), daemon=True)
                         for n in range(writers)]
        for thread in self._threads:
            thread.start()

    def _connect(self) -> pymysql.Connection[Any]:
        return self.server.connect(self.database, user="nova", password="secret", autocommit=False)

    def _write(self, number: int, connection: pymysql.Connection[Any]) -> None:
        first, second = TABLES[number % 4], TABLES[(number + 1 + number // 4) % 4]
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"INSERT INTO {first} (n) VALUES (1)")
                    cursor.execute(f"INSERT INTO {second} (n) VALUES (1)")
                connection.commit()
                self.written += 1
            except pymysql.Error as error:
                self.errors.append(f"{error.args[0]}")
                time.sleep(0.02)
                with suppress(pymysql.Error):
                    connection.close()
                try:
                    connection = self._connect()
                except pymysql.Error as refused:
                    self.errors.append(f"{refused.args[0]}")
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.005)

    def moves(self, within: float = 120.0) -> bool:
        before, until = self.written, time.monotonic() + within
        while time.monotonic() < until:
            if self.written > before + 3:
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def pools(server: PrivateServer, *databases: str, writers: int = 8) -> Iterator[list[Pool]]:
    made = [Pool(server, d, writers) for d in databases]
    try:
        assert all(p.moves() for p in made)
        yield made
    finally:
        for pool in made:
            pool.stop()


def session(server: PrivateServer, database: str = "nova") -> Session:
    return Session(server.endpoint(database))


def test_writers_of_one_database_wait_and_others_go_on(cloud: PrivateServer) -> None:
    with pools(cloud, "nova", "nova_api") as (nova, api):
        with Hold(cloud.endpoint("nova")) as hold:
            before = nova.written
            proof = hold.prove()
            assert api.moves()
            proof = hold.prove()
            assert proof.refused and proof.others > 0 and proof.position > (hold.since or proof.position)
            # One that had its answer already may count itself late.
            assert nova.written <= before + 8
            rows = cloud.sql("SELECT COUNT(*) FROM nova.instances")
            assert api.moves() and cloud.sql("SELECT COUNT(*) FROM nova.instances") == rows
        assert nova.moves()
    assert nova.errors == [] and api.errors == []


def test_held_again_and_again_and_nobody_gets_an_error(cloud: PrivateServer) -> None:
    with pools(cloud, "nova") as (nova,):
        for _ in range(9):
            hold = Hold(cloud.endpoint("nova"))
            hold.begin()
            hold.prove()
            hold.end()
            assert nova.moves()
        assert nova.errors == []


def test_a_transaction_that_does_not_end_is_named_and_nobody_stays_locked(cloud: PrivateServer) -> None:
    idle = cloud.connect("nova", user="nova", password="secret", autocommit=False)
    with idle, idle.cursor() as cursor:
        cursor.execute("INSERT INTO services (n) VALUES (1)")
        with closing(session(cloud)) as looking:
            assert "1 rows changed" in open_writers(looking, "nova")[0]
            assert open_writers(looking, "nova_api") == []
        with pytest.raises(StepFailed, match=r"did not pause within 1 s: session \d+ of nova from localhost"):
            Hold(cloud.endpoint("nova")).begin()
        with cloud.connect("nova", user="nova", password="secret") as other, other.cursor() as writer:
            writer.execute("INSERT INTO instances (n) VALUES (1)")
        idle.rollback()
    with Hold(cloud.endpoint("nova")) as hold:
        assert hold.held()


def test_a_lock_that_was_lost_is_no_proof(cloud: PrivateServer) -> None:
    hold = Hold(cloud.endpoint("nova"))
    hold.begin()
    assert hold.held()
    ids = cloud.sql("SELECT id FROM information_schema.processlist WHERE db = 'nova'")
    cloud.sql(*(f"KILL {number}" for (number,) in ids))
    with pytest.raises(VerifyFailed, match="not held any more"):
        hold.prove()
    assert not hold.held()
    hold.end()
    with pytest.raises(VerifyFailed, match="not held"):
        Hold(cloud.endpoint("nova")).prove()


def test_a_write_that_slipped_through_is_seen(cloud: PrivateServer) -> None:
    with Hold(cloud.endpoint("nova")) as hold:
        cloud.sql("INSERT INTO nova_api.services (n) VALUES (1)")
        assert hold.prove().others == 1
        # As if the lock had failed: something of this database stands in the binlog behind its begin.
        began = hold.since
        hold.end()
        cloud.sql("INSERT INTO nova.services (n) VALUES (1)")
        hold.begin()
        hold.since = began
        with pytest.raises(VerifyFailed, match="was written to while it was held"):
            hold.prove()


def test_events_are_found_over_several_files(cloud: PrivateServer) -> None:
    with closing(session(cloud)) as looking:
        since = looking.binlog_end()
        cloud.sql("INSERT INTO nova.services (n) VALUES (1)", "FLUSH BINARY LOGS",
                  *["INSERT INTO nova_api.services (n) VALUES (1)"] * 300, "FLUSH BINARY LOGS",
                  "INSERT INTO nova.services (n) VALUES (2)")
        end = looking.binlog_end()
        cloud.sql("INSERT INTO nova.services (n) VALUES (3)")
        mine, others = events_since(looking, "nova", since, end)
        assert (len(mine), others) == (2, 300) and mine[0] > since and mine[1] < end


_DIES = """
import os, sys, time
from recell.adapters.mysql.endpoint import Endpoint
from recell.model.scope import Scope, TableScope, Whole
from recell.mover import Move
from recell.mover.fence import Hold
hold = Hold(Endpoint("db", "root", "", "nova", unix_socket=sys.argv[1]), lease_s=6)
hold.begin()
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_writers_go_on_when_recell_dies_or_hangs(cloud: PrivateServer, how: signal.Signals) -> None:
    with pools(cloud, "nova") as (nova,):
        process = subprocess.Popen([sys.executable, "-c", _DIES, str(cloud.socket)], stdout=subprocess.PIPE,
                                   env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"held\n"
            assert not nova.moves(0.3) or not nova.moves(0.3)
            process.send_signal(how)
            assert nova.moves()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert nova.errors == []


def test_a_lease_is_renewed(cloud: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hold(cloud.endpoint("nova"), lease_s=4) as hold:
        asked, held = threading.Semaphore(0), hold.held

        def counted() -> bool:
            found = held()
            asked.release()
            return found

        monkeypatch.setattr(hold, "held", counted)
        for _ in range(6):  # of which four make a lease
            assert asked.acquire(timeout=120)
        assert hold.prove().refused


def test_no_tables(cloud: PrivateServer) -> None:
    cloud.create("empty", [])
    with pytest.raises(Unsupported, match="has no tables"):
        Hold(cloud.endpoint("empty")).begin()


def test_shut_for_good_while_it_is_held(cloud: PrivateServer) -> None:
    with pools(cloud, "nova", "nova_api") as (nova, api):
        with closing(session(cloud)) as first:
            grants = survey(first, "nova")
            assert Grants.from_json(grants.to_json()) == grants
            assert [g.grantee for g in grants.grants] == ["'nova'@'localhost'"]
            with pytest.raises(VerifyFailed, match="is open to 'nova'@'localhost'"):
                prove_shut([first], grants)
            hold = Hold(cloud.endpoint("nova"))
            hold.begin()
            # recell's own account is another than Nova's; its sessions are left alone.
            seconds = shut([first], grants)
            prove_shut([first], grants)
            hold.prove()
            hold.end()
            assert not nova.moves(0.5)
            until = time.monotonic() + 120
            while "1044" not in nova.errors:  # refused when it connects again
                assert time.monotonic() < until, nova.errors
                time.sleep(0.05)
            assert api.moves() and api.errors == []
            rows = cloud.sql("SELECT COUNT(*) FROM nova.instances")
            shut([first], grants)  # again, as after a kill
            time.sleep(0.2)
            assert cloud.sql("SELECT COUNT(*) FROM nova.instances") == rows
            reopen(first, grants)
            reopen(first, grants)
            assert nova.moves()
            assert survey(first, "nova") == grants
        print(f"shut in {seconds * 1e3:.1f} ms")


def test_recells_other_accounts_go_on(cloud: PrivateServer) -> None:
    cloud.sql("CREATE OR REPLACE USER recell_back@localhost", "GRANT ALL ON nova.* TO recell_back@localhost")
    try:
        with (closing(session(cloud)) as first, cloud.connect("nova", user="recell_back") as back,
              back.cursor() as cursor):
            grants = survey(first, "nova", ["recell_back"])
            assert [g.grantee for g in grants.grants] == ["'nova'@'localhost'"]
            shut([first], grants)
            prove_shut([first], grants)
            cursor.execute("INSERT INTO services (n) VALUES (1)")
            reopen(first, grants)
            assert len(survey(first, "nova").grants) == 2
    finally:
        cloud.sql("DROP USER recell_back@localhost")


def test_a_lease_opens_it_again_unless_kept(cloud: PrivateServer) -> None:
    with closing(session(cloud)) as first:
        grants = survey(first, "nova")
        shut([first], grants, lease_s=1000)
        prove_shut([first], grants)
        lease = ("SELECT TIMESTAMPDIFF(SECOND, CREATED, EXECUTE_AT) FROM information_schema.EVENTS"
                 " WHERE EVENT_SCHEMA = 'nova'")
        assert cloud.sql(lease) == [(1000,)]
        cloud.sql("ALTER EVENT nova.recell_mover_reopen ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL 1 SECOND")
        until = time.monotonic() + 120
        while survey_or_none(first) != grants:
            assert time.monotonic() < until
            time.sleep(0.1)
        with pytest.raises(VerifyFailed, match="opened by its lease"):
            prove_shut([first], grants)
        shut([first], grants, lease_s=1000)
        keep_shut(first, grants)
        assert cloud.sql(lease) == []
        prove_shut([first], grants)
        reopen(first, grants)


def survey_or_none(looking: Session) -> Grants | None:
    try:
        return survey(looking, "nova")
    except Unsupported:
        return None


def test_a_lease_needs_a_scheduler(cloud: PrivateServer) -> None:
    with closing(session(cloud)) as first:
        grants = survey(first, "nova")
        cloud.sql("SET GLOBAL event_scheduler = OFF")
        try:
            with pytest.raises(Unsupported, match=r"event scheduler of .* is off"):
                shut([first], grants, lease_s=5)
        finally:
            cloud.sql("SET GLOBAL event_scheduler = ON")
        assert survey(first, "nova") == grants


@pytest.mark.parametrize(("plant", "words"), [
    (("GRANT ALL ON `nova%`.* TO nova@localhost",), r"rights on all databases like nova%"),
    (("GRANT INSERT ON nova.services TO backup@localhost",), "on the table services alone"),
    (("REVOKE ALL ON nova.* FROM nova@localhost",), "no account but recell's"),
])
def test_rights_that_can_not_be_taken_for_one_database(
    cloud: PrivateServer, plant: tuple[str, ...], words: str
) -> None:
    cloud.sql(*plant)
    with closing(session(cloud)) as first, pytest.raises(Unsupported, match=words) as refused:
        survey(first, "nova")
    assert "Make an account that has this database alone" in refused.value.remedy


def test_an_account_of_all_databases_with_this_one_open(cloud: PrivateServer) -> None:
    cloud.sql("CREATE OR REPLACE USER boss@localhost", "GRANT ALL ON *.* TO boss@localhost")
    with closing(session(cloud)) as first:
        assert "'boss'@'localhost'" in survey(first, "nova").everywhere
        with (cloud.connect("nova", user="boss"),
              pytest.raises(Unsupported, match="boss may write to all databases and has this one open")):
            survey(first, "nova")
    cloud.sql("DROP USER boss@localhost")


def test_odd_names_and_grant_options(cloud: PrivateServer) -> None:
    cloud.create("nova_c%1", ["CREATE TABLE t (id INT PRIMARY KEY)"])
    cloud.sql("CREATE OR REPLACE USER `o'brien`@'10.%'",
              r"GRANT SELECT, INSERT, UPDATE ON `nova\_c\%1`.* TO `o'brien`@'10.%' WITH GRANT OPTION")
    with closing(session(cloud, "nova_c%1")) as first:
        try:
            grants = survey(first, "nova_c%1")
        except RecellError as error:
            pytest.fail(str(error))
        assert grants.pattern == r"nova\_c\%1" and grants.grants[0].may_grant
        shut([first], grants)
        prove_shut([first], grants)
        reopen(first, grants)
        assert survey(first, "nova_c%1") == grants
    cloud.sql("DROP DATABASE `nova_c%1`", "DROP USER `o'brien`@'10.%'")


def test_a_database_changes_servers_under_its_writers(cloud: PrivateServer) -> None:
    """Held, drained, proven, shut, proven again, reversed: nothing written is missing anywhere."""
    other = PrivateServer("log-bin=bin", "binlog-format=ROW", "server-id=6")
    try:
        other.create("nova", [f"CREATE TABLE {t} (id INT AUTO_INCREMENT PRIMARY KEY, n INT)" for t in TABLES])
        with (closing(session(cloud)) as first,
              pools(cloud, "nova", "nova_api", writers=2) as (nova, api)):
            schema = read_schema(first.connection, "nova")
            scope = Scope("nova", tuple(TableScope(t, Whole()) for t in schema.tables))
            move = Move(cloud.endpoint("nova"), other.endpoint("nova"), scope)
            try:
                move.prepare()
                move.copy()
                move.follow()
                move.catch_up(120, lag_s=10)
                assert move.verify().equal
                grants = survey(first, "nova")
                began = time.monotonic()
                with Hold(cloud.endpoint("nova")) as hold:
                    drained = move.drain(120)
                    hold.prove()
                    shut([first], grants)
                    prove_shut([first], grants)
                    proof = hold.prove()
                    seconds = time.monotonic() - began
                    move.reverse()
                assert str(proof.position) >= drained.position
                assert not nova.moves(0.3) and api.moves()
                counts = [[s.sql(f"SELECT COUNT(*) FROM nova.{t}") for t in TABLES]
                          for s in (cloud, other)]
                assert counts[0] == counts[1]
                other.sql("INSERT INTO nova.services (id, n) VALUES (1000000, 77)")
                until = time.monotonic() + 120
                while cloud.sql("SELECT n FROM nova.services WHERE id = 1000000") != [(77,)]:
                    assert time.monotonic() < until
                    time.sleep(0.05)
                reopen(first, grants)
            finally:
                move.finish()
        assert api.errors == []
        print(f"held {seconds * 1e3:.0f} ms, {drained.keys} keys, drain {drained.seconds * 1e3:.0f} ms")
    finally:
        other.stop()
