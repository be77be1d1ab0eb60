"""Hosts move to other cells: what deployment and layout come to, and every reason why not.

docs/hosts.md has the order of a move; :mod:`recell.planning.hosts_phases` writes it down as steps, and
:mod:`recell.planning.new_cell` those that make a cell which is not there yet.
"""

from __future__ import annotations

import fnmatch
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from recell.errors import BadInput, RecellError, Unsupported
from recell.model.deployment import Broker, CellMapping, Deployment, NovaService
from recell.model.hosts import CellEnd
from recell.model.layout import Cell, CellBroker, CellConsoles, Layout
from recell.model.urls import is_template, parse_url
from recell.planning import commands, contained, database
from recell.planning.database import Member
from recell.planning.draft import CELL0, refuse_web_servers
from recell.planning.moves import web_member
from recell.planning.names import called_like, named_nodes

KIND = "hosts"
AMQP_PORT, AMQPS_PORT = 5672, 5671
TRAIN = 20
_SPACE = uuid.UUID("6f1c3b0a-6f0e-4c58-9d2c-7f6f9c1d52ce")


@dataclass(frozen=True)
class NewCell:
    """A cell that recell makes. ``conductors``: those that its own are modelled on; ``config``: path of the
    file that they read; ``model``: the cell that lends account, schema and services."""

    end: CellEnd
    model: CellEnd
    conductors: tuple[NovaService, ...]
    consoles: tuple[NovaService, ...]
    wanted: Cell
    broker_nodes: tuple[tuple[str, int], ...]
    user: str


@dataclass(frozen=True)
class Compute:
    """A nova-compute that moves. ``file``: the one that names its broker; ``nodes``: what that will say."""

    service: NovaService
    file: str
    nodes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Wave:
    """Hosts that move at once, from one cell to one other."""

    old: CellEnd
    new: CellEnd
    computes: tuple[Compute, ...]
    consoles: CellConsoles | None = None


@dataclass(frozen=True)
class Facts:
    """``members``: of the API level, who know cells by their mappings. ``left``: cells that take no part, and
    why they could not."""

    deployment: Deployment
    layout: Layout
    first: str
    cells: dict[str, CellEnd]
    made: tuple[NewCell, ...]
    waves: tuple[Wave, ...]
    members: tuple[Member, ...]
    proofs: list[dict[str, Any]]
    left: dict[CellMapping, str]


def wanted(layout: Layout) -> bool:
    """Whether the layout says which hosts belong where."""
    return any(cell.hosts for cell in layout.cells.values())


def decide(deployment: Deployment, layout: Layout, only: Sequence[str] = ()) -> Facts:
    """:param only: patterns of hosts; others stay for now.
    :raises BadInput: the layout contradicts the deployment or itself.
    :raises Unsupported: the deployment is of a shape in which hosts can't be moved."""
    if deployment.generation != "v2":
        raise Unsupported(
            "this deployment runs cells v1, and its hosts can't move between cells yet",
            "Upgrade it to cells v2 first",
        )
    major = deployment.nova_version.partition(".")[0]
    if major.isdigit() and int(major) < TRAIN:
        raise Unsupported(
            f"Nova {deployment.nova_version} can't hide copies of instances (instances.hidden is Train's)",
            "Upgrade Nova to Train (20) or newer; hosts move after that",
        )
    refuse_web_servers(deployment)
    mappings = _by_name(deployment)
    apis = [s for s in deployment.role("api") if s.active]
    if not apis:
        raise Unsupported(
            "no running nova-api was found on the hosts of the inventory",
            "Add its host to the inventory and scan again",
        )
    _refuse_other_jobs(layout, mappings)
    ends, unfit = _ends(deployment, mappings)
    _must_be_split(deployment, apis, mappings)
    homes = _homes(deployment, mappings)
    moving = _assigned(deployment, layout, homes, only)
    targets = sorted({name for _, name in moving})
    sources = sorted({_home(homes, s) for s, _ in moving})
    made = []
    for name in sorted({*sources, *targets} & unfit.keys()):
        raise unfit[name]
    for name in targets:
        if name not in ends:
            model = ends[sources[0]]
            new = _new_cell(deployment, layout, name, mappings[sources[0]], model, list(ends.values()))
            for other in unfit:
                _meets(deployment, new.end, mappings[other])
            made.append(new)
            ends[name] = new.end
    if not moving:
        raise Unsupported(
            "every host is in the cell that the layout wants it in",
            "There is nothing to plan; recell verify looks whether all is well",
        )
    for pair in sorted({(_home(homes, s), name) for s, name in moving}):
        _must_be_apart(*(ends[name] for name in pair))
    computes = [(_compute(deployment, s, mappings.get(name), layout.cells[name]), name) for s, name in moving]
    contained.refuse_what_is_beyond_control(c.service for c, _ in computes)
    if made:
        contained.refuse_what_is_beyond_control(made[0].conductors)
        if any(s.container for n in made for s in (*n.conductors, *n.consoles)):
            raise Unsupported(
                "recell doesn't make a further cell's conductor in a container yet",
                "Let kolla-ansible make the cell (nova_cell_name), scan again, and name its hosts",
            )
    first = apis[0].host
    return Facts(
        deployment=deployment,
        layout=layout,
        first=first,
        cells=ends,
        made=tuple(made),
        waves=tuple(_waves(layout, homes, ends, computes)),
        members=_api_level(deployment, apis, set(mappings.values())),
        proofs=commands.proofs(deployment, first),
        left={mappings[name]: why.sentence for name, why in unfit.items()},
    )


