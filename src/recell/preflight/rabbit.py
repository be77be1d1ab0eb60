"""Reasons not to split a RabbitMQ cluster, or not to move to a fresh one.

The plan refuses with the first of them, this has them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from recell.adapters.ports import World
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.plan import Plan
from recell.model.violation import Violation
from recell.planning.rabbit import plan_rabbit
from recell.planning.rabbit_facts import RabbitFacts
from recell.planning.rabbit_moves import bridge_of
from recell.planning.rabbit_nova import nodes_for
from recell.planning.rabbit_reasons import reasons, taken_apart
from recell.preflight import live, rooms


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
            if world is not None:
                found += [*_reach(world, facts), *rooms.check(world, plan)]
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


# Who has to reach whom

_ASK = """
import socket, sys
for word in sys.argv[1:]:
    host, _, port = word.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 3).close()
    except OSError as error:
        print(word, error.strerror or error, sep="\\t")
"""


def _reach(world: World, facts: RabbitFacts) -> Iterator[Violation]:
    """Clients reach the new nodes, shovels both sides, nodes each other: asked from their hosts, before
    anybody is restarted."""
    wanted = _wanted(facts)
    with ThreadPoolExecutor(max(1, min(16, len(wanted)))) as pool:
        asked = {host: pool.submit(_unreached, world, host, list(ends)) for host, ends in wanted.items()}
    for host, answer in asked.items():
        for end, why in answer.result():
            needed = wanted[host][end]
            late = "" if needed else ", as undo after the cut must"
            yield Violation(
                f"reach:{host}:{end}",
                "stop" if needed else "warning",
                host,
                f"{end} can't be reached from there ({why}){late}",
                "See the names that it knows, and the firewalls between the two",
            )


def _wanted(facts: RabbitFacts) -> dict[str, dict[str, bool]]:
    """By host: ``host:port``, and whether the way there needs it."""
    found: dict[str, dict[str, bool]] = {}

    def add(host: str, address: str, port: int, needed: bool = True) -> None:
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        found.setdefault(host, {})[place] = needed or found.get(host, {}).get(place, False)

    for client in facts.moving:
        for address, port in nodes_for(facts, client.shown):
            add(client.host, str(address), int(port))
    for ends in bridge_of(facts)["ends"].values():
        for node in facts.new:
            for end in ends:
                address, _, port = str(end).rpartition("://")[2].rpartition(":")
                add(node.host, address.strip("[]"), int(port), facts.fresh)
    if not facts.fresh:
        for mine, others in ((facts.new, facts.keep), (facts.keep, facts.new)):
            for node in mine:
                for other in others:
                    for port in (other.settings.epmd_port, other.dist_port):
                        add(node.host, other.name.partition("@")[2], port)
    return found


def _unreached(world: World, host: str, ends: Sequence[str]) -> list[tuple[str, str]]:
    done = world.host(host).query(["python3", "-I", "-c", _ASK, *ends], timeout=10 + 4 * len(ends))
    if done.returncode != 0:
        return []  # nobody can tell; the step that needs it will
    rows = [line.split("\t", 1) for line in done.stdout.decode("utf-8", "replace").splitlines()]
    return [(row[0], row[1]) for row in rows if len(row) == 2]
