"""A tree of cells v1 as recell's own conversion has left it, and an empty standard Nova: its next child.

Users go on in the tree. As soon as the API cell knows the child, boots may go there: whoever is missing there
then is complained of.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recell.adapters.v1_port import FlavorRows, V1Port
from recell.model.deployment import Address, Broker, CellMapping, Deployment, HostFacts
from recell.model.layout_v1 import CELLS_V1_EXAMPLE
from recell.model.moving import Login
from recell.model.plan import Plan
from recell.model.relay import Side
from recell.model.urls import parse_url
from recell.model.v1 import Conversion
from recell.model.violation import Violation
from recell.planning.v1_child import plan_child
from tests.sim.v1_hold import HoldWorld
from tests.sim.v1_v2_world import converted
from tests.sim.v1_v2_world import scan as scan_tree
from tests.sim.v1_world import Database, Inst, SimV1, V1Broker, V1Host, V1World
from tests.sim.world import API_START_S, SimFile, SimUnit
from tests.unit.stein_cloud import CONF, layout_v1

RABBIT = "rabbit://nova2:s3cret2@mq7:5672/"
DATABASE = "mysql+pymysql://nova2:dbpw2@db3:3306/nova2"
TREES = "mysql+pymysql://nova:dbpw@db1:3306/nova_api"
CONTROLLER = f"""\
[DEFAULT]
transport_url = {RABBIT}
enabled_apis = osapi_compute,metadata

[database]
connection = {DATABASE}

[api_database]
connection = {TREES}
"""
SCHEDULER_CONF = "/etc/nova/nova-scheduler.conf"
SCHEDULER = f"[api_database]\nconnection = {DATABASE}_api\n"
MAPPED = CellMapping(
    "c2", "cell2", "", parse_url(RABBIT).shown(), "", parse_url(DATABASE).shown(), False, True, "c"
)
COMPUTE = f"[DEFAULT]\ntransport_url = {RABBIT}\n"
ROLES = {
    "ctl3": ("api", "scheduler", "conductor", "novncproxy", "cells"),
    "ctl4": ("scheduler", "conductor", "cells"),
    "cmp3": ("compute",),
    "db3": (),
    "mq7": (),
}
ADDRESSES = {name: f"10.2.0.{n}" for n, name in enumerate(ROLES, 1)}
KNOWN_S = 60.0
"""So long nova-cells goes on with records that it has read."""
SEEDED: FlavorRows = {"instance_types": [{"id": 1, "flavorid": "1", "name": "m1.tiny"}]}
MINE: FlavorRows = {"instance_types": [{"id": 7, "flavorid": "7", "name": "m1.mine"}]}
NEXT = """\
  cell2:
    hosts: [ctl3, ctl4]
    weight_scale: 2
    capabilities: ["hypervisor=kvm;xen", "os=linux"]
boots:
  ram_weight_multiplier: 5
  mute_child_interval: 120
