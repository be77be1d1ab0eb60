"""What the doctor's facts are made of: rows on a private MariaDB, placement and brokers on sockets."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest

from recell.adapters.conf import parse_config
from recell.adapters.knock import AMQP, knock
from recell.adapters.nova_db import NovaDatabases
from recell.adapters.placement import PlacementApi
from recell.discovery import rows
from recell.discovery.told import tell_v2
from recell.discovery.trouble import stop_at
from recell.errors import Denied, RecellError, Unreachable, Unsupported
from recell.model.health import ComputeNode, Guest, MappingTimes, Provider
from recell.preflight import consistency
from recell.report.collect import cells_of
from tests.unit.test_adapters_nova_db import Gateway, server

__all__ = ["server"]

CELL0 = "00000000-0000-0000-0000-000000000000"
CELL1 = "11111111-1111-1111-1111-111111111111"
API = """
CREATE TABLE cell_mappings (created_at DATETIME, updated_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY,
 uuid VARCHAR(36), name VARCHAR(255), transport_url TEXT, database_connection TEXT, disabled TINYINT);
CREATE TABLE build_requests (id INT AUTO_INCREMENT PRIMARY KEY, instance_uuid VARCHAR(36));
CREATE TABLE instance_mappings (id INT AUTO_INCREMENT PRIMARY KEY, instance_uuid VARCHAR(36), cell_id INT,
 project_id VARCHAR(255), user_id VARCHAR(255), queued_for_delete TINYINT);
CREATE TABLE host_mappings (id INT AUTO_INCREMENT PRIMARY KEY, cell_id INT, host VARCHAR(255));
CREATE TABLE alembic_version (version_num VARCHAR(32));
"""
CELL = """
CREATE TABLE instances (uuid VARCHAR(36), host VARCHAR(255), vm_state VARCHAR(255), task_state VARCHAR(255),
 availability_zone VARCHAR(255), compute_id BIGINT, deleted INT DEFAULT 0, hidden TINYINT DEFAULT 0);
CREATE TABLE migrations (uuid VARCHAR(36), status VARCHAR(255), deleted INT DEFAULT 0);
CREATE TABLE compute_nodes (uuid VARCHAR(36), host VARCHAR(255), hypervisor_hostname VARCHAR(255),
 cpu_allocation_ratio FLOAT, ram_allocation_ratio FLOAT, disk_allocation_ratio FLOAT, deleted INT DEFAULT 0);
