"""A whole deployment in memory: hosts, units, brokers, HAProxy, databases, users and time.

It knows what happens when a unit starts (it reads its files then, not later), which broker it takes
from, and what users would notice at every moment; and it can kill recell before or after any change.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from recell.adapters.bridge_port import BridgeEnd, Ferry
from recell.adapters.guests_port import GuestsPort
from recell.adapters.hosts_port import HostsPort
from recell.adapters.ports import (
    ConnectionInfo,
    Consumer,
    ContainerState,
    CutNode,
    FileStat,
    Finished,
    ProcessInfo,
    QueueInfo,
    RabbitNodePort,
    SocketInfo,
    UnitState,
)
from recell.adapters.v1_hold_port import EarPort, FencePort, GatePort, UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.adapters.waiting_room_port import WaitingRoom
from recell.errors import StalePlan, Unreachable
from recell.model.hosts import HostsMove
from recell.model.moving import Ends, Login
from recell.model.urls import parse_url
from recell.model.v1 import Conversion
from recell.planning.bridge import Shores
from recell.planning.ini import get
from recell.planning.templates import resolve_template
from tests.sim.database import CELL0 as CELL0
from tests.sim.database import CELL1 as CELL1
from tests.sim.database import SimNova
from tests.sim.moving import SimDatabases, SimMover, SimRelay
from tests.sim.proxy import API_START_S as API_START_S
from tests.sim.proxy import SimProxy as SimProxy
from tests.sim.room import SimRoom

T = TypeVar("T")

START_S = 2.0


class Killed(BaseException):
    """recell's process is gone; not an Exception, as SIGKILL is none."""


# Asked over and over, of the same few: a simulated way is gone thousands of times.
@cache
def host_of(url: str) -> str:
    """The first host of a broker's URL."""
    return parse_url(url).hosts[0]


@cache
def _role(argv: tuple[str, ...]) -> str:
    for word in argv:
        for role in ("scheduler", "conductor", "consoleauth", "cells", "novncproxy", "compute", "api"):
            if word.endswith(f"nova-{role}"):
                return role
    return ""


@cache
def _argv(line: str) -> tuple[str, ...]:
    return tuple(shlex.split(line))


@dataclass
class SimFile:
    content: bytes
    mode: int
    owner: str
    group: str
    mtime: float


@dataclass
class SimUnit:
    name: str
    active: bool = False
    enabled: bool = False
    pid: int = 0
    started_at: float = 0.0
    loaded: tuple[str, ...] = ()  # argv that systemd knows
    config: dict[str, str] = field(default_factory=dict)  # what the process read when it began
    paused: bool = False

    @property
    def role(self) -> str:
        return _role(self.loaded)


@dataclass
class Task:
    """A boot: taken by a conductor of its broker at once, needing a scheduler there later."""

    broker: str
    born: float
    scheduled: bool = False


