"""One RabbitMQ cluster becomes two in the simulated world: undisturbed, killed everywhere, undone."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.dry import DryWorld
from recell.engine import Engine
from recell.engine.run import Event
from recell.errors import StepFailed, Unknowable, VerifyFailed
from recell.journal import Journal
from recell.model.deployment import Address, ConfigFile, Deployment, HostFacts
from recell.model.layout import BrokerLayout, load_any_layout
from recell.model.plan import Plan, dump_plan, load_plan
from recell.model.rabbit import Policy, QueueHome, RabbitClient, RabbitNode
from recell.model.step import Truth
from recell.planning import runbook
from recell.planning.rabbit import plan_rabbit
from recell.steps import Context, bind
from tests.sim.desk import LIMITS, Desk
from tests.sim.killing import WAYS, killed_again_and_again, killed_everywhere
from tests.sim.rabbit import HOSTS, ClientHost, Queue, RabbitWorld
from tests.sim.world import SimFile, SimUnit

CONF = "/etc/rabbitmq/rabbitmq.conf"
URL = "rabbit://os:s3cret@mq1:5672,os:s3cret@mq2:5672/"
CLIENTS = {
    "ctl1": ("nova-conductor", "conductor"),
    "net1": ("neutron-server", "q-plugin"),
    "net2": ("neutron-server", "q-plugin"),
    "tel1": ("ceilometer-agent", ""),
}
TEXT = """
rabbitmq:
  keep: {hosts: [mq1, mq2, mq3]}
  new:
    hosts: [mq4, mq5, mq6]
    clients: ["neutron-*@net*", "ceilometer-*@*"]
