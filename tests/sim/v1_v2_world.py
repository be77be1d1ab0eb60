"""A tree of cells v1 as recell's own conversion has left it, on its way to cells v2, simulated.

The child's rows are what counts on both sides. In cells v1 the API cell has them too; in cells v2 an instance
is found by its mapping. Users go on, and complain of what they don't find, and of what nobody is there to do.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recell.adapters.v1_hold_port import UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.engine import Engine
from recell.journal import Journal
from recell.model.cells_v1 import CellRecord, CellV1
from recell.model.deployment import ConfigFile, Deployment, NovaService, ProxyBackendServer
from recell.model.layout import load_any_layout
from recell.model.layout_v1_v2 import TREE_EXAMPLE, TreeLayout
from recell.model.moving import Login
from recell.model.plan import Plan
from recell.model.relay import Side
from recell.model.urls import parse_url
from recell.model.v1 import Conversion, Importing, Settled
from recell.planning.ini import get
from recell.planning.v1_v2 import plan_tree
from recell.steps import Context, bind
from tests.sim.database import CELL0, CELL1
from tests.sim.v1_ear import EarWorld
from tests.sim.v1_hold import Door, HoldWorld, SimUnderWay
from tests.sim.v1_world import CELL0_ROWS, Inst, SimV1, V1Host, V1World, build
from tests.sim.v1_world import plan as plan_v1_of
from tests.sim.v1_world import scan as scan_v1
from tests.sim.world import API_START_S, SimProxy, read_by

LIMITS = {"drain_s": 60.0, "quiet_s": 60.0, "stop_s": 60.0, "start_s": 60.0}
DOORS: dict[Side, dict[str, Door]] = {
    "old": {"api1": ("10.1.0.4", 8774), "api2": ("10.1.0.5", 8774)},
    "new": {"api1": ("10.1.0.4", 8784), "api2": ("10.1.0.5", 8784)},
}
FAILED_THERE = "failed-in-child"
NO_ROOM = "no-room-1"
ADDED = ("failed", "no-room")


class TreeWorld(HoldWorld):
    """``serving``: ``new`` is cells v1, ``old`` cells v2, as V1Port names sides. ``mapped``:
    instance_mappings, None where they name no cell; ``cell0``: its live rows; ``building``: build
    requests."""

    doors = DOORS
    before_consoles = ("api1", "api2")
    cell0: set[str]
    mapped: dict[str, str | None]
    building: set[str]

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        assert conversion.api_database == "nova_api" and conversion.cell0 == "nova_cell0"
        return SimTree(self, conversion, ours)

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        assert (host, config, broker) == ("ctl1", "/etc/nova/nova-cell1.conf", "mq1")
        return SimUnderWay(self)

    def answers(self, side: Side, host: str) -> bool:
        unit = self.hosts[host].units_.get("nova-api" if side == "old" else "nova-api-v2")
        return unit is not None and unit.active and self.time >= unit.started_at + API_START_S

    @property
    def serving(self) -> Side:
        sides = {g.leads() for g in self.users_gates()}
        if len(sides) > 1 and not self.held:
            self._complain("one HAProxy leads to cells v1 and another to cells v2")
        return "old" if sides == {"new"} else "new"

    @serving.setter
    def serving(self, side: Side) -> None:
        raise AssertionError("gates decide")

    def observe(self) -> None:
        self.consoles_led()
        at: Side = "new" if self.serving == "old" else "old"
        if not self.held and (self.shut(at) or not any(self.answers(at, h) for h in self.doors[at])):
            self._complain(f"no nova-api of {'cells v2' if at == 'new' else 'cells v1'} answers its users")
        casting = any(self.running("scheduler", "mq1", c) for c in ("", "cell1"))
        if not casting and not self.brokers["mq1"].spares:
            self._complain("computes cast to scheduler_fanout, which is gone")
        for host in ("ctl1", "ctl2"):
            asks = self.hosts[host].api
            if asks.active and asks.config["cell"] and not self._a_unit("cells", "cell1"):
                self._complain(f"metadata on {host} asks nova-cells, which is off")
        EarWorld.observe(self)

    def _a_unit(self, role: str, cell: str) -> bool:
        units = [u for h in self.hosts.values() for u in h.units_.values() if u.active and u.role == role]
        return any(u.config["cell"] == cell for u in units)

    def _serve_old(self) -> None:
        """Cells v2."""
        for role, broker in (("api", "mq4"), ("conductor", "mq4"), ("scheduler", "mq4")):
            found = [u for u in self.running(role, broker, "") if "/nova_cell0" in u.config["connection"]]
            if not found:
                self._complain(f"users are led to cells v2, and no nova-{role} runs on {broker}")
        self.requests += 1
        uuid = sorted(self.child.rows)[self.requests % len(self.child.rows)]
        if self.mapped.get(uuid) != "cell1":
            self._complain(f"{uuid} answers 404: its mapping says {self.mapped.get(uuid, 'nothing')}")
        self.child.rows[uuid].value = self.told[uuid] = self.requests
        self.tell(uuid)
        if self.requests % 5 == 0:
            self._boot(f"v2-{self.requests}", None)
        for failed in (*CELL0_ROWS, NO_ROOM):
            if failed not in self.cell0 or self.mapped.get(failed) != "cell0":
                self._complain(f"{failed} answers 404")
        if ghosts := self.building & {*self.child.rows, *self.cell0}:
            self._complain(f"{ghosts} are listed as being built")

    def _serve_new(self) -> None:
        if self.running("conductor", "mq1", ""):
            self._complain("a conductor of the child tells nova-cells nothing, and users are at the API cell")
        super()._serve_new()
        if NO_ROOM not in self.api.rows:
            self._complain(f"{NO_ROOM} answers 404")

    def _boot(self, uuid: str, path: str | None) -> None:
        super()._boot(uuid, path)
        self.mapped[uuid] = "cell1"

    def picture(self) -> dict[str, Any]:
        known = ("guest", *ADDED)
        mapped = {u: c for u, c in self.mapped.items() if u.startswith(known)}
        return super().picture() | {
            "v2": (mapped, sorted(self.cell0), sorted(self.building)),
            "usage": None,
        }


class SimTree(SimV1):
    """:class:`~recell.adapters.v1_port.V1Port`"""

    world: TreeWorld

    def adopt(self) -> None:
        self.world.point("before both sides are noted")
        if self.world.importing.phase == "none":
            self._entered("new")
            self.world.importing = Importing("live", True)
        self._change("both sides noted")

    def unmapped(self) -> tuple[str, ...]:
        mapped = self.world.mapped
        return tuple(u for u in sorted(self._at("old").rows) if mapped.get(u) is None)

    def map_instances(self) -> int:
        self.world.point("before instances are mapped")
        missing = self.unmapped()
        self.world.mapped |= dict.fromkeys(missing, "cell1")
        self._change("instances mapped")
        return len(missing)

    def settle(self) -> Settled:
        assert self.world.held, "users may boot meanwhile"
        self.world.point("before builds get a cell")
        pending = [u for u, c in self.world.mapped.items() if c is None]
        there = [u for u in pending if u in self._entered("old").rows]
        alone = [u for u in pending if u in self._entered("new").rows and u not in there]
        self.world.cell0 |= set(alone)
        self._change("failed builds brought to cell0")
        self.world.mapped |= dict.fromkeys(there, "cell1") | dict.fromkeys(alone, "cell0")
        self.world.building -= {*there, *alone}
        self._change("builds got a cell")
        return Settled(len(there), len(alone))

    def hand_over(self) -> int:
        count = super().hand_over()
        for failed in sorted(self.world.cell0):
            self.world.api.rows.setdefault(failed, Inst())
        return count


_port: type[V1Port] = SimTree


def converted(text: str | None = None, host_of: Callable[[Any, str], V1Host] = V1Host) -> HoldWorld:
    """recell's own conversion to cells v1, applied and finished. ``text``: the layout."""
    world = build(make=HoldWorld, host_of=host_of)
    assert isinstance(world, HoldWorld)
    plan = plan_v1_of(world, text)
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal.create(Path(directory) / "journal.sqlite", plan.digest)
        context = Context(world, journal, plan.id, plan.fingerprints, LIMITS)
        with journal.writing("apply", "forward"):
            Engine(bind(plan, context), journal, wait=world.wait, clock=world.clock).forward()
        with journal.writing("finish", "forward"):
            for step in reversed(bind(plan, context)):
                step.finish()
        journal.close()
    assert world.complaints == [] and world.importing.phase == "none"
    world.gates.clear()
    world.changes.clear()
    world.proxies = {"lb1": SimProxy(world, "lb1", {"nova-api": ["api1", "api2"]})}
    return world


