"""A service has the time that the layout gives it: no step takes it for failed before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recell.planning.split import plan_split
from tests.sim import desk as desk_module
from tests.sim import hosts, test_hosts, test_v1, v1_child_world, v1_world
from tests.sim.cloud import MOVE, REMOVE, build, layout, scan
from tests.sim.desk import LIMITS
from tests.sim.desk import desks as desks
from tests.sim.rabbit_nova import TEXT, build_nova
from tests.sim.test_rabbit_nova import SPLIT, planned
from tests.sim.world import SimHost, SimWorld

START_S, STOP_S = 1800.0, 700.0
Begun = tuple[SimWorld, Any]


def _cells(text: str) -> Begun:
    world = build()
    return world, plan_split(scan(world), layout(text), 0.0)


def _rabbit(text: str) -> Begun:
    world = build_nova(own_cookie=text != SPLIT)
    return world, planned(world, text)


def _hosts() -> Begun:
    world = test_hosts.fresh()
    return world, hosts.plan(world)


def _v1() -> Begun:
    world = test_v1.fresh()
    return world, v1_world.plan(world)


def _child() -> Begun:
    world = v1_child_world.fresh()
    return world, v1_child_world.plan(world)


KINDS: dict[str, Callable[[], Begun]] = {
    "split, no API database": lambda: _cells(REMOVE),
    "database": lambda: _cells(MOVE),
    "rabbitmq": lambda: _rabbit(TEXT),
    "rabbitmq, split": lambda: _rabbit(SPLIT),
    "hosts": _hosts,
    "cells v1": _v1,
    "a child": _child,
}


@pytest.mark.parametrize("kind", KINDS)
def test_systemctl_waits_for_a_start_as_long_as_the_layout_says(
    desks: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, plan = KINDS[kind]()
    begun: list[tuple[str, str]] = []
    systemctl = SimHost.systemctl

    def timed(host: SimHost, verb: str, unit: str = "", *, timeout: float = 180) -> None:
        if verb in ("start", "restart") and not unit.startswith("recell-"):
            begun.append((verb, unit))
            assert timeout == {"start": START_S, "restart": STOP_S + START_S}[verb], f"{verb} {unit}"
        systemctl(host, verb, unit, timeout=timeout)

    monkeypatch.setattr(SimHost, "systemctl", timed)
    monkeypatch.setattr(desk_module, "LIMITS", {**LIMITS, "start_s": START_S, "stop_s": STOP_S})
    desk = desks(world, plan)
    for way in ("forward", "backward"):
        desk.go(way)
        assert begun
        begun.clear()
