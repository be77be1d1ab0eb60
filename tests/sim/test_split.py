"""Whole conversions in the simulated world: undisturbed, killed everywhere, undone everywhere."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recell.engine import Engine
from recell.engine.run import Observer
from recell.errors import StalePlan, Unreachable, VerifyFailed
from recell.journal import Journal
from recell.model.plan import Plan, dump_plan, load_plan
from recell.planning.split import plan_split
from recell.steps import Context, bind
from tests.sim.cloud import LAYOUT, REMOVE, build, layout, scan
from tests.sim.world import CELL1, Killed, SimFile, SimWorld

LIMITS = {"drain_s": 60.0, "quiet_s": 60.0, "stop_s": 60.0, "start_s": 60.0}


class DyingJournal(Journal):
    """Dies around what it writes, too: before "started", and between "acted" and "wrote it"."""

    world: SimWorld

    def append(self, *args: Any, **detail: Any) -> None:
        self.world.point("before the journal")
        super().append(*args, **detail)
        self.world.point("after the journal")


class Desk:
    """An operator with a plan and a journal, who can be killed and sit down again."""

    def __init__(self, world: SimWorld, directory: Path, plan: Plan | None = None) -> None:
        self.world = world
        self.plan = plan or plan_split(scan(world), layout(), 0.0)
        self.path = directory / "journal.sqlite"
        self.pause_before: tuple[str, ...] = ()
        self.observer: Observer = lambda event: None

    def go(self, direction: str, *lost: str) -> None:
        self.world.reborn()
        if not self.path.exists():
            Journal.create(self.path, self.plan.digest).close()
        journal = DyingJournal.open(self.path)
        assert isinstance(journal, DyingJournal)
        journal.world = self.world
        journal._db.execute("PRAGMA synchronous = OFF")  # this test kills recell, not the machine
        context = Context(self.world, journal, self.plan.id, self.plan.fingerprints, LIMITS, frozenset(lost))
        engine = Engine(
            bind(self.plan, context),
            journal,
            observer=self.observer,
            pause_before=self.pause_before,
            wait=self.world.wait,
            clock=self.world.clock,
        )
        try:
            with journal.writing(direction, direction):  # type: ignore[arg-type]
                engine.forward() if direction == "forward" else engine.backward()
        finally:
            journal.close()


@pytest.fixture
def desks() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as top:
        numbers = itertools.count()

        def make(world: SimWorld, plan: Plan | None = None) -> Desk:
            directory = Path(top) / str(next(numbers))
            directory.mkdir()
            return Desk(world, directory, plan)

        yield make


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


def _points(desks: Any, directions: list[str], text: str) -> int:
    world = build()
    desk = desks(world, plan_split(scan(world), layout(text), 0.0))
    for direction in directions[:-1]:
        desk.go(direction)
    before = world.points
    desk.go(directions[-1])
    return world.points - before


def _matrix(desks: Any, first: list[str], then: str, *, text: str = LAYOUT, every: int = 1) -> None:
    """Kill the last of ``first`` at every point, then go ``then``; the end must be as undisturbed."""
    undisturbed = build()
    calm = desks(undisturbed, plan_split(scan(undisturbed), layout(text), 0.0))
    calm.go("forward")
    if then == "backward":
        calm.go("backward")
    want = undisturbed.picture()
    for point in range(1, _points(desks, first, text) + 1, every):
        world = build()
        desk = desks(world, plan_split(scan(world), layout(text), 0.0))
        for direction in first[:-1]:
            desk.go(direction)
        world.kill_at = world.points + point
        with pytest.raises(Killed) as killed:
            desk.go(first[-1])
        desk.go(then)
        assert world.picture() == want, f"killed at {point}: {killed.value}"
        assert world.complaints == [], f"killed at {point}: {killed.value}"


def test_killed_anywhere_then_resumed(desks: Any) -> None:
    _matrix(desks, ["forward"], "forward")


def test_killed_anywhere_then_undone(desks: Any) -> None:
    _matrix(desks, ["forward"], "backward")


def test_undo_killed_anywhere_then_undone(desks: Any) -> None:
    _matrix(desks, ["forward", "backward"], "backward")


@pytest.mark.parametrize("then", ["forward", "backward"])
def test_killed_while_the_api_database_goes(desks: Any, then: str) -> None:
    _matrix(desks, ["forward"], then, text=REMOVE, every=3)


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
