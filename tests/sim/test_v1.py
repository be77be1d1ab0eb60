"""A standard Nova becomes the child of an API cell, simulated: there, back, killed everywhere, undone."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.adapters.ports import Consumer
from recell.cli import verify
from recell.cli.main import main
from recell.errors import StalePlan, StepFailed, Unknowable, VerifyFailed
from recell.journal import Journal
from recell.model.deployment import dump_deployment
from recell.model.layout_v1 import CELLS_V1_EXAMPLE
from recell.model.plan import dump_plan
from recell.model.step import Finding
from recell.model.v1 import Agreement
from recell.planning.v1 import SWITCH
from recell.preflight import consistency
from recell.preflight.check import check
from recell.report.mended import told_of_mended
from recell.steps import Context, bind, v1_rows
from recell.steps.units import StartUnit
from recell.steps.v1 import BEGUN_AT, V1Step
from recell.steps.v1_rows import BEFORE_S
from tests.sim.desk import LIMITS
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS, killed_everywhere, whole
from tests.sim.rehearsing import by_hand, observed
from tests.sim.v1_hold import HoldWorld
from tests.sim.v1_world import Inst, SimV1, V1Broker, V1World, build, plan, scan, well, wrong
from tests.sim.world import Killed, SimFile
from tests.unit.stein_cloud import CONF, layout_v1

PATH = "api!cell1"
FILES = CELLS_V1_EXAMPLE.replace("records: table", "records: file")


@functools.cache
def _built() -> V1World:
    return build(make=HoldWorld)


def fresh() -> V1World:
    return copy.deepcopy(_built())


def served(world: V1World) -> str:
    """Where users are led to."""
    return world.serving


def text_of(world: V1World, host: str, path: str) -> str:
    return world.hosts[host].files[path].content.decode()


def test_there_and_back_and_there_again(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    after = world.picture()
    assert served(world) == "new" and world.importing.phase == "live"
    assert {u for u, r in world.api.rows.items() if r.path != PATH} == {"failed-1"}
    assert world.api.rows.keys() >= world.child.rows.keys(), "every instance on both sides"
    assert [n.is_parent for n in world.child.neighbours.values()] == [True]
    assert not world.api.seeded
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    journal = Journal.open(desk.path, read_only=True)
    assert journal.recall("undo/prove", "recounted") == 1
    journal.close()
    assert well(world)
    for key, value in world.picture().items():
        assert value == before[key], key
    assert any(u.startswith("new-") for u in world.child.rows), "what was made meanwhile stays"
    desk.go("forward")
    assert well(world)
    assert world.picture() == after


def test_the_api_cells_configuration_has_the_same_accounts_and_no_name_of_another_host(desks: Any) -> None:
    world = fresh()
    old = world.hosts["ctl1"].files[CONF]
    world.hosts["ctl1"].files[CONF] = SimFile(
        old.content.replace(b"[database]", b"host = ctl1\nosapi_compute_listen = 10.1.0.2\n\n[database]"),
        0o644, "root", "nova", old.mtime,
    )  # fmt: skip
    desk = desks(world, plan(world))
    desk.go("forward")
    text = text_of(world, "api2", CONF)
    assert "transport_url = rabbit://nova:s3cret@mq4:5672,nova:s3cret@mq5:5672,nova:s3cret@mq6:5672/" in text
    assert "connection = mysql+pymysql://nova:dbpw@db2:3306/nova_api_cell" in text
    assert "my_ip = 10.1.0.5" in text and "osapi_compute_listen = 10.1.0.5" in text
    assert "host = ctl1" not in text and "nova_api\n" in text
    assert "cell_type = api" in text and "osapi_compute_listen_port = 8774" in text
    assert world.hosts["api2"].files[CONF].mode == 0o640, "secrets are for Nova alone"
    assert b"s3cret" not in dump_plan(desk.plan) and b"s3cret" not in desk.path.read_bytes()
    records = {s: n for side in (world.child, world.api) for s, n in side.neighbours.items()}
    assert records["api"].url == (
        "rabbit://nova:s3cret@mq4:5672,nova:s3cret@mq5:5672,nova:s3cret@mq6:5672//"
    ), "its vhost is written out"
    assert "mq2" in records["cell1"].url


def test_records_in_files_are_for_nova_alone(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world, FILES))
    desk.go("forward")
    # A file is read again at each start: what reads it is nova-cells.
    file = world.hosts["ctl1"].files["/etc/nova/cells.json"]
    assert (file.mode, file.owner, file.group) == (0o640, "root", "nova")
    entry = json.loads(file.content)["api"]
    assert entry["is_parent"] is True and entry["transport_url"].endswith("//")
    assert json.loads(world.hosts["api1"].files["/etc/nova/cells.json"].content)["cell1"]["weight_scale"] == 1
    assert not world.child.neighbours and not world.api.neighbours
    desk.go("backward")
    for key, value in world.picture().items():
        assert value == before[key], key


def test_a_link_that_does_not_stand_stops_before_rows_are_copied(desks: Any) -> None:
    world = fresh()
    before = world.picture()
    world.mute = True
    desk = desks(world, plan(world))
    with pytest.raises(StepFailed, match="does not answer"):
        desk.go("forward")
    assert world.importing.phase == "none" and served(world) == "old"
    world.mute = False
    desk.go("forward")
    assert well(world) and served(world) == "new"
    desk.go("backward")
    assert well(world)
    for key, value in world.picture().items():
        assert value == before[key], key


def test_undo_ends_nova_cells_of_all_hosts_at_once_and_can_turn_round_there(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    look, stop = StartUnit.look, V1World.stop_rpc_server
    killed: list[str] = []

    def refuse(self: StartUnit, toward: Any) -> Finding:
        if self.param("unit") == "nova-cells":
            raise StepFailed("each by itself comes next")
        return look(self, toward)

    def noted(self: V1World, host: str, unit: str, *rest: Any, **more: Any) -> float:
        if more["idle"] is not None:
            killed.append(f"{unit} on {host}")
        return stop(self, host, unit, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(StartUnit, "look", refuse)
        patch.setattr(V1World, "stop_rpc_server", noted)
        with pytest.raises(StepFailed, match="comes next"):
            desk.go("backward")
    assert sorted(killed) == [f"nova-cells on {h}" for h in ("api1", "api2", "ctl1", "ctl2")]
    cells = [world.hosts[h].units_["nova-cells"] for h in ("ctl1", "ctl2")]
    assert [(u.active, u.enabled) for u in cells] == [(False, True)] * 2
    desk.go("forward")
    assert well(world) and served(world) == "new" and all(u.active for u in cells)


def test_tables_of_somebody_else_are_not_touched(desks: Any) -> None:
    world = fresh()
    world.api.made = world.api.tables = True
    desk = desks(world, plan(world))
    with pytest.raises(Unknowable, match="tables that recell did not make"):
        desk.go("forward")
    desk.go("backward")
    assert world.api.made and world.api.tables and well(world)


def test_instances_that_differ_stop_the_proof(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.after["instances asked for"] = lambda: world.api.rows.update(guest=Inst(1, PATH))
    with pytest.raises(VerifyFailed, match="guest"):
        desk.go("forward")
    del world.api.rows["guest"]
    desk.go("forward")
    assert well(world)


def overtaken(world: V1World, *uuids: str, task: str = "reboot_started") -> None:
    """nova-cells writes the last but one update of these last, right after instances were asked for."""

    def late() -> None:
        for uuid in uuids:
            world.api.rows[uuid].task = task

    world.after["instances asked for"] = late


def test_a_task_whose_end_was_overtaken_is_mended_and_named(desks: Any, tmp_path: Path) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    overtaken(world, "guest-1", "guest-3")
    desk.go("forward")
    assert well(world) and not any(r.task for r in world.api.rows.values())
    journal = Journal.open(desk.path, read_only=True)
    mended = journal.recall("sync-instances", "mended")
    said = journal.recall("sync-instances", "agreed")
    report = told_of_mended(desk.plan, journal)
    journal.close()
    assert [(m["label"], m["before"], m["after"]) for m in mended] == [
        (u, {"task_state": "reboot_started"}, {"task_state": None}) for u in ("guest-1", "guest-3")
    ]
    assert "2 instances got the child's task_state" in said
    assert "api instances guest-3: task_state reboot_started -> NULL" in said
    assert len(report) == 1 and report[0].startswith("2 instances got") and report[0].endswith("NULL.")


def test_a_task_that_nova_api_may_have_begun_is_left_and_stops_it(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    overtaken(world, "guest-1", task="rebooting")
    with pytest.raises(VerifyFailed, match="guest-1"):
        desk.go("forward")
    assert world.api.rows["guest-1"].task == "rebooting" and "rows mended" not in world.changes
    world.api.rows["guest-1"].task = None
    desk.go("forward")
    assert well(world)


@pytest.mark.parametrize(("task", "mended"), [("rebooting", True), ("deleting", False)])
def test_a_task_that_the_child_has_had_and_refused_is_mended(desks: Any, task: str, mended: bool) -> None:
    world = fresh()
    world.quiet_s = 100.0
    desk = desks(world, plan(world))
    overtaken(world, "guest-1", task=task)
    if not mended:
        with pytest.raises(VerifyFailed, match="guest-1"):
            desk.go("forward")
        assert world.api.rows["guest-1"].task == task
        return
    desk.go("forward")
    assert well(world) and world.api.rows["guest-1"].task is None


def test_a_task_is_left_while_the_cells_do_not_answer_each_other(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    world.quiet_s = 100.0
    desk = desks(world, plan(world))
    overtaken(world, "guest-1", task="rebooting")
    answering = SimV1.answering
    monkeypatch.setattr(
        SimV1, "answering", lambda self, s: frozenset() if "rebooting" in
        {r.task for r in world.api.rows.values()} else answering(self, s)
    )  # fmt: skip
    with pytest.raises(VerifyFailed, match="guest-1"):
        desk.go("forward")
    assert world.api.rows["guest-1"].task == "rebooting"


def test_what_changed_around_the_switch_is_asked_for_and_no_more(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    began = world.time
    desk.go("forward")
    journal = Journal.open(desk.path, read_only=True)
    switched = journal.recall(SWITCH, BEGUN_AT)
    journal.close()
    assert began < switched < world.time and world.asked_since == switched - BEFORE_S


def test_what_is_overtaken_while_the_proof_is_taken_is_mended_but_never_by_verify(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    agreed, steps = v1_rows.agreed, list[str]()

    def then_overtaken(step: V1Step, *more: Any, **limits: Any) -> Agreement:
        found = agreed(step, *more, **limits)
        steps.append(step.id)
        if steps[-1] == "prove" and steps.count("prove") % 2:  # its act is through, its proof follows
            world.api.rows["guest-1"].task = "reboot_started"
        return found

    monkeypatch.setattr(v1_rows, "agreed", then_overtaken)
    desk.go("forward")
    assert steps.count("prove") == 2 and world.api.rows["guest-1"].task is None
    world.api.rows["guest-1"].task = "reboot_started"
    journal = Journal.open(desk.path, read_only=True)
    context = Context(world, journal, desk.plan.id, desk.plan.fingerprints, LIMITS, frozenset())
    with pytest.raises(VerifyFailed, match="guest-1"):
        bind(desk.plan, context)[-1].prove("forward")
    journal.close()
    assert world.api.rows["guest-1"].task == "reboot_started"


def test_a_nova_cells_that_is_busy_is_asked_again(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    answering, for_ever = SimV1.answering, True
    asked: list[float] = []

    def answers(self: SimV1, limit_s: float) -> frozenset[str]:
        if world.importing.phase == "live":
            asked.append(world.time)
            if for_ever or len(asked) % 3:
                raise StepFailed("nova-cells on mq4 could not service_get_all: RemoteError: QueuePool limit")
        return answering(self, limit_s)

    monkeypatch.setattr(SimV1, "answering", answers)
    with pytest.raises(StepFailed, match="QueuePool"):
        desk.go("forward")
    assert len(asked) > 2
    for_ever = False
    desk.go("forward")
    assert well(world)


def test_a_row_that_is_written_between_the_last_look_and_the_mending_is_left(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    overtaken(world, "guest-1")

    mend = SimV1.mend
    calls: list[int] = []

    def between(self: SimV1, changes: Any, seen: Any) -> Any:
        if not calls:
            world.api.rows["guest-1"].task = "powering-off"
        calls.append(len(changes))
        return mend(self, changes, seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimV1, "mend", between)
        with pytest.raises(VerifyFailed, match="guest-1"):
            desk.go("forward")
    assert calls == [1] and world.api.rows["guest-1"].task == "powering-off"
    journal = Journal.open(desk.path, read_only=True)
    assert journal.recall("sync-instances", "mended") == [], "what was not written is not named"
    journal.close()


def test_verify_names_what_was_overtaken_since_and_what_mends_it_and_writes_nothing(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    directory = desk.path.parent
    (directory / "deployment.json").write_bytes(dump_deployment(scan(world)))
    (directory / "plan.json").write_bytes(dump_plan(desk.plan))
    (directory / "journal.sqlite").write_bytes(desk.path.read_bytes())
    monkeypatch.setattr(verify, "world_of", lambda deployment: contextlib.nullcontext(world))
    monkeypatch.setattr(consistency, "PROOFS", ())
    said = CliRunner().invoke(main, ["verify", "--dir", str(directory)])
    assert said.exit_code == 0 and "ok   prove:" in said.output, said.output
    changes = list(world.changes)
    world.api.rows["guest-0"].task = "reboot_started"
    said = CliRunner().invoke(main, ["verify", "--dir", str(directory)])
    assert said.exit_code == 12 and world.changes == changes
    assert "BAD  prove: both sides differ: guest-0" in said.output
    assert "recell audit says more" in said.output and "with --heal mends" in said.output


def test_killed_while_it_mends_it_ends_as_undisturbed_and_names_it_once(desks: Any) -> None:
    point = V1World.point
    for what in ("before rows are mended", "rows mended"):
        world = fresh()
        desk = desks(world, plan(world))
        overtaken(world, "guest-2")

        def dies(self: V1World, said: str, what: str = what) -> None:
            if said == what:
                raise Killed(said)
            point(self, said)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(V1World, "point", dies)
            with pytest.raises(Killed):
                desk.go("forward")
        desk.go("forward")
        assert well(world) and world.api.rows["guest-2"].task is None, what
        journal = Journal.open(desk.path, read_only=True)
        assert [m["label"] for m in journal.recall("sync-instances", "mended")] == ["guest-2"], what
        journal.close()


def test_undo_stops_before_it_loses_what_only_the_api_cell_has(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    world.api.rows["alone"] = Inst(1, PATH)
    with pytest.raises(StepFailed, match="instance alone"):
        desk.go("backward")
    assert served(world) == "new", "nobody was moved"
    del world.api.rows["alone"]
    desk.go("backward")
    assert well(world) and served(world) == "old"


def test_failed_builds_that_no_cell_took_keep_their_database(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    world.api.rows["no-room-1"] = Inst(1)
    desk.go("backward")
    assert well(world) and "no-room-1" in world.api.rows
    journal = Journal.open(desk.path, read_only=True)
    assert "no-room-1" in journal.recall("api/database", "kept")
    journal.close()
    with pytest.raises(Unknowable, match="no-room-1"):
        desk.go("forward")
    assert "no-room-1" in world.api.rows


def test_a_change_by_somebody_else_stops_it(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.hosts["api1"].files[CONF].content += b"# puppet was here\n"
    with pytest.raises(StalePlan, match="api1"):
        desk.go("forward")


def test_it_can_be_done_by_hand_and_rehearsed(desks: Any, tmp_path: Path) -> None:
    world = fresh()
    for made in (plan(world), plan(world, FILES)):
        by_hand(made)
    would = observed(world, plan(world), tmp_path)
    assert {"make recell's account", "write the record of api", "make the empty database"} <= set(would)


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
        meanwhile=lambda world: world.wait(1),
    )


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _killed(desks, first, then, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS)
@pytest.mark.parametrize("start", range(11))
def test_killed_anywhere(desks: Any, first: list[str], then: str, start: int) -> None:
    _killed(desks, first, then, start)


def test_check_finds_nothing_in_the_way_and_names_what_is() -> None:
    world = fresh()
    made = plan(world)
    assert [v.id for v in check(scan(world), layout_v1(), world, made) if v.severity == "stop"] == []
    world.hosts["ctl1"].files["/etc/nova/nova-cell1.conf"] = world.hosts["ctl1"].files[CONF]
    found = [v.id for v in check(scan(world), layout_v1(), world, made) if v.severity == "stop"]
    assert found == ["in-the-way:ctl1:/etc/nova/nova-cell1.conf"]


def test_what_a_load_balancer_hides_from_the_broker_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Mitaka clients don't say their process: none could be ended without losing what is sent to it."""
    world = fresh()
    made = plan(world)
    seen = V1Broker.consumers

    def hidden(broker: V1Broker, vhost: str) -> tuple[Consumer, ...]:
        return tuple(replace(c, peer_host="lb1", client_name="") for c in seen(broker, vhost))

    monkeypatch.setattr(V1Broker, "consumers", hidden)
    found = {v.id for v in check(scan(world), layout_v1(), world, made) if v.severity == "stop"}
    roles = ("conductor", "scheduler")
    assert found == {f"untold:{h}:nova-{r}" for h in ("ctl1", "ctl2") for r in roles} | {
        "untold:cmp1:nova-compute", "untold:cmp2:nova-compute",
    }  # fmt: skip
    # Newton's and later do: that is enough where they have one connection.
    monkeypatch.setattr(
        V1Broker, "consumers", lambda b, vhost: tuple(replace(c, peer_host="lb1") for c in seen(b, vhost)))
    assert [v.id for v in check(scan(world), layout_v1(), world, made) if v.severity == "stop"] == []
