"""Hosts move to another cell, in the simulated world: there, back, killed everywhere, undone everywhere."""

from __future__ import annotations

import copy
import functools
import itertools
from pathlib import Path
from typing import Any

import pytest

from recell.errors import StepFailed, Unknowable
from recell.journal import Journal
from recell.report.hosts import told_of_hosts
from recell.steps.compute import TASKS
from tests.sim.database import CELL1
from tests.sim.desk import desks as desks
from tests.sim.hosts import LAYOUT, CellsWorld, plan, split
from tests.sim.hosts_port import SimCells
from tests.sim.killing import WAYS, killed_everywhere, whole
from tests.sim.rehearsing import by_hand, observed


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


def wrong(world: CellsWorld) -> list[object]:
    at_rest(world)
    return [*world.complaints, *world.lost()]


def well(world: CellsWorld) -> bool:
    assert wrong(world) == []
    return True


def told(desk: Any) -> tuple[str, ...]:
    journal = Journal.open(desk.path, read_only=True)
    try:
        return told_of_hosts(desk.plan, journal)
    finally:
        journal.close()


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
    assert told(desk)[0].startswith("wave1 was taken back by itself: nova-compute on cmp2 does not serve in")
    desk.go("forward")
    assert well(world)
    assert len(set(world.homes.values())) == 2
    assert told(desk)[0].startswith("wave1 was taken back once, and has moved since: ")


def test_a_host_that_does_not_come_to_rest_is_left_out_and_named(desks: Any) -> None:
    text = LAYOUT.replace("[cmp2]", "[cmp1, cmp2]") + "moving: {wave: 2, max_failures: 1}\n"
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world, text))
    world.restless.add("cmp1")
    desk.go("forward")
    assert well(world)
    assert len(set(world.homes.values())) == 2 and world.homes["cmp1"] == CELL1
    assert not world.cells["nova"].services["cmp1"], "builds may go there"
    journal = Journal.open(desk.path, read_only=True)
    assert journal.recall("hosts", "left-out") == ["cmp1"]
    journal.close()
    assert told(desk)[0] == "Left out, and in their cell as before: cmp1."
    desk.go("backward")
    assert well(world)
    now = world.picture()
    assert now["mapped"] == before["mapped"] and now["cells"] == before["cells"]


def test_a_host_that_is_mapped_elsewhere_is_not_taken_for_moved(desks: Any) -> None:
    """Its service is in cell1, and the API database has it in cell2: nothing is closed, nothing ended."""
    world = fresh()
    desk = desks(world, plan(world))
    cell2 = next(s for s in desk.plan.steps if s.kind == "new-mapping").params["cell"]
    world.homes["cmp2"] = cell2
    with pytest.raises(Unknowable, match="cmp2 are mapped to cell2"):
        desk.go("forward")
    assert world.cells["nova"].services["cmp2"] is False
    assert world.compute_of("cmp2")[0].active


def test_another_writer_in_the_new_cell_stops_it_while_nova_compute_runs_yet(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))

    def noticed(self: SimCells, toward: str, limit_s: float) -> float:
        raise Unknowable("another writer than recell changed instances id=7", "Find and stop that writer")

    with monkeypatch.context() as written:
        written.setattr(SimCells, "catch_up", noticed)
        with pytest.raises(Unknowable, match="another writer"):
            desk.go("forward")
    compute, _ = world.compute_of("cmp2")
    assert compute.active and set(world.homes.values()) == {CELL1}
    desk.go("backward")
    assert well(world)


def test_who_is_ended_first_is_up_while_the_others_come_to_rest(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cmp2 has a task for a while when cmp1 is ended already: nova-api would take cmp1 for dead."""
    world = fresh()
    desk = desks(world, plan(world, LAYOUT.replace("[cmp2]", "[cmp1, cmp2]") + "\nmoving: {wave: 2}\n"))
    asked: list[float] = []
    beats: list[float] = []

    def query(cell: str, sql: str, args: Any = ()) -> tuple[dict[str, Any], ...]:
        if sql == TASKS and args[0] == "cmp2":
            asked.append(world.time)
            return ({"what": "cmp2-0"},) if world.time < asked[0] + 15 else ()
        return ()

    monkeypatch.setattr(world.database, "query", query)
    monkeypatch.setattr(SimCells, "alive", lambda self, side: beats.append(self.world.time))
    desk.go("forward")
    while_waiting = [asked[0], *(b for b in beats if asked[0] < b < asked[-1]), asked[-1]]
    assert asked[-1] - asked[0] >= 15
    assert max(b - a for a, b in itertools.pairwise(while_waiting)) < 10


def test_more_hosts_left_out_than_allowed_stop_the_run(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.restless.add("cmp2")
    with pytest.raises(StepFailed, match="cmp2: a migration"):
        desk.go("forward")
    assert well(world)
    assert world.cells["nova"].services == {"cmp1": False, "cmp2": False}


def test_attempts_that_find_no_moment_let_everybody_go(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.busy_moments = 3
    desk.go("forward")
    assert well(world) and len(set(world.homes.values())) == 2
    journal = Journal.open(desk.path, read_only=True)
    assert 0 < journal.recall("wave1/flip", "held-forward") < 2
    assert journal.recall("wave1/flip", "requests") > 0
    kept = {(step, key): value for (step, key), value in journal.facts().items() if "held" in key}
    assert {step for step, key in kept if key == "held-forward"} == {"wave1/flip"}
    assert {value for (_, key), value in kept.items() if key == "deliveries-held-forward"} == {0.5}
    journal.close()


def test_late_writers_are_brought_over_or_counted(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    journal = Journal.open(desk.path, read_only=True)
    late = journal.recall("wave1", "late")
    journal.close()
    assert late["carried"] > 1 and late["lost"] == []
    assert f"{late['carried']} rows were brought over" in told(desk)[-1]


def test_without_a_grace_late_writers_find_nothing(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world, LAYOUT + "moving: {grace_s: 0}\n"))
    desk.go("forward")
    at_rest(world)
    world.wait(30)
    assert any("is not in the cell that a request found it in" in c for c in world.complaints)


def test_both_hosts_one_after_the_other_and_together(desks: Any) -> None:
    for size in (1, 2):
        world = fresh()
        before = world.picture()
        text = LAYOUT.replace("[cmp2]", '["cmp*"]') + f"moving: {{wave: {size}}}\n"
        desk = desks(world, plan(world, text))
        desk.go("forward")
        assert well(world)
        assert not world.cells["nova"].rows and set(world.homes) == {"cmp1", "cmp2"}
        desk.go("backward")
        assert well(world)
        for key, value in world.picture().items():
            assert value == before[key], key


def test_it_can_be_done_by_hand_and_rehearsed(desks: Any, tmp_path: Path) -> None:
    world = fresh()
    made = plan(world)
    by_hand(made)
    would = observed(world, made, tmp_path)
    assert {"map the cell cell2", "copy the rows of cmp2 and follow their changes"} <= set(would)


def _while_away(world: CellsWorld) -> None:
    world.reborn()  # what a dead process held is let go at once
    world.wait(1)


def _killed(desks: Any, first: list[str], then: str, start: int) -> None:
    killed_everywhere(
        fresh,
        lambda world: desks(world, plan(world)),
        whole,
        first,
        then,
        11,
        start,
        wrong=wrong,
        meanwhile=_while_away,
    )


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _killed(desks, first, then, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS)
@pytest.mark.parametrize("start", range(11))
def test_killed_anywhere(desks: Any, first: list[str], then: str, start: int) -> None:
    _killed(desks, first, then, start)
