"""The source's replicas are spared: a real one, behind, and not behind any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from recell.adapters.mysql.session import Session, status_statement
from recell.mover import Move, Options
from recell.mover.throttle import Limits
from recell.mover.watch import replica_lag
from tests.mover import schema
from tests.mover.writers import fill
from tests.private_server import Pair, PrivateServer, free_ports


def _until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_replica_that_is_behind(own: Callable[..., PrivateServer], clouds: Pair,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recell.mover.watch._EVERY_S", 0.05)
    port = free_ports(1)[0]
    source, replica, target = own(41, f"port={port}", "bind-address=127.0.0.1",
                                  "skip-networking=OFF"), own(42), clouds[1]
    fill(source, 9, 10)
    with closing(Session(source.endpoint())) as session:
        assert replica_lag(session) == 0.0  # it is nobody's replica
        end = session.binlog_end()
    source.sql("CREATE USER copycat@'127.0.0.1' IDENTIFIED BY 'c'",
               "GRANT REPLICATION SLAVE ON *.* TO copycat@'127.0.0.1'")
    replica.sql("CHANGE MASTER 'main' TO master_host = '127.0.0.1', master_user = 'copycat',"
                f" master_password = 'c', master_port = {port}, master_log_file = '{end.file}',"
                f" master_log_pos = {end.offset}", "CREATE USER recell_replica@localhost IDENTIFIED BY 'r'",
                "GRANT REPLICA MONITOR ON *.* TO recell_replica@localhost")
    # With the right to look at that and nothing else, and so without any database.
    looking = replace(replica.endpoint(user="recell_replica", password="r"), database="")
    with closing(Session(looking)) as session:
        assert replica_lag(session) == 3600.0  # it stands still
        replica.sql("START ALL SLAVES")
        _until(lambda: replica_lag(session) == 0.0)
        replica.sql("STOP SLAVE 'main' SQL_THREAD")
        assert replica_lag(session) == 3600.0
    move = Move(source.endpoint(), target.endpoint(), schema.scope(schema.read(source), schema.WHOLE),
                Options(limits=Limits(latency_s=3600, replica_lag_s=5), replicas=(looking,)))
    try:
        move.prepare()
        _until(lambda: 0 < move.throttle.rate <= 200)
        replica.sql("START SLAVE 'main' SQL_THREAD")
        lowest = move.throttle.rate
        _until(lambda: move.throttle.rate == 0 or move.throttle.rate > lowest * 4)
        move.copy()
        move.finish()
    finally:
        move.close()
        replica.sql("STOP ALL SLAVES")


@pytest.mark.parametrize(("version", "statement"), [
    ("10.11.6-MariaDB-1:10.11.6", "SHOW MASTER STATUS"), ("5.5.5-10.3.39-MariaDB", "SHOW MASTER STATUS"),
    ("5.7.44-log", "SHOW MASTER STATUS"), ("8.0.43", "SHOW MASTER STATUS"),
    ("8.4.6", "SHOW BINARY LOG STATUS"), ("9.1.0-commercial", "SHOW BINARY LOG STATUS")])
def test_what_each_version_is_asked(version: str, statement: str) -> None:
    assert status_statement(version) == statement


def test_lags_as_each_version_tells_them() -> None:
    class Told:
        def __init__(self, version: str, **rows: list[dict[str, object]]) -> None:
            self.version, self.rows = version, rows

        def named(self, sql: str) -> list[dict[str, object]]:
            return self.rows[sql.split()[1].lower() + sql.split()[2].lower()]

    behind = [{"Seconds_Behind_Source": 3}, {"Seconds_Behind_Source": 8}]
    assert replica_lag(Told("8.4.6", replicastatus=behind)) == 8  # type: ignore[arg-type]
    old = [{"Seconds_Behind_Master": 4}]
    assert replica_lag(Told("5.7.44", slavestatus=old)) == 4  # type: ignore[arg-type]
    several = [{"Seconds_Behind_Master": 4}, {"Seconds_Behind_Master": None}]
    assert replica_lag(Told("10.11.6-MariaDB", allslaves=several)) == 3600  # type: ignore[arg-type]