"""


def layout(text: str = TEXT) -> BrokerLayout:
    found = load_any_layout(text, "layout.yaml")
    assert isinstance(found, BrokerLayout)
    return found


def build(
    kind: str = "classic",
    make: Callable[[], RabbitWorld] = RabbitWorld,
    clients: dict[str, tuple[str, str]] = CLIENTS,
) -> RabbitWorld:
    world = make()
    for name in (*HOSTS, *clients):
        world.hosts[name] = ClientHost(world, name)
    for name in HOSTS:
        world.hosts[name].files[CONF] = SimFile(
            b"# ours\ncluster_partition_handling = autoheal\n", 0o644, "root", "root", world.time
        )
    for name, (unit, topic) in clients.items():
        host = world.hosts[name]
        host.files[f"/etc/{unit}.conf"] = SimFile(
            f"[DEFAULT]\ntransport_url = {URL}\n".encode(), 0o640, "root", "os", world.time
        )
        host.files[f"/lib/systemd/system/{unit}.service"] = SimFile(
            f"ExecStart=/usr/bin/{unit}\n".encode(), 0o644, "root", "root", world.time
        )
        world.time += 1
        host.units_[unit] = SimUnit(unit, enabled=True, loaded=(f"/usr/bin/{unit}",))
        host.begin(host.units_[unit])
        world.users[name] = (unit, topic)
    all_old = ("rabbit@mq1", "rabbit@mq2", "rabbit@mq3")
    for topic in sorted({"conductor", "q-plugin", "versioned", *(t for _, t in clients.values() if t)}):
        where = all_old if kind == "quorum" else all_old[:1]
        world.nodes["mq1"].queues[topic] = Queue(topic, kind, "rabbit@mq1", where)
    world.time += 5
    return world


def scan(world: RabbitWorld) -> Deployment:
    def files(name: str) -> tuple[ConfigFile, ...]:
        return tuple(
            ConfigFile(p, hashlib.sha256(f.content).hexdigest(), f.mode, f.owner, f.group)
            for p, f in sorted(world.hosts[name].files.items())
        )

    views = {h: world.rabbit(h).view() for h in HOSTS}
    return Deployment(
        format=1,
        generation="none",
        made_at=0.0,
        nova_version="",
        hosts=tuple(
            HostFacts(n, Address(n), (f"10.0.0.{i}",), n, "Debian 12", "nft", files(n))
            for i, n in enumerate(world.hosts, 1)
        ),
        services=(),
        brokers=(),
        clients=(),
        mappings=(),
        records=(),
        proxies=(),
        writers=(),
        rabbit=tuple(
            RabbitNode(
                h,
                v.name,
                "3.10.8",
                "25",
                v.members,
                v.running,
                v.partitions,
                v.alarms,
                v.handling,
                60.0,
                25672,
                0,
                v.used if HOSTS[h] == "new" else (),
                CONF,
            )
            for h, v in views.items()
        ),
        rabbit_clients=tuple(
            RabbitClient(
                "mq1",
                "/",
                unit,
                name,
                name,
                unit,
                1,
                ("rabbit@mq1",),
                (topic,) if topic else (),
                (f"/etc/{unit}.conf",),
                f"/etc/{unit}.conf",
                "rabbit://os:***@mq1:5672/",
            )
            for name, (unit, topic) in world.users.items()
        ),
        rabbit_queues=world.rabbit("mq1").queues(),
    )


def planned(world: RabbitWorld) -> Plan:
    return plan_rabbit(scan(world), layout(), 0.0)


@pytest.fixture
def desks() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as top:
        numbers = itertools.count()

        def make(world: RabbitWorld, plan: Plan | None = None) -> Desk:
            directory = Path(top) / str(next(numbers))
            directory.mkdir()
            return Desk(world, directory, plan or planned(world))

        yield make


def test_the_plan_says_who_moves_and_holds_no_secret() -> None:
    plan = planned(build())
    data = dump_plan(plan)
    assert load_plan(data, "plan.json") == plan and b"s3cret" not in data
    ids = [s.id for s in plan.steps]
    servers = [i for i in ids if i in ("net1/neutron-server", "net2/neutron-server")]
    assert servers == ["net1/neutron-server", "net2/neutron-server"]
    assert ids.index("net2/neutron-server") < ids.index("tel1/ceilometer-agent") < ids.index("rabbitmq/part")
    assert not any(s.where == "ctl1" for s in plan.steps)
    assert all(s.title and s.notice and s.undone for s in plan.steps)
    assert "ceilometer-agent@tel1, neutron-server@net1, neutron-server@net2" in plan.remarks[0]
    hands = runbook.back(plan, lambda step, key: None) + runbook.forth(plan, lambda step, key: None)
    assert {h.step for h in hands} == set(ids)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_there_and_back(desks: Any, kind: str) -> None:
    world = build(kind)
    before = world.picture()
    desk = desks(world)
    desk.go("forward")
    assert world.complaints == [] and world.cuts == 1
    for host, side in HOSTS.items():
        node, own = world.nodes[host], {f"rabbit@{h}" for h, s in HOSTS.items() if s == side}
        assert node.db == own and node.links == own - {node.name} and node.wall == ""
        assert node.handling == "autoheal" and (node.cookie == b"OLDCOOKIE") == (side == "keep")
        text = world.hosts[host].files[CONF].content.decode()
        assert "cluster_partition_handling = autoheal" in text and text.startswith("# ours\n")
        assert f"classic_config.nodes.1 = rabbit@{'mq1' if side == 'keep' else 'mq4'}" in text
        assert not node.policies
        unit = world.hosts[host].unit(f"recell-apart-{'mq4' if side == 'keep' else 'mq1'}")
        assert unit.running and unit.enabled and not unit.needs_reload
    assert set(world.nodes["mq1"].queues) == {"conductor", "versioned"}
    assert set(world.nodes["mq4"].queues) == {"q-plugin"}
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    after = world.picture()
    assert world.complaints == [] and after["nodes"]["mq4"] == before["nodes"]["mq4"]
    assert after["files"] == before["files"] and after["nodes"]["mq1"][0] == before["nodes"]["mq1"][0]


def test_a_node_whose_file_ends_as_it_was_is_as_it_should_be(desks: Any) -> None:
    """It named its side's nodes and their handling from the beginning."""
    first = build()
    desks(first).go("forward")
    world = build()
    for host in HOSTS:
        world.hosts[host].files[CONF].content = first.hosts[host].files[CONF].content
    desk = desks(world)
    desk.go("forward")
    desk.go("forward")  # which proves that all holds
    assert world.complaints == []
    assert {h: world.hosts[h].files[CONF].content for h in HOSTS} == {
        h: first.hosts[h].files[CONF].content for h in HOSTS
    }


