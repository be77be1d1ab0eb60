"""One live RabbitMQ cluster becomes two: the plan.

New nodes join, the clients that belong to them move there, their queues follow; then the cluster is cut
between its sides at one moment. Until the cut undo takes the new nodes out again. No I/O.
"""

from __future__ import annotations

from typing import Any

from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.plan import Plan
from recell.model.rabbit import RabbitNode
from recell.planning import rabbit_nova
from recell.planning.apart import unit_name, unit_text
from recell.planning.draft import Draft
from recell.planning.rabbit_facts import RabbitFacts
from recell.planning.rabbit_fresh import KIND as FRESH
from recell.planning.rabbit_fresh import fresh_steps
from recell.planning.rabbit_moves import bridge_of, conf, ends, move, picture, span
from recell.planning.rabbit_reasons import decide
from recell.planning.rabbit_waves import of_waves

KIND = "split-rabbitmq"
KINDS = (KIND, FRESH)
"""Of plans about RabbitMQ alone."""
PART = "rabbitmq/part"


def plan_rabbit(deployment: Deployment, layout: BrokerLayout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts what is there. :raises Unsupported: it isn't safe."""
    facts = decide(deployment, layout)
    fresh = layout.rabbitmq.method == "fresh"
    draft = Draft()
    remarks = fresh_steps(facts, draft) if fresh else _split_steps(facts, draft)
    return draft.plan(
        FRESH if fresh else KIND,
        deployment,
        layout.digest(),
        made_at,
        changes=rabbit_nova.expected_changes(facts),
        remarks=(*_common_remarks(facts), *of_waves(facts), *rabbit_nova.remarks(facts), *remarks),
        before=picture([("RabbitMQ", facts.keep, (*facts.moving, *facts.staying))]),
        after=picture([("kept", facts.keep, facts.staying), ("new", facts.new, facts.moving)]),
    )


# The steps


def _split_steps(facts: RabbitFacts, draft: Draft) -> tuple[str, ...]:
    _undo_last(facts, draft)
    _join(facts, draft)
    _ignore(facts, draft)
    span(
        facts,
        draft,
        "undo/bridge-away",
        "for an undo that finds two clusters: the bridge between them is closed when nothing waits",
        opens="forward",
        parted=True,
        acts="backward",
    )
    move(facts, draft, bridged=("backward",))
    _part(facts, draft)
    _conclude(facts, draft)
    return _remarks(facts)

def _both(facts: RabbitFacts) -> dict[str, Any]:
    return {
        "keep": ends(facts.keep),
        "new": ends(facts.new),
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
            keep=ends((*facts.keep, *in_already)),
            new=ends((node,)),
        )
        in_already.append(node)


def _ignore(facts: RabbitFacts, draft: Draft) -> None:
    for node in facts.nodes:
        conf(
            facts,
            draft,
            node,
            "partition-conf",
            {"cluster_partition_handling": "ignore"},
            f"{node.config}: cluster_partition_handling = ignore, for a node that restarts meanwhile",
            lasting=False,
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
    span(
        facts,
        draft,
        "undo/bridge",
        "for an undo that finds two clusters: shovels bring over what is sent to the other one's clients",
        opens="backward",
        parted=True,
        acts="backward",
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
            conf(
                facts,
                draft,
                node,
                "cluster-conf",
                settings,
                f"{node.config}: its own cluster's nodes, and cluster_partition_handling ="
                f" {_final(facts, node)}",
            )
    if facts.layout.rabbitmq.firewall == "permanent":
        _apart(facts, draft)
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


def _apart(facts: RabbitFacts, draft: Draft) -> None:
    ports = _closed(facts)
    for side, opposite in ((facts.keep, facts.new), (facts.new, facts.keep)):
        other = opposite[0].host
        addresses = [a for n in opposite for a in _addresses(facts, n)]
        for node in side:
            draft.add_file(
                f"{node.host}/apart",
                "rabbit-apart",
                node.host,
                f"at every boot a unit closes ports {', '.join(map(str, ports))} to the cluster of {other}",
                f"/etc/systemd/system/{unit_name(other)}.service",
                undone="rules and unit are taken away",
                unit=unit_name(other),
                other=other,
                text=unit_text(facts.deployment.host(node.host).firewall, other, addresses, ports),
            )


def _closed(facts: RabbitFacts) -> list[int]:
    """Where nodes find and reach each other."""
    return sorted({p for n in facts.nodes for p in (n.settings.epmd_port, n.dist_port)})


def _final(facts: RabbitFacts, node: RabbitNode) -> str:
    return facts.keep[0].handling if node in facts.new else node.handling


def _common_remarks(facts: RabbitFacts) -> tuple[str, ...]:
    names = ", ".join(sorted({c.label for c in facts.moving})) or "nobody"
    stay = ", ".join(sorted({c.label for c in facts.staying})) or "nobody"
    unknown = sorted({c.label for c in facts.staying if not c.unit})
    naming = sorted({p for n in facts.keep for p in n.settings.node_policies})
    out = [
        f"To the new side go: {names}.",
        f"With the old nodes stay: {stay}.",
        "Who publishes where can't be seen in RabbitMQ. A client that stays and publishes to a service that"
        " moves (notifications, too) would fill a queue that nobody empties: name both for one side.",
    ]
    if naming:
        out.append(
            "Policies that name nodes (ha-mode: nodes) mirror nothing on the new cluster; change ha-params"
            f" there afterwards: {', '.join(naming)}."
        )
    if any(end.startswith("amqps:") for side in bridge_of(facts)["ends"].values() for end in side):
        out.append(
            "No node listens for AMQP without TLS, so shovels of a bridge use TLS, and take any certificate."
        )
    if unknown:
        out.append(f"recell can't tell which services these are: {', '.join(unknown)}.")
    return tuple(out)


def _remarks(facts: RabbitFacts) -> tuple[str, ...]:
    return (
        "Until the cut (rabbitmq/part) undo takes the new nodes out again. Once it has begun it is carried to"
        " its end; undo then opens a bridge of shovels between the two clusters and leads the moved clients"
        " back over it.",
        "The cut gives the new nodes another Erlang cookie. Never give both clusters one cookie again, and"
        f" keep ports {', '.join(map(str, _closed(facts)))} closed between them"
        + (" (a unit of recell's does)" if facts.layout.rabbitmq.firewall == "permanent" else "")
        + ": a single ping would join them.",
        "Ansible, Puppet or kolla must learn both node lists, the clients' transport_url and the new cookie.",
    )
