"""What a further child of a tree of cells v1 is planned from: who is who, and every reason not to, at once.

The child is a standard Nova that runs and is empty: its own database, RabbitMQ, conductors, schedulers and
computes. From Newton on its conductors look for the request of a build in their API database, and drop what
has none there: so they have the tree's, which from Rocky on maps the child and its hosts. From Pike on a
scheduler asks placement for hosts of the whole region, and looks for them in all cells that its API database
maps: so it needs one that maps no other child.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from recell.errors import BadInput, RecellError, Unsupported
from recell.model.cells_v1 import SEPARATOR, CellRecord, CellV1, path_of
from recell.model.deployment import CONSOLES, Broker, CellMapping, Deployment, NovaService, Role
from recell.model.layout_v1 import CellsV1Layout
from recell.model.urls import parse_url
from recell.model.v1 import Conversion
from recell.planning import contained
from recell.planning.database import can_be_read, host_of
from recell.planning.draft import unread_cells
from recell.planning.v1_facts import V1Facts, cell_end, main_file, refuse
from recell.planning.v1_release import release_of

FINDS_BUILDS_SINCE = 14
"""Newton: nova-conductor builds only what has a request in its API database, where the API cell put it."""
SEES_ALL_CELLS_SINCE = 16
"""Pike: nova-scheduler looks for hosts in every cell that its API database maps."""
ASKS_MAPPINGS_SINCE = 18
"""Rocky: nova-api marks an instance's mapping when it is deleted, and answers 500 where there is none. From
Rocky on a cell that is mapped can be disabled, and schedulers then look past it."""


@dataclass(frozen=True)
class ChildFacts(V1Facts):
    """``api``: the API cell; ``api_cells``: its nova-cells that run; ``siblings``: the children that are
    there and were seen. What is said of the child is the new one's."""

    api: CellV1
    api_cells: tuple[NovaService, ...]
    siblings: tuple[CellV1, ...]

    @property
    def unseen(self) -> tuple[CellRecord, ...]:
        """The API cell's records of cells of which no controller is in the inventory: they take no part."""
        seen = {c.name for c in self.deployment.cells}
        return tuple(r for r in self.api.live if r.name not in seen)

    @property
    def path(self) -> str:
        return f"{path_of(self.deployment.cells, self.api.key)}{SEPARATOR}{self.child}"

    @property
    def mapping(self) -> CellMapping | None:
        """Of cells v2, in the tree's API database: what nova-conductor finds the child's hosts by."""
        own = _place(self.deployment, self.conductors[0].database)
        known = (m for m in self.deployment.mappings if can_be_read(m.database_resolved))
        return next((m for m in known if _place(self.deployment, m.database_resolved) == own), None)

    @property
    def api_records(self) -> str:
        """The file that stands for the API cell's table; "" for the table."""
        return next(iter(s.options.get("cells/cells_config", "") for s in self.api_cells), "")

    def conversion(self) -> Conversion:
        first, top = self.conductors[0], self.api_cells[0]
        return Conversion(
            cell_end(self.deployment, "", self.child, first.database, self.old, self.old_vhost),
            cell_end(self.deployment, "", self.api.name, top.database, self.new, self.new_vhost),
            self.path,
            (top.host, main_file(top)),
            _nodes(first.transport_url, self.old),
            _nodes(self.api.transport_url, self.new),
            keeps_usage=self.release.keeps_usage,
        )


def _nodes(url: str, broker: Broker) -> tuple[tuple[str, int], ...]:
    return tuple((e.host, e.port or broker.port) for e in parse_url(url).endpoints)


def new_child(deployment: Deployment, layout: CellsV1Layout) -> str:
    """:raises BadInput: not exactly one cell of the layout is new."""
    known = {c.name for c in deployment.cells if c.cell_type != "api"}
    new = [name for name in layout.cells if name not in known]
    if len(new) != 1:
        there = f"the tree has {', '.join(sorted(known)) or 'no child'}, and the layout "
        raise BadInput(
            there + (f"adds {', '.join(new)}" if new else "adds none to them"),
            "Write the one child to be added under cells:, beside those that are there",
        )
    return new[0]


