"""What a RabbitMQ plan does for Nova's and other web services: drained, and cells' mappings.

Nova reaches a cell's computes by the URL in its mapping, which every process reads once. So where computes
move, the mapping names the new nodes before the first process begins anew, and each that may have read the
other one begins anew after that, also on the way back. No I/O.
"""

from __future__ import annotations

import ipaddress
import posixpath
from typing import Any

from recell.errors import Unsupported
from recell.model.deployment import (
    CONSOLES,
    NOVA_UNREAD,
    PROXY_UNREAD,
    CellMapping,
    Deployment,
    HostFacts,
)
from recell.model.plan import ExpectedChange
from recell.model.rabbit import WEB_SERVERS, RabbitClient
from recell.model.urls import is_template, parse_url
from recell.planning.draft import Draft, in_web_servers
from recell.planning.rabbit_facts import RabbitFacts, Reason
from recell.planning.templates import resolve_template

# Who is moved


def moving_nova(facts: RabbitFacts) -> tuple[RabbitClient, ...]:
    return tuple(c for c in facts.moving if c.role)


def reasons(facts: RabbitFacts) -> list[Reason]:
    """What forbids to move Nova's services so; nothing where none of them moves."""
    deployment, moving = facts.deployment, moving_nova(facts)
    unread = _unread(deployment)
    if unread and (named := [c for c in facts.moving if _by_name(c)]):
        why, remedy = unread
        what = f"{named[0].label} is to move, and recell can't tell what Nova needs for that: {why}"
        return [(named[0].host, what, f"{remedy}. Or let all of Nova stay with the old nodes")]
    if not moving:
        return []
    out: list[Reason] = []
    for host, unit, program in in_web_servers(deployment):
        what = f"Nova moves, and nova-api or metadata on {host} runs inside {program} ({unit})"
        remedy = "Run it as a unit of its own, which recell can restart in its turn, then scan again"
        out.append((host, what, remedy))
    if deployment.generation == "v1":
        what = "Nova's cells v1 keep their brokers' addresses in their own databases"
        out.append((moving[0].host, what, "Let Nova's services stay with the old nodes"))
    if staying := [c for c in facts.staying if c.role]:
        what = f"{moving[0].label} moves and {staying[0].label}, which is of the same Nova, stays"
        remedy = (
            "Let all of Nova go to one side; its API level alone gets a broker by: recell scan, recell plan"
        )
        out.append((staying[0].host, what, remedy))
    kept = {n.host for n in facts.keep}
    for c in moving:
        broker = deployment.broker_of(c.shown) if c.shown else None
        if c.shown and (broker is None or not set(broker.hosts) & kept):
            what = f"{c.label} has another broker ({c.shown}) and comes here by a cell's mapping"
            out.append(
                (c.host, what, "A cell's own broker of an API level that was split off can't move yet")
            )
        if c.role == "compute" and cell_of(deployment, c) is None:
            what = f"no cell has a service record of {c.label}"
            out.append((c.host, what, "See nova-manage cell_v2 list_hosts, then scan again"))
    for s in deployment.services:
        if not s.active and s.enabled and any(c.host == s.host for c in moving):
            what = f"{s.unit} does not run, and would come back to another broker than it left"
            out.append((s.host, what, "Start it, or disable it, then scan again"))
    return out


def _unread(deployment: Deployment) -> tuple[str, str] | None:
    """Why the scan could not look at Nova, and what to do."""
    for remark in deployment.remarks:
        if remark.startswith(f"{NOVA_UNREAD}|"):
            why, _, remedy = remark.split("|", 2)[2].partition("|")
            return why, remedy or "Name a controller with nova-api in the inventory, then scan again"
    return None


def _by_name(client: RabbitClient) -> bool:
    """Whether it is one of Nova's, as far as names tell: a unit's is each packager's own."""
    files = [posixpath.basename(f) for f in client.files]
    return any("nova" in word for word in (client.unit, client.program, *files))


def cell_of(deployment: Deployment, client: RabbitClient) -> str | None:
    """uuid of a nova-compute's cell; "" where a Nova has no cells, None: unknown."""
    if deployment.generation == "none":
        return ""
    name = nova_host(deployment, client)
    return next((r.cell for r in deployment.records if (r.host, r.binary) == (name, "nova-compute")), None)


def nova_host(deployment: Deployment, client: RabbitClient) -> str:
    """What Nova calls its host."""
    found = (s.nova_host for s in deployment.services if (s.host, s.unit) == (client.host, client.unit))
    return next(found, client.host)