@functools.cache
def _built() -> TreeWorld:
    """A tree; then some builds have failed."""
    world: V1World = converted()
    world.__class__ = TreeWorld
    assert isinstance(world, TreeWorld)
    world.child.rows[FAILED_THERE] = Inst()
    world.api.rows |= {FAILED_THERE: Inst(0, "api!cell1"), NO_ROOM: Inst()}
    world.mapped = dict.fromkeys(world.child.rows, "cell1")
    del world.mapped["guest-3"]  # from before mappings were
    world.mapped |= {FAILED_THERE: None, NO_ROOM: None, **dict.fromkeys(CELL0_ROWS, "cell0")}
    world.cell0 = set(CELL0_ROWS)
    world.building = {NO_ROOM}
    world.time += 1000
    return world


def fresh() -> TreeWorld:
    return copy.deepcopy(_built())


# -- scanning ----------------------------------------------------------------------------------------


def _service(world: V1World, host: str, name: str) -> NovaService | None:
    sim = world.hosts[host]
    unit, known = sim.unit(name), sim.units_[name]
    if not unit.exists or not known.role:
        return None
    argv = unit.exec_start
    named = [argv[i + 1] for i, w in enumerate(argv) if w == "--config-file"]
    texts = {p: found.decode() for p in read_by(argv) if (found := sim.read(p)) is not None}
    text = "\n".join(texts.values())
    path = next((p for p, t in texts.items() if get(t, "DEFAULT", "transport_url")), "")

    def shown(section: str, option: str) -> str:
        url = get(text, section, option)
        return parse_url(url).shown() if url else ""

    there = {
        f"{s}/{o}": value
        for s, o in (("cells", "enable"), ("cells", "name"), ("cells", "cells_config"), ("quota", "driver"),
                     ("DEFAULT", "enabled_apis"))
        if (value := get(text, s, o)) is not None
    }
    return NovaService(
        host, name, known.role, argv, "nova", known.active, known.enabled, known.started_at, known.pid,  # type: ignore[arg-type]
        tuple(texts), bool(named), host, shown("DEFAULT", "transport_url"), "",
        shown("database", "connection"),
        shown("api_database", "connection"), 8774 if known.role == "api" and host.startswith("api") else 0,
        unit.fragment, unit.dropins, there,
        dict.fromkeys(("DEFAULT/transport_url", "database/connection"), path)
        if get(text, "DEFAULT", "transport_url") else {},
    )  # fmt: skip