def _by_name(deployment: Deployment) -> dict[str, CellMapping]:
    """Cells besides cell0; one without a name, which Nova allows, by its uuid."""
    cells = [m for m in deployment.mappings if m.uuid != CELL0]
    named = {m.name or m.uuid: m for m in cells}
    if len(named) != len(cells):
        names = [m.name for m in cells]
        raise Unsupported(
            f"several cells are called {next(n for n in names if n and names.count(n) > 1)}",
            "Give each a name of its own (nova-manage cell_v2 update_cell, with both URLs), then scan again",
        )
    return named


def _refuse_other_jobs(layout: Layout, mappings: dict[str, CellMapping]) -> None:
    for name, cell in layout.cells.items():
        if name == "cell0":
            raise BadInput("cell0 has no hosts", "Leave it out of the layout")
        if name in mappings and (cell.database != "keep" or cell.broker != "keep" or cell.conductors):
            raise BadInput(
                f"{name} is there, and the layout gives it a database, a broker or conductors",
                f"Write {name}: with hosts: only; its database moves in a plan of its own",
            )
        if cell.api_database == "remove":
            raise BadInput(f"{name} says api_database: remove while hosts move", "Write api_database: keep")


def _must_be_split(
    deployment: Deployment, apis: Sequence[NovaService], mappings: dict[str, CellMapping]
) -> None:
    for api in apis:
        for name, mapping in mappings.items():
            place = _place(deployment, mapping.transport_resolved)
            if place is not None and place == _place(deployment, api.transport_url):
                raise Unsupported(
                    f"{api.unit} on {api.host} is on {name}'s broker: the API level is not split off",
                    "Split it first: a layout without hosts:, then recell plan and recell apply",
                )


def _place(deployment: Deployment, url: str) -> tuple[str, str] | None:
    """Broker and vhost; None where nothing of the inventory is there."""
    broker = None if is_template(url) else deployment.broker_of(url)
    return None if broker is None else (broker.name, parse_url(url).vhost)


def _ends(
    deployment: Deployment, mappings: dict[str, CellMapping]
) -> tuple[dict[str, CellEnd], dict[str, RecellError]]:
    """Cells by their names: those that hosts could move to or from, and why the others are none of these."""
    ends: dict[str, CellEnd] = {}
    unfit: dict[str, RecellError] = {}
    for name, mapping in mappings.items():
        try:
            ends[name] = _end(deployment, mapping)
        except (BadInput, Unsupported) as error:
            unfit[name] = error
    return ends, unfit