def test_a_queue_that_is_never_at_rest_is_moved_all_the_same_and_named(desks: Any) -> None:
    world = build("classic")
    world.restless = {"q-plugin"}
    desk, told = desks(world), list[Event]()
    desk.observer = told.append
    desk.go("forward")
    assert world.complaints == [] and set(world.nodes["mq4"].queues) == {"q-plugin"}
    said = [e.text for e in told if (e.kind, e.step.id) == ("finished", "rabbitmq/rehome")]
    assert said == ["every queue is at home; what was under way in q-plugin came again"]


def test_undone_before_the_cut_it_is_as_before(desks: Any) -> None:
    world = build("quorum")
    before = world.picture()
    desk = desks(world)
    _until_the_cut(desk, world)
    desk.go("backward")
    assert world.complaints == [] and _leaderless(world.picture()) == _leaderless(before)


def test_undo_after_the_cut_drops_no_message_that_waits(desks: Any) -> None:
    world = build()
    desk = desks(world)
    desk.go("forward")
    world.waiting["q-plugin"] = 3
    with pytest.raises(StepFailed, match="3 in q-plugin"):
        desk.go("backward")
    world.waiting.clear()
    desk.go("backward")
    assert world.complaints == [] and world.nodes["mq4"].db == {"rabbit@mq4"}


def _leaderless(picture: dict[str, Any]) -> dict[str, Any]:
    """Which of the old nodes leads a queue may differ; that they hold it may not."""
    nodes = {h: (*v[:6], sorted(v[6]), v[7]) for h, v in picture["nodes"].items()}
    units = {u: (v[0], v[3]) for u, v in picture["units"].items()}
    return {**picture, "nodes": nodes, "units": units}


EVERY = [
    pytest.param("classic", 1, marks=pytest.mark.thorough, id="classic, everywhere"),
    pytest.param("quorum", 1, marks=pytest.mark.thorough, id="quorum, everywhere"),
    pytest.param("classic", 7, id="classic"),
    pytest.param("quorum", 23, id="quorum"),
]


@pytest.mark.parametrize(("kind", "every"), EVERY)
@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_anywhere(desks: Any, kind: str, every: int, first: Sequence[str], then: str) -> None:
    killed_everywhere(lambda: build(kind), desks, _leaderless, first, then, every)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(s, marks=pytest.mark.thorough) for s in range(3, 100))]
)
def test_killed_again_and_again(desks: Any, seed: int) -> None:
    killed_again_and_again(build, desks, _leaderless, seed)


def test_a_cut_host_by_host_is_complained_of() -> None:
    """The simulation is to be believed: what the old recipe does harms it."""
    world = build()
    for host in ("mq4", "mq5", "mq6"):
        world.rabbit(host).join("rabbit@mq1")
    world.nodes["mq4"].wall = "reject"
    world.unlink(world.nodes["mq4"], world.nodes["mq1"])
    world.check_cut()
    assert any("acts on the partition" in c for c in world.complaints)
    world.nodes["mq4"].wall = ""
    world.observe()
    assert any("met again" in c for c in world.complaints)


def _until_the_cut(desk: Desk, world: RabbitWorld) -> None:
    original = world.cut_rabbit

    def refuse(*_: Any) -> float:
        raise StepFailed("not today")

    world.cut_rabbit = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(StepFailed, match="not today"):
        desk.go("forward")
    world.cut_rabbit = original  # type: ignore[method-assign]


def test_a_queue_that_appears_on_both_sides_stops_the_cut(desks: Any) -> None:
    """After all was at home, and before the cut."""
    world = build()
    desk = desks(world)
    _until_the_cut(desk, world)
    both = ("rabbit@mq1", "rabbit@mq4")
    world.nodes["mq1"].queues["late"] = Queue("late", "quorum", both[0], both)
    with pytest.raises(StepFailed, match="late is on rabbit@mq1, rabbit@mq4"):
        desk.go("forward")
    assert world.cuts == 0 and all(n.wall == "" for n in world.nodes.values())


