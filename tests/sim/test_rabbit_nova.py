"""Nova moves to another RabbitMQ in the simulated world: users are served, whatever is killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recell.errors import Paused, StepFailed, Unreachable, Unsupported
from recell.journal import Journal
from recell.model.deployment import IN_WEB_SERVER, NOVA_UNREAD, PROXY_UNREAD, Deployment
from recell.model.plan import Plan, dump_plan
from recell.model.rabbit import RabbitClient
from recell.planning import runbook
from recell.planning.rabbit import plan_rabbit
from recell.preflight.rabbit import check
from recell.steps.aside import FENCE, Aside
from recell.steps.crossing import BridgedRepoint
from tests.sim import desk as desk_module
from tests.sim.bridge import SimEnd
from tests.sim.desk import LIMITS, Desk
from tests.sim.killing import WAYS, killed_again_and_again, killed_everywhere
from tests.sim.rabbit_nova import ANEW_S, CLIENTS, TEMPLATE, TEXT, NovaRabbitWorld, build_nova, scan_nova
from tests.sim.rehearsing import observed
from tests.sim.test_rabbit import desks as desks
from tests.sim.test_rabbit import layout
from tests.sim.world import Killed

SPLIT = TEXT.replace("  method: fresh\n", "").replace("[mq4]", "[mq4, mq5, mq6]")
WIDE = TEXT.replace("[mq4]", "[mq4, mq5, mq6]")


def planned(world: NovaRabbitWorld, text: str = TEXT) -> Plan:
    return plan_rabbit(scan_nova(world), layout(text), 0.0)


def nova_desk(desks: Any, world: NovaRabbitWorld, text: str = TEXT) -> Desk:
    desk: Desk = desks(world, planned(world, text))
    return desk


def test_servers_first_both_ways_and_the_mapping_before_any_of_them() -> None:
    plan = planned(build_nova())
    assert b"s3cret" not in dump_plan(plan)
    ids = [s.id for s in plan.steps if s.acts != "backward"]
    moves = [i for i in ids if i in {f"{h}/{u}" for h, (u, _) in CLIENTS.items()}]
    assert moves == [
        "ctl1/nova-conductor", "ctl2/nova-conductor", "cmp1/nova-compute", "cmp2/nova-compute",
        "web1/nova-api", "web2/nova-api",
    ]  # fmt: skip
    at = ids.index("web1/nova-api")
    assert ids[at - 2 : at + 2] == [f"web1/nova-api{end}" for end in ("-url", "-drain", "", "-ready")]
    assert ids.index("rabbitmq/bridge") < ids.index("mapping/cell1") < ids.index("ctl1/nova-conductor-url")
    back = [s.id for s in reversed(plan.steps) if s.acts == "backward" and s.kind == "repoint-bridged"]
    assert back == [f"{m}-back" for m in moves]
    assert plan.databases == ("api",)
    compute = next(s for s in plan.steps if s.id == "cmp1/nova-compute")
    assert compute.params["cell"] and compute.params["nova_host"] == "cmp1"
    hands = runbook.back(plan, lambda step, key: None) + runbook.forth(plan, lambda step, key: None)
    assert {h.step for h in hands} == {s.id for s in plan.steps}
    assert not any(v.severity == "stop" for v in check(scan_nova(build_nova()), layout(TEXT)))


@pytest.mark.parametrize(("text", "way"), [(TEXT, "Over the bridge"), (SPLIT, "On the way back, over")])
def test_the_plan_says_whose_first_answers_a_bridge_can_lose(text: str, way: str) -> None:
    found = scan_nova(build_nova(own_cookie=text != SPLIT))

    def said(version: str) -> list[str]:
        plan = plan_rabbit(replace(found, nova_version=version), layout(text), 0.0)
        told = [t for s in plan.steps if "ends" in (t := s.params.get("bridge", s.params))]
        assert told and all(t.get("ferry", False) is version.startswith("19.") for t in told)
        return [r for r in plan.remarks if "oslo.messaging" in r]

    assert [way in r for r in said("19.3.2")] == [True]
    assert said("20.6.1") == []


def _unplaced(picture: dict[str, Any]) -> dict[str, Any]:
    nodes = {h: (*v[:6], sorted(v[6]), *v[7:]) for h, v in picture["nodes"].items()}
    return {**picture, "nodes": nodes, "units": {u: (v[0], v[3]) for u, v in picture["units"].items()}}


@pytest.mark.parametrize("text", [TEXT, WIDE, SPLIT], ids=["one node", "three nodes", "split"])
@pytest.mark.parametrize("template", [TEMPLATE, ""], ids=["template", "literal"])
def test_there_and_back_nobody_notices(desks: Any, text: str, template: str) -> None:
    world = build_nova(template=template, own_cookie=text != SPLIT)
    before = _unplaced(world.picture())
    desk = nova_desk(desks, world, text)
    desk.go("forward")
    assert world.complaints == []
    for api in ("web1", "web2"):
        config = world.hosts[api].api.config
        assert "mq4" in config["transport_url"] and "@mq4:5672" in config["cell1"]
        assert "mq1" not in config["transport_url"] + config["cell1"]
    assert {s.state for s in world.proxies["lb1"].servers()} == {"UP"}
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    desk.go("backward")
    assert world.complaints == []
    after = _unplaced(world.picture())
    if text == SPLIT:  # two clusters stay two
        after["nodes"], after["files"] = before["nodes"], before["files"]
    assert after == before


LAYOUTS = {"fresh": TEXT, "split": SPLIT, "fresh on three nodes": WIDE}
EVERY = [
    *(pytest.param(name, 1, marks=pytest.mark.thorough, id=f"{name}, everywhere") for name in LAYOUTS),
    *(pytest.param(name, 19, id=name) for name in ("fresh", "split")),
]


@pytest.mark.parametrize(("name", "every"), EVERY)
@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_anywhere_users_go_on(
    desks: Any, name: str, every: int, first: Sequence[str], then: str
) -> None:
    killed_everywhere(
        lambda: build_nova(own_cookie=name != "split"),
        lambda world: nova_desk(desks, world, LAYOUTS[name]),
        _unplaced,
        first,
        then,
        every,
    )


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        *(pytest.param(n, s, marks=pytest.mark.thorough) for n in LAYOUTS for s in range(3, 60)),
        *((n, s) for n in ("fresh", "split") for s in range(3)),
    ],
)
def test_killed_again_and_again_users_go_on(desks: Any, name: str, seed: int) -> None:
    killed_again_and_again(
        lambda: build_nova(own_cookie=name != "split"),
        lambda world: nova_desk(desks, world, LAYOUTS[name]),
        _unplaced,
        seed,
    )


@pytest.mark.parametrize("asked", ["end", "start"])
def test_a_compute_that_is_asked_while_a_split_restarts_it_does_it_afterwards(desks: Any, asked: str) -> None:
    """While a split's cluster is one, both sides' nodes know its connections; it is ended once, and what it
    is asked from then on is not waited for."""
    world = build_nova(own_cookie=False)
    world.rebooting = asked
    desk = nova_desk(desks, world, SPLIT)
    for served, direction in ((2, "forward"), (4, "backward")):
        desk.go(direction)
        assert world.complaints == [] and world.nova_.tasks == {} and world.asked == {}
        assert world.nova_.served == served and not world.rooms


@pytest.mark.parametrize("text", [TEXT, SPLIT], ids=["fresh", "split"])
@pytest.mark.parametrize("kill", [None, 10, 20])
def test_a_compute_whose_unit_is_active_when_it_serves_forgets_nothing(
    desks: Any, text: str, kill: int | None
) -> None:
    """systemctl would wait for that, and nobody set aside what is asked meanwhile."""
    world = build_nova(own_cookie=text != SPLIT)
    world.notify, world.rebooting, world.slow = True, "start", {"cmp1": 10.0, "cmp2": 10.0}
    desk = nova_desk(desks, world, text)
    if kill is not None:
        desk.die_in("cmp1/nova-compute", kill)
    for direction in ("forward", "backward"):
        desk.go(direction)
        assert world.complaints == [] and world.nova_.tasks == {} and world.asked == {}


def test_before_the_cut_undo_holds_what_a_compute_is_asked_as_well(desks: Any) -> None:
    world = build_nova(own_cookie=False)
    desk = nova_desk(desks, world, SPLIT)
    desk.pause_before = ("rabbitmq/rehome",)
    with pytest.raises(Paused):
        desk.go("forward")
    desk.pause_before = ()
    world.rebooting = "start"
    desk.go("backward")
    assert world.complaints == [] and world.nova_.tasks == {} and world.nova_.served == 2


def test_an_observation_of_a_split_enters_rooms_and_holds_nothing(tmp_path: Path) -> None:
    world = build_nova(own_cookie=False)
    said = observed(world, planned(world, SPLIT), tmp_path)
    assert [s for s in said if "hold what" in s] == [f"hold what is sent to compute.cmp{n}" for n in (1, 2)]
    assert not world.rooms


def test_a_run_that_stops_while_a_compute_rises_leaves_no_task_aside(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room ends with it, so messages come; they find the tasks that they belong to."""
    world = build_nova(own_cookie=False)
    world.rebooting = "end"
    desk = nova_desk(desks, world, SPLIT)
    query = world.nova_.query

    def failing(cell: str, sql: str, args: Sequence[Any] = ()) -> Any:
        if "report_count" in sql and world.begun["cmp1"] and world.nova_.tasks.get("cmp1") == FENCE:
            monkeypatch.setattr(world.nova_, "query", query)
            raise StepFailed("db1 refuses", "Look there")
        return query(cell, sql, args)

    monkeypatch.setattr(world.nova_, "query", failing)
    with pytest.raises(StepFailed, match="db1 refuses"):
        desk.go("forward")
    assert world.nova_.tasks == {"cmp1": "rebooting"} and not world.rooms
    desk.go("forward")
    assert world.complaints == [] and world.nova_.tasks == {} and world.nova_.served == 2


