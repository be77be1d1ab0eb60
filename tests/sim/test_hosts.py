"""Hosts move to another cell, in the simulated world: there, back, killed everywhere, undone everywhere."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

from recell.errors import StepFailed
from tests.sim.database import CELL1
from tests.sim.hosts import CellsWorld, plan, split
from tests.sim.test_split import desks as desks
from tests.sim.world import Killed


@functools.cache
def _split() -> CellsWorld:
    return split()


def fresh() -> CellsWorld:
    return copy.deepcopy(_split())


def at_rest(world: CellsWorld) -> CellsWorld:
    """A look a while later: what users asked for has been done."""
    world.wait(3)
    world.wait(3)
    return world


def well(world: CellsWorld) -> bool:
    at_rest(world)
    assert world.complaints == []
    assert world.lost() == set()
    return True


def test_there_and_back_and_there_again(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    after = world.picture()
    assert len(set(world.homes.values())) == 2
    assert not [i for i in world.cells["nova"].rows if i.startswith("cmp2")]
    assert len(world.users.done) > 100
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert well(world)
    for key, value in world.picture().items():
        assert value == before[key], key
    desk.go("forward")
    assert well(world)
    assert world.picture() == after


def test_a_compute_that_does_not_come_up_is_taken_back_by_itself(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.dead_in.add("mq5")
    with pytest.raises(StepFailed, match="wave1 was taken back"):
        desk.go("forward")
    assert well(world)
    assert set(world.homes.values()) == {CELL1} and not world.cells["nova_cell2"].rows
    assert world.cells["nova"].services == {"cmp1": False, "cmp2": False}
    world.dead_in.clear()
    desk.go("forward")
    assert well(world)
    assert len(set(world.homes.values())) == 2


def _matrix(desks: Any, first: list[str], then: str, start: int, every: int) -> None:
    """Kill the last of ``first`` at every so-many-th point, then go ``then``; the end must be as
    undisturbed, and no request lost."""
    world = fresh()
    calm = desks(world, plan(world))
    calm.go("forward")
    if then == "backward":
        calm.go("backward")
    assert well(world)
    want = world.picture()
    world = fresh()
    desk = desks(world, plan(world))
    for direction in first[:-1]:
        desk.go(direction)
    before = world.points
    desk.go(first[-1])
    for point in range(1 + start, world.points - before + 1, every):
        one = fresh()
        desk = desks(one, plan(one))
        for direction in first[:-1]:
            desk.go(direction)
        one.kill_at = one.points + point
        with pytest.raises(Killed) as killed:
            desk.go(first[-1])
        one.wait(1)
        desk.go(then)
        at_rest(one)
        where = f"killed at {point}: {killed.value}"
        assert one.complaints == [] and one.lost() == set(), where
        assert one.picture() == want, where


WAYS = [(["forward"], "forward"), (["forward"], "backward"), (["forward", "backward"], "backward")]


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _matrix(desks, first, then, 0, 11)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS)
@pytest.mark.parametrize("start", range(11))
def test_killed_anywhere(desks: Any, first: list[str], then: str, start: int) -> None:
    _matrix(desks, first, then, start, 11)
