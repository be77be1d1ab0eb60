"""Who is on which side of a RabbitMQ cluster that becomes two, and what forbids it. No I/O."""

from __future__ import annotations

import fnmatch

from recell.errors import BadInput, Unsupported
from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout
from recell.model.rabbit import RabbitClient, RabbitNode
from recell.planning import rabbit_nova
from recell.planning.rabbit_facts import RabbitFacts, Reason

HANDLINGS = ("ignore", "autoheal", "pause_minority")
OLDEST, NEWEST = (3, 8, 2), (3, 12)
"""Before 3.8.2 rabbitmqctl exports no definitions: a bridge needs them, and so does undo after a cut."""
SHORTEST_TICKTIME_S = 20.0
END_COORDINATOR = (
    "rabbitmqctl eval 'ra:delete_cluster([{rabbit_stream_coordinator, N} || N <-"
    " rabbit_mnesia:cluster_nodes(running)]).'"
)
"""Of streams, where there are none: whoever declares one begins another."""


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
    """Who is on which side, possible or not. :raises BadInput: the layout names what isn't there."""
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


def reasons(facts: RabbitFacts) -> list[Reason]:
    """Everything that forbids this conversion, most general first."""
    if facts.fresh:
        return [
            *_of_layout(facts),
            *_of_fresh(facts),
            *_of_new_nodes(facts),
            *_of_doors(facts),
            *_of_clients(facts),
            *_of_lasting(facts),
            *rabbit_nova.reasons(facts),
            *_taken_by_both(facts),
        ]
    return [
        *_of_layout(facts),
        *_of_method(facts),
        *_of_cluster(facts),
        *_of_new_nodes(facts),
        *_of_doors(facts),
        *_of_clients(facts),
        *_of_lasting(facts),
        *rabbit_nova.reasons(facts),
        *_of_queues(facts),
    ]


