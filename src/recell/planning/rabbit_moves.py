"""What plans about RabbitMQ clusters have in common: clients that move, files, pictures. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recell.model.plan import Acts
from recell.model.rabbit import RabbitClient, RabbitNode
from recell.model.step import Direction
from recell.planning.changes import describe
from recell.planning.draft import Draft
from recell.planning.rabbit_reasons import RabbitFacts


def in_order(clients: tuple[RabbitClient, ...]) -> tuple[RabbitClient, ...]:
    """Servers before those that only call; of each service's hosts one after the other."""
    return tuple(sorted(clients, key=lambda c: (not c.queues, c.unit, c.host)))

def groups_of(clients: tuple[RabbitClient, ...]) -> tuple[tuple[RabbitClient, ...], ...]:
    """Clients that read one file together: it is edited once, before any of them, and undo puts it back
    before any of them restarts."""
    groups: dict[tuple[str, str], list[RabbitClient]] = {}
    for client in in_order(clients):
        groups.setdefault((client.host, client.file), []).append(client)
    return tuple(tuple(g) for g in groups.values())

def ends(nodes: tuple[RabbitNode, ...]) -> list[list[str]]:
    return [[n.host, n.name] for n in nodes]

def conf(
    facts: RabbitFacts, draft: Draft, node: RabbitNode, name: str, settings: dict[str, str | None], title: str
) -> None:
    there = any(f.path == node.config for f in facts.deployment.host(node.host).config_files)
    if not there and (node.host, node.config) not in draft.new_files:
        draft.new_files.append((node.host, node.config))
    draft.add(
        f"{node.host}/{name}",
        "rabbit-conf",
        node.host,
        title,
        undone="the old file is put back",
        path=node.config,
        settings=settings,
    )

def move(
    facts: RabbitFacts, draft: Draft, group: tuple[RabbitClient, ...], *, bridged: Sequence[Direction]
) -> None:
    """:param bridged: ways on which shovels may bridge the two clusters meanwhile."""
    first = group[0]
    units = {c.unit: c for c in reversed(group)}  # a unit with connections to several vhosts restarts once
    for unit, client in units.items():
        _restart(
            facts,
            draft,
            client,
            f"{client.host}/{unit}-back",
            "backward",
            f"{unit} goes back to {facts.keep[0].name}'s side",
            "backward" in bridged,
        )
    by_name = not first.shown.rpartition("@")[2].split(":")[0].replace(".", "").isdigit()
    hosts = [facts.deployment.host(n.host) for n in facts.new]
    nodes = [[h.hostname if by_name else h.address.host, port_of(first)] for h in hosts]
    change: Any = {"section": "DEFAULT", "option": "transport_url", "op": "nodes", "nodes": nodes}
    draft.add(
        f"{first.host}/{first.unit}-url",
        "edit-config",
        first.host,
        f"{first.file}: {describe(change)}",
        undone="the old file is put back",
        path=first.file,
        changes=[change],
    )
    for unit, client in reversed(units.items()):
        _restart(
            facts,
            draft,
            client,
            f"{client.host}/{unit}",
            "forward",
            f"{unit} moves to the new nodes"
            + (f"; serves {', '.join(client.queues[:3])}" if client.queues else ""),
            "forward" in bridged,
        )


def _restart(
    facts: RabbitFacts,
    draft: Draft,
    client: RabbitClient,
    id: str,
    acts: Acts,
    title: str,
    over_bridge: bool,
) -> None:
    more = {"bridge": bridge_of(facts)} if over_bridge else {}
    host = facts.deployment.host(client.host)
    draft.add(
        id,
        "repoint-bridged" if over_bridge else "repoint",
        client.host,
        title,
        notice=f"what is sent to {', '.join(client.queues[:3])} waits some seconds"
        if client.queues
        else "what this service is at is cut short while it restarts",
        undone="moved back the same way",
        acts=acts,
        estimate=15,
        unit=client.unit,
        vhost=client.vhost,
        queues=list(client.queues),
        reads=list(client.files),
        sides={"keep": ends(facts.keep), "new": ends(facts.new)},
        addresses=list(dict.fromkeys([host.address.host, *host.ips, client.peer])),
        **more,
    )


def port_of(client: RabbitClient) -> int:
    """Where its first node listens."""
    found = client.shown.rpartition("@")[2].split("/")[0].split(",")[0].rpartition(":")[2]
    return int(found) if found.isdigit() else 5672


def bridge_of(facts: RabbitFacts) -> dict[str, Any]:
    """What the steps on the bridge are told."""
    port = port_of(facts.moving[0]) if facts.moving else 5672
    reached: dict[str, list[str]] = {}
    for side, nodes in (("keep", facts.keep), ("new", facts.new)):
        addresses = [facts.deployment.host(n.host).address.host for n in nodes]
        reached[side] = [f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses]
    return {
        "keep": ends(facts.keep),
        "new": ends(facts.new),
        "ends": reached,
        "vhosts": sorted({c.vhost for c in (*facts.moving, *facts.staying)}),
    }


def span(
    facts: RabbitFacts, draft: Draft, id: str, title: str, *, opens: Acts, parted: bool, acts: Acts
) -> None:
    """A step that opens the bridge on the way ``opens`` and closes it on the other one."""
    draft.add(
        id,
        "rabbit-bridge",
        facts.new[0].host,
        title,
        undone="the bridge is closed again" if opens == "forward" else "the bridge is opened again",
        acts=acts,
        estimate=30,
        forward="open" if opens == "forward" else "close",
        backward="open" if opens == "backward" else "close",
        parted=parted,
        **bridge_of(facts),
    )

def picture(groups: list[tuple[str, tuple[RabbitNode, ...], tuple[RabbitClient, ...]]]) -> dict[str, Any]:
    out = []
    for name, nodes, clients in groups:
        services: dict[str, list[str]] = {}
        for c in clients:
            services.setdefault(c.unit or c.program or "unknown", []).append(c.host or c.peer)
        out.append(
            {
                "name": name,
                "broker": ", ".join(n.host for n in nodes),
                "database": "",
                "services": {k: sorted(set(v)) for k, v in services.items()},
            }
        )
    return {"groups": out}
