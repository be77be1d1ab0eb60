"""What cells v1 are found by and made of: services on paper, databases real, in Juno's and Stein's shape."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pymysql
import pytest
from click.testing import CliRunner

from recell.adapters.conf import parse_config, transport_url_of
from recell.adapters.nova_db import Gateway as Door
from recell.adapters.ports import FileStat, Finished, ProcessInfo, QueueInfo, UnitState
from recell.adapters.world import Secrets
from recell.cli.main import main
from recell.cli.scan import text
from recell.discovery import health, health_v1
from recell.discovery.alone import look_alone
from recell.discovery.cells_v1 import CellDatabases, find_cells, is_v1
from recell.discovery.looking import Notes
from recell.discovery.services import find_services
from recell.discovery.told import tell_v1
from recell.discovery.trouble import stop_at
from recell.doctor import examine
from recell.errors import BadInput, RecellError, Unreachable, Unsupported
from recell.model.cells_v1 import CellRecord, CellV1, Flavor, Room, path_of
from recell.model.deployment import Deployment, NovaService, ServiceRecord, dump_deployment, load_deployment
from tests.unit.doctor_plants import deployment as with_changes
from tests.unit.test_adapters_nova_db import Gateway, server
from tests.unit.test_discovery import Paper, as_host
from tests.unit.test_doctor_v1 import healthy, service

__all__ = ["server"]

# The columns that are read, as the two releases have them.
COMMON = """
CREATE TABLE cells (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(255), is_parent TINYINT(1),
 transport_url VARCHAR(255) NOT NULL, deleted INT);
CREATE TABLE instances (created_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(36),
 cell_name VARCHAR(255), host VARCHAR(255), vm_state VARCHAR(255), task_state VARCHAR(255), deleted INT);
CREATE TABLE instance_types (id INT AUTO_INCREMENT PRIMARY KEY, flavorid VARCHAR(255), name VARCHAR(255),
 memory_mb INT, vcpus INT, root_gb INT, ephemeral_gb INT, swap INT, deleted INT);
CREATE TABLE migrate_version (repository_id VARCHAR(250) PRIMARY KEY, version INT);
"""
JUNO = COMMON + """
CREATE TABLE services (created_at DATETIME, updated_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY,
 host VARCHAR(255), `binary` VARCHAR(255), report_count INT, disabled TINYINT(1), deleted INT);
CREATE TABLE compute_nodes (id INT AUTO_INCREMENT PRIMARY KEY, service_id INT NOT NULL, free_ram_mb INT,
 free_disk_gb INT, deleted INT);
"""
STEIN = COMMON + """
CREATE TABLE services (created_at DATETIME, updated_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY,
 host VARCHAR(255), `binary` VARCHAR(255), report_count INT, disabled TINYINT(1), deleted INT,
 last_seen_up DATETIME, version INT, uuid VARCHAR(36));
CREATE TABLE compute_nodes (id INT AUTO_INCREMENT PRIMARY KEY, service_id INT, host VARCHAR(255),
 free_ram_mb INT, free_disk_gb INT, deleted INT);
"""
API = """
CREATE TABLE flavors (id INT AUTO_INCREMENT PRIMARY KEY, flavorid VARCHAR(255), name VARCHAR(255),
 memory_mb INT, vcpus INT, root_gb INT, ephemeral_gb INT, swap INT);