def test_a_coordinator_of_streams_that_came_since_stops_the_cut(desks: Any) -> None:
    world = build()
    desk = desks(world)
    for node in world.nodes.values():
        node.coordinator = True
    with pytest.raises(StepFailed, match=r"mq1 keeps a coordinator of streams, which ends by rabbitmqctl"):
        desk.go("forward")
    assert world.cuts == 0
    for node in world.nodes.values():
        node.coordinator = False
    desk.go("forward")
    assert world.cuts == 1 and world.complaints == []


def test_a_partition_that_is_there_stops_it_for_a_human(desks: Any) -> None:
    world = build()
    desk = desks(world)
    _until_the_cut(desk, world)
    world.unlink(world.nodes["mq2"], world.nodes["mq3"])
    with pytest.raises(Unknowable, match="mq2"):
        desk.go("forward")


def test_a_node_that_joined_behind_recells_back_stops_the_cut(desks: Any) -> None:
    world = build()
    desk = desks(world)
    _until_the_cut(desk, world)
    for host in HOSTS:
        world.nodes[host].db.add("rabbit@mq9")
    with pytest.raises(Unknowable, match=r"mq1 knows .*rabbit@mq9"):
        desk.go("forward")
    assert world.cuts == 0 and all(n.wall == "" for n in world.nodes.values())
    for host in HOSTS:
        world.nodes[host].db.discard("rabbit@mq9")
    desk.go("forward")
    assert world.complaints == [] and world.cuts == 1


def _after_the_cut(world: RabbitWorld, happens: Callable[[], None]) -> None:
    """Let something happen right after the cut, once."""
    original = world.cut_rabbit

    def cut(*words: Any) -> float:
        spent = original(*words)
        world.cut_rabbit = original  # type: ignore[method-assign]
        happens()
        return spent

    world.cut_rabbit = cut  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("then", ["forward", "backward"])
def test_a_node_that_restarts_in_the_middle_stops_it_until_it_is_back(desks: Any, then: str) -> None:
    world = build()
    desk = desks(world)
    node = world.nodes["mq5"]
    _after_the_cut(world, lambda: setattr(node, "app", False))
    with pytest.raises(StepFailed, match=r"the new side is not whole: .*mq5 sees nobody running"):
        desk.go("forward")
    assert all(n.wall for n in world.nodes.values()), "the walls stand until each side forgot the other"
    node.app = True
    desk.go(then)
    assert world.complaints == [] and world.cuts == 1
    assert node.db == ({"rabbit@mq4", "rabbit@mq5", "rabbit@mq6"} if then == "forward" else {"rabbit@mq5"})


def test_a_partition_inside_a_side_is_named_and_not_forgotten_away(desks: Any) -> None:
    world = build()
    desk = desks(world)
    five, six = world.nodes["mq5"], world.nodes["mq6"]
    _after_the_cut(world, lambda: world.unlink(five, six))
    with pytest.raises(StepFailed, match="mq5 sees rabbit@mq4, rabbit@mq5 running"):
        desk.go("forward")
    five.links.add(six.name)
    six.links.add(five.name)
    desk.go("forward")
    assert world.complaints == [] and len(five.db) == 3


def test_a_host_that_reboots_in_the_middle_has_its_wall_again(desks: Any) -> None:
    """Its rules went with the reboot, and it still knows the other side."""
    world = build()
    desk = desks(world)

    def reboot() -> None:
        world.nodes["mq4"].wall = ""
        raise StepFailed("the machine that recell runs on loses its way")

    _after_the_cut(world, reboot)
    with pytest.raises(StepFailed):
        desk.go("forward")
    desk.go("forward")
    assert world.complaints == [] and world.cuts == 2
    assert all(n.wall == "" for n in world.nodes.values())


