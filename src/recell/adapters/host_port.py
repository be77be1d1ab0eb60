"""What the layers above may ask of a host: its files, units, processes, containers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


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
    "start-later",
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
"""``start-later`` and ``stop-later`` ask for it and don't wait; ``kill`` sends SIGKILL to the whole unit;
``pause`` and ``continue`` let its processes stand still and go on, as they are."""
