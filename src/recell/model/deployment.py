"""A deployment as ``recell scan`` found it: deployment.json. Holds no secret, ever.

URLs are kept with passwords hidden; a file is known by its sha256. Times are seconds since 1970.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from recell.errors import BadInput
from recell.model.cells_v1 import CellV1
from recell.model.rabbit import QueueHome, RabbitClient, RabbitNode

Role = Literal[
    "api",
    "ec2",
    "metadata",
    "scheduler",
    "conductor",
    "compute",
    "novncproxy",
    "spicehtml5proxy",
    "serialproxy",
    "cells",
    "consoleauth",
    "cert",
    "network",
]
CONSOLES: tuple[Role, ...] = ("novncproxy", "spicehtml5proxy", "serialproxy")
INIT_SCRIPTS = "/etc/init.d/"
"""A service's argv that begins so names no files of its own: the script does, when it runs."""
ENVIRONMENT = "its environment"
"""Where a service's option comes from when no file sets it: OS_<GROUP>__<OPTION>."""
PROXY_UNREAD, NOVA_UNREAD = "proxy-unread", "nova-unread"
"""Remarks of a deployment that begin so say what could not be looked at: ``word|host|why``; of Nova also what
to do: ``word||why|remedy``."""


def named_values(argv: Sequence[str], option: str) -> list[str]:
    """What a command line gives for an option, in either spelling, in its order: the last file wins."""
    found = [
        w.partition("=")[2] if w.startswith(f"{option}=") else following
        for w, following in zip(argv, (*argv[1:], ""), strict=False)
        if w == option or w.startswith(f"{option}=")
    ]
    return [value for value in found if value]


CELL_UNREAD = "cell-unread"
"""Such a remark names a cell of v2 whose database recell can't read: ``word|cell|why``."""
IN_WEB_SERVER = "in-web-server"
"""Such a remark names a web server that has nova-api or metadata inside: ``word|host|unit|program``."""


@dataclass(frozen=True)
class Address:
    """How recell reaches a host by SSH; ``key_file`` is a path, never a key."""

    host: str
    port: int = 22
    user: str = "root"
    key_file: str = ""
    known_hosts: str = ""


@dataclass(frozen=True)
class ConfigFile:
    """A file that a service reads its options from."""

    path: str
    sha256: str
    mode: int
    owner: str
    group: str


@dataclass(frozen=True)
class Container:
    """The container in which a unit runs its service, as kolla makes it.

    ``directory``: on the host, with its config.json and nova.conf; ``files``: all files below it.
    ``grace_s``: how long after it was asked to stop the unit lets the engine kill it; 0: unknown.
    ``obstacle``: why recell can't control it, one sentence; "" when it can.
    """

    engine: str
    name: str
    directory: str
    files: tuple[str, ...] = ()
    grace_s: float = 0.0
    obstacle: str = ""


@dataclass(frozen=True)
class NovaService:
    """One unit that runs a Nova service on one host.

    ``config_files``: in the order in which oslo.config reads them, later ones win.
    ``explicit_config``: whether the command line names them (else they are the defaults).
    ``transport_url``, ``notification_url``, ``database``, ``api_database``: shown URLs, "" when unset.
    ``options``: "section/option" -> value, of those that matter and hold no secret; ``origins``:
    "section/option" -> the file that sets it, secrets' included. ``port``: where a WSGI service listens; of
    several, ``ports``, its own: nova-api may answer for metadata too, and for EC2.
    Of a service in a container ``argv`` is the one inside, and files are named as the host has them.
    """

    host: str
    unit: str
    role: Role
    argv: tuple[str, ...]
    user: str
    active: bool
    enabled: bool
    started_at: float
    main_pid: int
    config_files: tuple[str, ...]
    explicit_config: bool
    nova_host: str
    transport_url: str
    notification_url: str
    database: str
    api_database: str
    port: int = 0
    fragment: str = ""
    dropins: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    container: Container | None = None
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ cluster. ``name``: its first node's host; ``hosts``: inventory names of its nodes.
    ``doors``: ``host:port`` of load balancers, or of names that its hosts don't have, that lead to it."""

    name: str
    hosts: tuple[str, ...]
    node_names: tuple[str, ...]
    version: str
    vhosts: tuple[str, ...]
    port: int = 5672
    alarms: tuple[str, ...] = ()
    doors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Client:
    """A connection to a broker that is not Nova's own RPC of a known unit, grouped by program."""

    broker: str
    vhost: str
    user: str
    host: str
    program: str
    connections: int
    queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellMapping:
    """A row of cell_mappings, shown. ``*_raw``: as stored (templates visible, passwords hidden);
    ``*_resolved``: what nova-api makes of it today. ``templated``: at least one is a template."""

    uuid: str
    name: str
    transport_raw: str
    transport_resolved: str
    database_raw: str
    database_resolved: str
    templated: bool
    disabled: bool
    digest: str


@dataclass(frozen=True)
class ProxyBackendServer:
    """A server in an HAProxy backend and, where known, the unit that it leads to."""

    proxy: str
    backend: str
    server: str
    address: str
    state: str
    host: str = ""
    unit: str = ""


@dataclass(frozen=True)
class OtherWriter:
    """Something that writes to Nova's databases or files beside Nova's services."""

    host: str
    kind: str  # cron, timer, puppet, kolla, option
    where: str
    what: str