def test_clusters_that_met_again_are_found(desks: Any) -> None:
    world = build()
    desk = desks(world)
    desk.go("forward")
    world.nodes["mq1"].links.add("rabbit@mq4")
    with pytest.raises(VerifyFailed, match="mq1 is linked to the other side again"):
        desk.go("forward")


def test_an_observation_asks_everything_and_writes_nothing(tmp_path: Path) -> None:
    world = build()
    before, plan = world.picture(), planned(world)
    pretended = DryWorld(world)
    journal = Journal.create(tmp_path / "journal.sqlite", plan.digest)
    try:
        with journal.writing("rehearse", "forward"):
            context = Context(pretended, journal, plan.id, plan.fingerprints, LIMITS)
            seen = Engine(bind(plan, context), journal).rehearse(guarded=True)
    finally:
        journal.close()
    assert world.picture() == before and world.changes == []
    assert [f.why for _, f in seen if f.truth is Truth.UNKNOWN] == []
    said = [what for _, what in pretended.record.changes]
    assert "join the cluster of rabbit@mq1" in said
    assert "cut off rabbit@mq1, rabbit@mq2, rabbit@mq3" in said


# -- refusals --------------------------------------------------------------------------------------


def _refused(deployment: Deployment, text: str = TEXT) -> str:
    with pytest.raises(Exception) as refused:
        plan_rabbit(deployment, layout(text), 0.0)
    return str(refused.value)


def changed_node(deployment: Deployment, host: str, **changed: Any) -> Deployment:
    nodes = tuple(replace(n, **changed) if n.host == host else n for n in deployment.rabbit)
    return replace(deployment, rabbit=nodes)


@pytest.mark.parametrize(
    ("host", "changed", "words"),
    [
        ("mq1", {"khepri": True}, "Khepri"),
        ("mq4", {"version": "4.0.5"}, "RabbitMQ 4.0.5"),
        ("mq4", {"version": "3.8.1"}, "RabbitMQ 3.8.1; recell splits 3.8.2 to 3.12"),
        ("mq5", {"version": "3.12.1"}, "different releases"),
        ("mq1", {"version": ""}, "unknown"),
        ("mq4", {"used": ("3 queues",)}, "not blank: 3 queues"),
        ("mq6", {"cookie": 1}, "different Erlang cookies"),
        ("mq2", {"alarms": ("memory",)}, "alarm: memory"),
        ("mq2", {"partitions": ("rabbit@mq3",)}, "sees a partition"),
        ("mq2", {"running": ("rabbit@mq2",)}, "running"),
        ("mq3", {"handling": "pause_if_all_down"}, "pause_if_all_down"),
        ("mq3", {"ticktime_s": 5.0}, "net_ticktime"),
        ("mq3", {"old_config": True}, "Erlang terms"),
        ("mq4", {"container": True}, "container"),
        ("mq1", {"members": ("rabbit@mq1", "rabbit@mq9")}, "rabbit@mq9 belong to the cluster"),
    ],
)
def test_refused_with_the_reason(host: str, changed: dict[str, Any], words: str) -> None:
    assert words in _refused(changed_node(scan(build()), host, **changed))


def test_refused_for_queues_and_clients() -> None:
    found = scan(build())
    stream = QueueHome("/", "s", "stream", "rabbit@mq1", ("rabbit@mq1",), ("rabbit@mq1",))
    late = QueueHome("/", "m", "classic", "rabbit@mq1", ("rabbit@mq1", "rabbit@mq2"), ("rabbit@mq1",))
    assert "stream" in _refused(replace(found, rabbit_queues=(stream,)))
    assert "not synchronised" in _refused(replace(found, rabbit_queues=(late,)))
    both = tuple(replace(c, queues=("q-plugin",)) for c in found.rabbit_clients)
    assert "neutron-server@net1, which moves" in _refused(replace(found, rabbit_clients=both))
    strangers = tuple(
        replace(c, unit="", host="", peer="vip") if c.host == "tel1" else c for c in found.rabbit_clients
    )
    idle = TEXT.replace("neutron-*@net*", "neutron-*@nowhere")
    assert "no client of the cluster matches neutron-*@nowhere" in _refused(found, idle)
    wide = TEXT.replace("ceilometer-*@*", "ceilometer-agent@vip")
    assert "can't tell which service" in _refused(replace(found, rabbit_clients=strangers), wide)
    narrow = TEXT.replace("[mq1, mq2, mq3]}", '[mq1, mq2, mq3], clients: ["x"]}')
    assert "neither side: nova-conductor@ctl1" in _refused(found, narrow)