"""
TOP, CHILD = "mysql://nova:p%40w@dba/nova_top", "mysql://nova:p%40w@db1/nova"


@pytest.fixture(params=["juno", "stein"])
def root(server: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    tables = JUNO if request.param == "juno" else STEIN
    connection = pymysql.connect(
        unix_socket=str(server), user="root", autocommit=True, init_command="SET time_zone = '+00:00'"
    )
    with connection.cursor() as cursor:
        for name, made in (("nova_top", tables), ("nova", tables), ("nova_api", API)):
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"GRANT ALL ON {name}.* TO nova@localhost")
            cursor.execute(f"USE {name}")
            for statement in filter(str.strip, made.split(";")):
                cursor.execute(statement)
        seen = "updated_at" if request.param == "juno" else "last_seen_up"
        for name in ("nova_top", "nova"):
            cursor.execute(f"INSERT INTO {name}.migrate_version VALUES ('nova', 267)")
        for host, binary in (("ctl1", "nova-cells"), ("ctl1", "nova-conductor"), ("cmp1", "nova-compute")):
            cursor.execute(
                f"INSERT INTO nova.services (created_at, {seen}, host, `binary`, report_count, disabled,"
                " deleted) VALUES ('2015-01-01', UTC_TIMESTAMP(), %s, %s, 9, 0, 0)", (host, binary))
        cursor.execute(f"INSERT INTO nova_top.services (created_at, {seen}, host, `binary`, report_count,"
                       " disabled, deleted) VALUES ('2015-01-01', UTC_TIMESTAMP() - INTERVAL 1 HOUR, 'top1',"
                       " 'nova-cells', 9, 0, 0), ('2015-01-01', NULL, 'old', 'nova-cells', 0, 1, 4)")
        cursor.execute("INSERT INTO nova_top.cells (name, is_parent, transport_url, deleted) VALUES"
                       " ('cell1', 0, 'rabbit://nova:s3cret@mq1:5672//', 0),"
                       " ('lost', 0, 'rabbit://nova:s3cret@mq9:5672/', NULL),"
                       " ('gone', 0, 'rabbit://mq8/', 3)")
        cursor.execute("INSERT INTO nova.cells (name, is_parent, transport_url, deleted) VALUES"
                       " ('api', 1, 'rabbit://api:s3cret@mqa:5672//', 0)")
        cursor.execute("INSERT INTO nova_top.instances (created_at, uuid, cell_name, host, vm_state,"
                       " task_state, deleted) VALUES"
                       " (UTC_TIMESTAMP() - INTERVAL 1 DAY, 'a', 'api!cell1', 'cmp1', 'active', NULL, 0),"
                       " (UTC_TIMESTAMP(), 'b', NULL, NULL, 'building', 'scheduling', 0),"
                       " (UTC_TIMESTAMP(), 'c', 'api!cell1', 'cmp1', 'deleted', NULL, 7)")
        cursor.execute("INSERT INTO nova.instances (created_at, uuid, host, vm_state, deleted) VALUES"
                       " (UTC_TIMESTAMP() - INTERVAL 1 DAY, 'a', 'cmp1', 'active', 0)")
        cursor.execute("INSERT INTO nova.compute_nodes (service_id, free_ram_mb, free_disk_gb, deleted)"
                       " VALUES (3, 4096, 100, 0), (3, 1, 1, 2)")
        if request.param == "stein":
            cursor.execute("UPDATE nova.compute_nodes SET host = 'cmp1'")
        for name in ("nova_top", "nova"):
            cursor.execute(f"INSERT INTO {name}.instance_types (flavorid, name, memory_mb, vcpus, root_gb,"
                           " ephemeral_gb, swap, deleted) VALUES ('1', 'tiny', 512, 1, 1, 0, 0, 0),"
                           " ('9', 'old', 512, 1, 1, 0, 0, 2)")
        yield cursor
    connection.close()


def secrets(api: str = "") -> Any:
    def of(s: NovaService) -> Secrets:
        return Secrets(s.transport_url, "", TOP if "nova_top" in s.database else CHILD, api)

    return of


def gates(server: Path) -> dict[str, Door]:
    return {h: Gateway(server, name=h) for h in ("top1", "top2", "ctl1", "ctl2", "cmp1", "cmp2")}


@pytest.fixture
def tree(server: Path, root: Any) -> Iterator[tuple[tuple[CellV1, ...], CellDatabases]]:
    told: list[str] = []
    cells, databases = find_cells(
        healthy().deployment.services, gates(server), secrets(), lambda area, error: told.append(area)
    )
    yield cells, databases
    databases.close()
    assert told == []


def test_cells_are_found_by_their_databases(tree: tuple[tuple[CellV1, ...], CellDatabases]) -> None:
    cells, _ = tree
    assert [(c.key, c.cell_type, c.server, c.host) for c in cells] == [
        ("api", "api", "dba:3306/nova_top", "top1"),
        ("cell1", "compute", "db1:3306/nova", "ctl1"),
    ]
    assert set(cells[1].members) == {(h, f"nova-{r}") for h in ("ctl1", "ctl2")
                                     for r in ("cells", "conductor", "scheduler")}  # fmt: skip
    assert cells[0].records == (
        CellRecord("cell1", False, "rabbit://nova:***@mq1:5672//"),
        CellRecord("lost", False, "rabbit://nova:***@mq9:5672/", "null", False),
        CellRecord("gone", False, "rabbit://mq8/", "deleted", False),
    )
    assert path_of(cells, "cell1") == "api!cell1" and "s3cret" not in repr(cells)


def test_paths_of_nested_cells_and_of_a_circle() -> None:
    top, child = healthy().deployment.cells
    leaf = replace(child, key="leaf", name="leaf", records=(CellRecord("cell1", True, ""),))
    assert path_of((top, child, leaf), "leaf") == "api!cell1!leaf"
    circle = replace(child, records=(CellRecord("leaf", True, ""),))
    assert path_of((circle, leaf), "leaf") == "cell1!leaf"
    assert path_of((leaf,), "leaf") == "cell1!leaf"


def test_one_database_under_two_addresses_is_one_cell(server: Path, root: Any) -> None:
    units = [replace(s, database=s.database.replace("@db1/", "@10.0.0.9:3306/")) if s.host == "ctl2" else s
             for s in healthy().deployment.services]  # fmt: skip
    cells, databases = find_cells(units, gates(server), secrets(), lambda area, error: pytest.fail(area))
    databases.close()
    assert [c.key for c in cells] == ["api", "cell1"] and ("ctl2", "nova-cells") in cells[1].members


def test_two_databases_of_one_name_are_told_apart(server: Path, root: Any) -> None:
    units = [replace(s, options={**s.options, "cells/name": "nova"}) for s in healthy().deployment.services]
    cells, databases = find_cells(units, gates(server), secrets(), lambda area, error: pytest.fail(area))
    assert {c.key for c in cells} == {"nova (dba:3306/nova_top)", "nova (db1:3306/nova)"}
    assert databases.count("nova (db1:3306/nova)") == 1
    databases.close()


def test_a_database_that_does_not_answer_still_makes_a_cell(server: Path, root: Any) -> None:
    root.execute("DROP DATABASE nova")
    told: list[str] = []
    cells, databases = find_cells(
        healthy().deployment.services, gates(server), secrets(), lambda area, e: told.append(area)
    )
    databases.close()
    assert [c.key for c in cells] == ["api", "cell1"] and cells[1].records == ()
    assert told == ["the database of nova-cells on ctl1", "the neighbours of cell cell1"]


def test_a_scan_for_a_plan_leaves_a_cell_out_that_it_can_not_read_and_says_so(
    server: Path, root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(s: NovaService) -> Secrets:
        exotic = "postgresql://n:pw@pg1/nova"
        return Secrets(s.transport_url, "", TOP if "nova_top" in s.database else exotic, "")

    monkeypatch.setattr(sys.modules[tell_v1.__module__], "_configs", lambda seen: ({}, of))
    hosts: Any = gates(server)
    services = healthy().deployment.services
    told = tell_v1(hosts, [], services, stop_at, leave=True)
    assert told.remarks == ("cell-unread|cell1|recell can't read its database, db1:3306/nova",)
    assert [c.key for c in told.cells] == ["api", "cell1"] and told.instances == {"api": 2}
    with pytest.raises(Unsupported, match="begins with postgresql"):
        tell_v1(hosts, [], services, stop_at)


def test_rows_of_every_release_are_read(tree: tuple[tuple[CellV1, ...], CellDatabases], root: Any) -> None:
    _, databases = tree
    assert [(s.binary, s.host) for s in databases.services("api")] == [("nova-cells", "top1")]
    assert databases.services("api")[0].seconds_since_report == pytest.approx(3600, abs=30)
    assert all(s.seconds_since_report < 30 for s in databases.services("cell1"))
    rows = databases.instances("api")
    assert rows.keys() == {"a", "b"} and rows["a"].cell_name == "api!cell1" and rows["a"].age_s > 80_000
    assert rows["b"].busy and rows["b"].cell_name == "" and rows["b"].host == ""
    assert databases.room("cell1") == (Room("cmp1", 4096, 100),)
    tiny = Flavor(1, "1", "tiny", 512, 1, 1, 0, 0)
    assert databases.flavors("api") == ("instance_types", (tiny,))
    assert databases.schema("cell1") == "267"


def test_flavors_of_later_releases_are_in_the_api_database(server: Path, root: Any) -> None:
    root.execute("INSERT INTO nova_api.flavors (flavorid, name, memory_mb, vcpus, root_gb, ephemeral_gb,"
                 " swap) VALUES ('1', 'tiny', 512, 1, 1, 0, 0)")  # fmt: skip
    cells, databases = find_cells(
        healthy().deployment.services, gates(server), secrets("mysql://nova:p%40w@db1/nova_api"),
        lambda area, error: pytest.fail(area),
    )  # fmt: skip
    assert databases.flavors("api")[0] == "flavors" and cells
    databases.close()


def test_neighbours_in_a_file(server: Path, root: Any, tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"x": {"name": "cell1", "transport_url": "rabbit://n:pw@mq1//",
                                      "is_parent": False}}))  # fmt: skip
    units = [replace(s, options={**s.options, "cells/cells_config": str(path)})
             if s.host.startswith("top") and s.role == "cells" else s
             for s in healthy().deployment.services]  # fmt: skip
    cells, databases = find_cells(units, gates(server), secrets(), lambda area, error: pytest.fail(area))
    assert cells[0].records == (CellRecord("cell1", False, "rabbit://n:***@mq1//", source=str(path)),)
    path.write_text("[]")
    with pytest.raises(BadInput, match="cells_config"):
        databases.records("api")
    databases.close()


# The doctor's whole look


@dataclass
class V1Host:
    name: str
    socket: Path
    deployment: Deployment

    def read(self, path: str) -> bytes | None:
        top = self.name.startswith("top")
        return (f"[database]\nconnection = {TOP if top else CHILD}\n[DEFAULT]\nrabbit_host = mq1\n").encode()

    def stat(self, path: str) -> FileStat | None:
        return None

    def unit(self, name: str) -> UnitState:
        return UnitState(name, True, "active", True, 1, 1.0, "", (), (), False)

    def processes(self) -> tuple[ProcessInfo, ...]:
        return ()

    def query(self, argv: Any, **_: Any) -> Finished:
        return Finished(0, b"2014.2.4\n", b"")

    def forward(self, host: str, port: int) -> Path:
        return self.socket

    def unforward(self, local: Path, host: str, port: int) -> None:
        return None


class V1Broker:
    def __init__(self, name: str) -> None:
        self.name = name

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        return (QueueInfo("cells.intercell.targeted", 0, 0, 1, False),)

    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        return ()

    def password_works(self, user: str, password: str) -> bool:
        return password == "s3cret" and user == "nova"


@dataclass
class V1World:
    deployment: Deployment
    socket: Path
    time: float = 0.0
    hosts: dict[str, V1Host] = field(default_factory=dict)

    def host(self, name: str) -> V1Host:
        return self.hosts.setdefault(name, V1Host(name, self.socket, self.deployment))

    def broker(self, name: str) -> V1Broker:
        return V1Broker(name)

    def wait(self, seconds: float) -> None:
        self.time += seconds

    def clock(self) -> float:
        return self.time


def test_a_tree_is_looked_at_and_judged(
    server: Path, tree: tuple[tuple[CellV1, ...], CellDatabases], root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, databases = tree
    records = tuple(
        ServiceRecord(c.key, r.id, r.uuid, r.host, r.binary, r.version, r.disabled, r.seconds_since_report)
        for c in cells for r in databases.services(c.key)
    )  # fmt: skip
    made = with_changes(cells=cells, records=records)(healthy()).deployment
    assert load_deployment(dump_deployment(made), "x") == made
    assert "api!cell1 (compute): rabbit://nova:***@mq1" in text(made)
    monkeypatch.setattr(health_v1, "knock", lambda gate, host, port, greeting: "")
    root.execute("INSERT INTO nova.instances (created_at, uuid, host, vm_state, deleted) VALUES"
                 " ('2015-01-01', 'x', 'cmp1', 'active', 0)")  # fmt: skip
    notes = Notes()
    facts = health.look_at(V1World(made, server), made, notes, 10.0)  # type: ignore[arg-type]
    assert notes.found == () and facts.second.at - facts.first.at == 10.0
    assert facts.first.cells["cell1"].keys() == {"a", "x"} and len(facts.first.queues) == 2
    assert {d.name: d.schema for d in facts.databases} == {"cell api": "267", "cell cell1": "267"}
    assert all(d.variables["log_bin"] == "OFF" for d in facts.databases)
    troubles = {(link.holder, link.name): link.trouble for link in facts.v1.links}
    assert troubles == {("api", "cell1"): "", ("cell1", "api"): "it refuses the account api"}
    said = {d.id for d in examine(facts) if d.severity == "error"}
    assert {"instances:unknown-above:cell1", "cells:down:api", "cells:null-deleted:api:lost",
            "cells:unreachable:cell1:api:mqa:5672"} <= said  # fmt: skip
    assert not {i for i in said if i.startswith(("mapping:", "hosts:", "placement:"))}
    root.execute("DROP DATABASE nova")
    notes = Notes()
    facts = health.look_at(V1World(made, server), made, notes, 0.0)  # type: ignore[arg-type]
    assert "instances of cell1" in {u.area for u in notes.found} and "cell1" not in facts.first.cells
    assert not {d.id for d in examine(facts) if d.id.startswith("instances:missing")}


class V1Machine(Paper):
    """A host on paper that a whole scan can look at; its databases are real."""

    where: ClassVar[Path]

    def hello(self) -> dict[str, Any]:
        return {"now": time.time(), "hostname": self.name}

    def close(self) -> None:
        return None

    def forward(self, host: str, port: int) -> Path:
        return self.where

    def unforward(self, local: Path, host: str, port: int) -> None:
        return None


def machine(name: str, address: object, *_: object) -> V1Machine:
    """top1 is the API cell's controller, ctl1 the child's, cmp1 its compute; web runs nothing of Nova."""
    if name == "dead":
        raise Unreachable("dead does not answer by SSH", "Start it")
    roles = {"top1": ("api", "cells"), "ctl1": ("cells", "conductor"), "cmp1": ("compute",)}.get(name, ())
    kind, cell, url = ("api", "api", TOP) if name == "top1" else ("compute", "cell1", CHILD)
    conf = (
        f"[DEFAULT]\nrabbit_host = {'mqa' if name == 'top1' else 'mq1'}\nrabbit_password = s3cret\n"
        "quota_driver = nova.quota.NoopQuotaDriver\nvif_plugging_is_fatal = False\nvif_plugging_timeout = 5\n"
        f"[cells]\nenable = True\nname = {cell}\ncell_type = {kind}\n"
        + (f"[database]\nconnection = {url}\n" if name != "cmp1" else "")
    )
    units = {f"openstack-nova-{r}": ("/usr/bin/python", f"/usr/bin/nova-{r}") for r in roles}
    return V1Machine({"/etc/nova/nova.conf": conf.encode()}, dict(units), name=name)


@pytest.mark.parametrize("word", ["scan", "doctor"])
def test_a_tree_from_the_inventory_to_what_is_printed(
    server: Path, root: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str
) -> None:
    V1Machine.where = server
    for module in ("recell.discovery.scan", "recell.adapters.world"):
        monkeypatch.setattr(sys.modules[module], "SshHost", machine)
    monkeypatch.setattr(health_v1, "knock", lambda gate, host, port, greeting: "")
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("top1\nctl1\ncmp1\nweb\n")
    argv = [word, "--inventory", str(inventory), "--dir", str(tmp_path)]
    said = CliRunner().invoke(main, argv if word == "scan" else [*argv, "--watch", "0"])
    assert "s3cret" not in said.output and "p@w" not in said.output
    if word == "scan":
        assert said.exit_code == 0, said.output
        assert "api!cell1 (compute): rabbit://guest:***@mq1:5672/  db1:3306/nova" in said.stdout
        assert "4 hosts, 2 instances" in said.stdout
        return
    # nova-cells of the API cell has not reported for an hour, and the record of `lost` is no record.
    errors = {x.split()[1] for x in said.stdout.splitlines() if x.startswith("ERROR")}
    assert said.exit_code == 20, said.output
    assert errors == {"cells:down:api", "cells:null-deleted:api:lost"}
    assert "UNKNOWN" not in said.stdout


# Old releases' options


@pytest.mark.parametrize(
    ("conf", "url"),
    [
        ("transport_url = rabbit://a:b@c/\nrabbit_host = d", "rabbit://a:b@c/"),
        ("rabbit_host = mq1\nrabbit_password = p@w", "rabbit://guest:p%40w@mq1:5672/"),
        ("rabbit_hosts = mq1:5672, mq2,[fe80::1]:5673\nrabbit_userid = nova\nrabbit_password = x\n"
         "rabbit_virtual_host = nova\nrpc_backend = nova.openstack.common.rpc.impl_kombu",
         "rabbit://nova:x@mq1:5672,nova:x@mq2:5672,nova:x@[fe80::1]:5673/nova"),
        ("rabbit_virtual_host = /nova\nrabbit_host = m\nrabbit_port = 5673",
         "rabbit://guest:guest@m:5673//nova"),
        ("rpc_backend = qpid\nrabbit_host = mq1", ""),
        ("debug = true", ""),
    ],
)  # fmt: skip
def test_the_broker_of_old_options(conf: str, url: str) -> None:
    assert transport_url_of(parse_config([("nova.conf", f"[DEFAULT]\n{conf}\n".encode())])) == url


def test_kilos_own_group_wins_over_default() -> None:
    conf = b"[DEFAULT]\nrabbit_host = old\n[oslo_messaging_rabbit]\nrabbit_host = new\n"
    assert transport_url_of(parse_config([("nova.conf", conf)])) == "rabbit://guest:guest@new:5672/"


def test_services_of_juno_are_found_with_their_cell() -> None:
    conf = (b"[DEFAULT]\nrpc_backend = rabbit\nrabbit_hosts = mq1:5672,mq2:5672\nrabbit_password = pw\n"
            b"sql_connection = mysql://nova:pw@db1/nova\n[cells]\nenable = True\nname = cell1\n"
            b"[quota]\ndriver = nova.quota.NoopQuotaDriver\n")  # fmt: skip
    units: dict[str, tuple[str, ...]] = {
        f"openstack-nova-{r}": ("/usr/bin/python", f"/usr/bin/nova-{r}", "--logfile", "/x")
        for r in ("cells", "cert", "consoleauth", "network")
    }
    found = find_services(as_host(Paper({"/etc/nova/nova.conf": conf}, units)), "ctl1")
    assert {s.role for s in found.services} == {"cells", "cert", "consoleauth", "network"}
    first = found.services[0]
    assert first.transport_url == "rabbit://guest:***@mq1:5672,guest:***@mq2:5672/"
    assert first.database == "mysql://nova:***@db1/nova" and "pw" not in repr(found.services)
    assert first.options["cells/name"] == "cell1" and is_v1(found.services)
    left = replace(service("a", "cells"), options={}, active=False)
    assert not is_v1((left,)) and is_v1((replace(left, active=True),))


def test_a_database_of_another_kind_is_told_and_no_more(server: Path, root: Any) -> None:
    def other(s: NovaService) -> Secrets:
        return Secrets("", "", "sqlite:///nova" if s.host.startswith("ctl") else TOP, "")

    told: list[RecellError] = []
    cells, databases = find_cells(
        healthy().deployment.services, gates(server), other, lambda area, error: told.append(error)
    )
    databases.close()
    assert [c.key for c in cells] == ["api", "cell1"] and {e.word for e in told} == {"unsupported"}
    for ask in (databases.services, databases.instances, databases.count, databases.room, databases.flavors):
        with pytest.raises(Unsupported, match="cell1"):
            ask("cell1")


def test_a_scan_tells_cells_records_and_instances(server: Path, root: Any) -> None:
    services = healthy().deployment.services
    seen: list[Any] = []
    for host in ("top1", "top2", "ctl1", "ctl2"):
        conf = f"[database]\nconnection = {TOP if host.startswith('top') else CHILD}\n".encode()
        configs = {s.unit: parse_config([("nova.conf", conf)]) for s in services if s.host == host}
        seen.append(SimpleNamespace(facts=SimpleNamespace(name=host), found=SimpleNamespace(configs=configs)))
    hosts: Any = gates(server)
    told: list[str] = []
    found = tell_v1(hosts, seen, services, lambda area, e: told.append(area))
    assert told == [] and found.mappings == () and found.instances == {"api": 2, "cell1": 1}
    assert [(r.cell, r.binary) for r in found.records] == [
        ("api", "nova-cells"), ("cell1", "nova-cells"), ("cell1", "nova-conductor"), ("cell1", "nova-compute")
    ]  # fmt: skip


# -- no cells at all ---------------------------------------------------------------------------------


def test_a_nova_without_cells_tells_of_its_services_and_counts_instances(server: Path, root: Any) -> None:
    """Otherwise a conductor on a host that the inventory lacks would go on as if there were no cells."""
    unseen: list[str] = []
    controllers = [s for s in healthy().deployment.services if s.database and "nova_top" not in s.database]
    door = {s.host: Gateway(server, s.host) for s in controllers}

    def look() -> tuple[tuple[ServiceRecord, ...], dict[str, int]]:
        return look_alone(controllers, door, secrets(), lambda what, error: unseen.append(what))

    records, instances = look()
    assert {(r.cell, r.host, r.binary) for r in records} == {
        ("", "ctl1", "nova-cells"), ("", "ctl1", "nova-conductor"), ("", "cmp1", "nova-compute"),
    }  # fmt: skip
    assert all(r.seconds_since_report < 60 for r in records)
    assert instances == {"nova": 1} and unseen == []
    assert all(d.forwards == 0 for d in door.values())
    elsewhere = SimpleNamespace(database="postgresql://nova@db1/nova", api_database="")
    said: Any = unseen.append
    assert look_alone(controllers, door, lambda s: elsewhere, said) == ((), {})
    root.execute("DROP TABLE nova.services")
    assert look() == ((), {}) and unseen == ["service records"]
