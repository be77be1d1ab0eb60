"""A standard Nova of Stein and hosts for an API cell, simulated: two databases, nova-cells, users who go on.

An instance is a row in the child's database; in cells v1 one in the API cell's as well, which leads there by
its path. What users ask of the side that serves them is written as Nova writes it: in the child alone before,
in both afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recell.adapters.ports import Consumer, Finished, ProcessInfo, RawMapping
from recell.adapters.v1_port import FlavorRows, V1Port
from recell.errors import StalePlan, StepFailed
from recell.model.cells_v1 import InstanceRow
from recell.model.deployment import ConfigFile, Deployment
from recell.model.moving import Login, Thing
from recell.model.plan import Plan
from recell.model.relay import Side
from recell.model.rowchange import RowChange
from recell.model.urls import parse_url
from recell.model.v1 import Agreement, BothSides, Conversion, Importing, Neighbour, Settled
from recell.model.violation import Violation
from recell.planning.ini import get
from recell.planning.v1 import plan_v1
from tests.sim.cloud import BLANKS
from tests.sim.database import CELL0, CELL1
from tests.sim.world import (
    API_START_S,
    START_S,
    SimBroker,
    SimFile,
    SimHost,
    SimProxy,
    SimUnit,
    SimWorld,
    read_by,
)
from tests.unit.stein_cloud import CONF, layout_v1, stein

RABBIT = "rabbit://nova:s3cret@mq1:5672,nova:s3cret@mq2:5672,nova:s3cret@mq3:5672/"
DATABASE = "mysql+pymysql://nova:dbpw@db1:3306/nova"
NOVA_CONF = f"""\
[DEFAULT]
# how to reach the message bus
transport_url = {RABBIT}
my_ip = {{ip}}
enabled_apis = osapi_compute,metadata

[database]
connection = {DATABASE}{BLANKS}

