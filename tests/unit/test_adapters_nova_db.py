"""Nova's databases, on a private MariaDB with the tables' columns that are used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest

from recell.adapters.nova_db import Database, NovaDatabases
from recell.adapters.ports import RawMapping, ServiceRow
from recell.errors import Denied, StalePlan, StepFailed, Unreachable, Unsupported
from recell.model.urls import parse_url
from recell.steps.aside import FENCE, Aside
from tests.private_server import PrivateServer

_CELL0 = "00000000-0000-0000-0000-000000000000"
_CELL1 = "11111111-1111-1111-1111-111111111111"
_API = """
CREATE TABLE cell_mappings (created_at DATETIME, updated_at DATETIME, id INT AUTO_INCREMENT
 PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, name VARCHAR(255), transport_url TEXT,
 database_connection TEXT, disabled TINYINT);
CREATE TABLE build_requests (created_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY,
 instance_uuid VARCHAR(36));
"""
_CELL = """
CREATE TABLE services (created_at DATETIME, updated_at DATETIME, deleted_at DATETIME,
 id INT AUTO_INCREMENT PRIMARY KEY, host VARCHAR(255), `binary` VARCHAR(255), disabled TINYINT,
 deleted INT, last_seen_up DATETIME, version INT, uuid VARCHAR(36),
 UNIQUE (host, `binary`, deleted));
CREATE TABLE instance_actions (id INT PRIMARY KEY, instance_uuid VARCHAR(36),
 request_id VARCHAR(255));
CREATE TABLE instance_actions_events (id INT AUTO_INCREMENT PRIMARY KEY, event VARCHAR(255),
 action_id INT, start_time DATETIME, finish_time DATETIME, deleted INT);
"""


@dataclass
class Gateway:
    """A controller from which the server's own unix socket is reached."""

    socket: Path
    name: str = "ctl1"
    forwards: int = 0

    def forward(self, host: str, port: int) -> Path:
        self.forwards += 1
        return self.socket

    def unforward(self, local: Path, host: str, port: int) -> None:
        self.forwards -= 1

    def read(self, path: str) -> bytes | None:
        return Path(path).read_bytes() if Path(path).exists() else None


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    made = PrivateServer()
    try:
        # As the lab's and most servers' own setting: not that of Nova's data.
        made.sql("SET GLOBAL time_zone = '+05:00'", "CREATE USER nova@localhost IDENTIFIED BY 'p@w'")
        yield made.socket
    finally:
        made.stop()


@pytest.fixture
def gateway(server: Path) -> Gateway:
    root = pymysql.connect(unix_socket=str(server), user="root", autocommit=True)
    with root.cursor() as cursor:
        for name, tables in (("nova_api", _API), ("nova_cell0", _CELL), ("nova", _CELL)):
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"GRANT ALL ON {name}.* TO nova@localhost")
            cursor.execute(f"USE {name}")
            for statement in tables.split(";"):
                if statement.strip():
                    cursor.execute(statement)
        cursor.execute("USE nova_api")
        for uuid, name, transport, database in (
            (_CELL0, "cell0", "none:///",
             "{scheme}://{username}:{password}@{hostname}/nova_cell0?{query}"),
            (_CELL1, "cell1", "{scheme}://{hostname}/",
             "{scheme}://{username}:{password}@{hostname}/{path}"),
        ):
            cursor.execute("INSERT INTO cell_mappings (uuid, name, transport_url,"
                           " database_connection, disabled) VALUES (%s, %s, %s, %s, 0)",
                           (uuid, name, transport, database))
    root.close()
    return Gateway(server)


@pytest.fixture
def nova(gateway: Gateway) -> Iterator[NovaDatabases]:
    made = NovaDatabases(gateway, "mysql+pymysql://nova:p%40w@db1/nova_api", "rabbit://mq1/",
                         "mysql+pymysql://nova:p%40w@db1/nova")
    yield made
    made.close()
    assert gateway.forwards == 0


def _sql(server: Path, sql: str) -> list[tuple[object, ...]]:
    root = pymysql.connect(unix_socket=str(server), user="root", autocommit=True,
                           init_command="SET time_zone = '+00:00'")
    with root, root.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def test_mappings(nova: NovaDatabases) -> None:
    cell0, cell1 = nova.mappings()
    assert (cell0.uuid, cell0.name, cell0.disabled) == (_CELL0, "cell0", False)
    assert nova.resolved(cell1) == ("rabbit://mq1/", "mysql+pymysql://nova:p%40w@db1/nova")
    new = replace(cell1, transport_url="rabbit://a/", database_connection="mysql://b/c")
    nova.set_mapping(cell1, new)
    assert nova.mappings()[1] == new
    with pytest.raises(StalePlan, match="cell1 is not what the plan was made for"):
        nova.set_mapping(cell1, cell0)
    with pytest.raises(StalePlan):
        nova.set_mapping(RawMapping("no", "no", "", "", False), cell0)
    assert nova.mappings() == (cell0, new)


