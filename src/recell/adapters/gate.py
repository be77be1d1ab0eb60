"""A gate in HAProxy: requests to one backend wait, then go to one of two sides.

A program in HAProxy's own Lua asks a small file at every request. The file is recell's word, written in
place: side, lease, and whether a switch is under way. It outlives reloads and restarts of HAProxy, and
nothing else is kept anywhere. The lease's end is in the time of HAProxy's own host.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Protocol

from recell.adapters.ports import FileStat, Finished, ProcessInfo, UnitVerb
from recell.adapters.proxy import HaproxySocket, UnixHost, stat_rows
from recell.errors import BadInput, RecellError, StepFailed, Unsupported
from recell.model.gate import GateServer, GateState
from recell.model.relay import Side, other
from recell.planning import gate_text
from recell.planning.gate_text import action_of, new_backend

__all__ = ["Gate", "record_text"]

_LENGTH = 128
_RELOAD_S = 30.0
_POLL_S = 0.1
_SAID = re.compile(
    r"gate hold=(\d+) side=(\w+) toward=([\w-]+) held=(\d) waiting=(-?\d+) waited=(\d+) longest=(\d+)"
)
_WORKER = re.compile(r"^Pid: (\d+)", re.MULTILINE)
_FORCED = 0x01 | 0x08  # maintenance or drain, by the socket


class GateHost(UnixHost, Protocol):
    """What is needed of HAProxy's host: :class:`recell.adapters.ssh.SshHost` has it."""

    def hello(self) -> dict[str, Any]: ...
    def stat(self, path: str) -> FileStat | None: ...
    def query(self, argv: Sequence[str], *, timeout: float = 60) -> Finished: ...
    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60) -> Finished: ...
    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None
    ) -> None: ...
    def remove(self, path: str, *, expect: str) -> None: ...
    def systemctl(self, verb: UnitVerb, unit: str = "") -> None: ...
    def processes(self) -> tuple[ProcessInfo, ...]: ...


@dataclass(frozen=True)
class _Record:
    """``hold``: the number of holds so far. ``till_ms``: since 1970, on HAProxy's host."""

    hold: int = 0
    side: Side = "old"
    toward: Side | None = None
    till_ms: int = 0
    lease_ms: int = 0
    longest_ms: int = 0


def record_text(record: _Record) -> bytes:
    """As the file has it: always of one length, with a sum, so that a half-written one is known."""
    body = (
        f"recell1 {record.hold} {record.side} {record.toward or '-'} {record.till_ms} {record.lease_ms}"
        f" {record.longest_ms}"
    )
    a, b = 1, 0
    for byte in body.encode():
        a = (a + byte) % 65521
        b = (b + a) % 65521
    return f"{body} {b * 65536 + a}".ljust(_LENGTH - 1).encode() + b"\n"


