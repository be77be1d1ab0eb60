"""One live RabbitMQ cluster becomes two: the plan.

New nodes join, the clients that belong to them move there, their queues follow; then the cluster is cut
between its sides at one moment. Until the cut undo takes the new nodes out again. No I/O.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

from recell.errors import BadInput, Unsupported
from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.plan import Acts, Fingerprint, Plan
from recell.model.rabbit import RabbitClient, RabbitNode
from recell.planning.changes import describe
from recell.planning.draft import Draft
from recell.planning.queues import Sides
from recell.planning.safety import with_safe_points

KIND = "split-rabbitmq"
HANDLINGS = ("ignore", "autoheal", "pause_minority")
OLDEST, NEWEST = (3, 8), (3, 13)
SHORTEST_TICKTIME_S = 20.0
PART = "rabbitmq/part"


@dataclass(frozen=True)
class RabbitFacts:
    """What deployment and layout come to."""

    deployment: Deployment
    layout: BrokerLayout
    keep: tuple[RabbitNode, ...]
    new: tuple[RabbitNode, ...]
    moving: tuple[RabbitClient, ...]
    staying: tuple[RabbitClient, ...]

    @property
    def nodes(self) -> tuple[RabbitNode, ...]:
        return (*self.keep, *self.new)

    @property
    def sides(self) -> Sides:
        return Sides(
            tuple(n.name for n in self.keep),
            tuple(n.name for n in self.new),
            self.layout.rabbitmq.new.queues,
        )


def plan_rabbit(deployment: Deployment, layout: BrokerLayout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts what is there. :raises Unsupported: it can't be done safely."""
    facts = decide(deployment, layout)
    draft = Draft()
    _undo_last(facts, draft)
    _join(facts, draft)
    _ignore(facts, draft)
    for group in groups_of(facts.moving):
        _move(facts, draft, group)
    _part(facts, draft)
    _conclude(facts, draft)
    touched = {s.where for s in draft.steps}
    known = [
        Fingerprint(h.name, f.path, f.sha256)
        for h in deployment.hosts
        if h.name in touched
        for f in h.config_files
    ]
    absent = [Fingerprint(host, path, "") for host, path in draft.new_files]
    return Plan(
        format=1,
        kind=KIND,
        made_at=made_at,
        state=deployment.state_digest(),
        layout=layout.digest(),
        steps=with_safe_points(draft.steps),
        fingerprints=tuple(dict.fromkeys([*known, *absent])),
        remarks=_remarks(facts),
        topology_before=_picture([("RabbitMQ", facts.keep, (*facts.moving, *facts.staying))]),
        topology_after=_picture([("kept", facts.keep, facts.staying), ("new", facts.new, facts.moving)]),
    ).sealed()


# What is there, and whether it can be done


def decide(deployment: Deployment, layout: BrokerLayout) -> RabbitFacts:
    """:raises BadInput, Unsupported: the first reason against it; :func:`reasons` has them all."""
    facts = taken_apart(deployment, layout)
    found = reasons(facts)
    if found:
        _, what, remedy = found[0]
        more = f" (and {len(found) - 1} more reasons: recell check)" if len(found) > 1 else ""
        raise Unsupported(what + more, remedy)
    return facts


def taken_apart(deployment: Deployment, layout: BrokerLayout) -> RabbitFacts:
    """Who is on which side, whether it can be done or not. :raises BadInput: the layout names what isn't there."""
    keep, new = (_nodes(deployment, s.hosts) for s in (layout.rabbitmq.keep, layout.rabbitmq.new))
    moving, staying = _clients(deployment, layout, keep)
    return RabbitFacts(deployment, layout, keep, new, moving, staying)


def _nodes(deployment: Deployment, hosts: tuple[str, ...]) -> tuple[RabbitNode, ...]:
    out = []
    for host in dict.fromkeys(hosts):
        deployment.host(host)
        mine = [n for n in deployment.rabbit if n.host == host]
        if not mine:
            raise BadInput(
                f"no running RabbitMQ was found on {host}",
                "Start it there, then: recell scan --rabbitmq",
            )
        out += mine
    return tuple(out)


