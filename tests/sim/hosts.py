"""Two cells, their databases, brokers and computes, and users who never stop, simulated.

An instance's row lives in a cell; a request reads the mapping, writes the row's task there and leaves a
message at that cell's broker. nova-compute takes messages of its broker and finds the task in its cell's row,
or the request is lost. At its start it does what Nova does: it forgets what was asked for meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recell.adapters.ports import Finished, RawMapping
from recell.errors import StalePlan
from recell.model.deployment import Deployment, ServiceRecord
from recell.model.hosts import Flipped, Following, HostsMove
from recell.model.moving import Login
from recell.model.plan import Plan
from recell.model.relay import Upstream
from recell.model.urls import parse_url
from recell.planning.ini import get
from recell.planning.split import make_plan, plan_split
from tests.sim import cloud
from tests.sim.database import CELL0, CELL1, SimNova
from tests.sim.desk import Desk
from tests.sim.hosts_port import CANARY, FENCE, Cell, Row, SimCells, SimGuests
from tests.sim.moving import SimDatabases
from tests.sim.world import START_S, SimBroker, SimHost, SimUnit, SimWorld

LAYOUT = cloud.LAYOUT.replace(
    "cell1: {}",
    """cell1: {}
  cell2:
    database: {host: db2}
    broker: {nodes: [mq5]}
    conductors: [ctl1, ctl2]
    hosts: [cmp2]""",
)
OLD_DB, NEW_DB = "nova", "nova_cell2"
GUESTS = 3


class Users:
    """What users were told, and what became of it."""

    def __init__(self) -> None:
        self.asked: dict[int, str] = {}
        self.done: list[int] = []
        self.values: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.refused = 0


class CellsWorld(SimWorld):
    """A split Nova with a broker (mq5) and a database server (db2) to spare. Cells by their database."""

    def __init__(self) -> None:
        super().__init__()
        self.database: CellsNova = CellsNova(self)
        self.databases = CellsDatabases(self)
        self.cells: dict[str, Cell] = {OLD_DB: Cell(), NEW_DB: Cell()}
        self.mapped: dict[str, str] = {}  # instance -> cell's uuid, as the API database says
        self.homes: dict[str, str] = {}  # host -> cell's uuid
        self.guest_of: dict[str, str] = {}
        self.queues: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.users = Users()
        self.things: dict[str, set[str]] = {"db1": {"nova", "database"}, "db2": set()}
        self.journal = Following("none")
        self.parked: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.mappings_held = False
        self.stale: list[tuple[str, str, float]] = []  # who writes late, where, and when
        self.dead_in: set[str] = set()  # brokers on which no nova-compute comes up
        self.restless: set[str] = set()  # hosts on which a migration never ends
        self.busy_moments = 0
        self.canary_task = self.canary_status = ""
        self.obeyed: list[tuple[str, str]] = []
        self.deaf: set[str] = set()  # hosts whose nova-compute takes no request of the canary's
        self.trouble = ""  # the moment at which nova-api begins to answer with errors
        self.folds = 0  # how often rows were copied

    def between(self, move: HostsMove, ours: Login) -> SimCells:
        return SimCells(self, move, ours)

    def point(self, what: str) -> None:
        self.api_errors += 5 * (what == self.trouble)
        super().point(what)

    def guests(self, cloud: str) -> SimGuests:
        assert cloud == "admin"
        return SimGuests(self)

    def reborn(self) -> None:
        super().reborn()
        self.mappings_held = False
        for cell in self.cells.values():
            cell.locked = False

    # -- who is where ------------------------------------------------------------------------------

    def cell(self, uuid: str) -> Cell:
        row = next(m for m in self.database.rows if m.uuid == uuid)
        return self.cells[parse_url(row.database_connection).path]

    def broker_of_cell(self, uuid: str) -> str:
        return self.broker_named(next(m for m in self.database.rows if m.uuid == uuid).transport_url)

    def cell_on(self, broker: str) -> Cell | None:
        """Of the conductor that a nova-compute on this broker speaks to."""
        for host in self.hosts.values():
            for unit in host.units_.values():
                if (
                    unit.active
                    and unit.role == "conductor"
                    and "/nova_cell0" not in unit.config["connection"]
                    and self.broker_named(unit.config["transport_url"]) == broker
                ):
                    return self.cells[parse_url(unit.config["connection"]).path]
        return None

    def compute_of(self, host: str) -> tuple[SimUnit, str]:
        unit = self.hosts[host].units_["nova-compute"]
        return unit, self.broker_named(unit.config["transport_url"])

    # -- what users do and notice ------------------------------------------------------------------

    def observe(self) -> None:
        super().observe()
        if not self.guest_of:
            return
        self._late()
        for instance, host in self.guest_of.items():
            if instance != CANARY:
                self._ask(instance, host)
        self._canary()
        for host in sorted(set(self.guest_of.values())):
            self._serve(host)
        self._list()
        for proxy in self.proxies.values():
            for server in proxy.table:
                known = self.hosts[server.server].api.config.get("cells", "").split()
                if proxy.takes(server) and not set(self.mapped.values()) <= set(known):
                    self._complain(f"{server.server} does not know a cell that has instances")

    def _canary(self) -> None:
        """nova-compute does what is asked of the canary guest, where its row is and it serves."""
        if CANARY not in self.guest_of or not self.canary_task:
            return
        host = self.guest_of[CANARY]
        unit, broker = self.compute_of(host)
        serves = unit.active and self.time >= unit.started_at + START_S
        if not serves or self.cell_on(broker) is not self.cell(self.mapped[CANARY]) or host in self.deaf:
            return
        verb, self.canary_task = self.canary_task, ""
        self.obeyed.append((verb, self.mapped[CANARY]))
        self.canary_status = {"stop": "SHUTOFF"}.get(verb, "ACTIVE")
        if verb == "delete":
            self.cell(self.mapped.pop(CANARY)).rows.pop(CANARY)
            del self.guest_of[CANARY]

    def _ask(self, instance: str, host: str) -> None:
        if self.mappings_held:
            return  # the lookup waits
        uuid = self.mapped[instance]
        if len(self.users.asked) % 7 == 3:
            # It has read the mapping, and writes a moment later, or much.
            self.stale.append((instance, uuid, self.time + (0, 5, 20)[len(self.stale) % 3]))
        self._write(instance, host, uuid)

    def _late(self) -> None:
        waiting, self.stale = self.stale, []
        for instance, uuid, due in waiting:
            if self.cell(uuid).locked or self.time < due:
                self.stale.append((instance, uuid, due))
            else:
                self._write(instance, self.guest_of[instance], uuid)
                self._rename(instance, uuid)

    def _rename(self, instance: str, uuid: str) -> None:
        row = self.cell(uuid).rows.get(instance)
        if row is not None:
            row.name = self.users.names[instance] = max(self.users.names.values(), default=0) + 1

    def _write(self, instance: str, host: str, uuid: str) -> None:
        cell = self.cell(uuid)
        if cell.locked:
            return
        row = cell.rows.get(instance)
        if row is None:
            self._complain(f"{instance} is not in the cell that a request found it in")
        elif row.task:
            self.users.refused += row.task == FENCE
        else:
            number = len(self.users.asked) + 1
            self.users.asked[number] = instance
            row.task, row.value = f"reboot {number}", number
            self.users.values[instance] = number
            self.queues.setdefault((self.broker_of_cell(uuid), host), []).append((number, instance))

    def _serve(self, host: str) -> None:
        unit, broker = self.compute_of(host)
        if not unit.active or self.time < unit.started_at + START_S:
            return
        cell = self.cell_on(broker)
        queue = self.queues.get((broker, host), [])
        while queue and cell is not None:
            number, instance = queue.pop(0)
            row = cell.rows.get(instance)
            if number in self.users.done:
                self._complain(f"request {number} was done twice")
            elif row is None or row.task != f"reboot {number}":
                self._complain(f"request {number} to {instance} was lost: {row}")
            else:
                row.task = ""
                self.users.done.append(number)

    def _list(self) -> None:
        mapped = [self.cell(m.uuid) for m in self.database.rows if m.uuid != CELL0]
        for instance in self.guest_of:
            if not any(i == instance and not r.hidden for c in mapped for i, r in c.rows.items()):
                self._complain(f"{instance} is in no list")

    def lost(self) -> set[int]:
        """Requests that were acknowledged and wait nowhere; values that went back."""
        waiting = {n for queue in (*self.queues.values(), *self.parked.values()) for n, _ in queue}
        gone = set(self.users.asked) - set(self.users.done) - waiting
        return gone | {
            v for i, v in self.users.values.items() if self.cell(self.mapped[i]).rows[i].value != v
        } | {-v for i, v in self.users.names.items() if self.cell(self.mapped[i]).rows[i].name != v}

    def started(self, name: str, unit: SimUnit) -> None:
        """nova-compute begins: it needs its record, and forgets what was asked for meanwhile."""
        broker = self.broker_named(unit.config["transport_url"])
        cell = self.cell_on(broker)
        if not self.guest_of:
            return
        if broker in self.dead_in or cell is None:
            unit.active = False
            return
        if name not in cell.services:
            unit.active = False
            self._complain(f"nova-compute on {name} has guests and no service record")
            return
        for instance, host in self.guest_of.items():
            if (
                host == name
                and (row := cell.rows.get(instance)) is not None
                and row.task.startswith("reboot")
            ):
                row.task = ""

    def picture(self) -> dict[str, Any]:
        return super().picture() | {
            "cells": {
                name: (sorted((i, r.hidden) for i, r in cell.rows.items()), dict(cell.services), cell.locked)
                for name, cell in self.cells.items()
            },
            "mapped": (dict(self.mapped), dict(self.homes)),
            "things": {k: sorted(v) for k, v in self.things.items()},
            "following": self.journal,
            "held": self.mappings_held,
            "aside": [c.aside for c in self.cells.values()] + [q for q in self.parked.values() if q],
        }


class CellsDatabases(SimDatabases):
    @staticmethod
    def address_of(unit: SimUnit) -> Upstream | None:
        return None if f"/{NEW_DB}" in unit.config.get("connection", "") else SimDatabases.address_of(unit)


class CellsHost(SimHost):
    world: CellsWorld

    def begin(self, unit: SimUnit) -> None:
        super().begin(unit)
        unit.config["cells"] = " ".join(m.uuid for m in self.world.database.rows)
        if unit.role == "compute":
            del unit.config["cells"]
            self.world.started(self.name, unit)

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        assert list(argv[-3:]) == ["db", "sync", "--local_cell"] and user == "nova"
        text = (self.read(argv[list(argv).index("--config-file") + 1]) or b"").decode()
        assert parse_url(get(text, "database", "connection") or "").path == NEW_DB
        self.world.point("before the tables are made")
        assert "database" in self.world.things["db2"]
        self.world.changes.append("tables made")
        self.world.things["db2"].add("tables")
        self.world.point("tables made")
        return Finished(0, b"", b"")


class CellsNova(SimNova):
    world: CellsWorld

    def services(self, cell: str) -> tuple[Any, ...]:
        return super().services(cell) if cell in self.records else ()

    def add_mapping(self, new: RawMapping) -> None:
        self.world.point("before the cell is mapped")
        if any(m.uuid == new.uuid for m in self.rows):
            raise StalePlan("there is such a cell")
        assert NEW_DB in new.database_connection and "mq5" in new.transport_url
        self.world.changes.append(f"map {new.name}")
        self.rows = (*self.rows, new)
        self.world.point("the cell is mapped")

    def remove_mapping(self, old: RawMapping) -> None:
        self.world.point("before the cell is unmapped")
        assert old.uuid not in {*self.world.mapped.values(), *self.world.homes.values()}
        self.world.changes.append(f"unmap {old.name}")
        self.rows = tuple(m for m in self.rows if m != old)
        self.world.point("the cell is unmapped")

    def host_cells(self, hosts: Sequence[str]) -> dict[str, str]:
        return {h: self.world.homes[h] for h in hosts if h in self.world.homes}

    def hold_mappings(self, limit_s: float, settle_s: float) -> float:
        self.world.point("before lookups wait")
        self.world.mappings_held = True
        self.world.time += settle_s
        self.world.observe()
        self.world.point("lookups wait")
        return settle_s

    def flip(self, hosts: Sequence[str], instances: Sequence[str], source: str, target: str) -> Flipped:
        self.world.point("before the flip")
        assert self.world.mappings_held, "a flip without a hold"
        assert set(instances) == {i for i, h in self.world.guest_of.items() if h in hosts}
        assert all(self.world.homes[h] == source for h in hosts)
        self.world.changes.append("flip")
        self.world.homes |= dict.fromkeys(hosts, target)
        self.world.mapped |= dict.fromkeys(instances, target)
        self.world.point("flipped")
        return Flipped(len(hosts), len(instances))

    def let_mappings_go(self) -> None:
        if not self.world.killed:
            self.world.mappings_held = False


def split() -> CellsWorld:
    """A world that was split before, with guests on both computes."""
    world = cloud.build(make=CellsWorld, host_of=CellsHost)
    assert isinstance(world, CellsWorld)
    world.brokers["mq5"] = SimBroker(world, "mq5", ["mq5"])
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as top:
        Desk(world, Path(top), plan_split(cloud.scan(world), cloud.layout(), 0.0)).go("forward")
    for host in ("cmp1", "cmp2"):
        world.homes[host] = CELL1
        world.cells[OLD_DB].services[host] = False
        for number in range(GUESTS):
            world.guest_of[f"{host}-{number}"] = host
            world.cells[OLD_DB].rows[f"{host}-{number}"] = Row()
            world.mapped[f"{host}-{number}"] = CELL1
    for h in world.hosts.values():
        for unit in h.units_.values():
            if unit.role != "compute":
                unit.config.setdefault("cells", " ".join(m.uuid for m in world.database.rows))
    return world


def scan(world: CellsWorld) -> Deployment:
    found = cloud.scan(world)
    records = tuple(
        ServiceRecord(cell, n, f"u{n}", host, "nova-compute", 70, False, 1.0)
        for n, (host, cell) in enumerate(sorted(world.homes.items()))
    )
    return replace(found, records=records)


def plan(world: CellsWorld, text: str = LAYOUT) -> Plan:
    return make_plan(scan(world), cloud.layout(text), 0.0)