class SimWorld:
    """Everything; also the World that steps see."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.hosts: dict[str, SimHost] = {}
        self.brokers: dict[str, SimBroker] = {}
        self.proxies: dict[str, SimProxy] = {}
        self.database = SimNova(self)
        self.broker_of_host: dict[str, str] = {}
        self.tasks: list[Task] = []
        self.complaints: list[str] = []
        self.points = 0
        self.kill_at = -1
        self.killed = False
        self.databases = SimDatabases(self)
        self.changes: list[str] = []
        self.dead: set[str] = set()  # brokers that never answer again
        self.api_errors = 0
        self.slow: dict[str, float] = {}  # host -> so much longer its nova-compute takes to start
        self.rooms: set[str] = set()  # hosts to whose nova-compute nothing comes from its own queue
        self._pid = 1000

    # -- World ------------------------------------------------------------------------------------

    def host(self, name: str) -> SimHost:
        return self.hosts[name]

    def broker(self, name: str) -> SimBroker:
        if name in self.dead:
            raise Unreachable(f"the broker {name} does not answer", "It is dead")
        return self.brokers[name]

    def proxy(self, host: str) -> SimProxy:
        return self.proxies[host]

    def nova(self) -> SimNova:
        return self.database

    def rabbit(self, host: str) -> RabbitNodePort:
        raise AssertionError("no RabbitMQ is split here")

    def bridge_end(self, hosts: Sequence[str]) -> BridgeEnd:
        raise AssertionError("no RabbitMQ is split here")

    def ferry(self, shores: Shores, password: str) -> Ferry:
        raise AssertionError("no RabbitMQ is split here")

    def cut_rabbit(self, nodes: Sequence[CutNode], ports: Sequence[int], within: float) -> float:
        raise AssertionError("no RabbitMQ is split here")

    def relay(self, host: str, name: str) -> SimRelay:
        assert host == "db1"
        return self.databases.relay

    def between(self, move: HostsMove, ours: Login) -> HostsPort:
        raise AssertionError("no hosts move here")

    def guests(self, cloud: str) -> GuestsPort:
        raise AssertionError("no guest goes along")

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        raise AssertionError("no cells v1 here")

    def gate(self, host: str, backend: str) -> GatePort:
        raise AssertionError("no cells v1 here")

    def fence(self, host: str) -> FencePort:
        raise AssertionError("no cells v1 here")

    def ear(self, conversion: Conversion) -> EarPort:
        raise AssertionError("no cells v1 here")

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        raise AssertionError("no cells v1 here")

    def waiting_room(self, host: str, unit: str, queues: Sequence[str]) -> WaitingRoom:
        return SimRoom(self, host, unit, queues)

    def serves(self, client: str) -> bool:
        """Whether a nova-compute takes messages, if it runs."""
        return self.time >= self.hosts[client].units_["nova-compute"].started_at + START_S

    def mover(self, ends: Ends, ours: Login, nova: Login) -> SimMover:
        if self.databases.mover is None or self.databases.mover.ours != ours:
            self.databases.mover = SimMover(self.databases, ends, ours, nova)
        return self.databases.mover

    def reborn(self) -> None:
        """Another process of recell's begins."""
        self.killed = False
        self.databases.reborn()

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        return [act() for act in acts]  # one after another: a kill has its place

    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.observe()

    def clock(self) -> float:
        return self.time

    def stop_rpc_server(
        self,
        host: str,
        unit: str,
        broker: str,
        vhost: str,
        limit: float,
        idle: Callable[[], str] | None = None,
        *,
        lost: bool = False,
    ) -> float:
        if not lost:
            self.broker(broker)
        self.point(f"hold off {unit}")
        assert idle is None or not idle()
        target = self.hosts[host].units_[unit]
        target.active, target.pid = False, 0
        self.time += 0.5
        self.point(f"{unit} ended")
        self.observe()
        return 0.5

    # -- killing ----------------------------------------------------------------------------------

    def point(self, what: str) -> None:  # a moment at which recell can die
        if self.killed:
            raise Killed(f"{what}: what a dead process would tidy up stays as it is")
        self.points += 1
        if self.points == self.kill_at:
            self.killed = True
            raise Killed(what)

    def next_pid(self) -> int:
        self._pid += 1
        return self._pid

    # -- what users notice ------------------------------------------------------------------------

    def observe(self) -> None:
        for proxy in self.proxies.values():
            serving = [s for s in proxy.table if proxy.takes(s)]
            if not serving:
                self._complain(f"{proxy.host}: no nova-api takes requests")
            for server in serving:
                unit = self.hosts[server.server].api
                broker = self.broker_named(unit.config["transport_url"])
                if not self.takers(broker, "conductor"):
                    self._complain(f"{server.server} publishes to {broker}, where no conductor takes")
                if not self.database.is_cell1(unit.config["cell1"]):
                    self._complain(f"{server.server} believes cell1 to be elsewhere")
                self.tasks.append(Task(broker, self.time))
        for complaint in self.databases.observe():
            self._complain(complaint)
        if not any(
            u.active and u.role == "scheduler" and self.broker_named(u.config["transport_url"]) == "mq1"
            for h in self.hosts.values()
            for u in h.units_.values()
        ) and not self.brokers["mq1"].spares:
            self._complain("computes cast to scheduler_fanout, which is gone")
        running = [u for h in self.hosts.values() for u in h.units_.values() if u.active]
        published = {
            self.broker_named(self.hosts[s.server].api.config["transport_url"])
            for p in self.proxies.values()
            for s in p.table
            if p.takes(s)
        }
        blind = [u for u in running if u.role == "conductor" and not u.config["api"]]
        if {self.broker_named(u.config["transport_url"]) for u in blind} & published:
            self._complain("a conductor without API database takes what nova-api publishes")
        if blind and not all(u.config["no_upcall"] for u in running if u.role == "compute"):
            self._complain("a compute may ask a conductor that has no API database")
        if not self.takers("mq1", "conductor"):
            self._complain("computes have no conductor")
        for task in self.tasks:
            if not task.scheduled and self.time - task.born >= 1.0:
                task.scheduled = True
                if not self.takers(task.broker, "scheduler"):
                    self._complain(f"a boot needs a scheduler on {task.broker}, where none takes")
        self.tasks = [t for t in self.tasks if self.time - t.born < 1.5]

    def _complain(self, what: str) -> None:
        self.complaints.append(f"{self.time:.1f} {what}")

    def takers(self, broker: str, topic: str) -> int:
        """A unit that was just begun will take what waits in the queue: it counts after START_S."""
        return sum(
            1
            for host in self.hosts.values()
            for unit in host.units_.values()
            if unit.active
            and unit.role == topic
            and self.time >= unit.started_at + START_S
            and self.broker_named(unit.config["transport_url"]) == broker
        )

    def broker_named(self, url: str) -> str:
        return self.broker_of_host[host_of(url)]

    def picture(self) -> dict[str, Any]:
        """The state that must be equal, however one got there: no times, no process ids."""
        return {
            "files": {
                f"{h}:{p}": (f.content, f.mode, f.owner, f.group)
                for h, host in self.hosts.items()
                for p, f in host.files.items()
            },
            "units": {
                f"{h}:{u.name}": (u.active, u.enabled, u.loaded, tuple(sorted(u.config.items())))
                for h, host in self.hosts.items()
                for u in host.units_.values()
                if host.exists(u.name)
            },
            "proxies": {(s.server, s.backend): s.state for p in self.proxies.values() for s in p.servers()},
            "mappings": self.database.rows,
            "databases": self.databases.picture(),
            "services": {
                c: sorted((r.host, r.binary) for r in rows) for c, rows in self.database.records.items()
            },
            "brokers": {
                b.name: (sorted(b.spares), sorted(b.vhost_set), dict(b.user_map), dict(b.permits))
                for b in self.brokers.values()
            },
        }


