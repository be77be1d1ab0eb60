"""The scan: all hosts at once, then what needs several of them: brokers, proxies, databases."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import ParamSpec, TypeVar

from recell.adapters.broker import RABBIT_UNIT, RabbitCluster
from recell.adapters.conf import Config
from recell.adapters.containers import Inside, inside
from recell.adapters.nova_db import NovaDatabases
from recell.adapters.ports import ConnectionInfo, HostPort, NovaPort, ProxyServer, RawMapping
from recell.adapters.proxy import HaproxySocket
from recell.adapters.ssh import SshHost
from recell.adapters.world import Secrets, secrets_of
from recell.discovery.alone import look_alone
from recell.discovery.cells_v1 import find_cells, is_v1
from recell.discovery.services import Found, find_services
from recell.discovery.writers import find_writers, from_options
from recell.errors import RecellError, Unsupported
from recell.model.cells_v1 import CellV1
from recell.model.deployment import (
    CELL_UNREAD,
    Address,
    Broker,
    CellMapping,
    Client,
    Deployment,
    HostFacts,
    NovaService,
    OtherWriter,
    ProxyBackendServer,
    ServiceRecord,
)
from recell.model.urls import is_address, is_template, parse_url
from recell.planning.database import can_be_read
from recell.planning.draft import CELL0
from recell.planning.templates import resolve_template

P = ParamSpec("P")
T = TypeVar("T")
NOVA_PROGRAMS = ("nova-conductor", "nova-scheduler", "nova-compute", "nova-api", "uwsgi", "mod_wsgi")


@dataclass(frozen=True)
class _Seen:
    """One host, looked at."""

    facts: HostFacts
    found: Found
    writers: tuple[OtherWriter, ...]
    has_rabbit: bool
    has_haproxy: bool
    nova_version: str


LOOPBACK = ("127.0.0.1", "::1", "localhost")
Trouble = Callable[[str, RecellError], None]
FIRST_WITH_CELLS_V2 = 15  # Ocata: every later release has an API database
"""(what could not be looked at, why)"""


def scan(inventory: Sequence[tuple[str, Address]], at: float, trouble: Trouble | None = None) -> Deployment:
    """Look at every host of the inventory. Changes nothing.

    :param trouble: told of what does not answer (a host, a cell's database, a broker, a proxy), which
        is then left out. Without it such a thing ends the scan: a plan must not be made of half a cloud.
    :raises Unreachable, Denied: a host, naming it. :raises Unsupported: no Nova is there.
    """
    hosts = {name: SshHost(name, address) for name, address in inventory}
    note = trouble or _raise
    try:

        def look(item: tuple[str, Address]) -> _Seen | None:
            return _unless(note, f"host {item[0]}", _look, hosts[item[0]], item[1])

        with ThreadPoolExecutor(max_workers=min(6, max(1, len(hosts)))) as pool:
            seen = [one for one in pool.map(look, inventory) if one is not None]
        return _assemble(hosts, seen, at, note, leave=trouble is None)
    finally:
        for host in hosts.values():
            host.close()


def look_for_nova(
    hosts: dict[str, SshHost], addresses: Mapping[str, Address], at: float
) -> Deployment | None:
    """What the hosts run of Nova, without its brokers, their clients and load balancers; None: nothing.

    :raises Unreachable, Denied: as :func:`scan`. :raises Unsupported: its databases can't be found.
    """
    with ThreadPoolExecutor(max_workers=min(6, max(1, len(hosts)))) as pool:
        found = list(pool.map(lambda name: _look(hosts[name], addresses[name]), hosts))
    if not any(one.found.services for one in found):
        return None
    return _assemble(hosts, [replace(one, has_rabbit=False, has_haproxy=False) for one in found], at, _raise)


def _raise(area: str, error: RecellError) -> None:
    raise error


def _unless(note: Trouble, area: str, ask: Callable[P, T], *args: P.args, **more: P.kwargs) -> T | None:
    """What ``ask`` answers; None, and a note, when it can't."""
    try:
        return ask(*args, **more)
    except RecellError as error:
        note(area, error)
        return None


def _look(host: SshHost, address: Address) -> _Seen:
    host.hello()  # connects; the second one takes no time, so its clock can be compared
    asked = time.time()
    hello = host.hello()
    offset = float(hello["now"]) - (asked + time.time()) / 2
    hostname = str(hello["hostname"])
    processes = host.processes()
    names = {p.argv[0].rpartition("/")[2] for p in processes if p.argv}
    found = find_services(host, hostname)
    manage = _which(host, "nova-manage")
    prefix = () if manage else _nova_container(found.services)
    manage = "nova-manage" if prefix else manage
    facts = replace(
        host_facts(host, address, hostname),
        config_files=found.files,
        nova_manage=manage,
        nova_prefix=prefix,
        clock_offset_s=round(offset, 3),
    )
    rabbit = any(
        p.argv and p.argv[0].endswith(("beam.smp", "beam")) and "rabbit" in " ".join(p.argv)
        for p in processes
    )
    version = nova_version(host, manage, prefix) if manage and found.services else ""
    return _Seen(
        facts, found, find_writers(host) if found.services else (), rabbit, "haproxy" in names, version
    )


def host_facts(host: HostPort, address: Address, hostname: str) -> HostFacts:
    """What every host has, whatever runs on it."""
    return HostFacts(
        name=host.name,
        address=address,
        ips=_ips(host),
        hostname=hostname,
        os=_os(host),
        firewall=(_which(host, "nft") and "nft") or (_which(host, "iptables") and "iptables"),
    )


def _nova_container(services: Sequence[NovaService]) -> tuple[str, ...]:
    """What to write before nova-manage where a container has it: nova-api's, else any that runs."""
    running = [s for s in services if s.container and s.active]
    for s in sorted(running, key=lambda s: s.role != "api"):
        if s.container:
            return tuple(inside(s.container.engine, s.container.name, ()))
    return ()


def _which(host: HostPort, program: str) -> str:
    for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        if host.stat(f"{directory}/{program}"):
            return f"{directory}/{program}"
    return ""


def _ips(host: HostPort) -> tuple[str, ...]:
    words = host.query(["hostname", "-I"]).stdout.decode(errors="replace").split()
    return tuple(w for w in words if is_address(w))


def _os(host: HostPort) -> str:
    text = (host.read("/etc/os-release") or b"").decode(errors="replace")
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return match[1] if match else ""


def nova_version(host: HostPort, manage: str, prefix: tuple[str, ...] = ()) -> str:
    """Asked of the Python that nova-manage names: loading all of nova-manage takes seconds.

    :param prefix: what runs it in a container, whose files aren't read from here.
    """
    first = b"" if prefix else (host.read(manage) or b"").split(b"\n", 1)[0]
    interpreter = first.decode(errors="replace").removeprefix("#!").split()
    if interpreter and interpreter[0].startswith("/"):
        code = "import importlib.metadata as m; print(m.version('nova'))"
        ended = host.query([*interpreter, "-c", code], timeout=60)
        if ended.returncode == 0:
            return ended.stdout.decode(errors="replace").strip()
    ended = host.query([*prefix, manage, "--version"], timeout=120)
    words = (ended.stdout + b" " + ended.stderr).decode(errors="replace").split()
    return next((w for w in reversed(words) if re.fullmatch(r"\d+\.\d+.*", w)), "")


def _assemble(
    hosts: dict[str, SshHost], seen: Sequence[_Seen], at: float, note: Trouble, leave: bool = False
) -> Deployment:
    """``leave``: a cell whose database is of a kind that recell can't read is only remarked."""
    services = tuple(s for one in seen for s in one.found.services)
    if not services:
        raise Unsupported(
            "no host of the inventory runs a Nova service",
            "Name the controllers and computes in it; only services that are systemd units are seen",
        )
    ports = _clusters(hosts, seen, note)
    brokers = tuple(b for b, _ in ports)
    version = next((one.nova_version for one in seen if one.nova_version), "")
    generation = generation_of(services, version)
    told = _Told()
    if generation == "v2":
        told = _v2(hosts, seen, services, note, before_cells_v2(version), leave)
        if has_no_cells(version, told.mappings):
            generation = "none"
    if generation != "v2":
        v1 = generation == "v1"
        told = _v1(hosts, seen, services, note, leave) if v1 else _without_cells(hosts, seen, services, note)
    clients = _unless(note, "clients of the brokers", _clients, ports, seen) or ()
    proxies = tuple(
        p
        for one in seen
        if one.has_haproxy
        for p in _unless(
            note,
            f"HAProxy on {one.facts.name}",
            _proxied,
            hosts[one.facts.name],
            seen,
        )
        or ()
    )
    return Deployment(
        format=1,
        generation=generation,
        made_at=at,
        nova_version=version,
        hosts=with_aliases([one.facts for one in seen], hosts, _urls(services, told.mappings)),
        services=services,
        brokers=brokers,
        clients=clients,
        mappings=told.mappings,
        records=told.records,
        proxies=proxies,
        writers=tuple(w for one in seen for w in one.writers) + from_options(services),
        instances=told.instances,
        remarks=(*_stale(hosts, services), *(r for one in seen for r in one.found.remarks), *told.remarks),
        cells=told.cells,
    )


def _urls(services: Sequence[NovaService], mappings: Sequence[CellMapping]) -> list[tuple[str, str]]:
    """(who asks, shown URL)"""
    found = [(s.host, url) for s in services for url in (s.transport_url, s.database) if url]
    asker = services[0].host
    found += [(asker, url) for m in mappings for url in (m.transport_resolved, m.database_resolved)
              if url and not is_template(url)]  # fmt: skip
    return found


def with_aliases(
    facts: Sequence[HostFacts], hosts: Mapping[str, HostPort], urls: Sequence[tuple[str, str]]
) -> tuple[HostFacts, ...]:
    """The same hosts with the names that URLs give them, as those resolve them that use the URLs."""
    known = {n for f in facts for n in (f.name, f.hostname, f.address.host)}
    names = {h: who for who, url in reversed(urls) for h in parse_url(url).hosts if h and not is_address(h)}
    aliases: dict[str, list[str]] = {}
    for name, who in sorted(names.items()):
        if name in known or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            continue
        lines = hosts[who].query(["getent", "ahosts", name], timeout=20).stdout.decode(errors="replace")
        addresses = {line.split()[0] for line in lines.splitlines() if line.strip()}
        for f in facts:
            own = f.name == who and any(is_address(a) and ip_address(a).is_loopback for a in addresses)
            if own or addresses & {*f.ips, f.address.host}:
                aliases.setdefault(f.name, []).append(name)
    return tuple(replace(f, aliases=tuple(aliases.get(f.name, ()))) for f in facts)


def generation_of(services: Sequence[NovaService], version: str) -> str:
    """v1, v2, or none: a Nova from before cells v2, whose controllers know no API database."""
    if is_v1(services):
        return "v1"
    old = before_cells_v2(version)
    active = [s for s in services if s.active]
    controllers = [s for s in active if s.role in ("api", "conductor") and s.database]
    return "none" if old and controllers and not any(s.api_database for s in active) else "v2"


def before_cells_v2(version: str) -> bool:
    """Of a release in which nobody has to have cells v2, whatever is configured."""
    first = version.partition(".")[0]
    return first.isdigit() and (int(first) > 1000 or int(first) < FIRST_WITH_CELLS_V2)


def has_no_cells(version: str, mappings: Sequence[CellMapping]) -> bool:
    """Before Ocata an API database may be there without any cell but cell0."""
    return before_cells_v2(version) and all(m.uuid == CELL0 for m in mappings)


@dataclass(frozen=True)
class _Told:
    """What Nova's own databases say."""

    mappings: tuple[CellMapping, ...] = ()
    cells: tuple[CellV1, ...] = ()
    records: tuple[ServiceRecord, ...] = ()
    instances: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def _v2(
    hosts: dict[str, SshHost], seen: Sequence[_Seen], services: Sequence[NovaService], note: Trouble,
    may_lack: bool = False, leave: bool = False,
) -> _Told:  # fmt: skip
    """``may_lack``: an API database that is named and was never made tells of no cells."""
    first = _controller(services)
    config = next(one.found.configs[first.unit] for one in seen if one.facts.name == first.host)
    nova = NovaDatabases(
        hosts[first.host],
        config.get("api_database", "connection"),
        config.get("DEFAULT", "transport_url"),
        config.get("database", "connection"),
    )
    try:
        mappings = () if may_lack and not nova.knows_cells() else _mappings(nova, config, note)
        # Another cell's plan may do without one; cell0 is everybody's.
        left = [m for m in mappings if leave and m.uuid != CELL0 and not can_be_read(m.database_resolved)]
        asked = [m for m in mappings if m not in left]
        records = tuple(
            ServiceRecord(
                m.uuid, r.id, r.uuid, r.host, r.binary, r.version, r.disabled, r.seconds_since_report
            )
            for m in asked
            for r in _unless(note, f"service records of {m.name or m.uuid}", nova.services, m.uuid) or ()
        )
        instances = {
            m.name or m.uuid: n
            for m in asked
            if (n := _unless(note, f"instances of {m.name or m.uuid}", _count, nova, m.uuid)) is not None
        }
        remarks = tuple(
            f"{CELL_UNREAD}|{m.name or m.uuid}|recell can't read its database, {m.database_resolved}"
            for m in left
        )
        return _Told(mappings=mappings, records=records, instances=instances, remarks=remarks)
    finally:
        nova.close()


def _configs(
    seen: Sequence[_Seen],
) -> tuple[dict[tuple[str, str], Config], Callable[[NovaService], Secrets]]:
    configs = {(one.facts.name, unit): c for one in seen for unit, c in one.found.configs.items()}
    return configs, lambda s: secrets_of(configs[s.host, s.unit])


def _without_cells(
    hosts: dict[str, SshHost], seen: Sequence[_Seen], services: Sequence[NovaService], note: Trouble
) -> _Told:
    records, instances = look_alone(services, hosts, _configs(seen)[1], note)
    return _Told(records=records, instances=instances)


def _v1(
    hosts: dict[str, SshHost], seen: Sequence[_Seen], services: Sequence[NovaService], note: Trouble,
    leave: bool = False,
) -> _Told:  # fmt: skip
    configs, secrets = _configs(seen)

    def trouble(area: str, error: RecellError) -> None:
        if not (leave and isinstance(error, Unsupported)):
            note(area, error)

    cells, databases = find_cells(services, hosts, secrets, trouble)
    try:
        asked = [c for c in cells if not leave or c.key in databases.keys]
        remarks = tuple(
            f"{CELL_UNREAD}|{c.key}|recell can't read its database, {c.server}"
            for c in cells
            if c not in asked
        )
        records = tuple(
            ServiceRecord(
                c.key, r.id, r.uuid, r.host, r.binary, r.version, r.disabled, r.seconds_since_report
            )
            for c in asked
            for r in _unless(note, f"service records of {c.key}", databases.services, c.key) or ()
        )
        instances = {
            c.key: n
            for c in asked
            if (n := _unless(note, f"instances of {c.key}", databases.count, c.key)) is not None
        }
        mappings = _beside_cells_v1(hosts, configs, services, asked, note)
        return _Told(mappings, cells, records, instances, remarks)
    finally:
        databases.close()


def _beside_cells_v1(
    hosts: dict[str, SshHost], configs: dict[tuple[str, str], Config], services: Sequence[NovaService],
    cells: Sequence[CellV1], note: Trouble,
) -> tuple[CellMapping, ...]:  # fmt: skip
    """Mappings of cells v2, which releases from Ocata on keep in the API database that all cells v1 share;
    templates are filled as a child fills them."""
    inner = {member for c in cells if c.cell_type != "api" for member in c.members}
    for s in services:
        if (s.host, s.unit) not in inner or not (s.active and s.api_database and s.database):
            continue
        config = configs[s.host, s.unit]
        nova = NovaDatabases(
            hosts[s.host],
            config.get("api_database", "connection"),
            config.get("DEFAULT", "transport_url"),
            config.get("database", "connection"),
        )
        try:
            return _unless(note, "the mappings of cells v2", _mappings, nova, config, note) or ()
        finally:
            nova.close()
    return ()


def _controller(services: Sequence[NovaService]) -> NovaService:
    for role in ("api", "conductor", "scheduler"):
        for s in services:
            if s.role == role and s.active and s.api_database and s.database:
                return s
    raise Unsupported(
        "no running Nova service of the inventory has [api_database] and [database]",
        "Name a controller with nova-api in the inventory, and start nova-api there",
    )


def _mappings(nova: NovaPort, config: Config, note: Trouble) -> tuple[CellMapping, ...]:
    # Keyed with something an outsider doesn't have: a bare hash of a URL would let a weak password
    # be guessed out of deployment.json.
    key = hashlib.sha256(repr(sorted(config.values.items(), key=str)).encode()).digest()
    found = [
        _unless(note, f"the mapping of {raw.name or raw.uuid}", _mapping, raw, config, key)
        for raw in nova.mappings()
    ]
    return tuple(m for m in found if m is not None)


def _mapping(raw: RawMapping, config: Config, key: bytes) -> CellMapping:
    urls = (raw.transport_url, raw.database_connection)
    resolved = (
        resolve_template(raw.transport_url, config.get("DEFAULT", "transport_url")),
        resolve_template(raw.database_connection, config.get("database", "connection")),
    )
    return CellMapping(
        uuid=raw.uuid,
        name=raw.name,
        transport_raw=_shown(urls[0]),
        database_raw=_shown(urls[1]),
        transport_resolved=_shown(resolved[0]),
        database_resolved=_shown(resolved[1]),
        templated=any(is_template(u) for u in urls),
        disabled=raw.disabled,
        digest=hmac.new(key, "\0".join(urls).encode(), hashlib.sha256).hexdigest(),
    )


def _shown(url: str) -> str:
    """Templates can't be parsed as URLs (a port is a word there); what they hold openly is hidden."""
    if is_template(url):
        return re.sub(r":(?!//)(?!\{)[^:@/{},]+@", ":***@", url)
    return parse_url(url).shown()


def _count(nova: NovaPort, cell: str) -> int:
    return int(nova.query(cell, "SELECT count(*) AS n FROM instances WHERE deleted = 0")[0]["n"])


def _clusters(
    hosts: dict[str, SshHost], seen: Sequence[_Seen], note: Trouble
) -> list[tuple[Broker, RabbitCluster]]:
    """One Broker per set of nodes that know each other."""
    out: list[tuple[Broker, RabbitCluster]] = []
    done: set[str] = set()
    by_hostname = hostnames(one.facts for one in seen)
    for one in seen:
        if not one.has_rabbit or one.facts.name in done:
            continue
        found = _unless(note, f"the broker on {one.facts.name}", _cluster, hosts, one.facts.name, by_hostname)
        if found is not None:
            done |= set(found[0].hosts)
            out.append(found)
    return out


def hostnames(facts: Iterable[HostFacts]) -> dict[str, str]:
    """Inventory names by what RabbitMQ calls a node's host: in full; short where one host is called so."""
    known: dict[str, str] = {}
    short: dict[str, set[str]] = {}
    for host in facts:
        known[host.hostname] = host.name
        short.setdefault(host.hostname.partition(".")[0], set()).add(host.name)
    return {**{name: next(iter(hosts)) for name, hosts in short.items() if len(hosts) == 1}, **known}


def _host_of_node(node: str) -> str:
    return node.partition("@")[2]


def _cluster(
    hosts: dict[str, SshHost], name: str, by_hostname: dict[str, str]
) -> tuple[Broker, RabbitCluster]:
    """The cluster that the node on this host belongs to."""
    cluster = RabbitCluster(name, (Inside(hosts[name], RABBIT_UNIT),))
    alarms = cluster.alarms()  # tells the version too
    nodes, version = cluster.running_nodes(), cluster.version()
    found_at = (by_hostname.get(n) or by_hostname.get(n.partition(".")[0]) for n in map(_host_of_node, nodes))
    members = sorted({name, *(host for host in found_at if host)})
    port = RabbitCluster(members[0], tuple(Inside(hosts[m], RABBIT_UNIT) for m in members), version)
    found = Broker(members[0], tuple(members), nodes, version, port.vhosts(), alarms=alarms)
    return found, port


def _connected(
    broker: Broker, port: RabbitCluster
) -> tuple[dict[str, set[str]], tuple[ConnectionInfo, ...]]:
    """connection -> queues that it takes from; and all connections."""
    queues: dict[str, set[str]] = {}
    consumers, connections = port.clients(broker.vhosts)
    for consumer in consumers:
        queues.setdefault(consumer.connection, set()).add(consumer.queue)
    return queues, connections


def _clients(ports: list[tuple[Broker, RabbitCluster]], seen: Sequence[_Seen]) -> tuple[Client, ...]:
    by_ip = {ip: one.facts.name for one in seen for ip in one.facts.ips}
    groups: dict[tuple[str, str, str, str, str], tuple[int, set[str]]] = {}
    with ThreadPoolExecutor(max(1, len(ports))) as pool:
        answers = list(pool.map(lambda pair: _connected(*pair), ports))
    for (broker, _), (queues, connections) in zip(ports, answers, strict=True):
        for c in connections:
            key = (broker.name, c.vhost, c.user, by_ip.get(c.peer_host, c.peer_host), c.program)
            number, names = groups.get(key, (0, set()))
            named = {
                q
                for q in queues.get(c.name, set())
                if not q.startswith(("reply_", "amq.")) and "_fanout_" not in q
            }
            groups[key] = (number + 1, names | named)
    return tuple(
        Client(*key, connections=n, queues=tuple(sorted(q))[:20]) for key, (n, q) in sorted(groups.items())
    )


def _proxied(host: SshHost, seen: Sequence[_Seen]) -> list[ProxyBackendServer]:
    behind = [(one.facts, one.found.services) for one in seen]
    return [led_to(host.name, server, behind) for server in HaproxySocket(host).servers()]


def led_to(
    proxy: str, server: ProxyServer, hosts: Sequence[tuple[HostFacts, Sequence[NovaService]]]
) -> ProxyBackendServer:
    """A server of HAProxy's, with the service that listens there."""
    address, _, port = server.address.rpartition(":")
    entry = ProxyBackendServer(proxy, server.backend, server.server, server.address, server.state)
    ip = address.strip("[]")
    for facts, services in hosts:
        here = ip in LOOPBACK and facts.name == proxy
        if not here and ip not in {*facts.ips, facts.hostname, facts.name, facts.address.host}:
            continue
        for s in services:
            if port.isdigit() and int(port) in s.ports:
                entry = replace(entry, host=s.host, unit=s.unit)
    return entry


def _stale(hosts: dict[str, SshHost], services: Sequence[NovaService]) -> tuple[str, ...]:
    """Processes that began before a file that they read was last written."""
    out = []
    for s in services:
        for path in s.config_files:
            try:
                stat = hosts[s.host].stat(path)
            except RecellError:
                continue
            if s.active and stat and stat.mtime > s.started_at:
                out.append(f"stale-process|{s.host}|{s.unit}|{path}")
    return tuple(out)
