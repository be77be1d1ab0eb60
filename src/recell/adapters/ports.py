"""What the layers above may ask of the outside world.

Three implementations answer: the real one (SSH, MySQL, rabbitmqctl, HAProxy's socket), the dry one
(reads for real, writes nothing) and the simulated one of the tests, in which whole conversions are
killed at every point. All errors are :mod:`recell.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from recell.adapters.bridge_port import BridgeEnd
from recell.adapters.guests_port import GuestsPort
from recell.adapters.hosts_port import HostsPort
from recell.adapters.mover_port import MoverPort
from recell.adapters.nova_port import NovaPort as NovaPort
from recell.adapters.nova_port import RawMapping as RawMapping
from recell.adapters.nova_port import ServiceRow as ServiceRow
from recell.adapters.v1_hold_port import FencePort, GatePort, UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.model.hosts import HostsMove
from recell.model.moving import Ends, Login
from recell.model.rabbit import NodeView, Policy, QueueHome
from recell.model.relay import Held, RelayState, Side, Switched, Upstream
from recell.model.v1 import Conversion

T = TypeVar("T")


@dataclass(frozen=True)
class FileStat:
    """A regular file on a host. ``mtime`` in seconds since 1970; ``mode`` the permission bits."""

    sha256: str
    mode: int
    owner: str
    group: str
    size: int
    mtime: float


@dataclass(frozen=True)
class Contained:
    """The container that a unit starts.

    ``id``: the engine's; "" when there is no such container. ``directory``: the host's directory that
    holds its config.json and nova.conf. ``files``, ``mounts``: (path inside, path on the host) of what
    kolla copies in at each start, and of what is mounted. ``obstacle``: why recell can't control it, one
    sentence; "" when it can.
    """

    engine: str
    name: str
    id: str = ""
    directory: str = ""
    files: tuple[tuple[str, str], ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    obstacle: str = ""

    def on_host(self, path: str) -> str:
        """Where the host has what the container reads at ``path``; "" when it is the image's own."""
        for inside, outside in self.files:
            if path == inside:
                return outside
        for inside, outside in sorted(self.mounts, key=lambda m: len(m[0]), reverse=True):
            if path == inside or path.startswith(inside.rstrip("/") + "/"):
                return (outside.rstrip("/") + path[len(inside.rstrip("/")) :]).rstrip("/")
        return ""


@dataclass(frozen=True)
class ContainerState:
    """A container as it is now. ``made_for``: the plan that recell made it for, "" for anybody else's."""

    id: str
    running: bool
    made_for: str = ""


@dataclass(frozen=True)
class UnitState:
    """A service's unit as ``systemctl show`` tells it, and what it starts.

    ``started_at``: seconds since 1970 at which the main process began, 0.0 when it does not run.
    ``exec_start``: the argv of the effective ``ExecStart=``. ``enabled``: starts at boot.
    ``container``: set when the unit starts a container; process, argv, user and environment are then
    those inside.
    """

    name: str
    exists: bool
    active: str  # active, activating, deactivating, inactive, failed
    enabled: bool
    main_pid: int
    started_at: float
    fragment: str
    dropins: tuple[str, ...]
    exec_start: tuple[str, ...]
    needs_reload: bool
    user: str = ""
    environment: tuple[str, ...] = ()
    environment_files: tuple[str, ...] = ()
    container: Contained | None = None

    @property
    def running(self) -> bool:
        return self.active == "active"


