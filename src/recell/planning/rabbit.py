"""One live RabbitMQ cluster becomes two: the plan.

New nodes join, the clients that belong to them move there, their queues follow; then the cluster is cut
between its sides at one moment. Until the cut undo takes the new nodes out again. No I/O.
"""

from __future__ import annotations

from typing import Any

from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.plan import Acts, Plan
from recell.model.rabbit import RabbitClient, RabbitNode
from recell.planning.changes import describe
from recell.planning.draft import Draft
from recell.planning.rabbit_reasons import RabbitFacts, decide
from recell.planning.safety import with_safe_points

KIND = "split-rabbitmq"
KINDS = (KIND,)
"""Of plans about RabbitMQ alone."""
PART = "rabbitmq/part"


def plan_rabbit(deployment: Deployment, layout: BrokerLayout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts what is there. :raises Unsupported: it isn't safe."""
    facts = decide(deployment, layout)
    draft = Draft()
    _undo_last(facts, draft)
    _join(facts, draft)
    _ignore(facts, draft)
    for group in groups_of(facts.moving):
        _move(facts, draft, group)
    _part(facts, draft)
    _conclude(facts, draft)
    return Plan(
        format=1,
        kind=KIND,
        made_at=made_at,
        state=deployment.state_digest(),
        layout=layout.digest(),
        steps=with_safe_points(draft.steps),
        fingerprints=draft.fingerprints(deployment),
        remarks=_remarks(facts),
        topology_before=_picture([("RabbitMQ", facts.keep, (*facts.moving, *facts.staying))]),
        topology_after=_picture([("kept", facts.keep, facts.staying), ("new", facts.new, facts.moving)]),
    ).sealed()


def in_order(clients: tuple[RabbitClient, ...]) -> tuple[RabbitClient, ...]:
    """Servers before those that only call; of each service's hosts one after the other."""
    return tuple(sorted(clients, key=lambda c: (not c.queues, c.unit, c.host)))


# The steps


def _ends(nodes: tuple[RabbitNode, ...]) -> list[list[str]]:
    return [[n.host, n.name] for n in nodes]


def _both(facts: RabbitFacts) -> dict[str, Any]:
    return {
        "keep": _ends(facts.keep),
        "new": _ends(facts.new),
        "queues": list(facts.layout.rabbitmq.new.queues),
    }


def _undo_last(facts: RabbitFacts, draft: Draft) -> None:
    draft.add(
        "undo/cookie",
        "rabbit-cookie",
        facts.new[0].host,
        "after undo: the new nodes, blank again, get their former Erlang cookie",
        undone="(acts on undo only)",
        acts="backward",
        estimate=10,
        of=PART,
        **_both(facts),
    )


def _join(facts: RabbitFacts, draft: Draft) -> None:
    in_already: list[RabbitNode] = []
    for node in facts.new:
        draft.add(
            f"{node.host}/join",
            "rabbit-join",
            node.host,
            f"{node.name} joins the cluster of {facts.keep[0].name}; every member must see it",
            notice="nothing; queues that a policy mirrors to all nodes are copied to it",
            undone="it leaves and is blank again",
            estimate=20,
            name=node.name,
            keep=_ends((*facts.keep, *in_already)),
            new=_ends((node,)),
        )
        in_already.append(node)


def _ignore(facts: RabbitFacts, draft: Draft) -> None:
    for node in facts.nodes:
        _conf(
            facts,
            draft,
            node,
            "partition-conf",
            {"cluster_partition_handling": "ignore"},
            f"{node.config}: cluster_partition_handling = ignore, for a node that restarts meanwhile",
        )
    draft.add(
        "rabbitmq/ignore",
        "rabbit-handling",
        facts.keep[0].host,
        "no node acts on a partition from now on: cluster_partition_handling = ignore, live on all of them",
        notice="nothing; a real partition meanwhile would not be healed",
        undone="each node has its former handling",
        estimate=10,
        words={n.host: ["ignore", n.handling] for n in facts.nodes},
    )


def _conf(
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


def groups_of(clients: tuple[RabbitClient, ...]) -> tuple[tuple[RabbitClient, ...], ...]:
    """Clients that read one file together: it is edited once, before any of them, and undo puts it back
    before any of them restarts."""
    groups: dict[tuple[str, str], list[RabbitClient]] = {}
    for client in in_order(clients):
        groups.setdefault((client.host, client.file), []).append(client)
    return tuple(tuple(g) for g in groups.values())


def _move(facts: RabbitFacts, draft: Draft, group: tuple[RabbitClient, ...]) -> None:
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
        )
    shown = first.shown.rpartition("@")[2]
    by_name = not shown.split(":")[0].replace(".", "").isdigit()
    port = shown.split("/")[0].split(",")[0].rpartition(":")[2]
    hosts = [facts.deployment.host(n.host) for n in facts.new]
    nodes = [
        [h.hostname if by_name else h.address.host, int(port) if port.isdigit() else 5672] for h in hosts
    ]
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
        )