def _of_layout(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    both = {n.host for n in facts.keep} & {n.host for n in facts.new}
    if both:
        out.append((min(both), f"{', '.join(sorted(both))} are on both sides", "Name each host once"))
    members = {m for n in facts.keep for m in n.members}
    alike = {n.name for n in facts.keep} & {n.name for n in facts.new}
    if alike and not both:
        what = f"nodes on both sides call themselves {', '.join(sorted(alike))}"
        out.append((facts.new[0].host, what, "Give each a NODENAME of its own"))
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


def _version(node: RabbitNode) -> tuple[int, ...]:
    return tuple(int(p) for p in node.version.split(".")[:3] if p.isdigit())


def _of_method(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
    fresh = "Say method: fresh in the layout, and give the new nodes an Erlang cookie of their own"
    for node in facts.nodes:
        version = _version(node)
        if node.khepri or version < OLDEST or version[:2] > NEWEST:
            what = (
                "keeps its metadata in Khepri"
                if node.khepri
                else f"runs RabbitMQ {node.version or 'unknown'}"
            )
            out.append(
                (node.host, f"{node.name} {what}; recell splits 3.8.2 to 3.12 with Mnesia only", fresh)
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
    coordinated = [n for n in facts.keep if n.coordinator]
    if coordinated and not streams:
        what = (
            f"{coordinated[0].name} keeps a coordinator of streams that are gone; it would be cut, too, and"
            " one of the sides could make no stream any more"
        )
        remedy = f"End it, as no stream is left: {END_COORDINATOR}; then scan again"
        out.append((coordinated[0].host, what, remedy))
    return out


def _running(facts: RabbitFacts) -> list[Reason]:
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
    return out


def _of_epmd(nodes: tuple[RabbitNode, ...]) -> list[Reason]:
    """Each looks for the others where its own epmd listens."""
    for node in nodes:
        mine, first = node.settings.epmd_port, nodes[0].settings.epmd_port
        if mine != first:
            what = f"{node.name} looks for epmd on port {mine}, {nodes[0].name} on {first}: it could not join"
            remedy = "Give all of them one ERL_EPMD_PORT (rabbitmq-env.conf, or their units), and restart it"
            return [(node.host, what, remedy)]
    return []


def _of_cluster(facts: RabbitFacts) -> list[Reason]:
    out = [*_running(facts), *_of_epmd(facts.nodes)]
    for node in facts.nodes:
        out += [(node.host, f"{node.name} has an alarm: {a}", "Make room first") for a in node.alarms]
        out += _not_editable(node)
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
        if not node.dist_port:
            what = f"{node.name} can't tell on which port other nodes reach it: its epmd does not know it"
            out.append((node.host, what, "See epmd -names there; a wall needs this port"))
        if node.settings.cookie_given:
            what = f"{node.name} has its Erlang cookie from its command line or environment, not from a file"
            remedy = "Leave it to .erlang.cookie (no -setcookie, no RABBITMQ_ERLANG_COOKIE), and restart it"
            out.append((node.host, what, remedy))
    movers = sorted({m for n in facts.keep for m in n.settings.movers if not m.startswith("shovel recell-")})
    if movers:
        out.append(
            (
                facts.keep[0].host,
                f"after the cut both clusters would run what the one does now: {', '.join(movers[:5])}",
                "Take shovels and federation upstreams away until it is done, or say method: fresh",
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
    out = [
        (
            n.host,
            f"{n.name} is not blank: {', '.join(n.used)}",
            "rabbitmqctl stop_app, reset, start_app there",
        )
        for n in facts.new
        if n.used
    ]
    for n in facts.new:
        if n.settings.joins:
            peers = ", ".join(n.settings.joins)
            what = f"{n.name} joins {peers} by itself when it starts blank, as on undo"
            out.append((n.host, what, f"Take cluster_formation out of {n.config}, and restart it"))
    return out


def _of_doors(facts: RabbitFacts) -> list[Reason]:
    """Where clients will connect."""
    out: list[Reason] = []
    asked: set[tuple[str, int]] = set()
    for client in (c for c in facts.moving if c.file):
        port = rabbit_nova.port_of(client.shown)
        there = {p for n in facts.keep for p in n.settings.speaks(port)}
        for node in (n for n in facts.new if n.settings.listeners):
            mine = set(node.settings.speaks(port))
            lacking = there - mine if mine else there or {"amqp"}
            if lacking and (node.name, port) not in asked:
                asked.add((node.name, port))
                what = (
                    f"{node.name} does not listen for {' and '.join(sorted(lacking))} on port {port}, to"
                    f" which {client.label} connects"
                )
                out.append((node.host, what, "Let it listen there, as the old nodes do, and restart it"))
    return out


def _one(a: RabbitClient, b: RabbitClient) -> bool:
    return (a.host, a.unit) == (b.host, b.unit)


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
        elif c.queues and any(o.queues and o.vhost != c.vhost and _one(o, c) for o in facts.moving):
            what = f"{c.label} takes from queues in more than one vhost"
            remedy = "recell ends a server without a loss in one vhost; let it stay with the old nodes"
            out.append((c.host, what, remedy))
        elif not c.file:
            out.append(
                (
                    c.host,
                    f"{c.label} is to move, and none of its files sets transport_url",
                    "Set it in the file that the service reads, restart it, and scan again",
                )
            )
        fixed = [option for option, shown in c.fixed if rabbit_nova.leads_here(facts, c, shown)]
        if fixed:
            what = f"{c.label} is to move, and {', '.join(fixed)} leads it to the old nodes as well"
            remedy = "recell edits transport_url alone: take it away, or let the client stay"
            out.append((c.host, what, remedy))
    edited = {(c.host, c.file) for c in facts.moving if c.file}
    edited |= {(c.host, path) for c in facts.moving for path, _, _ in c.also}
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


def _of_lasting(facts: RabbitFacts) -> list[Reason]:
    """Servers whose queues end with them: messages could not wait there. Over a bridge a shovel takes from
    such a queue's namesake, also of one that stays."""
    out: list[Reason] = []
    ending = {(q.vhost, q.name) for q in facts.deployment.rabbit_queues if q.auto_delete}
    for c in (*facts.moving, *(facts.staying if facts.fresh else ())):
        mine = [q for q in c.queues if c.auto_delete or (c.vhost, q) in ending]
        if mine:
            what = (
                f"{c.label} takes from {', '.join(mine[:3])}, which end with their last taker"
                " (amqp_auto_delete): what is sent while it restarts would be lost"
            )
            remedy = (
                "Stop all that use these queues, take amqp_auto_delete out of [oslo_messaging_rabbit], start"
                " them, and scan again"
            )
            out.append((c.host or c.peer, what, remedy))
    return out


def _of_fresh(facts: RabbitFacts) -> list[Reason]:
    out = _running(facts)
    for node in facts.nodes:
        if _version(node) < OLDEST:
            told = f"{node.name} runs RabbitMQ {node.version or 'unknown'}; recell bridges 3.8.2 and newer"
            out.append((node.host, told, "Bring it to a newer release first"))
        out += [(node.host, f"{node.name} has an alarm: {a}", "Make room first") for a in node.alarms]
    for node in facts.new:
        out += _not_editable(node)
    out += _of_epmd(facts.new)
    versions = {(n.version, n.erlang) for n in facts.new}
    if len(versions) > 1:
        told = ", ".join(sorted(f"{v} on Erlang {e}" for v, e in versions))
        what = f"the new nodes run different releases: {told}"
        out.append((facts.new[0].host, what, "Install one release on all"))
    out += _of_release(facts)
    for node in facts.keep:
        if node.settings.limited:
            what = (
                f"a vhost on {node.name} has limits, and a bridge makes queues and connections of its own: at"
                " a limit it would stop while a client is down"
            )
            remedy = "See rabbitmqctl list_vhost_limits, and take them away (clear_vhost_limits) meanwhile"
            out.append((node.host, what, remedy))
            break
    old, new = ({n.cookie for n in side} for side in (facts.keep, facts.new))
    if len(new) > 1:
        what = "the new nodes have different Erlang cookies"
        out.append((facts.new[0].host, what, "Give them one, and restart them"))
    if old & new:
        what = "the new nodes have the old cluster's Erlang cookie: one ping would join the two"
        out.append((facts.new[0].host, what, "Give them one of their own, and restart them"))
    return out


def _of_release(facts: RabbitFacts) -> list[Reason]:
    """What works on the old nodes and not on the new ones."""
    out: list[Reason] = []
    oldest, newest = min(facts.new, key=_version), max(facts.keep, key=_version)
    if _version(oldest)[:2] < _version(newest)[:2]:
        what = (
            f"{oldest.name} runs RabbitMQ {oldest.version}, {newest.name} {newest.version}: an older one does"
            " not take all that a newer one's definitions say"
        )
        out.append((oldest.host, what, "Install the old nodes' release there, or a newer one"))
    queues = [q.name for q in facts.deployment.rabbit_queues if not q.durable and not q.exclusive]
    for node in facts.new if queues else ():
        if not node.settings.transient:
            what = (
                f"{node.name} takes no queues that are neither durable nor exclusive, as {len(queues)} are"
                f" ({', '.join(queues[:3])})"
            )
            remedy = (
                "deprecated_features.permit.transient_nonexcl_queues = true on all new nodes before they are"
                " started, or durable queues for the clients"
            )
            out.append((node.host, what, remedy))
    return out


def _not_editable(node: RabbitNode) -> list[Reason]:
    out: list[Reason] = []
    if node.container:
        out.append((node.host, f"{node.name} runs in a container", "recell splits RabbitMQ on hosts only"))
    if node.elsewhere:
        what = f"{node.elsewhere}, which {node.name} reads after {node.config}, sets what recell has to set"
        out.append((node.host, what, f"Move these settings to {node.config}"))
    if node.old_config:
        what = (
            f"{node.name} is configured by Erlang terms (rabbitmq.config or advanced.config sets what"
            " recell has to set)"
        )
        out.append((node.host, what, "Move these settings to rabbitmq.conf"))
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
    return out + _taken_by_both(facts)


def _taken_by_both(facts: RabbitFacts) -> list[Reason]:
    out: list[Reason] = []
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
