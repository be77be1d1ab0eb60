"""What plans about RabbitMQ clusters have in common: clients that move, files, pictures. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recell.model.plan import Acts
from recell.model.rabbit import RabbitClient, RabbitNode
from recell.model.step import Direction
from recell.model.urls import parse_url
from recell.planning import rabbit_nova
from recell.planning.draft import Draft
from recell.planning.rabbit_facts import RabbitFacts
from recell.planning.rabbit_waves import waves

COMPUTE_S, CLIENT_S = 60, 15
"""How long a move takes: a nova-compute asks about each of its instances before it serves."""


def ends(nodes: tuple[RabbitNode, ...]) -> list[list[str]]:
    return [[n.host, n.name] for n in nodes]

def conf(
    facts: RabbitFacts,
    draft: Draft,
    node: RabbitNode,
    name: str,
    settings: dict[str, str | None],
    title: str,
    *,
    lasting: bool = True,
) -> None:
    """``lasting``: it is to stand when all is done."""
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
        lasting=lasting,
    )

def move(facts: RabbitFacts, draft: Draft, *, bridged: Sequence[Direction]) -> None:
    """All that move, servers first in both directions. A file is edited before the first that reads it
    begins anew, and undo puts all of them back before anybody does.

    :param bridged: ways on which shovels may bridge the two clusters meanwhile.
    """
    because = rabbit_nova.mapping_ids(facts)
    for wave, clients in reversed(waves(facts)):
        if wave:
            _wave(facts, draft, wave, clients, "backward", "backward" in bridged)
            continue
        title = f"{clients[0].unit} goes back to {facts.keep[0].name}'s side"
        _bracketed(facts, draft, clients[0], "backward", title, "backward" in bridged, because)
    rabbit_nova.add_mappings(facts, draft)
    edited: set[tuple[str, str]] = set()
    for wave, clients in waves(facts):
        for client in clients:
            _edit(facts, draft, client, edited, {"wave": wave} if wave else {})
        if wave:
            _wave(facts, draft, wave, clients, "forward", "forward" in bridged)
            continue
        title = f"{clients[0].unit} moves to the new nodes"
        title += f"; serves {', '.join(clients[0].queues[:3])}" if clients[0].queues else ""
        _bracketed(facts, draft, clients[0], "forward", title, "forward" in bridged, because)


def _edit(
    facts: RabbitFacts,
    draft: Draft,
    client: RabbitClient,
    edited: set[tuple[str, str]],
    more: dict[str, Any],
) -> None:
    for number, (path, changes) in enumerate(_edits(facts, client).items()):
        if (client.host, path) not in edited:
            edited.add((client.host, path))
            mark = f"-{number + 1}" if number else ""
            draft.edit(f"{client.host}/{client.unit}-url{mark}", client.host, path, changes, **more)


def _wave(
    facts: RabbitFacts,
    draft: Draft,
    wave: str,
    clients: tuple[RabbitClient, ...],
    acts: Direction,
    over_bridge: bool,
) -> None:
    back = acts == "backward"
    unit, hosts = clients[0].unit, ", ".join(c.host for c in clients)
    more: dict[str, Any] = {"bridge": bridge_of(facts)} if over_bridge else {}
    draft.add(
        f"{wave}/{unit}-back" if back else f"{wave}/{unit}",
        "repoint-wave",
        clients[0].host,
        f"{unit} on {hosts} goes back to {facts.keep[0].name}'s side, side by side"
        if back
        else f"{unit} on {hosts} moves to the new nodes, side by side",
        notice=rabbit_nova.notice(facts, clients[0])
        if clients[0].role == "compute"
        else "what is sent to them waits some seconds",
        undone="moved back the same way",
        acts=acts,
        estimate=_takes(clients[0]),
        wave=wave,
        sides=_sides(facts),
        moves=[{"host": c.host, **_told(facts, c)} for c in clients],
        **more,
    )


def _takes(client: RabbitClient) -> float:
    return COMPUTE_S if client.role == "compute" else CLIENT_S


def _edits(facts: RabbitFacts, client: RabbitClient) -> dict[str, list[Any]]:
    """By file: every URL of its that leads to the old nodes names the new ones."""
    urls = [(client.file, "DEFAULT", client.shown)]
    urls += [one for one in client.also if rabbit_nova.leads_here(facts, client, one[2])]
    found: dict[str, list[Any]] = {}
    for path, section, shown in urls:
        nodes = rabbit_nova.nodes_for(facts, shown)
        change = {"section": section, "option": "transport_url", "op": "nodes", "nodes": nodes}
        found.setdefault(path, []).append(change)
    return found


def _bracketed(
    facts: RabbitFacts,
    draft: Draft,
    client: RabbitClient,
    acts: Direction,
    title: str,
    over_bridge: bool,
    because: Sequence[str],
) -> None:
    """A restart; users are led elsewhere meanwhile, where there is somebody else.

    Undo walks from the list's end: of a bracket that acts on the way back the last step comes first.
    """
    servers = rabbit_nova.servers_of(facts, client)
    place = f"{client.host}/{client.unit}"
    back = acts == "backward"
    words = f"send no new requests to {client.unit} on {client.host}; wait for those inside"
    again = f"send requests to {client.unit} on {client.host} again"
    if servers:
        draft.add(
            f"{place}-back-ready" if back else f"{place}-drain",
            "proxied",
            client.host,
            again if back else words,
            notice="nothing: other servers answer",
            undone="requests are sent there again",
            # Undo after a kill in between only has to let requests in again.
            acts="backward" if back else "both",
            estimate=3,
            forward="drain",
            servers=servers,
            unit=client.unit,
            url=client.url,
        )
    _restart(facts, draft, client, f"{place}-back" if back else place, acts, title, over_bridge, because)
    if servers:
        draft.add(
            f"{place}-back-drain" if back else f"{place}-ready",
            "proxied",
            client.host,
            words if back else again,
            undone="(its own bracket drains it on undo)",
            acts=acts,
            estimate=3,
            forward="ready",
            servers=servers,
        )


def _restart(
    facts: RabbitFacts,
    draft: Draft,
    client: RabbitClient,
    id: str,
    acts: Acts,
    title: str,
    over_bridge: bool,
    because: Sequence[str],
) -> None:
    more: dict[str, Any] = {"bridge": bridge_of(facts)} if over_bridge else {}
    if client.role and client.role != "compute" and because:
        more["because"] = list(because)
    draft.add(
        id,
        "repoint-bridged" if over_bridge else "repoint",
        client.host,
        title,
        notice=rabbit_nova.notice(facts, client),
        undone="moved back the same way",
        acts=acts,
        estimate=_takes(client),
        sides=_sides(facts),
        **_told(facts, client),
        **more,
    )


def _sides(facts: RabbitFacts) -> dict[str, Any]:
    return {"keep": ends(facts.keep), "new": ends(facts.new)}


def _told(facts: RabbitFacts, client: RabbitClient) -> dict[str, Any]:
    """What the step that moves a client is told of it alone."""
    host = facts.deployment.host(client.host)
    told: dict[str, Any] = {
        "unit": client.unit,
        "vhost": client.vhost,
        "queues": list(client.queues),
        "reads": list(client.files),
        "addresses": list(dict.fromkeys([host.address.host, *host.ips, client.peer])),
    }
    if client.url:
        told |= {"url": client.url, "warm": client.role == "api"}
    if servers := rabbit_nova.servers_of(facts, client):
        told["servers"] = servers
    if not client.connections or rabbit_nova.is_web(client):
        told["lazy"] = True
    if client.role == "compute":
        told["cell"] = rabbit_nova.cell_of(facts.deployment, client) or ""
        told["down_s"] = facts.deployment.down_after_s
        told["nova_host"] = rabbit_nova.nova_host(facts.deployment, client)
    return told


def bridge_of(facts: RabbitFacts) -> dict[str, Any]:
    """What the steps on the bridge are told."""
    reached = {
        side: [_end(facts, node) for node in nodes]
        for side, nodes in (("keep", facts.keep), ("new", facts.new))
    }
    told: dict[str, Any] = {
        "keep": ends(facts.keep),
        "new": ends(facts.new),
        "ends": reached,
        "vhosts": sorted({c.vhost for c in (*facts.moving, *facts.staying)}),
    }
    return told | ({"ferry": True} if rabbit_nova.loses_answers(facts) else {})


def _end(facts: RabbitFacts, node: RabbitNode) -> str:
    """Where shovels reach a node: ``address:port``; ``amqps://address:port`` where it speaks TLS alone."""
    host = facts.deployment.host(node.host)
    shown = facts.moving[0].shown if facts.moving else ""
    port, scheme, address = rabbit_nova.port_of(shown), "", ""
    for protocol in ("amqp", "amqp/ssl"):
        # Where clients connect, by preference; never where it hears itself alone.
        found = sorted(
            ((at, number) for p, at, number in node.settings.listeners if p == protocol and not _own(at)),
            key=lambda end: (end[1] != port, end),
        )
        if found:
            address, port = found[0]
            scheme = "amqps://" if protocol == "amqp/ssl" else ""
            break
    if address in ("", "::", "0.0.0.0"):  # noqa: S104 -- it is compared, nothing listens there
        model = parse_url(shown).hosts[:1] if shown else ()
        address = rabbit_nova.address_like(host, model[0] if model else "")
    return f"{scheme}[{address}]:{port}" if ":" in address else f"{scheme}{address}:{port}"


def _own(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


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