[api_database]
connection = mysql+pymysql://nova:dbpw@db1:3306/nova_api
"""
COMPUTE_CONF = f"[DEFAULT]\ntransport_url = {RABBIT}\n"
EMPTY = b"# nothing is configured here yet\n"
SEEDED = 5
CELL0_ROWS = ("failed-1",)
BOUND_S = START_S + 1.0
"""nova-cells binds what it takes from other cells after it has begun to serve its own."""
INTERCELL = tuple(f"cells.intercell.{kind}" for kind in ("targeted", "broadcast", "response"))


@dataclass
class Inst:
    """``task``: what nova-compute is at; in the API cell what it was said to be at."""

    value: int = 0
    path: str | None = None
    task: str | None = None


@dataclass
class Database:
    """``known``: accounts that may enter. ``rows``: live instances by uuid."""

    made: bool = False
    tables: bool = False
    seeded: int = 0
    known: set[str] = field(default_factory=set)
    rows: dict[str, Inst] = field(default_factory=dict)
    neighbours: dict[str, Neighbour] = field(default_factory=dict)
    cells_reports: bool = False
    usage: int = 0


class V1World(SimWorld):
    """``serving``: which side users are led to. ``held``: they wait."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Database(True, True, known={"nova"})
        self.api = Database()
        self.importing = Importing("none")
        self.serving: Side = "old"
        self.held = False
        self.told: dict[str, int] = {}
        self.requests = 0
        self.room_known = False
        self.asked_since = 0.0
        self.quiet_s = 60.0  # since anybody wrote a row
        self.after: dict[str, Callable[[], None]] = {}  # what happens once, after a change
        self.handed_at = 0.0
        self.again = False  # the API cell's nova-cells has connected again by itself
        self.mute = False  # the child's nova-cells can't reach the API cell's broker

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        return SimV1(self, conversion, ours)

    def make_broker(self, name: str, hosts: Sequence[str]) -> V1Broker:
        return V1Broker(self, name, hosts)

    # -- who runs ----------------------------------------------------------------------------------

    def running(self, role: str, broker: str, cell: str) -> list[SimUnit]:
        """Units of a role that have come up on this broker, with [cells] name as given ("" for none)."""
        return [
            u
            for h in self.hosts.values()
            for u in h.units_.values()
            if u.active
            and not u.paused
            and u.role == role
            and self.time >= u.started_at + START_S
            and self.broker_named(u.config["transport_url"]) == broker
            and u.config["cell"] == cell
        ]

    def database_of(self, cell: str) -> tuple[Database, str]:
        """And what it is called."""
        return (self.api, "nova_api_cell") if cell == "api" else (self.child, "nova")

    # -- what users do and notice ------------------------------------------------------------------

    def observe(self) -> None:
        self._heal()
        if not self.held and self.child.rows:
            self._serve_old() if self.serving == "old" else self._serve_new()
        if not any(self.running("conductor", "mq1", cell) for cell in ("", "cell1")) and not self.held:
            self._complain("computes have no conductor")

    def _serve_old(self) -> None:
        if not any(self.running("conductor", "mq1", cell) for cell in ("", "cell1")):
            self._complain("nova-api has no conductor")
        if not any(p.takes(s) for p in self.proxies.values() for s in p.table):
            self._complain("no nova-api takes requests")
        for s in (s for p in self.proxies.values() for s in p.table if p.takes(s)):
            read = self.hosts[s.server].api.config
            if "osapi_compute" not in read["apis"] or read["quota"]:
                self._complain(f"nova-api on {s.server} serves users as a child's: {read['apis']}")
        self.requests += 1
        uuid = sorted(self.child.rows)[self.requests % len(self.child.rows)]
        self.child.rows[uuid].value = self.told[uuid] = self.requests
        if self.requests % 5 == 0:
            self._boot(f"old-{self.requests}", None)
            self.child.usage += 1

    def _boot(self, uuid: str, path: str | None) -> None:
        self.child.rows[uuid] = Inst(self.requests)
        self.told[uuid] = self.requests
        if path:
            self.api.rows[uuid] = Inst(self.requests, path)

    def _serve_new(self) -> None:
        for role, broker, cell in (
            ("cells", "mq4", "api"), ("cells", "mq1", "cell1"), ("conductor", "mq1", "cell1"),
            ("scheduler", "mq1", "cell1"), ("api", "mq4", "api"),
        ):  # fmt: skip
            if not self.running(role, broker, cell):
                self._complain(f"users are led to the API cell, and no nova-{role} of {cell} runs")
        self.requests += 1
        uuid = sorted(self.child.rows)[self.requests % len(self.child.rows)]
        mine = self.api.rows.get(uuid)
        if mine is None or mine.path != "api!cell1":
            self._complain(f"{uuid} can't be managed: {mine}")
            return
        if mine.task:
            return  # 409
        if mine.value != self.child.rows[uuid].value:
            self._complain(f"{uuid} shows what it was")
        mine.value = self.child.rows[uuid].value = self.told[uuid] = self.requests
        if self.requests % 5 == 0:
            self._boot(f"new-{self.requests}", "api!cell1")
        for failed in CELL0_ROWS:
            if failed not in self.api.rows:
                self._complain(f"{failed} is listed and answers 404")

    def _heal(self) -> None:
        """nova-cells of the API cell writes what the child tells it, and meets rows that come meanwhile."""
        coming = self.importing.phase in ("copying", "following", "drained")
        if self.talking() and self.hears() and coming and self.api.rows and not (self.held or self.again):
            self._complain("nova-cells heals while rows are imported")
        if self.talking() and not self.mute:
            self.room_known = self.knows("old") and self.knows("new")

    def talking(self) -> bool:
        """The API cell's nova-cells runs, and the child's does not stand still."""
        return bool(self.running("cells", "mq4", "api") and self.running("cells", "mq1", "cell1"))

    def hears(self) -> bool:
        """Whether the API cell's nova-cells is told what the child says of its instances."""
        return True

    def knows(self, side: Side) -> bool:
        """Whether this side has a record of its neighbour, in its table or in its file."""
        one, host = (self.child, "ctl1") if side == "old" else (self.api, "api1")
        return bool(one.neighbours) or "/etc/nova/cells.json" in self.hosts[host].files

    def lost(self) -> set[str]:
        """What users were told and isn't so."""
        where = self.child.rows
        return {u for u, v in self.told.items() if u not in where or where[u].value != v}

    def picture(self) -> dict[str, Any]:
        def shown(d: Database) -> Any:
            rows = sorted(u for u in d.rows if u.startswith(("guest", "failed")))
            records = sorted(d.neighbours.values(), key=str)
            return d.made, d.tables, d.seeded, sorted(d.known), records, d.cells_reports, rows

        found = super().picture()
        # What a unit that doesn't run had read is nobody's business.
        found["units"] = {n: u if u[0] else u[:3] for n, u in found["units"].items()}
        return found | {
            "child": shown(self.child),
            "api": shown(self.api),
            "importing": self.importing,
            "serving": (self.serving, self.held),
            "usage": self.child.usage == len(self.child.rows) if self.serving == "old" else None,
        }


