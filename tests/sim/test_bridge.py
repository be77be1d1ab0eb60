"""A fresh RabbitMQ cluster and the bridge to it in the simulated world: calm, killed everywhere, undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from recell.errors import StepFailed, Unsupported
from recell.journal import Journal
from recell.model.deployment import Deployment
from recell.model.plan import dump_plan, load_plan
from recell.model.rabbit import QueueHome
from recell.planning.rabbit import plan_rabbit
from recell.preflight.rabbit import check
from recell.steps import Context
from recell.steps.rabbit_bridge import Bridge
from tests.sim.bridge import lasting, told
from tests.sim.desk import LIMITS, Desk
from tests.sim.killing import WAYS, killed_again_and_again, killed_everywhere
from tests.sim.rabbit import HOSTS, RabbitWorld
from tests.sim.test_rabbit import CLIENTS, CONF, TEXT, build, changed_node, layout, scan
from tests.sim.test_rabbit import desks as desks

FRESH = TEXT.replace("rabbitmq:\n", "rabbitmq:\n  method: fresh\n")


def build_fresh() -> RabbitWorld:
    world = build()
    for host, side in HOSTS.items():
        if side == "new":
            world.nodes[host].cookie = b"OWNCOOKIE"
    return world


def scan_fresh(world: RabbitWorld) -> Deployment:
    found = scan(world)
    nodes = tuple(replace(n, cookie=int(HOSTS[n.host] == "new")) for n in found.rabbit)
    return replace(found, rabbit=nodes)


def fresh_desk(desks: Any, world: RabbitWorld) -> Desk:
    desk: Desk = desks(world, plan_rabbit(scan_fresh(world), layout(FRESH), 0.0))
    return desk


def test_a_fresh_cluster_there_and_back(desks: Any) -> None:
    world = build_fresh()
    before = world.picture()
    desk = fresh_desk(desks, world)
    assert desk.plan.kind == "fresh-rabbitmq" and "s3cret" not in told(desk.plan)
    assert load_plan(dump_plan(desk.plan), "plan.json") == desk.plan
    desk.go("forward")
    assert world.complaints == [] and world.cuts == 0 and world.traffic.delivered > 100
    for host, side in HOSTS.items():
        node, own = world.nodes[host], {f"rabbit@{h}" for h, s in HOSTS.items() if s == side}
        assert node.db == own and sorted(node.accounts) == ["os"] and not node.shovels and not node.plugged
    assert set(lasting(world.nodes["mq4"])) == {"q-plugin"}
    assert world.nodes["mq1"].cookie != world.nodes["mq4"].cookie
    conf = world.hosts["mq4"].files[CONF].content.decode()
    assert "classic_config.nodes.3 = rabbit@mq6" in conf
    assert world.hosts["mq1"].files[CONF].content.count(b"\n") == 2, "the old nodes' file is left alone"
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    after = world.picture()
    assert world.complaints == [] and _unplaced(after) == _unplaced(before)


def _unplaced(picture: dict[str, Any]) -> dict[str, Any]:
    units = {u: (v[0], v[3]) for u, v in picture["units"].items()}
    return {**picture, "units": units}


def test_undo_after_a_cut_goes_over_a_bridge(desks: Any) -> None:
    world = build()
    desk = desks(world)
    desk.go("forward")
    assert world.traffic.delivered == 0
    desk.go("backward")
    assert world.complaints == [] and world.traffic.delivered > 100
    assert not any(n.shovels or n.plugged for n in world.nodes.values())
    assert sorted(world.nodes["mq1"].accounts) == ["os"]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.thorough), 9])
@pytest.mark.parametrize(("first", "then"), WAYS)
def test_a_fresh_cluster_killed_anywhere(desks: Any, first: Sequence[str], then: str, every: int) -> None:
    killed_everywhere(build_fresh, lambda world: fresh_desk(desks, world), _unplaced, first, then, every)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(s, marks=pytest.mark.thorough) for s in range(3, 100))]
)
def test_a_fresh_cluster_killed_again_and_again(desks: Any, seed: int) -> None:
    killed_again_and_again(build_fresh, lambda world: fresh_desk(desks, world), _unplaced, seed)


def test_a_password_may_be_anything(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what else tells one cluster's URLs from the other's."""
    monkeypatch.setattr("recell.steps.rabbit_bridge.secrets.token_urlsafe", lambda size: "@mq1:5672/mq4")
    world = build_fresh()
    desk = fresh_desk(desks, world)
    desk.go("forward")
    desk.go("backward")
    assert world.complaints == [] and world.traffic.delivered > 100


