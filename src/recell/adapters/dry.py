"""Hosts, brokers, proxies and databases that are read for real and never changed.

What would be changed is recorded and, as far as it goes, shown as done to later reads.
"""

from __future__ import annotations

import fnmatch
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from recell.adapters.bridge_port import BridgeEnd
from recell.adapters.guests_port import GuestsPort
from recell.adapters.hosts_port import HostsPort
from recell.adapters.mover_port import MoverPort
from recell.adapters.ports import (
    BrokerPort,
    ConnectionInfo,
    Consumer,
    ContainerState,
    CutNode,
    FileStat,
    Finished,
    HostPort,
    NovaPort,
    ProcessInfo,
    ProxyPort,
    ProxyServer,
    QueueInfo,
    RabbitNodePort,
    RelayPort,
    SocketInfo,
    UnitState,
    UnitVerb,
    World,
)
from recell.adapters.v1_hold_port import FencePort, GatePort, UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.errors import StalePlan, WouldWait
from recell.model.hosts import HostsMove
from recell.model.moving import Ends, Login
from recell.model.rabbit import NodeView, Policy, QueueHome
from recell.model.relay import Held, RelayState, Side, Switched, Upstream
from recell.model.v1 import Conversion

T = TypeVar("T")


@dataclass
class Record:
    """What would have been changed, in order: (host or other place, what). Thread-safe."""

    changes: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, where: str, what: str) -> None:
        with self._lock:
            self.changes.append((where, what))


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
        if verb in ("start", "restart"):
            state = replace(state, exists=True, active="active", started_at=time.time(),
                            main_pid=state.main_pid or 1)
        elif verb in ("stop", "stop-later", "kill"):
            state = replace(state, active="inactive", started_at=0.0, main_pid=0)
        elif verb in ("enable", "disable"):
            state = replace(state, exists=True, enabled=verb == "enable")
        self._units[unit] = state


class DryBroker:
    """:class:`~recell.adapters.broker_port.BrokerPort` that changes nothing."""

    def __init__(self, real: BrokerPort, record: Record) -> None:
        self.name = real.name
        self._real = real
        self._record = record
        self._vhosts: dict[str, bool] = {}
        self._users: dict[str, str | None] = {}
        self._permissions: dict[tuple[str, str], bool] = {}
        self._spares: dict[tuple[str, str], str] = {}

    def version(self) -> str:
        return self._real.version()

    def running_nodes(self) -> tuple[str, ...]:
        return self._real.running_nodes()

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return self._real.connections()

    def alarms(self) -> tuple[str, ...]:
        return self._real.alarms()

    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        """With the spare queues that would be there by now."""
        found = () if self._made(vhost) else self._real.bindings(vhost)
        kept = tuple(b for b in found if self._spares.get((vhost, b[1])) != "")
        return kept + tuple((e, q) for (v, q), e in self._spares.items() if v == vhost and e)

    def vhosts(self) -> tuple[str, ...]:
        return _overlaid(self._real.vhosts(), self._vhosts)

    def users(self) -> tuple[str, ...]:
        return _overlaid(self._real.users(),
                         {user: password is not None for user, password in self._users.items()})

    def _made(self, vhost: str) -> bool:
        return self._vhosts.get(vhost, False) and vhost not in self._real.vhosts()

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        return () if self._made(vhost) else self._real.queues(vhost)

    def at_hand(self, vhost: str, idle_s: float) -> AbstractContextManager[None]:
        return nullcontext()  # nobody waits for it

    def slow_because(self, vhost: str) -> str:
        return ""

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        return () if self._made(vhost) else self._real.consumers(vhost)

    def password_works(self, user: str, password: str) -> bool:
        if user in self._users:
            return self._users[user] == password
        return self._real.password_works(user, password)

    def permissions(self, vhost: str) -> dict[str, tuple[str, str, str]]:
        found = {} if self._made(vhost) else dict(self._real.permissions(vhost))
        for (of, user), given in self._permissions.items():
            if of == vhost and given:
                found[user] = (".*", ".*", ".*")
            elif of == vhost:
                found.pop(user, None)
        return found

    def bind_spare(self, vhost: str, exchange: str, queue: str) -> None:
        self._record.add(self.name, f"bind the spare queue {queue} to {exchange} in {vhost}")
        self._spares[vhost, queue] = exchange

    def delete_queue(self, vhost: str, queue: str) -> None:
        self._record.add(self.name, f"delete the queue {queue} in {vhost}")
        self._spares[vhost, queue] = ""

    def add_vhost(self, vhost: str) -> None:
        self._record.add(self.name, f"add vhost {vhost}")
        self._vhosts[vhost] = True

    def add_user(self, user: str, password: str) -> None:
        self._record.add(self.name, f"add user {user}")
        self._users[user] = password

    def permit(self, vhost: str, user: str) -> None:
        self._record.add(self.name, f"permit {user} on {vhost}")
        self._permissions[vhost, user] = True

    def delete_vhost(self, vhost: str) -> None:
        self._record.add(self.name, f"delete vhost {vhost}")
        self._vhosts[vhost] = False

    def delete_user(self, user: str) -> None:
        self._record.add(self.name, f"delete user {user}")
        self._users[user] = None

    def revoke(self, vhost: str, user: str) -> None:
        self._record.add(self.name, f"revoke {user} on {vhost}")
        self._permissions[vhost, user] = False


def _overlaid(real: tuple[str, ...], changed: dict[str, bool]) -> tuple[str, ...]:
    kept = [name for name in real if changed.get(name, True)]
    return tuple(kept + [name for name, there in changed.items() if there and name not in kept])