class V1Host(SimHost):
    world: V1World

    def begin(self, unit: SimUnit) -> None:
        super().begin(unit)
        argv = list(unit.loaded)
        text = "\n".join((self.read(p) or b"").decode() for p in read_by(argv))
        unit.config["cell"] = get(text, "cells", "name") or ""
        unit.config["quota"] = get(text, "quota", "driver") or ""
        unit.config["apis"] = get(text, "DEFAULT", "enabled_apis") or ""
        unit.config["argv"] = " ".join(argv)
        if unit.role == "cells":
            assert unit.config["cell"], f"{unit.name} on {self.name} runs outside any cell"
            kind, name = self.world.database_of(unit.config["cell"])
            assert parse_url(unit.config["connection"]).path == name
            kind.cells_reports = True

    def processes(self) -> tuple[ProcessInfo, ...]:
        begun = {u.pid: tuple(u.config["argv"].split()) for u in self.units_.values() if u.active}
        return tuple(replace(p, argv=begun[p.pid]) for p in super().processes())

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        assert list(argv[-3:]) == ["db", "sync", "--local_cell"] and user == "nova"
        text = (self.read(argv[list(argv).index("--config-file") + 1]) or b"").decode()
        assert parse_url(get(text, "database", "connection") or "").path == "nova_api_cell"
        self.world.point("before the tables are made")
        assert self.world.api.made and "nova" in self.world.api.known
        self.world.changes.append("tables made")
        if not self.world.api.tables:
            self.world.api.tables, self.world.api.seeded = True, SEEDED
        self.world.point("tables made")
        return Finished(0, b"", b"")


class V1Broker(SimBroker):
    world: V1World

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        return tuple(
            Consumer(queue, f"c{u.pid}", h.name, 10_000 + u.pid, f"nova-{u.role}:{u.pid}:x")
            for h in self.world.hosts.values()
            for u in h.units_.values()
            for topic in (u.role, *(INTERCELL if u.role == "cells" else ()))
            for queue in (topic, f"{topic}.{h.name}")
            if u.active
            and u.role in ("conductor", "scheduler", "compute", "cells", "consoleauth")
            and self.world.time >= u.started_at + (BOUND_S if topic in INTERCELL else START_S)
            and self.world.broker_named(u.config["transport_url"]) == self.name
        )


