"""Computes and agents move to another RabbitMQ several at a time, in the simulated world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from recell.cli import moving
from recell.errors import Paused, StepFailed
from recell.journal import Journal
from recell.model.plan import Plan
from recell.planning.rabbit import plan_rabbit
from tests.sim.desk import LIMITS, Desk
from tests.sim.killing import WAYS, killed_again_and_again, killed_everywhere
from tests.sim.rabbit import HOSTS, RabbitWorld
from tests.sim.rabbit_nova import CLIENTS, TEXT, NovaRabbitWorld, build_nova, scan_nova
from tests.sim.test_bridge import scan_fresh
from tests.sim.test_rabbit import build, layout
from tests.sim.test_rabbit import desks as desks
from tests.sim.test_rabbit_nova import (
    LONG_S,
    SPLIT,
    _unplaced,
    but_for_forgotten,
    in_moves_of_computes,
    starting_long,
)

COMPUTES = ("cmp1", "cmp2", "cmp3", "cmp4", "cmp5")
MANY = {**CLIENTS, **{name: ("nova-compute", f"compute.{name}") for name in COMPUTES}}
WAVES = "moving: {wave: 3}\n"
LAYOUTS = {"fresh": TEXT + WAVES, "split": SPLIT + WAVES}
SLOW = {"cmp1": 4.0, "cmp3": 9.0, "cmp5": 2.0}
"""Guests on a host make its nova-compute's start longer, so hosts of a wave are up one after another."""


def world_of(name: str = "fresh", *, rebooting: str = "") -> NovaRabbitWorld:
    world = build_nova(own_cookie=name != "split", clients=MANY)
    world.slow, world.rebooting = dict(SLOW), rebooting
    return world


def planned(world: NovaRabbitWorld, name: str = "fresh") -> Plan:
    return plan_rabbit(scan_nova(world), layout(LAYOUTS[name]), 0.0)


def desk_of(desks: Any, world: NovaRabbitWorld, name: str = "fresh") -> Desk:
    desk: Desk = desks(world, planned(world, name))
    return desk


@pytest.mark.parametrize("name", LAYOUTS)
def test_there_and_back_in_waves_nobody_notices(desks: Any, name: str) -> None:
    world = world_of(name, rebooting="end")
    before = _unplaced(world.picture())
    desk = desk_of(desks, world, name)
    desk.go("forward")
    assert world.complaints == [] and dict(world.begun) == dict.fromkeys(COMPUTES, 1)
    # Three hosts, who keeps them up for Nova, and who looks after the bridge where one is.
    assert world.abreast.most == (4 if name == "split" else 5)
    assert all("mq4" in world.node_of(c, "nova-compute") for c in COMPUTES)
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert world.complaints == [] and dict(world.begun) == dict.fromkeys(COMPUTES, 2)
    after = _unplaced(world.picture())
    if name == "split":  # two clusters stay two
        after["nodes"], after["files"] = before["nodes"], before["files"]
    assert after == before


def _wrong(turns: int, bridged: bool) -> Any:
    """What users suffer, and hosts that were restarted without need."""

    def told(world: NovaRabbitWorld) -> list[str]:
        again = [f"{host} began {n} times" for host, n in world.begun.items() if n > turns]
        # Without a bridge, of a wave that is killed each host may forget what it was asked just then.
        return [*again, *but_for_forgotten(0 if bridged else 3)(world)]

    return told


EVERY = [
    *(
        pytest.param(name, 1, asked, marks=pytest.mark.thorough, id=f"{name}, everywhere{asked}")
        for name, asked in (("fresh", "end"), ("fresh", "start"), ("split", "end"), ("split", "start"))
    ),
    pytest.param("fresh", 11, "end", id="fresh"),
    pytest.param("fresh", 23, "start", id="fresh, asked when it starts"),
    pytest.param("split", 11, "end", id="split"),
    pytest.param("split", 23, "start", id="split, asked when it starts"),
]


@pytest.mark.parametrize(("name", "every", "asked"), EVERY)
@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_anywhere_in_a_wave_no_host_is_restarted_twice(
    desks: Any, name: str, every: int, asked: str, first: Sequence[str], then: str
) -> None:
    points = killed_everywhere(
        lambda: world_of(name, rebooting=asked),
        lambda world: desk_of(desks, world, name),
        _unplaced,
        first,
        then,
        every,
        wrong=_wrong(1 if then == "forward" else 2, name != "split"),
        within=in_moves_of_computes,
    )
    assert points > 40


LONG = [
    *(pytest.param(name, 1, marks=pytest.mark.thorough, id=f"{name}, everywhere") for name in LAYOUTS),
    pytest.param("fresh", 67, id="fresh"),
]


@pytest.mark.parametrize(("name", "every"), LONG)
@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_in_a_wave_that_takes_long_to_start_others_are_reached(
    desks: Any, monkeypatch: pytest.MonkeyPatch, name: str, every: int, first: Sequence[str], then: str
) -> None:
    def begun() -> NovaRabbitWorld:
        world = starting_long(world_of(name, rebooting="start"), monkeypatch)
        world.down_s = 4 * LONG_S  # who had begun in another wave is kept up by nobody when recell has died
        return world

    killed_everywhere(
        begun,
        lambda world: desk_of(desks, world, name),
        _unplaced,
        first,
        then,
        every,
        start=every // 3,
        wrong=_wrong(1 if then == "forward" else 2, name != "split"),
        within=in_moves_of_computes,
    )


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(s, marks=pytest.mark.thorough) for s in range(3, 60))]
)
def test_killed_again_and_again_in_waves(desks: Any, seed: int) -> None:
    killed_again_and_again(
        lambda: world_of(rebooting="end"), lambda world: desk_of(desks, world), _unplaced, seed
    )


