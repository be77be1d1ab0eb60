"""Hosts, brokers, proxies and databases that are read for real and never changed.

What would be changed is recorded and, as far as it goes, shown as done to later reads.
"""

from __future__ import annotations

import fnmatch
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from recell.adapters.bridge_port import BridgeEnd
from recell.adapters.dry_bridge import DryBridgeEnd, DryFerry
from recell.adapters.dry_broker import DryBroker
from recell.adapters.dry_guests import DryGuests
from recell.adapters.dry_hosts import DryHosts
from recell.adapters.dry_mover import DryMover
from recell.adapters.dry_nova import DryNova
from recell.adapters.dry_rabbit import DryRabbit
from recell.adapters.dry_record import Record
from recell.adapters.dry_room import DryRoom
from recell.adapters.dry_v1 import DryV1
from recell.adapters.dry_v1_hold import DryEar, DryFence, DryGate
from recell.adapters.guests_port import GuestsPort
from recell.adapters.hosts_port import HostsPort
from recell.adapters.mover_port import MoverPort
from recell.adapters.ports import (
    BrokerPort,
    ContainerState,
    CutNode,
    FileStat,
    Finished,
    HostPort,
    NovaPort,
    ProcessInfo,
    ProxyPort,
    ProxyServer,
    RelayPort,
    SocketInfo,
    UnitState,
    UnitVerb,
    World,
)
from recell.adapters.v1_hold_port import EarPort, FencePort, GatePort, UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.errors import StalePlan, WouldWait
from recell.model.hosts import HostsMove
from recell.model.moving import Ends, Login
from recell.model.relay import Held, RelayState, Side, Switched, Upstream
from recell.model.v1 import Conversion
from recell.planning.bridge import Shores

T = TypeVar("T")


@dataclass(frozen=True)
class _File:
    content: bytes | None
    stat: FileStat | None