def decide(deployment: Deployment, layout: CellsV1Layout) -> ChildFacts:
    """:raises BadInput: the layout contradicts the deployment. :raises Unsupported: of a shape that can't
    be added; several reasons come as one."""
    child = new_child(deployment, layout)
    tops = [c for c in deployment.cells if c.cell_type == "api"]
    if len(tops) != 1:
        raise Unsupported(
            f"{len(tops)} API cells were found, and a child has one parent",
            "Scan with the controllers of the whole tree in the inventory",
        )
    api, own = tops[0], layout.cells[child]
    for name in own.hosts:
        deployment.host(name)
    members = {m for c in deployment.cells for m in c.members}
    here = tuple(s for s in deployment.services if s.host in own.hosts and (s.host, s.unit) not in members)

    def running(*roles: Role) -> tuple[NovaService, ...]:
        return tuple(s for s in here if s.role in roles and s.active)

    conductors = running("conductor")
    refuse(tuple(_missing(child, own.hosts, here)))
    contained.refuse_what_is_beyond_control(here)
    url = parse_url(conductors[0].transport_url)
    old, new = _broker(deployment, conductors[0].transport_url), _broker(deployment, api.transport_url)
    vhost = url.path or "/"

    def at_home(s: NovaService) -> bool:
        if not s.transport_url or deployment.broker_of(s.transport_url) != old:
            return False
        return (parse_url(s.transport_url).path or "/") == vhost

    facts = ChildFacts(
        deployment=deployment,
        layout=layout,
        release=release_of(deployment, (*here, *(s for s in deployment.services if s.active))),
        child=child,
        old=old,
        old_vhost=vhost,
        new=new,
        new_vhost=parse_url(api.transport_url).path or "/",
        account=url.endpoints[0].user,
        api_hosts=(),
        conductors=conductors,
        schedulers=running("scheduler"),
        apis=running("api"),
        cells=tuple(s for s in here if s.role == "cells"),
        consoles=running("consoleauth", *CONSOLES),
        computes=tuple(s for s in deployment.role("compute") if s.active and at_home(s)),
        proxied=(),
        bare=(),
        metadata=running("metadata"),
        api=api,
        api_cells=tuple(
            s
            for s in deployment.services
            if (s.host, s.unit) in api.members and s.role == "cells" and s.active
        ),
        siblings=tuple(c for c in deployment.cells if c.cell_type != "api"),
    )
    refuse(tuple(_unfit(facts, here)))
    return facts


def _broker(deployment: Deployment, url: str) -> Broker:
    found = deployment.broker_of(url)
    if found is None:
        raise Unsupported(
            f"no host of the broker {url} is in the inventory",
            "Add the RabbitMQ hosts to the inventory and scan again",
        )
    return found


def _missing(child: str, hosts: tuple[str, ...], here: tuple[NovaService, ...]) -> Iterator[RecellError]:
    if not hosts:
        yield BadInput(f"the layout names no hosts of {child}", "Write its controllers: hosts: [ctl3, ctl4]")
        return
    for role in ("conductor", "scheduler"):
        if not any(s.role == role and s.active for s in here):
            yield Unsupported(
                f"no running nova-{role} that is of no cell yet was found on {', '.join(hosts)}",
                f"Make {child} a standard Nova that runs by itself first, with its own database and RabbitMQ,"
                " and scan again",
            )
    for host in dict.fromkeys(s.host for s in here if s.role == "conductor" and s.active):
        cells = [s for s in here if (s.host, s.role) == (host, "cells")]
        if not cells:
            yield BadInput(
                f"{host} has no unit nova-cells",
                "Install nova-cells on the controllers with a conductor (leave it off), then scan again",
            )
        elif cells[0].active:
            yield BadInput(f"{cells[0].unit} on {host} runs already", "Stop and disable it, then scan again")


def _unfit(facts: ChildFacts, here: tuple[NovaService, ...]) -> Iterator[RecellError]:
    layout, deployment, own = facts.layout, facts.deployment, facts.own
    if facts.api.name != layout.api.name:
        yield BadInput(
            f"the layout calls the API cell {layout.api.name}, and it is {facts.api.name}",
            "Name it as its nova-cells does ([cells] name)",
        )
    if facts.child == facts.api.name:
        yield BadInput(f"both cells are called {facts.child}", "Give them different names")
    if any(r.name == facts.child for r in facts.api.live):
        yield Unsupported(
            f"{facts.api.name} has a record of {facts.child} already, of which no controller was found",
            "Give the new child another name; or, if nobody is behind that record, remove it (nova-manage"
            " cell delete), and scan again",
        )
    if not facts.api_cells:
        yield Unsupported(
            f"no running nova-cells of {facts.api.name} was found on the hosts of the inventory",
            "Start it, or add its host to the inventory, and scan again",
        )
        return
    if not facts.computes:
        yield Unsupported(
            f"no running nova-compute is on {facts.child}'s broker", "Start one there, and scan again"
        )
    in_file = bool(facts.api_records)
    if in_file != (own.records == "file"):
        yield BadInput(
            f"nova-cells of {facts.api.name} keeps its records in "
            + (facts.api_records or "the table cells")
            + f", and the layout says records: {own.records}",
            f"Write records: {'file' if in_file else 'table'}",
        )
    unread = unread_cells(deployment)
    if why := unread.get(facts.api.key):
        yield Unsupported(f"{facts.api.name}: {why}", "Children are added to trees on MariaDB or MySQL")
    if not can_be_read(facts.conductors[0].database):
        yield Unsupported(
            f"recell can't read {facts.child}'s database, {facts.conductors[0].database}",
            "Add a Nova on MariaDB or MySQL",
        )
    yield from _apart(facts, here)
    for s in (*facts.conductors, *facts.schedulers, *facts.apis, *facts.metadata, *facts.api_cells):
        try:
            main_file(s)
        except RecellError as error:
            yield error
    try:
        facts.conversion()
    except RecellError as error:
        yield error