def test_one_that_does_not_come_back_stops_the_wave_in_a_sentence(desks: Any) -> None:
    world = world_of()
    desk = desk_of(desks, world)
    world.slow["cmp2"] = 10_000.0
    world.asks["cmp2"] = "nobody"  # it asks, and is never answered
    with pytest.raises(StepFailed) as failed:
        desk.go("forward")
    assert "nova-compute on cmp2: nova-compute does not take from compute.cmp2 yet" in str(failed.value)
    assert "(2 of the 3 of wave1 have moved)" in str(failed.value)
    assert "journalctl -u nova-compute there, then: recell resume, or recell undo" in str(failed.value)
    told = {c.partition(" ")[2] for c in world.complaints}
    late = {c for c in told if "compute.cmp2 came too late" in c}
    assert told - late == {"nova-compute on cmp2 counts as down"}, "it is, and nobody else suffers"
    kept = world.nova_.kept_up["cmp2"] - world.hosts["cmp2"].units_["nova-compute"].started_at
    assert kept <= LIMITS["start_s"], "recell does not hide it for longer than it waits"
    assert world.begun == {"cmp1": 1, "cmp2": 1, "cmp3": 1}, "wave2 has not begun"
    world.complaints.clear()
    world.slow["cmp2"], world.asks["cmp2"] = 0.0, "conductor"
    desk.go("forward")
    assert world.complaints == [] and world.begun == dict.fromkeys(COMPUTES, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_who_takes_long_to_start_stays_up_for_nova_and_who_was_down_stays_down(desks: Any, name: str) -> None:
    world = world_of(name)
    world.slow = dict.fromkeys(("cmp2", "cmp3"), 15.0)
    world.down_s = 12.0
    desk = desk_of(desks, world, name)
    world.nova_.seen["cmp3"] = world.time - 100
    world.hung.add(world.hosts["cmp3"].units_["nova-compute"].pid)
    desk.go("forward")
    assert {c.partition(" ")[2] for c in world.complaints} == {"nova-compute on cmp3 counts as down"}
    assert {"cmp2"} <= set(world.nova_.kept_up) <= set(COMPUTES) - {"cmp3"}
    world.complaints.clear()
    desk.go("backward")
    assert world.complaints == [], "cmp3 is up by now, and is kept so"


def test_one_that_is_never_quiet_keeps_nobody_else(desks: Any) -> None:
    world = world_of()
    desk = desk_of(desks, world)
    world.nova_.busy_hosts.add("cmp1")
    told = r"cmp1 is never without a task: a guest of cmp1 \(2 of the 3 of wave1 have moved"
    with pytest.raises(StepFailed, match=told):
        desk.go("forward")
    assert world.begun == {"cmp2": 1, "cmp3": 1}, "it was not touched"
    world.nova_.busy_hosts.clear()
    desk.go("forward")
    assert world.complaints == [] and world.begun == dict.fromkeys(COMPUTES, 1)


def test_after_so_many_waves_it_stops(desks: Any) -> None:
    world = world_of()
    desk = desk_of(desks, world)
    assert moving.words(desk.plan, {"waves": 1, "window": None}) == {"waves": 1}
    desk.pause_before = moving.pauses(desk.plan, None, 1)
    with pytest.raises(Paused):
        desk.go("forward")
    assert set(world.begun) == {"cmp1", "cmp2", "cmp3"}
    journal = Journal.open(desk.path, read_only=True)
    assert moving.pauses(desk.plan, journal, 1) == ()
    journal.close()


AGENTS = {
    "ctl1": ("nova-conductor", "conductor"),
    "net1": ("neutron-server", "q-plugin"),
    **{f"net{n}": ("neutron-l3-agent", f"l3_agent.net{n}") for n in range(4, 8)},
}
AGENTS_TEXT = """
rabbitmq:
  method: fresh
  keep: {hosts: [mq1, mq2, mq3]}
  new: {hosts: [mq4, mq5, mq6], clients: ["neutron-*@*"]}
moving: {wave: 4}
"""


def agents() -> RabbitWorld:
    world = build("classic", clients=AGENTS)
    for host, side in HOSTS.items():
        world.nodes[host].cookie = b"OWNCOOKIE" if side == "new" else world.nodes[host].cookie
    world.asks = {name: "q-plugin" for name, (unit, _) in AGENTS.items() if unit == "neutron-l3-agent"}
    return world


@pytest.mark.parametrize("kill", [None, *range(2, 80, 13)])
def test_agents_of_neutron_move_together_and_are_answered(desks: Any, kill: int | None) -> None:
    """They move before the server that they ask, and each gets its answers while the others start, too."""
    world = agents()
    plan = plan_rabbit(scan_fresh(world), layout(AGENTS_TEXT), 0.0)
    assert [s.id for s in plan.steps if s.kind == "repoint-wave"] == [
        "wave1/neutron-l3-agent-back", "wave1/neutron-l3-agent",
    ]  # fmt: skip
    desk = desks(world, plan)
    if kill is not None:
        desk.die_in("wave1/neutron-l3-agent", kill)
    desk.go("forward")
    assert world.complaints == [] and all(world.serves(a) for a in AGENTS)
    desk.go("backward")
    assert world.complaints == [] and all(world.serves(a) for a in AGENTS)