hold:
"""
LAYOUT = CELLS_V1_EXAMPLE.replace("hold:\n", NEXT).replace(
    "    vif_plugging_timeout: 5\n", "    vif_plugging_timeout: 5\n    weight_offset: -3\n"
)
FILES = ("records: table ", "records: file ")


class ChildWorld(HoldWorld):
    """``second``: the new child's database; ``known_until``: when the API cell's nova-cells forgets it."""

    second: Database
    second_flavors: FlavorRows
    known_until: float

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        assert (conversion.path, conversion.old.database) == ("api!cell2", "nova2")
        assert (conversion.new.database, conversion.config) == ("nova_api_cell", ("api1", CONF))
        return SimChild(self, conversion, ours)

    def database_of(self, cell: str) -> tuple[Database, str]:
        return (self.second, "nova2") if cell == "cell2" else super().database_of(cell)

    @property
    def serving(self) -> Side:
        return "new"

    @serving.setter
    def serving(self, side: Side) -> None:
        raise AssertionError("users stay in the tree")

    def recorded(self) -> bool:
        """Whether a record of the child is where a nova-cells of the API cell reads it."""
        files = [self.hosts[h].files.get("/etc/nova/cells.json") for h in ("api1", "api2")]
        return "cell2" in self.api.neighbours or any(f and b'"cell2"' in f.content for f in files)

    def reached(self) -> bool:
        """Whether boots may go to the child."""
        if self.recorded():
            self.known_until = self.time + KNOWN_S
        return self.time < self.known_until

    def told_of_parent(self) -> bool:
        file = self.hosts["ctl3"].files.get("/etc/nova/cells.json")
        return "api" in self.second.neighbours or file is not None

    def observe(self) -> None:
        super().observe()
        if not any(self.running("conductor", "mq7", c) for c in ("", "cell2")):
            self._complain("computes of cell2 have no conductor")
        if not self.reached():
            return
        for role in ("cells", "conductor", "scheduler"):
            if not self.running(role, "mq7", "cell2"):
                self._complain(f"a boot that goes to cell2 finds no nova-{role} of it")
        for role in ("conductor", "scheduler"):
            if self.running(role, "mq7", ""):
                self._complain(f"a nova-{role} of cell2 tells nova-cells nothing")
        if any(u.config["api"] != TREES for u in self.running("conductor", "mq7", "cell2")):
            self._complain("a conductor of cell2 finds no request of a build, and drops it")
        if any(u.config["api"] == TREES for u in self.running("scheduler", "mq7", "cell2")):
            self._complain("a scheduler of cell2 chooses hosts of cell1")
        if not any(u.active and u.role == "compute" for u in self.hosts["cmp3"].units_.values()):
            self._complain("a boot that goes to cell2 finds no compute")
        if not self.told_of_parent():
            self._complain("cell2 does not know whom to tell of what it builds")
        if self.second_flavors != MINE:
            self._complain("cell2 builds with other flavors")
        api = self.hosts["ctl3"].units_["nova-api"]
        if api.active and "osapi_compute" in api.config["apis"]:
            self._complain("nova-api of cell2 serves users as if there were no API cell")

    def picture(self) -> dict[str, Any]:
        two = self.second
        records = sorted(two.neighbours.values(), key=str)
        return super().picture() | {
            "second": (sorted(two.known), records, two.cells_reports, sorted(two.rows), self.second_flavors),
            "usage": None,
        }


class SimChild(SimV1):
    """:class:`~recell.adapters.v1_port.V1Port`"""

    world: ChildWorld

    def _at(self, side: Side) -> Database:
        return self.world.second if side == "old" else self.world.api

    def child_troubles(self) -> tuple[Violation, ...]:
        rows = sorted(self.world.second.rows)
        return tuple(Violation(f"v1-child:instances:{u}", "stop", "db3", f"{u} is there", "") for u in rows)

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        self.world.point("before weights are written")
        known = self._entered("new").neighbours
        changed: Any = dict(weights)
        known[name] = replace(known[name], **changed)
        self._change(f"weights of {name} written")

    def flavors(self, side: Side) -> FlavorRows:
        self._entered(side)
        return copy.deepcopy(self.world.second_flavors if side == "old" else MINE)

    def set_flavors(self, rows: FlavorRows) -> None:
        self.world.point("before flavors are written")
        assert not self._entered("old").rows
        self.world.second_flavors = copy.deepcopy(rows)
        self._change("flavors written")

    def answering(self, limit_s: float) -> frozenset[str]:
        world = self.world
        world.observe()
        up = world.running("cells", "mq4", "api") and world.running("cells", "mq7", "cell2")
        answers = world.reached() and up and world.told_of_parent() and not world.mute
        return frozenset({"api!cell1", *(["api!cell2"] if answers else [])})

    def room(self, limit_s: float) -> int:
        return 2048 if "api!cell2" in self.answering(limit_s) else -1


_port: type[V1Port] = SimChild


@functools.cache
def _built(files: bool) -> ChildWorld:
    text = CELLS_V1_EXAMPLE.replace(*FILES) if files else None
    world: V1World = converted(text)
    world.__class__ = ChildWorld
    assert isinstance(world, ChildWorld)
    world.second = Database(True, True, known={"nova2"})
    world.second_flavors = copy.deepcopy(SEEDED)
    world.known_until = 0.0
    world.brokers["mq7"] = V1Broker(world, "mq7", ("mq7",))
    world.brokers["mq7"].user_map["nova2"] = "s3cret2"
    world.brokers["mq7"].permits["/", "nova2"] = (".*", ".*", ".*")
    for name, roles in ROLES.items():
        host = world.hosts[name] = V1Host(world, name)
        if roles:
            text = COMPUTE if name == "cmp3" else CONTROLLER
            host.files[CONF] = SimFile(text.encode(), 0o640, "root", "nova", world.time - 1000)
        if "scheduler" in roles:
            own = SimFile(SCHEDULER.encode(), 0o640, "root", "nova", world.time - 1000)
            host.files[SCHEDULER_CONF] = own
        for role in roles:
            unit = f"nova-{role}"
            body = f"[Unit]\nDescription={unit}\n\n[Service]\nUser=nova\nExecStart=/usr/bin/{unit}\n"
            path = f"/etc/systemd/system/{unit}.service"
            host.files[path] = SimFile(body.encode(), 0o644, "root", "root", world.time - 2000)
            host.units_[unit] = SimUnit(unit, enabled=role != "cells", loaded=(f"/usr/bin/{unit}",))
            if role != "cells":
                host.begin(host.units_[unit])
                host.units_[unit].started_at -= 500 + API_START_S
    world.time += 1000
    return world


def fresh(*, files: bool = False) -> ChildWorld:
    return copy.deepcopy(_built(files))


def scan(world: ChildWorld) -> Deployment:
    found = scan_tree(world)
    model = next(h for h in found.hosts if h.name == "ctl1")

    def host(name: str) -> HostFacts:
        files = tuple(
            replace(model.config_files[0], path=p, sha256=stat.sha256)
            for p in sorted(world.hosts[name].files)
            if p.startswith("/etc/nova/") and (stat := world.hosts[name].stat(p))
        )
        at = ADDRESSES[name]
        return replace(model, name=name, address=Address(at), ips=(at,), hostname=name, config_files=files)

    return replace(
        found,
        hosts=(*found.hosts, *map(host, ROLES)),
        mappings=(*found.mappings, MAPPED),
        brokers=(*found.brokers, Broker("mq7", ("mq7",), ("rabbit@mq7",), "3.10.8", ("/",))),
    )


def layout_text(*, files: bool = False) -> str:
    if not files:
        return LAYOUT
    return LAYOUT.replace(*FILES).replace("    weight_scale: 2\n", "    weight_scale: 2\n    records: file\n")


def plan(world: ChildWorld, text: str = "", *, files: bool = False) -> Plan:
    return plan_child(scan(world), layout_v1(text or layout_text(files=files)), 0.0)


__all__ = ["MINE", "SEEDED", "ChildWorld", "Inst", "fresh", "layout_text", "plan", "scan"]