class Gate:
    """:class:`~recell.adapters.v1_hold_port.GatePort`."""

    def __init__(
        self, host: GateHost, socket: HaproxySocket, backend: str,
        wait: Callable[[float], None] = time.sleep, renews: bool = True,
    ) -> None:
        """``renews``: false for a process that dies as soon as it holds."""
        self.host = host.name
        self.backend = backend
        self._host = host
        self._socket = socket
        self._wait = wait
        self._action = action_of(backend)
        self._lock = threading.RLock()  # a lease is renewed beside what else is done
        self._file = ""
        self._renews = renews
        self._renewer: _Renewer | None = None

    # -- teaching ----------------------------------------------------------------------------------

    def trouble(self, *, holds: bool = True) -> str:
        try:
            path, text = self._home()
            if not self._knows_lua():
                return f"HAProxy on {self.host} was built without Lua, so it can't hold requests"
            gate_text.taught(text, self.backend, [GateServer("a", "127.0.0.1", 1)], self._lua(path), holds)
        except Unsupported as error:
            return error.sentence
        return ""

    def install(self, servers: Sequence[GateServer], *, holds: bool = True) -> None:
        path, text = self._home()
        if not self._knows_lua():
            raise Unsupported(f"HAProxy on {self.host} was built without Lua, so it can't hold requests",
                              "Install one with it: haproxy -vv shows +LUA")
        wanted = gate_text.taught(text, self.backend, servers, self._lua(path), holds)
        self._put(self._lua(path), self._program(path))
        if self._host.stat(self._lease(path)) is None:
            self._put(self._lease(path), record_text(_Record()))
        if text != wanted:
            self._replace(path, text, wanted)
        if self._said() is None:
            self._reload()
        self._await(lambda: self._said() is not None, "does not know its gate")

    def remove(self) -> None:
        path, text = self._home()
        said = self._said()
        if said is not None and said[1] == "new":
            raise StepFailed(f"requests to {self.backend} on {self.host} go to the new side",
                             "Take the switch back first: recell undo")
        self._without(path, text, gate_text.untaught(text, self.backend))

    def conclude(self) -> None:
        path, text = self._home()
        said = self._said()
        if gate_text.is_taught(text, self.backend) and (said is None or said[1] != "new"):
            raise StepFailed(f"requests to {self.backend} on {self.host} don't go to the new side",
                             "See recell status")
        self._without(path, text, gate_text.concluded(text, self.backend))

    def left(self) -> bool:
        path, text = self._home()
        return (gate_text.is_taught(text, self.backend) or self._said() is not None
                or any(self._host.stat(p) is not None for p in self._own(path)))

    def _own(self, path: str) -> tuple[str, ...]:
        return self._lua(path), self._lease(path), _trial(path)

    def _without(self, path: str, text: str, wanted: str) -> None:
        if text != wanted:
            self._replace(path, text, wanted)
        if self._said() is not None:
            self._reload()
            self._await(lambda: self._said() is None, "still has its gate")
        for own in self._own(path):
            if (stat := self._host.stat(own)) is not None:
                self._host.remove(own, expect=stat.sha256)

    def _home(self) -> tuple[str, str]:
        """The one file that has the backend and all that leads there, and its text."""
        found = []
        for path in self._socket.files():
            text = (self._host.read(path) or b"").decode("utf-8", "surrogateescape")
            if gate_text.leads_here(text, self.backend):
                found.append((path, text))
        if self._socket.contained:
            raise Unsupported(f"HAProxy on {self.host} runs in a container, whose configuration recell does"
                              " not change", "Let the layout's users be led over by other means")
        if len(found) != 1:
            raise Unsupported(
                f"{self.backend} is in {len(found)} files of HAProxy's configuration on {self.host}"
                f" ({', '.join(p for p, _ in found) or 'none'})",
                "Put it and the frontends that lead there into one file",
            )
        return found[0]

    def _knows_lua(self) -> bool:
        said = self._host.query([self._socket.program(), "-vv"], timeout=20).stdout
        return b"+LUA" in said or b"USE_LUA=1" in said

    def _lua(self, path: str) -> str:
        return str(PurePosixPath(path).parent / f"{self._action}.lua")

    def _lease(self, path: str) -> str:
        # Beside the configuration, where HAProxy may read under SELinux and AppArmor too.
        return str(PurePosixPath(path).parent / f"{self._action}.lease")

    def _program(self, path: str) -> bytes:
        text = resources.files("recell.adapters.gating").joinpath("gate.lua").read_text()
        lease = self._lease(path)
        if any(c in lease for c in '"\\\n'):
            raise Unsupported(f"{lease} on {self.host} has quotes in its name", "Rename its directory")
        for name, value in (("PATH", lease), ("OLD", self.backend), ("NEW", new_backend(self.backend)),
                            ("ACTION", self._action)):
            text = text.replace(f"@{name}@", value)
        return text.encode()

    def _put(self, path: str, content: bytes) -> None:
        stat = self._host.stat(path)
        if stat is None or self._host.read(path) != content:
            self._host.write(path, content, mode=0o644, owner="root", group="root",
                             expect=stat.sha256 if stat else None)

    def _replace(self, path: str, text: str, wanted: str) -> None:
        """Only with what HAProxy itself accepts."""
        if forced := self._socket.forced(_FORCED):
            raise StepFailed(
                f"HAProxy on {self.host} would forget at a reload that {', '.join(forced)} is in maintenance"
                " or drained",
                "Set it ready, or write it into its configuration, then: recell resume",
            )
        stat = self._host.stat(path)
        if stat is None:
            raise StepFailed(f"{path} on {self.host} is gone", "Look there")
        trial = _trial(path)
        before = self._host.stat(trial)
        encoded = wanted.encode("utf-8", "surrogateescape")
        self._host.write(trial, encoded, mode=stat.mode, owner=stat.owner, group=stat.group,
                         expect=before.sha256 if before else None)
        files = [trial if f == path else f for f in self._socket.files()]
        argv = [self._socket.program(), "-c"]
        for name in files:
            argv += ["-f", name]
        ended = self._host.query(argv, timeout=60)
        written = self._host.stat(trial)
        if written is not None:
            self._host.remove(trial, expect=written.sha256)
        if ended.returncode != 0:
            said = (ended.stderr or ended.stdout).decode("utf-8", "replace")
            lines = [line.strip() for line in said.splitlines() if "ALERT" in line]
            raise StepFailed(
                f"HAProxy on {self.host} refuses the configuration with a gate"
                f" ({lines[0][:300] if lines else ended.returncode})", "It was left as it was; see its file"
            )
        self._host.write(path, encoded, mode=stat.mode, owner=stat.owner, group=stat.group,
                         expect=stat.sha256)

    def _reload(self) -> None:
        self._host.systemctl("reload", self._socket.unit())

    def _await(self, reached: Callable[[], bool], wrong: str) -> None:
        for _ in range(round(_RELOAD_S / _POLL_S)):
            try:
                if reached():
                    return
            except RecellError:
                pass  # between two processes the socket may be nobody's
            self._wait(_POLL_S)
        raise StepFailed(f"HAProxy on {self.host} {wrong} {_RELOAD_S:.0f} s after its reload",
                         f"See journalctl -u {self._socket.unit()} there, then: recell resume")

    # -- the lease ---------------------------------------------------------------------------------

    def state(self) -> GateState | None:
        state = self.glance()
        return state and replace(state, leaving=self._leaving(state.worker))

    def glance(self) -> GateState | None:
        answer = self._socket.ask(f"show {self._action}; show info; show stat")
        said, info, stat = _SAID.search(answer), _WORKER.search(answer), answer.find("# pxname")
        if said is None or info is None or stat < 0:
            return None
        _, side, toward, held, waiting, waited, longest = said.groups()
        sides: dict[str, Side] = {self.backend: "old", new_backend(self.backend): "new"}
        rows = [r for r in stat_rows(answer[stat:]) if r["pxname"] in sides]
        inside = sum(int(r["scur"] or 0) for r in rows if r["type"] == "2")
        inside += sum(int(r["qcur"] or 0) for r in rows if r["type"] == "1")
        up = {sides[r["pxname"]] for r in rows
              if r["type"] == "2" and r["status"].split(" ")[0] in ("UP", "no")}
        return GateState(
            _side(side), _side(toward) if toward != "-" else None, held == "1", max(0, int(waiting)),
            int(waited), int(longest) / 1000, inside, tuple(sorted(up, reverse=True)), int(info[1]),
        )

    def hold(self, lease_s: float, longest_s: float) -> None:
        self._let_lapse()
        with self._lock:
            record = self._record()
            self._write(replace(record, hold=record.hold + 1, till_ms=self._till(lease_s),
                                lease_ms=round(lease_s * 1000), longest_ms=round(longest_s * 1000)))
        if self._renews:
            self._renewer = _Renewer(self.renew, lease_s / 3, longest_s)

    def _let_lapse(self) -> None:
        renewer, self._renewer = self._renewer, None
        if renewer is not None:
            renewer.end()

    def renew(self) -> None:
        with self._lock:
            record = self._living()
            self._write(record)

    def _living(self) -> _Record:
        """With its lease begun again."""
        record, now = self._record(), self._till(0)
        if record.till_ms <= now:
            raise StepFailed(f"the hold at {self.host} has ended by itself, and requests went on",
                             "Nothing was switched there; begin again")
        return replace(record, till_ms=now + record.lease_ms)

    def arm(self, toward: Side) -> None:
        with self._lock:
            self._write(replace(self._living(), side=other(toward), toward=toward))

    def commit(self, side: Side) -> None:
        with self._lock:
            record, now = self._record(), self._till(0)
            till = now + record.lease_ms if record.till_ms > now else 0
            self._write(replace(record, side=side, toward=None, till_ms=till))

    def release(self, side: Side | None = None) -> None:
        self._let_lapse()
        with self._lock:
            record = self._record()
            led = record if side is None else replace(record, side=side, toward=None)
            if record.till_ms or led != record:
                self._write(replace(led, till_ms=0))

    def _till(self, seconds: float) -> int:
        return round((float(self._host.hello()["now"]) + seconds) * 1000)

    def _lease_path(self) -> str:
        self._file = self._file or self._lease(self._home()[0])
        return self._file

    def _record(self) -> _Record:
        path = self._lease_path()
        words = (self._host.read(path) or b"").decode("ascii", "replace").split()
        if len(words) != 8 or words[0] != "recell1":
            raise StepFailed(f"{path} on {self.host} is damaged or gone", "See what happened to it")
        return _Record(int(words[1]), _side(words[2]), None if words[3] == "-" else _side(words[3]),
                       int(words[4]), int(words[5]), int(words[6]))

    def _write(self, record: _Record) -> None:
        """In place, and seen by the worker."""
        path = self._lease_path()
        argv = ["dd", f"of={path}", "bs=512", "conv=notrunc,fsync"]
        done = self._host.run(argv, stdin=record_text(record), timeout=20)
        said = self._said()
        if done.returncode != 0 or said is None or said[:3] != (
            str(record.hold), record.side, record.toward or "-"
        ):
            raise StepFailed(f"HAProxy on {self.host} does not follow {path}",
                             "See whether the file was replaced; reload HAProxy, then: recell resume")

    def _said(self) -> tuple[str, ...] | None:
        found = _SAID.match(self._socket.ask(f"show {self._action}"))
        return None if found is None else found.groups()

    def _leaving(self, worker: int) -> int:
        processes = self._host.processes()
        mine = next((p for p in processes if p.told_pid == worker), None)
        if mine is None or not mine.argv:
            return 0
        name = PurePosixPath(mine.argv[0]).name
        if mine.ppid == 1 and "-sf" not in mine.argv:
            return 0  # no master, and nobody was left behind
        return sum(
            p.pid != mine.pid and p.ppid == mine.ppid and bool(p.argv)
            and PurePosixPath(p.argv[0]).name == name
            for p in processes
        )


class _Renewer:
    """Renews a lease from a thread of its own, for so long at most. After an error it stops: the lease
    ends, and whoever wants to switch finds that."""

    def __init__(self, renew: Callable[[], None], every_s: float, longest_s: float) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(renew, every_s, time.monotonic() + longest_s), name="lease", daemon=True
        )
        self._thread.start()

    def _run(self, renew: Callable[[], None], every_s: float, till: float) -> None:
        while not self._stop.wait(every_s) and time.monotonic() < till:
            try:
                renew()
            except RecellError:
                return

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def _trial(path: str) -> str:
    """The configuration that HAProxy is asked about before it gets it."""
    return f"{path}.recell"


def _side(word: str) -> Side:
    if word == "old":
        return "old"
    if word == "new":
        return "new"
    raise BadInput(f"{word!r} is no side of a gate", "See the gate's file beside HAProxy's configuration")
