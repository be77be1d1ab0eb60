"""Everything that exists outside, built from a deployment; secrets are read when needed."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from recell.adapters import cutting
from recell.adapters.amqp import Amqp
from recell.adapters.bridge_end import RabbitEnd
from recell.adapters.broker import RABBIT_UNIT, RabbitCluster
from recell.adapters.conf import Config, database_url_of, parse_config, transport_url_of
from recell.adapters.containers import Inside
from recell.adapters.ferry import RabbitFerry, ashore
from recell.adapters.gate import Gate
from recell.adapters.guests_port import GuestsPort
from recell.adapters.hosts_port import HostsPort
from recell.adapters.mover_port import MoverPort
from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.nova_db import Database, NovaDatabases
from recell.adapters.ports import CutNode, HostPort
from recell.adapters.proxy import HaproxySocket
from recell.adapters.rabbit_node import RabbitNode
from recell.adapters.rabbit_tls import rabbit_tls
from recell.adapters.relay import Relay
from recell.adapters.rpc import stop_plainly, stop_rpc_server
from recell.adapters.ssh import Fence, SshHost
from recell.adapters.together import together
from recell.adapters.v1_ear import Ear
from recell.adapters.v1_fence import Fence as DoorFence
from recell.adapters.v1_port import V1Port
from recell.adapters.v1_work import UnderWay
from recell.adapters.waiting_room import RabbitRoom
from recell.errors import BadInput, RecellError, StalePlan, Unreachable, Unsupported
from recell.model.deployment import Deployment, NovaService
from recell.model.hosts import CellEnd, HostsMove
from recell.model.moving import Ends, Login
from recell.model.relay import Side
from recell.model.urls import Url, parse_url
from recell.model.v1 import Conversion
from recell.planning.bridge import Shores
from recell.planning.draft import CELL0

T = TypeVar("T")
EAR_S = 5.0
"""Users may be waiting for the broker's answer."""


@dataclass(frozen=True)
class Secrets:
    """The URLs of one Nova service, with their passwords. Never printed, logged or stored."""

    transport_url: str = field(repr=False)
    notification_url: str = field(repr=False)
    database: str = field(repr=False)
    api_database: str = field(repr=False)


def service_config(host: HostPort, service: NovaService) -> Config:
    """A service's configuration as it stands on its host now.

    :raises StalePlan: one of its files is gone.
    """
    files = []
    for path in service.config_files:
        content = host.read(path)
        if content is None:
            raise StalePlan(f"{path} is no longer on {service.host}",
                            "Make the plan again: recell scan, recell plan")
        files.append((f"{path} on {service.host}", content))
    environment = dict(word.partition("=")[::2] for word in host.unit(service.unit).environment)
    return parse_config(files, environment)


def service_secrets(host: HostPort, service: NovaService) -> Secrets:
    """Where a service connects to, read from its configuration now."""
    return secrets_of(service_config(host, service))


def secrets_of(config: Config) -> Secrets:
    return Secrets(
        transport_url=transport_url_of(config),
        notification_url=config.get("oslo_messaging_notifications", "transport_url"),
        database=database_url_of(config),
        api_database=config.get("api_database", "connection"),
    )


def _first(
    via: SshHost, url: Url, tls: ssl.SSLContext | None, broker: str, silent: Unreachable, heartbeat_s: int = 0
) -> Amqp:
    """The first node of a URL that answers, seen from a host. :raises Unreachable: ``silent``, of no node."""
    for node in url.endpoints:
        door = via.forward(node.host, node.port or (5671 if tls else 5672))
        where = f"{broker} ({node.host})"
        try:
            return Amqp(door, node.user, node.password, url.vhost, where, tls=tls, heartbeat_s=heartbeat_s)
        except Unreachable as error:
            silent = error
    raise silent