def _clients(
    deployment: Deployment, layout: BrokerLayout, keep: tuple[RabbitNode, ...]
) -> tuple[tuple[RabbitClient, ...], tuple[RabbitClient, ...]]:
    members = {m for n in keep for m in n.members}
    moving, staying, nobody = [], [], []
    for client in deployment.rabbit_clients:
        if not set(client.nodes) & members:
            continue
        if any(fnmatch.fnmatchcase(client.label, p) for p in layout.rabbitmq.new.clients):
            moving.append(client)
        elif any(fnmatch.fnmatchcase(client.label, p) for p in layout.rabbitmq.keep.clients):
            staying.append(client)
        else:
            nobody.append(client.label)
    if nobody:
        raise BadInput(
            f"the layout gives these clients to neither side: {', '.join(sorted(set(nobody))[:8])}",
            "Let a pattern of keep: clients or new: clients name them",
        )
    idle = [
        p for p in layout.rabbitmq.new.clients if not any(fnmatch.fnmatchcase(c.label, p) for c in moving)
    ]
    if idle:
        raise BadInput(
            f"no client of the cluster matches {idle[0]}", "recell scan --rabbitmq lists them as unit@host"
        )
    return tuple(moving), tuple(staying)


Reason = tuple[str, str, str]
"""(where, what, remedy)"""


def reasons(facts: RabbitFacts) -> list[Reason]:
    """Everything that forbids this split, most general first."""
    return [
        *_of_layout(facts),
        *_of_method(facts),
        *_of_cluster(facts),
        *_of_new_nodes(facts),
        *_of_clients(facts),
        *_of_queues(facts),
    ]


