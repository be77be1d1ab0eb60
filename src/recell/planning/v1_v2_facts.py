"""What a tree of cells v1 becomes cells v2 from: who is who, and every reason not to, said at once.

Stein's cells v1 have all that cells v2 need beside them: one API database with mappings of cell0 and of the
child, where nova-api and the child's conductors write as users boot. So no row of the child moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from recell.errors import BadInput, RecellError, Unsupported
from recell.model.cells_v1 import CellV1, path_of
from recell.model.deployment import (
    CONSOLES,
    Broker,
    CellMapping,
    Deployment,
    NovaService,
    ProxyBackendServer,
    Role,
)
from recell.model.layout_v1_v2 import TreeChild, TreeLayout
from recell.model.urls import Url, parse_url
from recell.model.v1 import Conversion
from recell.planning.database import MYSQL_PORT, host_of
from recell.planning.draft import CELL0, unread_cells
from recell.planning.v1_facts import cell_end, main_file, proxied, refuse
from recell.planning.v1_release import LAST

SUFFIX = "-v2"
"""Of the units that are made, and of the files that they read."""


@dataclass(frozen=True)
class TreeFacts:
    """``api``, ``child``: the tree's two cells; ``mapping``, ``zero``: the child's and cell0's rows in the
    API database. ``old``: the child's broker, ``new``: the API cell's. ``apis``, ``api_cells``, ``leaving``:
    what runs in the API cell (nova-api, nova-cells, consoles); ``conductors``, ``schedulers``,
    ``child_cells``, ``own_apis``: in the child; ``consoles``: its console proxies, which are off. ``supers``,
    ``planners``: a conductor and a scheduler on each host of the API level, to model its own on."""

    deployment: Deployment
    layout: TreeLayout
    api: CellV1
    child: CellV1
    mapping: CellMapping
    zero: CellMapping
    old: Broker
    old_vhost: str
    new: Broker
    new_vhost: str
    apis: tuple[NovaService, ...]
    api_cells: tuple[NovaService, ...]
    leaving: tuple[NovaService, ...]
    conductors: tuple[NovaService, ...]
    schedulers: tuple[NovaService, ...]
    child_cells: tuple[NovaService, ...]
    own_apis: tuple[NovaService, ...]
    consoles: tuple[NovaService, ...]
    computes: tuple[NovaService, ...]
    supers: tuple[NovaService, ...]
    planners: tuple[NovaService, ...]
    proxied: tuple[ProxyBackendServer, ...]

    @property
    def own(self) -> TreeChild:
        return self.layout.cells[self.child.name]

    @property
    def new_nodes(self) -> tuple[tuple[str, int], ...]:
        """As the API cell's services name them."""
        return tuple((e.host, e.port or self.new.port) for e in parse_url(self.api.transport_url).endpoints)

    @property
    def controllers(self) -> tuple[str, ...]:
        """Of the child: hosts whose services get its configuration of v2."""
        return tuple(dict.fromkeys(s.host for s in (*self.conductors, *self.own_apis, *self.consoles)))

    def unit(self, service: NovaService) -> str:
        """Of v2, beside a unit of v1, which may be named after its cell; a cell may be named after a role."""
        for cell in (self.child.name, self.api.name):
            stem = service.unit.removesuffix(f"-{cell}")
            if stem.endswith(service.role):
                return f"{stem}{SUFFIX}"
        return f"{service.unit}{SUFFIX}"

    @property
    def api_config(self) -> str:
        return self.layout.api.config or f"/etc/nova/nova{SUFFIX}.conf"

    def child_config(self, path: str) -> str:
        if self.own.config:
            return self.own.config
        stem, dot, suffix = path.rpartition(".")
        return f"{stem}{SUFFIX}.{suffix}" if dot else f"{path}{SUFFIX}"

    def conversion(self) -> Conversion:
        """Both sides as the steps see them. :raises BadInput: a database server is not in the inventory."""
        first = self.conductors[0]
        api = self.apis[0].database
        child_nodes = parse_url(self.child.transport_url).endpoints
        return Conversion(
            cell_end(
                self.deployment, self.mapping.uuid, self.child.name, first.database, self.old, self.old_vhost
            ),
            cell_end(self.deployment, "", self.api.name, api, self.new, self.new_vhost),
            path_of(self.deployment.cells, self.child.key),
            (first.host, main_file(first)),
            tuple((e.host, e.port or self.old.port) for e in child_nodes),
            self.new_nodes,
            parse_url(self.zero.database_resolved).path,
            api_database=parse_url(first.api_database).path,
        )


