"""recell audit: what is planted is found, what can be proven is mended, and every row can be put back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from recell.cli import care
from recell.cli.care import Record
from recell.cli.desk import Desk
from recell.cli.main import main
from recell.doctor import examine
from recell.errors import Unreachable
from recell.journal import Journal, position
from recell.model.cells_v1 import CellRecord, InstanceRow, NullRow
from recell.model.deployment import Deployment, dump_deployment, load_deployment
from recell.model.health import Facts
from recell.model.plan import dump_plan
from recell.model.rowchange import RowChange
from recell.planning.heal_v1 import Heal, heals
from recell.planning.v1 import plan_v1
from recell.planning.v1_child import KIND as ADDS_CHILD
from tests.private_server import PrivateServer
from tests.unit.care_cloud import (
    API,
    CELL1,
    CELL2,
    RELEASES,
    CareWorld,
    databases,
    empty,
    instance,
    world_for,
)
from tests.unit.doctor_plants import found
from tests.unit.stein_cloud import layout_v1, stein
from tests.unit.test_doctor_v1 import NO_PROXY, cell, healthy, instances, records, row, v1

NOW = datetime(2015, 5, 19)


# -- on paper ----------------------------------------------------------------------------------------


def healed(facts: Facts, **gone: frozenset[str]) -> dict[str, Heal]:
    return {k: h for k, h in heals(facts, gone, NOW).items() if h.changes or h.left}


def told(vm_state: str, quiet_s: float = 9000.0, **more: Any) -> InstanceRow:
    states = {"vm_state": vm_state, "power_state": 1, "task_state": None}
    made = replace(row("api!cell1", vm_state=vm_state), states=states, quiet_s=quiet_s, id=7)
    return replace(made, **more)


def test_a_healthy_tree_needs_no_healing() -> None:
    assert healed(healthy()) == {}


def test_a_cell_that_is_its_own_ancestor_is_found_and_the_api_cells_record_of_a_parent_goes() -> None:
    facts = records("api", CellRecord("cell1", False, ""), CellRecord("leaf", True, "", id=4))(healthy())
    child = facts.deployment.cells[1]
    leaf = replace(child, key="leaf", name="leaf", records=(CellRecord("cell1", True, ""),))
    facts = replace(facts, deployment=replace(facts.deployment, cells=(*facts.deployment.cells, leaf)))
    assert "cells:circle:api!leaf!cell1" in found(facts)
    (change,) = heals(facts, {}, NOW)["cells:circle:api!leaf!cell1"].changes
    assert (change.cell, change.table, change.id) == ("api", "cells", 4)
    assert change.after == {"deleted": 4, "deleted_at": NOW} and change.kind == "end"


def test_a_circle_without_the_api_cell_is_left_to_a_person() -> None:
    facts = healthy()
    child = facts.deployment.cells[1]
    names = ("a", "b", "c")
    ring = tuple(replace(child, key=n, name=n, records=(CellRecord(names[i - 1], True, ""),))
                 for i, n in enumerate(names))  # fmt: skip
    facts = replace(facts, deployment=replace(facts.deployment, cells=(facts.deployment.cells[0], *ring)))
    heal = heals(facts, {}, NOW)["cells:circle:a!c!b"]
    assert heal.changes == () and "can't be told" in heal.left[0]


def test_a_record_in_a_file_is_left() -> None:
    facts = records("cell1", CellRecord("api", True, ""), CellRecord("cell1", False, "", source="/c.json"))
    heal = heals(facts(healthy()), {}, NOW)["cells:circle:cell1"]
    assert heal.changes == () and "/c.json" in heal.left[0]


@pytest.mark.parametrize("of", ["api", "cell1"])
def test_of_two_that_call_each_other_parent_the_api_cell_is_right(of: str) -> None:
    """Whichever side is wrong, that side alone is changed."""
    name, wrong = ("cell1", True) if of == "api" else ("api", False)
    facts = records(of, CellRecord(name, wrong, "", id=3))(healthy())
    (change,) = heals(facts, {}, NOW)["cells:direction:api:cell1"].changes
    assert (change.cell, change.id, change.after) == (of, 3, {"is_parent": int(not wrong)})
    assert "cells:direction:api:cell1" in found(facts)


def test_two_children_that_disagree_are_left() -> None:
    facts = healthy()
    top, child = facts.deployment.cells
    leaf = replace(child, key="leaf", name="leaf", records=(CellRecord("cell1", True, ""),))
    middle = replace(child, records=(*child.records, CellRecord("leaf", True, "")))
    facts = replace(facts, deployment=replace(facts.deployment, cells=(top, middle, leaf)))
    heal = heals(facts, {}, NOW)["cells:direction:cell1:leaf"]
    assert heal.changes == () and "neither is the API cell" in heal.left[0]


def test_rows_with_null_are_found_and_say_whether_they_ended() -> None:
    facts = v1(nulls={("cell1", "tags"): (NullRow(5, False), NullRow(6, True))})(healthy())
    assert found(facts, "warning") - NO_PROXY == {"rows:null-deleted:cell1:tags"}
    changes = heals(facts, {}, NOW)["rows:null-deleted:cell1:tags"].changes
    assert [c.after for c in changes] == [{"deleted": 0}, {"deleted": 6}]


def test_what_changed_between_the_looks_is_not_healed() -> None:
    plant = instances("cell1", {"b": told("stopped")})
    facts = instances("api", {"b": told("active")})(plant(healthy()))
    assert heals(facts, {}, NOW)["instances:apart:cell1"].changes[0].after == {"vm_state": "stopped"}
    look = facts.second.cells
    moved = {**look, "cell1": {**look["cell1"], "b": told("paused")}}
    heal = heals(replace(facts, second=replace(facts.second, cells=moved)), {}, NOW)["instances:apart:cell1"]
    assert heal.changes == () and "changes just now" in heal.left[0]


@pytest.mark.parametrize(("quiet_s", "reported"), [(5.0, False), (9000.0, True)])
def test_a_task_is_under_way_until_nothing_was_heard_of_it_for_long(quiet_s: float, reported: bool) -> None:
    top = told("active", quiet_s, busy=True, states={"vm_state": "active", "task_state": "powering-off"})
    facts = instances("api", {"b": top})(instances("cell1", {"b": told("stopped")})(healthy()))
    assert ("instances:apart:cell1" in found(facts, "warning")) == reported
    changes = [c for h in heals(facts, {}, NOW).values() for c in h.changes]
    assert [dict(c.after or {}) for c in changes] == (
        [{"vm_state": "stopped", "task_state": None}] if reported else [])  # fmt: skip


@pytest.mark.parametrize(
    ("task", "child_quiet_s", "reported"),
    [("reboot_started", 300.0, True), ("reboot_started", 30.0, False), ("rebooting", 300.0, False)],
)
def test_a_task_whose_end_was_overtaken_is_found_though_its_row_is_written_again_and_again(
    task: str, child_quiet_s: float, reported: bool
) -> None:
    top = told("active", 5.0, busy=True, states={"vm_state": "active", "task_state": task})
    child = told("active", child_quiet_s, states={"vm_state": "active", "task_state": None})
    facts = instances("api", {"b": top})(instances("cell1", {"b": child})(healthy()))
    assert ("instances:apart:cell1" in found(facts, "warning")) == reported
    changes = [dict(c.after or {}) for h in heals(facts, {}, NOW).values() for c in h.changes]
    assert changes == ([{"task_state": None}] if reported else [])


def test_a_name_is_proven_only_when_every_cell_was_asked() -> None:
    facts = instances("api", {"b": row("", vm_state="stopped")})(healthy())
    (change,) = heals(facts, {}, NOW)["instances:cell-unset:api"].changes
    assert change.before == {"cell_name": None} and change.after == {"cell_name": "api!cell1"}
    blind = cell("api", records=(*facts.deployment.cells[0].records, CellRecord("far", False, "")))(facts)
    heal = heals(blind, {}, NOW)["instances:cell-unset:api"]
    assert heal.changes == () and "not every cell" in heal.left[0]
    nowhere = instances("cell1", {"b": None})(facts)
    heal = heals(nowhere, {}, NOW)["instances:cell-unset:api"]
    assert heal.changes == () and "no cell that was looked at has it" in heal.left[0]


def test_what_the_other_side_has_deleted_is_said_so() -> None:
    facts = instances("cell1", {"x": row()})(instances("api", {"y": row("api!cell1")})(healthy()))
    heal = heals(facts, {"api": frozenset("x"), "cell1": frozenset("y")}, NOW)
    assert "the API cell has deleted it" in heal["instances:unknown-above:cell1"].left[0]
    assert "cell1 has deleted it" in "".join(heal["instances:missing-below:cell1"].left)


def test_rows_that_agree_and_were_written_later_below_are_noted() -> None:
    child, top = told("active", updated=1000.0), told("active", updated=100.0)
    facts = instances("api", {"b": top})(instances("cell1", {"b": child})(healthy()))
    assert "instances:stale:cell1" in {d.id for d in examine(facts)}
    near = instances("cell1", {"b": told("active", updated=130.0)})(facts)
    assert "instances:stale:cell1" not in {d.id for d in examine(near)}


# -- on databases ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=RELEASES)
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    with databases(request.param) as made:
        yield made


@pytest.fixture
def world(server: PrivateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CareWorld:
    empty(server)
    return world_for(server, tmp_path, monkeypatch)


def audit(directory: Path, *more: str) -> Result:
    said = CliRunner().invoke(main, ["audit", "--dir", str(directory), "--between", "0.1", *more])
    assert "s3cret" not in said.output
    if said.exception is not None and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said


def ids(said: Result) -> set[str]:
    return {f["id"] for f in json.loads(said.stdout)["findings"]}


def dump(server: PrivateServer) -> dict[str, list[tuple[Any, ...]]]:
    return {f"{d}.{t}": server.sql(f"SELECT * FROM {t} ORDER BY id", database=d)
            for d in (API, CELL1, CELL2) for t in ("instances", "cells", "key_pairs")}  # fmt: skip


def plant(server: PrivateServer) -> set[str]:
    """Of everything one; the findings that it makes."""
    for uuid in ("well", "unset", "short", "other", "state", "ended", "over"):
        instance(server, "api", uuid)
    for uuid in ("well", "unset", "short", "state", "raw", "over"):
        instance(server, "cell1", uuid, updated_at="2015-01-20")
    server.sql("UPDATE instances SET cell_name = NULL WHERE uuid = 'unset'",
               "UPDATE instances SET cell_name = 'cell1' WHERE uuid = 'short'",
               "UPDATE instances SET deleted = id, deleted_at = NOW() WHERE uuid = 'over'", database=API)
    instance(server, "cell2", "other")
    server.sql("UPDATE instances SET vm_state = 'stopped', power_state = 4, memory_mb = 2048"
               " WHERE uuid = 'state'", "UPDATE instances SET deleted = NULL WHERE uuid = 'raw'",
               database=CELL1)  # fmt: skip
    instance(server, "cell1", "ended", deleted=99, deleted_at="2015-03-01")
    server.row(CELL1, "key_pairs", user_id="u", name="k", deleted=None)
    server.row(API, "cells", name="api", is_parent=0, transport_url="rabbit://x//", deleted=0)
    return {
        "instances:cell-unset:api", "instances:cell-unknown:cell1", "instances:missing-below:cell1",
        "instances:apart:cell1", "instances:unknown-above:cell1", "rows:null-deleted:cell1:instances",
        "rows:null-deleted:cell1:key_pairs", "cells:circle:api",
    }  # fmt: skip


def test_a_tree_in_order_has_nothing_to_say(server: PrivateServer, world: CareWorld, tmp_path: Path) -> None:
    instance(server, "api", "a")
    instance(server, "cell1", "a", updated_at="2015-01-20")
    said = audit(tmp_path)
    assert said.exit_code == 0 and "Healthy" in said.output
    assert world.claims == [] and [p.name for p in tmp_path.iterdir()] == ["deployment.json"]


def test_each_fault_is_found_and_nothing_is_written(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    planted, before = plant(server), dump(server)
    said = audit(tmp_path, "--json")
    assert ids(said) == planted and said.exit_code == 20
    assert dump(server) == before and world.claims == []


def test_what_can_be_proven_is_healed_and_the_rest_is_left_and_all_of_it_undone(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    before = dump(server)
    said = audit(tmp_path, "--heal", "--yes")
    assert said.exit_code == 20, said.output
    rows = dict(server.sql("SELECT uuid, cell_name FROM instances WHERE deleted = 0", database=API))
    assert rows["unset"] == rows["short"] == "api!cell1" and rows["other"] == "api!cell2"
    assert server.sql("SELECT vm_state, power_state, memory_mb FROM instances WHERE uuid = 'state'",
                      database=API) == [("stopped", 4, 2048)]  # fmt: skip
    assert server.sql("SELECT deleted FROM instances WHERE uuid = 'raw'", database=CELL1) == [(0,)]
    assert server.sql("SELECT deleted = 0 FROM key_pairs", database=CELL1) == [(1,)]
    assert server.sql("SELECT COUNT(*) FROM cells WHERE deleted = 0", database=API) == [(2,)]
    # What a person has to decide is still said, and the row that can be seen now is judged now.
    left = ids(audit(tmp_path, "--json"))
    assert left == {"instances:missing-below:cell1", "instances:unknown-above:cell1"}
    (record,) = tmp_path.glob("audit-*.jsonl")
    assert str(record) in said.output and record.stat().st_mode & 0o777 == 0o600
    back = audit(tmp_path, "--undo", str(record))
    assert back.exit_code == 0 and "0 left" in back.output
    assert dump(server) == before
    again = audit(tmp_path, "--undo", str(record))
    assert again.output.startswith("0 rows put back") and dump(server) == before
    assert [f.epoch for f in world.claims] == [1, 2, 3] and world.claimed == ()
    assert len({f.journal for f in world.claims}) == 1


@pytest.mark.parametrize("finished", [False, True])
def test_in_the_directory_of_a_conversion_it_looks_anew_and_writes_as_the_conversion(
    server: PrivateServer, world: CareWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    today = load_deployment((tmp_path / "deployment.json").read_bytes(), "deployment.json")
    (tmp_path / "deployment.json").write_bytes(dump_deployment(stein()))
    made = plan_v1(stein(), layout_v1(), 0.0)
    (tmp_path / "plan.json").write_bytes(dump_plan(made))
    Journal.create(tmp_path / "journal.sqlite", made.digest).close()
    monkeypatch.setattr(care, "scan_again", lambda deployment, at: today)
    assert audit(tmp_path).exit_code == 6, "nothing was applied yet"
    journal = Journal.open(tmp_path / "journal.sqlite")
    with journal.writing("apply", "forward"):
        for step in made.steps:
            journal.append(step.id, "forward", "finished")
        if finished:
            journal.finish()
    ours = journal.id
    journal.close()
    plant(server)
    said = audit(tmp_path, "--heal", "--yes")
    assert said.exit_code == 20 and "changed ~ api instances state" in said.output, said.output
    (claim,) = world.claims
    assert (claim.journal == ours) is not finished and claim.who == "recell audit"
    journal = Journal.open(tmp_path / "journal.sqlite", read_only=True)
    assert [r.verb for r in journal.runs()] == ["apply"] + ["audit"] * (not finished)
    assert position(made, journal) == ("finished" if finished else "applied")
    journal.close()
    # Hosts of the conversion stay its own; api's and the children's controllers here are others.
    assert world.claimed == ()


def test_in_the_directory_of_a_child_s_plan_the_child_is_looked_for_too(
    server: PrivateServer, world: CareWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = load_deployment((tmp_path / "deployment.json").read_bytes(), "deployment.json")
    without = replace(today, cells=tuple(c for c in today.cells if c.name != "cell2"))
    assert len(without.cells) == len(today.cells) - 1
    (tmp_path / "deployment.json").write_bytes(dump_deployment(without))
    made = replace(plan_v1(stein(), layout_v1(), 0.0), kind=ADDS_CHILD).sealed()
    (tmp_path / "plan.json").write_bytes(dump_plan(made))
    Journal.create(tmp_path / "journal.sqlite", made.digest).close()
    asked: list[object] = []

    def scan_again(deployment: Deployment, at: float) -> Deployment:
        asked.append(deployment)
        return today

    monkeypatch.setattr(care, "scan_again", scan_again)
    audit(tmp_path)
    assert not asked, "nothing was applied yet"
    journal = Journal.open(tmp_path / "journal.sqlite")
    with journal.writing("apply", "forward"):
        for step in made.steps:
            journal.append(step.id, "forward", "finished")
    journal.close()
    with care.tree_of(Desk(tmp_path)) as tree:
        assert [c.name for c in tree.deployment.cells] == [c.name for c in today.cells]
    assert asked == [without]


def test_undo_leaves_a_row_that_somebody_wrote_since(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    audit(tmp_path, "--heal", "--yes")
    server.sql("UPDATE instances SET vm_state = 'paused' WHERE uuid = 'state'", database=API)
    (record,) = tmp_path.glob("audit-*.jsonl")
    back = audit(tmp_path, "--undo", str(record))
    assert back.exit_code == 8 and "instances state of api has changed" in back.output
    assert server.sql("SELECT vm_state FROM instances WHERE uuid = 'state'", database=API) == [("paused",)]
    assert server.sql("SELECT cell_name FROM instances WHERE uuid = 'unset'", database=API) == [(None,)]


def test_a_row_that_changes_while_it_is_healed_is_left(
    server: PrivateServer, world: CareWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(server)
    claim = CareWorld.claim

    def late(self: CareWorld, fence: Any, *hosts: str) -> None:
        claim(self, fence, *hosts)
        server.sql("UPDATE instances SET cell_name = 'api!cell9' WHERE uuid = 'unset'", database=API)

    monkeypatch.setattr(CareWorld, "claim", late)
    said = audit(tmp_path, "--heal", "--yes")
    assert "left    instances unset of api has changed" in said.output
    rows = dict(server.sql("SELECT uuid, cell_name FROM instances", database=API))
    assert rows["unset"] == "api!cell9" and rows["short"] == "api!cell1"


def test_what_a_user_does_between_the_looks_is_no_finding(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    for uuid in ("boot", "stop"):
        instance(server, "cell1", uuid, updated_at="2015-01-20")
    instance(server, "api", "stop", vm_state="stopped")
    world.between.append(lambda: server.sql(
        "UPDATE instances SET vm_state = 'active' WHERE uuid = 'stop'",
        "INSERT IGNORE INTO instances (id, uuid, created_at, vm_state, host, cell_name, deleted)"
        " VALUES (77, 'boot', NOW(), 'active', 'cmp1', 'api!cell1', 0)", database=API))  # fmt: skip
    said = audit(tmp_path, "--json")
    assert said.exit_code == 0 and ids(said) == set()


def test_a_child_that_does_not_answer_proves_nothing(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    server.sql(f"REVOKE ALL ON {CELL2}.* FROM nova@localhost", database="")
    try:
        said = audit(tmp_path, "--heal", "--yes", "--json")
    finally:
        server.sql(f"GRANT ALL ON {CELL2}.* TO nova@localhost", database="")
    content = json.loads(said.stdout)
    assert said.exit_code == 20 and content["counts"]["unknown"] >= 1
    assert {c["table"] for c in content["changed"]} == {"instances", "key_pairs", "cells"}
    assert dict(server.sql("SELECT uuid, cell_name FROM instances", database=API))["unset"] is None


def test_another_recell_has_the_hosts(server: PrivateServer, world: CareWorld, tmp_path: Path) -> None:
    plant(server)
    before = dump(server)
    world.owner = "j1 (recell apply)"
    said = audit(tmp_path, "--heal", "--yes")
    assert said.exit_code == 9 and dump(server) == before
    assert not list(tmp_path.glob("audit-*.jsonl"))


def test_it_asks_before_it_writes(server: PrivateServer, world: CareWorld, tmp_path: Path) -> None:
    plant(server)
    before = dump(server)
    argv = ["audit", "--dir", str(tmp_path), "--between", "0.1", "--heal"]
    refused = CliRunner().invoke(main, argv, input="n\n")
    assert refused.exit_code == 1 and dump(server) == before
    assert "heal  ~ api instances unset: cell_name NULL -> api!cell1" in refused.output
    CliRunner().invoke(main, argv, input="y\n")
    assert dict(server.sql("SELECT uuid, cell_name FROM instances", database=API))["unset"] == "api!cell1"
    assert audit(tmp_path, "--heal", "--json").exit_code == 3
    assert audit(tmp_path, "--heal", "--undo", "x").exit_code == 3


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[1]\n", b'{"format": 9, "databases": {}}\n',
                                     b'{"format": 1, "databases": {}}\n{"cell": 1}\n'])  # fmt: skip
def test_a_file_that_is_no_record_is_refused(world: CareWorld, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    assert audit(tmp_path, "--undo", str(tmp_path / "x.jsonl")).exit_code == 3


def test_the_record_of_other_databases_is_refused(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    audit(tmp_path, "--heal", "--yes")
    (record,) = tmp_path.glob("audit-*.jsonl")
    lines = record.read_bytes().split(b"\n")
    lines[0] = lines[0].replace(API.encode(), b"elsewhere")
    record.write_bytes(b"\n".join(lines))
    before = dump(server)
    assert audit(tmp_path, "--undo", str(record)).exit_code == 8 and dump(server) == before


def test_the_line_that_a_kill_cut_in_half_is_of_nothing(
    server: PrivateServer, world: CareWorld, tmp_path: Path
) -> None:
    plant(server)
    before = dump(server)
    audit(tmp_path, "--heal", "--yes")
    (record,) = tmp_path.glob("audit-*.jsonl")
    with record.open("ab") as file:
        file.write(b'{"cell": "api", "tab')
    assert audit(tmp_path, "--undo", str(record)).exit_code == 0 and dump(server) == before


def test_a_kill_between_the_record_and_the_commit_leaves_nothing_to_put_back(
    server: PrivateServer, world: CareWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(server)
    before, keep = dump(server), Record.keep

    def dies(self: Record, changes: Sequence[RowChange]) -> None:
        keep(self, changes)
        raise Unreachable("the session broke in a change", "")

    monkeypatch.setattr(Record, "keep", dies)
    assert audit(tmp_path, "--heal", "--yes").exit_code == 4 and dump(server) == before
    (record,) = tmp_path.glob("audit-*.jsonl")
    back = audit(tmp_path, "--undo", str(record))
    assert back.output.startswith("0 rows put back") and back.exit_code == 0 and dump(server) == before


def test_without_cells_v1_it_says_so(tmp_path: Path, world: CareWorld) -> None:
    path = tmp_path / "deployment.json"
    path.write_text(path.read_text().replace('"generation": "v1"', '"generation": "v2"'))
    assert audit(tmp_path).exit_code == 6