def scan(world: V1World) -> Deployment:
    """What discovery would find."""
    found = scan_v1(world)
    services = tuple(
        s for host in world.hosts for name in world.hosts[host].units_ if (s := _service(world, host, name))
    )

    def members(database: str) -> tuple[tuple[str, str], ...]:
        return tuple((s.host, s.unit) for s in services if s.database.endswith(f"/{database}"))

    def transport(cell: str) -> str:
        return next(s.transport_url for s in services if s.active and s.options.get("cells/name") == cell)

    child, api = transport("cell1"), transport("api")
    mappings = tuple(
        replace(m, database_resolved=parse_url(row.database_connection).shown(), transport_resolved=child)
        for m, row in zip(found.mappings, world.database.rows, strict=True)
    )
    return replace(
        found,
        generation="v1",
        hosts=tuple(
            replace(
                h,
                config_files=tuple(
                    ConfigFile(p, stat.sha256, stat.mode, stat.owner, stat.group)
                    for p in sorted(world.hosts[h.name].files)
                    if p.startswith("/etc/nova/") and (stat := world.hosts[h.name].stat(p))
                ),
            )
            for h in found.hosts
        ),
        services=services,
        mappings=mappings,
        proxies=tuple(
            ProxyBackendServer("lb1", "nova-api", f"{h}-api", f"{a}:{p}", "up", h, "nova-api")
            for h, (a, p) in DOORS["old"].items()
        ) + tuple(
            ProxyBackendServer(
                "lb1", "nova-novncproxy", f"{h}-api", f"{a}:6080", "up", h, "nova-novncproxy")
            for h, (a, _) in DOORS["old"].items()
        ),
        cells=(
            CellV1("api", "api", "api", "api1", "nova-cells", "db2:3306/nova_api_cell", api,
                   members("nova_api_cell"), (CellRecord("cell1", False, child),)),
            CellV1("cell1", "cell1", "compute", "ctl1", "nova-cells", "db1:3306/nova", child,
                   members("nova"), (CellRecord("api", True, api),)),
        ),
    )  # fmt: skip


def layout_of(text: str = TREE_EXAMPLE) -> TreeLayout:
    found = load_any_layout(text, "layout.yaml")
    assert isinstance(found, TreeLayout)
    return found


def plan(world: TreeWorld, text: str = TREE_EXAMPLE) -> Plan:
    return plan_tree(scan(world), layout_of(text), 0.0)


__all__ = [
    "CELL0", "CELL1", "DOORS", "FAILED_THERE", "NO_ROOM", "TreeWorld", "fresh", "layout_of", "plan", "scan",
]  # fmt: skip