def test_the_bridges_simulation_is_to_be_believed() -> None:
    world = build_fresh()
    for name in ("mq1", "mq4"):
        world.nodes[name].accounts |= {"os": "", "recell-bridge": ""}
    world.nodes["mq4"].shovels["some"] = ("versioned", "versioned", True)
    net = world.hosts["net1"]
    net.files["/etc/neutron-server.conf"] = replace(
        net.files["/etc/neutron-server.conf"],
        content=b"[DEFAULT]\ntransport_url = rabbit://os:s3cret@mq4:5672/\n",
    )
    net.begin(net.units_["neutron-server"])
    world.wait(40)
    world.wait(100)
    assert any("finds no queue on rabbit@mq4" in c for c in world.complaints)
    assert any("fanout misses" in c for c in world.complaints)
    world.nodes["mq4"].shovels |= {"a": ("q-plugin", "q-plugin", True), "b": ("q-plugin", "q-plugin", False)}
    world.wait(1)
    assert any("go in circles" in c for c in world.complaints)


def test_messages_that_stay_keep_the_bridge_open(desks: Any) -> None:
    """Somebody on the old side goes on sending to a queue, faster than it is brought over."""
    world = build_fresh()
    desk = fresh_desk(desks, world)
    desk.go("forward")
    told_of = next(s.params for s in desk.plan.steps if s.id == "rabbitmq/bridge")
    journal = Journal.open(desk.path)
    try:
        with journal.writing("resume", "forward"):
            bridge = Bridge(Context(world, journal, desk.plan.id, (), LIMITS), told_of)
            bridge.waiting = lambda: ["3 in q-plugin on mq1's cluster"]  # type: ignore[method-assign]
            bridge.equip()
            with pytest.raises(StepFailed, match="3 in q-plugin on mq1's cluster"):
                bridge.close(30)
    finally:
        journal.close()
    assert all("recell-bridge" in n.accounts for n in world.nodes.values()), "nothing was taken away"


@pytest.mark.parametrize(
    ("host", "changed", "words"),
    [
        ("mq5", {"cookie": 2}, "new nodes have different Erlang cookies"),
        ("mq4", {"version": "3.7.1"}, "bridges 3.8.2 and newer"),
        ("mq6", {"version": "4.0.5"}, "new nodes run different releases"),
        ("mq4", {"used": ("3 queues",)}, "not blank"),
        ("mq2", {"alarms": ("memory",)}, "alarm: memory"),
        ("mq2", {"partitions": ("rabbit@mq3",)}, "sees a partition"),
        ("mq4", {"container": True}, "container"),
    ],
)
def test_a_fresh_cluster_is_refused_with_the_reason(host: str, changed: dict[str, Any], words: str) -> None:
    found = changed_node(scan_fresh(build_fresh()), host, **changed)
    with pytest.raises(Unsupported, match=words):
        plan_rabbit(found, layout(FRESH), 0.0)


def test_a_fresh_cluster_has_a_cookie_of_its_own() -> None:
    with pytest.raises(Unsupported, match="one ping would join the two"):
        plan_rabbit(scan(build()), layout(FRESH), 0.0)


def test_a_fresh_cluster_needs_no_wall() -> None:
    found = scan_fresh(build_fresh())
    found = replace(found, hosts=tuple(replace(h, firewall="") for h in found.hosts))
    assert not any(v.severity == "stop" for v in check(found, layout(FRESH)))


def test_what_a_split_refuses_a_fresh_cluster_may_have() -> None:
    found = scan_fresh(build_fresh())
    nodes = tuple(
        replace(n, khepri=True, version="4.1.0" if HOSTS[n.host] == "keep" else "4.2.1", ticktime_s=5.0)
        for n in found.rabbit
    )
    stream = QueueHome("/", "s_fanout", "stream", "rabbit@mq1", ("rabbit@mq1",), ("rabbit@mq1",))
    found = replace(found, rabbit=nodes, rabbit_queues=(stream,))
    plan = plan_rabbit(found, layout(FRESH), 0.0)
    assert not any(s.kind in ("rabbit-handling", "rabbit-part") for s in plan.steps)


def test_who_asks_the_other_side_while_it_starts_is_answered(desks: Any) -> None:
    """An agent moves before the server that it reports to: the answer needs a way to its new queue."""
    world = build("classic", clients={**CLIENTS, "net0": ("neutron-agent", "l3")})
    for host, side in HOSTS.items():
        world.nodes[host].cookie = b"OWNCOOKIE" if side == "new" else world.nodes[host].cookie
    world.asks = {"net0": "q-plugin"}
    desk = fresh_desk(desks, world)
    desk.go("forward")
    assert world.complaints == [] and world.serves("net0")
    desk.go("backward")
    assert world.complaints == [] and world.serves("net0")
