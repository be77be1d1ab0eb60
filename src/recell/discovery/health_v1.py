"""What `recell doctor` looks at where cells are v1. Read-only; what doesn't answer becomes an unknown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from recell.adapters.knock import AMQP, knock
from recell.adapters.world import RealWorld, service_secrets
from recell.discovery import rows
from recell.discovery.cells_v1 import CellDatabases, RawRecord, config_file
from recell.discovery.looking import Notes, bound_of, packages_of, queues_of, running_of
from recell.errors import RecellError
from recell.model.cells_v1 import CellV1, InstanceRow, Link, NullRow, Room, StandingV1
from recell.model.deployment import Deployment, NovaService
from recell.model.health import DatabaseFacts, Facts, Moving
from recell.model.urls import parse_url


def look_at_v1(world: RealWorld, deployment: Deployment, notes: Notes, between_s: float) -> Facts:
    """Everything that the rules ask for, out of every cell. Takes about ``between_s``."""
    databases = open_cells(world, deployment, notes)
    try:
        first = _moving(world, deployment, databases, notes)
        began = world.clock()
        with ThreadPoolExecutor(3) as pool:
            packages = pool.submit(packages_of, world, deployment, notes)
            running = pool.submit(running_of, world, deployment, notes)
            bound = pool.submit(bound_of, world, deployment, notes)
            standing = _standing(world, deployment, databases, notes)
            facts = _databases(deployment, databases, notes)
        left = between_s - (world.clock() - began)
        if left > 0:
            world.wait(left)
        return Facts(
            deployment=deployment,
            first=first,
            second=_moving(world, deployment, databases, notes),
            databases=facts,
            running=running.result(),
            packages=packages.result(),
            bound=bound.result(),
            unknown=notes.found,
            v1=standing,
        )
    finally:
        databases.close()


def open_cells(
    world: RealWorld, deployment: Deployment, notes: Notes, login: tuple[str, str] | None = None
) -> CellDatabases:
    """The databases of the cells, with the passwords that their controllers have now, or as ``login``."""
    by_unit = {(s.host, s.unit): s for s in deployment.services}
    databases = CellDatabases()
    for c in deployment.cells:
        members = [by_unit[m] for m in c.members if m in by_unit]
        notes.ask(f"the database of {c.key}", _open, world, databases, c, members, login)
    return databases


def _open(
    world: RealWorld, databases: CellDatabases, cell: CellV1, members: list[NovaService],
    login: tuple[str, str] | None,
) -> None:  # fmt: skip
    service = next(s for s in members if (s.host, s.unit) == (cell.host, cell.unit))
    host = world.host(cell.host)
    databases.add(cell.key, host, service_secrets(host, service), config_file(members), login)


def _moving(world: RealWorld, deployment: Deployment, databases: CellDatabases, notes: Notes) -> Moving:
    with ThreadPoolExecutor(1) as pool:
        queues = pool.submit(queues_of, world, deployment, notes)
        cells = rows_of(databases, notes)
        return Moving(at=world.clock(), queues=queues.result(), cells=cells)


def _standing(
    world: RealWorld, deployment: Deployment, databases: CellDatabases, notes: Notes
) -> StandingV1:
    flavors = {}
    room: dict[str, tuple[Room, ...]] = {}
    links: list[Link] = []
    for c in deployment.cells:
        if c.key not in databases.keys:
            continue
        listed = notes.ask(f"flavors of {c.key}", databases.flavors, c.key)
        if listed is not None:
            flavors[c.key, listed[0]] = listed[1]
        free = notes.ask(f"compute nodes of {c.key}", databases.room, c.key)
        if free is not None:
            room[c.key] = free
        for record in notes.ask(f"the neighbours of {c.key}", databases.records, c.key) or ():
            if record.state == "live":
                links += _links(world, deployment, notes, c, record)
    return StandingV1(flavors, room, tuple(links), nulls_of(databases, notes))


def nulls_of(databases: CellDatabases, notes: Notes) -> dict[tuple[str, str], tuple[NullRow, ...]]:
    return {
        (key, table): rows
        for key in databases.keys
        for table, rows in (notes.ask(f"the tables of {key}", databases.nulls, key) or {}).items()
    }


def rows_of(databases: CellDatabases, notes: Notes) -> dict[str, dict[str, InstanceRow]]:
    """Instances of every cell that answers, all asked at once: what one cell tells another is under way
    for as short as can be."""
    with ThreadPoolExecutor(4) as pool:
        asked = {
            key: pool.submit(notes.ask, f"instances of {key}", databases.instances, key)
            for key in databases.keys
        }
        return {key: found for key, a in asked.items() if (found := a.result()) is not None}


def _links(
    world: RealWorld, deployment: Deployment, notes: Notes, cell: CellV1, record: RawRecord
) -> list[Link]:
    """Every address of a neighbour, tried from a controller of the cell; the account at the first."""
    try:
        url = parse_url(record.transport_url)
        broker = deployment.broker_of(url.shown())
    except RecellError:
        return []  # the rules say so of the record itself
    out = []
    gate = world.host(cell.host)
    for number, e in enumerate(url.endpoints):
        trouble = knock(gate, e.host, e.port or 5672, AMQP)
        if not trouble and broker and number == 0 and e.user:
            works = notes.ask(
                f"{cell.key}'s account on {broker.name}",
                world.broker(broker.name).password_works,
                e.user,
                e.password,
            )
            trouble = "" if works is None or works else f"it refuses the account {e.user}"
        out.append(Link(cell.key, record.name, f"{e.host}:{e.port or 5672}", trouble))
    return out


def _databases(
    deployment: Deployment, databases: CellDatabases, notes: Notes
) -> tuple[DatabaseFacts, ...]:
    found = []
    for c in deployment.cells:
        if c.key not in databases.keys:
            continue
        variables = notes.ask(f"the database of {c.key}", rows.read_variables, databases, c.key)
        schema = notes.ask(f"the schema of {c.key}", databases.schema, c.key)
        if variables is not None:
            found.append(DatabaseFacts(f"cell {c.key}", c.server, schema or "", variables))
    return tuple(found)
