"""What stops waves of hosts or lets them wait, in the simulated world."""

from __future__ import annotations

from typing import Any

import pytest

from recell.cli import moving
from recell.engine.run import Event
from recell.errors import BadInput, Paused, StepFailed
from recell.journal import OPERATOR, Journal
from recell.model.window import Window
from recell.planning.split import plan_split
from tests.sim.cloud import build, layout, scan
from tests.sim.database import CELL1
from tests.sim.desk import desks as desks
from tests.sim.hosts import LAYOUT, CellsWorld, plan
from tests.sim.test_hosts import fresh, well

BOTH = LAYOUT.replace("[cmp2]", '["cmp*"]')


def say(desk: Any, **words: Any) -> None:
    if not desk.path.exists():
        Journal.create(desk.path, desk.plan.digest).close()
    journal = Journal.open(desk.path)
    with journal.writing("apply", "forward"):
        journal.remember(OPERATOR, "moving", words)
    journal.close()


def moved(world: CellsWorld) -> set[str]:
    return {h for h, cell in world.homes.items() if cell != CELL1}


def test_errors_before_its_computes_are_touched_take_a_wave_back(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, LAYOUT + "moving: {abort: {api_errors: 4}}\n"))
    world.trouble = "verified"
    with pytest.raises(StepFailed, match=r"5 requests with errors \(5xx\) since wave1 began.*taken back"):
        desk.go("forward")
    assert well(world) and not moved(world)
    assert "cmp2 ended" not in world.changes
    assert world.cells["nova"].services == {"cmp1": False, "cmp2": False}, "builds may go there"
    journal = Journal.open(desk.path, read_only=True)
    assert "5 requests with errors" in journal.recall("wave1", "taken-back")
    journal.close()
    world.trouble = ""
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"}


def test_errors_after_a_wave_stop_the_next_one(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, BOTH + "moving: {abort: {api_errors: 4}}\n"))
    world.trouble = "carried"
    with pytest.raises(StepFailed, match="since wave1 began"):
        desk.go("forward")
    assert well(world) and moved(world) == {"cmp1"}, "whoever is there stays"
    world.trouble = ""
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp1", "cmp2"}


def test_as_many_errors_as_allowed_stop_nothing(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, LAYOUT + "moving: {abort: {api_errors: 4}}\n"))
    say(desk, api_errors=10)
    world.trouble = "verified"
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"}


def test_a_proxy_that_counts_anew_is_understood(desks: Any) -> None:
    world = fresh()
    world.api_errors = 1000
    made = plan(world, LAYOUT + "moving: {abort: {api_errors: 4}}\n")
    desk = desks(world, made)
    world.trouble = "verified"

    def point(what: str) -> None:
        if what == "copied":
            world.api_errors = 0
        type(world).point(world, what)

    world.point = point  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="answered 5 requests"):
        desk.go("forward")


def test_queues_that_stay_deep_stop_a_wave(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, LAYOUT + "moving: {abort: {queue_depth: 100}}\n"))
    world.brokers["mq4"].depth = 101
    with pytest.raises(StepFailed, match=r"more than 100 messages .*conductor on mq4 \(101\)"):
        desk.go("forward")
    assert well(world) and not moved(world)
    world.brokers["mq4"].depth = 100
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"}


def test_a_wave_waits_for_its_window(desks: Any) -> None:
    world = fresh()
    window = Window.parse("22:00-05:00")
    assert window.waits(world.time, 60) > 3600
    desk = desks(world, plan(world, LAYOUT + "moving: {window: 22:00-05:00}\n"))
    told: list[Event] = []
    desk.observer = told.append
    began = world.time
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"}
    assert window.waits(world.time, 0) == 0 and world.time - began > 3600
    waits = [e.text for e in told if e.kind == "acting" and e.step.id == "wave1/begin"]
    assert len(waits) == 1 and "goes on at 22:00 UTC on" in waits[0]


def test_the_operators_window_counts(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, LAYOUT + "moving: {window: 22:00-05:00}\n"))
    say(desk, window="")
    began = world.time
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"} and world.time - began < 3600


def test_a_window_that_no_wave_fits_into_is_refused(desks: Any) -> None:
    world = fresh()
    with pytest.raises(BadInput, match="moving: window has 1"):
        plan(world, LAYOUT + "moving: {window: 22:00-22:01}\n")
    made = plan(world)
    with pytest.raises(BadInput, match="the window has 1"):
        moving.words(made, {"window": "22:00-22:01"})
    assert moving.words(made, {"window": "always", "waves": None}) == {"window": ""}
    split_ = plan_split(scan(build()), layout(), 0.0)
    assert moving.words(split_, {"window": None, "waves": None}) == {}
    with pytest.raises(BadInput, match="--max-failures is about waves of hosts"):
        moving.words(split_, {"max_failures": 1})


def test_the_operator_may_let_more_hosts_be_left_out(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, BOTH))
    world.restless.add("cmp1")
    say(desk, max_failures=1)
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp2"}


def test_so_many_waves_and_no_more(desks: Any) -> None:
    world = fresh()
    made = plan(world, BOTH)
    desk = desks(world, made)
    assert moving.pauses(made, None, 1) == ("wave2/begin",)
    assert moving.pauses(made, None, 2) == () and moving.pauses(made, None, None) == ()
    desk.pause_before = moving.pauses(made, None, 1)
    with pytest.raises(Paused, match="wave2/begin"):
        desk.go("forward")
    assert well(world) and moved(world) == {"cmp1"}
    journal = Journal.open(desk.path, read_only=True)
    assert moving.pauses(made, journal, 1) == ()
    journal.close()
    desk.pause_before = ()
    desk.go("forward")
    assert well(world) and moved(world) == {"cmp1", "cmp2"}
