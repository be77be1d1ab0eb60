"""How planner and engine bear a large cloud: ``python -m tests.sim.hosts_scale [HOSTS [GUESTS]]``.

The world is simulated and nobody is at work in it: the time is the planner's and the engine's.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from recell.engine import Engine
from recell.journal import Journal
from recell.model.deployment import Deployment
from recell.model.hosts import HostsMove
from recell.model.moving import Login
from recell.model.plan import dump_plan
from recell.planning.split import make_plan
from recell.steps import Context, bind
from tests.sim.cloud import layout
from tests.sim.database import CELL1
from tests.sim.desk import LIMITS
from tests.sim.hosts import LAYOUT, OLD_DB, CellsHost, CellsWorld, scan, split
from tests.sim.hosts_port import Cell, Row, SimCells
from tests.sim.world import SimUnit


class Indexed(SimCells):
    """Finds a host's rows without looking at all others."""

    def _mine(self, cell: Cell) -> dict[str, Row]:
        found = {}
        for host in self.move.hosts:
            for instance in INSTANCES[host]:
                if instance in cell.rows:
                    found[instance] = cell.rows[instance]
        return found


INSTANCES: dict[str, list[str]] = {}


class Calm(CellsWorld):
    def observe(self) -> None:
        return None

    def started(self, name: str, unit: SimUnit) -> None:
        return None

    def between(self, move: HostsMove, ours: Login) -> SimCells:
        return Indexed(self, move, ours)


def cloud(hosts: int, guests: int) -> tuple[Calm, Deployment]:
    world = split()
    found = scan(world)
    world.__class__ = Calm
    assert isinstance(world, Calm)
    facts, service = found.host("cmp2"), next(s for s in found.role("compute") if s.host == "cmp2")
    record = next(r for r in found.records if r.host == "cmp2")
    names = [f"x{n:05}" for n in range(hosts)]
    INSTANCES.update({h: [i for i, g in world.guest_of.items() if g == h] for h in ("cmp1", "cmp2")})
    for name in names:
        model = world.hosts["cmp2"]
        host = world.hosts[name] = CellsHost(world, name)
        host.files = {p: replace(f) for p, f in model.files.items()}
        host.units_ = {u: replace(unit, config=dict(unit.config)) for u, unit in model.units_.items()}
        world.homes[name] = CELL1
        world.cells[OLD_DB].services[name] = False
        INSTANCES[name] = [f"{name}-{g}" for g in range(guests)]
        for instance in INSTANCES[name]:
            world.guest_of[instance] = name
            world.cells[OLD_DB].rows[instance] = Row()
            world.mapped[instance] = CELL1
    return world, replace(
        found,
        hosts=(*found.hosts, *(replace(facts, name=n, hostname=n) for n in names)),
        services=(*found.services, *(replace(service, host=n, nova_host=n) for n in names)),
        records=(*found.records, *(replace(record, id=100 + i, host=n) for i, n in enumerate(names))),
    )


def main(hosts: int = 1000, guests: int = 50) -> None:
    world, deployment = cloud(hosts, guests)
    began = time.process_time()
    plan = make_plan(deployment, layout(LAYOUT.replace("[cmp2]", '["*"]')), 0.0)
    data = dump_plan(plan)
    planned = time.process_time() - began
    print(
        f"{hosts} hosts, {len(world.guest_of)} instances: planned in {planned:.1f} s of CPU,"
        f" {len(plan.steps)} steps, {len(data) / 1e6:.1f} MB"
    )
    with tempfile.TemporaryDirectory() as top:
        path = Path(top) / "journal.sqlite"
        journal = Journal.create(path, plan.digest)
        context = Context(world, journal, plan.id, plan.fingerprints, LIMITS)
        began = time.process_time()
        with journal.writing("forward", "forward"):
            Engine(bind(plan, context), journal, wait=world.wait, clock=world.clock).forward()
        ran = time.process_time() - began
        journal.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"run in {ran:.1f} s of CPU, {1000 * ran / len(plan.steps):.1f} ms a step; {memory:.0f} MiB")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
