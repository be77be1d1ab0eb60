"""Whole conversions in the simulated world: undisturbed, killed everywhere, undone everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from recell.errors import StalePlan, Unreachable, VerifyFailed
from recell.model.plan import dump_plan, load_plan
from recell.planning.split import plan_split
from tests.sim.cloud import LAYOUT, REMOVE, build, layout, scan
from tests.sim.desk import Desk
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS, killed_everywhere, whole
from tests.sim.world import CELL1, SimFile, SimWorld


def test_the_plan_survives_its_file_and_refuses_an_edit() -> None:
    plan = plan_split(scan(build()), layout(), 0.0)
    data = dump_plan(plan)
    assert load_plan(data, "plan.json") == plan
    assert b"s3cret" not in data and b"dbpw" not in data
    with pytest.raises(StalePlan, match="edited"):
        load_plan(data.replace(b"mq4", b"mq9", 1), "plan.json")


@pytest.mark.parametrize("controllers", [2, 3])
@pytest.mark.parametrize("templated", [True, False])
def test_there_and_back_and_there_again(desks: Any, controllers: int, templated: bool) -> None:
    world = build(controllers, templated=templated)
    before = world.picture()
    desk = desks(world)
    desk.go("forward")
    assert world.complaints == []
    after = world.picture()
    assert world.database.services(CELL1) == tuple(
        r for r in world.database.services(CELL1) if r.binary != "nova-scheduler"
    )
    api = world.hosts["ctl1"].units_["nova-api"].config
    assert "mq4" in api["transport_url"] and api["connection"].endswith("nova_cell0?charset=utf8mb4")
    assert "mq1" in api["notify"]
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert world.complaints == []
    assert world.picture() == before
    desk.go("forward")
    assert world.complaints == []
    assert world.picture() == after


def test_undone_after_the_new_broker_died(desks: Any) -> None:
    world = build()
    before = world.picture()
    desk = desks(world)
    desk.go("forward")
    world.dead.add("mq4")
    with pytest.raises(Unreachable):
        desk.go("backward")
    desk.go("backward", "mq4")
    after = world.picture()
    assert after.pop("brokers")["mq4"] != before.pop("brokers")["mq4"], "its account could not be removed"
    assert after == before


def test_the_api_database_goes_in_the_right_order(desks: Any) -> None:
    world = build()
    before = world.picture()
    desk = desks(world, plan_split(scan(world), layout(REMOVE), 0.0))
    desk.go("forward")
    assert world.complaints == []
    configs = {(h.name, u.name): u.config for h in world.hosts.values() for u in h.units_.values()}
    assert configs["cmp1", "nova-compute"]["no_upcall"] == "true"
    assert not configs["ctl2", "nova-conductor"]["api"] and configs["ctl2", "nova-super-conductor"]["api"]
    desk.go("backward")
    assert world.complaints == [] and world.picture() == before


def test_a_conductor_that_restarts_at_any_time_stays_with_the_cell(desks: Any) -> None:
    world = build()
    desk = desks(world)
    desk.go("forward")
    for host in (world.hosts["ctl1"], world.hosts["ctl2"]):
        unit = host.units_["nova-conductor"]
        host.begin(unit)
        assert "mq1" in unit.config["transport_url"] and unit.config["connection"].endswith(
            "nova?charset=utf8mb4"
        )


def _killed(desks: Any, first: Sequence[str], then: str, text: str = LAYOUT, every: int = 1) -> None:
    def sit(world: SimWorld) -> Desk:
        desk: Desk = desks(world, plan_split(scan(world), layout(text), 0.0))
        return desk

    killed_everywhere(build, sit, whole, first, then, every)


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_anywhere(desks: Any, first: Sequence[str], then: str) -> None:
    _killed(desks, first, then)


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_anywhere_an_operators_drain_is_kept(desks: Any, first: Sequence[str], then: str) -> None:
    def drained() -> SimWorld:
        world = build(3)
        world.proxies["lb1"].set_state("nova-api", "ctl2", "drain")
        return world

    def sit(world: SimWorld) -> Desk:
        desk: Desk = desks(world)
        return desk

    def wrong(world: SimWorld) -> Sequence[object]:
        states = {s.server: s.state for s in world.proxies["lb1"].servers()}
        return [*world.complaints, *([] if states["ctl2"] == "DRAIN" else [states])]

    killed_everywhere(drained, sit, whole, first, then, every=3, wrong=wrong)


@pytest.mark.parametrize("then", ["forward", "backward"])
def test_killed_while_the_api_database_goes(desks: Any, then: str) -> None:
    _killed(desks, ["forward"], then, text=REMOVE, every=3)


def test_somebody_elses_change_stops_it(desks: Any) -> None:
    world = build()
    desk = desks(world)
    world.hosts["ctl2"].files["/etc/nova/nova.conf"].content += b"# puppet was here\n"
    with pytest.raises(StalePlan, match="ctl2"):
        desk.go("forward")


def test_a_finished_conversion_that_was_changed_is_noticed(desks: Any) -> None:
    world = build()
    desk = desks(world)
    desk.go("forward")
    old = world.hosts["ctl1"].files["/etc/nova/nova.conf"]
    world.hosts["ctl1"].files["/etc/nova/nova.conf"] = SimFile(
        b"[DEFAULT]\n", old.mode, old.owner, old.group, world.time
    )
    with pytest.raises((VerifyFailed, StalePlan)):
        desk.go("forward")
