"""A nova-compute is restarted for its configuration, and nothing that is asked of its instances is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recell.errors import Denied
from recell.planning.split import plan_split
from recell.preflight.check import check
from tests.sim.cloud import REMOVE, build, layout, scan
from tests.sim.desk import Desk
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS, killed_everywhere, whole
from tests.sim.rabbit_nova import INIT_S, SERVES_S, BusyNova
from tests.sim.rehearsing import observed
from tests.sim.room import SimRoom
from tests.sim.test_rabbit_nova import but_for_forgotten, in_moves_of_computes
from tests.sim.world import SimHost, SimUnit, SimWorld


class RecyclingWorld(SimWorld):
    """Users ask for a reboot on each host at its nova-compute's "end" or "start"."""

    def __init__(self) -> None:
        super().__init__()
        self.database = self.nova_ = BusyNova(self)
        self.rebooting = ""
        self.asked: set[str] = set()
        self.looked: set[int] = set()
        self.begun: Counter[str] = Counter()

    def ask(self, host: str, when: str) -> None:
        if self.rebooting == when and host not in self.nova_.tasks:
            self.asked.add(host)
            self.nova_.tasks[host] = "rebooting"

    def serves(self, client: str) -> bool:
        unit = self.hosts[client].units_["nova-compute"]
        return self.time >= unit.started_at + SERVES_S + self.slow.get(client, 0)

    def observe(self) -> None:
        super().observe()
        for host in sorted(self.asked):
            unit = self.hosts[host].units_["nova-compute"]
            if not unit.active:
                continue
            task = self.nova_.tasks[host]
            looks = self.time >= unit.started_at + INIT_S + self.slow.get(host, 0)
            if looks and unit.pid not in self.looked:
                self.looked.add(unit.pid)
                if task == "rebooting":
                    self._complain(f"nova-compute on {host} forgets a reboot")
            if host in self.rooms or not self.serves(host):
                continue
            self.asked.remove(host)
            if task == "rebooting":
                del self.nova_.tasks[host]
                self.nova_.served += 1
            else:  # Nova leaves a task alone that it did not expect
                self._complain(f"nova-compute on {host} forgets a reboot, for its task is {task}")
                self.nova_.failed[host] += 1

    def stop_rpc_server(self, host: str, unit: str, *more: Any, **words: Any) -> float:
        held = super().stop_rpc_server(host, unit, *more, **words)
        if unit == "nova-compute":
            self.ask(host, "end")
        return held


class RecyclingHost(SimHost):
    world: RecyclingWorld

    def begin(self, unit: SimUnit) -> None:
        super().begin(unit)
        if unit.name == "nova-compute":
            self.world.begun[self.name] += 1
            self.world.ask(self.name, "start")


def cloud(asked: str = "", slow_s: float = 0.0) -> RecyclingWorld:
    world = build(make=RecyclingWorld, host_of=RecyclingHost)
    assert isinstance(world, RecyclingWorld)
    world.rebooting, world.slow = asked, {"cmp1": slow_s, "cmp2": slow_s}
    world.begun.clear()
    return world


def removing(desks: Any) -> Callable[[SimWorld], Desk]:
    def sit(world: SimWorld) -> Desk:
        desk: Desk = desks(world, plan_split(scan(world), layout(REMOVE), 0.0))
        return desk

    return sit


@pytest.mark.parametrize("slow_s", [0, 20])
@pytest.mark.parametrize("asked", ["end", "start"])
def test_what_is_asked_while_a_compute_restarts_happens_afterwards(
    desks: Any, asked: str, slow_s: float
) -> None:
    world = cloud(asked, slow_s)
    before = world.picture()
    desk = removing(desks)(world)
    for served, way in ((2, "forward"), (4, "backward")):
        desk.go(way)
        assert world.complaints == [] and world.nova_.tasks == {} and not world.asked and not world.rooms
        assert world.nova_.served == served == world.begun.total(), "each is restarted once"
    assert world.picture() == before


@pytest.mark.parametrize(("first", "then"), WAYS)
@pytest.mark.parametrize("asked", ["end", "start"])
@pytest.mark.parametrize("later_s", [0, 20])
def test_killed_anywhere_one_reboot_at_most_is_forgotten(
    desks: Any, asked: str, first: list[str], then: str, later_s: int
) -> None:
    """With recell its room ends, and Nova does what it does at every restart; no instance keeps a task."""
    def passes(world: RecyclingWorld) -> None:
        world.killed = False
        for _ in range(later_s):
            world.wait(1.0)

    points = killed_everywhere(
        lambda: cloud(asked),
        removing(desks),
        whole,
        first,
        then,
        wrong=but_for_forgotten(1),
        meanwhile=passes,
        within=in_moves_of_computes,
    )
    assert points > 30


def test_check_and_an_observation_enter_the_rooms_and_hold_nothing(
    desks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = cloud()
    plan = removing(desks)(world).plan
    said = observed(world, plan, tmp_path)
    assert [s.partition(",")[0] for s in said if "hold what" in s] == [
        f"hold what is sent to compute-alt.cmp{n}" for n in (1, 2)
    ]
    assert not world.rooms

    def refuse(room: SimRoom) -> SimRoom:
        raise Denied(f"sshd on {room.host} does not forward connections", "Set AllowTcpForwarding yes there")

    monkeypatch.setattr(SimRoom, "__enter__", refuse)
    for name in ("mq1", "mq2", "mq4", "lb1"):
        world.hosts[name] = SimHost(world, name)
    found = check(scan(world), layout(REMOVE), world, plan)
    stops = {v.id for v in found if v.severity == "stop" and v.id.startswith("room:")}
    assert stops == {"room:cmp1", "room:cmp2"}