MakeMover = Callable[[Mapping[Side, SshHost], Ends, Login, Login, Callable[[], None]], MoverPort]
"""(hosts, ends, recell's account, Nova's, permit): the mover stands above this layer."""
MakeHosts = Callable[
    [Mapping[Side, SshHost], HostsMove, Login, Login, Callable[[Side], Amqp], Callable[[], None]], HostsPort
]
"""(hosts of the database servers, move, recell's account, Nova's, a way to each broker, permit)."""
MakeGuests = Callable[[str], GuestsPort]
"""A cloud's name in clouds.yaml."""
MakeV1 = Callable[
    [Mapping[Side, SshHost], Conversion, Login, Login, Callable[[Side], Amqp], Callable[[], None],
     Callable[[], Endpoint]], V1Port
]
"""The same for a conversion to cells v1."""


class RealWorld:
    """:class:`~recell.adapters.ports.World`. Thread-safe; connects to what is asked for.

    :param make_mover: for plans that move a database. make_hosts: for those that move hosts; make_guests:
        for a guest that goes along with the first one. make_v1: for those that convert to cells v1.
    """

    def __init__(
        self, deployment: Deployment, make_mover: MakeMover | None = None,
        make_hosts: MakeHosts | None = None, make_guests: MakeGuests | None = None,
        make_v1: MakeV1 | None = None,
    ) -> None:
        self.deployment = deployment
        self._make_mover = make_mover
        self._make_hosts = make_hosts
        self._make_guests = make_guests
        self._make_v1 = make_v1
        self._v1: dict[tuple[Conversion, str], V1Port] = {}
        self._between: dict[tuple[HostsMove, str], HostsPort] = {}
        self._movers: dict[tuple[Ends, str], MoverPort] = {}
        self._lock = threading.RLock()
        self._hosts: dict[str, SshHost] = {}
        self._brokers: dict[str, RabbitCluster] = {}
        self._proxies: dict[str, HaproxySocket] = {}
        self._relays: dict[tuple[str, str], Relay] = {}
        self._gates: dict[tuple[str, str], Gate] = {}
        self._fences: dict[str, DoorFence] = {}
        self._ears: dict[Conversion, Ear] = {}
        self._under_way: dict[tuple[str, str, str, str], UnderWay] = {}
        self._ferries: dict[Shores, RabbitFerry] = {}
        self._read: list[Database] = []
        self._nova: NovaDatabases | None = None
        self._nova_of: NovaService | None = None
        self._fence: Fence | None = None
        self._claimed: tuple[str, ...] = ()

    def host(self, name: str) -> SshHost:
        with self._lock:
            if name not in self._hosts:
                address = self.deployment.host(name).address
                self._hosts[name] = SshHost(name, address, self._fence)
            return self._hosts[name]

    def broker(self, name: str) -> RabbitCluster:
        """A cluster that the scan found, or the one that runs on the host of this name."""
        with self._lock:
            if name not in self._brokers:
                known = next((b for b in self.deployment.brokers if b.name == name), None)
                hosts = known.hosts if known else (name,)
                self._brokers[name] = RabbitCluster(name, [Inside(self.host(h), RABBIT_UNIT) for h in hosts])
            return self._brokers[name]

    def proxy(self, host: str) -> HaproxySocket:
        with self._lock:
            if host not in self._proxies:
                self._proxies[host] = HaproxySocket(self.host(host))
            return self._proxies[host]

    def relay(self, host: str, name: str) -> Relay:
        with self._lock:
            if (host, name) not in self._relays:
                self._relays[host, name] = Relay(self.host(host), name, wait=self.wait)
            return self._relays[host, name]

    def nova(self) -> NovaDatabases:
        """From the first controller whose API service can be read; its URLs fill the templates."""
        with self._lock:
            if self._nova is None:
                self._nova = self._open_nova()
            return self._nova

    def mover(self, ends: Ends, ours: Login, nova: Login) -> MoverPort:
        if self._make_mover is None:
            raise Unsupported("this command moves no rows", "Use recell apply, resume or undo")
        with self._lock:
            key = (ends, ours.user)
            if key not in self._movers:
                hosts: dict[Side, SshHost] = {
                    "old": self.host(ends.old.host), "new": self.host(ends.new.host),
                }
                self._movers[key] = self._make_mover(hosts, ends, ours, nova, self._permit)
            return self._movers[key]

    def between(self, move: HostsMove, ours: Login) -> HostsPort:
        if self._make_hosts is None:
            raise Unsupported("this command moves no hosts", "Use recell apply, resume or undo")
        with self._lock:
            key = (move, ours.user)
            if key not in self._between:
                servers: dict[Side, SshHost] = {
                    "old": self.host(move.old.server), "new": self.host(move.new.server),
                }
                account = parse_url(self._mapping_urls(move.old.cell)[1]).endpoints[0]
                nova = Login(account.user, account.password)
                self._between[key] = self._make_hosts(
                    servers, move, ours, nova, lambda side: self._amqp(move.at(side)), self._permit)
            return self._between[key]

    def guests(self, cloud: str) -> GuestsPort:
        if self._make_guests is None:
            raise Unsupported("this command boots no guest", "Use recell apply, resume or undo")
        return self._make_guests(cloud)

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        if self._make_v1 is None:
            raise Unsupported("this command converts nothing to cells v1", "Use recell apply, resume or undo")
        with self._lock:
            key = (conversion, ours.user)
            if key not in self._v1:
                servers: dict[Side, SshHost] = {
                    "old": self.host(conversion.old.server), "new": self.host(conversion.new.server),
                }
                secrets = self._secrets_in(*conversion.config)
                account = parse_url(secrets.database).endpoints[0]
                talks = parse_url(secrets.transport_url).endpoints[0]
                self._v1[key] = self._make_v1(
                    servers, conversion, ours, Login(account.user, account.password),
                    lambda side: self._cells_amqp(conversion, side, talks.user, talks.password),
                    self._permit, lambda: self._cell0(conversion))
            return self._v1[key]

    def _cell0(self, conversion: Conversion) -> Endpoint:
        """As nova-api on the controller enters it."""
        if conversion.cell0_at is None:
            raise StalePlan("cell0 has no server of its own", "Make the plan again: recell scan, recell plan")
        host, port = conversion.cell0_at
        account = parse_url(self._mapping_urls(CELL0)[1]).endpoints[0]
        door = self.host(conversion.config[0]).forward(host, port)
        return Endpoint(host, account.user, account.password, conversion.cell0, port, unix_socket=str(door),
                        forwarded=True)

    def gate(self, host: str, backend: str) -> Gate:
        with self._lock:
            if (host, backend) not in self._gates:
                self._gates[host, backend] = Gate(self.host(host), self.proxy(host), backend, self.wait)
            return self._gates[host, backend]

    def fence(self, host: str) -> DoorFence:
        with self._lock:
            if host not in self._fences:
                self._fences[host] = DoorFence(self.host(host))
            return self._fences[host]

    def ear(self, conversion: Conversion) -> Ear:
        with self._lock:
            if conversion not in self._ears:
                config = self._config_at(*conversion.config)
                account = parse_url(secrets_of(config).transport_url).endpoints[0]
                self._ears[conversion] = Ear(
                    lambda: self.broker(conversion.new.broker), conversion.new.vhost,
                    config.get("cells", "rpc_driver_queue_base"),
                    lambda: self._cells_amqp(conversion, "new", account.user, account.password, EAR_S),
                    self._permit)
            return self._ears[conversion]

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWay:
        with self._lock:
            key = (host, config, broker, vhost)
            if key not in self._under_way:
                via, secrets = self.host(host), self._secrets_in(host, config)
                urls = [secrets.database, *([secrets.api_database] if secrets.api_database else [])]
                child, *api = [Database(via, parse_url(url)) for url in urls]
                self._read += [child, *api]
                self._under_way[key] = UnderWay(
                    child, api[0] if api else None, lambda: self.broker(broker), vhost)
            return self._under_way[key]

    def _secrets_in(self, host: str, path: str) -> Secrets:
        return secrets_of(self._config_at(host, path))

    def _config_at(self, host: str, path: str) -> Config:
        content = self.host(host).read(path)
        if content is None:
            raise StalePlan(f"{path} is no longer on {host}", "Make the plan again: recell scan, recell plan")
        return parse_config([(f"{path} on {host}", content)])

    def _cells_amqp(
        self, conversion: Conversion, side: Side, user: str, password: str, timeout: float = 30
    ) -> Amqp:
        end, via = conversion.at(side), self.host(conversion.at(side).broker_node)
        silent: Unreachable | None = None
        for host, port in conversion.nodes(side):
            try:
                door, where = via.forward(host, port), f"{end.broker} ({host})"
                return Amqp(door, user, password, end.vhost, where, timeout)
            except Unreachable as error:
                silent = error
        raise silent or Unreachable(f"the broker {end.broker} has no node", "See the layout")

    def _mapping_urls(self, cell: str) -> tuple[str, str]:
        """Both URLs of a cell, with their passwords."""
        nova = self.nova()
        for mapping in nova.mappings():
            if mapping.uuid == cell:
                return nova.resolved(mapping)
        raise StalePlan(f"there is no cell mapping {cell}", "See nova-manage cell_v2 list_cells")

    def _amqp(self, end: CellEnd) -> Amqp:
        """As nova-api connects: the first node of the cell's URL that answers, with TLS where it has that."""
        url = parse_url(self._mapping_urls(end.cell)[0])
        silent = Unreachable(f"the URL of {end.name}'s broker names no host", "Correct its mapping")
        return _first(self.host(end.broker_node), url, self._rabbit_tls(url.query), end.broker, silent)

    def waiting_room(self, host: str, unit: str, queues: Sequence[str]) -> RabbitRoom:
        return RabbitRoom(lambda heartbeat_s: self._own_amqp(host, unit, heartbeat_s), queues)

    def _own_amqp(self, host: str, unit: str, heartbeat_s: int) -> Amqp:
        """As this service connects."""
        via, where = self.host(host), f"{unit} on {host}"
        config = service_config(via, self._service(host, unit))
        silent = Unreachable(f"the transport_url of {where} names no host", "Correct its configuration")
        text = transport_url_of(config)
        if not text:
            raise silent
        url = parse_url(text)
        tls = rabbit_tls(config, url.query, via.read, where)
        return _first(via, url, tls, f"of {where}", silent, heartbeat_s)

    def _rabbit_tls(self, query: str) -> ssl.SSLContext | None:
        service = self._nova_of
        if service is None:
            return None
        host = self.host(service.host)
        config, where = service_config(host, service), f"{service.unit} on {service.host}"
        return rabbit_tls(config, query, host.read, where)

    def _open_nova(self) -> NovaDatabases:
        """Where there is no API database, or none that knows a cell, Nova's only one answers for it."""
        trouble: RecellError | None = None
        # In cells v1 what belongs to no cell is another Nova, with an API database of its own.
        tree = {m for c in self.deployment.cells for m in c.members}
        services = [s for s in self.deployment.services if not tree or (s.host, s.unit) in tree]
        shared = self.deployment.generation != "none" and any(s.api_database for s in services)
        for role in ("api", "conductor", "scheduler"):
            for service in services:
                if service.role != role or not (service.api_database if shared else service.database):
                    continue
                host = self.host(service.host)
                try:
                    secrets = service_secrets(host, service)
                    first = secrets.api_database if shared else secrets.database
                    if not first:
                        continue
                    nova = NovaDatabases(host, first, secrets.transport_url,
                                         secrets.database, self._permit)
                    nova.now()
                except RecellError as error:
                    trouble = error
                    continue
                self._nova_of = service
                return nova
        raise trouble or Unsupported("no Nova service of this deployment has an API database",
                                     "Scan with the controllers in the inventory")

    def secrets(self, host: str, unit: str) -> Secrets:
        """The URLs of a unit's service, with passwords, as configured now."""
        return service_secrets(self.host(host), self._service(host, unit))

    def _service(self, host: str, unit: str) -> NovaService:
        for service in self.deployment.services:
            if (service.host, service.unit) == (host, unit):
                return service
        raise BadInput(f"{unit} on {host} is no Nova service of this deployment",
                       "Make the plan again: recell scan, recell plan")

    def stop_rpc_server(
        self, host: str, unit: str, broker: str, vhost: str, limit: float,
        idle: Callable[[], str] | None = None, *, lost: bool = False,
    ) -> float:
        if lost:
            stop_plainly(self.host(host), unit, wait=self.wait, clock=self.clock)
            return 0.0
        return stop_rpc_server(self.host(host), unit, self.broker(broker), vhost, limit,
                               wait=self.wait, clock=self.clock, idle=idle)

    def rabbit(self, host: str) -> RabbitNode:
        return RabbitNode(self.host(host))

    def bridge_end(self, hosts: Sequence[str]) -> RabbitEnd:
        return RabbitEnd([self.host(name) for name in hosts])

    def ferry(self, shores: Shores, password: str) -> RabbitFerry:
        with self._lock:
            if shores not in self._ferries:
                connect = ashore(self.host, shores, password)
                self._ferries[shores] = RabbitFerry(connect, shores.vhosts, self._permit)
            return self._ferries[shores]

    def cut_rabbit(self, nodes: Sequence[CutNode], ports: Sequence[int], within: float) -> float:
        pairs = [(self.rabbit(one.host), one) for one in nodes]
        return cutting.cut(pairs, ports, within, wait=self.wait, clock=self.clock)

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        return together(acts)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def clock(self) -> float:
        return time.time()

    def claim(self, fence: Fence, *hosts: str) -> None:
        """Make this run the only one that may change these hosts, or all; idempotent.

        :raises Locked: one of them belongs to another journal or to a newer run of this one. Those
            already claimed stay claimed: :meth:`release` gives them back.
        """
        names = hosts or tuple(h.name for h in self.deployment.hosts)
        with self._lock:
            self._fence = fence
        self._each(names, lambda host: host.claim(fence))
        with self._lock:
            self._claimed = names

    def release(self, *hosts: str) -> None:
        """Give the hosts back; one that was never claimed is left alone."""
        names = hosts or tuple(h.name for h in self.deployment.hosts)
        self._each(names, lambda host: host.release())
        with self._lock:
            self._claimed = tuple(n for n in self._claimed if n not in names)
            if not hosts:
                self._fence = None

    def _permit(self) -> None:
        """Ask a claimed host whether it is still ours: what it refuses, the databases shall not get.

        :raises Locked: another machine took the journal over.
        """
        with self._lock:
            claimed = self._claimed
        silent: Unreachable | None = None
        for name in claimed:
            try:
                self.host(name).run(["true"])
                return
            except Unreachable as error:
                silent = error  # any of them can tell
        if silent is not None:
            raise silent

    def _each(self, names: tuple[str, ...], act: Callable[[SshHost], None]) -> None:
        """On all at once; the first error, in the order of names, after all have ended."""
        if not names:
            return
        hosts = [self.host(name) for name in names]
        with ThreadPoolExecutor(min(32, len(hosts))) as pool:
            for done in [pool.submit(act, host) for host in hosts]:
                done.result()

    def close(self) -> None:
        with self._lock:
            ferries = list(self._ferries.values())
            self._ferries.clear()
        for ferry in ferries:
            ferry.close()
        with self._lock:
            movers: list[MoverPort | HostsPort | V1Port] = [
                *self._movers.values(), *self._between.values(), *self._v1.values()]
            self._movers.clear()
            self._between.clear()
            self._v1.clear()
            read, self._read = self._read, []
            self._under_way.clear()
            self._gates.clear()
            self._fences.clear()
            self._ears.clear()
        for mover in movers:
            mover.close()
        for database in read:
            database.close()
        with self._lock:
            if self._nova is not None:
                self._nova.close()
                self._nova = None
            hosts = list(self._hosts.values())
            self._hosts.clear()
            self._brokers.clear()
            self._proxies.clear()
            self._relays.clear()
        if hosts:
            with ThreadPoolExecutor(min(32, len(hosts))) as pool:
                list(pool.map(lambda host: host.close(), hosts))
