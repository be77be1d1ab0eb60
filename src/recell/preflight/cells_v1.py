"""Reasons not to convert a standard Nova to cells v1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from recell.adapters.ports import Consumer, World, processes_of
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout_v1 import CellsV1Layout
from recell.model.moving import Login
from recell.model.plan import Plan
from recell.model.v1 import Conversion
from recell.model.violation import Violation
from recell.planning.v1 import plan_v1
from recell.planning.v1_release import release_of
from recell.planning.v1_serves import ec2_port
from recell.preflight import live, rooms, rules

ALIKE: tuple[Callable[[Deployment], Iterator[Violation]], ...] = (
    rules.services_run,
    rules.processes_are_current,
    rules.alarms,
    rules.clocks,
    rules.records,
)
"""Of those for cells v2, what is asked of any Nova."""


def check(
    deployment: Deployment, layout: CellsV1Layout, world: World | None = None, plan: Plan | None = None
) -> tuple[Violation, ...]:
    """Why there is no plan, and what would stop it. With a world, as it is this minute."""
    found: list[Violation] = []
    for rule in ALIKE:
        found += rule(_without_the_api_cell(deployment, layout))
    found += firewalls(deployment)
    found += writers(deployment)
    found += ec2(deployment)
    try:
        plan = plan or plan_v1(deployment, layout, 0.0)
    except RecellError as error:
        found.append(Violation(f"plan:{error.word}", "stop", "layout", error.sentence, error.remedy))
    if world is not None and plan is not None:
        found += live.check_files(world, plan)
        found += live.check_brokers(world, plan)
        found += databases(world, plan)
        found += connections(world, plan)
        found += rooms.check(world, plan)
        found += gates(world, plan)
    return sorted_out(found, layout.acknowledge)


def sorted_out(found: Iterable[Violation], acknowledged: Iterable[str]) -> tuple[Violation, ...]:
    """What stops comes first; what an operator accepts is a warning."""
    accepted = set(acknowledged)
    out = [
        replace(v, severity="warning", what=f"{v.what} (acknowledged)")
        if v.may_accept and v.id in accepted
        else v
        for v in found
    ]
    return tuple(sorted(out, key=lambda v: (v.severity != "stop", v.id)))


def _without_the_api_cell(deployment: Deployment, layout: CellsV1Layout) -> Deployment:
    """Its hosts' services are off, as they have to be; and so is nova-cells of the child."""
    own = {h for h in layout.api.hosts if not any(s.host == h and s.active for s in deployment.services)}
    services = tuple(
        s for s in deployment.services if s.host not in own and (s.role != "cells" or s.active)
    )
    return replace(deployment, services=services)


def firewalls(deployment: Deployment) -> Iterator[Violation]:
    stopped = {s.host for s in deployment.role("scheduler", "conductor") if s.active}
    for host in deployment.hosts:
        if host.name in stopped and not host.firewall:
            yield Violation(
                f"firewall:{host.name}",
                "stop",
                host.name,
                "there is neither nft nor iptables: recell can't hold off deliveries while a service stops",
                "Install nftables there (no rule of yours is touched)",
            )


def writers(deployment: Deployment) -> Iterator[Violation]:
    for w in deployment.writers:
        yield Violation(
            f"{w.kind}:{w.host}:{w.where}",
            "stop",
            w.host,
            f"{w.where}: {w.what}",
            "Suspend it until the conversion is done; or acknowledge it",
            may_accept=True,
        )


def ec2(deployment: Deployment) -> Iterator[Violation]:
    """Somebody is led to an API that the API cell will not have."""
    apis = {(s.host, s.unit): s for s in deployment.role("api") if s.active}
    try:
        release = release_of(deployment, apis.values())
    except RecellError:
        return  # the plan says why
    led = {
        (p.proxy, p.backend)
        for p in deployment.proxies
        if (s := apis.get((p.host, p.unit))) is not None
        and p.address.rpartition(":")[2] == str(ec2_port(s, release))
    }
    for proxy, backend in sorted(led):
        yield Violation(
            f"ec2:{proxy}:{backend}",
            "stop",
            proxy,
            f"{backend} leads to nova-api's EC2 port, whose requests are refused from the hold on",
            "Lead its users to the Compute API first; or acknowledge it",
            may_accept=True,
        )


