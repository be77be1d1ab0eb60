"""The moment of a conversion to cells v1, simulated: killed at every point of it, and what forbids it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from recell.errors import StepFailed, Unknowable, Unreachable, VerifyFailed
from recell.journal import Journal
from recell.model.plan import Plan
from recell.model.step import Finding
from recell.planning.v1 import SWITCH, plan_v1
from recell.steps.v1_switch import V1Switch
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS, killed_everywhere, whole
from tests.sim.v1_ear import SimEar, Update
from tests.sim.v1_hold import DOORS, LEASE_S, HoldWorld, SimGate
from tests.sim.v1_world import SimV1, build, passes, plan, scan, well, wrong
from tests.sim.world import SimProxy
from tests.unit.stein_cloud import layout_v1


@functools.cache
def _built() -> HoldWorld:
    world = build(make=HoldWorld)
    assert isinstance(world, HoldWorld)
    return world


def fresh() -> HoldWorld:
    return copy.deepcopy(_built())


def two_proxies() -> HoldWorld:
    """Users of one HAProxy must not be led elsewhere than those of the other."""
    world = fresh()
    world.proxies["api1"] = SimProxy(world, "api1", {"nova-api": ["ctl1", "ctl2"]})
    return world


def plan_of_two(world: HoldWorld) -> Plan:
    found = scan(world)
    second = tuple(replace(p, proxy="api1") for p in found.proxies)
    return plan_v1(replace(found, proxies=(*found.proxies, *second)), layout_v1(), 0.0)


def pair() -> tuple[HoldWorld, Plan]:
    world = two_proxies()
    return world, plan_of_two(world)


def led(world: HoldWorld) -> str:
    return world.serving


def remembered(desk: Any, key: str) -> Any:
    journal = Journal.open(desk.path, read_only=True)
    try:
        return journal.recall(SWITCH, key)
    finally:
        journal.close()


def until_switch(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything before it is applied."""

    def refuse(self: V1Switch, toward: str) -> Finding:
        raise StepFailed("the switch comes next")

    with monkeypatch.context() as patch:
        patch.setattr(V1Switch, "look", refuse)
        with pytest.raises(StepFailed, match="comes next"):
            desk.go("forward")


def test_users_wait_for_a_moment_and_how_long_is_told(desks: Any) -> None:
    world, made = pair()
    desk = desks(world, made)
    desk.go("forward")
    assert well(world)
    assert 0 < remembered(desk, "held-forward") < 2
    assert "proven equal; 6 requests waited" in remembered(desk, "proof-forward")
    hold = remembered(desk, "hold-forward")
    assert hold["seconds"] == round(remembered(desk, "held-forward"), 3)
    assert [part["what"] for part in hold["parts"]] == [
        "requests begin to wait", "is anything under way?", "the last rows arrive and are proven equal",
        "does it stay so?", "the copy ends, failed builds come", "api hears cell1 again", "HAProxy is armed",
        "nova-api of cell1 is fenced off", "requests go on",
    ]  # fmt: skip
    assert sum(part["seconds"] for part in hold["parts"]) == pytest.approx(hold["seconds"], abs=0.01)
    order = [c for c in world.changes if "holds" in c or "fenced" in c or "leads" in c or "armed" in c]
    assert order == [
        "lb1 holds", "api1 holds", "lb1 armed new", "api1 armed new", "ctl1 fenced", "ctl2 fenced",
        "lb1 leads to new", "api1 leads to new", "api1 leads consoles to new", "lb1 leads consoles to new",
    ]  # fmt: skip
    assert not any(world.fences.values()), "what serves the child is reached again"
    for host in ("ctl1", "ctl2"):
        gone = world.changes.index(f"{host} open")
        assert f"{host} restart nova-api" in world.changes[:gone], "nothing old is behind it any more"
    after = world.changes[world.changes.index("ctl2 pause nova-cells"):]
    places = [after.index(c) for c in (
        "api1 start nova-cells", "ear shut", "ctl2 continue nova-cells", "ctl1 start nova-conductor-cell1",
        "lb1 holds", "handed over", "ear open", "lb1 armed new",
    )]  # fmt: skip
    assert places == sorted(places)
    begun, said = world.changes.index("lb1 holds"), world.dropped
    assert said > 0 and not world.said, "what was said before is dropped, and nothing comes late"
    released = world.changes.index("api1 released")
    assert not [c for c in world.changes[begun:released] if " start " in c], "nobody waits for a start"
    desk.go("backward")
    assert well(world) and 0 < remembered(desk, "held-backward") < 2