@dataclass(frozen=True)
class ServiceRecord:
    """A row of a cell's services table. ``cell``: the cell's uuid; its key where cells are v1."""

    cell: str
    id: int
    uuid: str
    host: str
    binary: str
    version: int
    disabled: bool
    seconds_since_report: float


@dataclass(frozen=True)
class HostFacts:
    """A host and what was found on it that matters.

    ``nova_prefix``: the words before ``nova_manage`` that run it in a container; none: on the host.
    ``aliases``: other names of it that URLs use.
    """

    name: str
    address: Address
    ips: tuple[str, ...]
    hostname: str
    os: str
    firewall: str  # nft, iptables or empty
    config_files: tuple[ConfigFile, ...] = ()
    nova_manage: str = ""
    nova_prefix: tuple[str, ...] = ()
    clock_offset_s: float = 0.0
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """Everything that planning needs to know, and nothing that it must not.

    ``generation``: v2 has ``mappings``; v1 has ``cells``, and as ``mappings`` those of cells v2 that releases
    from Ocata on keep beside them; none is a Nova from before cells v2 without any, or no Nova at all.
    """

    format: int
    generation: str
    made_at: float
    nova_version: str
    hosts: tuple[HostFacts, ...]
    services: tuple[NovaService, ...]
    brokers: tuple[Broker, ...]
    clients: tuple[Client, ...]
    mappings: tuple[CellMapping, ...]
    records: tuple[ServiceRecord, ...]
    proxies: tuple[ProxyBackendServer, ...]
    writers: tuple[OtherWriter, ...]
    instances: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    cells: tuple[CellV1, ...] = ()
    rabbit: tuple[RabbitNode, ...] = ()
    rabbit_clients: tuple[RabbitClient, ...] = ()
    rabbit_queues: tuple[QueueHome, ...] = ()

    def host(self, name: str) -> HostFacts:
        for host in self.hosts:
            if host.name == name:
                return host
        raise BadInput(f"{name} is not a host of this deployment", "Name a host of the inventory")

    def role(self, *roles: Role) -> tuple[NovaService, ...]:
        return tuple(s for s in self.services if s.role in roles)

    @property
    def silent_after_s(self) -> float:
        """A service that hasn't reported for so long doesn't run: 60 s, or the longest service_down_time."""
        said = (s.options.get("DEFAULT/service_down_time", "") for s in self.services)
        return float(max((60, *(int(word) for word in said if word.isdigit()))))

    @property
    def down_after_s(self) -> float:
        """A service that hasn't reported for so long is down for some of Nova: the shortest
        service_down_time, 60 s where it isn't said."""
        said = [s.options.get("DEFAULT/service_down_time", "") for s in self.services]
        return float(min((int(word) if word.isdigit() and int(word) else 60 for word in said), default=60))

    def servers_of(self, service: NovaService) -> tuple[ProxyBackendServer, ...]:
        """Where HAProxy leads to a service; those of its first port come first."""
        mine = [p for p in self.proxies if (p.host, p.unit) == (service.host, service.unit)]
        return tuple(sorted(mine, key=lambda p: p.address.rpartition(":")[2] != str(service.port)))

    def broker_of(self, transport_url: str) -> Broker | None:
        """The broker that a shown transport URL leads to: the one that has one of its hosts or doors."""
        from recell.model.urls import parse_url

        url = parse_url(transport_url) if transport_url else None
        wanted = set(url.hosts) if url else set()
        for broker in self.brokers:
            if url and {e.place for e in url.endpoints} & set(broker.doors):
                return broker
            names = set(broker.hosts)
            for name in broker.hosts:
                facts = self.host(name)
                names |= {facts.hostname, facts.address.host, *facts.ips, *facts.aliases}
            if wanted & names:
                return broker
        return None

    def state_digest(self) -> str:
        """Identifies the state that a plan depends on: what is configured, not what is busy now."""
        lines = [self.generation, self.nova_version]
        for host in self.hosts:
            lines += [f"{host.name} {f.path} {f.sha256} {f.mode:o}" for f in host.config_files]
        for s in self.services:
            lines.append(f"{s.host} {s.unit} {s.role} {' '.join(s.argv)} {s.fragment} {s.dropins}")
            if s.container:
                lines.append(f"{s.host} {s.unit} {s.container.engine} {s.container.files}")
        lines += [f"{m.uuid} {m.name} {m.digest} {m.disabled}" for m in self.mappings]
        lines += [f"{c.key} {c.server} {c.transport_url} {c.records}" for c in self.cells]
        lines += [f"{b.name} {b.hosts}" for b in self.brokers]
        lines += [f"{p.proxy} {p.backend} {p.server} {p.address}" for p in self.proxies]
        lines += [f"{n.name} {n.version} {n.members} {n.handling} {n.cookie} {n.config}" for n in self.rabbit]
        lines += sorted({f"{c.cluster} {c.host} {c.unit} {c.file}" for c in self.rabbit_clients})
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


_ADAPTER = TypeAdapter(Deployment)


def dump_deployment(deployment: Deployment) -> bytes:
    return _ADAPTER.dump_json(deployment, indent=1) + b"\n"


def load_deployment(data: bytes, where: str) -> Deployment:
    """:raises BadInput: not a deployment file of this format."""
    try:
        deployment = _ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise BadInput(
            f"{where} is not a deployment file ({place}: {first['msg']})", "Make it again with: recell scan"
        ) from None
    if deployment.format != 1:
        raise BadInput(
            f"{where} has format {deployment.format}, this recell reads 1", "Make it again with: recell scan"
        )
    return deployment
