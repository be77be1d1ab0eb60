"""Hosts between two cells on real servers: rows there and back, the moment, late writers, mappings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.nova_db import NovaDatabases
from recell.adapters.ports import RawMapping
from recell.errors import StalePlan, StepFailed, Unreachable
from recell.model.hosts import CellEnd, Flipped, Following, HostsMove
from recell.model.relay import Side
from recell.mover.feed import ForeignWriter
from recell.mover.hosts import FENCE, CellHosts
from recell.preflight import live
from recell_bench.schemas import TODAY, ddl, load
from tests.mover.cells import NOVA, OURS, before_recell, hosts_of, no_broker
from tests.mover.cells import servers as servers
from tests.private_server import PrivateServer

OLD = CellEnd("c1", "cell1", "db1", "db1", 3306, "nova", "mq1", "mq1", "/", ("10.0.0.1",))
NEW = CellEnd("c2", "cell2", "db2", "db2", 3306, "nova_cell2", "mq5", "mq5", "/", ("10.0.0.2",))
MOVE = HostsMove(OLD, NEW, ("cmp2",))
INDEX = {"instances": {"host_idx": ["host"]}}
API = """
CREATE TABLE cell_mappings (created_at DATETIME, updated_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY,
 uuid VARCHAR(36) NOT NULL UNIQUE, name VARCHAR(255), transport_url TEXT, database_connection TEXT,
 disabled TINYINT);
CREATE TABLE host_mappings (updated_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY, cell_id INT NOT NULL,
 host VARCHAR(255) NOT NULL UNIQUE, FOREIGN KEY (cell_id) REFERENCES cell_mappings (id));
CREATE TABLE instance_mappings (updated_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY,
 instance_uuid VARCHAR(36) NOT NULL UNIQUE, cell_id INT, FOREIGN KEY (cell_id) REFERENCES cell_mappings (id));