class DryHost:
    """:class:`~recell.adapters.host_port.HostPort` that reads through another and writes nothing."""

    def __init__(self, real: HostPort, record: Record) -> None:
        self.name = real.name
        self._real = real
        self._record = record
        self._files: dict[str, _File] = {}
        self._units: dict[str, UnitState] = {}
        self._kept: dict[tuple[str, str], bytes] = {}
        self._containers: dict[tuple[str, str], ContainerState | None] = {}

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60,
        user: str | None = None,
    ) -> Finished:
        return self._real.query(argv, stdin=stdin, timeout=timeout, user=user)

    def read(self, path: str) -> bytes | None:
        return self._files[path].content if path in self._files else self._real.read(path)

    def stat(self, path: str) -> FileStat | None:
        return self._files[path].stat if path in self._files else self._real.stat(path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        found = {p for p in self._real.glob(pattern)
                 if p not in self._files or self._files[p].content is not None}
        found |= {p for p, file in self._files.items()
                  if file.content is not None and fnmatch.fnmatchcase(p, pattern)}
        return tuple(sorted(found))

    def unit(self, name: str) -> UnitState:
        return self._units[name] if name in self._units else self._real.unit(name)

    def units(self) -> tuple[str, ...]:
        return tuple(sorted({*self._real.units(), *self._units}))

    def processes(self) -> tuple[ProcessInfo, ...]:
        return self._real.processes()

    def sockets(self, pids: Sequence[int]) -> tuple[SocketInfo, ...]:
        return self._real.sockets(pids)

    def container(self, engine: str, name: str) -> ContainerState | None:
        key = (engine, name)
        return self._containers[key] if key in self._containers else self._real.container(engine, name)

    def http_status(self, url: str, timeout: float = 30) -> int:
        return self._real.http_status(url, timeout)

    def first_requests(self, url: str, configs: Sequence[str], limit_s: float) -> str:
        return ""

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60,
        user: str | None = None,
    ) -> Finished:
        self._record.add(self.name, f"run {' '.join(argv)}")
        return Finished(0, b"", b"")

    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None,
    ) -> None:
        self._expect(path, expect)
        self._record.add(self.name, f"{'create' if expect is None else 'replace'} {path}")
        sha256 = hashlib.sha256(content).hexdigest()
        stat = FileStat(sha256, mode, owner, group, len(content), time.time())
        self._files[path] = _File(content, stat)

    def remove(self, path: str, *, expect: str) -> None:
        self._expect(path, expect)
        self._record.add(self.name, f"remove {path}")
        self._files[path] = _File(None, None)

    def _expect(self, path: str, expect: str | None) -> None:
        stat = self.stat(path)
        if (stat.sha256 if stat else None) != expect:
            raise StalePlan(f"{path} on {self.name} is not what the plan was made for",
                            "Make the plan again: recell scan, recell plan")

    def keep(self, plan: str, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self._record.add(self.name, f"keep {len(content)} bytes for {plan}")
        self._kept[plan, sha256] = content
        return sha256

    def kept(self, plan: str, sha256: str) -> bytes:
        kept = self._kept.get((plan, sha256))
        return self._real.kept(plan, sha256) if kept is None else kept

    def forget(self, plan: str) -> None:
        self._record.add(self.name, f"forget what was kept for {plan}")

    def systemctl(self, verb: UnitVerb, unit: str = "", *, timeout: float = 180) -> None:
        self._record.add(self.name, f"systemctl {verb} {unit}".rstrip())
        self.show(unit, verb)

    def clone_container(self, engine: str, model: str, name: str, directory: str, made_for: str) -> None:
        self._record.add(self.name, f"{engine} create {name}, like {model}")
        self._containers[engine, name] = ContainerState("", False, made_for)

    def remove_container(self, engine: str, name: str, made_for: str) -> None:
        self._record.add(self.name, f"{engine} rm {name}")
        self._containers[engine, name] = None

    def show(self, unit: str, verb: UnitVerb) -> None:
        """Let later reads see the unit as after this verb."""
        if verb == "daemon-reload":
            self._units = {n: replace(u, needs_reload=False) for n, u in self._units.items()}
        if not unit:
            return
        state = self.unit(unit)
        if verb in ("start", "start-later", "restart"):
            state = replace(state, exists=True, active="active", started_at=time.time(),
                            main_pid=state.main_pid or 1)
        elif verb in ("stop", "stop-later", "kill"):
            state = replace(state, active="inactive", started_at=0.0, main_pid=0)
        elif verb in ("enable", "disable"):
            state = replace(state, exists=True, enabled=verb == "enable")
        self._units[unit] = state


class DryProxy:
    """:class:`~recell.adapters.proxy_port.ProxyPort` that changes nothing."""

    def __init__(self, real: ProxyPort, record: Record) -> None:
        self.host = real.host
        self._real = real
        self._record = record
        self._states: dict[tuple[str, str], str] = {}

    def servers(self) -> tuple[ProxyServer, ...]:
        return tuple(
            replace(s, state=told, sessions=0, draining=told == "DRAIN")
            if (told := self._states.get((s.backend, s.server)))
            else s
            for s in self._real.servers()
        )

    def errors(self) -> dict[str, int]:
        return self._real.errors()

    def set_state(
        self, backend: str, server: str, state: Literal["ready", "drain", "maint"],
    ) -> None:
        self._record.add(self.host, f"set server {backend}/{server} state {state}")
        self._states[backend, server] = {"ready": "UP", "drain": "DRAIN", "maint": "MAINT"}[state]


class DryRelay:
    """:class:`~recell.adapters.relay_port.RelayPort` that holds nobody and puts nothing on a host."""

    def __init__(self, real: RelayPort, record: Record) -> None:
        self.host = real.host
        self._real = real
        self._record = record
        self._state: RelayState | None = None
        self._removed = False

    def install(
        self, listen: Upstream, upstreams: Mapping[Side, Upstream], accounts: Mapping[str, str],
        side: Side = "old",
    ) -> None:
        if self.state() is None:
            self._record.add(self.host, f"put a relay on port {listen[1]}")
            self._state, self._removed = RelayState(side, listen, dict(upstreams)), False

    def remove(self) -> None:
        if self.state() is not None:
            self._record.add(self.host, "remove the relay")
            self._state, self._removed = None, True

    def state(self) -> RelayState | None:
        """As it would be; of a relay that is there already, its own with what would have changed."""
        if self._state is None and not self._removed:
            return self._real.state()
        return self._state

    def try_logins(self) -> tuple[str, ...]:
        return self._real.try_logins() if self._real.state() is not None else ()

    def hold(self, limit_s: float, lease_s: float) -> Held:
        self._record.add(self.host, "hold the relay's connections")
        state = self.state()
        return Held(state.connections if state else 0, 0.0, stateful=state.stateful if state else ())

    def renew(self) -> None:
        return None

    def switch(self, side: Side) -> Switched:
        state = self.state()
        if state is None or state.side == side:
            return Switched(0, 0)
        self._record.add(self.host, f"switch the relay to its {side} side")
        self._state = replace(state, side=side)
        return Switched(state.connections - len(state.stateful), len(state.stateful),
                        tuple(str(client) for client in state.stateful))

    def release(self) -> None:
        self._record.add(self.host, "let the relay's connections go on")


class DryWorld:
    """:class:`~recell.adapters.ports.World` in which nothing is changed; see :attr:`record`."""

    def __init__(self, real: World) -> None:
        self.record = Record()
        self._real = real
        self._lock = threading.Lock()
        self._hosts: dict[str, DryHost] = {}
        self._brokers: dict[str, DryBroker] = {}
        self._proxies: dict[str, DryProxy] = {}
        self._movers: dict[Ends, MoverPort] = {}
        self._guests: dict[str, GuestsPort] = {}
        self._moving: dict[HostsMove, HostsPort] = {}
        self._conversions: dict[Conversion, V1Port] = {}
        self._relays: dict[tuple[str, str], DryRelay] = {}
        self._gates: dict[tuple[str, str], GatePort] = {}
        self._fences: dict[str, FencePort] = {}
        self._ears: dict[Conversion, EarPort] = {}
        self._nova: NovaPort | None = None
        self._rabbits: dict[str, DryRabbit] = {}
        self._joined: set[str] = set()

    def host(self, name: str) -> DryHost:
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = DryHost(self._real.host(name), self.record)
            return self._hosts[name]

    def broker(self, name: str) -> BrokerPort:
        with self._lock:
            if name not in self._brokers:
                self._brokers[name] = DryBroker(self._real.broker(name), self.record)
            return self._brokers[name]

    def proxy(self, host: str) -> ProxyPort:
        with self._lock:
            if host not in self._proxies:
                self._proxies[host] = DryProxy(self._real.proxy(host), self.record)
            return self._proxies[host]

    def relay(self, host: str, name: str) -> RelayPort:
        with self._lock:
            if (host, name) not in self._relays:
                self._relays[host, name] = DryRelay(self._real.relay(host, name), self.record)
            return self._relays[host, name]

    def nova(self) -> NovaPort:
        with self._lock:
            if self._nova is None:
                self._nova = DryNova(self._real.nova(), self.record)
            return self._nova

    def mover(self, ends: Ends, ours: Login, nova: Login) -> MoverPort:
        with self._lock:
            if ends not in self._movers:
                self._movers[ends] = DryMover(self._real.mover(ends, ours, nova), ends, self.record)
            return self._movers[ends]

    def between(self, move: HostsMove, ours: Login) -> HostsPort:
        nova = self._real.nova()
        with self._lock:
            if move not in self._moving:
                made = all(m.uuid != move.new.cell for m in nova.mappings())
                self._moving[move] = DryHosts(self._real.between(move, ours), move, self.record, made)
            return self._moving[move]

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        with self._lock:
            if conversion not in self._conversions:
                real = self._real.v1(conversion, ours)
                self._conversions[conversion] = DryV1(real, conversion, self.record)
            return self._conversions[conversion]

    def gate(self, host: str, backend: str) -> GatePort:
        with self._lock:
            if (host, backend) not in self._gates:
                self._gates[host, backend] = DryGate(self._real.gate(host, backend), self.record)
            return self._gates[host, backend]

    def fence(self, host: str) -> FencePort:
        with self._lock:
            if host not in self._fences:
                self._fences[host] = DryFence(self._real.fence(host), self.record)
            return self._fences[host]

    def ear(self, conversion: Conversion) -> EarPort:
        with self._lock:
            if conversion not in self._ears:
                name = conversion.new.broker
                self._ears[conversion] = DryEar(self._real.ear(conversion), name, self.record)
            return self._ears[conversion]

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        return self._real.under_way(host, config, broker, vhost)  # it only reads

    def stop_rpc_server(
        self, host: str, unit: str, broker: str, vhost: str, limit: float,
        idle: Callable[[], str] | None = None, *, lost: bool = False,
    ) -> float:
        self.record.add(host, f"end {unit} without losing what is sent to it")
        self.host(host).show(unit, "kill")
        return 0.0

    def waiting_room(self, host: str, unit: str, queues: Sequence[str]) -> DryRoom:
        return DryRoom(self._real.waiting_room(host, unit, queues), host, queues, self.record)

    def guests(self, cloud: str) -> GuestsPort:
        with self._lock:
            if cloud not in self._guests:
                self._guests[cloud] = DryGuests(self._real.guests(cloud), self.record)
            return self._guests[cloud]

    def rabbit(self, host: str) -> DryRabbit:
        with self._lock:
            if host not in self._rabbits:
                real = self._real.rabbit(host)
                self._rabbits[host] = DryRabbit(real, self.record, self._joined)
            return self._rabbits[host]

    def bridge_end(self, hosts: Sequence[str]) -> BridgeEnd:
        return DryBridgeEnd(self._real.bridge_end(hosts), self.record)

    def ferry(self, shores: Shores, password: str) -> DryFerry:
        return DryFerry()

    def cut_rabbit(self, nodes: Sequence[CutNode], ports: Sequence[int], within: float) -> float:
        for one in nodes:
            self.record.add(one.host, f"cut off {', '.join(one.opposite)}")
        raise WouldWait("what follows a cut is seen only after it")

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        return [act() for act in acts]

    def wait(self, seconds: float) -> None:
        """:raises WouldWait: nothing was set in motion that could be waited for."""
        raise WouldWait("a dry run waits for nothing")

    def clock(self) -> float:
        return self._real.clock()
