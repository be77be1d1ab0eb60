"""recell carries a Stein's requests over a bridge in the simulated world: no first question is in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from recell.model.plan import Plan
from recell.planning.rabbit import plan_rabbit
from tests.sim.desk import Desk
from tests.sim.killing import WAYS, killed_everywhere
from tests.sim.rabbit import HOSTS
from tests.sim.rabbit_nova import TEXT, NovaRabbitWorld, build_nova, scan_nova
from tests.sim.test_rabbit import desks as desks
from tests.sim.test_rabbit import layout
from tests.sim.test_rabbit_nova import SPLIT, _unplaced

LAYOUTS = {"fresh": TEXT, "split": SPLIT}


def build(name: str, unheeding: bool = True) -> NovaRabbitWorld:
    world = build_nova(own_cookie=name != "split")
    world.unheeding = unheeding
    return world


def stein_desk(desks: Any, world: NovaRabbitWorld, name: str, version: str = "19.3.2") -> Desk:
    plan: Plan = plan_rabbit(replace(scan_nova(world), nova_version=version), layout(LAYOUTS[name]), 0.0)
    desk: Desk = desks(world, plan)
    return desk


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_first_question_of_each_is_answered(desks: Any, name: str) -> None:
    world = build(name)
    desk = stein_desk(desks, world, name)
    told: list[str] = []
    desk.observer = lambda event: told.append(event.text)
    desk.go("forward")
    desk.go("backward")
    assert world.complaints == []
    assert any("; made " in text for text in told)
    for node in world.nodes.values():
        assert sorted(node.accounts) in ([], ["os"]) and not node.shovels
    left = {(HOSTS[n.host], "/", q) for n in world.nodes.values() for q in n.queues}
    assert world.ferry_.made() and not left & set(world.ferry_.made()), "they go with the bridge"


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_recell_some_are_not(desks: Any, name: str) -> None:
    world = build(name)
    desk = stein_desk(desks, world, name, "33.0.2")
    desk.go("forward")
    desk.go("backward")
    assert world.complaints and all("the answer to" in c for c in world.complaints)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_anywhere_it_keeps_to_the_shovels(
    desks: Any, name: str, first: Sequence[str], then: str
) -> None:
    """What is asked while nobody carries is lost, and not counted here."""
    killed_everywhere(
        lambda: build(name, unheeding=False),
        lambda world: stein_desk(desks, world, name),
        _unplaced,
        first,
        then,
        29,
    )