def test_before_rocky_no_column_says_that_a_cell_is_disabled(nova: NovaDatabases, server: Path) -> None:
    _sql(server, "ALTER TABLE nova_api.cell_mappings DROP COLUMN disabled")
    cell1 = nova.mappings()[1]
    assert (cell1.name, cell1.disabled) == ("cell1", False)
    new = replace(cell1, transport_url="rabbit://a/")
    nova.set_mapping(cell1, new)
    second = RawMapping("22222222-2222-2222-2222-222222222222", "cell2", "rabbit://c/", "mysql://d/e", False)
    nova.add_mapping(second)
    assert nova.mappings()[1:] == (new, second)


def test_an_api_database_that_was_never_made_knows_no_cells(
    nova: NovaDatabases, gateway: Gateway, server: Path
) -> None:
    assert nova.knows_cells()
    _sql(server, "DROP TABLE nova_api.cell_mappings")
    assert not nova.knows_cells()
    _sql(server, "DROP DATABASE nova_api")
    other = NovaDatabases(gateway, "mysql+pymysql://nova:p%40w@db1/nova_api", "", "")
    assert not other.knows_cells()
    other.close()
    away = NovaDatabases(
        Gateway(server.parent / "none"), "mysql://nova:x@db1/nova_api", "", "mysql://nova:x@db1/nova")
    with pytest.raises(Unreachable):
        away.knows_cells()


def test_a_cell_without_a_name_keeps_none(nova: NovaDatabases, server: Path) -> None:
    _sql(server, f"UPDATE nova_api.cell_mappings SET name = NULL WHERE uuid = '{_CELL1}'")
    cell1 = nova.mappings()[1]
    nova.set_mapping(cell1, replace(cell1, transport_url="rabbit://a/"))
    assert _sql(server, f"SELECT name FROM nova_api.cell_mappings WHERE uuid = '{_CELL1}'") == [(None,)]


def test_a_changed_mapping_leads_elsewhere(nova: NovaDatabases) -> None:
    assert nova.query(_CELL1, "SELECT DATABASE() AS d") == ({"d": "nova"},)
    cell1 = nova.mappings()[1]
    nova.set_mapping(cell1, replace(
        cell1, database_connection="mysql+pymysql://nova:p%40w@db1/nova_cell0"))
    assert nova.query(_CELL1, "SELECT DATABASE() AS d") == ({"d": "nova_cell0"},)
    assert nova.query("", "SELECT DATABASE() AS d") == ({"d": "nova_api"},)
    with pytest.raises(StalePlan, match="there is no cell mapping nowhere"):
        nova.services("nowhere")


def test_services(nova: NovaDatabases, server: Path) -> None:
    _sql(server, "INSERT INTO nova.services (id, uuid, host, `binary`, version, disabled, deleted,"
                 " created_at, updated_at, last_seen_up) VALUES"
                 " (1, 'u1', 'ctl1', 'nova-conductor', 66, 0, 0, UTC_TIMESTAMP(), '2020-01-01',"
                 " UTC_TIMESTAMP() - INTERVAL 30 SECOND),"
                 " (2, 'u2', 'ctl2', 'nova-scheduler', 66, 1, 0, UTC_TIMESTAMP(), NULL, NULL),"
                 " (3, 'u3', 'old', 'nova-conductor', 66, 0, 3, UTC_TIMESTAMP(), NULL, NULL)")
    first, second = nova.services(_CELL1)
    assert (first.id, first.host, first.binary, first.version) == (1, "ctl1", "nova-conductor", 66)
    assert 29 <= first.seconds_since_report <= 40
    assert second.disabled
    assert second.seconds_since_report < 10
    nova.retire_service(_CELL1, first)
    nova.retire_service(_CELL1, first)
    assert [s.id for s in nova.services(_CELL1)] == [2]
    (row,) = _sql(server, "SELECT deleted, TIMESTAMPDIFF(SECOND, deleted_at, UTC_TIMESTAMP()),"
                          " updated_at FROM nova.services WHERE id = 1")
    assert row[0] == 1
    assert row[1] in range(10)
    assert str(row[2]) == "2020-01-01 00:00:00"
    nova.restore_service(_CELL1, 1)
    nova.restore_service(_CELL1, 1)
    assert [s.id for s in nova.services(_CELL1)] == [1, 2]
    with pytest.raises(StalePlan):
        nova.retire_service(_CELL1, replace(second, host="other"))
    with pytest.raises(Unsupported, match="compute service delete"):
        nova.retire_service(_CELL1, ServiceRow(9, "", "cmp1", "nova-compute", 1, False, 0))