# Mappings


def port_of(shown: str) -> int:
    """Where a URL's first node listens."""
    found = parse_url(shown).endpoints if shown else ()
    return (found[0].port if found else 0) or 5672


def nodes_for(facts: RabbitFacts, shown: str) -> list[list[Any]]:
    """The new nodes as ``[[host, port], ...]``, in the manner of a URL that names the old ones: by addresses
    of the same network, or by names with the same domain."""
    found = parse_url(shown).endpoints if shown else ()
    named = found[0].host if found else ""
    hosts = [facts.deployment.host(n.host) for n in facts.new]
    if _address(named) is not None:
        return [[address_like(h, named), port_of(shown)] for h in hosts]
    return [[_named_like(facts, h.hostname, named), port_of(shown)] for h in hosts]


def _named_like(facts: RabbitFacts, own: str, named: str) -> str:
    """A new host's name: with a domain where the URL has the old ones' with theirs, else without one."""
    for old in (facts.deployment.host(n.host).hostname for n in facts.keep):
        if "." not in own and named.startswith(f"{old}."):
            return own + named.removeprefix(old)
        if "." in own and old.startswith(f"{named}."):
            return own.partition(".")[0]
    return own


def leads_here(facts: RabbitFacts, client: RabbitClient, shown: str) -> bool:
    """Whether a further URL of a client's leads to the cluster that it leaves."""
    broker = facts.deployment.broker_of(shown)
    if broker is not None:
        return bool(set(broker.hosts) & {n.host for n in facts.keep})
    return bool(client.shown) and bool(set(parse_url(shown).hosts) & set(parse_url(client.shown).hosts))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def address_like(host: HostFacts, model: str) -> str:
    """A host's address on the network that ``model`` is an address of: the one that begins most alike."""
    wanted = _address(model)
    mine = [a for a in map(_address, (host.address.host, *host.ips)) if a and wanted]
    alike = [a for a in mine if wanted and a.version == wanted.version]
    if not alike or wanted is None:
        return host.address.host
    # The first of those that are equally alike: the one by which the host is reached.
    return str(min(alike, key=lambda a: (int(a) ^ int(wanted)).bit_length()))


def mappings(facts: RabbitFacts) -> tuple[CellMapping, ...]:
    """Those that have to be written: they lead to the old nodes, and won't follow by themselves."""
    if not moving_nova(facts):
        return ()
    kept = {n.host for n in facts.keep}
    out = []
    for mapping in facts.deployment.mappings:
        if is_template(mapping.transport_resolved):
            continue
        broker = facts.deployment.broker_of(mapping.transport_resolved)
        if broker is not None and set(broker.hosts) & kept and not _follows(facts, mapping):
            out.append(mapping)
    return tuple(out)


def _follows(facts: RabbitFacts, mapping: CellMapping) -> bool:
    """Whether processes that have the new nodes in their own URL make the same of the mapping."""
    nodes = nodes_for(facts, mapping.transport_resolved)
    own = "rabbit://" + ",".join(f"user:word@{host}:{port}" for host, port in nodes) + "/vhost"
    made = resolve_template(mapping.transport_raw, own)
    return not is_template(made) and set(parse_url(made).hosts) <= {str(host) for host, _ in nodes}


def mapping_ids(facts: RabbitFacts) -> tuple[str, ...]:
    return tuple(f"mapping/{m.name or m.uuid}" for m in mappings(facts))


def add_mappings(facts: RabbitFacts, draft: Draft) -> None:
    for mapping in mappings(facts):
        name = mapping.name or mapping.uuid
        reader = next((c for c in moving_nova(facts) if c.role in ("api", "conductor", "scheduler")), None)
        if reader is None:
            raise Unsupported(
                f"no service that moves knows the URL of {name}'s mapping",
                "Name Nova's controllers in the inventory, then scan again",
            )
        nodes = nodes_for(facts, mapping.transport_resolved)
        draft.add(
            f"mapping/{name}",
            "nodes-mapping",
            reader.host,
            f"{name}'s mapping: transport_url, the same account on"
            f" {', '.join(f'{host}:{port}' for host, port in nodes)}",
            notice="nothing: processes that run have read it already",
            undone="the old URL is written back",
            cell=mapping.uuid,
            config=reader.file,
            nodes=nodes,
        )


