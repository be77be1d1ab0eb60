"""What a conversion to cells v1 is planned from: who is who, and every reason not to.

Reasons are gathered and said at once: an operator who has to change three things wants to know of three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from recell.errors import BadInput, RecellError, Unsupported
from recell.model.cells_v1 import SEPARATOR
from recell.model.deployment import (
    CONSOLES,
    ENVIRONMENT,
    Broker,
    Deployment,
    HostFacts,
    NovaService,
    ProxyBackendServer,
)
from recell.model.hosts import CellEnd
from recell.model.layout_v1 import CellsV1Layout, ChildCell
from recell.model.urls import is_address, is_template, parse_url
from recell.model.v1 import Conversion
from recell.planning import contained
from recell.planning.database import MYSQL_PORT, addresses, can_be_read, host_of
from recell.planning.draft import CELL0, edited_file
from recell.planning.rabbit_nova import address_like
from recell.planning.v1_release import Release, release_of
from recell.planning.v1_serves import ec2_port

RABBIT = ("rabbit", "kombu")
MYSQL = ("mysql", "mariadb")
READS_MAPPED_CELLS = 14
"""Newton: nova-api of an API cell follows mappings of cells v2, into the child's own database."""
NO_NETWORK_CLASS_SINCE = 14
_FALSE = ("false", "0", "no", "off")


@dataclass(frozen=True)
class V1Facts:
    """``path``: the child's full path, which the API cell writes into ``instances.cell_name``.
    ``shared``: hosts of the API cell that are the child's controllers too. ``proxied``: servers of
    nova-api in HAProxy; ``bare``: controllers whose nova-api stands behind none that recell can hold.
    ``metadata``: units that serve guests' metadata alone. ``installed``: units of the API cell's hosts by
    (host, role); ``siblings`` where they are the child's."""

    deployment: Deployment
    layout: CellsV1Layout
    release: Release
    child: str
    old: Broker
    old_vhost: str
    new: Broker
    new_vhost: str
    account: str
    api_hosts: tuple[HostFacts, ...]
    conductors: tuple[NovaService, ...]
    schedulers: tuple[NovaService, ...]
    apis: tuple[NovaService, ...]
    cells: tuple[NovaService, ...]
    consoles: tuple[NovaService, ...]
    computes: tuple[NovaService, ...]
    proxied: tuple[ProxyBackendServer, ...]
    bare: tuple[str, ...]
    metadata: tuple[NovaService, ...]

    @property
    def path(self) -> str:
        return f"{self.layout.api.name}{SEPARATOR}{self.child}"

    @property
    def own(self) -> ChildCell:
        return self.layout.cells[self.child]

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.host for s in (*self.conductors, *self.schedulers, *self.apis)))

    @property
    def ec2(self) -> dict[tuple[str, str], int]:
        """(host, unit) -> port, of the nova-api that serve EC2 as well."""
        found = {(s.host, s.unit): ec2_port(s, self.release) for s in self.apis}
        return {key: port for key, port in found.items() if port}

    @property
    def shared(self) -> frozenset[str]:
        return frozenset(self.controllers) & {h.name for h in self.api_hosts}

    @property
    def cell(self) -> str:
        """The uuid of the child's mapping, "" in a release without mappings."""
        return next((m.uuid for m in self.deployment.mappings if m.uuid != CELL0), "")

    def conversion(self) -> Conversion:
        """Both sides as the steps see them. :raises BadInput: a database server is not in the inventory."""
        layout, deployment = self.layout, self.deployment
        first = self.conductors[0]
        url = parse_url(first.database)
        today = url.endpoints[0]
        port = today.port or MYSQL_PORT
        old = host_of(deployment, today.host, "")
        wanted = layout.api.database
        new = deployment.host(wanted.host)
        named = not today.host.replace(".", "").isdigit() and ":" not in today.host
        cell0, cell0_at = self._cell0(old.name, port)
        hosts = [deployment.host(n) for n in self.old.hosts]
        wanted_nodes = [deployment.host(n) for n in layout.api.broker.nodes]
        return Conversion(
            CellEnd(
                self.cell, self.child, old.name, today.host, port, url.path,
                self.old.name, self.old.hosts[0], self.old_vhost, addresses(old),
            ),
            CellEnd(
                "", layout.api.name, new.name,
                wanted.address or (new.hostname if named else new.address.host), wanted.port, wanted.name,
                self.new.name, self.new.hosts[0], self.new_vhost, addresses(new),
            ),
            self.path,
            (first.host, main_file(first)),
            nodes_like(first.transport_url, hosts, self.old.port),
            tuple((h, layout.api.broker.port) for h, _ in nodes_like(first.transport_url, wanted_nodes, 0)),
            cell0,
            self.release.keeps_usage,
            cell0_at=cell0_at,
        )  # fmt: skip

    def _cell0(self, server: str, port: int) -> tuple[str, tuple[str, int] | None]:
        """Its database, and where that is; None: on the child's ``server``, whatever that is called there."""
        url = next((m.database_resolved for m in self.deployment.mappings if m.uuid == CELL0), "")
        found = parse_url(url) if url and not is_template(url) else None
        if found is None or len(found.endpoints) != 1 or not can_be_read(url):
            return "", None
        at = found.endpoints[0]
        with suppress(BadInput):
            if (host_of(self.deployment, at.host, "").name, at.port or MYSQL_PORT) == (server, port):
                return found.path, None
        # As Nova enters it from a controller; recell's own sessions have no TLS.
        return ("", None) if "ssl" in found.query else (found.path, (at.host, at.port or MYSQL_PORT))

    def installed(self, host: str, role: str) -> NovaService | None:
        """The unit that runs this role on a host of the API cell, or would."""
        return next((s for s in self.deployment.services if (s.host, s.role) == (host, role)), None)