CREATE TABLE block_device_mapping (uuid VARCHAR(36), deleted INT DEFAULT 0);
CREATE TABLE alembic_version (version_num VARCHAR(32));
"""


@pytest.fixture
def root(server: Path) -> Iterator[Any]:
    connection = pymysql.connect(
        unix_socket=str(server), user="root", autocommit=True, init_command="SET time_zone = '+00:00'"
    )
    with connection.cursor() as cursor:
        for name, tables in (("nova_api", API), ("nova_cell0", CELL), ("nova", CELL)):
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"GRANT ALL ON {name}.* TO nova@localhost")
            cursor.execute(f"USE {name}")
            for statement in filter(str.strip, tables.split(";")):
                cursor.execute(statement)
        for uuid, name, database in ((CELL0, "cell0", "nova_cell0"), (CELL1, "cell1", "nova")):
            cursor.execute(
                "INSERT INTO nova_api.cell_mappings (created_at, uuid, name, transport_url, disabled,"
                " database_connection) VALUES ('2026-01-01 00:00:00', %s, %s, 'rabbit://mq1/', 0, %s)",
                (uuid, name, f"mysql+pymysql://nova:p%40w@db1/{database}"),
            )
        yield cursor
    connection.close()


@pytest.fixture
def nova(server: Path, root: Any) -> Iterator[NovaDatabases]:
    made = NovaDatabases(Gateway(server), "mysql+pymysql://nova:p%40w@db1/nova_api", "", "")
    yield made
    made.close()


def test_instances_are_read_where_they_are_and_where_they_are_mapped(nova: NovaDatabases, root: Any) -> None:
    root.execute(
        "INSERT INTO nova.instances (uuid, deleted, hidden) VALUES"
        " ('here', 0, NULL), ('both', 0, 0), ('gone', 7, 0), ('copy', 0, 1), ('lone', 0, 0)"
    )
    root.execute("INSERT INTO nova_cell0.instances (uuid) VALUES ('both')")
    root.execute(
        "INSERT INTO nova_api.instance_mappings (instance_uuid, cell_id, queued_for_delete) VALUES"
        " ('here', 2, 0), ('both', 1, NULL), ('lost', 2, 0), ('born', NULL, 0), ('leaving', 2, 1)"
    )
    root.execute("INSERT INTO nova_api.build_requests (instance_uuid) VALUES ('born')")
    homes = rows.read_homes(nova)
    assert homes.rows == {
        "here": frozenset({CELL1}),
        "both": frozenset({CELL0, CELL1}),
        "lone": frozenset({CELL1}),
    }
    assert homes.mapped == {"here": CELL1, "both": CELL0, "lost": CELL1, "born": ""}
    assert homes.unmapped == {"lone"} and homes.doubled == {"both"} and homes.missing == {"lost"}
    assert not homes.nowhere


def test_a_cell_that_does_not_answer_is_told_and_left_out(nova: NovaDatabases, root: Any) -> None:
    root.execute("INSERT INTO nova_api.instance_mappings (instance_uuid, cell_id) VALUES ('there', 2)")
    root.execute("UPDATE nova_api.cell_mappings SET database_connection ="
                 " 'mysql+pymysql://nova:p%40w@db1/no_such' WHERE id = 2")  # fmt: skip
    told: list[str] = []
    homes = rows.read_homes(nova, lambda area, error: told.append(f"{area}: {error.word}"))
    assert homes.mapped == {} and homes.wrong == set()
    assert told == ["instances of cell1: denied"]
    with pytest.raises(RecellError):
        rows.read_homes(nova)


def services(root: Any, database: str) -> None:
    root.execute(
        f"CREATE TABLE {database}.services (id INT, uuid VARCHAR(36), host VARCHAR(255),"
        " `binary` VARCHAR(255), version INT, disabled INT, created_at DATETIME, last_seen_up DATETIME,"
        " deleted INT)"
    )


def test_proofs_leave_out_a_cell_that_recell_can_not_read_and_say_so(nova: NovaDatabases, root: Any) -> None:
    root.execute(
        "INSERT INTO nova_api.cell_mappings (created_at, uuid, name, transport_url, disabled,"
        " database_connection) VALUES ('2026-01-01 00:00:00', 'c9', 'cell9', 'rabbit://mq1/', 0,"
        " 'postgresql://nova:pw@pg1/nova')"
    )
    root.execute("INSERT INTO nova_api.instance_mappings (instance_uuid, cell_id) VALUES ('there', 3)")
    root.execute("INSERT INTO nova_api.host_mappings (host, cell_id) VALUES ('cmp9', 3)")

    services(root, "nova_cell0")
    services(root, "nova")

    class World:
        def nova(self) -> NovaDatabases:
            return nova

        def wait(self, seconds: float) -> None:
            raise AssertionError("nothing seems wrong")

    world: Any = World()
    found: Any = None
    said = consistency.instances_are_where_they_are_mapped(world, found)
    assert said.endswith("; not looked at: cell9")
    assert consistency.hosts_are_mapped_once(world, found).endswith("; not looked at: cell9")
    root.execute("UPDATE nova_api.cell_mappings SET database_connection ="
                 " 'mysql+pymysql://nova:p%40w@db1/no_such' WHERE id = 3")  # fmt: skip
    for proof in (consistency.instances_are_where_they_are_mapped, consistency.hosts_are_mapped_once):
        with pytest.raises(RecellError):
            proof(world, found)


def test_a_scan_for_a_plan_leaves_such_a_cell_out_and_says_so(
    nova: NovaDatabases, root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.execute("UPDATE nova_api.cell_mappings SET database_connection = 'postgresql://nova:pw@pg1/nova'"
                 " WHERE id = 2")  # fmt: skip
    services(root, "nova_cell0")
    controller: Any = SimpleNamespace(
        host="ctl1", unit="nova-api", role="api", active=True, api_database="x", database="x"
    )
    seen: Any = SimpleNamespace(
        facts=SimpleNamespace(name="ctl1"), found=SimpleNamespace(configs={"nova-api": parse_config([])})
    )
    monkeypatch.setattr(sys.modules[tell_v2.__module__], "NovaDatabases", lambda *_: nova)
    hosts: Any = {"ctl1": None}
    told = tell_v2(hosts, [seen], [controller], stop_at, leave=True)
    assert told.remarks == (
        "cell-unread|cell1|recell can't read its database, postgresql://nova:***@pg1/nova",
    )
    assert told.instances == {"cell0": 0} and len(told.mappings) == 2
    assert list(cells_of(nova)) == ["cell0"]
    with pytest.raises(Unsupported, match="begins with postgresql"):
        tell_v2(hosts, [seen], [controller], stop_at)
    root.execute("UPDATE nova_api.cell_mappings SET database_connection = 'postgresql://nova:pw@pg1/nova'"
                 " WHERE id = 1")  # fmt: skip
    with pytest.raises(Unsupported, match="begins with postgresql"):
        tell_v2(hosts, [seen], [controller], stop_at, leave=True)


def test_guests_nodes_hosts_and_moves(nova: NovaDatabases, root: Any) -> None:
    root.execute(
        "INSERT INTO nova.instances (uuid, host, vm_state, task_state) VALUES ('a', 'cmp1', 'active', NULL),"
        " ('b', 'cmp1', 'active', 'deleting'), ('c', NULL, 'error', NULL),"
        " ('d', 'cmp1', 'shelved_offloaded', NULL)"
    )
    root.execute(
        "INSERT INTO nova.migrations (uuid, status) VALUES ('m', 'completed'), ('n', 'running'),"
        " (NULL, 'error')"
    )
    root.execute(
        "INSERT INTO nova.compute_nodes (uuid, host, hypervisor_hostname) VALUES ('u', 'cmp1', 'c1')"
    )
    root.execute("INSERT INTO nova_api.host_mappings (host, cell_id) VALUES ('cmp1', 2)")
    assert rows.read_guests(nova) == (Guest("a", CELL1, "cmp1"),)
    assert rows.read_moves(nova) == {"n"}
    assert rows.read_nodes(nova) == (ComputeNode(CELL1, "u", "cmp1", "c1"),)
    assert rows.read_host_mappings(nova) == {"cmp1": (CELL1,)}


def test_a_resize_that_waits_for_its_owner_still_holds_its_old_host(nova: NovaDatabases, root: Any) -> None:
    root.execute("INSERT INTO nova.migrations (uuid, status) VALUES ('m', 'finished'), ('o', 'confirmed')")
    assert rows.read_moves(nova) == {"m"}


def test_when_a_mapping_was_written_by_our_clock(nova: NovaDatabases, root: Any) -> None:
    root.execute("UPDATE nova_api.cell_mappings SET updated_at = FROM_UNIXTIME(1800000000) WHERE id = 2")
    made = 1767225600.0 - 100
    assert set(rows.read_mapping_times(nova, 100.0)) == {
        MappingTimes(CELL0, made, 0.0),
        MappingTimes(CELL1, made, 1800000000.0 - 100),
    }


def test_what_online_migrations_have_left(nova: NovaDatabases, root: Any) -> None:
    root.execute(
        "INSERT INTO nova.instances (uuid, host, compute_id, availability_zone) VALUES"
        " ('a', 'cmp1', NULL, 'z'), ('b', 'cmp1', 1, NULL), ('c', NULL, NULL, NULL), ('d', 'cmp1', 1, 'z')"
    )
    root.execute(
        "INSERT INTO nova.block_device_mapping (uuid, deleted) VALUES (NULL, 0), (NULL, 3), ('x', 0)"
    )
    root.execute("INSERT INTO nova.compute_nodes (uuid, cpu_allocation_ratio, ram_allocation_ratio,"
                 " disk_allocation_ratio) VALUES ('u', 4, 1, 0), ('v', 4, 1, 1)")  # fmt: skip
    root.execute("INSERT INTO nova.alembic_version VALUES ('abc')")
    facts = rows.read_database(nova, CELL1, "cell1", "db1:3306/nova")
    assert facts.unmigrated == {
        "populate_instance_compute_id": 1,
        "populate_missing_availability_zones": 1,
        "populate_uuids": 1,
        "migrate_empty_ratio": 1,
    }
    assert facts.schema == "abc" and facts.variables["log_bin"] == "OFF"
    assert int(facts.variables["Max_used_connections"]) >= 1
    root.execute("INSERT INTO nova_api.instance_mappings (instance_uuid, cell_id, project_id, user_id,"
                 " queued_for_delete) VALUES ('a', 2, 'p', NULL, NULL), ('b', NULL, 'p', NULL, NULL),"
                 " ('c', 2, 'p', 'u', 0)")  # fmt: skip
    api = rows.read_database(nova, "", "api", "db1:3306/nova_api")
    assert api.unmigrated == {"populate_queued_for_delete": 1, "populate_user_id": 1} and api.schema == ""


# Placement and Keystone, as far as they are asked


CONF = b"""[placement]
auth_url = http://keystone.example:5000
username = nova
password = pw
region_name = RegionOne
"""
PROVIDERS = [
    {"uuid": "u1", "name": "cmp1", "root_provider_uuid": "u1"},
    {"uuid": "u1-gpu", "name": "cmp1_gpu", "root_provider_uuid": "u1"},
    {"uuid": "u2", "name": "nfs", "root_provider_uuid": "u2"},
]


class Handler(BaseHTTPRequestHandler):
    status = 200

    def log_message(self, *_: Any) -> None:
        return None

    def address_string(self) -> str:
        return "unix"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = body["auth"]["identity"]["password"]["user"]
        assert (user["name"], user["domain"]) == ("nova", {"name": "Default"})
        ends = [{"interface": "public", "region": r, "url": f"http://{r.lower()}.example:8778"}
                for r in ("RegionTwo", "RegionOne")]  # fmt: skip
        self._say(
            {"token": {"catalog": [{"type": "placement", "endpoints": ends}]}},
            201 if user["password"] == "pw" else 401,
        )

    def do_GET(self) -> None:
        assert self.headers["X-Auth-Token"] == "token" and self.headers["Host"] == "regionone.example:8778"
        self._say(
            {
                "/resource_providers": {"resource_providers": PROVIDERS},
                "/resource_providers/u1/allocations": {"allocations": {"a": {}}},
                "/resource_providers/u1-gpu/allocations": {"allocations": {"b": {}}},
                "/resource_providers/u2/allocations": {"allocations": {}},
                "/resource_providers/u2/traits": {"traits": ["MISC_SHARES_VIA_AGGREGATE"]},
            }[self.path],
            self.status,
        )

    def _say(self, content: Any, status: int) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Subject-Token", "token")
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class Door:
    """A controller whose every forward leads to one socket."""

    name = "ctl1"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open: list[tuple[str, int]] = []

    def forward(self, host: str, port: int) -> Path:
        self.open.append((host, port))
        return self.path

    def unforward(self, local: Path, host: str, port: int) -> None:
        self.open.remove((host, port))

    def read(self, path: str) -> bytes | None:
        return None


@contextmanager
def serving(path: Path) -> Iterator[Door]:
    web = Server(str(path), Handler)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield Door(path)
    finally:
        web.shutdown()
        web.server_close()


def api(door: Door, conf: bytes = CONF) -> PlacementApi:
    return PlacementApi(door, parse_config([("nova.conf", conf)]))


def test_placement_is_asked_through_the_controller(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as door:
        asked = api(door)
        found = asked.look(lambda uuid, name: uuid == "u2")
        asked.close()
    assert found.providers == (
        Provider("u1", "cmp1", False, frozenset({"a", "b"})),
        Provider("u2", "nfs", True, frozenset()),
    )
    assert door.open == []


def test_placement_that_refuses_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "s") as door:
        with pytest.raises(Denied, match="401"):
            api(door, CONF.replace(b"= pw", b"= other")).look()
        with pytest.raises(Unsupported, match="catalog"):
            api(door, CONF.replace(b"RegionOne", b"Mars")).look()
        monkeypatch.setattr(Handler, "status", 500)
        with pytest.raises(Unreachable, match="500"):
            api(door).look()
    with pytest.raises(Unreachable, match=r"keystone\.example:5000"):
        api(Door(tmp_path / "nobody")).look()
    with pytest.raises(Unsupported, match="auth_url"):
        api(Door(tmp_path / "nobody"), b"[DEFAULT]\n").look()


@pytest.mark.parametrize(("answer", "said"), [(b"\x01\x00\x00\x00", ""), (b"", "closed"), (None, "silent")])
def test_a_knock_at_a_broker(tmp_path: Path, answer: bytes | None, said: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    held: list[socket.socket] = []

    def serve() -> None:
        client, _ = listener.accept()
        assert client.recv(8) == AMQP
        held.append(client)
        if answer is not None:
            client.sendall(answer)
            client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    door = Door(tmp_path / "s")
    said_then = knock(door, "mq1", 5672, AMQP, timeout=0.5 if answer is None else 60)
    thread.join()
    listener.close()
    for client in held:
        client.close()
    assert (said in said_then if said else said_then == "") and door.open == []


def test_a_knock_where_nobody_is(tmp_path: Path) -> None:
    assert knock(Door(tmp_path / "nobody"), "mq1", 5672, AMQP)
