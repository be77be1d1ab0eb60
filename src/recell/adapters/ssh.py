"""A host, reached by SSH."""

from __future__ import annotations

import base64
import json
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recell.adapters import containers
from recell.adapters.ports import (
    ContainerState,
    FileStat,
    Finished,
    ProcessInfo,
    SocketInfo,
    UnitState,
    UnitVerb,
)
from recell.adapters.session import AgentRefusal, Master, Session, SessionLost
from recell.adapters.warming import first_words
from recell.errors import (
    BadInput,
    Denied,
    Locked,
    RecellError,
    StalePlan,
    StepFailed,
    Unknowable,
    Unreachable,
    Unsupported,
)
from recell.model.deployment import Address

CLAIM_PATIENCE_S = 200.0
"""A claim waits this long, or longer, for changes of an earlier run that are still going on at the host."""

_SYSTEMCTL: dict[str, tuple[str, ...]] = {
    "start-later": ("start", "--no-block"),
    "stop-later": ("stop", "--no-block"),
    "kill": ("kill", "--signal=SIGKILL"),
    "pause": ("kill", "--signal=SIGSTOP"),
    "continue": ("kill", "--signal=SIGCONT"),
}


@dataclass(frozen=True)
class Fence:
    """The right to change hosts: a journal's id and the run's epoch, which grows with every run.

    ``patience_s``: how long a claim waits; longer than any change takes.
    """

    journal: str
    epoch: int
    who: str = ""
    patience_s: float = CLAIM_PATIENCE_S