def cell_end(
    deployment: Deployment, uuid: str, name: str, database: str, broker: Broker, vhost: str
) -> CellEnd:
    """``database``: its URL. :raises BadInput: its server is not in the inventory."""
    url = parse_url(database)
    place = url.endpoints[0]
    server = host_of(deployment, place.host, "")
    return CellEnd(
        uuid, name, server.name, place.host, place.port or MYSQL_PORT, url.path,
        broker.name, broker.hosts[0], vhost, addresses(server),
    )  # fmt: skip


def nodes_like(url: str, hosts: Sequence[HostFacts], port: int) -> tuple[tuple[str, int], ...]:
    """These hosts as nodes of a broker, in the manner of a URL: as it names them, else by addresses of the
    same network, or by names. ``port``: where it names none of them."""
    endpoints = [e for e in (parse_url(url).endpoints if url else ()) if not _loopback(e.host)]
    address = endpoints[0].host if endpoints and is_address(endpoints[0].host) else ""
    named: dict[str, tuple[str, int]] = {}
    for h in hosts:
        known = {h.name, h.hostname, h.address.host, *h.ips, *h.aliases}
        for e in endpoints:
            if e.host in known:
                named.setdefault(h.name, (e.host, e.port or port))
    usual = next((p for _, p in named.values()), port)
    return tuple(
        named.get(h.name, (address_like(h, address) if address else h.hostname, usual)) for h in hosts
    )


def _loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def main_file(service: NovaService) -> str:
    """The one file in which a service's database and broker are set. Where an old release names the broker in
    options of its own, the database tells the file.

    :raises Unsupported: there is no such file.
    """
    return edited_file(service, may_lack="DEFAULT/transport_url")