class DryProxy:
    """:class:`~recell.adapters.proxy_port.ProxyPort` that changes nothing."""

    def __init__(self, real: ProxyPort, record: Record) -> None:
        self.host = real.host
        self._real = real
        self._record = record
        self._states: dict[tuple[str, str], str] = {}

    def servers(self) -> tuple[ProxyServer, ...]:
        return tuple(
            replace(s, state=self._states.get((s.backend, s.server), s.state),
                    sessions=0 if (s.backend, s.server) in self._states else s.sessions)
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


class DryRabbit:
    """:class:`~recell.adapters.rabbit_port.RabbitNodePort` that changes nothing."""

    def __init__(self, real: RabbitNodePort, record: Record, joined: set[str]) -> None:
        """``joined``: names of nodes that would be one cluster by now, shared by all of them."""
        self.host = real.host
        self._real = real
        self._record = record
        self._joined = joined
        self._handling = ""

    def view(self) -> NodeView:
        view = self._real.view()
        if {view.name, *view.members} & self._joined:
            self._joined |= set(view.members)
            whole = tuple(sorted(self._joined))
            others = tuple(n for n in whole if n != view.name)
            view = replace(view, members=whole, on_disk=whole, running=whole, linked=others)
        return replace(view, handling=self._handling or view.handling)

    def queues(self) -> tuple[QueueHome, ...]:
        return self._real.queues()

    def policies(self) -> tuple[Policy, ...]:
        return self._real.policies()

    def walled(self) -> str:
        return self._real.walled()

    def cookie(self) -> str:
        return self._real.cookie()

    def kept_cookie(self, plan: str, sha256: str) -> bytes:
        return self._real.kept_cookie(plan, sha256)

    def join(self, peer: str) -> None:
        self._record.add(self.host, f"join the cluster of {peer}")
        self._joined |= {peer, self._real.view().name}

    def start(self) -> None:
        self._record.add(self.host, "start the node's application")

    def leave(self) -> None:
        self._record.add(self.host, "make the node blank")

    def set_handling(self, word: str) -> None:
        self._record.add(self.host, f"set cluster_partition_handling {word}")
        self._handling = word

    def set_policy(self, policy: Policy) -> None:
        self._record.add(self.host, f"set the policy {policy.name} on {policy.pattern}")

    def clear_policy(self, vhost: str, name: str) -> None:
        self._record.add(self.host, f"clear the policy {name}")

    def move_quorum(self, queue: QueueHome, to: Sequence[str]) -> None:
        self._record.add(self.host, f"move {queue.name} to {', '.join(to)}")

    def purge(self, queues: Sequence[QueueHome]) -> None:
        self._record.add(self.host, f"drop records of {len(queues)} queues")

    def forget(self, node: str) -> None:
        self._record.add(self.host, f"forget {node}")

    def keep_cookie(self, plan: str, *, new: bool) -> str:
        self._record.add(self.host, f"keep {'a new' if new else 'the'} Erlang cookie")
        return ""

    def take_cookie(self, plan: str, source: RabbitNodePort, sha256: str) -> None:
        self._record.add(self.host, "take another Erlang cookie")

    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self._record.add(self.host, f"wall off {len(addresses)} addresses: {kind}")

    def unwall(self) -> None:
        self._record.add(self.host, "take the wall down")

    def apart(self, other: str) -> bool:
        return self._real.apart(other)


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
        from recell.adapters.dry_nova import DryNova

        with self._lock:
            if self._nova is None:
                self._nova = DryNova(self._real.nova(), self.record)
            return self._nova

    def mover(self, ends: Ends, ours: Login, nova: Login) -> MoverPort:
        from recell.adapters.dry_mover import DryMover

        with self._lock:
            if ends not in self._movers:
                self._movers[ends] = DryMover(self._real.mover(ends, ours, nova), ends, self.record)
            return self._movers[ends]

    def between(self, move: HostsMove, ours: Login) -> HostsPort:
        from recell.adapters.dry_hosts import DryHosts

        nova = self._real.nova()
        with self._lock:
            if move not in self._moving:
                made = all(m.uuid != move.new.cell for m in nova.mappings())
                self._moving[move] = DryHosts(self._real.between(move, ours), move, self.record, made)
            return self._moving[move]

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        from recell.adapters.dry_v1 import DryV1

        with self._lock:
            if conversion not in self._conversions:
                real = self._real.v1(conversion, ours)
                self._conversions[conversion] = DryV1(real, conversion, self.record)
            return self._conversions[conversion]

    def gate(self, host: str, backend: str) -> GatePort:
        from recell.adapters.dry_v1_hold import DryGate

        with self._lock:
            if (host, backend) not in self._gates:
                self._gates[host, backend] = DryGate(self._real.gate(host, backend), self.record)
            return self._gates[host, backend]

    def fence(self, host: str) -> FencePort:
        from recell.adapters.dry_v1_hold import DryFence

        with self._lock:
            if host not in self._fences:
                self._fences[host] = DryFence(self._real.fence(host), self.record)
            return self._fences[host]

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        return self._real.under_way(host, config, broker, vhost)  # it only reads

    def stop_rpc_server(
        self, host: str, unit: str, broker: str, vhost: str, limit: float,
        idle: Callable[[], str] | None = None, *, lost: bool = False,
    ) -> float:
        self.record.add(host, f"end {unit} without losing what is sent to it")
        self.host(host).show(unit, "kill")
        return 0.0

    def guests(self, cloud: str) -> GuestsPort:
        from recell.adapters.dry_guests import DryGuests

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
        from recell.adapters.dry_bridge import DryBridgeEnd

        return DryBridgeEnd(self._real.bridge_end(hosts), self.record)

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