@pytest.mark.parametrize("seen", ["last_seen_up", "updated_at"])
def test_a_compute_is_kept_up_unless_it_was_down(nova: NovaDatabases, server: Path, seen: str) -> None:
    """Before Liberty Nova goes by the time of the record's last change."""
    if seen == "updated_at":
        _sql(server, "ALTER TABLE nova.services DROP COLUMN last_seen_up")
    _sql(server, "ALTER TABLE nova.services ADD report_count INT DEFAULT 7")
    _sql(server, f"INSERT INTO nova.services (id, host, `binary`, deleted, {seen}) VALUES"
                 " (1, 'cmp1', 'nova-compute', 0, UTC_TIMESTAMP() - INTERVAL 40 SECOND),"
                 " (2, 'cmp2', 'nova-compute', 0, UTC_TIMESTAMP() - INTERVAL 80 SECOND),"
                 " (3, 'cmp3', 'nova-compute', 0, UTC_TIMESTAMP() - INTERVAL 40 SECOND),"
                 " (4, 'cmp1', 'nova-conductor', 0, UTC_TIMESTAMP() - INTERVAL 40 SECOND),"
                 " (5, 'cmp1', 'nova-compute', 5, UTC_TIMESTAMP() - INTERVAL 40 SECOND),"
                 " (6, 'cmp6', 'nova-compute', 0, NULL)")
    nova.keep_up(_CELL1, ["cmp1", "cmp2", "cmp6"], 60.0)
    rows = _sql(server, f"SELECT id, TIMESTAMPDIFF(SECOND, {seen}, UTC_TIMESTAMP()) < 30, report_count"
                        " FROM nova.services ORDER BY id")
    assert list(rows) == [(1, 1, 7), (2, 0, 7), (3, 0, 7), (4, 0, 7), (5, 0, 7), (6, None, 7)]


def test_before_pike_a_service_has_no_uuid(nova: NovaDatabases, server: Path) -> None:
    _sql(server, "ALTER TABLE nova.services DROP COLUMN uuid")
    _sql(server, "INSERT INTO nova.services (id, host, `binary`, version, disabled, deleted, created_at)"
                 " VALUES (1, 'ctl1', 'nova-conductor', 16, 0, 0, UTC_TIMESTAMP())")
    (found,) = nova.services(_CELL1)
    assert (found.id, found.uuid, found.host, found.version) == (1, "", "ctl1", 16)


def test_a_record_that_was_made_anew_is_not_restored(nova: NovaDatabases, server: Path) -> None:
    _sql(server, "INSERT INTO nova.services (id, host, `binary`, deleted) VALUES"
                 " (1, 'ctl1', 'nova-conductor', 1), (2, 'ctl1', 'nova-conductor', 0)")
    with pytest.raises(StepFailed, match="its service made a new one"):
        nova.restore_service(_CELL1, 1)


def test_busy(nova: NovaDatabases, server: Path) -> None:
    began = time.time()
    now = nova.now()
    assert began - 1 <= now <= time.time() + 1
    _sql(server, "INSERT INTO nova_api.build_requests (instance_uuid, created_at) VALUES"
                 " ('early', FROM_UNIXTIME(1000)), ('i1', FROM_UNIXTIME(2000)),"
                 " ('late', FROM_UNIXTIME(3000))")
    _sql(server, "INSERT INTO nova.instance_actions VALUES (1, 'i2', 'req-1')")
    _sql(server, "INSERT INTO nova.instance_actions_events"
                 " (event, action_id, start_time, finish_time, deleted) VALUES"
                 " ('conductor_live_migrate_instance', 1, FROM_UNIXTIME(2001), NULL, 0),"
                 " ('conductor_done', 1, FROM_UNIXTIME(2001), FROM_UNIXTIME(2002), 0),"
                 " ('conductorXother', 1, FROM_UNIXTIME(2001), NULL, 0),"
                 " ('compute_stop_instance', 1, FROM_UNIXTIME(2001), NULL, 0)")
    busy = nova.busy(_CELL1, before=2500, since=1999.5)
    assert len(busy) == 2
    assert busy[0].startswith("instance i1 is being built since 1970-01-01 00:33:20")
    assert busy[1].startswith("conductor_live_migrate_instance of instance i2 (req-1)")
    assert nova.busy(_CELL1, before=1999, since=1500) == ()


def test_questions_change_nothing(nova: NovaDatabases) -> None:
    with pytest.raises(StepFailed, match="refuses a statement"):
        nova.query("", "DELETE FROM cell_mappings")
    assert len(nova.mappings()) == 2