def decide(deployment: Deployment, layout: CellsV1Layout) -> V1Facts:
    """:raises BadInput: the layout contradicts the deployment. :raises Unsupported: of a shape that can't
    be converted; several reasons come as one."""
    if deployment.generation == "v1":
        raise Unsupported(
            "this deployment runs cells v1 already",
            "recell doctor says what ails it; another child under cells: in the layout is added to it",
        )
    if len(layout.cells) != 1:
        raise BadInput(
            f"the layout names {len(layout.cells)} cells, and a standard Nova becomes one",
            "Leave out all but today's; the next child is added once this conversion is finished",
        )
    active = tuple(s for s in deployment.services if s.active)
    controllers = tuple(s for s in active if s.role != "compute")
    release = release_of(deployment, controllers)
    refuse(tuple(_reasons(deployment, active, release)))
    by_role = {
        role: tuple(s for s in active if s.role == role)
        for role in ("conductor", "scheduler", "api", "compute")
    }
    for role in ("conductor", "scheduler", "api"):
        if not by_role[role]:
            raise Unsupported(
                f"no running nova-{role} was found on the hosts of the inventory",
                "Add its host to the inventory and scan again",
            )
    contained.refuse_what_is_beyond_control(controllers)
    old, new = _brokers(deployment, layout, active)
    url = parse_url(by_role["conductor"][0].transport_url)
    led = proxied(deployment, by_role["api"])
    held = {(p.host, p.unit) for p in led}
    facts = V1Facts(
        deployment=deployment,
        layout=layout,
        release=release,
        child=next(iter(layout.cells)),
        old=old,
        old_vhost=url.vhost,
        new=new,
        new_vhost=layout.api.broker.vhost or url.vhost,
        account=url.endpoints[0].user,
        api_hosts=tuple(deployment.host(name) for name in layout.api.hosts),
        conductors=by_role["conductor"],
        schedulers=by_role["scheduler"],
        apis=by_role["api"],
        cells=tuple(s for s in deployment.role("cells")),
        consoles=tuple(s for s in deployment.role("consoleauth", *CONSOLES) if s.active),
        computes=by_role["compute"],
        proxied=led,
        bare=tuple(f"{s.unit} on {s.host}" for s in by_role["api"] if (s.host, s.unit) not in held),
        metadata=tuple(s for s in active if s.role == "metadata"),
    )
    refuse(tuple(_unfit(facts)))
    return facts


def proxied(deployment: Deployment, apis: tuple[NovaService, ...]) -> tuple[ProxyBackendServer, ...]:
    """HAProxy's servers of the compute API. The metadata API may be the same unit, on a port of its own."""
    ports = {(s.host, s.unit): str(s.port) for s in apis}
    return tuple(
        p
        for p in deployment.proxies
        if (p.host, p.unit) in ports and p.address.rpartition(":")[2] == ports[p.host, p.unit]
    )


def refuse(reasons: tuple[RecellError, ...]) -> None:
    """Nothing without reasons; else raises one of the first's kind that says all."""
    if not reasons:
        return
    kind = type(reasons[0])
    raise kind(
        "; ".join(r.sentence for r in reasons),
        ". ".join(dict.fromkeys(r.remedy for r in reasons if r.remedy)),
    )