def _restart(facts: RabbitFacts, draft: Draft, client: RabbitClient, id: str, acts: Acts, title: str) -> None:
    host = facts.deployment.host(client.host)
    draft.add(
        id,
        "repoint",
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
        sides={"keep": _ends(facts.keep), "new": _ends(facts.new)},
        addresses=list(dict.fromkeys([host.address.host, *host.ips, client.peer])),
    )


def _part(facts: RabbitFacts, draft: Draft) -> None:
    draft.add(
        "rabbitmq/rehome",
        "rabbit-rehome",
        facts.keep[0].host,
        "every queue to the side whose clients take from it, with a whole copy there",
        notice="calls wait for parts of a second while a queue changes its leader",
        undone="queues go back to the old nodes; recell's policies are removed",
        estimate=30,
        **_both(facts),
    )
    draft.add(
        PART,
        "rabbit-part",
        facts.keep[0].host,
        f"the cut: {', '.join(n.name for n in facts.keep)} and {', '.join(n.name for n in facts.new)} lose"
        " each other at one moment, forget each other, and get different Erlang cookies",
        notice="queues can't be declared for about a second",
        undone="from here on undo leads moved clients back to the old cluster, and makes the new one blank",
        estimate=60,
        addresses={n.host: list(_addresses(facts, n)) for n in facts.nodes},
        ports=sorted({n.dist_port for n in facts.nodes}),
        settle_s=facts.layout.rabbitmq.settle_s,
        **_both(facts),
    )


def _addresses(facts: RabbitFacts, node: RabbitNode) -> tuple[str, ...]:
    host = facts.deployment.host(node.host)
    return host.ips or (host.address.host,)


def _conclude(facts: RabbitFacts, draft: Draft) -> None:
    draft.add(
        "rabbitmq/policies",
        "rabbit-policies",
        facts.keep[0].host,
        "recell's policies are removed from both clusters",
        undone="nothing to do",
        acts="forward",
        estimate=5,
        **_both(facts),
    )
    for side in (facts.keep, facts.new):
        for node in side:
            settings: dict[str, str | None] = {"cluster_formation.classic_config.nodes.*": None}
            settings |= {f"cluster_formation.classic_config.nodes.{i}": n.name for i, n in enumerate(side, 1)}
            settings["cluster_partition_handling"] = _final(facts, node)
            _conf(
                facts,
                draft,
                node,
                "cluster-conf",
                settings,
                f"{node.config}: its own cluster's nodes, and cluster_partition_handling ="
                f" {_final(facts, node)}",
            )
    draft.add(
        "rabbitmq/handling",
        "rabbit-handling",
        facts.keep[0].host,
        "each cluster acts on partitions again as the old one did",
        undone="cluster_partition_handling = ignore",
        estimate=10,
        lasting=True,
        words={n.host: [_final(facts, n), "ignore"] for n in facts.nodes},
    )


def _final(facts: RabbitFacts, node: RabbitNode) -> str:
    return facts.keep[0].handling if node in facts.new else node.handling


def _remarks(facts: RabbitFacts) -> tuple[str, ...]:
    names = ", ".join(sorted({c.label for c in facts.moving})) or "nobody"
    stay = ", ".join(sorted({c.label for c in facts.staying})) or "nobody"
    unknown = sorted({c.label for c in facts.staying if not c.unit})
    out = [
        f"To the new side go: {names}.",
        f"With the old nodes stay: {stay}.",
        "Who publishes where can't be seen in RabbitMQ. A client that stays and publishes to a service that"
        " moves (notifications, too) would fill a queue that nobody empties: name both for one side.",
        "Until the cut (rabbitmq/part) undo takes the new nodes out again. Once it has begun it is carried to"
        " its end, and undo then leads the moved clients back: what they have sent through the new cluster"
        " and was not taken from it yet stays there, so stop their callers first.",
        "The cut gives the new nodes another Erlang cookie. Never give both clusters one cookie again, and"
        f" keep ports 4369 and {facts.keep[0].dist_port} closed between them: a single ping would join them.",
        "Ansible, Puppet or kolla must learn both node lists, the clients' transport_url and the new cookie.",
    ]
    if unknown:
        out.append(f"recell can't tell which services these are: {', '.join(unknown)}.")
    return tuple(out)


def _picture(groups: list[tuple[str, tuple[RabbitNode, ...], tuple[RabbitClient, ...]]]) -> dict[str, Any]:
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