def _end(deployment: Deployment, mapping: CellMapping) -> CellEnd:
    name = mapping.name or mapping.uuid
    if mapping.templated:
        raise Unsupported(
            f"the mapping of {name} is a template, which every process fills from its own configuration",
            "Write both of its URLs out with nova-manage cell_v2 update_cell, then scan again",
        )
    url = parse_url(mapping.database_resolved)
    try:
        database.refuse_what_cant_be_relayed(url)
        at = url.endpoints[0]
        server = database.host_of(deployment, at.host, "")
    except (BadInput, Unsupported) as refused:
        # What a move of the database itself would need the layout can't say here.
        raise type(refused)(
            f"of {name}: {refused.sentence}",
            "Hosts move where each cell's mapping names one MariaDB server of the inventory, without TLS:"
            " correct inventory or mapping (nova-manage cell_v2 update_cell, both URLs), then scan again",
        ) from None
    broker = deployment.broker_of(mapping.transport_resolved)
    if broker is None:
        raise Unsupported(
            f"no host of the broker of {name} is in the inventory",
            "Add the RabbitMQ hosts to the inventory and scan again",
        )
    return CellEnd(
        mapping.uuid,
        name,
        server.name,
        at.host,
        at.port or database.MYSQL_PORT,
        url.path,
        broker.name,
        broker.hosts[0],
        parse_url(mapping.transport_resolved).vhost,
        database.addresses(server),
    )


def _meets(deployment: Deployment, new: CellEnd, other: CellMapping) -> None:
    """:func:`_new_cell`'s own question, of a cell that takes no part."""
    name, url = other.name or other.uuid, other.database_resolved
    if not is_template(url) and database.can_be_read(url):
        for at in parse_url(url).endpoints:
            with suppress(BadInput):
                server = database.host_of(deployment, at.host, "").name
                if (server, at.port or database.MYSQL_PORT) == (new.server, new.port):
                    raise Unsupported(
                        f"{new.name}'s database would be on {name}'s server, {server}",
                        "Give it a MariaDB server of its own",
                    )
    if _place(deployment, other.transport_resolved) == (new.broker, new.vhost):
        raise BadInput(f"{new.name}'s broker and vhost are {name}'s", "Choose other nodes or a vhost")


def _must_be_apart(old: CellEnd, new: CellEnd) -> None:
    """:func:`_new_cell` says the same of a cell that isn't there yet."""
    if (old.server, old.port) == (new.server, new.port):
        raise Unsupported(
            f"the databases of {old.name} and {new.name} are on one server, {old.server}",
            "Move one of them to a server of its own first, in a plan of its own",
        )
    if (old.broker, old.vhost) == (new.broker, new.vhost):
        raise Unsupported(
            f"{old.name} and {new.name} are on one broker and vhost, {old.broker} {old.vhost}",
            "Give each cell a broker or a vhost of its own first",
        )


# -- which hosts -----------------------------------------------------------------------------------


def _assigned(
    deployment: Deployment, layout: Layout, homes: dict[str, list[str]], only: Sequence[str]
) -> list[tuple[NovaService, str]]:
    """Computes that have to move, each with its cell's name, in the order of their names."""
    computes = {s.host: s for s in deployment.role("compute")}
    goal: dict[str, str] = {}
    for name, cell in layout.cells.items():
        for pattern in cell.hosts:
            found = fnmatch.filter(computes, pattern)
            if not found:
                raise BadInput(
                    f"{pattern} under {name} is no compute host of this deployment",
                    "Name hosts of the inventory that run nova-compute",
                )
            for host in found:
                if goal.setdefault(host, name) != name:
                    raise BadInput(f"{host} belongs to {goal[host]} and to {name}", "Name it once")
    for pattern in only:
        if not fnmatch.filter(goal, pattern):
            raise BadInput(f"--hosts {pattern} is no host that the layout names", "Correct one of both")
    chosen = {h: n for h, n in goal.items() if not only or any(fnmatch.fnmatch(h, p) for p in only)}
    canary = layout.moving.canary
    if canary and canary not in goal:
        raise BadInput(f"the canary {canary} is no host that the layout names", "Name it under hosts:")
    if layout.moving.canary_guest and not canary:
        raise BadInput("moving: canary_guest has no host", "Name the host as canary:")
    moving = []
    for host in sorted(chosen):
        service = computes[host]
        units = [s.unit for s in deployment.role("compute") if s.host == host]
        if len(units) > 1:
            raise Unsupported(
                f"{host} runs several nova-compute ({', '.join(units)})",
                "recell moves hosts that run one; leave this one out",
            )
        if _home(homes, service) == chosen[host]:
            continue
        if not service.active:
            raise Unsupported(f"{service.unit} on {host} doesn't run", "Start it, or leave the host out")
        moving.append((service, chosen[host]))
    return moving


