"""The scan: all hosts at once, then what needs several of them: brokers, proxies, databases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address

from recell.adapters.ports import HostPort, ProxyServer
from recell.adapters.proxy import HaproxySocket
from recell.adapters.ssh import SshHost
from recell.discovery.brokers import find_clients, find_clusters
from recell.discovery.cells_v1 import is_v1
from recell.discovery.seen import Seen, look_at
from recell.discovery.told import Told, tell_v1, tell_v2, tell_without_cells
from recell.discovery.trouble import Trouble, stop_at, unless
from recell.discovery.writers import from_options
from recell.errors import RecellError, Unsupported
from recell.model.deployment import (
    Address,
    CellMapping,
    Deployment,
    HostFacts,
    NovaService,
    ProxyBackendServer,
)
from recell.model.urls import is_address, is_template, parse_url
from recell.planning.draft import CELL0

LOOPBACK = ("127.0.0.1", "::1", "localhost")
FIRST_WITH_CELLS_V2 = 15  # Ocata: every later release has an API database


def scan(inventory: Sequence[tuple[str, Address]], at: float, trouble: Trouble | None = None) -> Deployment:
    """Look at every host of the inventory. Changes nothing.

    :param trouble: told of what does not answer (a host, a cell's database, a broker, a proxy), which
        is then left out. Without it such a thing ends the scan: a plan must not be made of half a cloud.
    :raises Unreachable, Denied: a host, naming it. :raises Unsupported: no Nova is there.
    """
    hosts = {name: SshHost(name, address) for name, address in inventory}
    note = trouble or stop_at
    try:

        def look(item: tuple[str, Address]) -> Seen | None:
            return unless(note, f"host {item[0]}", look_at, hosts[item[0]], item[1])

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
        found = list(pool.map(lambda name: look_at(hosts[name], addresses[name]), hosts))
    if not any(one.found.services for one in found):
        return None
    return _assemble(hosts, [replace(one, has_rabbit=False, has_haproxy=False) for one in found], at, stop_at)


def _assemble(
    hosts: dict[str, SshHost], seen: Sequence[Seen], at: float, note: Trouble, leave: bool = False
) -> Deployment:
    """``leave``: a cell whose database is of a kind that recell can't read is only remarked."""
    services = tuple(s for one in seen for s in one.found.services)
    if not services:
        raise Unsupported(
            "no host of the inventory runs a Nova service",
            "Name the controllers and computes in it; only services that are systemd units are seen",
        )
    ports = find_clusters(hosts, seen, note)
    brokers = tuple(b for b, _ in ports)
    version = next((one.nova_version for one in seen if one.nova_version), "")
    generation = generation_of(services, version)
    told = Told()
    if generation == "v2":
        told = tell_v2(hosts, seen, services, note, before_cells_v2(version), leave)
        if has_no_cells(version, told.mappings):
            generation = "none"
    if generation != "v2":
        told = (
            tell_v1(hosts, seen, services, note, leave)
            if generation == "v1"
            else tell_without_cells(hosts, seen, services, note)
        )
    clients = unless(note, "clients of the brokers", find_clients, ports, seen) or ()
    proxies = tuple(
        p
        for one in seen
        if one.has_haproxy
        for p in unless(
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


def _proxied(host: SshHost, seen: Sequence[Seen]) -> list[ProxyBackendServer]:
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