def decide(deployment: Deployment, layout: TreeLayout) -> TreeFacts:
    """:raises BadInput: the layout contradicts the deployment. :raises Unsupported: of a shape that can't
    be converted; several reasons come as one."""
    if deployment.generation != "v1":
        raise Unsupported(
            "this deployment runs no cells v1", "Leave from: v1 out of the layout (recell plan --example)"
        )
    refuse(tuple(_of_the_tree(deployment, layout)))
    api = next(c for c in deployment.cells if c.cell_type == "api")
    child = next(c for c in deployment.cells if c.cell_type != "api")
    mapping, zero = _mappings(deployment, child)
    old, new = _broker(deployment, child), _broker(deployment, api)

    def of(cell: CellV1, *roles: Role, active: bool = True) -> tuple[NovaService, ...]:
        return tuple(
            s
            for s in deployment.services
            if (s.host, s.unit) in cell.members and s.role in roles and s.active == active
        )

    conductors, schedulers = of(child, "conductor"), of(child, "scheduler")
    apis = of(api, "api")
    serving = {s.role for s in of(child, *CONSOLES)}
    hosts = layout.api.hosts or tuple(dict.fromkeys(s.host for s in conductors))
    facts = TreeFacts(
        deployment=deployment,
        layout=layout,
        api=api,
        child=child,
        mapping=mapping,
        zero=zero,
        old=old,
        old_vhost=parse_url(child.transport_url).vhost,
        new=new,
        new_vhost=parse_url(api.transport_url).vhost,
        apis=apis,
        api_cells=of(api, "cells"),
        leaving=of(api, "consoleauth", "cert", *CONSOLES),
        conductors=conductors,
        schedulers=schedulers,
        child_cells=of(child, "cells"),
        own_apis=of(child, "api", "metadata"),
        consoles=tuple(
            s
            for s in of(child, *CONSOLES, active=False)
            if s.role not in serving and any(c.host == s.host for c in conductors)
        ),
        computes=tuple(s for s in deployment.role("compute") if s.active),
        supers=_models(deployment, hosts, "conductor"),
        planners=_models(deployment, hosts, "scheduler"),
        proxied=proxied(deployment, apis),
    )
    refuse(tuple(_unfit(facts, hosts)))
    return facts


def _models(deployment: Deployment, hosts: tuple[str, ...], role: Role) -> tuple[NovaService, ...]:
    """One on each host; one that runs, where there is one."""
    found = []
    for host in hosts:
        deployment.host(host)
        here = [s for s in deployment.services if (s.host, s.role) == (host, role)]
        found += sorted(here, key=lambda s: not s.active)[:1]
    return tuple(found)


def _of_the_tree(deployment: Deployment, layout: TreeLayout) -> Iterator[RecellError]:
    version = re.match(r"\d+", deployment.nova_version)
    if version is None or int(version[0]) != LAST:
        yield Unsupported(
            f"Nova {deployment.nova_version or 'of an unknown version'} is no Stein ({LAST}), whose cells v1"
            " keep the mappings that cells v2 need",
            "Upgrade the tree to Stein first",
        )
    tops = [c for c in deployment.cells if c.cell_type == "api"]
    children = [c for c in deployment.cells if c.cell_type != "api"]
    if len(tops) != 1 or not children:
        yield Unsupported(
            f"{len(tops)} API cells and {len(children)} children were found: a tree has one and one",
            "Scan with the controllers of both in the inventory",
        )
        return
    for name, why in unread_cells(deployment).items():
        yield Unsupported(f"{name}: {why}", "Both cells of a tree have to be on MariaDB or MySQL")
    known = {c.name for c in children}
    strangers = sorted({r.name for r in tops[0].live if not r.is_parent} - known)
    if strangers:
        yield Unsupported(
            f"{tops[0].name} has records of {', '.join(strangers)}, of which no controller was found",
            "Name its controllers in the inventory, or remove the record (nova-manage cell delete), and"
            " scan again",
        )
    if len(children) > 1:
        yield Unsupported(
            f"the tree has {len(children)} children ({', '.join(sorted(known))}), and recell takes one over",
            "Keep cells v1, or empty all children but one",
        )
    if set(layout.cells) != known:
        yield BadInput(
            f"the layout names {', '.join(sorted(layout.cells))}, and the tree has"
            f" {', '.join(sorted(known))}",
            "Name the child as nova-cells does ([cells] name)",
        )


def _mappings(deployment: Deployment, child: CellV1) -> tuple[CellMapping, CellMapping]:
    zero = next((m for m in deployment.mappings if m.uuid == CELL0), None)
    others = [m for m in deployment.mappings if m.uuid != CELL0 and not m.disabled]
    if zero is None or len(others) != 1:
        raise Unsupported(
            f"the API database has {'no mapping of cell0' if zero is None else 'a mapping of cell0'} and"
            f" {len(others)} others, and wanted is one of the child beside it",
            "See nova-manage cell_v2 list_cells; map_cell0 and create_cell make what is missing, with the"
            " child's database and broker",
        )
    database, transport = parse_url(others[0].database_resolved), others[0].transport_resolved
    place = database.endpoints[0]
    server, _, name = child.server.partition("/")
    address, _, port = server.rpartition(":")
    there = host_of(deployment, place.host, "") == host_of(deployment, address, "")
    if not there or (database.path, str(place.port or MYSQL_PORT)) != (name, port):
        raise Unsupported(
            f"the mapping {others[0].name} leads to {database.path} on {place.host}, and {child.name} is"
            f" {child.server}",
            "Correct it: nova-manage cell_v2 update_cell",
        )
    if deployment.broker_of(transport) != _broker(deployment, child):
        raise Unsupported(
            f"the mapping {others[0].name} leads to another broker than {child.name}'s",
            "Correct it: nova-manage cell_v2 update_cell",
        )
    return others[0], zero