def _reasons(
    deployment: Deployment, active: tuple[NovaService, ...], release: Release
) -> Iterator[RecellError]:
    """Why no layout could help."""
    networks = {f"{s.unit} on {s.host}" for s in active if s.role == "network"}
    networks |= {f"{s.unit} on {s.host} (by its options)" for s in active if _uses_nova_network(s, release)}
    networks |= {
        f"{r.binary} on {r.host}"
        for r in deployment.records
        if r.binary == "nova-network" and r.seconds_since_report <= deployment.silent_after_s
    }
    if networks:
        yield Unsupported(
            f"nova-network serves guests here ({', '.join(sorted(networks))}), which recell does not convert",
            "Move to Neutron first",
        )
    separate = [f"{s.unit} on {s.host}" for s in active if s.role == "ec2"]
    if separate:
        yield Unsupported(
            f"{', '.join(sorted(separate))} serves EC2, and would write to the child past the API cell",
            "Lead its users to the Compute API, stop and disable it, then scan again",
        )
    others = sorted({_driver(s) for s in active} - set(RABBIT) - {""})
    if others:
        yield Unsupported(
            f"Nova talks over {' and '.join(others)}, and recell knows RabbitMQ alone",
            "Move Nova to RabbitMQ first",
        )
    engines = {_engine(url) for s in active for url in (s.database, s.api_database) if url}
    engines |= {_engine(m.database_resolved) for m in deployment.mappings}
    if unknown := sorted(engines - set(MYSQL) - {""}):
        yield Unsupported(
            f"Nova's databases are {' and '.join(unknown)}, and recell moves rows of MariaDB and MySQL alone",
            "Convert a Nova on MariaDB or MySQL",
        )
    cells = [m for m in deployment.mappings if m.uuid != CELL0]
    if len(cells) > 1:
        yield Unsupported(
            f"the deployment has {len(cells)} cells of v2 besides cell0, and cells v1 take one standard Nova",
            "Keep cells v2",
        )
    if cells and release.number == READS_MAPPED_CELLS:
        yield Unsupported(
            f"{release.name}'s nova-api looks for an instance in the cell that it is mapped to, cells v1 or"
            f" not, and users would get 404 for what is mapped to {cells[0].name or cells[0].uuid}",
            "Upgrade to Ocata (15) or newer first, whose cells v1 look past mappings",
        )


def _uses_nova_network(service: NovaService, release: Release) -> bool:
    # Newton reads it no more.
    old = release.number < NO_NETWORK_CLASS_SINCE
    named = service.options.get("DEFAULT/network_api_class", "") if old else ""
    neutron = service.options.get("DEFAULT/use_neutron", "").strip().lower()
    return "nova.network.api" in named or (neutron in _FALSE and not named and service.role == "api")


def _driver(service: NovaService) -> str:
    """rabbit, qpid, zmq: from the URL, or of older releases from rpc_backend."""
    if service.transport_url:
        return parse_url(service.transport_url).scheme.partition("+")[0]
    backend = service.options.get("DEFAULT/rpc_backend", "").lower()
    return next((name for name in ("qpid", "zmq", "rabbit", "kombu") if name in backend), "")


def _engine(url: str) -> str:
    return parse_url(url).scheme.partition("+")[0]


def _brokers(
    deployment: Deployment, layout: CellsV1Layout, active: tuple[NovaService, ...]
) -> tuple[Broker, Broker]:
    conductors = [s for s in active if s.role == "conductor"]
    old = deployment.broker_of(conductors[0].transport_url)
    if old is None:
        raise Unsupported(
            f"no host of the broker {conductors[0].transport_url} is in the inventory",
            "Add the RabbitMQ hosts to the inventory and scan again",
        )
    for s in active:
        if s.transport_url and deployment.broker_of(s.transport_url) != old:
            raise Unsupported(
                f"{s.unit} on {s.host} is on another broker than the conductors",
                "A standard Nova has one broker for all; correct its transport_url, restart it, scan again",
            )
    wanted = layout.api.broker.nodes
    for node in wanted:
        deployment.host(node)
    if both := sorted({*wanted} & {*old.hosts}):
        raise BadInput(
            f"{', '.join(both)} of api: broker: is of the broker that Nova is on today",
            "Take one live cluster apart first (rabbitmq: in a layout of its own), or name fresh nodes",
        )
    new = next((b for b in deployment.brokers if {*wanted} & {*b.hosts}), None)
    if new is None:
        raise BadInput(
            f"no running RabbitMQ was found on {', '.join(wanted)}",
            "Install and start it there, then scan again",
        )
    if not {*wanted} <= {*new.hosts}:
        raise BadInput(
            f"{', '.join(wanted)} are not nodes of one RabbitMQ cluster",
            "Join them first, or name the nodes of one cluster",
        )
    return old, new


