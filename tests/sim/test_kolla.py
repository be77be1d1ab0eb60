"""Whole conversions of a deployment in kolla's containers: undisturbed, killed everywhere, undone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.dry import DryWorld
from recell.engine import Engine
from recell.errors import Unknowable, Unsupported
from recell.journal import Journal
from recell.model.deployment import Deployment, dump_deployment, load_deployment
from recell.model.plan import Plan
from recell.model.step import Truth
from recell.planning import runbook
from recell.planning.export import export
from recell.planning.split import plan_split
from recell.preflight import live, rules
from recell.steps import Context, bind
from tests.sim.cloud import LAYOUT, REMOVE, layout
from tests.sim.desk import LIMITS, desks  # noqa: F401 -- a fixture
from tests.sim.killing import killed_everywhere, whole
from tests.sim.kolla import KollaHost, build, scan, unit_name
from tests.sim.world import SimWorld

SUPER = "kolla-nova_super_conductor-container"


def drafted(world: SimWorld, text: str = LAYOUT) -> Plan:
    return plan_split(scan(world), layout(text), 0.0)


def test_discovery_sees_through_the_units() -> None:
    found = {(s.host, s.role): s for s in scan(build()).services}
    assert len(found) == 2 * 4 + 2
    api = found["ctl1", "api"]
    assert api.unit == unit_name("nova-api") and api.argv[0] == "uwsgi"
    assert api.config_files == ("/etc/kolla/nova-api/nova.conf",)
    assert api.origins["DEFAULT/transport_url"] == "/etc/kolla/nova-api/nova.conf"
    conductor = found["ctl2", "conductor"].container
    assert conductor is not None and (conductor.engine, conductor.name) == ("docker", "nova_conductor")
    assert conductor.grace_s == 60 and not conductor.obstacle
    assert "/etc/kolla/nova-conductor/config.json" in conductor.files
    deployment = scan(build())
    assert load_deployment(dump_deployment(deployment), "deployment.json") == deployment


@pytest.mark.parametrize("text", [LAYOUT, REMOVE])
@pytest.mark.parametrize("controllers", [2, 3])
def test_there_and_back_and_there_again(desks: Any, controllers: int, text: str) -> None:  # noqa: F811
    world = build(controllers)
    before = world.picture()
    desk = desks(world, drafted(world, text))
    desk.go("forward")
    assert world.complaints == []
    after, changes = world.picture(), list(world.changes)
    for name in ("ctl1", "ctl2"):
        host = world.hosts[name]
        assert "mq4" in host.api.config["transport_url"]
        made = host.units_[SUPER]
        assert made.active and made.enabled and "mq4" in made.config["transport_url"]
        assert made.config["connection"].endswith("nova_cell0?charset=utf8mb4") and made.config["api"]
        cells = host.units_[unit_name("nova-conductor")]
        assert "mq1" in cells.config["transport_url"] and bool(cells.config["api"]) == (text == LAYOUT)
        unit = host.files[f"/etc/systemd/system/{SUPER}.service"].content.decode()
        assert "ExecStop=/usr/bin/docker stop nova_super_conductor -t 60" in unit
        assert "nova_conductor" not in unit.replace(f"# kolla-{'nova_conductor'}-container.service", "")
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert world.complaints == [] and world.picture() == before
    desk.go("forward")
    assert world.complaints == [] and world.picture() == after


def test_the_cells_services_are_left_alone(desks: Any) -> None:  # noqa: F811
    world = build()
    began = {n: world.hosts[n].units_[unit_name("nova-conductor")].pid for n in ("ctl1", "ctl2")}
    desks(world, drafted(world)).go("forward")
    assert began == {n: world.hosts[n].units_[unit_name("nova-conductor")].pid for n in ("ctl1", "ctl2")}
    assert not [c for c in world.changes if "/etc/kolla/nova-conductor" in c or "cmp" in c or "novnc" in c]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["forward"], "forward"),
        pytest.param(["forward"], "backward", marks=pytest.mark.thorough),
        pytest.param(["forward", "backward"], "backward", marks=pytest.mark.thorough),
    ],
)
def test_killed_anywhere(desks: Any, first: list[str], then: str) -> None:  # noqa: F811
    killed_everywhere(build, lambda world: desks(world, drafted(world)), whole, first, then)


def test_somebody_elses_container_is_left_alone(desks: Any) -> None:  # noqa: F811
    world = build()
    desk = desks(world, drafted(world))
    host = world.hosts["ctl1"]
    assert isinstance(host, KollaHost)
    host.make("nova_super_conductor", "/etc/kolla/theirs", "/usr/bin/nova-conductor", "")
    found = [v.id for v in live._new_containers_are_new(world, desk.plan)]
    assert found == ["in-the-way:ctl1:nova_super_conductor"]
    with pytest.raises(Unknowable, match="recell did not make is on ctl1"):
        desk.go("forward")
    desk.go("backward")
    assert b"/etc/kolla/theirs" in host.files["container:nova_super_conductor"].content


def _with(deployment: Deployment, role: str, **changed: Any) -> Deployment:
    services = tuple(
        replace(s, container=replace(s.container, **changed)) if s.role == role and s.container else s
        for s in deployment.services
    )
    return replace(deployment, services=services)


def test_what_is_beyond_control_is_refused_before_a_plan() -> None:
    deployment = scan(build())
    for role in ("api", "scheduler", "conductor"):
        broken = _with(deployment, role, obstacle="the container x is not on the host's network (bridge)")
        with pytest.raises(Unsupported, match="can't be controlled: the container x is not on"):
            plan_split(broken, layout(), 0.0)
    computes = _with(deployment, "compute", obstacle="no systemd unit starts it")
    assert plan_split(computes, layout(), 0.0), "no compute is touched"
    with pytest.raises(Unsupported, match="no systemd unit"):
        plan_split(computes, layout(REMOVE), 0.0)


def test_a_super_conductor_of_kollas_own_is_not_taken_over(desks: Any) -> None:  # noqa: F811
    world = build()
    desks(world, drafted(world)).go("forward")
    deployment = scan(world)
    # As if it were still on one broker: kolla's enable_cells with a single cell.
    services = tuple(replace(s, transport_url="rabbit://nova:***@mq1:5672/") for s in deployment.services)
    with pytest.raises(Unsupported, match="has a container nova_super_conductor already"):
        plan_split(replace(deployment, services=services), layout(), 0.0)


def test_an_engine_that_kills_early_is_told_of() -> None:
    deployment = scan(build())
    found = list(rules.engines_are_patient(deployment, layout()))
    assert {v.where for v in found} == {"ctl1", "ctl2"} and all(v.severity == "warning" for v in found)
    assert "docker kills nova_conductor 60 s after" in " ".join(v.what for v in found)
    patient = _with(_with(deployment, "conductor", grace_s=300.0), "scheduler", grace_s=0.0)
    assert not list(rules.engines_are_patient(patient, layout()))


def test_an_observation_of_containers_writes_nothing(tmp_path: Path) -> None:
    world = build()
    plan, before, changes = drafted(world), world.picture(), list(world.changes)
    journal = Journal.create(tmp_path / "journal.sqlite", plan.digest)
    pretended = DryWorld(world)
    with journal.writing("rehearse", "forward"):
        context = Context(pretended, journal, plan.id, plan.fingerprints, LIMITS)
        seen = Engine(bind(plan, context), journal).rehearse(guarded=True)
    journal.close()
    assert world.picture() == before and world.changes == changes
    assert not [f for _, f in seen if f.truth is Truth.UNKNOWN]
    assert ("ctl1", "docker create nova_super_conductor, like nova_conductor") in pretended.record.changes


def test_by_hand_and_for_kolla_ansible() -> None:
    world = build()
    deployment, plan = scan(world), drafted(world)
    forth = runbook.forth(plan, lambda *_: None)
    back = runbook.back(plan, lambda *_: None)
    commands = [c for h in (*forth, *back) for c in h.commands]
    assert "docker rm --volumes nova_super_conductor" in commands
    assert f"systemctl enable --now {SUPER}" in commands
    files = export(plan, deployment, "kolla-ansible")
    assert {"config/nova/nova-api.conf", "config/nova/nova-super-conductor.conf"} <= set(files)
    assert "nova_super_conductor (create a second container" in files["README"]
    assert "nova_conductor" in " ".join(plan.remarks) and "--config-file" not in " ".join(plan.remarks)