@dataclass(frozen=True)
class Finished:
    """A command that ended on a host."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class ProcessInfo:
    """A process on a host. ``started_at`` in seconds since 1970; ``start_ticks`` is /proc's own.

    ``inner_pid``: its number in its own pid namespace, which is what it tells a broker.
    """

    pid: int
    ppid: int
    argv: tuple[str, ...]
    user: str
    started_at: float
    start_ticks: int
    cgroup: str
    inner_pid: int = 0

    @property
    def told_pid(self) -> int:
        return self.inner_pid or self.pid


def processes_of(unit: UnitState, processes: Sequence[ProcessInfo]) -> tuple[ProcessInfo, ...]:
    """A unit's processes: its cgroup's, or those of the container that it starts.

    All that a container runs descends from its first process; what ``exec`` put in beside does not.
    """
    if unit.container is None:
        name = unit.name if "." in unit.name else f"{unit.name}.service"
        return tuple(p for p in processes if name in p.cgroup.split("/"))
    found = {unit.main_pid} if unit.main_pid else set()
    while more := {p.pid for p in processes if p.ppid in found} - found:
        found |= more
    return tuple(p for p in processes if p.pid in found)


@dataclass(frozen=True)
class SocketInfo:
    """An established TCP connection of a process on a host. ``unread``: bytes received that the
    process has not read yet."""

    pid: int
    local_ip: str
    local_port: int
    remote_ip: str
    remote_port: int
    unread: int = 0


class HostPort(Protocol):
    """One host. Reads first, then what changes it; a change is atomic and durable, or did not happen."""

    name: str

    def query(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60,
        user: str | None = None,
    ) -> Finished: ...
    def read(self, path: str) -> bytes | None: ...
    def stat(self, path: str) -> FileStat | None: ...
    def glob(self, pattern: str) -> tuple[str, ...]: ...
    def unit(self, name: str) -> UnitState: ...
    def units(self) -> tuple[str, ...]: ...
    def processes(self) -> tuple[ProcessInfo, ...]: ...
    def sockets(self, pids: Sequence[int]) -> tuple[SocketInfo, ...]: ...
    def container(self, engine: str, name: str) -> ContainerState | None: ...
    def http_status(self, url: str, timeout: float = 30) -> int:
        """GET from the host itself; the status, 0 when nothing answered."""
        ...

    def first_requests(self, url: str, configs: Sequence[str], limit_s: float) -> str:
        """Let a nova-api that has just started answer what makes its first user wait, with the account that
        it has itself in ``configs``; how that went, in words. Nothing depends on it."""
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60,
        user: str | None = None,
    ) -> Finished: ...
    def write(
        self,
        path: str,
        content: bytes,
        *,
        mode: int,
        owner: str,
        group: str,
        expect: str | None,
    ) -> None:
        """Replace or create a file (temporary file, fsync, rename, fsync of the directory).

        ``expect``: sha256 that the file must have now, None when it must not exist; otherwise
        :class:`recell.errors.StalePlan`. Missing parent directories are made, 0755 root.
        """
        ...

    def remove(self, path: str, *, expect: str) -> None: ...
    def keep(self, plan: str, content: bytes) -> str:
        """Put an old value aside on its own host, root-only, named by its hash, which is returned.

        Lives in /var/lib/recell/<plan>/<sha256>; durable before it returns.
        """
        ...

    def kept(self, plan: str, sha256: str) -> bytes: ...
    def forget(self, plan: str) -> None: ...
    def systemctl(self, verb: UnitVerb, unit: str = "", *, timeout: float = 180) -> None:
        """Whatever the unit starts: a ``kill`` reaches the processes inside a container."""
        ...

    def clone_container(self, engine: str, model: str, name: str, directory: str, made_for: str) -> None:
        """Create, and not start, a container like ``model`` that finds its configuration in ``directory``.

        :raises Unsupported: the engine made it otherwise than the model; it is removed again.
        """
        ...

    def remove_container(self, engine: str, name: str, made_for: str) -> None:
        """Remove a stopped container that was made for this plan; nothing when there is none."""
        ...


UnitVerb = Literal[
    "start",
    "stop",
    "stop-later",
    "restart",
    "enable",
    "disable",
    "daemon-reload",
    "kill",
    "reset-failed",
    "reload",
    "pause",
    "continue",
    "mask",
    "unmask",
]
"""``stop-later`` asks for a stop and does not wait; ``kill`` sends SIGKILL to the whole unit; ``pause`` and
``continue`` let its processes stand still and go on, as they are."""


@dataclass(frozen=True)
class Consumer:
    """A consumer on a queue and the connection it came by, as the broker sees it."""

    queue: str
    connection: str
    peer_host: str
    peer_port: int
    client_name: str  # oslo.messaging: "<program>:<pid>:<uuid>"


@dataclass(frozen=True)
class QueueInfo:
    name: str
    messages_ready: int
    messages_unacknowledged: int
    consumers: int
    durable: bool


@dataclass(frozen=True)
class ConnectionInfo:
    """A client's connection. ``program`` and ``pid`` are empty/0 when the client doesn't say."""

    name: str
    user: str
    vhost: str
    peer_host: str
    peer_port: int
    node: str
    client_name: str
    program: str
    pid: int


class BrokerPort(Protocol):
    """One RabbitMQ cluster, asked through rabbitmqctl on one of its hosts."""

    name: str

    def version(self) -> str: ...
    def running_nodes(self) -> tuple[str, ...]: ...
    def vhosts(self) -> tuple[str, ...]: ...
    def users(self) -> tuple[str, ...]: ...
    def queues(self, vhost: str) -> tuple[QueueInfo, ...]: ...
    def at_hand(self, vhost: str, idle_s: float) -> AbstractContextManager[None]:
        """While it lasts, :meth:`queues` of this vhost takes milliseconds, where that can be had. Needs
        seconds to begin, and ends by itself when nobody has asked for ``idle_s``."""
        ...

    def slow_because(self, vhost: str) -> str:
        """Why it can't be had, or stopped being had; "" if it was at hand, or nobody wanted it."""
        ...

    def consumers(self, vhost: str) -> tuple[Consumer, ...]: ...
    def connections(self) -> tuple[ConnectionInfo, ...]: ...
    def alarms(self) -> tuple[str, ...]: ...
    def password_works(self, user: str, password: str) -> bool: ...
    def permissions(self, vhost: str) -> Mapping[str, tuple[str, str, str]]: ...
    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        """(exchange, queue) of every binding to a queue."""
        ...

    def add_vhost(self, vhost: str) -> None: ...
    def bind_spare(self, vhost: str, exchange: str, queue: str) -> None:
        """Bind a queue of at most one message to an exchange, so that the exchange stays."""
        ...

    def delete_queue(self, vhost: str, queue: str) -> None: ...
    def add_user(self, user: str, password: str) -> None: ...
    def permit(self, vhost: str, user: str) -> None: ...
    def delete_vhost(self, vhost: str) -> None: ...
    def delete_user(self, user: str) -> None: ...
    def revoke(self, vhost: str, user: str) -> None: ...


