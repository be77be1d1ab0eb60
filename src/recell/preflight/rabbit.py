"""Reasons not to split a RabbitMQ cluster, or not to move to a fresh one.

The plan refuses with the first of them, this has them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from recell.adapters.ports import World
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.plan import Plan
from recell.model.violation import Violation
from recell.planning.rabbit import plan_rabbit
from recell.planning.rabbit_reasons import reasons, taken_apart
from recell.preflight import live


def check(
    deployment: Deployment, layout: BrokerLayout, world: World | None = None, plan: Plan | None = None
) -> tuple[Violation, ...]:
    """The ones that stop first. With a world, the live ones too."""
    found: list[Violation] = []
    try:
        facts = taken_apart(deployment, layout)
        found += [
            Violation(f"rabbitmq:{where}:{number}", "stop", where, what, remedy)
            for number, (where, what, remedy) in enumerate(reasons(facts))
        ]
        found += [
            Violation(
                f"unnamed:{c.label}",
                "warning",
                c.host or c.peer,
                f"{c.program or 'a client'} from {c.peer} stays, and recell can't tell which service it is",
                "See that it needs nothing that moves",
            )
            for c in facts.staying
            if not c.unit
        ]
        if not facts.fresh:
            found += list(_firewalls(deployment, {n.host for n in facts.nodes}))
        if not any(v.severity == "stop" for v in found):
            plan = plan or plan_rabbit(deployment, layout, 0.0)
    except RecellError as error:
        found.append(Violation(f"plan:{error.word}", "stop", "layout", error.sentence, error.remedy))
    if world is not None and plan is not None:
        found += live.check_files(world, plan)
    return tuple(sorted(found, key=lambda v: (v.severity != "stop", v.id)))


def _firewalls(deployment: Deployment, hosts: set[str]) -> Iterator[Violation]:
    for host in deployment.hosts:
        if host.name in hosts and not host.firewall:
            yield Violation(
                f"firewall:{host.name}",
                "stop",
                host.name,
                "there is neither nftables nor iptables",
                "Install nftables: the cut needs a wall on every node's host",
            )