def but_for_forgotten(most: int) -> Callable[[Any], list[str]]:
    """What users of nova-computes that restart suffer, beyond so many reboots where recell was killed."""

    def told(world: Any) -> list[str]:
        forgot = [c for c in world.complaints if "forgets a reboot" in c]
        return [
            *(c for c in world.complaints if c not in forgot),
            *forgot[most if world.kill_at > 0 else 0 :],
            *(f"the task of {h} is {t}" for h, t in world.nova_.tasks.items()),
        ]

    return told


@pytest.mark.parametrize("then", ["forward", "backward"])
@pytest.mark.parametrize("asked", ["end", "start"])
@pytest.mark.parametrize("later_s", [0, 20])
def test_killed_while_a_split_restarts_computes_one_reboot_at_most_is_forgotten(
    desks: Any, asked: str, then: str, later_s: int
) -> None:
    """With recell its room ends, and Nova does what it does at every restart; no instance keeps a task."""

    def begun() -> NovaRabbitWorld:
        world = build_nova(own_cookie=False)
        world.rebooting = asked
        return world

    forgotten: list[int] = []

    def passes(world: NovaRabbitWorld) -> None:
        world.killed = False
        for _ in range(later_s):
            world.wait(1.0)
        forgotten.append(len([c for c in world.complaints if "forgets a reboot" in c]))

    points = killed_everywhere(
        begun,
        lambda world: nova_desk(desks, world, SPLIT),
        _unplaced,
        ["forward"],
        then,
        wrong=but_for_forgotten(1),
        meanwhile=passes,
        within=in_moves_of_computes,
    )
    assert points > 30
    assert bool(later_s) == any(forgotten), "who goes on at once forgets nothing"