"""


def fill(old: PrivateServer) -> None:
    old.create("nova", ddl(load(TODAY), INDEX))
    for number, host in enumerate(("cmp1", "cmp2"), 1):
        old.row(
            "nova",
            "services",
            id=number,
            uuid=f"s{number}",
            host=host,
            binary="nova-compute",
            topic="compute",
            disabled=0,
            deleted=0,
            report_count=1,
        )
        old.row(
            "nova",
            "compute_nodes",
            id=number,
            uuid=f"n{number}",
            host=host,
            hypervisor_hostname=host,
            deleted=0,
            mapped=1,
            vcpus=1,
            memory_mb=1,
            local_gb=1,
            vcpus_used=0,
            memory_mb_used=0,
            local_gb_used=0,
            hypervisor_type="x",
            hypervisor_version=1,
            cpu_info="",
        )
        old.row(
            "nova",
            "pci_devices",
            id=number,
            uuid=f"p{number}",
            compute_node_id=number,
            address="0",
            product_id="1",
            vendor_id="1",
            dev_type="x",
            status="available",
            label="x",
            deleted=0,
        )
        for guest in range(3):
            uuid = f"{host}-{guest}"
            row = number * 10 + guest
            old.row(
                "nova",
                "instances",
                id=row,
                compute_id=number,
                uuid=uuid,
                host=host,
                hidden=0,
                deleted=0,
                vm_state="active",
                display_name=f"naïve {uuid}",
            )
            old.row("nova", "instance_extra", id=row, instance_uuid=uuid, deleted=0, flavor="{}")
            old.row("nova", "instance_actions", id=row, instance_uuid=uuid, action="create", deleted=0)
            old.row("nova", "instance_actions_events", id=row, event="compute_x", action_id=row, deleted=0)
    old.row("nova", "services", id=9, uuid="s9", host="cmp2", binary="nova-conductor", deleted=0)


@pytest.fixture
def cells(servers: dict[Side, PrivateServer]) -> Iterator[tuple[CellHosts, dict[Side, PrivateServer]]]:
    """A cell with rows, and one that was just made."""
    before_recell(servers, "nova_cell2", fill)
    new, port = servers["new"], CellHosts(hosts_of(servers), MOVE, OURS, NOVA, no_broker)
    port.make("old", "recell")
    for thing in ("recell", "database", "nova"):
        port.make("new", thing)
        port.make("new", thing)
    assert port.there("new") == {"recell", "database", "nova"}
    new.sql("SET foreign_key_checks = 0", *ddl(load(TODAY), INDEX), database="nova_cell2")
    assert port.differences() == ()
    port.part("new")
    yield port, servers
    port.close()


def instances(server: PrivateServer, database: str) -> dict[str, tuple[str | None, int | None, str]]:
    rows = server.sql("SELECT uuid, task_state, hidden, display_name FROM instances", database=database)
    return {str(u): (t, h, str(n)) for u, t, h, n in rows}


def begin_task(server: PrivateServer, database: str, uuid: str, task: str) -> int:
    """As nova-api does: the task is written if there is none. Rows changed."""
    with server.connect(database, NOVA.user, NOVA.password) as nova, nova.cursor() as cursor:
        return int(
            cursor.execute(
                "UPDATE instances SET task_state = %s WHERE uuid = %s AND task_state IS NULL", (task, uuid)
            )
        )


def moment(port: CellHosts, left: Side, goal: Side) -> None:
    port.catch_up(goal, 300)
    port.prepare_hold(left, 20)
    port.hold(left)
    port.drain(120)
    port.prove_held()
    port.reveal(goal)
    port.hide(left)
    port.let_go()


def test_there_and_back(cells: tuple[CellHosts, dict[Side, PrivateServer]]) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    # Of before Train, and one that Nova hides itself (a resize to another cell).
    old.sql(
        "UPDATE instances SET hidden = NULL WHERE uuid = 'cmp2-0'",
        "UPDATE instances SET hidden = 1, deleted = id WHERE uuid = 'cmp2-2'",
        database="nova",
    )
    before = instances(old, "nova")
    assert port.following() == Following("none") and port.left("new") == 0 and port.left("old") == 5
    told: list[dict[str, float]] = []
    assert "none differs" in port.follow("new", told.append)
    assert port.following() == Following("following", "new", True)
    assert begin_task(old, "nova", "cmp2-1", "rebooting") == 1
    port.catch_up("new", 300)
    copied = instances(new, "nova_cell2")
    assert set(copied) == {"cmp2-0", "cmp2-1", "cmp2-2"}
    assert {(t, h) for t, h, _ in copied.values()} == {(None, 1)}, "hidden, and without tasks"
    assert not new.sql("SELECT 1 FROM services", database="nova_cell2")

    port.bring_hosts("new")
    port.bring_hosts("new")
    assert new.sql("SELECT host, `binary` FROM services", database="nova_cell2") == [("cmp2", "nova-compute")]
    assert new.sql("SELECT compute_node_id FROM pci_devices", database="nova_cell2") == [(2,)]
    # nova-compute serves there by now, and writes its own rows and those of its instances.
    new.sql(
        "UPDATE services SET report_count = 7",
        "UPDATE instances SET power_state = 1",
        "UPDATE compute_nodes SET vcpus_used = 1",
        database="nova_cell2",
    )
    assert begin_task(old, "nova", "cmp2-2", "powering-off") == 1
    moment(port, "old", "new")
    after = instances(new, "nova_cell2")
    assert {u: (t, h) for u, (t, h, _) in after.items()} == {
        "cmp2-0": (None, None),
        "cmp2-1": ("rebooting", 0),
        "cmp2-2": ("powering-off", 1),
    }
    assert {u: n for u, (_, _, n) in after.items()} == {u: n for u, (_, _, n) in before.items() if u in after}
    left = instances(old, "nova")
    assert {left[u][:2] for u in after} == {(FENCE, 1)} and left["cmp1-0"] == before["cmp1-0"]
    assert begin_task(old, "nova", "cmp2-0", "rebooting") == 0, "a late writer meets a conflict"
    port.forget()
    assert "rows deleted" in port.clear("old") and port.left("old") == 0
    assert set(instances(old, "nova")) == {"cmp1-0", "cmp1-1", "cmp1-2"}
    for table, column in (("instance_extra", "instance_uuid"), ("instance_actions", "instance_uuid")):
        assert not old.sql(f"SELECT 1 FROM {table} WHERE {column} LIKE 'cmp2%'", database="nova")
    assert len(old.sql("SELECT 1 FROM instance_actions_events", database="nova")) == 3
    assert old.sql("SELECT id FROM services ORDER BY id", database="nova") == [(1,), (9,)]

    # And back, with a guest that was born there.
    new.row(
        "nova_cell2", "instances", uuid="cmp2-9", host="cmp2", hidden=0, deleted=0, display_name="born there"
    )
    port.follow("old", told.append)
    port.bring_hosts("old")
    moment(port, "new", "old")
    port.forget()
    port.clear("new")
    assert not instances(new, "nova_cell2") and port.left("new") == 0
    now = instances(old, "nova")
    assert set(now) == set(before) | {"cmp2-9"} and now["cmp2-9"][1] == 0
    assert (now["cmp2-0"][1], now["cmp2-2"][1]) == (None, 1)
    number = old.sql(
        "SELECT AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'nova'"
        " AND TABLE_NAME = 'instances'"
    )[0][0]
    there = new.sql(
        "SELECT AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'nova_cell2'"
        " AND TABLE_NAME = 'instances'"
    )[0][0]
    assert number > there + 10_000_000, "both cells go on counting far from each other"
    assert not [t for (t,) in old.sql("SHOW TABLES", database="nova") if t.startswith("recell_")]


def test_a_writer_in_the_moment_waits_and_meets_the_fence(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    old = servers["old"]
    port.follow("new", lambda f: None)
    port.catch_up("new", 300)
    port.prepare_hold("old", 20)
    port.hold("old")
    changed: list[int] = []
    late = threading.Thread(
        target=lambda: changed.append(begin_task(old, "nova", "cmp2-0", "rebooting")), daemon=True
    )
    late.start()
    assert begin_task(old, "nova", "cmp1-0", "rebooting") == 1, "other hosts of the cell go on"
    deadline = time.monotonic() + 60
    while not old.sql("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"):
        assert time.monotonic() < deadline, f"nobody waits for a lock, and {changed} rows were changed"
        time.sleep(0.3)  # asked again within 0.1 s, InnoDB tells what it told before
    assert not changed
    port.drain(120)
    port.prove_held()
    port.reveal("new")
    port.hide("old")
    port.let_go()
    late.join(60)
    assert changed == [0]
    # A run that dies in the moment lets go, and nothing is hidden.
    port.clear("new")


def test_another_run_goes_on(cells: tuple[CellHosts, dict[Side, PrivateServer]]) -> None:
    port, servers = cells
    port.follow("new", lambda f: None)
    port.close()
    assert begin_task(servers["old"], "nova", "cmp2-0", "rebooting") == 1
    moment(port, "old", "new")
    assert instances(servers["new"], "nova_cell2")["cmp2-0"][:2] == ("rebooting", 0)


@pytest.mark.parametrize("away", [False, True], ids=["at-once", "while-recell-was-away"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE instances SET display_name = 'of another' WHERE uuid = 'cmp2-0'",
        "DELETE FROM instance_extra WHERE instance_uuid = 'cmp2-1'",  # an archiver of that cell's
        "INSERT INTO instances (uuid, host, deleted) VALUES ('born-there', 'cmp2', 0)",
    ],
)
def test_another_writer_in_the_other_cell_is_noticed_before_nova_compute_leaves(
    cells: tuple[CellHosts, dict[Side, PrivateServer]], statement: str, away: bool
) -> None:
    port, servers = cells
    new = servers["new"]
    port.follow("new", lambda f: None)
    # Rows of that cell's own are nobody's business.
    new.row("nova_cell2", "instances", id=900_000_000, uuid="native", host="far", hidden=0, deleted=0)
    port.catch_up("new", 300)
    if away:
        port.close()
    new.sql(statement, database="nova_cell2")
    there = new.sql("SELECT uuid, display_name FROM instances ORDER BY id", database="nova_cell2")
    assert begin_task(servers["old"], "nova", "cmp2-2", "rebooting") == 1
    with pytest.raises(ForeignWriter, match=r"another writer than recell changed instance\w+ id="):
        port.catch_up("new", 300)
    if away:
        with pytest.raises(ForeignWriter):
            port.bring_hosts("new")
    assert new.sql("SELECT uuid, display_name FROM instances ORDER BY id", database="nova_cell2") == there


def test_from_its_start_on_nova_compute_writes_there_also_while_recell_is_away(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    new = servers["new"]
    port.follow("new", lambda f: None)
    port.catch_up("new", 300)
    port.bring_hosts("new")
    new.sql("UPDATE instances SET power_state = 4", database="nova_cell2")
    port.close()
    new.sql("UPDATE instance_extra SET flavor = '{1}'", database="nova_cell2")
    new.purge()
    moment(port, "old", "new")
    assert new.sql("SELECT DISTINCT flavor FROM instance_extra", database="nova_cell2") == [("{1}",)]


def test_hosts_are_closed_and_what_is_under_way_is_seen(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    old = servers["old"]
    assert port.busy("old") == {} and port.closed("old") == frozenset()
    port.shut_out("old", ["cmp2"])
    assert port.closed("old") == {"cmp2"}
    assert old.sql("SELECT host FROM services WHERE disabled = 1", database="nova") == [("cmp2",)]
    port.let_in("old", ["cmp2"])
    assert port.closed("old") == frozenset()
    old.sql("UPDATE services SET disabled = 1, disabled_reason = 'a person' WHERE id = 2", database="nova")
    port.shut_out("old", ["cmp2"])
    port.let_in("old", ["cmp2"])
    assert old.sql("SELECT disabled_reason FROM services WHERE id = 2", database="nova") == [("a person",)]
    old.row(
        "nova",
        "migrations",
        id=1,
        uuid="m1",
        source_compute="cmp1",
        dest_compute="cmp2",
        deleted=0,
        status="finished",
        migration_type="resize",
        instance_uuid="cmp2-0",
    )
    old.row(
        "nova",
        "migrations",
        id=2,
        uuid="m2",
        source_compute="cmp2",
        dest_compute="cmp1",
        deleted=0,
        status="confirmed",
        migration_type="resize",
        instance_uuid="cmp1-0",
    )
    assert port.busy("old") == {"cmp2": "resize of cmp2-0 is finished"}
    old.sql("UPDATE migrations SET status = 'confirmed'", database="nova")
    old.sql("UPDATE instances SET vm_state = 'building' WHERE uuid = 'cmp2-2'", database="nova")
    assert port.busy("old") == {"cmp2": "instance cmp2-2 is building"}


def test_a_migration_that_is_proven_to_be_nobodys_is_only_told_of(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    port._broker = lambda side: Broker()  # type: ignore[assignment, return-value]
    old = servers["old"]
    computes = old.sql("SELECT host FROM services WHERE `binary` = 'nova-compute'", database="nova")
    assert {host for (host,) in computes} == {"cmp1", "cmp2"}

    def migration(**values: Any) -> None:
        old.sql("DELETE FROM migrations", database="nova")
        row = {"id": 1, "uuid": "m1", "source_compute": "cmp2", "dest_compute": "cmp1", "deleted": 0,
               "status": "running", "migration_type": "live-migration", "instance_uuid": "cmp2-0",
               "created_at": "2020-01-01 00:00:00"} | values  # fmt: skip
        old.row("nova", "migrations", **row)

    def told() -> dict[str, str]:
        return {v.id: v.what for v in port.troubles() if "forgotten" in v.id}

    busy = {"cmp2": "live-migration of cmp2-0 is running"}
    at_rest = "live-migration of {} is running, and {}; untouched for a day, and not waited for"
    migration()
    assert port.busy("old") == busy and told() == {}, "it is at one of its ends"
    migration(dest_compute="long-gone")
    assert port.busy("old") == {}
    why = "there is no nova-compute on long-gone, and its instance is at rest"
    assert told() == {"hosts:forgotten:cmp2": at_rest.format("cmp2-0", why)}
    migration(instance_uuid="cmp1-0", dest_compute="cmp3")
    assert port.busy("old") == {}, "it is neither where it came from nor where it went"
    assert told() == {"hosts:forgotten:cmp2": at_rest.format("cmp1-0", "its instance is at rest on cmp1")}
    migration(instance_uuid="nobody")
    assert port.busy("old") == {}
    assert told() == {"hosts:forgotten:cmp2": at_rest.format("nobody", "its instance is gone")}
    doubtful: list[dict[str, Any]] = [
        {"cross_cell_move": 1}, {"migration_type": "evacuation"}, {"migration_type": None},
        {"updated_at": "2037-01-01 00:00:00"}, {"created_at": None},
    ]  # fmt: skip
    for values in doubtful:
        migration(**{"instance_uuid": "nobody", **values})
        assert list(port.busy("old")) == ["cmp2"] and told() == {}, values
    for column, value in (("task_state", "migrating"), ("vm_state", "resized"), ("vm_state", "error")):
        migration(dest_compute="long-gone")
        old.sql(f"UPDATE instances SET {column} = '{value}' WHERE uuid = 'cmp2-0'", database="nova")
        assert busy["cmp2"] in port.busy("old")["cmp2"] and told() == {}, value
        old.sql("UPDATE instances SET task_state = NULL, vm_state = 'active'", database="nova")


def test_a_task_that_nobody_goes_on_with_is_under_way(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    task = (
        "UPDATE instances SET task_state = 'deleting', updated_at = UTC_TIMESTAMP() - INTERVAL %s MINUTE"
        " WHERE uuid = 'cmp2-1'"
    )
    servers["old"].sql(task % 5, database="nova")
    assert port.busy("old") == {}, "it ends, and nova-compute is ended after it"
    servers["old"].sql(task % 90, database="nova")
    assert port.busy("old") == {"cmp2": "instance cmp2-1 is deleting"}


def test_a_host_that_was_forced_down_is_not_moved(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    port._broker = lambda side: Broker()  # type: ignore[assignment, return-value]
    servers["old"].sql("UPDATE services SET forced_down = 1 WHERE host = 'cmp1'", database="nova")
    assert [v.id for v in port.troubles() if v.severity == "stop"] == []
    servers["old"].sql("UPDATE services SET forced_down = 1", database="nova")
    assert [v.id for v in port.troubles() if v.severity == "stop"] == ["hosts:forced-down-cmp2"]


def test_an_evacuated_guest_stays_where_its_source_will_look_for_it(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    """From cmp1, which is down, to cmp2: what cmp1 has to clean up is known by the migration's row alone. It
    counts where the instance is, wherever it has gone to since."""
    port, servers = cells
    old = servers["old"]
    old.row("nova", "migrations", id=1, uuid="m1", source_compute="cmp1", dest_compute="cmp3", deleted=0,
            status="done", migration_type="evacuation", instance_uuid="cmp2-0")  # fmt: skip
    assert port.busy("old") == {
        "cmp2": "nova-compute on cmp1 has not started since cmp2-0 was evacuated from there"
    }
    old.sql("UPDATE instances SET deleted = id WHERE uuid = 'cmp2-0'", database="nova")
    assert list(port.busy("old")) == ["cmp2"], "the guest of a deleted instance is nobody's either"
    old.sql("UPDATE services SET deleted = id WHERE host = 'cmp1'", database="nova")
    assert port.busy("old") == {}, "it never comes back"
    old.sql(
        "UPDATE services SET deleted = 0", "UPDATE migrations SET status = 'completed'", database="nova"
    )
    assert port.busy("old") == {}


class Broker:
    def close(self) -> None:
        return None


def test_rows_in_the_way_are_named(cells: tuple[CellHosts, dict[Side, PrivateServer]]) -> None:
    port, servers = cells
    port._broker = lambda side: Broker()  # type: ignore[assignment, return-value]
    assert [v for v in port.troubles() if v.severity == "stop"] == []
    servers["new"].row("nova_cell2", "instances", id=20, uuid="stranger", host="cmp9", deleted=0)
    found = [v for v in port.troubles() if v.severity == "stop"]
    assert len(found) == 1 and "instances: row 20" in found[0].what


def test_the_server_of_a_cell_that_is_not_there_yet_is_looked_at_too(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    port, servers = cells
    port._broker = lambda side: Broker()  # type: ignore[assignment, return-value]

    def stops() -> list[str]:
        return [v.id for v in port.troubles() if v.severity == "stop"]

    new, old = servers["new"], servers["old"]
    new.sql("DROP DATABASE nova_cell2")
    assert stops() == []
    new.sql("CREATE DATABASE nova_cell2 CHARACTER SET latin1")
    assert stops() == [], "somebody has made it already, empty"
    try:
        old.sql("SET GLOBAL binlog_row_image = MINIMAL")
        new.sql("SET GLOBAL read_only = ON")
        said = {":".join(i.split(":")[:2]) for i in stops()}
        assert said == {"mover:binlog-image", "mover:read-only"}
    finally:
        old.sql("SET GLOBAL binlog_row_image = FULL")
        new.sql("SET GLOBAL read_only = OFF")
    old.sql("REVOKE ALL ON nova.* FROM nova@'%'", "GRANT ALL ON *.* TO nova@'%'")
    try:
        assert stops() == ["hosts:rights"]
    finally:
        old.sql("REVOKE ALL ON *.* FROM nova@'%'", "GRANT ALL ON nova.* TO nova@'%'")


def test_an_upgraded_cell_and_one_made_today_differ_where_nothing_moves(
    cells: tuple[CellHosts, dict[Side, PrivateServer]],
) -> None:
    """As Xena to 2023.1 leave it: sqlalchemy-migrate's table, an archive of older migrations, a table whose
    counter is ahead and that the new cell does not have."""
    port, servers = cells
    port._broker = lambda side: Broker()  # type: ignore[assignment, return-value]
    old, new = servers["old"], servers["new"]
    old.sql(
        "CREATE TABLE migrate_version (repository_id VARCHAR(250) PRIMARY KEY, version INT)",
        "INSERT INTO migrate_version VALUES ('nova', 422)",
        "ALTER TABLE shadow_instances MODIFY display_name VARCHAR(255) CHARACTER SET latin1",
        database="nova",
    )
    new.sql("DROP TABLE agent_builds", database="nova_cell2")
    for server, database in ((old, "nova"), (new, "nova_cell2")):
        server.sql(
            "DELETE FROM alembic_version",
            "INSERT INTO alembic_version VALUES ('960aac0e09ea')",
            database=database,
        )
    assert port.differences() == ()
    assert [v for v in port.troubles() if v.severity == "stop"] == []
    # Guests are there, and its counters behind those of the cell whose hosts come.
    new.row("nova_cell2", "services", id=700_000_000, uuid="s7", host="cmp7", deleted=0)
    old.row("nova", "services", id=900_000_000, uuid="s8", host="cmp8", deleted=0)
    port.part("new")
    port.part("old")
    counters = new.sql(
        "SELECT AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'nova_cell2'"
        " AND TABLE_NAME = 'services'"
    )
    assert counters > [(900_000_000,)]
    new.sql("ALTER TABLE instances DROP COLUMN hidden", "UPDATE alembic_version SET version_num = 'older'",
            database="nova_cell2")  # fmt: skip
    assert port.differences() == ("instances.hidden is missing in the target",)
    said = {":".join(v.id.split(":")[:2]) for v in port.troubles() if v.severity == "stop"}
    assert {"hosts:schemas", "mover:schema-version"} <= said


def test_a_broker_that_refuses_stops_it_early(cells: tuple[CellHosts, dict[Side, PrivateServer]]) -> None:
    port, _ = cells

    def broker(side: Side) -> Any:
        if side == "new":
            raise StalePlan("there is no cell mapping c2", "")
        raise Unreachable("the broker mq1 does not answer (wrong version number)", "Check it")

    port._broker = broker
    found = [v for v in port.troubles() if v.severity == "stop"]
    assert [(v.id, v.where) for v in found] == [("hosts:broker:mq1", "mq1")]


class Controller:
    """A controller from which the server's own unix socket is reached."""

    name = "ctl1"

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def forward(self, host: str, port: int) -> Path:
        return self.socket

    def unforward(self, local: Path, host: str, port: int) -> None:
        return None

    def read(self, path: str) -> bytes | None:
        return None


