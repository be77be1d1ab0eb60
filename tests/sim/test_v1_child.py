"""A further child is added to a tree of cells v1, simulated: there, back, killed everywhere, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recell.errors import StepFailed, VerifyFailed
from recell.model.cells_v1 import CellRecord
from recell.model.plan import dump_plan
from recell.planning.ini import get
from recell.planning.v1_child import plan_child
from recell.preflight.check import check
from tests.sim.database import CELL1
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS_AND_ON, killed_everywhere, whole
from tests.sim.rehearsing import by_hand, observed
from tests.sim.v1_child_world import MINE, SEEDED, ChildWorld, Inst, fresh, layout_text, plan, scan
from tests.sim.v1_world import well, wrong
from tests.unit.stein_cloud import CONF, layout_v1

RECORDS = "/etc/nova/cells.json"


@pytest.mark.parametrize("files", [False, True])
def test_there_and_back_and_there_again(desks: Any, files: bool) -> None:
    world = fresh(files=files)
    assert well(world)
    before = world.picture()
    desk = desks(world, plan(world, files=files))
    desk.go("forward")
    assert well(world) and world.reached() and world.second_flavors == MINE
    after = world.picture()
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert well(world) and not world.reached()
    for key, value in world.picture().items():
        assert value == before[key], key
    desk.go("forward")
    assert well(world)
    assert world.picture() == after


def test_each_side_has_the_neighbours_account_and_weighs_as_the_layout_says(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    known = world.api.neighbours
    assert known["cell2"].url == "rabbit://nova2:s3cret2@mq7:5672//" and not known["cell2"].is_parent
    assert (known["cell2"].weight_offset, known["cell2"].weight_scale) == (1, 2)
    assert (known["cell1"].weight_offset, known["cell1"].weight_scale) == (-3, 1), "what is not said stays"
    parent = world.second.neighbours["api"]
    assert parent.is_parent and parent.url.startswith("rabbit://nova:s3cret@mq4:5672,nova:s3cret@mq5:5672,")
    text = world.hosts["ctl4"].files["/etc/nova/nova-cell2.conf"].content.decode()
    assert get(text, "cells", "capabilities") == "hypervisor=kvm;xen,os=linux"
    assert (get(text, "cells", "name"), get(text, "cells", "cell_type")) == ("cell2", "compute")
    assert get(text, "quota", "driver") == "nova.quota.NoopQuotaDriver"
    for host in ("api1", "api2"):
        text = world.hosts[host].files[CONF].content.decode()
        assert get(text, "cells", "ram_weight_multiplier") == "5"
        assert get(text, "cells", "mute_weight_multiplier") is None, "left alone"
    text = world.hosts["cmp3"].files[CONF].content.decode()
    assert get(text, "DEFAULT", "vif_plugging_is_fatal") == "false"
    for secret in (b"s3cret", b"dbpw"):
        assert secret not in dump_plan(desk.plan) and secret not in desk.path.read_bytes()


def test_a_file_of_records_keeps_those_that_it_has(desks: Any) -> None:
    world = fresh(files=True)
    desk = desks(world, plan(world, files=True))
    desk.go("forward")
    for host in ("api1", "api2"):
        file = world.hosts[host].files[RECORDS]
        found = json.loads(file.content)
        assert set(found) == {"cell1", "cell2"} and file.mode == 0o640
        assert (found["cell1"]["weight_offset"], found["cell2"]["weight_scale"]) == (-3, 2)
    assert set(json.loads(world.hosts["ctl3"].files[RECORDS].content)) == {"api"}


def test_without_words_about_boots_nova_cells_of_the_api_cell_is_not_restarted(desks: Any) -> None:
    world = fresh()
    text = layout_text()
    words = text[text.index("boots:\n  ram") : text.index("hold:\n")]
    desk = desks(world, plan(world, text.replace(words, "").replace("    weight_offset: -3\n", "")))
    begun = [world.hosts[h].units_["nova-cells"].pid for h in ("api1", "api2")]
    desk.go("forward")
    assert well(world) and world.reached()
    assert begun == [world.hosts[h].units_["nova-cells"].pid for h in ("api1", "api2")]
    assert world.api.neighbours["cell1"].weight_offset == 1
    assert not [c for c in world.changes if c.startswith(("api1", "api2", "cmp1", "cmp2", "ctl1", "ctl2"))]


def test_a_child_with_instances_is_not_added(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.second.rows["old-guest"] = Inst()
    with pytest.raises(StepFailed, match="cell2 has 1 instances: old-guest"):
        desk.go("forward")
    assert world.second_flavors == SEEDED and "cell2" not in world.api.neighbours
    del world.second.rows["old-guest"]
    desk.go("forward")
    assert well(world)


def test_a_child_that_gets_an_instance_while_it_is_made_ready_gets_no_record(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.after["api recorded on old"] = lambda: world.second.rows.update(late=Inst())
    with pytest.raises(StepFailed, match="late"):
        desk.go("forward")
    assert "cell2" not in world.api.neighbours
    world.second.rows.clear()
    desk.go("forward")
    assert well(world) and world.reached()


def test_undo_is_refused_before_anything_is_taken_away_while_somebody_has_an_instance(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    changes = list(world.changes)
    world.second.rows["guest"] = Inst(1, "api!cell2")
    with pytest.raises(StepFailed, match="cell2 has 1 instances: guest"):
        desk.go("backward")
    assert world.changes == changes and well(world)
    world.second.rows.clear()
    desk.go("backward")
    assert well(world) and not world.reached()


@pytest.mark.parametrize("files", [False, True])
def test_a_build_that_comes_while_the_record_goes_brings_it_back(desks: Any, files: bool) -> None:
    world = fresh(files=files)
    desk = desks(world, plan(world, files=files))
    desk.go("forward")
    wait = ChildWorld.wait

    def built(self: ChildWorld, seconds: float) -> None:
        wait(self, seconds)
        if not self.recorded() and self.reached():
            self.second.rows["late"] = Inst(1, "api!cell2")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChildWorld, "wait", built)
        with pytest.raises(StepFailed, match="cell2 has 1 instances: late"):
            desk.go("backward")
    assert world.recorded() and world.reached(), "its owner reaches it"
    if files:
        assert all(b"cell2" in world.hosts[h].files[RECORDS].content for h in ("api1", "api2"))
    assert well(world)
    world.second.rows.clear()
    desk.go("backward")
    assert well(world) and not world.reached()


def test_a_child_that_does_not_answer_is_named_and_can_be_undone(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    world.mute = True
    desk = desks(world, plan(world))
    with pytest.raises(VerifyFailed, match="api!cell2 does not answer"):
        desk.go("forward")
    world.mute = False
    desk.go("forward")
    assert well(world)
    desk.go("backward")
    assert well(world)
    for key, value in world.picture().items():
        assert value == before[key], key


def test_finished_it_leaves_no_account(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    desk.finish()
    assert world.second.known == {"nova2"} and world.api.known == {"nova"}


def test_it_can_be_done_by_hand_and_rehearsed(desks: Any, tmp_path: Path) -> None:
    for files in (False, True):
        world = fresh(files=files)
        made = plan(world, files=files)
        by_hand(made)
    world = fresh()
    would = observed(world, plan(world), tmp_path)
    assert {"write the record of api", "write the record of cell2"} <= set(would)


def test_check_finds_nothing_in_the_way_and_names_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    mapped = {"cmp3": "c2"}
    monkeypatch.setattr(world.database, "host_cells", lambda hosts: mapped, raising=False)
    made, found = plan(world), scan(world)
    layout = layout_v1(layout_text())
    assert [v.id for v in check(found, layout, world, made) if v.severity == "stop"] == []
    world.hosts["ctl3"].files["/etc/nova/nova-cell2.conf"] = world.hosts["ctl3"].files[CONF]
    world.second.rows["guest"] = Inst()
    mapped["cmp3"] = CELL1
    stops = {v.id for v in check(found, layout, world, made) if v.severity == "stop"}
    assert stops == {"host-mappings", "in-the-way:ctl3:/etc/nova/nova-cell2.conf", "v1-child:instances:guest"}


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_cell_that_was_not_seen_keeps_its_record(desks: Any, way: str) -> None:
    world = fresh()
    world.api.neighbours["far"] = replace(world.api.neighbours["cell1"], name="far", url="rabbit://a:b@mq9/")
    found = scan(world)
    top = next(c for c in found.cells if c.cell_type == "api")
    records = (*top.records, CellRecord("far", False, "rabbit://a:***@mq9:5672/"))
    tree = tuple(replace(c, records=records) if c == top else c for c in found.cells)
    before = world.picture()
    desk = desks(world, plan_child(replace(found, cells=tree), layout_v1(layout_text()), 0.0))
    desk.go("forward")
    assert well(world) and world.reached() and world.api.neighbours["far"].url == "rabbit://a:b@mq9/"
    if way == "backward":
        desk.go(way)
        assert well(world) and world.picture() == before


def _killed(desks: Any, first: list[str], then: str, every: int, start: int, *, files: bool) -> None:
    points = killed_everywhere(
        lambda: fresh(files=files),
        lambda world: desks(world, plan(world, files=files)),
        whole,
        first,
        then,
        every,
        start,
        wrong=wrong,
        meanwhile=lambda world: world.wait(1),
    )
    assert points > 100


@pytest.mark.parametrize(("first", "then"), WAYS_AND_ON)
def test_killed_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _killed(desks, first, then, 31, 2, files=False)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS_AND_ON)
@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("start", range(5))
def test_killed_anywhere(desks: Any, first: list[str], then: str, files: bool, start: int) -> None:
    _killed(desks, first, then, 5, start, files=files)
