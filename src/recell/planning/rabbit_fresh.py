"""Clients of a RabbitMQ cluster move to a new one: the plan. No I/O.

The new nodes are a cluster of their own from the beginning, with an Erlang cookie of its own. While clients
move, shovels bring over what is sent to those who are on the other side (:mod:`recell.planning.bridge`).
"""

from __future__ import annotations

from recell.planning.draft import Draft
from recell.planning.rabbit_facts import RabbitFacts
from recell.planning.rabbit_moves import conf, ends, move, span
from recell.planning.rabbit_reasons import HANDLINGS

KIND = "fresh-rabbitmq"


def fresh_steps(facts: RabbitFacts, draft: Draft) -> tuple[str, ...]:
    """Draft the steps; gives what the operator must know."""
    first = facts.new[0]
    draft.add(
        f"{first.host}/blank",
        "rabbit-blank",
        first.host,
        f"after undo: {first.name} is blank again",
        undone="(acts on undo only)",
        acts="backward",
        estimate=15,
        name=first.name,
        keep=ends((first,)),
        new=[],
        fresh=True,
    )
    for index, node in enumerate(facts.new[1:], 1):
        draft.add(
            f"{node.host}/join",
            "rabbit-join",
            node.host,
            f"{node.name} joins {first.name}; both must see it",
            undone="it leaves and is blank again",
            estimate=20,
            name=node.name,
            keep=ends(facts.new[:index]),
            new=ends((node,)),
            fresh=True,
        )
    draft.add(
        "rabbitmq/definitions",
        "rabbit-definitions",
        first.host,
        f"{first.name}'s cluster gets the vhosts, users, permissions and policies of {facts.keep[0].name}'s",
        undone="they go with the nodes' content",
        acts="forward",
        estimate=10,
        keep=ends(facts.keep),
        new=ends(facts.new),
    )
    span(
        facts,
        draft,
        "rabbitmq/bridge",
        "shovels on the new nodes bring over what is sent to those who are on the other cluster",
        opens="forward",
        parted=False,
        acts="both",
    )
    move(facts, draft, bridged=("forward", "backward"))
    span(
        facts,
        draft,
        "rabbitmq/bridge-away",
        "when nothing waits any more: shovels, recell's queues and its account go",
        opens="backward",
        parted=False,
        acts="both",
    )
    _conclude(facts, draft)
    return (
        "While the bridge is open, a process that begins anew by itself is reached from the other cluster"
        " only after recell's next step: don't let a paused run stand for long between rabbitmq/bridge and"
        " rabbitmq/bridge-away.",
        "Queues of the clients that moved stay on the old cluster, empty. Delete them when you are sure that"
        " nobody publishes to them there.",
        "Ansible, Puppet or kolla must learn the new node list and the clients' transport_url.",
    )


def _conclude(facts: RabbitFacts, draft: Draft) -> None:
    word = facts.keep[0].handling
    alike = word in HANDLINGS  # another one names nodes; it is left to the operator
    for node in facts.new:
        settings: dict[str, str | None] = {"cluster_formation.classic_config.nodes.*": None}
        names = [n.name for n in facts.new]
        settings |= {f"cluster_formation.classic_config.nodes.{i}": n for i, n in enumerate(names, 1)}
        title = f"{node.config}: its own cluster's nodes"
        if alike and not node.khepri:
            settings["cluster_partition_handling"] = word
            title += f", and cluster_partition_handling = {word}"
        conf(facts, draft, node, "cluster-conf", settings, title)
    there = {n.host: [word, n.handling] for n in facts.new if alike and not n.khepri}
    if there:
        draft.add(
            "rabbitmq/handling",
            "rabbit-handling",
            facts.new[0].host,
            "the new cluster acts on partitions as the old one does",
            undone="each node has its former handling",
            estimate=10,
            lasting=True,
            words=there,
        )