def _of_layout(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    both = {n.host for n in facts.keep} & {n.host for n in facts.new}
    if both:
        out.append((min(both), f"{', '.join(sorted(both))} are on both sides", "Name each host once"))
    members = {m for n in facts.keep for m in n.members}
    missing = members - {n.name for n in facts.keep}
    if missing:
        out.append(
            (
                facts.keep[0].host,
                f"{', '.join(sorted(missing))} belong to the cluster and are not under keep: hosts",
                "Name all its nodes, and add their hosts to the inventory",
            )
        )
    strangers = [n.name for n in facts.keep if not set(n.members) & {facts.keep[0].name}]
    if strangers:
        out.append(
            (
                facts.keep[0].host,
                f"{', '.join(strangers)} are not in one cluster with {facts.keep[0].name}",
                "Name the nodes of one cluster",
            )
        )
    return out


def _of_method(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    fresh = (
        "recell can't bridge a fresh cluster yet: make the new nodes a cluster of their own with its own"
        " cookie, and move the clients with Nova held"
    )
    if facts.layout.rabbitmq.method == "fresh":
        out.append((facts.keep[0].host, "method: fresh is not done by this recell", fresh))
    for node in facts.nodes:
        version = tuple(int(p) for p in node.version.split(".")[:2] if p.isdigit())
        if node.khepri or not OLDEST <= version <= NEWEST:
            what = (
                "keeps its metadata in Khepri"
                if node.khepri
                else f"runs RabbitMQ {node.version or 'unknown'}"
            )
            out.append(
                (node.host, f"{node.name} {what}; a split is proven from 3.8 to 3.13 with Mnesia only", fresh)
            )
    versions = {(n.version, n.erlang) for n in facts.nodes}
    if len(versions) > 1:
        told = ", ".join(sorted(f"{v} on Erlang {e}" for v, e in versions))
        out.append(
            (facts.new[0].host, f"the nodes run different releases: {told}", "Install one release on all")
        )
    streams = [q.name for q in facts.deployment.rabbit_queues if q.kind == "stream"]
    if streams:
        out.append(
            (
                facts.keep[0].host,
                f"{len(streams)} stream queues ({', '.join(streams[:3])}) can't be split",
                "Switch rabbit_stream_fanout off and let them go first",
            )
        )
    return out


def _of_cluster(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    for node in facts.keep:
        want = {n.name for n in facts.keep}
        if set(node.running) != want:
            out.append(
                (
                    node.host,
                    f"{node.name} sees {', '.join(node.running) or 'no node'} running",
                    "Bring every node of the cluster up",
                )
            )
        if node.partitions:
            out.append(
                (
                    node.host,
                    f"{node.name} sees a partition from {', '.join(node.partitions)}",
                    "Heal it: restart the nodes of the side that you trust less",
                )
            )
    for node in facts.nodes:
        out += [(node.host, f"{node.name} has an alarm: {a}", "Make room first") for a in node.alarms]
        if node.container:
            out.append(
                (node.host, f"{node.name} runs in a container", "recell splits RabbitMQ on hosts only")
            )
        if node.old_config:
            out.append(
                (
                    node.host,
                    f"{node.name} is configured by Erlang terms (rabbitmq.config or"
                    " advanced.config sets what recell has to set)",
                    "Move these settings to rabbitmq.conf",
                )
            )
        if node.handling not in HANDLINGS:
            out.append(
                (
                    node.host,
                    f"{node.name} has cluster_partition_handling {node.handling}",
                    f"Set one of {', '.join(HANDLINGS)}",
                )
            )
        if node.ticktime_s < SHORTEST_TICKTIME_S:
            out.append(
                (
                    node.host,
                    f"net_ticktime is {node.ticktime_s:.0f} s on {node.name}, too short to cut"
                    " all nodes before one of them notices",
                    "Set it to 60",
                )
            )
    if len({n.cookie for n in facts.nodes}) > 1:
        out.append(
            (
                facts.new[0].host,
                "the nodes have different Erlang cookies",
                "Copy the cluster's cookie to the new nodes and restart them; the cut gives them a new one",
            )
        )
    return out


def _of_new_nodes(facts: RabbitFacts) -> list[Reason]:
    return [
        (
            n.host,
            f"{n.name} is not blank: {', '.join(n.used)}",
            "rabbitmqctl stop_app, reset, start_app there",
        )
        for n in facts.new
        if n.used
    ]


def _of_clients(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    for c in facts.moving:
        if not c.host or not c.unit:
            out.append(
                (
                    c.peer,
                    f"{c.program or 'a client'} from {c.peer} is to move, and recell can't tell which"
                    " service it is",
                    "Add its host to the inventory; or leave it with the kept side",
                )
            )
        elif c.container:
            out.append((c.host, f"{c.label} runs in a container", "Move it by its deployment tool"))
        elif not c.file:
            out.append(
                (
                    c.host,
                    f"{c.label} is to move, and none of its files sets transport_url",
                    "Set it in the file that the service reads, restart it, and scan again",
                )
            )
    edited = {(c.host, c.file) for c in facts.moving if c.file}
    for c in facts.staying:
        if c.file and (c.host, c.file) in edited:
            out.append(
                (
                    c.host,
                    f"{c.label} stays and reads {c.file}, which a client that moves reads too",
                    "Give one of them a file of its own",
                )
            )
    return out


def _of_queues(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    for queue in facts.deployment.rabbit_queues:
        if queue.kind == "classic" and not queue.of_a_process and set(queue.members) - set(queue.synced):
            out.append(
                (
                    facts.keep[0].host,
                    f"the mirrors of {queue.name} are not synchronised",
                    f"rabbitmqctl sync_queue {queue.name}",
                )
            )
    moving = {q for c in facts.moving for q in c.queues}
    staying = {q: c for c in facts.staying for q in c.queues}
    for name in sorted(moving & set(staying)):
        mover = next(c for c in facts.moving if name in c.queues)
        out.append(
            (
                facts.keep[0].host,
                f"{name} is taken from by {mover.label}, which moves, and by"
                f" {staying[name].label}, which stays",
                "Let both go to one side",
            )
        )
    return out


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
        f"the cut: {', '.join(n.name for n in facts.keep)} and {', '.join(n.name for n in facts.new)} lose each"
        " other at one moment, forget each other, and get different Erlang cookies",
        notice="queues can't be declared for about a second",
        undone="from here on undo leads the moved clients back to the old cluster, and makes the new one blank",
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
        " its end, and undo then leads the moved clients back: what they have sent through the new cluster and"
        " what was not taken from it yet stays there, so stop their callers first.",
        "The cut gives the new nodes another Erlang cookie. Never give both clusters one cookie again, and keep"
        f" ports 4369 and {facts.keep[0].dist_port} closed between them: a single ping would join them.",
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