def test_a_lost_session(nova: NovaDatabases, server: Path) -> None:
    def kill() -> None:
        for (number,) in _sql(server, "SELECT id FROM information_schema.processlist"
                                      " WHERE user = 'nova'"):
            _sql(server, f"KILL {number}")

    nova.mappings()
    kill()
    cell1 = nova.mappings()[1]
    kill()
    nova.set_mapping(cell1, replace(cell1, name="cell one"))
    database = Database(Gateway(server), parse_url("mysql://nova:p%40w@db1/nova_api"))

    def lose(cursor: pymysql.cursors.DictCursor) -> None:
        cursor.execute("UPDATE cell_mappings SET name = 'half'")
        kill()
        cursor.execute("SELECT 1")

    with pytest.raises(Unreachable, match="unknown whether that happened"):
        database.change(lose)
    assert [m.name for m in nova.mappings()] == ["cell0", "cell one"]
    database.close()


@pytest.mark.parametrize(("url", "kind", "sentence"), [
    ("mysql+pymysql://nova:wr0ng@db1/nova_api", Denied,
     "the database nova_api on db1 refuses the account nova coming from ctl1"),
    ("mysql+pymysql://nova:p%40w@db1/mysql", Denied, "the database mysql on db1"),
    ("postgresql://nova:wr0ng@db1/nova_api", Unsupported, "postgresql"),
    ("mysql://nova:wr0ng@db1", Unsupported, "no database"),
    ("mysql+pymysql://nova:p%40w@db1/nova_api?ssl_ca=/no/ca.pem", Unreachable, "/no/ca.pem"),
])
def test_refusals(gateway: Gateway, url: str, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind) as caught:
        Database(gateway, parse_url(url)).read("SELECT 1")
    assert sentence in str(caught.value)
    assert "wr0ng" not in str(caught.value)


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    database = Database(Gateway(tmp_path / "none"), parse_url("mysql://nova:x@db1:3307/nova_api"))
    with pytest.raises(Unreachable, match="db1 port 3307 does not answer from ctl1"):
        database.read("SELECT 1")


class _Memory(dict[tuple[str, str], Any]):
    """As much of a journal as is asked for."""

    def recall(self, step: str, key: str, default: Any = None) -> Any:
        return self.get((step, key), default)

    def remember(self, step: str, key: str, value: Any) -> None:
        self[step, key] = value


def test_tasks_are_set_aside_and_put_back_and_those_whose_message_failed_are_let_go(
    nova: NovaDatabases, server: Path
) -> None:
    def tasks() -> dict[object, object]:
        return {row[0]: row[1] for row in _sql(server, "SELECT uuid, task_state FROM nova.instances")}

    _sql(server, "ALTER TABLE nova.services ADD report_count INT")
    _sql(server, "INSERT INTO nova.services (host, `binary`, deleted, report_count) VALUES"
                 " ('cmp1', 'nova-compute', 0, 7)")
    _sql(server, "CREATE TABLE nova.instances (uuid VARCHAR(36), host VARCHAR(255), task_state VARCHAR(255),"
                 " deleted INT)")
    _sql(server, "INSERT INTO nova.instances VALUES ('i1', 'cmp1', 'rebooting', 0),"
                 " ('i2', 'cmp1', 'powering-off', 0), ('i3', 'cmp1', 'powering-on', 0),"
                 " ('i4', 'cmp1', NULL, 0), ('i5', 'cmp1', 'spawning', 0), ('i6', 'cmp2', 'rebooting', 0)")
    others = {"i4": None, "i5": "spawning", "i6": "rebooting"}
    _sql(server, "INSERT INTO nova.instance_actions VALUES (1, 'i1', 'req-1'), (2, 'i2', 'req-2'),"
                 " (3, 'i3', 'req-3')")
    events = "INSERT INTO nova.instance_actions_events (event, action_id, finish_time) VALUES"
    _sql(server, f"{events} ('compute_start_instance', 1, UTC_TIMESTAMP())")
    context: Any = SimpleNamespace(journal=_Memory(), world=SimpleNamespace(nova=lambda: nova))
    aside = Aside(context)
    aside.begin(_CELL1, "cmp1", "new", [("/", "compute.cmp1")])
    assert aside.take("cmp1") and aside.take("cmp1")
    assert tasks() == {**dict.fromkeys(("i1", "i2", "i3"), FENCE), **others}
    assert aside.put_back() == {("/", "compute.cmp1"): "new"} and tasks()["i1"] == FENCE, "it rises"
    # i2's message came too early, and failed; i3's is being carried out.
    _sql(server, f"{events} ('compute_stop_instance', 2, UTC_TIMESTAMP()),"
                 " ('compute_start_instance', 3, NULL), ('conductor_x', 1, UTC_TIMESTAMP())")
    _sql(server, "UPDATE nova.services SET report_count = 8")
    assert not aside.take("cmp1") and aside.put_back() == {} and aside.known() == {}
    assert tasks() == {"i1": "rebooting", "i2": None, "i3": "powering-on", **others}