# -- queues ----------------------------------------------------------------------------------------


def test_single_processes_queues_are_taken_from_mirroring() -> None:
    from recell.planning.queues import own_policies

    ha = Policy("/", "ha-all", ".*", "queues", 0, '{"expires": 1800000, "ha-mode": "all"}')
    found = own_policies([ha])
    assert [p.name for p in found] == ["recell-split-reply", "recell-split-fanout"]
    assert all(p.priority > ha.priority and "ha-mode" not in p.definition for p in found)
    assert all('"expires": 1800000' in p.definition for p in found)
    careful = replace(ha, pattern="^(?!(amq\\.)|(.*_fanout_)|(reply_)).*")
    assert own_policies([careful]) == ()


def test_a_mover_keeps_what_the_policy_says_and_names_exactly_its_queues() -> None:
    import json
    import re

    from recell.planning.queues import Sides, heirs, movers

    sides = Sides(("a1", "a2", "a3"), ("b1", "b2", "b3"))
    ha = Policy("/", "ha-all", ".*", "queues", 3, '{"ha-mode": "all", "message-ttl": 60000}')
    whole = ("a1", "a2", "a3", "b1")
    mirrored = QueueHome("/", "q.one", "classic", "a1", whole, whole, policy="ha-all", takers=("b2",))
    (policy,) = movers([mirrored], [ha], sides)
    said = json.loads(policy.definition)
    assert said == {
        "ha-mode": "nodes",
        "ha-params": ["a1", "b1", "b2", "b3"],
        "ha-sync-mode": "automatic",
        "message-ttl": 60000,
    }
    assert policy.priority > 3 and re.search(policy.pattern, "q.one")
    assert not re.search(policy.pattern, "q-one") and not re.search(policy.pattern, "q.one.host")
    plain = replace(mirrored, policy="", members=("a1",), synced=("a1",), takers=("b3",))
    assert json.loads(movers([plain], [ha], sides)[0].definition)["ha-params"] == ["a1", "b3"]
    # Its leader goes last, when the others are those that are wanted, and hold everything.
    both = ("a1", "b1", "b2", "b3")
    waits = replace(mirrored, members=both, synced=("a1", "b1", "b2"), policy=policy.name)
    assert movers([waits], [ha, policy], sides) == ()
    assert heirs([waits], [ha, policy], sides) == ()
    ready = replace(waits, synced=both)
    assert movers([ready], [ha, policy], sides) == ()
    assert heirs([ready, mirrored], [ha, policy], sides) == ((ready, ("b1", "b2", "b3")),)
    for gone in (movers([replace(ready, leader="b1")], [ha, policy], sides),
                 movers([ready], [ha, policy], sides, let_go={("/", "q.one")})):
        assert [json.loads(p.definition)["ha-params"] for p in gone] == [["b1", "b2", "b3"]]


def test_a_second_run_takes_no_name_of_the_first_and_keeps_the_number_of_copies() -> None:
    import json

    from recell.planning.queues import Sides, movers, next_step

    sides = Sides(("a1", "a2", "a3"), ("b1", "b2", "b3"))
    one = QueueHome("/", "q", "classic", "a1", ("a1",), ("a1",), takers=("b2",))
    (first,) = movers([one], [], sides)
    assert movers([replace(one, policy=first.name)], [first], sides, next_step([first])) == ()
    again = replace(one, policy=first.name, leader="b2", members=("a1", "b2"))
    (second,) = movers([again], [first], sides, next_step([first]))
    assert second.name != first.name and second.priority > first.priority
    assert json.loads(second.definition)["ha-params"] == ["b2"]