@pytest.mark.parametrize("asked", ["end", "start"])
@pytest.mark.parametrize("kill", [None, *range(1, 30, 7)])
def test_what_is_asked_while_a_compute_restarts_happens_afterwards(
    desks: Any, kill: int | None, asked: str
) -> None:
    """Nova forgets a reboot whose message waits while nova-compute starts; here none does."""
    world = build_nova()
    world.rebooting = asked
    desk = nova_desk(desks, world)
    if kill is not None:
        desk.die_in("cmp1/nova-compute", kill)
    desk.go("forward")
    assert world.complaints == [] and world.nova_.tasks == {} and world.asked == {}
    desk.go("backward")
    assert world.complaints == [] and world.nova_.tasks == {} and world.asked == {}
    assert kill is not None or world.nova_.served == 4


@pytest.mark.parametrize("asked", ["end", "start"])
@pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.thorough, id="everywhere"), pytest.param(4, id="some")]
)
def test_killed_while_computes_are_away_and_undone_no_reboot_is_forgotten(
    desks: Any, asked: str, every: int
) -> None:
    """The nova-apis have not moved, so what users ask waits where a nova-compute starts that goes back."""

    def begun() -> NovaRabbitWorld:
        world = build_nova()
        world.rebooting = asked
        return world

    def left(world: NovaRabbitWorld) -> list[str]:
        return [*world.complaints, *(f"the task of {h} is {t}" for h, t in world.nova_.tasks.items())]

    points = killed_everywhere(
        begun,
        lambda world: nova_desk(desks, world),
        _unplaced,
        ["forward"],
        "backward",
        every,
        wrong=left,
        within=in_moves_of_computes,
    )
    assert points > 30


