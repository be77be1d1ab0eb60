"""What `recell doctor` looks at beyond a scan. Read-only; what doesn't answer becomes an unknown."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from recell.adapters.knock import AMQP, knock
from recell.adapters.placement import PlacementApi
from recell.adapters.ssh import SshHost
from recell.adapters.world import RealWorld, service_config
from recell.discovery import rows
from recell.discovery.health_v1 import look_at_v1
from recell.discovery.looking import Notes, bound_of, packages_of, queues_of, running_of
from recell.errors import RecellError, Unsupported
from recell.model.deployment import Deployment, NovaService
from recell.model.health import (
    ComputeNode,
    DatabaseFacts,
    Endpoint,
    Facts,
    Moving,
    Placement,
)
from recell.model.urls import is_template, parse_url

P = ParamSpec("P")
T = TypeVar("T")
BETWEEN_LOOKS_S = 10.0


def look_at(
    world: RealWorld, deployment: Deployment, notes: Notes, between_s: float = BETWEEN_LOOKS_S
) -> Facts:
    """Everything that the rules ask for. Takes about ``between_s`` and what nova-status takes.

    :raises Unreachable, Denied: the API database, without which nothing can be compared.
    """
    if deployment.generation == "none":
        raise Unsupported(
            f"Nova {deployment.nova_version} runs without cells, and the doctor knows Nova in cells",
            "recell plan --example --cells-v1 begins a conversion",
        )
    if deployment.generation == "v1":
        return look_at_v1(world, deployment, notes, between_s)
    nova = world.nova()
    ahead = nova.now() - world.clock()
    first = _moving(world, deployment, notes)
    began = world.clock()
    with ThreadPoolExecutor(4) as pool:
        packages = pool.submit(packages_of, world, deployment, notes)
        running = pool.submit(running_of, world, deployment, notes)
        bound = pool.submit(bound_of, world, deployment, notes)
        endpoints = pool.submit(_endpoints, world, deployment, notes)
        upgrade = pool.submit(_upgrade_check, world, deployment, notes)
        mapped = notes.ask("host mappings", rows.read_host_mappings, nova)
        times = notes.ask("times of the mappings", rows.read_mapping_times, nova, ahead) or ()
        databases = _databases(world, deployment, notes)
    left = between_s - (world.clock() - began)
    if left > 0:
        world.wait(left)
    second = _moving(world, deployment, notes)
    return Facts(
        deployment=deployment,
        first=first,
        second=second,
        host_mappings=mapped,
        databases=databases,
        mapping_times=times,
        running=running.result(),
        endpoints=endpoints.result(),
        packages=packages.result(),
        bound=bound.result(),
        upgrade_check=upgrade.result(),
        unknown=notes.found,
    )


def _moving(world: RealWorld, deployment: Deployment, notes: Notes) -> Moving:
    nova = world.nova()
    with ThreadPoolExecutor(2) as pool:
        queues = pool.submit(queues_of, world, deployment, notes)
        # Allocations before rows: an instance that is deleted in between is then no orphan twice.
        nodes = notes.ask("compute nodes", rows.read_nodes, nova, notes.add)
        placement = notes.ask("placement", _placement, world, deployment, nodes or ())
        return Moving(
            at=world.clock(),
            homes=notes.ask("instances", rows.read_homes, nova, notes.add),
            guests=notes.ask("guests", rows.read_guests, nova, notes.add),
            moves=notes.ask("migrations", rows.read_moves, nova, notes.add),
            nodes=nodes,
            placement=placement,
            queues=queues.result(),
        )


def _first_api(deployment: Deployment) -> NovaService | None:
    found = [s for s in deployment.role("api", "conductor", "scheduler") if s.active and s.api_database]
    return min(found, key=lambda s: (s.role != "api", s.host)) if found else None


def _placement(world: RealWorld, deployment: Deployment, nodes: tuple[ComputeNode, ...]) -> Placement | None:
    service = _first_api(deployment)
    if service is None:
        return None
    host = world.host(service.host)
    known = {n.uuid for n in nodes}
    api = PlacementApi(host, service_config(host, service))
    try:
        return api.look(lambda uuid, _: uuid not in known)
    finally:
        api.close()


def _databases(world: RealWorld, deployment: Deployment, notes: Notes) -> tuple[DatabaseFacts, ...]:
    nova = world.nova()
    api = _first_api(deployment)
    places = [("", "api", _server(api.api_database if api else ""))]
    places += [(m.uuid, m.name or m.uuid, _server(m.database_resolved)) for m in deployment.mappings]
    found = [
        notes.ask(f"the database of {name}", rows.read_database, nova, cell, name, server)
        for cell, name, server in places
    ]
    return tuple(d for d in found if d is not None)


def _server(shown: str) -> str:
    if not shown or is_template(shown):
        return "unknown"
    url = parse_url(shown)
    first = url.endpoints[0] if url.endpoints else None
    return f"{first.host}:{first.port or 3306}/{url.path}" if first else "unknown"


def _endpoints(world: RealWorld, deployment: Deployment, notes: Notes) -> tuple[Endpoint, ...]:
    """Every address in every mapping, tried from a controller as nova-api would."""
    service = _first_api(deployment)
    if service is None:
        return ()
    nova, gate = world.nova(), world.host(service.host)
    out: list[Endpoint] = []
    for raw in nova.mappings():
        transport, database = nova.resolved(raw)
        shown = notes.ask(f"the database URL of {raw.name}", parse_url, database)
        if shown:
            where = _server(shown.shown()).partition("/")[0]
            out.append(Endpoint(raw.uuid, "database", where, _trouble(nova.query, raw.uuid, "SELECT 1")))
        out += _brokers(world, deployment, notes, gate, raw.uuid, transport)
    known = {e.where for e in out if e.kind == "broker"}
    own = notes.ask("nova-api's own brokers", service_config, gate, service)
    if own is not None:
        mine = _brokers(world, deployment, notes, gate, "", own.get("DEFAULT", "transport_url"))
        out += [e for e in mine if e.where not in known]
    return tuple(out)


def _brokers(
    world: RealWorld, deployment: Deployment, notes: Notes, gate: SshHost, cell: str, transport: str
) -> list[Endpoint]:
    """The brokers of one transport URL; the account is tried at the first."""
    if is_template(transport) or transport.startswith(("none:", "fake:")) or not transport:
        return []
    url = notes.ask(f"the broker URL of {cell or 'nova-api'}", parse_url, transport)
    broker = deployment.broker_of(url.shown()) if url else None
    out = []
    for number, e in enumerate(url.endpoints if url else ()):
        trouble = knock(gate, e.host, e.port or 5672, AMQP)
        if not trouble and broker and number == 0 and e.user:
            works = notes.ask(
                f"Nova's account on {broker.name}",
                world.broker(broker.name).password_works,
                e.user,
                e.password,
            )
            trouble = "" if works is None or works else f"it refuses the account {e.user}"
        out.append(Endpoint(cell, "broker", f"{e.host}:{e.port or 5672}", trouble))
    return out


def _trouble(question: Callable[P, object], *args: P.args, **more: P.kwargs) -> str:
    """What is wrong with asking; "" when it is answered."""
    try:
        question(*args, **more)
    except RecellError as error:
        return error.sentence
    return ""


def _upgrade_check(world: RealWorld, deployment: Deployment, notes: Notes) -> dict[str, tuple[str, str]]:
    service = _first_api(deployment)
    manage = deployment.host(service.host).nova_manage if service else ""
    if not service or not manage:
        return {}
    status = manage.removesuffix("nova-manage") + "nova-status"
    argv = [*deployment.host(service.host).nova_prefix, status, "upgrade", "check"]
    ended = notes.ask("nova-status", world.host(service.host).query, argv, timeout=300)
    if ended is None:
        return {}
    found = upgrade_results(ended.stdout.decode(errors="replace"))
    if not found:
        notes.add(
            "nova-status",
            RecellError(
                f"nova-status on {service.host} ended with {ended.returncode} and no list of checks",
                f"Run it there: {' '.join(argv)}",
            ),
        )
    return found


def upgrade_results(table: str) -> dict[str, tuple[str, str]]:
    """check -> (success, warning or failure; details) of the table that nova-status prints.

    ``--json`` is not there in every release, the table is. Long details go on in the next line.
    """
    found: dict[str, tuple[str, str]] = {}
    check = ""
    for line in table.splitlines():
        if not line.startswith("|"):
            continue
        text = line.strip("|").strip()
        key, _, value = text.partition(": ")
        if key == "Check":
            check = value
            found[check] = ("", "")
        elif check and key == "Result":
            found[check] = (value.lower(), "")
        elif check and key == "Details":
            found[check] = (found[check][0], "" if value == "None" else value)
        elif check:
            result, details = found[check]
            found[check] = (result, f"{details} {text}".strip())
    return found