class SshHost:
    """:class:`~recell.adapters.host_port.HostPort` over SSH.

    Connects when first needed. A question that loses its session is asked once more on a new one;
    a change is not: it raises Unreachable, and whether it happened has to be looked up.
    Thread-safe.
    """

    def __init__(self, name: str, address: Address, fence: Fence | None = None) -> None:
        self.name = name
        self.address = address
        self.fence = fence
        self._master = Master(name, address)
        self._lock = threading.Lock()
        self._session: Session | None = None

    # Reads

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60,
        user: str | None = None,
    ) -> Finished:
        return _finished(self._ask("query", argv[0], limit=timeout, argv=list(argv),
                                   stdin=_pack(stdin), timeout=timeout, user=user))

    def read(self, path: str) -> bytes | None:
        content = self._ask("read", f"reading {path}", path=path)["content"]
        return None if content is None else _unpack(content)

    def stat(self, path: str) -> FileStat | None:
        found = self._ask("stat", f"reading {path}", path=path)
        return None if found is None else FileStat(**found)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return tuple(self._ask("glob", f"listing {pattern}", pattern=pattern))

    def unit(self, name: str) -> UnitState:
        unit = parse_unit(name, self._ask("unit", f"asking systemd for {name}", name=name))
        return containers.seen_through(self, unit)

    def units(self) -> tuple[str, ...]:
        return tuple(self._ask("units", "asking systemd for its units"))

    def processes(self) -> tuple[ProcessInfo, ...]:
        found = self._ask("processes", "listing processes")
        return tuple(ProcessInfo(**{**p, "argv": tuple(p["argv"])}) for p in found)

    def sockets(self, pids: Sequence[int]) -> tuple[SocketInfo, ...]:
        return tuple(SocketInfo(**s) for s in
                     self._ask("sockets", "listing connections", pids=list(pids)))

    def http_status(self, url: str, timeout: float = 30) -> int:
        status = self._ask("http", "asking a web server", limit=timeout, url=url, timeout=timeout)
        return int(status)

    def first_requests(self, url: str, configs: Sequence[str], limit_s: float) -> str:
        return first_words(self, url, configs, limit_s)

    def container(self, engine: str, name: str) -> ContainerState | None:
        return containers.state(self, engine, name)

    def kept(self, plan: str, sha256: str) -> bytes:
        found = self._ask("kept", f"reading what was kept for {plan}", plan=plan, sha256=sha256)
        return _unpack(found["content"])

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        """Ask a unix socket that answers and closes; the whole answer."""
        return _unpack(self._ask("unix", f"asking {path}", limit=timeout, path=path,
                                 data=_pack(data), timeout=timeout)["answer"])

    def hello(self) -> dict[str, Any]:
        """``python`` version, ``uid``, ``hostname`` and ``now``, the host's clock in seconds."""
        found = self._ask("hello", "greeting it")
        return dict(found)

    # Changes

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60,
        user: str | None = None,
    ) -> Finished:
        return _finished(self._do("run", argv[0], limit=timeout, argv=list(argv),
                                  stdin=_pack(stdin), timeout=timeout, user=user))

    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None,
    ) -> None:
        self._do("write", f"writing {path}", path=path, content=_pack(content), mode=mode,
                 owner=owner, group=group, expect=expect)

    def remove(self, path: str, *, expect: str) -> None:
        self._do("remove", f"removing {path}", path=path, expect=expect)

    def keep(self, plan: str, content: bytes) -> str:
        return str(self._do("keep", f"keeping an old value for {plan}", plan=plan,
                            content=_pack(content)))

    def forget(self, plan: str) -> None:
        self._do("forget", f"forgetting what was kept for {plan}", plan=plan)

    def systemctl(self, verb: UnitVerb, unit: str = "", *, timeout: float = 180) -> None:
        if verb == "kill" and (inner := self.unit(unit).container) is not None:
            containers.kill(self, inner)
            return
        if verb in ("pause", "continue") and self.unit(unit).container is not None:
            raise Unsupported(f"{unit} on {self.name} is a container, which recell does not pause",
                              "Convert a Nova whose services are systemd's own")
        argv = ["systemctl", *_SYSTEMCTL.get(verb, (verb,))]
        if unit:
            argv += ["--", unit]
        done = self.run(argv, timeout=timeout)
        if done.returncode != 0:
            detail = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise StepFailed(
                f"systemctl {verb} {unit} failed on {self.name}"
                + (f" ({detail[0].rstrip('.')})" if detail else ""),
                f"Look at: journalctl -u {unit}" if unit else "Look at: journalctl -xe",
            )

    def clone_container(self, engine: str, model: str, name: str, directory: str, made_for: str) -> None:
        containers.clone(self, engine, model, name, directory, made_for)

    def remove_container(self, engine: str, name: str, made_for: str) -> None:
        containers.remove(self, engine, name, made_for)

    def unix_run(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        """As :meth:`unix_query`, for a request that changes something."""
        return _unpack(self._do("unix-run", f"asking {path}", limit=timeout, path=path,
                                data=_pack(data), timeout=timeout)["answer"])

    def claim(self, fence: Fence) -> None:
        """Become the only run that may change this host; idempotent.

        :raises Locked: it belongs to another journal, or a newer run of this one.
        """
        self._ask("claim", "claiming it", limit=fence.patience_s, journal=fence.journal,
                  epoch=fence.epoch, who=fence.who, patience=fence.patience_s)
        self.fence = fence

    def release(self) -> None:
        """Give the host back; idempotent."""
        if self.fence is not None:
            self._ask("release", "giving it back", limit=self.fence.patience_s,
                      journal=self.fence.journal, patience=self.fence.patience_s)
            self.fence = None

    # The connection

    def forward(self, host: str, port: int) -> Path:
        """A local unix socket that leads, from this host, to ``host:port``."""
        self._connected()  # ssh takes no notice of forwards, and ends a connection without a session
        return self._master.forward(host, port)

    def unforward(self, local: Path, host: str, port: int) -> None:
        self._master.unforward(local, host, port)

    def forward_socket(self, path: str) -> Path:
        """A local unix socket that leads to this host's unix socket ``path``."""
        self._connected()
        return self._master.forward_socket(path)

    def unforward_socket(self, local: Path, path: str) -> None:
        self._master.unforward_socket(local, path)

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
        self._master.close()

    def _connected(self) -> Session:
        with self._lock:
            if self._session is None or not self._session.alive:
                if self._session is not None:
                    self._session.close()
                    self._session = None
                self._session = Session(self._master)
            return self._session

    def _ask(self, verb: str, what: str, *, limit: float = 60, **request: Any) -> Any:
        for last in (False, True):
            session = self._connected()
            try:
                return session.call({"verb": verb, **request}, limit)
            except AgentRefusal as refusal:
                raise self._error(refusal, what, False, request.get("path", "")) from None
            except SessionLost:
                session.close()
                if last:
                    raise Unreachable(
                        f"the SSH session to {self._master.where} broke twice while {_doing(what)}",
                        "Check that the host is up and reachable from here",
                    ) from None
        raise AssertionError("unreachable")

    def _do(self, verb: str, what: str, *, limit: float = 60, **request: Any) -> Any:
        if self.fence is not None:
            request |= {"journal": self.fence.journal, "epoch": self.fence.epoch}
        session = self._connected()
        try:
            return session.call({"verb": verb, **request}, limit + 30)
        except AgentRefusal as refusal:
            raise self._error(refusal, what, True, request.get("path", "")) from None
        except SessionLost:
            session.close()
            raise Unreachable(
                f"the SSH session to {self._master.where} broke while {_doing(what)};"
                " it is unknown whether that happened",
                "Make the host reachable, then: recell resume",
            ) from None

    def _error(self, refusal: AgentRefusal, what: str, changing: bool, path: str) -> RecellError:
        text, where = refusal.text, self.name
        if refusal.kind == "stale":
            return StalePlan(f"{path} on {where} is not what the plan was made for: {text}",
                             "Make the plan again: recell scan, recell plan")
        if refusal.kind == "locked":
            return Locked(f"{where} may not be changed: {text}",
                          "Let the other run end, or go on with its journal")
        if refusal.kind == "lost":
            return Unknowable(f"{_doing(what)} failed on {where}: {text}",
                              "Look on the host in /var/lib/recell")
        if refusal.kind == "unsupported":
            return Unsupported(f"{path} on {where} can't be handled: {text}",
                               "Make it a plain file")
        if refusal.kind == "bad":
            return BadInput(f"{_doing(what)} on {where} is malformed: {text}",
                            "Make the plan again with this recell: recell scan, recell plan")
        if refusal.kind == "timeout":
            kind = StepFailed if changing else Unreachable
            return kind(f"{text} on {where}", "Look at the load and the logs of that host")
        if "ermission denied" in text or "not permitted" in text:
            return Denied(f"{_doing(what)} is not permitted on {where}: {text}",
                          "recell must be root there")
        if "No space left" in text or "Read-only file system" in text or "quota exceeded" in text:
            return StepFailed(f"{_doing(what)} failed on {where}: {text}",
                              "Make room there, then: recell resume")
        kind = StepFailed if changing else Unreachable
        return kind(f"{_doing(what)} failed on {where}: {text}", "Look at that host")


def parse_unit(name: str, answer: dict[str, Any]) -> UnitState:
    """The agent's answer about a unit: what ``systemctl show`` and the bus say."""
    properties: dict[str, str] = {}
    files: list[str] = []
    for line in answer["show"].splitlines():
        key, _, value = line.partition("=")
        if key == "EnvironmentFiles":
            files.append(value.partition(" (ignore_errors=")[0])
        else:
            properties[key] = value
    main_pid = int(properties.get("MainPID") or 0)
    began = int(properties.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
    state = properties.get("UnitFileState", "")
    wanted = bool(properties.get("WantedBy") or properties.get("RequiredBy"))
    return UnitState(
        name=name,
        exists=properties.get("LoadState") not in ("not-found", "masked", None),
        active=properties.get("ActiveState", "inactive"),
        # A generated unit (from an init script) has no [Install] section: what wants it decides.
        enabled=state == "enabled" or (state in ("static", "generated") and wanted),
        main_pid=main_pid,
        started_at=answer["now"] - answer["monotonic"] + began if main_pid else 0.0,
        fragment=properties.get("FragmentPath", ""),
        dropins=tuple(properties.get("DropInPaths", "").split()),
        exec_start=_exec_start(answer.get("bus", ""), properties.get("ExecStart", "")),
        needs_reload=properties.get("NeedDaemonReload") == "yes",
        user=properties.get("User", ""),
        environment=_words(properties.get("Environment", "")),
        environment_files=tuple(files),
    )


def _exec_start(bus: str, shown: str) -> tuple[str, ...]:
    if bus:
        commands = json.loads(bus)["data"]
        if commands:
            return tuple(str(word) for word in commands[0][1])
    argv = shown.partition("argv[]=")[2].partition(" ; ignore_errors=")[0]
    return tuple(argv.split())


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(text.split())


def _finished(answer: dict[str, Any]) -> Finished:
    return Finished(answer["returncode"], _unpack(answer["stdout"]), _unpack(answer["stderr"]))


def _doing(what: str) -> str:
    return what if " " in what else f"running {what}"


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unpack(text: str) -> bytes:
    return base64.b64decode(text)