def test_what_is_under_way_is_waited_for(desks: Any) -> None:
    world = fresh()
    world.busy, world.inside, world.leaving = 20, 6, 3
    world.stuck = ("guest-2 is deleting",)
    world.broker("mq1").slow = "RabbitMQ on mq1 opens no socket"
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    last = remembered(desk, "hold-forward")["parts"][-1]["what"]
    assert last == "mq1 was asked through rabbitmqctl: RabbitMQ on mq1 opens no socket"
    journal = Journal.open(desk.path, read_only=True)
    (ended,) = [e for e in journal.entries() if e.step == SWITCH and e.phase == "finished"]
    journal.close()
    assert "not waited for: guest-2 is deleting" in ended.detail["verified"]
    assert remembered(desk, "held-forward") > 2


def test_a_cloud_that_never_rests_is_left_as_it_was_and_can_be_tried_again(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    world.busy = 10_000
    with pytest.raises(StepFailed, match="guest-1 is rebooting") as refused:
        desk.go("forward")
    assert "Requests went on, and nothing was switched" in str(refused.value)
    assert remembered(desk, "held-forward") > 2, "users waited, also for nothing"
    assert "is anything under way?" in str(remembered(desk, "hold-forward"))
    assert well(world) and led(world) == "old" and not world.held
    assert not any(world.fences.values()) and world.importing.phase == "following"
    assert not world.hosts["api1"].units_["nova-cells"].active
    assert not world.hosts["ctl1"].units_["nova-cells"].paused
    world.busy = 0
    desk.go("forward")
    assert well(world) and led(world) == "new"
    world.busy = 10_000
    with pytest.raises(StepFailed, match="guest-1 is rebooting"):
        desk.go("backward")
    assert well(world) and led(world) == "new"
    world.busy = 0
    desk.go("backward")
    assert well(world) and led(world) == "old"


def test_rows_that_differ_let_users_go_on(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    before = world.picture()
    desk = desks(world, plan(world))

    def differs(self: SimV1, limit_s: float) -> str:
        self.world.time += 1
        raise VerifyFailed("instances 7 differs")

    monkeypatch.setattr(SimV1, "drain", differs)
    with pytest.raises(StepFailed, match="instances 7 differs"):
        desk.go("forward")
    assert well(world) and led(world) == "old"
    monkeypatch.undo()
    desk.go("backward")
    assert well(world) and world.picture() == before


def test_failing_once_the_rows_were_handed_over_they_are_copied_anew(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))

    def late(self: SimGate, toward: str) -> None:
        raise StepFailed("the hold has ended by itself")

    monkeypatch.setattr(SimGate, "arm", late)
    with pytest.raises(StepFailed, match="ended by itself"):
        desk.go("forward")
    assert well(world) and led(world) == "old" and world.importing.phase == "stale"
    monkeypatch.undo()
    desk.go("forward")
    assert well(world) and led(world) == "new"


def test_a_nova_cells_that_connects_again_hears_nothing_before_its_time(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    hold = SimGate.hold

    def connects(self: SimGate, lease_s: float, longest_s: float) -> None:
        hold(self, lease_s, longest_s)
        assert world.said, "somebody has something to tell"
        world.shut_at = None

    monkeypatch.setattr(SimGate, "hold", connects)
    desk.go("forward")
    assert well(world) and led(world) == "new"


@pytest.mark.parametrize("when", ["conductors end", "rows catch up"])
def test_a_nova_cells_that_connects_again_before_the_hold_is_made_deaf_again(
    desks: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    stop, caught_up, holds = HoldWorld.stop_rpc_server, SimV1.catch_up, SimGate.hold
    times: list[float] = []

    def connects() -> None:
        if world.shut_now() and world.bound() and not times:
            times.append(world.time)
            world.shut_at, world.again = None, True
            world.waiting.append(Update("guest-1", -1, world.time))

    def stops(self: HoldWorld, *args: Any, **more: Any) -> float:
        if when == "conductors end":
            connects()
        return stop(self, *args, **more)

    def catches(self: SimV1, limit_s: float) -> float:
        lag = caught_up(self, limit_s)
        if when == "rows catch up":
            connects()
            world.observe()
        return lag

    def hold(self: SimGate, lease_s: float, longest_s: float) -> None:
        assert world.shut_now() and times, "it hears nothing when requests begin to wait"
        holds(self, lease_s, longest_s)

    monkeypatch.setattr(HoldWorld, "stop_rpc_server", stops)
    monkeypatch.setattr(SimV1, "catch_up", catches)
    monkeypatch.setattr(SimGate, "hold", hold)
    desk.go("forward")
    assert well(world) and led(world) == "new" and world.changes.count("ear shut") == 3
    assert remembered(desk, "reconnected") == 1
    journal = Journal.open(desk.path, read_only=True)
    (ended,) = [e for e in journal.entries() if e.step == SWITCH and e.phase == "finished"]
    journal.close()
    assert "nova-cells of api was deafened again 1 times" in ended.detail["verified"]


def test_what_nova_cells_had_in_its_hand_when_rows_were_proven_is_put_right(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    drain = SimV1.drain
    drained: list[str] = []

    def written_after(self: SimV1, limit_s: float) -> str:
        said = drain(self, limit_s)
        if not drained:
            world.api.rows["guest-1"].value = -1
        drained.append(said)
        return said

    monkeypatch.setattr(SimV1, "drain", written_after)
    desk.go("forward")
    assert well(world) and led(world) == "new" and len(drained) == 2


def test_what_is_still_being_told_is_waited_for_and_most_of_it_before_users_wait(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    caught_up, hold = SimV1.catch_up, SimGate.hold

    def told(count: int) -> None:
        world.said += [Update("guest-1", -1, world.time) for _ in range(count)]

    def busy(self: SimV1, limit_s: float) -> float:
        told(200)
        world.pace = 2
        return caught_up(self, limit_s)

    def last(self: SimGate, lease_s: float, longest_s: float) -> None:
        hold(self, lease_s, longest_s)
        told(40)

    monkeypatch.setattr(SimV1, "catch_up", busy)
    monkeypatch.setattr(SimGate, "hold", last)
    desk.go("forward")
    assert well(world) and led(world) == "new"
    assert 2 < remembered(desk, "held-forward") < 6


def test_a_broker_that_does_not_answer_when_the_ear_has_to_open_lets_users_go_on(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    desk = desks(world, plan(world))

    def away(self: SimEar) -> None:
        raise Unreachable("the broker mq4 does not answer", "")

    monkeypatch.setattr(SimEar, "open", away)
    with pytest.raises(Unreachable, match="mq4"):
        desk.go("forward")
    assert well(world) and led(world) == "old" and world.importing.phase == "stale"
    monkeypatch.undo()
    desk.go("forward")
    assert well(world) and led(world) == "new"


def test_an_ear_that_somebody_shut_is_told(desks: Any) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    desk.go("forward")
    assert well(world)
    world.shut_at = world.time
    with pytest.raises(VerifyFailed, match="nova-cells of api does not hear cell1"):
        desk.go("forward")
    # An undo that leaves users where they are leaves them with it open.
    world.busy = 10_000
    with pytest.raises(StepFailed, match="guest-1 is rebooting"):
        desk.go("backward")
    assert world.complaints and not world.shut_now()
    world.complaints.clear()
    assert well(world) and led(world) == "new"


def test_a_run_that_goes_on_opens_it_again(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    desk = desks(world, plan(world))

    def dies(self: V1Switch, toward: str) -> str:
        raise StepFailed("it ends here")

    with monkeypatch.context() as patch:
        patch.setattr(V1Switch, "prove", dies)
        with pytest.raises(StepFailed, match="it ends here"):
            desk.go("forward")
    world.shut_at = world.time
    desk.go("forward")
    assert well(world) and led(world) == "new" and world.changes.count("ear open") == 2


def test_a_reload_in_the_moment_stops_it(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    hold = SimGate.hold

    def reloaded(self: SimGate, lease_s: float, longest_s: float) -> None:
        hold(self, lease_s, longest_s)
        world.reloaded += 1

    monkeypatch.setattr(SimGate, "hold", reloaded)
    with pytest.raises(StepFailed, match="was reloaded while it held requests"):
        desk.go("forward")
    monkeypatch.undo()
    assert well(world) and led(world) == "old" and not world.held
    desk.go("forward")
    assert well(world) and led(world) == "new"


def test_an_api_cell_that_is_not_up_gets_nobody(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fresh()
    desk = desks(world, plan(world))
    until_switch(desk, monkeypatch)
    for host in DOORS["new"]:
        world.hosts[host].api.active = False
    with pytest.raises(StepFailed, match="sees no server up"):
        desk.go("forward")
    assert led(world) == "old" and not world.held and world.complaints == []


def test_haproxies_that_somebody_led_apart_are_for_a_human(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, made = pair()
    desk = desks(world, made)
    until_switch(desk, monkeypatch)
    world.gates["lb1", "nova-api"].side = "new"
    with pytest.raises(Unknowable, match="one HAProxy leads to the child"):
        desk.go("forward")


def test_finished_the_gates_go_and_users_stay(desks: Any) -> None:
    world, made = pair()
    desk = desks(world, made)
    desk.go("forward")
    desk.finish()
    assert not any(g.written or g.installed for g in world.gates.values())


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_retired_comes_back_as_it_was(desks: Any, enabled: bool) -> None:
    world = fresh()
    world.hosts["ctl2"].units_["nova-consoleauth"].enabled = enabled
    desk = desks(world, plan(world))
    desk.go("forward")
    for host in ("ctl1", "ctl2"):
        for name in ("nova-conductor", "nova-scheduler", "nova-consoleauth", "nova-novncproxy"):
            unit = world.hosts[host].units_[name]
            assert not unit.active and not unit.enabled, name
    desk.go("backward")
    unit = world.hosts["ctl2"].units_["nova-consoleauth"]
    assert unit.active and unit.enabled == enabled and well(world)


def test_a_unit_that_others_want_is_masked_and_unmasked(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    host = world.hosts["ctl1"]
    systemctl = host.systemctl
    told: list[str] = []

    def wanted(verb: str, unit: str = "", *, timeout: float = 180) -> None:
        if unit == "nova-novncproxy" and verb in ("mask", "unmask", "disable"):
            told.append(verb)
            verb = {"mask": "disable", "unmask": "enable"}.get(verb, "")
        if verb:
            systemctl(verb, unit, timeout=timeout)

    monkeypatch.setattr(host, "systemctl", wanted)
    desk = desks(world, plan(world))
    desk.go("forward")
    desk.go("backward")
    assert told == ["disable", "mask", "unmask"]
    assert host.units_["nova-novncproxy"].enabled and well(world)


def _moment(told: Sequence[str]) -> range:
    """Its points, and what stands around it."""
    ours = [n for n, what in enumerate(told, 1) if "lb1" in what or "fence" in what or "pause" in what]
    return range(ours[0] - 4, min(ours[-1] + 4, len(told)) + 1)


def _killed(desks: Any, first: list[str], then: str, every: int, start: int, wait_s: int) -> None:
    """Leases end or not, between the kill and what follows."""
    points = killed_everywhere(
        two_proxies,
        lambda world: desks(world, plan_of_two(world)),
        whole,
        first,
        then,
        every,
        start,
        wrong=wrong,
        meanwhile=lambda world: passes(world, wait_s),
        within=_moment,
    )
    assert points > 60


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_in_the_moment_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _killed(desks, first, then, 23, 5, LEASE_S)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS)
@pytest.mark.parametrize("wait_s", [0, LEASE_S])
@pytest.mark.parametrize("start", range(8))
def test_killed_anywhere_in_the_moment(
    desks: Any, first: list[str], then: str, wait_s: int, start: int
) -> None:
    _killed(desks, first, then, 8, start, wait_s)
