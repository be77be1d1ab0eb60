"""The guest that goes along with the first host, in the simulated world."""

from __future__ import annotations

from typing import Any

import pytest

from recell.errors import BadInput, StepFailed
from tests.sim.database import CELL1
from tests.sim.desk import desks as desks
from tests.sim.hosts import LAYOUT, CellsWorld, plan
from tests.sim.hosts_port import CANARY
from tests.sim.rehearsing import rehearsed
from tests.sim.test_hosts import at_rest, fresh, well
from tests.sim.world import Killed

TEXT = (
    LAYOUT.replace("[cmp2]", '["cmp*"]')
    + """moving:
  canary: cmp2
  canary_guest: {cloud: admin, flavor: m1.tiny, image: guest}
"""
)


def moved(world: CellsWorld) -> set[str]:
    return {h for h, cell in world.homes.items() if cell != CELL1}


def test_it_is_born_before_and_obeys_after(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world, TEXT))
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp1", "cmp2"}
    new = world.homes["cmp2"]
    assert world.obeyed == [("boot", CELL1), ("stop", new), ("start", new), ("reboot", new), ("delete", new)]
    assert CANARY not in world.guest_of
    desk.go("backward")
    assert well(world)
    for key, value in world.picture().items():
        assert value == before[key], key
    desk.go("forward")
    assert well(world) and world.obeyed[5:] == world.obeyed[:5]


def test_one_that_is_not_born_stops_before_anything_moves(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world, TEXT))
    world.deaf.add("cmp2")
    with pytest.raises(StepFailed, match="is not deleted"):
        desk.go("forward")
    world.deaf.clear()
    desk.go("backward")
    assert well(world) and not moved(world)
    for key, value in world.picture().items():
        assert value == before[key], key


def test_one_that_does_not_obey_stops_the_next_wave(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world, TEXT))
    point = type(world).point

    def listens(what: str) -> None:
        if what == "flipped":
            world.deaf.add("cmp2")
        point(world, what)

    world.point = listens  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="does not stop: ACTIVE, stop after 60 s"):
        desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"}
    world.deaf.clear()
    del world.point
    desk.go("backward")
    assert well(world)
    for key, value in world.picture().items():
        assert value == before[key], key


def test_it_is_rehearsed(tmp_path: Any) -> None:
    world = fresh()
    before = world.picture()
    _, pretended = rehearsed(world, plan(world, TEXT), tmp_path)
    assert world.picture() == before
    would = {what for _, what in pretended.record.changes}
    assert any(w.startswith("boot the guest recell-canary-") for w in would)


def test_a_guest_needs_a_host() -> None:
    with pytest.raises(BadInput, match="canary_guest has no host"):
        plan(fresh(), TEXT.replace("  canary: cmp2\n", ""))


@pytest.mark.parametrize("then", ["forward", "backward"])
def test_killed_around_the_canary(desks: Any, then: str) -> None:
    """At each point that has to do with it."""
    world = fresh()
    before = world.picture()
    seen: list[int] = []
    point = type(world).point

    def watch(what: str) -> None:
        point(world, what)
        if "canary" in what:
            seen.append(world.points)

    world.point = watch  # type: ignore[method-assign]
    first = world.points
    desks(world, plan(world, TEXT)).go("forward")
    del world.point
    assert well(world) and len(seen) == 10
    want = world.picture()
    for number in seen:
        one = fresh()
        assert one.points == first
        desk = desks(one, plan(one, TEXT))
        one.kill_at = number
        with pytest.raises(Killed) as killed:
            desk.go("forward")
        one.reborn()
        one.wait(1)
        desk.go(then)
        at_rest(one)
        assert one.complaints == [] and one.lost() == set(), killed.value
        assert one.picture() == (want if then == "forward" else before), killed.value