def expected_changes(facts: RabbitFacts) -> tuple[ExpectedChange, ...]:
    why = "its transport_url names the new nodes"
    return tuple(ExpectedChange("api", "cell_mappings", f"uuid={m.uuid}", why) for m in mappings(facts))


# Users


def servers_of(facts: RabbitFacts, client: RabbitClient) -> list[dict[str, str]]:
    """Servers of load balancers to drain before it restarts: those beside which another one serves."""
    if client.role in CONSOLES:
        return []  # a console is one connection for as long as it is open: nobody waits for its end
    return [
        {"proxy": p.proxy, "backend": p.backend, "server": p.server}
        for p in facts.deployment.proxies
        if (p.host, p.unit) == (client.host, client.unit) and not _alone(facts.deployment, p.proxy, p.backend)
    ]


def _alone(deployment: Deployment, proxy: str, backend: str) -> bool:
    return len({p.server for p in deployment.proxies if (p.proxy, p.backend) == (proxy, backend)}) < 2


def is_web(client: RabbitClient) -> bool:
    """Whether users wait for its answers."""
    return bool(client.url) or client.role in ("api", "metadata") or client.program in WEB_SERVERS


def notice(facts: RabbitFacts, client: RabbitClient) -> str:
    if client.role in CONSOLES:
        return "open consoles end; users open them again"
    if client.role == "compute":
        return "requests for its instances wait until it is back"
    if is_web(client) and not servers_of(facts, client):
        return "their requests to it fail for the seconds of its restart"
    if servers_of(facts, client):
        return "nothing while it is drained: other servers answer"
    if client.queues:
        return f"what is sent to {', '.join(client.queues[:3])} waits some seconds"
    return "what this service is at is cut short while it restarts"


def loses_answers(facts: RabbitFacts) -> bool:
    """Whether its oslo.messaging does not notice that an answer finds no queue."""
    return facts.deployment.nova_version.partition(".")[0] == "19"


def remarks(facts: RabbitFacts) -> tuple[str, ...]:
    deployment, out = facts.deployment, []
    for client in dict.fromkeys(facts.moving):
        doors = [p for p in deployment.proxies if (p.host, p.unit) == (client.host, client.unit)]
        if client.role in CONSOLES:
            out.append(f"Consoles that users have open through {client.label} end when it restarts.")
            continue
        lone = [p for p in doors if _alone(deployment, p.proxy, p.backend)]
        out += [
            f"{client.label} is the only server of {p.backend} in HAProxy on {p.proxy}: users' requests to"
            " it fail for the seconds of its restart, there and back. A second server would take them."
            for p in lone
        ]
        if not doors and is_web(client):
            out.append(
                f"No load balancer of the inventory leads to {client.label}: users' requests to it fail for"
                " the seconds of its restart, there and back."
            )
    for remark in deployment.remarks:
        word, _, rest = remark.partition("|")
        if word == PROXY_UNREAD:
            host, _, why = rest.partition("|")
            out.append(f"The load balancer on {host} could not be looked at ({why.rstrip('.')}).")
    if unread := _unread(deployment):
        out.append(
            f"Of Nova is known who is connected, and no more ({unread[0]}): all of it has to stay with the"
            " old nodes. Its cells' mappings and service records were not read."
        )
    computes = any(c.role == "compute" for c in facts.moving)
    others = {s.options.get("DEFAULT/servicegroup_driver", "db") for s in deployment.role("api")} - {"db"}
    if computes and others:
        out.append(
            f"nova-api does not ask the database whether a host is up (servicegroup_driver ="
            f" {', '.join(sorted(others))}): a nova-compute that takes long to start counts as down"
            " meanwhile."
        )
    if loses_answers(facts):
        way = "Over the bridge" if facts.fresh else "On the way back, over the bridge,"
        out.append(
            "Stein's oslo.messaging (9.5 to 10.1) does not notice that an answer finds no queue, and a"
            f" service that has moved makes its queue with its first question. {way} recell carries questions"
            " itself, and makes that queue first. While recell is killed, paused, or kept from a broker, one"
            " such question of each may wait a minute and end in an error: a boot, or a nova-compute's start."
        )
    if computes and not facts.fresh:
        out.append(
            "What is asked of a nova-compute's instances while it restarts waits with recell until it serves:"
            " if recell is killed just then, a reboot may be forgotten, and a stop or start has to be asked"
            " for again. With method: fresh it waits with RabbitMQ."
        )
    return tuple(dict.fromkeys(out))
