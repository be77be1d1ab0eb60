"""Which processes a database's move concerns: with a split in the same plan, or after an earlier one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recell.errors import BadInput, Unsupported
from recell.model.deployment import CONSOLES, CellMapping, Deployment, NovaService
from recell.model.layout import CellDatabase, Layout
from recell.model.plan import Plan
from recell.model.urls import parse_url
from recell.planning import commands, contained, database, topology
from recell.planning.database import DatabaseMove, Member
from recell.planning.draft import (
    CELL0,
    Draft,
    Facts,
    cell_path,
    edited_file,
    is_its_own,
    refuse_web_servers,
    unread_cells,
)
from recell.planning.phases import super_reads

KIND = "move-cell-database"


def with_split(facts: Facts, wanted: CellDatabase) -> DatabaseMove:
    """As the processes will be when the split of the same plan is done."""
    split = {(s.host, edited_file(s)) for s in facts.api_level}
    members: list[Member] = []
    for s in facts.super_models:
        unit, file = contained.super_unit(facts, s), super_reads(facts, s.host)
        members.append(Member(s.host, unit, "super-conductor", s.nova_host, (file,), topics=("conductor",)))
    members += [
        Member(s.host, s.unit, s.role, s.nova_host, s.config_files, topics=("scheduler",))
        for s in facts.schedulers
    ]
    members = [replace(m, broker=facts.new_broker, vhost=facts.new_vhost) for m in members]
    for s in facts.cell_level:
        path = edited_file(s)
        file = cell_path(facts, path) if (s.host, path) in split and not s.container else path
        reads = tuple(file if p == path else p for p in s.config_files)
        member = Member(s.host, s.unit, s.role, s.nova_host, reads, file)
        if s.role == "conductor":
            member = replace(member, broker=facts.old.name, vhost=facts.old_vhost, topics=("conductor",))
        elif s.role not in CONSOLES:
            member = web_member(facts.deployment, s, member)
        members.append(member)
    webs = (*facts.apis, *facts.metadata) if facts.layout.services.metadata == "api" else facts.apis
    members += [
        web_member(facts.deployment, s, Member(s.host, s.unit, s.role, s.nova_host, s.config_files))
        for s in webs
    ]
    return _move(facts.deployment, facts.cell, wanted, facts.cell_level, members)


def after_split(deployment: Deployment, layout: Layout, made_at: float) -> Plan:
    """A plan of its own, for a cell whose API level has been split off already.

    :raises BadInput, Unsupported: as :func:`recell.planning.split.plan_split`.
    """
    name, wanted = next(iter(layout.cells)), next(iter(layout.cells.values())).database
    cell = next((m for m in deployment.mappings if (m.name or m.uuid) == name and m.uuid != CELL0), None)
    if cell is None:
        raise BadInput(
            f"the deployment has no cell called {name}", "Name one of nova-manage cell_v2 list_cells"
        )
    if cell.templated:
        raise Unsupported(
            f"the mapping of {name} is a template, which every process fills from its own configuration",
            "Write both of its URLs out with nova-manage cell_v2 update_cell, then scan again",
        )
    if wanted == "keep":
        raise Unsupported(
            "nova-api and the computes are on different brokers: the API level is split off already",
            "There is nothing to plan; recell verify looks whether all is well",
        )
    own, members = _of_deployment(deployment, cell)
    if layout.cells[name].api_database == "remove" and any(s.api_database for s in own):
        raise Unsupported(
            f"{name}'s conductors have the API database, and taking it from them goes with the split only",
            "Write api_database: keep",
        )
    move = _move(deployment, cell, wanted, own, members)
    draft = Draft()
    database.epilogue(move, draft)
    changes = database.add_phase(move, draft)
    return draft.plan(
        KIND,
        deployment,
        layout.digest(),
        made_at,
        changes=changes,
        remarks=(*database.remarks(move), *_left(deployment, cell), "Undo stays open until: recell finish."),
        before=topology.of_split(deployment, name),
        after=moved_topology(topology.of_split(deployment, name), move),
    )


def _of_deployment(
    deployment: Deployment, cell: CellMapping
) -> tuple[tuple[NovaService, ...], list[Member]]:
    """Services with the cell's URL in their own configuration; all that reach its database."""
    own: list[NovaService] = []
    members: list[Member] = []
    roles = ("conductor", "scheduler", *CONSOLES, "api", "metadata")
    refuse_web_servers(deployment)
    services = [s for role in roles for s in deployment.services if s.role == role and s.active]
    contained.refuse_what_is_beyond_control(services)
    for s in services:
        of_cell = database.same_database(s, cell)
        member = Member(s.host, s.unit, s.role, s.nova_host, s.config_files)
        if of_cell and s.role not in ("scheduler", "api"):
            own.append(s)
            member = replace(member, file=s.origins.get("database/connection", ""))
        if s.role in ("conductor", "scheduler"):
            broker = deployment.broker_of(s.transport_url)
            if broker is None and _of_another(deployment, s, cell):
                continue
            if broker is None:
                raise Unsupported(
                    f"no host of the broker of {s.unit} on {s.host} is in the inventory",
                    "Add the RabbitMQ hosts to the inventory and scan again",
                )
            vhost = parse_url(s.transport_url).vhost
            member = replace(member, broker=broker.name, vhost=vhost, topics=(s.role,))
        elif s.role in ("api", "metadata"):
            member = web_member(deployment, s, member)
        members.append(member)
    if not any(s.role == "conductor" for s in own):
        raise Unsupported(
            f"no nova-conductor has {cell.name}'s own database in its configuration",
            "Name the cell's database in [database] connection of its conductors, restart them, scan again",
        )
    return tuple(own), members