def in_moves_of_computes(told: Sequence[str]) -> Sequence[int]:
    """From the first compute's end to the last one's tasks."""
    mine = [number for number, what in enumerate(told, 1) if "nova-compute" in what or "the task of" in what]
    return range(mine[0], mine[-1] + 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_by_one_too_computes_that_start_stay_up_for_nova(desks: Any, name: str) -> None:
    """They are away for longer than service_down_time, which an operator has set for nova-api."""
    world = build_nova(own_cookie=name != "split")
    world.down_s, world.slow = 12.0, {"cmp1": 15.0, "cmp2": 15.0}
    desk = nova_desk(desks, world, LAYOUTS[name])
    assert {s.params["down_s"] for s in desk.plan.steps if "nova_host" in s.params} == {12.0}
    for way in ("forward", "backward"):
        world.nova_.kept_up.clear()
        desk.go(way)
        assert world.complaints == [] and set(world.nova_.kept_up) == {"cmp1", "cmp2"}


LONG_S = 60.0
"""So much longer a nova-compute with hundreds of guests takes to start than others."""


def starting_long(world: NovaRabbitWorld, monkeypatch: pytest.MonkeyPatch) -> NovaRabbitWorld:
    """An operator with such hosts lets callers wait, and recell. Others are restarted meanwhile."""
    monkeypatch.setattr(desk_module, "LIMITS", {**LIMITS, "start_s": 3 * LONG_S})
    world.slow = {host: LONG_S for host, (unit, _) in world.users.items() if unit == "nova-compute"}
    world.traffic.patience_s, world.anew = 4 * LONG_S, "ctl2"
    return world


@pytest.mark.parametrize("name", ["fresh", "split"])
@pytest.mark.parametrize("asked", ["end", "start"])
@pytest.mark.parametrize(
    "kill", [None, 6, 16, *(pytest.param(k, marks=pytest.mark.thorough) for k in range(1, 40, 3))]
)
def test_others_are_reached_while_a_compute_takes_long_to_start(
    desks: Any, monkeypatch: pytest.MonkeyPatch, name: str, asked: str, kill: int | None
) -> None:
    """And those who begin meanwhile, whose queues the bridge has yet to learn."""
    world = starting_long(build_nova(own_cookie=name != "split"), monkeypatch)
    world.rebooting = asked
    desk = nova_desk(desks, world, LAYOUTS[name])
    if kill is not None:
        desk.die_in("cmp1/nova-compute", kill)
    for way in ("forward", "backward"):
        desk.go(way)
        assert world.complaints == [] and world.nova_.tasks == {} and world.asked == {}


def test_a_broker_that_does_not_answer_meanwhile_ends_nobodys_start_and_is_asked_again(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = starting_long(build_nova(), monkeypatch)
    asked, taken = [0], SimEnd.taken

    def failing(end: SimEnd, vhosts: Sequence[str], account: str) -> Any:
        unit = world.hosts["cmp1"].units_["nova-compute"]
        if world.begun["cmp1"] and ANEW_S < world.time - unit.started_at < 2 * ANEW_S:
            asked[0] += 1
            raise Unreachable("mq1 does not answer", "See there")
        return taken(end, vhosts, account)

    monkeypatch.setattr(SimEnd, "taken", failing)
    nova_desk(desks, world).go("forward")
    assert world.complaints == [] and world.begun == {"cmp1": 1, "cmp2": 1}
    assert 1 <= asked[0] < 2 * ANEW_S, "both clusters, every few seconds"


def test_one_that_begins_to_serve_while_it_is_looked_at_is_not_taken_for_one_that_starts(
    desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run has begun it. It serves and reports between two questions, and whoever looks after the
    bridge notices first: set aside now, its tasks would be met by their messages."""
    world = build_nova()
    desk = nova_desk(desks, world)
    began, missing, point = Aside.begin, BridgedRepoint._missing, world.point
    told: list[str] = []

    def beginning(aside: Aside, cell: str, host: str, *more: Any) -> None:
        told.append(host)
        began(aside, cell, host, *more)

    def late(step: BridgedRepoint, *asked: Any) -> set[str]:
        found = missing(step, *asked)
        if found and step.spec.where == "cmp1" and world.begun["cmp1"]:
            while Aside(step.context).known():
                world.wait(1.0)
                step._crossing.reconcile()
        return found

    def dying(what: str) -> None:
        if what == "start-later nova-compute":
            world.kill_at = world.points + 1
        point(what)

    monkeypatch.setattr(world, "point", dying)
    with pytest.raises(Killed):
        desk.go("forward")
    monkeypatch.setattr(world, "point", point)
    monkeypatch.setattr(Aside, "begin", beginning)
    monkeypatch.setattr(BridgedRepoint, "_missing", late)
    desk.go("forward")
    assert world.complaints == [] and world.begun == {"cmp1": 1, "cmp2": 1}
    assert "cmp1" not in told


def test_undo_restarts_no_compute_that_has_not_left(desks: Any) -> None:
    """Its file was edited and put back, so that is younger than the process; nothing else has happened."""
    world = build_nova()
    desk = nova_desk(desks, world)
    desk.pause_before = ("cmp1/nova-compute",)
    with pytest.raises(Paused):
        desk.go("forward")
    assert b"mq4" in world.hosts["cmp1"].files["/etc/nova-compute.conf"].content
    desk.go("backward")
    assert world.complaints == [] and not world.begun
    assert b"mq4" not in world.hosts["cmp1"].files["/etc/nova-compute.conf"].content


def test_how_long_a_compute_was_held_is_told_as_deliveries(desks: Any) -> None:
    world = build_nova()
    desk = nova_desk(desks, world)
    desk.go("forward")
    journal = Journal.open(desk.path, read_only=True)
    told = {key: value for (step, key), value in journal.facts().items() if step == "cmp1/nova-compute"}
    journal.close()
    assert told["deliveries-held-forward"] == 0.2 and "held-forward" not in told, "nobody else waited"


def test_a_mapping_that_every_process_fills_follows_by_itself() -> None:
    assert "mapping/cell1" not in {s.id for s in planned(build_nova(), WIDE).steps}
    assert "mapping/cell1" in {s.id for s in planned(build_nova(), TEXT).steps}, "one node can't fill two"
    assert "mapping/cell1" in {s.id for s in planned(build_nova(template=""), WIDE).steps}


def test_users_of_the_only_server_are_said_to_fail(desks: Any) -> None:
    world = build_nova(behind=["web1"])
    plan = planned(world)
    assert not any(s.kind == "proxied" for s in plan.steps)
    assert any("nova-api@web1 is the only server of nova-api in HAProxy on lb1" in r for r in plan.remarks)
    assert any("No load balancer of the inventory leads to nova-api@web2" in r for r in plan.remarks)
    assert "fail" in next(s for s in plan.steps if s.id == "web1/nova-api").notice
    nova_desk(desks, world).go("forward")
    said = {c.partition(" ")[2] for c in world.complaints}
    assert said == {"users of web1 fail", "no nova-api takes requests"}, "what the plan said, and no more"


def test_a_load_balancer_that_can_not_be_asked_is_named() -> None:
    found = replace(
        scan_nova(build_nova()), proxies=(), remarks=(f"{PROXY_UNREAD}|lb1|it has no admin socket.",)
    )
    remarks = plan_rabbit(found, layout(TEXT), 0.0).remarks
    assert "The load balancer on lb1 could not be looked at (it has no admin socket)." in remarks


def test_a_nova_that_does_not_go_by_its_database_is_said_to_miss_computes_that_start() -> None:
    found = scan_nova(build_nova())
    mc = tuple(replace(s, options={"DEFAULT/servicegroup_driver": "mc"}) for s in found.services)
    told = "counts as down meanwhile"
    assert any(told in r for r in plan_rabbit(replace(found, services=mc), layout(TEXT), 0.0).remarks)
    assert not any(told in r for r in plan_rabbit(found, layout(TEXT), 0.0).remarks)


def test_services_that_share_a_file_have_it_edited_once() -> None:
    found = _on_one_host(scan_nova(build_nova()))
    plan = plan_rabbit(found, layout(TEXT), 0.0)
    edits = [s.params["path"] for s in plan.steps if s.kind == "edit-config" and s.where == "ctl1"]
    assert edits == ["/etc/nova/nova.conf"]
    ids = [s.id for s in plan.steps]
    assert (
        ids.index("ctl1/nova-conductor-url") < ids.index("ctl1/nova-conductor") < ids.index("ctl1/nova-api")
    )
    backs = [i for i in ids if i.startswith("ctl1/") and i.endswith("-back")]
    assert all(ids.index(b) < ids.index("ctl1/nova-conductor-url") for b in backs)


def _on_one_host(found: Deployment) -> Deployment:
    def moved(c: RabbitClient) -> RabbitClient:
        conf = "/etc/nova/nova.conf"
        return (
            replace(c, host="ctl1", file=conf, files=(conf,)) if c.host == "web1" or c.host == "ctl1" else c
        )

    services = tuple(replace(s, host="ctl1") if s.host == "web1" else s for s in found.services)
    proxies = tuple(replace(p, host="ctl1") if p.host == "web1" else p for p in found.proxies)
    clients = tuple(moved(c) for c in found.rabbit_clients)
    return replace(found, services=services, proxies=proxies, rabbit_clients=clients)


def test_behind_a_load_balancer_clients_and_mapping_get_the_new_nodes() -> None:
    url, found = "rabbit://os:***@vip:5672/", scan_nova(build_nova(template=""))
    there = replace(
        found,
        brokers=tuple(replace(b, doors=("vip:5672",)) for b in found.brokers),
        rabbit_clients=tuple(replace(c, shown=url) for c in found.rabbit_clients),
        mappings=tuple(replace(m, transport_raw=url, transport_resolved=url) for m in found.mappings),
    )
    params = {s.id: s.params for s in plan_rabbit(there, layout(TEXT), 0.0).steps}
    assert params["mapping/cell1"]["nodes"] == [["mq4", 5672]]
    assert params["web1/nova-api-url"]["changes"][0]["nodes"] == [["mq4", 5672]]
    unknown = replace(there, brokers=found.brokers)
    assert "comes here by a cell's mapping" in _refused(unknown), "it may be any broker"


def _refused(found: Deployment, text: str = TEXT) -> str:
    with pytest.raises(Unsupported) as refused:
        plan_rabbit(found, layout(text), 0.0)
    return str(refused.value)


def test_what_nova_could_not_bear_is_refused() -> None:
    found = scan_nova(build_nova())
    part = TEXT.replace('"nova-*@*"', '"nova-con*@*", "nova-compute@*"')
    assert "nova-api@web1, which is of the same Nova, stays" in _refused(found, part)
    assert "cells v1" in _refused(replace(found, generation="v1", mappings=()))
    assert "no cell has a service record of nova-compute@cmp1" in _refused(replace(found, records=()))
    far = tuple(
        replace(c, shown="rabbit://os:***@mq9:5672/") if c.role == "api" else c for c in found.rabbit_clients
    )
    assert "comes here by a cell's mapping" in _refused(replace(found, rabbit_clients=far))
    down = tuple(replace(s, active=s.host != "cmp2") for s in found.services)
    assert "nova-compute does not run" in _refused(replace(found, services=down))
    inside = replace(found, remarks=(f"{IN_WEB_SERVER}|web1|apache2|apachectl",))
    assert "nova-api or metadata on web1 runs inside apachectl" in _refused(inside)


UNREAD = f"{NOVA_UNREAD}||a database URL that Nova uses on ctl1 begins with postgresql|Only MySQL is read"


def _blind(named: Callable[[RabbitClient], RabbitClient], remark: str = UNREAD) -> Deployment:
    """A scan that could not look at Nova."""
    found = scan_nova(build_nova())
    clients = tuple(replace(named(c), role="") for c in found.rabbit_clients)
    return replace(found, rabbit_clients=clients, services=(), mappings=(), records=(), remarks=(remark,))


@pytest.mark.parametrize(
    ("named", "pattern"),
    [
        (lambda c: c, "nova-*@*"),
        (lambda c: replace(c, unit=f"openstack-{c.unit}"), "openstack-nova-*@*"),
        (lambda c: replace(c, unit=f"n@{c.unit[5:]}", program=c.unit), "n@*"),
        (lambda c: replace(c, unit="compute", program="uwsgi", files=("/etc/nova/nova.conf",)), "compute@*"),
    ],
    ids=["Debian's names", "RDO's names", "devstack's names", "by its files"],
)
def test_a_nova_that_could_not_be_looked_at_is_not_moved(
    named: Callable[[RabbitClient], RabbitClient], pattern: str
) -> None:
    text = TEXT.replace("nova-*@*", pattern)
    told = _refused(_blind(named), text)
    assert "begins with postgresql" in told and "Only MySQL is read. Or let all of Nova stay" in told
    stops = [v for v in check(_blind(named), layout(text)) if v.severity == "stop"]
    assert any("begins with postgresql" in v.what for v in stops)
    older = _blind(named, f"{NOVA_UNREAD}||no running Nova service has [api_database]")
    assert "Name a controller with nova-api" in _refused(older, text)


def test_others_move_beside_a_nova_that_could_not_be_looked_at_and_the_plan_says_so() -> None:
    def named(client: RabbitClient) -> RabbitClient:
        name = "neutron-server" if client.unit == "nova-api" else client.unit
        return replace(client, unit=name, program=name, files=(f"/etc/{name}.conf",))

    plan = plan_rabbit(_blind(named), layout(TEXT.replace("nova-*@*", "neutron-*@*")), 0.0)
    assert any("begins with postgresql" in r and "has to stay with the old nodes" in r for r in plan.remarks)