def _broker(deployment: Deployment, cell: CellV1) -> Broker:
    found = deployment.broker_of(cell.transport_url)
    if found is None:
        raise Unsupported(
            f"no host of {cell.name}'s broker ({cell.transport_url}) is in the inventory",
            "Add the RabbitMQ hosts to the inventory and scan again",
        )
    return found


def _unfit(facts: TreeFacts, hosts: tuple[str, ...]) -> Iterator[RecellError]:
    """What the deployment lacks, or the layout wants and the hosts don't have."""
    for cell, found, role in (
        (facts.api, facts.apis, "api"),
        (facts.api, facts.api_cells, "cells"),
        (facts.child, facts.conductors, "conductor"),
        (facts.child, facts.schedulers, "scheduler"),
        (facts.child, facts.child_cells, "cells"),
    ):
        if not found:
            yield Unsupported(
                f"no running nova-{role} of {cell.name} was found on the hosts of the inventory",
                "Add its host to the inventory and scan again",
            )
    if facts.old == facts.new:
        yield Unsupported(
            "both cells are on one broker, where their conductors would take each other's messages",
            "Give the API cell a broker of its own first (rabbitmq: in a layout of its own)",
        )
    contained = sorted(f"{s.unit} on {s.host}" for s in _all(facts) if s.container)
    if contained:
        yield Unsupported(
            f"{', '.join(contained)} run in containers, beside which recell puts none in cells v1",
            "Convert services that are systemd units",
        )
    known = {(p.proxy, p.backend, p.server) for p in facts.proxied}
    held = {(p.host, p.unit) for p in facts.proxied}
    for s in facts.apis:
        if (s.host, s.unit) not in held:
            yield Unsupported(
                f"{s.unit} on {s.host} stands behind no HAProxy of the inventory, where its users could wait",
                "Put it behind one, or take it out of service, then scan again",
            )
        if s.port == facts.layout.api.port:
            yield BadInput(
                f"{s.unit} on {s.host} listens on {s.port}, where the new nova-api would",
                "Write another port: under api: in the layout",
            )
    backends = {(p.proxy, p.backend) for p in facts.proxied}
    for p in facts.deployment.proxies:
        if (p.proxy, p.backend) in backends and (p.proxy, p.backend, p.server) not in known:
            yield BadInput(
                f"{p.backend}/{p.server} of HAProxy on {p.proxy} ({p.address}) is no running nova-api of"
                f" {facts.api.name}",
                "Add its host to the inventory, or take it out of HAProxy, then scan again",
            )
    for host in hosts:
        for models, role in ((facts.supers, "conductor"), (facts.planners, "scheduler")):
            if all(s.host != host for s in models):
                yield BadInput(
                    f"{host} has no unit nova-{role} to model the API level's on",
                    "Install Nova's services there, or name other hosts: under api: in the layout",
                )
    yield from _of_the_databases(facts)
    read = (*facts.apis, *facts.conductors, *facts.own_apis, *facts.supers, *facts.planners)
    for s in (*read, *facts.consoles):
        try:
            main_file(s)
        except RecellError as error:
            yield error


def _all(facts: TreeFacts) -> list[NovaService]:
    some = (facts.apis, facts.api_cells, facts.leaving, facts.conductors, facts.schedulers, facts.child_cells,
            facts.own_apis, facts.consoles, facts.supers, facts.planners)  # fmt: skip
    return list({(s.host, s.unit): s for services in some for s in services}.values())


def _of_the_databases(facts: TreeFacts) -> Iterator[RecellError]:
    if not facts.conductors or not facts.apis:
        return
    first, top = facts.conductors[0], facts.apis[0]
    if not first.api_database or parse_url(first.api_database) != parse_url(top.api_database):
        yield Unsupported(
            f"{first.unit} on {first.host} and {top.unit} on {top.host} have not one API database",
            "Give the child's conductors the API cell's [api_database], restart them, and scan again",
        )
        return
    child, api_database = parse_url(first.database), parse_url(first.api_database)
    zero = parse_url(facts.zero.database_resolved)
    for what, url in (("cell0", zero), ("the API database", api_database)):
        if _place(facts, url) != _place(facts, child):
            yield Unsupported(
                f"{what} is on another server than {facts.child.name}'s database, and recell gives instances"
                " their cells in one transaction",
                "Move it to that server first",
            )
    if zero.endpoints[0].user != parse_url(top.database).endpoints[0].user:
        yield Unsupported(
            f"cell0 is entered as {zero.endpoints[0].user}, and the API cell's database as"
            f" {parse_url(top.database).endpoints[0].user}",
            "Let Nova have one account for both",
        )


def _place(facts: TreeFacts, url: Url) -> tuple[str, int]:
    place = url.endpoints[0]
    try:
        host = host_of(facts.deployment, place.host, "").name
    except BadInput:
        host = place.host
    return host, place.port or MYSQL_PORT