def test_mappings_change_while_lookups_wait(servers: dict[Side, PrivateServer]) -> None:
    server = servers["new"]
    server.create("nova_api", [s for s in API.split(";") if s.strip()])
    for number in (1, 2):
        server.row(
            "nova_api", "cell_mappings", id=number, uuid=f"c{number}", name=f"cell{number}", disabled=0
        )
    for host in ("cmp1", "cmp2"):
        server.row("nova_api", "host_mappings", host=host, cell_id=1)
        server.row("nova_api", "instance_mappings", instance_uuid=f"{host}-0", cell_id=1)
    nova = NovaDatabases(
        Controller(server.socket),
        "mysql+pymysql://root@db2/nova_api",
        "rabbit://mq1/",
        "mysql://nova:p@db1/nova",
    )
    try:
        assert live.may_lock(nova) == ()
        server.sql("CREATE OR REPLACE USER small@localhost",
                   "GRANT SELECT, UPDATE ON nova_api.* TO small@localhost")
        small = NovaDatabases(
            Controller(server.socket), "mysql+pymysql://small@db2/nova_api", "rabbit://mq1/",
            "mysql://x@db1/nova"
        )  # fmt: skip
        assert [v.id for v in live.may_lock(small)] == ["hosts:api-lock-right"]
        with pytest.raises(StepFailed, match="Access denied"):
            small.hold_mappings(5, 0.0)
        small.close()
        server.sql("GRANT LOCK TABLES ON `nova%`.* TO small@localhost")
        assert [v.id for v in live.may_lock(small)] == []
        small.close()
        assert nova.host_cells(["cmp1", "cmp2", "cmp3"]) == {"cmp1": "c1", "cmp2": "c1"}
        with pytest.raises(StepFailed, match="not held"):
            nova.flip(["cmp2"], ["cmp2-0"], "c1", "c2")
        nova.hold_mappings(5, 0.0)
        seen: list[Any] = []

        def look() -> None:
            seen.extend(
                server.sql(
                    "SELECT cell_id FROM instance_mappings WHERE instance_uuid = 'cmp2-0'",
                    database="nova_api",
                )
            )

        user = threading.Thread(target=look, daemon=True)
        user.start()
        while not server.sql(
            "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE LIKE '%metadata lock%'"
        ):
            time.sleep(0.05)
        assert not seen
        assert nova.flip(["cmp2"], ["cmp2-0", "gone"], "c1", "c2") == Flipped(1, 1)
        nova.let_mappings_go()
        user.join(60)
        assert seen == [(2,)]
        assert nova.host_cells(["cmp2"]) == {"cmp2": "c2"}
        nova.hold_mappings(5, 0.0)
        with pytest.raises(StalePlan, match="cmp1"):
            nova.flip(["cmp1"], [], "c2", "c1")
        nova.let_mappings_go()
        made = RawMapping("c3", "cell3", "rabbit://mq9/", "mysql://db9/x", False)
        nova.add_mapping(made)
        with pytest.raises(StalePlan):
            nova.add_mapping(made)
        nova.remove_mapping(made)
        with pytest.raises(StepFailed, match="host_mappings"):
            nova.remove_mapping(next(m for m in nova.mappings() if m.uuid == "c2"))
        with pytest.raises(StalePlan):
            nova.remove_mapping(made)
    finally:
        nova.close()