def _of_another(deployment: Deployment, s: NovaService, cell: CellMapping) -> bool:
    """A conductor that another cell's database belongs to."""
    others = (m for m in deployment.mappings if m.uuid not in (cell.uuid, CELL0))
    return s.role == "conductor" and any(database.same_database(s, m) for m in others)


def _left(deployment: Deployment, cell: CellMapping) -> tuple[str, ...]:
    """What takes no part and could not be looked at."""
    name = cell.name or cell.uuid
    unread = [f"{n} takes no part: {why}." for n, why in unread_cells(deployment).items() if n != name]
    far = [
        f"{s.unit} on {s.host} is another cell's and goes on as it is: no host of its broker is in the"
        " inventory."
        for s in deployment.role("conductor")
        if s.active and not deployment.broker_of(s.transport_url) and _of_another(deployment, s, cell)
    ]
    return (*unread, *far)


def _move(
    deployment: Deployment,
    cell: CellMapping,
    wanted: CellDatabase,
    own: tuple[NovaService, ...],
    members: list[Member],
) -> DatabaseMove:
    for s in own:
        if not database.same_database(s, cell):
            raise Unsupported(
                f"{s.unit} on {s.host} reaches {cell.name}'s database by another address or account than its"
                " mapping says",
                "Let both be the same, restart the service, and scan again",
            )
        if not is_its_own(s, s.origins.get("database/connection", "")):
            raise Unsupported(
                f"{s.unit} on {s.host} takes [database] connection from"
                f" {s.origins.get('database/connection') or 'nowhere'}, which other services read too",
                "Set it in the service's own configuration file, restart it, and scan again",
            )
    ends, relay, addresses = database.find_ends(deployment, cell, wanted)
    first = next(m.host for m in members if m.role == "api")
    return DatabaseMove(
        cell, ends, relay, addresses, first, tuple(members), commands.proofs(deployment, first),
        commands.reports(deployment),
    )


def web_member(deployment: Deployment, s: NovaService, member: Member) -> Member:
    mine = deployment.servers_of(s)
    url = f"http://{mine[0].address if mine else f'127.0.0.1:{s.port}'}/"
    servers = tuple({"proxy": p.proxy, "backend": p.backend, "server": p.server} for p in mine)
    return replace(member, url=url, servers=servers)


def moved_topology(after: dict[str, Any], move: DatabaseMove) -> dict[str, Any]:
    """A picture in which the cell's database is where it goes."""
    new = move.ends.new
    url = parse_url(move.cell.database_resolved).with_nodes(((new.address, new.port),))
    return topology.with_database(after, move.name, url.text())