class SimV1:
    """:class:`~recell.adapters.v1_port.V1Port`"""

    def __init__(self, world: V1World, conversion: Conversion, ours: Login) -> None:
        self.world, self.conversion, self.ours = world, conversion, ours

    def _at(self, side: Side) -> Database:
        return self.world.child if side == "old" else self.world.api

    def _change(self, what: str) -> None:
        self.world.changes.append(what)
        self.world.after.pop(what, lambda: None)()
        self.world.point(what)

    def there(self, side: Side) -> frozenset[str]:
        one = self._at(side)
        found = {"database"} if one.made else set()
        found |= {"tables"} if one.tables else set()
        found |= {"recell"} if self.ours.user in one.known else set()
        return frozenset(found | ({"nova"} if "nova" in one.known else set()))

    def make(self, side: Side, thing: Thing) -> None:
        self.world.point(f"before {thing} is made on {side}")
        if thing == "database":
            self._at(side).made = True
        else:
            self._at(side).known.add(self.ours.user if thing == "recell" else thing)
        self._change(f"{thing} made on {side}")

    def drop(self, side: Side, thing: Thing) -> None:
        self.world.point(f"before {thing} is dropped on {side}")
        assert thing == "recell" or side == "new"
        if thing == "database":
            assert self.world.serving == "old", "users are led there"
            known = self.world.api.known
            self.world.api = Database(known=known)
            self.world.importing = Importing("none")
        else:
            self._at(side).known.discard(self.ours.user if thing == "recell" else thing)
        self._change(f"{thing} dropped on {side}")

    def troubles(self) -> tuple[Violation, ...]:
        return ()

    def _entered(self, side: Side) -> Database:
        assert self.ours.user in self._at(side).known, f"recell has no account on {side}"
        return self._at(side)

    def clear_seeded(self) -> int:
        self.world.point("before seeded rows are cleared")
        if self._entered("new").rows:
            raise StepFailed("the API cell has instances already")
        count, self.world.api.seeded = self.world.api.seeded, 0
        self._change("seeded rows cleared")
        return count

    def neighbours(self, side: Side) -> tuple[Neighbour, ...]:
        return tuple(self._entered(side).neighbours.values())

    def add_neighbour(self, side: Side, neighbour: Neighbour) -> None:
        self.world.point("before a record is written")
        known = self._entered(side).neighbours.setdefault(neighbour.name, neighbour)
        if known != neighbour:
            raise StalePlan("there is another record")
        self._change(f"{neighbour.name} recorded on {side}")

    def remove_neighbour(self, side: Side, name: str) -> None:
        self.world.point("before a record is removed")
        self._entered(side).neighbours.pop(name, None)
        self._change(f"{name} removed on {side}")

    def child_troubles(self) -> tuple[Violation, ...]:
        raise AssertionError("no child is added here")

    def live(self, side: Side) -> tuple[str, ...]:
        return tuple(sorted(self._entered(side).rows))

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        raise AssertionError("no child is added here")

    def flavors(self, side: Side) -> FlavorRows:
        raise AssertionError("no child is added here")

    def set_flavors(self, rows: FlavorRows) -> None:
        raise AssertionError("no child is added here")

    def importing(self) -> Importing:
        return self.world.importing

    def _copy(self) -> None:
        api, child = self._entered("new"), self._entered("old")
        api.rows = {u: Inst(r.value, self.conversion.path) for u, r in child.rows.items()}

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        self.world.point("before the copy")
        if self.world.importing.phase == "live":
            return "Nova keeps both sides"
        assert not self._entered("new").seeded, "rows that db sync made are in the way"
        if self.world.importing.phase in ("none", "stale"):
            self._entered("new").rows = {}
            self.world.importing = Importing("copying")
            self.world.point("the copy is begun")
        self._copy()
        self._change("copied")
        self.world.importing = Importing("following", True)
        self._change("compared")
        return "all compared"

    def catch_up(self, limit_s: float) -> float:
        if self.world.importing.phase not in ("following", "drained"):
            self.follow(lambda figures: None)
        self.world.importing = Importing("following", True)
        self._copy()
        self.world.observe()
        return 0.1

    def drain(self, limit_s: float) -> str:
        assert self.world.held and self.world.importing.verified
        self._copy()
        self.world.importing = Importing("drained", True)
        self.world.point("drained")
        return "proven equal"

    def hand_over(self) -> int:
        self.world.point("before handing over")
        if self.world.importing.phase not in ("drained", "live"):
            raise StepFailed("not proven equal")
        assert self.world.held
        count = 0
        if self.world.importing.phase == "drained":
            assert not (self.world.talking() and self.world.hears())
            for failed in CELL0_ROWS:
                self.world.api.rows[failed] = Inst()
                count += 1
            stale = [u for u, r in self.world.child.rows.items() if self.world.api.rows[u].value != r.value]
            assert not stale, f"{stale} are not as they are in the child"
        self.world.importing = Importing("live", True)
        self.world.handed_at = self.world.time
        self._change("handed over")
        return count

    def take_back(self) -> None:
        self.world.point("before taking back")
        if self.world.importing.phase == "live":
            self.world.importing = Importing("stale")
        self._change("taken back")

    def forget(self) -> None:
        self.world.point("before the bookkeeping goes")
        self.world.importing = Importing("none")
        self._change("bookkeeping gone")

    def adopt(self) -> None:
        raise AssertionError("nobody goes on to cells v2 here")

    def unmapped(self) -> tuple[str, ...]:
        raise AssertionError("nobody goes on to cells v2 here")

    def map_instances(self) -> int:
        raise AssertionError("nobody goes on to cells v2 here")

    def settle(self) -> Settled:
        raise AssertionError("nobody goes on to cells v2 here")

    def agreement(self) -> Agreement:
        child, api = self._entered("old").rows, self._entered("new").rows
        both = child.keys() & api.keys()
        wrong = [
            u
            for u in both
            if (api[u].value, api[u].task) != (child[u].value, child[u].task)
            or api[u].path != self.conversion.path
        ]
        alone = [u for u in api.keys() - child.keys() if u not in CELL0_ROWS]
        wrong += [f"{u} is in the child alone" for u in child.keys() - api.keys()]
        wrong += [u for u in alone if api[u].path]
        alone = [u for u in alone if not api[u].path]
        return Agreement(len(both), tuple(sorted(wrong)), tuple(sorted(alone)))

    def both_sides(self) -> BothSides:
        def rows(one: Database) -> dict[str, InstanceRow]:
            return {
                u: InstanceRow(r.path or "", "cmp1", "active", r.task is not None, 9000.0,
                               {"vm_state": "active", "task_state": r.task}, self.world.quiet_s,
                               float(r.value), n)
                for n, (u, r) in enumerate(sorted(one.rows.items()), 1)
            }  # fmt: skip

        return BothSides(rows(self._entered("old")), rows(self._entered("new")))

    def mend(self, changes: Sequence[RowChange], seen: BothSides) -> tuple[RowChange, ...]:
        self.world.point("before rows are mended")
        rows, done = self._entered("new").rows, []
        for change in changes:
            row, before, after = rows[change.label], change.before or {}, change.after or {}
            if (row.task, row.value) == (before["task_state"], seen.api[change.label].updated):
                row.task = after["task_state"]
                done.append(change)
        self._change("rows mended")
        return tuple(done)

    def stranded(self) -> tuple[str, ...]:
        lost = self._entered("new").rows.keys() - self._entered("old").rows.keys() - set(CELL0_ROWS)
        return tuple(f"instance {u}" for u in sorted(lost) if not u.startswith("no-room"))

    def recount(self, side: Side) -> int:
        self.world.point("before quotas are counted")
        one = self._entered(side)
        wrong, one.usage = one.usage != len(one.rows), len(one.rows)
        self._change("quotas counted")
        return int(wrong)

    def picture(self) -> dict[str, Any]:
        child = self._entered("old")
        return {
            "tables": ["instances"],
            "neighbours": sorted(child.neighbours),
            "services": [1, 2] if child.cells_reports else [1],
        }

    def tidy_services(self, known: Sequence[int]) -> int:
        self.world.point("before records of nova-cells are deleted")
        self._entered("old").cells_reports = 2 in known
        self._change("records of nova-cells deleted")
        return 1

    def _linked(self) -> bool:
        world = self.world
        down = world.running("cells", "mq4", "api") and world.knows("new") and world.knows("old")
        return bool(down and world.running("cells", "mq1", "cell1") and not world.mute)

    def answering(self, limit_s: float) -> frozenset[str]:
        return frozenset({self.conversion.path}) if self._linked() else frozenset()

    def ask_for_instances(self, since: float) -> int:
        self.world.point("before instances are asked for")
        if not self._linked():
            raise StepFailed("nobody serves cells")
        self.world.asked_since = since
        self._change("instances asked for")
        self.world.observe()
        return 1

    def room(self, limit_s: float) -> int:
        self.world.observe()
        return 4096 if self.world.room_known else -1

    def close(self) -> None:
        return None