@dataclass(frozen=True)
class ProxyServer:
    """A server line of HAProxy's. ``sessions``: requests in it now. ``state``: as ``show stat`` says."""

    backend: str
    server: str
    address: str
    state: str  # UP, DOWN, DRAIN, MAINT, "no check"
    sessions: int
    queued: int = 0


class ProxyPort(Protocol):
    """One HAProxy, through its admin socket. Runtime states end with its next reload or restart."""

    host: str

    def servers(self) -> tuple[ProxyServer, ...]: ...
    def errors(self) -> dict[str, int]:
        """By backend: answers with a 5xx status since it began to count, its own 503 included; without HTTP,
        connections that failed."""
        ...

    def set_state(self, backend: str, server: str, state: Literal["ready", "drain", "maint"]) -> None: ...


class RelayPort(Protocol):
    """One relay: the process between Nova and a database that moves (docs/relay.md).

    The relay keeps the limits itself, by its host's clock. Every method but :meth:`install` and
    :meth:`remove` raises :class:`recell.errors.Unreachable` when it doesn't answer.
    """

    host: str

    def install(
        self,
        listen: Upstream,
        upstreams: Mapping[Side, Upstream],
        accounts: Mapping[str, str],
        side: Side = "old",
    ) -> None:
        """Put it on its host, start it, now and at boot, and see it answer. Idempotent.

        :param listen: address ("" for all) and port that Nova's URLs get.
        :param accounts: user -> password of every account that comes through it, the same on both
            sides. They go into a root-only file there, in no argv and no log.
        :param side: where connections go at first; a relay that is there already keeps its own.
        :raises StalePlan: one is there with other settings, and connections that would break.
        :raises StepFailed: it doesn't start, or the port is taken.
        """
        ...

    def remove(self) -> None:
        """Stop it and take away all that :meth:`install` has put there. Idempotent.

        :raises StepFailed: somebody is still connected through it.
        """
        ...

    def state(self) -> RelayState | None:
        """None when it isn't installed.

        :raises Unreachable: installed, and it doesn't answer.
        """
        ...

    def try_logins(self) -> tuple[str, ...]:
        """Log in at both sides with every account, as a switch will. What was refused, a sentence each."""
        ...

    def hold(self, limit_s: float, lease_s: float) -> Held:
        """Let every connection come to rest between two transactions, and stay there.

        First it logs in at the other side, once for each connection: only then somebody waits. Who isn't
        quiet after ``limit_s`` is in ``Held.busy``, and everybody has been let go. Otherwise the hold ends
        with :meth:`release`, or by itself ``lease_s`` after the last hold, renew or switch, on the side
        that was committed last.

        :raises StepFailed: the other side refuses the logins; nobody has waited.
        :raises Locked: another hold is going on.
        """
        ...

    def renew(self) -> None:
        """Begin the lease of this instance's hold again. :raises StepFailed: it has ended by itself."""
        ...

    def switch(self, side: Side) -> Switched:
        """Bring every held connection to ``side``, with its settings; they stay held until :meth:`release`.

        From its return on, and after any crash, the relay is on ``side``. Before it, on the other one.
        Repeated on the side it is on already it does nothing.

        :raises StepFailed: this instance holds nothing (any more), or a connection could not be brought
            over although nothing was known against it: then all are held still, where they were.
        """
        ...

    def release(self) -> None:
        """End the hold, whoever began it; nothing when there is none."""
        ...


