"""A tree of cells v1 becomes cells v2, simulated: there, back, killed everywhere, undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recell.errors import StepFailed, Unknowable, VerifyFailed
from recell.journal import Journal
from recell.model.plan import dump_plan
from recell.planning.v1_v2 import SWITCH
from recell.preflight.check import check
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS_AND_ON, killed_everywhere, whole
from tests.sim.rehearsing import by_hand, observed
from tests.sim.v1_hold import LEASE_S
from tests.sim.v1_v2_world import CELL0, CELL1, FAILED_THERE, NO_ROOM, TreeWorld, fresh, layout_of, plan, scan
from tests.sim.v1_world import Inst, passes, well, wrong


def led(world: TreeWorld) -> str:
    """``new``: to cells v1; ``old``: to cells v2."""
    return world.serving


def back(picture: dict[str, Any]) -> dict[str, Any]:
    """Without what undo leaves: mappings, and failed builds in cell0."""
    return {k: v for k, v in picture.items() if k != "v2"}


def stands(world: TreeWorld) -> dict[str, Any]:
    return back(world.picture())


def remembered(desk: Any, step: str, key: str) -> Any:
    journal = Journal.open(desk.path, read_only=True)
    try:
        return journal.recall(step, key)
    finally:
        journal.close()


def test_there_and_back_and_there_again(desks: Any) -> None:
    world = fresh()
    assert well(world) and led(world) == "new"
    before = stands(world)
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world) and led(world) == "old"
    after = world.picture()
    assert world.cell0 == {"failed-1", NO_ROOM} and not world.building
    assert world.mapped[FAILED_THERE] == world.mapped["guest-3"] == "cell1"
    assert not any(u.active for h in world.hosts.values() for u in h.units_.values() if u.role == "cells")
    reports = {(r.host, r.binary) for r in world.database.services(CELL0)}
    assert {("ctl1", "nova-conductor"), ("ctl2", "nova-scheduler")} <= reports
    assert all(r.binary != "nova-scheduler" for r in world.database.services(CELL1))
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert well(world) and led(world) == "new"
    for key, value in stands(world).items():
        assert value == before[key], key
    assert any(u.startswith("v2-") for u in world.api.rows), "what was made in cells v2 is in the API cell"
    assert world.api.rows.keys() >= world.child.rows.keys() | {NO_ROOM, "failed-1"}
    desk.go("forward")
    assert well(world)
    assert world.picture() == after


def test_users_wait_for_a_moment_in_which_nothing_starts(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    assert 0 < remembered(desk, SWITCH, "held-forward") < 2
    assert "0 failed builds are the child's, 1 went to cell0" in remembered(desk, SWITCH, "proof-forward")
    begun, released = world.changes.index("lb1 holds"), world.changes.index("lb1 released")
    within = world.changes[begun:released]
    assert not [c for c in within if " start " in c or " stop " in c]
    assert within.index("builds got a cell") < within.index("lb1 armed new")
    assert within[-3:] == ["api1 fenced", "api2 fenced", "lb1 leads to new"]
    for host in ("api1", "api2"):
        off, opened = world.changes.index(f"{host} stop nova-api"), world.changes.index(f"{host} open")
        assert released < off < opened, "the old nova-api is fenced until it is off"
    assert not any(world.fences.values())
    gone = len(world.changes)
    desk.go("backward")
    assert well(world) and 0 < remembered(desk, SWITCH, "held-backward") < 2
    after = world.changes[gone:]
    places = [after.index(c) for c in ("compared", "api1 start nova-cells", "ear shut", "ear open")]
    assert places == sorted(places), "nobody else could write to the API cell while it was copied"


def test_no_compute_is_touched_and_no_secret_leaves_its_host(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    begun = {h: world.hosts[h].units_["nova-compute"].pid for h in ("cmp1", "cmp2")}
    desk.go("forward")
    desk.go("backward")
    assert begun == {h: world.hosts[h].units_["nova-compute"].pid for h in begun}
    assert not [c for c in world.changes if c.startswith("cmp")]
    assert b"s3cret" not in dump_plan(desk.plan) and b"dbpw" not in dump_plan(desk.plan)
    assert b"s3cret" not in desk.path.read_bytes() and b"dbpw" not in desk.path.read_bytes()


def test_the_api_level_reads_cell0_and_the_child_tells_nova_cells_nothing(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    level = world.hosts["ctl1"].files["/etc/nova/nova-v2.conf"]
    text = level.content.decode()
    assert "mysql+pymysql://nova:dbpw@db1:3306/nova_cell0" in text and "@mq4:5672" in text
    assert "enable = true" not in text and "osapi_compute_listen_port = 8784" in text
    assert "my_ip = 10.1.0.2" in text, "of its own host"
    assert (level.mode, level.owner, level.group) == (0o640, "root", "nova")
    inner = world.hosts["ctl1"].files["/etc/nova/nova-cell1-v2.conf"].content.decode()
    assert "@mq1:5672" in inner and "enable =" not in inner and "NoopQuotaDriver" not in inner
    assert "--config-file /etc/nova/nova-cell1-v2.conf" in world.hosts["ctl1"].api.config["argv"]
    units = {n: u.active for n, u in world.hosts["ctl1"].units_.items()}
    assert units["nova-conductor-v2"] and units["nova-super-conductor"] and units["nova-scheduler-v2"]
    assert units["nova-novncproxy-v2"] and not units["nova-conductor-cell1"]


def test_sides_that_differ_stop_it_before_anybody_waits(desks: Any) -> None:
    world = fresh()
    before = stands(world)
    world.api.rows["stray"] = Inst(1, "api!cell1")
    desk = desks(world, plan(world))
    with pytest.raises(VerifyFailed, match="stray"):
        desk.go("forward")
    assert led(world) == "new" and "lb1 holds" not in world.changes
    del world.api.rows["stray"]
    desk.go("backward")
    assert well(world)
    for key, value in stands(world).items():
        assert value == before[key], key


def test_a_cloud_that_never_rests_is_left_as_it_was_and_can_be_tried_again(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.busy = 10_000
    with pytest.raises(StepFailed, match="guest-1 is rebooting"):
        desk.go("forward")
    assert well(world) and led(world) == "new" and not any(world.fences.values())
    world.busy = 0
    desk.go("forward")
    assert well(world) and led(world) == "old"
    world.busy = 10_000
    with pytest.raises(StepFailed, match="guest-1 is rebooting"):
        desk.go("backward")
    assert well(world) and led(world) == "old"
    world.busy = 0
    desk.go("backward")
    assert well(world) and led(world) == "new"


def test_work_of_the_api_levels_own_servers_is_waited_for_on_the_way_back(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    monkeypatch.setattr(world.brokers["mq4"], "depth", 1)
    with pytest.raises(StepFailed, match="1 messages in conductor on mq4"):
        desk.go("backward")
    assert led(world) == "old" and well(world)
    monkeypatch.undo()
    desk.go("backward")
    assert well(world) and led(world) == "new"


def test_an_api_cell_that_was_given_up_is_for_a_human(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.importing = type(world.importing)("stale")
    with pytest.raises(Unknowable, match="given up"):
        desk.go("forward")


def test_finished_it_leaves_no_gate_and_no_account(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    desk.finish()
    assert not any(g.written or g.installed for g in world.gates.values())
    assert world.importing.phase == "none" and world.child.known == {"nova"}


def test_it_can_be_done_by_hand_and_rehearsed(desks: Any, tmp_path: Path) -> None:
    world = fresh()
    made = plan(world)
    by_hand(made)
    would = observed(world, made, tmp_path)
    assert "note that Nova keeps both sides" in would
    assert any(w.startswith("teach HAProxy to hold nova-api") for w in would)


def test_check_finds_nothing_in_the_way_and_names_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    mapped = {"cmp1": CELL1, "cmp2": CELL1}
    monkeypatch.setattr(
        world.database, "host_cells", lambda hosts: {h: mapped[h] for h in hosts if h in mapped}
    )
    made, found = plan(world), scan(world)
    assert [v.id for v in check(found, layout_of(), world, made) if v.severity == "stop"] == []
    del mapped["cmp2"]
    world.gate("lb1", "nova-api").install(
        [type("S", (), {"address": a, "port": p}) for a, p in world.doors["new"].values()]  # type: ignore[misc]
    )
    stops = {v.id: v.remedy for v in check(found, layout_of(), world, made) if v.severity == "stop"}
    assert set(stops) == {"host-mappings", "in-the-way:lb1:nova-api"}
    assert f"discover_hosts --cell_uuid {CELL1}" in stops["host-mappings"]


def _killed(desks: Any, first: list[str], then: str, every: int, start: int, wait_s: int) -> None:
    """Leases end or not, between the kill and what follows."""
    points = killed_everywhere(
        fresh,
        lambda world: desks(world, plan(world)),
        back if then == "backward" else whole,
        first,
        then,
        every,
        start,
        wrong=wrong,
        meanwhile=lambda world: passes(world, wait_s),
    )
    assert points > 300


@pytest.mark.parametrize(("first", "then"), WAYS_AND_ON)
def test_killed_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _killed(desks, first, then, 61, 6, LEASE_S)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS_AND_ON)
@pytest.mark.parametrize("wait_s", [0, LEASE_S])
@pytest.mark.parametrize("start", range(11))
def test_killed_anywhere(desks: Any, first: list[str], then: str, wait_s: int, start: int) -> None:
    _killed(desks, first, then, 11, start, wait_s)


def test_a_task_whose_end_was_overtaken_while_nova_kept_both_stops_nobody(desks: Any) -> None:
    world = fresh()
    world.api.rows["guest-1"].task = "reboot_started"
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world) and led(world) == "old"
    assert "guest-1: task_state reboot_started -> NULL" in remembered(desk, "both-sides", "noted")
