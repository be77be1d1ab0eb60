"""Each trap of a pair of servers is found by itself, and a healthy pair of real ones has none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from recell.adapters.mysql.session import Session
from recell.model.scope import Scope
from recell.mover.preflight import find, find_galera, mariadb_alone
from recell.mover.server import Server, read_server
from recell.planning.tables import cell_scope, hosts_scope
from recell_bench.schemas import TODAY, ddl, load
from tests.private_server import PrivateServer

SCHEMA = load(TODAY)
CELL, HOSTS = cell_scope(SCHEMA), hosts_scope(SCHEMA, ["cmp1"])
LOGGED = ("log-bin=bin", "binlog-format=ROW", "expire-logs-days=7")


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    made = PrivateServer(*LOGGED, "server-id=5")
    yield made
    made.stop()


def look(server: PrivateServer) -> Server:
    with closing(Session(server.endpoint("nova"))) as session:
        return read_server(session, SCHEMA)


def healthy(where: str = "db1") -> Server:
    return Server(
        where, "10.11.19-MariaDB-log", "nova",
        {"log_bin": "ON", "binlog_format": "ROW", "binlog_row_image": "FULL", "expire_logs_days": "7",
         "server_id": where[-1], "sql_mode": "STRICT_TRANS_TABLES", "lower_case_table_names": "0",
         "max_allowed_packet": "16777216", "read_only": "OFF", "event_scheduler": "ON", "wsrep_on": "OFF",
         "log_slave_updates": "ON", "datadir": "/d"},
        {"wsrep_cluster_size": "2", "wsrep_local_state_comment": "Synced", "wsrep_cluster_state_uuid": "u"},
        0.0, 0.01, "utf8mb3", 10 << 30, 100 << 30, 1 << 30, False, (), (), (), (), ("alembic_version a",),
    )


def said(server: Server, **variables: str) -> Server:
    return replace(server, variables=server.variables | variables)


def ids(
    source: Server, target: Server, scope: Scope = HOSTS, estimate: float = 3600, stay: float = 0
) -> list[str]:
    found = find(source, target, scope, estimate, stay)
    for violation in found:
        assert violation.what and violation.remedy and violation.where in (source.where, target.where)
    return [f"{v.severity} {v.id.removeprefix('mover:')}" for v in found]


def test_a_healthy_pair_has_no_findings() -> None:
    assert ids(healthy(), healthy("db2")) == []


@pytest.mark.parametrize(("plant", "expected"), [
    (lambda s: said(s, log_bin="OFF"), "stop binlog-off:db1"),
    (lambda s: said(s, binlog_format="MIXED"), "stop binlog-format:db1"),
    (lambda s: said(s, binlog_row_image="MINIMAL"), "stop binlog-image:db1"),
    (lambda s: said(s, binlog_transaction_compression="ON"), "stop binlog-compressed:db1"),
    (lambda s: said(s, binlog_row_value_options="PARTIAL_JSON"), "stop binlog-partial:db1"),
    (lambda s: replace(s, filtered=True), "stop binlog-filtered:db1"),
    (lambda s: said(s, server_id="0"), "stop server-id:db1"),
    (lambda s: said(s, expire_logs_days="0", binlog_expire_logs_seconds="7100"), "stop retention:db1"),
    (lambda s: said(s, max_binlog_total_size="1000"), "warning binlog-size:db1"),
    (lambda s: replace(s, version="10.2.9-MariaDB"), "stop version:db1"),
    (lambda s: replace(s, version="10.1.48-MariaDB"), "warning counters:db1"),
    (lambda s: replace(s, version="10.4.34-MariaDB"), "stop version:db1"),
    (lambda s: replace(s, version="8.0.36"), "stop untried:db1"),
    (lambda s: replace(s, version="5.6.51"), "stop version:db1"),
    (lambda s: said(replace(s, version="5.7.44-48"), version_comment="Percona Server (GPL), Release 48"),
     "stop untried:db1"),
    (lambda s: said(replace(s, version="9.7.4"), binlog_order_commits="OFF"), "stop order:db1"),
    (lambda s: said(replace(s, version="9.7.4"), group_replication_group_name="g"), "stop group:db1"),
    (lambda s: replace(s, version="5.7.44"), "warning counters:db1"),
    (lambda s: said(replace(s, version="9.7.4"), super_read_only="ON"), "stop read-only:db1"),
    (lambda s: said(s, require_secure_transport="ON"), "stop tls:db1"),
    (lambda s: replace(s, replicates=("db9",)), "warning replica:db1"),
    (lambda s: said(replace(s, replicates=("db9",)), log_slave_updates="OFF"), "stop replica:db1"),
    (lambda s: replace(s, other_engines=("instances (MyISAM)",)), "stop engine:db1"),
    (lambda s: replace(s, triggers=("t",)), "warning triggers:db1"),
    (lambda s: replace(s, events=("e",)), "warning events:db1"),
    (lambda s: replace(s, old_rows=(("compute_nodes.host", 3),)), "stop ownerless:db1"),
    (lambda s: replace(s, old_rows=(("instances.compute_id", 3),)), "stop online-migrations:db1"),
])
def test_traps_of_the_source(plant: Callable[[Server], Server], expected: str) -> None:
    assert expected in ids(plant(healthy()), healthy("db2"))


@pytest.mark.parametrize(("plant", "expected"), [
    (lambda s: said(s, log_bin="OFF"), "stop binlog-off:db2"),
    (lambda s: said(s, read_only="ON"), "stop read-only:db2"),
    (lambda s: said(s, require_secure_transport="ON"), "stop tls:db2"),
    (lambda s: replace(s, clock_s=-3.0), "warning clocks:db2"),
    (lambda s: said(s, lower_case_table_names="1"), "stop case:db2"),
    (lambda s: replace(s, charset="utf8mb4"), "warning charset:db2"),
    (lambda s: said(s, sql_mode=""), "warning sql-mode:db2"),
    (lambda s: replace(s, version="10.6.3-MariaDB"), "warning older:db2"),
    (lambda s: said(s, max_allowed_packet="1024"), "stop packet:db2"),
    (lambda s: said(s, server_id="1"), "warning same-id:db2"),
    (lambda s: replace(s, triggers=("t",)), "stop triggers:db2"),
    (lambda s: replace(s, schema_version=("alembic_version b",)), "stop schema-version:db2"),
    (lambda s: replace(s, free=None), "warning disk:db2"),
    (lambda s: replace(s, free=1 << 30), "warning disk:db2"),
])
def test_traps_of_the_target(plant: Callable[[Server], Server], expected: str) -> None:
    assert ids(healthy(), plant(healthy("db2"))) == [expected]


@pytest.mark.parametrize("version", ["5.7.29-log", "9.7.4-2"])
def test_two_of_mysql_that_rows_have_moved_between(version: str) -> None:
    found = ids(replace(healthy(), version=version), replace(healthy("db2"), version="9.7.4"))
    assert [f for f in found if f.startswith("stop")] == []


@pytest.mark.parametrize("version", ["8.0.36", "8.4.3-3"])
def test_releases_between_are_for_the_operator_to_try(version: str) -> None:
    both = replace(healthy(), version=version), replace(healthy("db2"), version=version)
    stops = [v for v in find(*both, CELL, 3600) if v.severity == "stop"]
    assert len(stops) == 2 and all(v.may_accept and version in v.what for v in stops)


def test_jobs_that_mysql_has_not_seen() -> None:
    assert mariadb_alone((healthy(), healthy("db2")), "nobody danced") == ()
    (found,) = mariadb_alone((healthy(), replace(healthy("db2"), version="9.7.4")), "nobody danced")
    assert (found.id, found.severity, found.may_accept) == ("mover:mysql:db2", "stop", False)
    assert found.what == "this is MySQL (9.7.4), on which nobody danced"


def test_two_kinds_of_server() -> None:
    for mine, theirs in (("5.7.29", "10.11.19-MariaDB"), ("10.11.19-MariaDB", "9.7.4")):
        found = ids(replace(healthy(), version=mine), replace(healthy("db2"), version=theirs))
        assert [f for f in found if f.startswith("stop")] == ["stop mixed:db2"]


@pytest.mark.parametrize("version", ["5.6.51", "10.4.34-MariaDB", "10.5.1-MariaDB"])
def test_servers_on_which_a_move_would_fail_halfway_can_not_be_acknowledged(version: str) -> None:
    newer = "10.11.19-MariaDB" if "MariaDB" in version else "9.7.4"
    old, new = replace(healthy(), version=newer), replace(healthy("db2"), version=newer)
    for pair in ((replace(old, version=version), new), (old, replace(new, version=version))):
        stops = [v for v in find(*pair, CELL, 3600) if v.severity == "stop"]
        assert len(stops) == 1 and not stops[0].may_accept and version in stops[0].what


def test_room_for_a_whole_cell_stops() -> None:
    assert ids(healthy(), replace(healthy("db2"), free=1 << 30), CELL) == ["stop disk:db2"]


def test_retention_follows_the_estimate() -> None:
    assert ids(healthy(), healthy("db2"), estimate=4 * 86400) == ["stop retention:db1"]
    assert ids(healthy(), healthy("db2"), stay=4 * 86400) == ["stop retention:db2"]
    assert ids(said(healthy(), expire_logs_days="0"), healthy("db2"), estimate=9e9) == []


def test_binlog_off_says_how_to_switch_it_on() -> None:
    (finding,) = (v for v in find(said(healthy(), log_bin="OFF"), healthy("db2"), HOSTS, 1)
                  if v.id.startswith("mover:binlog"))
    assert "log_bin = " in finding.remedy and "restart" in finding.remedy


def test_clocks_that_can_not_be_told_apart_are_no_finding() -> None:
    assert ids(replace(healthy(), clock_error_s=4.0), replace(healthy("db2"), clock_s=5.0)) == []


@pytest.mark.parametrize(("plant", "expected"), [
    (lambda n: n, "warning galera-positions:db1"),
    (lambda n: n[:1], "stop galera-nodes:db1"),
    (lambda n: [n[0], replace(n[1], where="db1")], "stop galera-nodes:db1"),
    (lambda n: [n[0], replace(n[1], status=n[1].status | {"wsrep_local_state_comment": "Donor"})],
     "stop galera-state:db2"),
    (lambda n: [n[0], replace(n[1], status=n[1].status | {"wsrep_cluster_state_uuid": "v"})],
     "stop galera-other:db2"),
    (lambda n: [said(n[0], log_slave_updates="OFF"), n[1]], "stop galera-updates:db1"),
    (lambda n: [said(n[0], event_scheduler="OFF"), n[1]], "stop galera-lease:db1"),
])
def test_traps_of_a_cluster(plant: Callable[[list[Server]], list[Server]], expected: str) -> None:
    nodes = plant([healthy("db1"), healthy("db2")])
    found = [f"{v.severity} {v.id.removeprefix('mover:')}" for v in find_galera(nodes, len(nodes))]
    assert expected in found and set(found) - {expected} <= {"warning galera-positions:db1"}


def test_a_real_server_is_read(server: PrivateServer) -> None:
    server.create("nova", ddl(SCHEMA))
    server.sql("USE nova", "INSERT INTO alembic_version VALUES ('2903cd72dc14')")
    server.row("nova", "compute_nodes", id=1, host=None, deleted=0, uuid="x")
    server.row("nova", "compute_nodes", id=2, host=None, deleted=2, uuid="y")
    server.sql("USE nova", "CREATE TRIGGER watch BEFORE DELETE ON tags FOR EACH ROW SET @a = 1",
               "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO SET @a = 1",
               "ALTER TABLE s3_images ENGINE = MyISAM")
    found = look(server)
    assert found.old_rows == (("compute_nodes.host", 1),)
    assert (found.triggers, found.events) == (("watch",), ("nightly",))
    assert found.other_engines == ("s3_images (MyISAM)",)
    assert found.schema_version == ("alembic_version 2903cd72dc14",)
    assert found.mariadb and not found.galera and not found.filtered
    assert found.retention_s == 7 * 86400 and found.binlog_bytes > 0
    assert abs(found.clock_s) <= 1 + found.clock_error_s
    assert found.bytes > 0 and found.variables["server_id"] == "5" and found.charset == "utf8mb3"
    assert "stop ownerless" in " ".join(ids(found, replace(found, where="t")))


def test_a_clock_that_is_off_is_seen(server: PrivateServer) -> None:
    server.create("nova", ddl(SCHEMA))
    # What a session's own clock says, as if the server's were an hour ahead.
    with closing(Session(server.endpoint("nova"))) as session:
        began = int(time.time())
        session.execute(f"SET timestamp = {began + 3600}")
        found = read_server(session, SCHEMA)
        assert 3600 - (time.time() - began) - found.clock_error_s < found.clock_s < 3600 + found.clock_error_s


def test_free_room_where_the_server_tells(server: PrivateServer) -> None:
    server.create("nova", ddl(SCHEMA))
    assert look(server).free is None
    server.sql("INSTALL SONAME 'disks'")
    try:
        free = look(server).free
        # Memory file systems are no disks to the plugin; elsewhere it agrees with the kernel.
        actual = shutil.disk_usage(server.directory).free
        assert free is None or abs(free - actual) < actual / 2 + (1 << 30)
    finally:
        server.sql("UNINSTALL SONAME 'disks'")


def test_filters_and_no_binlog() -> None:
    made = PrivateServer("log-bin=bin", "binlog-ignore-db=nova")
    try:
        made.create("nova", ddl(SCHEMA))
        assert look(made).filtered
    finally:
        made.stop()
    made = PrivateServer()
    try:
        made.create("nova", ddl(SCHEMA))
        found = look(made)
        assert found.binlog_bytes == 0
        assert "stop binlog-off:t" in ids(replace(found, where="t"), healthy())
    finally:
        made.stop()
