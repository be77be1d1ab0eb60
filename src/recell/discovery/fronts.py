"""Of RabbitMQ's clients: which are Nova's, which answer HTTP, and which load balancers lead to them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from recell.adapters.ports import HostPort, ProcessInfo
from recell.adapters.proxy import HaproxySocket, UnixHost
from recell.discovery.services import listening_on, unit_of
from recell.errors import RecellError
from recell.model.deployment import (
    CONSOLES,
    NOVA_UNREAD,
    PROXY_UNREAD,
    Deployment,
    HostFacts,
    NovaService,
    ProxyBackendServer,
)
from recell.model.rabbit import WEB_SERVERS, RabbitClient
from recell.model.urls import parse_url

__all__ = ["NOVA_UNREAD", "FrontHost", "proxied", "told_of_nova", "with_balancers", "with_doors"]
_ANSWERS_S = 10


class FrontHost(HostPort, UnixHost, Protocol):
    """A host on which HAProxy may run."""


def proxied(
    hosts: Mapping[str, FrontHost],
    facts: Mapping[str, HostFacts],
    processes: Mapping[str, Sequence[ProcessInfo]],
) -> tuple[tuple[ProxyBackendServer, ...], tuple[str, ...]]:
    """Every server of every HAProxy, with the unit that listens there; and remarks on those that can't be
    asked."""
    found: list[ProxyBackendServer] = []
    remarks: list[str] = []
    doors = _Doors(hosts, facts, processes)
    for name, running in processes.items():
        if not any(p.argv and posixpath.basename(p.argv[0]) == "haproxy" for p in running):
            continue
        try:
            servers = HaproxySocket(hosts[name]).servers()
        except RecellError as error:
            remarks.append(f"{PROXY_UNREAD}|{name}|{error.sentence}")
            continue
        for s in servers:
            host, unit = doors.behind(s.address)
            found.append(ProxyBackendServer(name, s.backend, s.server, s.address, s.state, host, unit))
    return tuple(found), tuple(remarks)


class _Doors:
    """Which unit listens at an address."""

    def __init__(
        self,
        hosts: Mapping[str, FrontHost],
        facts: Mapping[str, HostFacts],
        processes: Mapping[str, Sequence[ProcessInfo]],
    ) -> None:
        self._hosts = hosts
        self._processes = processes
        self._named = {
            name: f.name for f in facts.values() for name in (*f.ips, f.hostname, f.name, f.address.host)
        }
        self._listening: dict[str, Mapping[int, set[int]]] = {}

    def behind(self, address: str) -> tuple[str, str]:
        """(host, unit); empty where that can't be told."""
        ip, _, port = address.rpartition(":")
        host = self._named.get(ip.strip("[]"), "")
        if not host or not port.isdigit():
            return "", ""
        if host not in self._listening:
            self._listening[host] = listening_on(self._hosts[host])
        owners = self._listening[host].get(int(port), set())
        units = {unit_of(p) for p in self._processes[host] if p.pid in owners} - {""}
        return (host, units.pop()) if len(units) == 1 else ("", "")


def told_of_nova(deployment: Deployment, nova: Deployment) -> Deployment:
    """The deployment with what an ordinary scan says of Nova; its services are clients, connected or not."""
    known = {(s.host, s.unit): s for s in nova.services}
    facts = {h.name: h for h in nova.hosts}
    hosts = tuple(_both(h, facts[h.name]) for h in deployment.hosts)
    merged = replace(
        deployment,
        generation=nova.generation,
        nova_version=nova.nova_version,
        hosts=hosts,
        services=nova.services,
        mappings=nova.mappings,
        records=nova.records,
        writers=nova.writers,
        instances=nova.instances,
        cells=nova.cells,
        remarks=(*deployment.remarks, *nova.remarks),
    )
    clients = [_nova_client(c, known.get((c.host, c.unit))) for c in deployment.rabbit_clients]
    merged = with_balancers(replace(merged, rabbit_clients=tuple(clients)))
    there = {(c.host, c.unit) for c in clients}
    silent = [s for s in nova.services if s.active and (s.host, s.unit) not in there]
    clients += [c for s in silent if (c := _unheard(merged, s)) is not None]
    return replace(merged, rabbit_clients=tuple(clients))


def with_balancers(deployment: Deployment) -> Deployment:
    """Each broker with addresses that are no node's and lead to it all the same: those by which a server that
    takes from its queues says that it comes."""
    found: dict[str, set[str]] = {}
    for client in deployment.rabbit_clients:
        # Who has further URLs may take from there.
        if client.queues and client.shown and not client.fixed and deployment.broker_of(client.shown) is None:
            for end in parse_url(client.shown).endpoints:
                found.setdefault(end.place, set()).add(client.cluster)
    brokers = tuple(
        replace(b, doors=tuple(sorted(d for d, names in found.items() if names == {b.name})))
        for b in deployment.brokers
    )
    return replace(deployment, brokers=brokers)


def _both(host: HostFacts, nova: HostFacts) -> HostFacts:
    seen = {f.path for f in nova.config_files}
    more = [f for f in host.config_files if f.path not in seen]
    return replace(nova, config_files=(*nova.config_files, *more))


def _nova_client(client: RabbitClient, service: NovaService | None) -> RabbitClient:
    if service is None:
        return client
    return replace(
        client,
        files=service.config_files,
        file=service.origins.get("DEFAULT/transport_url", ""),
        shown=service.transport_url,
        container=service.container is not None,
        role=service.role,
        also=_also(service),
    )


def _also(service: NovaService) -> tuple[tuple[str, str, str], ...]:
    section = "oslo_messaging_notifications"
    file = service.origins.get(f"{section}/transport_url", "")
    return ((file, section, service.notification_url),) if file else ()


def _unheard(deployment: Deployment, service: NovaService) -> RabbitClient | None:
    """A service that is on no connection now, and would go to one of these clusters; None: to none."""
    broker = deployment.broker_of(service.transport_url) if service.transport_url else None
    if broker is None:
        return None
    base = RabbitClient(
        cluster=broker.name,
        vhost=parse_url(service.transport_url).vhost,
        program=service.unit,
        peer=deployment.host(service.host).address.host,
        host=service.host,
        unit=service.unit,
        connections=0,
        nodes=tuple(sorted(n.name for n in deployment.rabbit if n.host in broker.hosts)),
    )
    return _nova_client(base, service)


def with_doors(deployment: Deployment, hosts: Mapping[str, FrontHost]) -> Deployment:
    """Each client with the URL at which it answers HTTP, if it does."""
    ports = {(s.host, s.unit): s.port for s in deployment.services if s.role in ("api", "metadata")}

    def door(client: RabbitClient) -> str:
        if not client.unit or not client.host or client.role in CONSOLES:
            return ""
        # Asked where the proxy asks it: it may listen on one address only.
        places = [p.address for p in deployment.proxies if (p.host, p.unit) == (client.host, client.unit)]
        if port := ports.get((client.host, client.unit)):
            return f"http://{places[0] if places else f'127.0.0.1:{port}'}/"
        host = hosts[client.host]
        if not places and client.program in WEB_SERVERS:
            pids = {p.pid for p in host.processes() if unit_of(p) == client.unit}
            places = [f"127.0.0.1:{p}" for p, owners in sorted(listening_on(host).items()) if owners & pids]
        for place in places[:1]:
            if 0 < host.http_status(f"http://{place}/", timeout=_ANSWERS_S) < 500:
                return f"http://{place}/"
        return ""

    return replace(
        deployment, rabbit_clients=tuple(replace(c, url=door(c)) for c in deployment.rabbit_clients)
    )