_port: type[V1Port] = SimV1


# -- building and scanning ---------------------------------------------------------------------------


def build(make: Callable[[], V1World] = V1World, host_of: Callable[[Any, str], V1Host] = V1Host) -> V1World:
    """As :func:`~tests.unit.stein_cloud.stein` describes it."""
    world, found = make(), stein()
    for facts in found.hosts:
        world.hosts[facts.name] = host_of(world, facts.name)
    for facts in found.hosts:
        if not facts.config_files:
            continue
        text = EMPTY
        if facts.name.startswith("ctl"):
            text = NOVA_CONF.format(ip=facts.address.host).encode()
        elif facts.name.startswith("cmp"):
            text = COMPUTE_CONF.encode()
        world.hosts[facts.name].files[CONF] = SimFile(text, 0o640, "root", "nova", world.time - 1000)
    for s in found.services:
        host = world.hosts[s.host]
        unit = f"[Unit]\nDescription={s.unit}\n\n[Service]\nUser=nova\nExecStart=/usr/bin/{s.unit}\n"
        host.files[s.fragment] = SimFile(unit.encode(), 0o644, "root", "root", world.time - 2000)
        host.units_[s.unit] = SimUnit(s.unit, enabled=s.enabled, loaded=s.argv)
    for broker in found.brokers:
        made = world.make_broker(broker.name, broker.hosts)
        made.user_map["nova"] = "s3cret"
        made.permits["/", "nova"] = (".*", ".*", ".*")
        world.brokers[broker.name] = made
    world.brokers["mq4"].user_map.clear()
    world.brokers["mq4"].permits.clear()
    world.proxies = {"lb1": SimProxy(world, "lb1", {"nova-api": ["ctl1", "ctl2"]})}
    world.database.rows = (
        RawMapping(CELL0, "cell0", "none:///", f"{DATABASE}_cell0", False),
        RawMapping(CELL1, "cell1", RABBIT, DATABASE, False),
    )
    for s in found.services:
        if s.active:
            host = world.hosts[s.host]
            host.begin(host.units_[s.unit])
            host.units_[s.unit].started_at -= 500 + API_START_S
    world.child.rows = {f"guest-{n}": Inst() for n in range(4)}
    world.told = dict.fromkeys(world.child.rows, 0)
    world.child.usage = len(world.child.rows)
    return world


def scan(world: V1World) -> Deployment:
    """What discovery would find."""
    found = stein()
    return replace(
        found,
        hosts=tuple(
            replace(
                h,
                config_files=tuple(
                    ConfigFile(CONF, stat.sha256, stat.mode, stat.owner, stat.group)
                    for stat in [world.hosts[h.name].stat(CONF)]
                    if stat
                ),
            )
            for h in found.hosts
        ),
        mappings=(found.mappings[0], replace(found.mappings[1], uuid=CELL1)),
    )


def passes(world: V1World, seconds: int) -> None:
    for _ in range(seconds):
        world.wait(1)


def wrong(world: V1World) -> list[object]:
    """Some seconds later: what users complain of, and what they were told and isn't so."""
    passes(world, 12)
    return [*world.complaints, *world.lost()]


def well(world: V1World) -> bool:
    assert wrong(world) == []
    return True


def plan(world: V1World, text: str | None = None) -> Plan:
    return plan_v1(scan(world), layout_v1(text) if text else layout_v1(), 0.0)