def _homes(deployment: Deployment, mappings: dict[str, CellMapping]) -> dict[str, list[str]]:
    """The cells in which a compute host has a service record, by the host's name in Nova."""
    names = {m.uuid: m.name or m.uuid for m in mappings.values()}
    found: dict[str, list[str]] = {}
    for record in deployment.records:
        if record.binary == "nova-compute" and record.cell in names:
            found.setdefault(record.host, []).append(names[record.cell])
    return found


def _home(homes: dict[str, list[str]], service: NovaService) -> str:
    names = homes.get(service.nova_host, [])
    if len(names) != 1:
        raise Unsupported(
            f"{service.nova_host} has a service record in {' and in '.join(names) or 'no cell'}",
            "See openstack compute service list, and nova-manage cell_v2 list_hosts; then scan again",
        )
    return names[0]


def _compute(deployment: Deployment, s: NovaService, there: CellMapping | None, cell: Cell) -> Compute:
    file = s.origins.get("DEFAULT/transport_url", "")
    if file not in s.config_files:
        raise Unsupported(
            f"{s.unit} on {s.host} takes transport_url from {file or 'nowhere'}, not from a file of its own",
            "Set it in nova.conf there, restart nova-compute, and scan again",
        )
    others = [o for o in deployment.services if o.host == s.host and o != s and file in o.config_files]
    if others:
        raise Unsupported(
            f"{others[0].unit} on {s.host} reads {file} too, and would follow nova-compute to another broker",
            "Give nova-compute a configuration file of its own, restart it, and scan again",
        )
    if s.options.get("DEFAULT/compute_driver", "").startswith("ironic"):
        raise Unsupported(f"{s.unit} on {s.host} serves ironic's nodes", "Leave the host out")
    return Compute(s, file, _nodes(deployment, s, there, cell))


def _nodes(
    deployment: Deployment, s: NovaService, there: CellMapping | None, cell: Cell
) -> tuple[tuple[str, int], ...]:
    """The new broker's nodes: as the mapping of a cell that is ``there`` names them; else as this service's
    URL names its own, by name or by address."""
    if there is None:
        if isinstance(cell.broker, str):
            raise BadInput("a new cell has no broker", "Write broker: under it")
        return named_nodes(deployment, s.transport_url, cell.broker.nodes, cell.broker.port)
    url = parse_url(there.transport_resolved)
    usual = AMQPS_PORT if "ssl=" in url.query else AMQP_PORT
    return tuple((e.host, e.port or usual) for e in url.endpoints)


def _waves(
    layout: Layout,
    homes: dict[str, list[str]],
    ends: dict[str, CellEnd],
    computes: list[tuple[Compute, str]],
) -> Iterator[Wave]:
    """The canary first and alone; then by pairs of cells, so many at once."""
    pairs: dict[tuple[str, str], list[Compute]] = {}
    for compute, goal in computes:
        pair = (_home(homes, compute.service), goal)
        if compute.service.host == layout.moving.canary:
            yield Wave(ends[pair[0]], ends[goal], (compute,), layout.cells[goal].consoles)
        else:
            pairs.setdefault(pair, []).append(compute)
    size = layout.moving.wave
    for (home, goal), mine in sorted(pairs.items()):
        for at in range(0, len(mine), size):
            yield Wave(ends[home], ends[goal], tuple(mine[at : at + size]), layout.cells[goal].consoles)


# -- a cell that is not there ----------------------------------------------------------------------