def databases(world: World, plan: Plan, kind: str = "v1-follow") -> Iterator[Violation]:
    """Why rows can't be copied, by the conversion that steps of this kind know."""
    for step in plan.steps:
        if step.kind != kind:
            continue
        try:
            port = world.v1(Conversion.from_json(step.params["conversion"]), Login("recell_check", ""))
            yield from port.troubles()
        except RecellError as error:
            yield Violation(f"{error.word}:databases", "stop", "live", error.sentence, error.remedy)


def connections(world: World, plan: Plan) -> Iterator[Violation]:
    """What has to end without losing a message is known by its connection. Behind a load balancer a client of
    before Newton can't be told from another: it doesn't say its process."""
    ends: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for step in plan.steps:
        if step.kind == "recycle-compute" and step.acts == "forward":
            one = (step.where, str(step.params["unit"]), f"compute.{step.params['nova_host']}")
            ends.setdefault((str(step.params["broker"]), str(step.params["vhost"])), []).append(one)
        if step.kind == "v1-switch":
            end = Conversion.from_json(step.params["conversion"]).old
            ends.setdefault((end.broker, end.vhost), []).extend(
                (str(host), str(unit), f"{topic}.{name}") for host, unit, topic, name in step.params["stop"]
            )
    for (broker, vhost), servers in ends.items():
        try:
            consumers = world.broker(broker).consumers(vhost)
            for host, unit, queue in servers:
                if not _is_told(world, host, unit, [c for c in consumers if c.queue == queue]):
                    yield Violation(
                        f"untold:{host}:{unit}",
                        "stop",
                        host,
                        f"{unit} is not the one that takes from {queue} on {broker}, as its connections look"
                        " there: a load balancer stands between, and it doesn't say its process",
                        "Let its transport_url (or rabbit_hosts) name RabbitMQ's nodes, restart it, then scan"
                        " and plan again",
                    )
        except RecellError as error:
            name = f"{error.word}:connections:{broker}"
            yield Violation(name, "stop", broker, error.sentence, error.remedy)


def _is_told(world: World, host: str, unit: str, consumers: Sequence[Consumer]) -> bool:
    """Also where nobody takes from its queue at all: that is another fault, told by others."""
    port = world.host(host)
    processes = processes_of(port.unit(unit), port.processes())
    if not consumers or not processes:
        return True
    peers = {(s.local_ip, s.local_port) for s in port.sockets([p.pid for p in processes])}
    told = {str(p.told_pid) for p in processes}
    return any(
        (c.peer_host, c.peer_port) in peers or {*c.client_name.split(":")[1:2]} & told for c in consumers
    )


def gates(world: World, plan: Plan) -> Iterator[Violation]:
    """HAProxy can hold requests, and hosts can shut the doors that users leave."""
    for step in plan.steps:
        if step.kind == "v1-servers":
            backend, holds = str(step.params["backend"]), bool(step.params.get("holds", True))
            trouble = partial(world.gate(step.where, backend).trouble, holds=holds)
            yield from _troubled(f"gate:{step.where}:{backend}", step.where, trouble)
        if step.kind in ("v1-switch", "v2-switch"):
            doors = [str(d[0]) for side in step.params["doors"].values() for d in side]
            for host in sorted({*doors, *(str(d[0]) for d in step.params["bare"])}):
                yield from _troubled(f"fence:{host}", host, world.fence(host).trouble)


def _troubled(name: str, where: str, trouble: Callable[[], str]) -> Iterator[Violation]:
    try:
        said = trouble()
    except RecellError as error:
        yield Violation(f"{error.word}:{name}", "stop", where, error.sentence, error.remedy)
        return
    if said:
        yield Violation(name, "stop", where, said, "Mend that, then scan and plan again")