class SimHost:
    def __init__(self, world: SimWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.files: dict[str, SimFile] = {}
        self.kept_: dict[str, bytes] = {}
        self.units_: dict[str, SimUnit] = {}

    @property
    def api(self) -> SimUnit:
        return self.units_["nova-api"]

    # reads

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        return Finished(0, b"", b"")

    def read(self, path: str) -> bytes | None:
        file = self.files.get(path)
        return None if file is None else file.content

    def stat(self, path: str) -> FileStat | None:
        file = self.files.get(path)
        if file is None:
            return None
        return FileStat(
            hashlib.sha256(file.content).hexdigest(),
            file.mode,
            file.owner,
            file.group,
            len(file.content),
            file.mtime,
        )

    def glob(self, pattern: str) -> tuple[str, ...]:
        return ()

    def _fragment(self, unit: str) -> str:
        return next(
            (
                p
                for p in (f"/etc/systemd/system/{unit}.service", f"/lib/systemd/system/{unit}.service")
                if p in self.files
            ),
            "",
        )

    def _dropins(self, unit: str) -> tuple[str, ...]:
        return tuple(sorted(p for p in self.files if f"/{unit}.service.d/" in p))

    def exists(self, unit: str) -> bool:
        return bool(self._fragment(unit))

    def _written_argv(self, unit: str) -> tuple[str, ...]:
        argv: tuple[str, ...] = ()
        for path in (self._fragment(unit), *self._dropins(unit)):
            if path:
                for line in self.files[path].content.decode().splitlines():
                    if line.startswith("ExecStart="):
                        argv = _argv(line.removeprefix("ExecStart="))
        return argv

    def unit(self, name: str) -> UnitState:
        known = self.units_.get(name, SimUnit(name))
        return UnitState(
            name=name,
            exists=self.exists(name),
            active="active" if known.active else "inactive",
            enabled=known.enabled,
            main_pid=known.pid,
            started_at=known.started_at if known.active else 0.0,
            fragment=self._fragment(name),
            dropins=self._dropins(name),
            exec_start=known.loaded,
            needs_reload=self.exists(name) and known.loaded != self._written_argv(name),
        )

    def units(self) -> tuple[str, ...]:
        return tuple(self.units_)

    def processes(self) -> tuple[ProcessInfo, ...]:
        # nova-scheduler 33 writes over its command line.
        titles = {"nova-scheduler": ("nova-scheduler: ServiceWrapper worker(0)",)}
        return tuple(
            ProcessInfo(u.pid, 1, titles.get(u.name, u.loaded), "nova", u.started_at, 0,
                        f"/system.slice/{u.name}.service")
            for u in self.units_.values()
            if u.active
        )

    def sockets(self, pids: Sequence[int]) -> tuple[SocketInfo, ...]:
        return tuple(SocketInfo(p, self.name, 10_000 + p, "mq", 5672) for p in pids)

    def http_status(self, url: str, timeout: float = 30) -> int:
        return 200 if self.api.active and self.world.time >= self.api.started_at + API_START_S else 0

    def first_requests(self, url: str, configs: Sequence[str], limit_s: float) -> str:
        return "" if self.http_status(url) else "nobody answers"

    def container(self, engine: str, name: str) -> ContainerState | None:
        return None

    # changes

    def clone_container(self, engine: str, model: str, name: str, directory: str, made_for: str) -> None:
        raise AssertionError("there are no containers here")

    def remove_container(self, engine: str, name: str, made_for: str) -> None:
        raise AssertionError("there are no containers here")

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        raise AssertionError("steps have verbs for what they change")

    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None
    ) -> None:
        self.world.point(f"before writing {path}")
        now = self.stat(path)
        if (now.sha256 if now else None) != expect:
            raise StalePlan(f"{path} is not what it was")
        self.world.changes.append(f"{self.name} write {path}")
        self.world.time += 0.01
        self.files[path] = SimFile(content, mode, owner, group, self.world.time)
        self.world.time += 0.01
        self.world.point(f"wrote {path}")

    def remove(self, path: str, *, expect: str) -> None:
        self.world.point(f"before removing {path}")
        now = self.stat(path)
        if now is None or now.sha256 != expect:
            raise StalePlan(f"{path} is not what it was")
        self.world.changes.append(f"{self.name} remove {path}")
        del self.files[path]
        self.world.point(f"removed {path}")

    def keep(self, plan: str, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        self.kept_[sha] = content
        return sha

    def kept(self, plan: str, sha256: str) -> bytes:
        return self.kept_[sha256]

    def forget(self, plan: str) -> None:
        self.kept_.clear()

    def systemctl(self, verb: str, unit: str = "", *, timeout: float = 180) -> None:
        self.world.point(f"before {verb} {unit}")
        self.world.changes.append(f"{self.name} {verb} {unit}")
        if verb == "daemon-reload":
            for path in self.files:
                if path.endswith(".service") and "/systemd/system/" in path:
                    name = path.rpartition("/")[2].removesuffix(".service")
                    self.units_.setdefault(name, SimUnit(name))
            for known in self.units_.values():
                known.loaded = self._written_argv(known.name)
        else:
            target = self.units_[unit]
            if verb in ("enable", "disable"):
                target.enabled = verb == "enable"
            elif verb in ("start", "start-later", "restart") and (verb == "restart" or not target.active):
                self.begin(target)
            elif verb in ("pause", "continue"):
                target.paused = verb == "pause" and target.active
            elif verb in ("stop", "kill"):
                target.active = target.paused = False
        self.world.time += 0.2
        self.world.observe()
        self.world.point(f"{verb} {unit}")

    def begin(self, unit: SimUnit) -> None:
        """A process begins: it reads its files now."""
        argv = list(unit.loaded)
        text = "\n".join((self.read(p) or b"").decode() for p in read_by(argv))
        transport, connection = get(text, "DEFAULT", "transport_url"), get(text, "database", "connection")
        unit.active, unit.pid, unit.started_at = True, self.world.next_pid(), self.world.time
        unit.paused = False
        unit.config = {"transport_url": transport or "", "connection": connection or ""}
        unit.config |= {
            "api": get(text, "api_database", "connection") or "",
            "no_upcall": get(text, "workarounds", "disable_group_policy_check_upcall") or "",
            "notify": get(text, "oslo_messaging_notifications", "transport_url") or transport or "",
        }
        if unit.role in ("api", "scheduler", "conductor"):
            mapping = next(m for m in self.world.database.rows if m.uuid == CELL1)
            unit.config["cell1"] = "|".join(
                (
                    resolve_template(mapping.transport_url, transport or ""),
                    resolve_template(mapping.database_connection, connection or ""),
                )
            )
        if unit.role in ("scheduler", "conductor", "compute"):
            cell = CELL0 if "/nova_cell0" in (connection or "") else CELL1
            self.world.database.report(cell, self.name, f"nova-{unit.role}")


def read_by(argv: Sequence[str]) -> list[str]:
    """The files that a command line names; else nova.conf and the program's own."""
    named = [argv[i + 1] for i, w in enumerate(argv) if w == "--config-file"]
    return named or ["/etc/nova/nova.conf", f"/etc/nova/{argv[0].rpartition('/')[2]}.conf"]


class SimBroker:
    def __init__(self, world: SimWorld, name: str, hosts: Sequence[str]) -> None:
        self.world = world
        self.name = name
        self.vhost_set = {"/"}
        self.depth = 0  # of each queue
        self.slow = ""  # why rabbitmqctl is asked
        self.spares: set[tuple[str, str]] = set()
        self.user_map: dict[str, str] = {}
        self.permits: dict[tuple[str, str], tuple[str, str, str]] = {}
        for host in hosts:
            world.broker_of_host[host] = name

    def version(self) -> str:
        return "3.10.8"

    def running_nodes(self) -> tuple[str, ...]:
        return tuple(f"rabbit@{h}" for h, b in self.world.broker_of_host.items() if b == self.name)

    def vhosts(self) -> tuple[str, ...]:
        return tuple(self.vhost_set)

    def users(self) -> tuple[str, ...]:
        return tuple(self.user_map)

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        serving = self.consumers(vhost)
        names = {c.queue for c in serving} | {"conductor", "scheduler"}
        return tuple(
            QueueInfo(n, self.depth, 0, sum(c.queue == n for c in serving), False) for n in sorted(names)
        )

    def at_hand(self, vhost: str, idle_s: float) -> AbstractContextManager[None]:
        return nullcontext()

    def slow_because(self, vhost: str) -> str:
        return self.slow

    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        live = {("scheduler_fanout", c.client_name) for c in self.consumers(vhost) if c.queue == "scheduler"}
        return (*sorted(live), *sorted(self.spares))

    def bind_spare(self, vhost: str, exchange: str, queue: str) -> None:
        self.spares.add((exchange, queue))
        self._change("bind spare")

    def delete_queue(self, vhost: str, queue: str) -> None:
        self.spares = {s for s in self.spares if s[1] != queue}
        self._change("delete queue")

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        return tuple(
            Consumer(queue, f"c{u.pid}", h.name, 10_000 + u.pid, f"nova-{u.role}:{u.pid}:x")
            for h in self.world.hosts.values()
            for u in h.units_.values()
            for queue in (u.role, f"{u.role}.{h.name}")
            if u.active
            and u.role in ("conductor", "scheduler", "compute")
            and self.world.time >= u.started_at + START_S
            and self.world.broker_named(u.config["transport_url"]) == self.name
        )

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return ()

    def alarms(self) -> tuple[str, ...]:
        return ()

    def password_works(self, user: str, password: str) -> bool:
        return self.user_map.get(user) == password

    def permissions(self, vhost: str) -> Mapping[str, tuple[str, str, str]]:
        return {u: p for (v, u), p in self.permits.items() if v == vhost}

    def _change(self, what: str) -> None:
        self.world.changes.append(f"{self.name} {what}")
        self.world.point(what)

    def add_vhost(self, vhost: str) -> None:
        self.vhost_set.add(vhost)
        self._change("add vhost")

    def add_user(self, user: str, password: str) -> None:
        self.user_map[user] = password
        self._change("add user")

    def permit(self, vhost: str, user: str) -> None:
        self.permits[vhost, user] = (".*", ".*", ".*")
        self._change("permit")

    def delete_vhost(self, vhost: str) -> None:
        self.vhost_set.discard(vhost)
        self._change("delete vhost")

    def delete_user(self, user: str) -> None:
        del self.user_map[user]
        for key in [k for k in self.permits if k[1] == user]:
            del self.permits[key]
        self._change("delete user")

    def revoke(self, vhost: str, user: str) -> None:
        self.permits.pop((vhost, user), None)
        self._change("revoke")