def _new_cell(
    deployment: Deployment,
    layout: Layout,
    name: str,
    like: CellMapping,
    model: CellEnd,
    others: list[CellEnd],
) -> NewCell:
    cell = layout.cells[name]
    if cell.database == "keep" or cell.broker == "keep":
        word = "database" if cell.database == "keep" else "broker"
        raise BadInput(
            f"the deployment has no cell {name}, and the layout gives it no {word}",
            f"Write {word}: under {name}, or name a cell of nova-manage cell_v2 list_cells",
        )
    if not cell.conductors:
        raise BadInput(f"{name} has no conductors", f"Name hosts of nova-conductor under {name}: conductors:")
    old_db, old_mq = parse_url(like.database_resolved), parse_url(like.transport_resolved)
    server = deployment.host(cell.database.host)
    broker = _broker(deployment, cell.broker)
    end = CellEnd(
        str(uuid.uuid5(_SPACE, f"{deployment.state_digest()} {name}")),
        name,
        server.name,
        cell.database.address or called_like(deployment, old_db.hosts[0], server),
        cell.database.port,
        cell.database.name or f"nova_{name}",
        broker.name,
        cell.broker.nodes[0],
        cell.broker.vhost or old_mq.vhost,
        database.addresses(server),
    )
    for other in others:
        if (end.server, end.port, end.database) == (other.server, other.port, other.database):
            raise BadInput(f"{name}'s database is {other.name}'s", "Choose another name or another server")
        if (end.server, end.port) == (other.server, other.port):
            raise Unsupported(
                f"{name}'s database would be on {other.name}'s server, {end.server}",
                "Give it a MariaDB server of its own",
            )
        if (end.broker, end.vhost) == (other.broker, other.vhost):
            raise BadInput(f"{name}'s broker and vhost are {other.name}'s", "Choose other nodes or a vhost")
    conductors = []
    for host in cell.conductors:
        found = [
            s
            for s in deployment.role("conductor")
            if s.host == host and s.active and database.same_database(s, like)
        ]
        if not found:
            raise BadInput(
                f"{host} has no nova-conductor of {model.name} to model {name}'s on",
                f"Name hosts of {model.name}'s conductors",
            )
        conductors.append(found[0])
    consoles = []
    for host in cell.consoles.hosts if cell.consoles else ():
        proxies = [s for s in deployment.role("novncproxy") if s.host == host]
        if not proxies:
            raise BadInput(f"{host} has no nova-novncproxy to model {name}'s on", "Name a host that has one")
        consoles.append(proxies[0])
    nodes = named_nodes(deployment, like.transport_resolved, cell.broker.nodes, cell.broker.port)
    return NewCell(end, model, tuple(conductors), tuple(consoles), cell, nodes, old_mq.endpoints[0].user)


def _broker(deployment: Deployment, wanted: CellBroker) -> Broker:
    for node in wanted.nodes:
        deployment.host(node)
    found = next((b for b in deployment.brokers if set(wanted.nodes) & set(b.hosts)), None)
    if found is None:
        raise BadInput(
            f"no running RabbitMQ was found on {', '.join(wanted.nodes)}",
            "Install and start it there, then scan again",
        )
    if not set(wanted.nodes) <= set(found.hosts):
        raise BadInput(
            f"{', '.join(wanted.nodes)} are not nodes of one RabbitMQ cluster",
            "Join them first, or name the nodes of one cluster",
        )
    return found


def _api_level(
    deployment: Deployment, apis: Sequence[NovaService], cells: set[CellMapping]
) -> tuple[Member, ...]:
    """Super-conductors, schedulers, and what answers requests: they read cell mappings at their start."""
    homes = {(deployment.broker_of(s.transport_url), parse_url(s.transport_url).vhost) for s in apis}
    members: list[Member] = []
    for role in ("conductor", "scheduler", "api", "metadata"):
        for s in deployment.services:
            if s.role != role or not s.active:
                continue
            if role in ("api", "metadata"):
                if not any(database.same_database(s, cell) for cell in cells):
                    member = Member(s.host, s.unit, s.role, s.nova_host, s.config_files)
                    members.append(web_member(deployment, s, member))
                continue
            broker = deployment.broker_of(s.transport_url)
            if broker is not None and (broker, parse_url(s.transport_url).vhost) in homes:
                members.append(
                    Member(
                        s.host,
                        s.unit,
                        s.role,
                        s.nova_host,
                        s.config_files,
                        broker=broker.name,
                        vhost=parse_url(s.transport_url).vhost,
                        topics=(s.role,),
                    )
                )
    contained.refuse_what_is_beyond_control(
        s for s in deployment.services if any((s.host, s.unit) == (m.host, m.unit) for m in members)
    )
    return tuple(members)
