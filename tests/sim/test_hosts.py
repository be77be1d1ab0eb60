"""Hosts move to another cell, in the simulated world: there, back, killed everywhere, undone everywhere."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

from recell.errors import StepFailed
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