def _apart_from_unseen(facts: ChildFacts) -> Iterator[RecellError]:
    """By the API cell's records of them, and by who takes from the child's broker: its nova-cells is off."""
    deployment = facts.deployment
    for r in facts.unseen:
        if not r.transport_url or not parse_url(r.transport_url).hosts:
            yield Unsupported(
                f"{facts.api.name}'s record of {r.name} names no broker, and no controller of it was found",
                "Name its controllers in the inventory, or correct the record, and scan again",
            )
            continue
        place = (deployment.broker_of(r.transport_url), parse_url(r.transport_url).path or "/")
        if place == (facts.old, facts.old_vhost):
            yield Unsupported(
                f"{facts.child} is on the broker of {r.name}, where both would take each other's messages",
                "Give it a RabbitMQ of its own, or a vhost",
            )
    for c in deployment.clients:
        if (c.broker, c.vhost) == (facts.old.name, facts.old_vhost) and any(
            q.startswith("cells") for q in c.queues
        ):
            yield Unsupported(
                f"a nova-cells on {c.host} takes from {facts.child}'s broker already",
                "If it is another cell's, give the new child a RabbitMQ of its own, or a vhost; else stop it",
            )


def _apart(facts: ChildFacts, here: tuple[NovaService, ...]) -> Iterator[RecellError]:
    """It shares with nobody what a cell has of its own."""
    deployment, first = facts.deployment, facts.conductors[0]
    for s in here:
        if s.active and s.database and parse_url(s.database).path != parse_url(first.database).path:
            yield Unsupported(
                f"{s.unit} on {s.host} reads another database than {first.unit} on {first.host}",
                f"Name hosts of {facts.child} alone, whose services share one database",
            )
        if s.active and s.transport_url and deployment.broker_of(s.transport_url) != facts.old:
            yield Unsupported(
                f"{s.unit} on {s.host} is on another broker than {first.unit} on {first.host}",
                "A standard Nova has one broker for all; correct its transport_url, restart it, scan again",
            )
    for c in deployment.cells:
        place = (deployment.broker_of(c.transport_url), parse_url(c.transport_url).path or "/")
        if place == (facts.old, facts.old_vhost):
            yield Unsupported(
                f"{facts.child} is on the broker of {c.name}, where both would take each other's messages",
                "Give it a RabbitMQ of its own, or a vhost",
            )
    yield from _apart_from_unseen(facts)
    yield from _api_databases(facts)


def _api_databases(facts: ChildFacts) -> Iterator[RecellError]:
    """The tree's where builds and mappings are looked for, and one of its own where hosts are."""
    deployment, number = facts.deployment, facts.release.number
    tree = {
        _place(deployment, s.api_database)
        for s in deployment.services
        if s.api_database and any((s.host, s.unit) in c.members for c in deployment.cells)
    }
    if not tree or number < FINDS_BUILDS_SINCE:
        return
    for s in facts.conductors:
        if not s.api_database or _place(deployment, s.api_database) not in tree:
            yield Unsupported(
                f"{s.unit} on {s.host} has not the tree's [api_database], where the requests of builds are:"
                " it would drop every build",
                f"Once {facts.child} has built an instance by itself, name the tree's [api_database] in its"
                " controllers' nova.conf, restart their services, and scan again",
            )
    if number < SEES_ALL_CELLS_SINCE:
        return
    for s in facts.schedulers:
        if s.api_database and _place(deployment, s.api_database) in tree:
            yield Unsupported(
                f"{s.unit} on {s.host} has the tree's [api_database], and from Pike on it would choose hosts"
                " of the other children",
                "Give it, in a file that it alone reads (/etc/nova/nova-scheduler.conf), an API database with"
                f" a mapping of {facts.child} alone (nova-manage api_db sync, cell_v2 simple_cell_setup),"
                " restart it, and scan again",
            )
    mapping = facts.mapping
    if mapping is not None and not mapping.disabled:
        yield Unsupported(
            f"{facts.child} is mapped in the tree's API database and not disabled, so schedulers of the other"
            " children would choose its hosts",
            f"nova-manage cell_v2 update_cell --disable --cell_uuid {mapping.uuid}, restart those schedulers,"
            " and scan again"
            if number >= ASKS_MAPPINGS_SINCE
            else "Remove the mapping (nova-manage cell_v2 delete_cell), and scan again",
        )
    if mapping is None and number >= ASKS_MAPPINGS_SINCE:
        yield Unsupported(
            f"the tree's API database has no mapping of {facts.child}: what is built there could be neither"
            " deleted nor moved",
            f"nova-manage cell_v2 create_cell --name {facts.child} --disabled on a controller of the tree,"
            " with both URLs, then discover_hosts --by-service --cell_uuid, and scan again",
        )


def _place(deployment: Deployment, url: str) -> tuple[str, str]:
    """Server and name of a database, however its address is written."""
    parsed = parse_url(url)
    host = next(iter(parsed.hosts), "")
    with suppress(BadInput):
        host = host_of(deployment, host, "").name
    return host, parsed.path