class RabbitNodePort(Protocol):
    """One node and the wall on its host. Queues and policies are the cluster's, as this node knows them.

    :raises Unreachable: the node does not answer (from every method).
    """

    host: str

    def view(self) -> NodeView: ...
    def queues(self) -> tuple[QueueHome, ...]: ...
    def policies(self) -> tuple[Policy, ...]: ...
    def walled(self) -> str:
        """``drop``, ``reject`` or "": what recell's wall on the host does to the other side."""
        ...

    def cookie(self) -> str:
        """sha256 of the Erlang cookie in the node's file."""
        ...

    def join(self, peer: str) -> None: ...
    def start(self) -> None: ...
    def leave(self) -> None:
        """Make it blank again, out of its cluster."""
        ...

    def set_handling(self, word: str) -> None: ...
    def set_policy(self, policy: Policy) -> None: ...
    def clear_policy(self, vhost: str, name: str) -> None: ...
    def move_quorum(self, queue: QueueHome, to: Sequence[str]) -> None:
        """Members are added on ``to``, the leader goes there, then the others leave."""
        ...

    def purge(self, queues: Sequence[QueueHome]) -> None:
        """Drop records of queues that live on the other side of a cut; on this side only."""
        ...

    def forget(self, node: str) -> None: ...
    def keep_cookie(self, plan: str, *, new: bool) -> str:
        """Put the node's cookie, or a new one, aside on its host; its sha256."""
        ...

    def take_cookie(self, plan: str, source: RabbitNodePort, sha256: str) -> None:
        """Live and in the file at once: the cookie that ``source`` keeps."""
        ...

    def kept_cookie(self, plan: str, sha256: str) -> bytes: ...
    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None: ...
    def unwall(self) -> None: ...
    def apart(self, other: str) -> bool:
        """Whether the lasting rules against the cluster of the host ``other`` are in force."""
        ...


@dataclass(frozen=True)
class CutNode:
    """A node that is cut off from the other side: its host, the nodes there and their hosts' addresses."""

    host: str
    opposite: tuple[str, ...]
    addresses: tuple[str, ...]


class World(Protocol):
    """Everything that exists outside, reached by the names that the plan uses."""

    def host(self, name: str) -> HostPort: ...
    def broker(self, name: str) -> BrokerPort: ...
    def proxy(self, host: str) -> ProxyPort: ...
    def nova(self) -> NovaPort: ...
    def relay(self, host: str, name: str) -> RelayPort:
        """The relay called ``name`` (a plan's short name will do) on ``host``; installed or not yet."""
        ...

    def mover(self, ends: Ends, ours: Login, nova: Login) -> MoverPort:
        """The database that moves between these servers; the same one at each call.

        :param ours: recell's own account on both. nova: Nova's.
        """
        ...

    def between(self, move: HostsMove, ours: Login) -> HostsPort:
        """Hosts between two cells; the same one at each call. ``ours``: recell's own account on both."""
        ...

    def guests(self, cloud: str) -> GuestsPort:
        """Throw-away guests of this account of clouds.yaml."""
        ...

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        """Child and API cell; the same one at each call. ``ours``: recell's own account on both."""
        ...

    def gate(self, host: str, backend: str) -> GatePort:
        """The gate before this backend of the HAProxy on ``host``; the same one at each call."""
        ...

    def fence(self, host: str) -> FencePort: ...
    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        """Of the Nova that this file on ``host`` configures."""
        ...

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
        """End a unit that serves RPC without losing what its senders are sending meanwhile.

        Deliveries to it are held off, it finishes what it has begun, then it is killed; what it had
        not taken goes back to the broker. At the end the unit is inactive and nothing is held off.
        Returns for how many seconds deliveries were.

        :param idle: asked between holding off and ending, until it returns "": what the unit is
            still at, of work that outlives its RPC threads (nova-compute's builds).
        :param lost: the broker was given up: it isn't asked, and there is nothing to save.
        """
        ...

    def rabbit(self, host: str) -> RabbitNodePort:
        """The RabbitMQ node on this host."""
        ...

    def bridge_end(self, hosts: Sequence[str]) -> BridgeEnd:
        """The RabbitMQ cluster on these hosts."""
        ...

    def cut_rabbit(self, nodes: Sequence[CutNode], ports: Sequence[int], within: float) -> float:
        """Cut a RabbitMQ cluster between its sides, on all nodes at one moment.

        Walls that drop come up on every host; only when all stand, every node ends its connections to the
        other side. Returns for how many seconds the sides could not talk and did not know it yet.

        :raises StepFailed: the walls took longer than ``within`` seconds; they are taken down again, and
            no node noticed anything. Or a node did not follow: the walls stay.
        """
        ...

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        """What each returns, in order; they run side by side. After all have ended, the first error in their
        order is raised."""
        ...

    def wait(self, seconds: float) -> None: ...
    def clock(self) -> float: ...