def _overruled(facts: V1Facts) -> Iterator[RecellError]:
    """A file that a service reads after the one that is copied for the child would win over the copy."""
    told = [f"cells/{option}" for option in ("enable", "name", "cell_type", "cells_config")]
    told += ["quota/driver", "DEFAULT/quota_driver"]
    for s in (*facts.conductors, *facts.schedulers, *facts.apis, *facts.metadata):
        path = main_file(s)
        for option in (*told, *(["DEFAULT/enabled_apis"] if s.role == "api" else [])):
            origin = s.origins.get(option, path)
            if origin == ENVIRONMENT or (
                origin in s.config_files and s.config_files.index(origin) > s.config_files.index(path)
            ):
                section, _, word = option.partition("/")
                yield Unsupported(
                    f"{s.unit} on {s.host} takes [{section}] {word} from {origin}, which wins over {path} and"
                    " over any copy of it",
                    f"Move it into {path}, restart the service, and scan again",
                )


def _unfit(facts: V1Facts) -> Iterator[RecellError]:
    """What the layout wants and the hosts don't have."""
    layout, deployment = facts.layout, facts.deployment
    if facts.child == layout.api.name:
        yield BadInput(f"both cells are called {facts.child}", "Give them different names")
    database = deployment.host(layout.api.database.host)
    today = parse_url(facts.conductors[0].database)
    names = {database.name, database.hostname, database.address.host, *database.ips}
    if today.endpoints[0].host in names and today.path == layout.api.database.name:
        yield BadInput(
            f"api: database: names {today.path} on {database.name}, which is the child's own",
            "Give the API cell a database of its own",
        )
    for host in facts.api_hosts:
        for role in ("api", "cells", "consoleauth"):
            if facts.installed(host.name, role) is None:
                yield BadInput(
                    f"{host.name} has no unit nova-{role}",
                    "Install Nova's services of the same release on the API cell's hosts (leave them off),"
                    " then scan again",
                )
        busy = [s.unit for s in deployment.services if s.host == host.name and s.active]
        if busy and host.name not in facts.shared:
            yield BadInput(
                f"{', '.join(sorted(busy))} on {host.name} runs already",
                "Stop and disable Nova's services on the API cell's hosts, then scan again",
            )
    known = {(p.proxy, p.backend, p.server) for p in facts.proxied}
    for p in deployment.proxies:
        mine = any((p.proxy, p.backend) == (k.proxy, k.backend) for k in facts.proxied)
        if mine and (p.proxy, p.backend, p.server) not in known:
            yield BadInput(
                f"{p.backend}/{p.server} of HAProxy on {p.proxy} ({p.address}) is no running nova-api of the"
                " inventory",
                "Add its host to the inventory, or take it out of HAProxy, then scan again",
            )
    for name in facts.controllers:
        if all(s.host != name for s in facts.cells) and any(s.host == name for s in facts.conductors):
            yield BadInput(
                f"{name} has no unit nova-cells",
                "Install nova-cells on the controllers with a conductor (leave it off), then scan again",
            )
    unfit = False
    read: dict[str, set[str]] = {}
    for s in (*facts.conductors, *facts.schedulers, *facts.apis, *facts.metadata):
        try:
            read.setdefault(s.host, set()).add(main_file(s))
        except RecellError as error:
            unfit = True
            yield error
    if not unfit:
        yield from _overruled(facts)
    for name, paths in read.items() if facts.own.config else ():
        if len(paths) > 1:
            yield BadInput(
                f"services on {name} read {' and '.join(sorted(paths))}, and config: of {facts.child} is one"
                " file for all of them",
                "Leave config: out, and each gets a copy of its own",
            )
    for s in facts.apis:
        if s.host in facts.shared and layout.api.port in (s.port, *s.ports):
            yield BadInput(
                f"{s.unit} on {s.host} listens on {layout.api.port}, where the API cell's nova-api would",
                "Write another port: under api: in the layout",
            )
    if not unfit:
        try:
            facts.conversion()
        except RecellError as error:
            yield error
