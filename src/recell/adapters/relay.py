"""The relay as recell sees it: put on a host as a unit, spoken to by its unix socket there."""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

from recell.adapters.ports import FileStat, Finished, UnitState, UnitVerb
from recell.errors import BadInput, Denied, Locked, RecellError, StalePlan, StepFailed, Unreachable
from recell.model.relay import Client, Held, RelayState, Side, Switched, Upstream

_STATE = "/var/lib/recell"
_UNITS = "/etc/systemd/system"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}\Z")
_MODULES = ("__init__", "wire", "settings", "login", "link", "relay", "process")
_MAIN = b"import sys\n\nfrom relaying.process import main\n\nsys.exit(main(sys.argv[1:]))\n"
_START_S = 15.0
_PREPARE_S = 30.0  # the relay's own limit for the logins before a hold
_SLACK_S = 15.0

# It runs as root to read its passwords and to write its state, and is given nothing else of root's.
_UNIT = """\
[Unit]
Description=recell's relay {name}, between Nova and a database that moves
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={python} -I {directory}/relay.pyz {directory}
Restart=always
RestartSec=0.2
LimitNOFILE=65536
CapabilityBoundingSet=
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""


class RelayHost(Protocol):
    """What is needed of the relay's host: :class:`recell.adapters.ssh.SshHost` has it."""

    name: str

    def query(self, argv: Sequence[str]) -> Finished: ...
    def stat(self, path: str) -> FileStat | None: ...
    def unit(self, name: str) -> UnitState: ...
    def run(self, argv: Sequence[str]) -> Finished: ...
    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None,
    ) -> None: ...
    def remove(self, path: str, *, expect: str) -> None: ...
    def systemctl(self, verb: UnitVerb, unit: str = "") -> None: ...
    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes: ...
    def unix_run(self, path: str, data: bytes, timeout: float = 10) -> bytes: ...


def archive() -> bytes:
    """The relay as it is shipped: one file that Python runs, the same bytes each time."""
    source = resources.files("recell.adapters.relaying")
    files = {f"relaying/{name}.py": source.joinpath(f"{name}.py").read_bytes() for name in _MODULES}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for name, content in {"__main__.py": _MAIN, **files}.items():
            target.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return packed.getvalue()


class Relay:
    """:class:`~recell.adapters.relay_port.RelayPort`. One instance remembers the hold that it began.

    :param name: tells several relays on one host apart; letters, digits and hyphens.
    """

    def __init__(
        self,
        host: RelayHost,
        name: str,
        *,
        wait: Callable[[float], None] = time.sleep,
        state: str = _STATE,
        units: str = _UNITS,
    ) -> None:
        if not _NAME.match(name):
            raise BadInput(f"{name!r} is no name for a relay", "Use letters, digits and hyphens")
        self.host = host.name
        self.unit = f"recell-relay-{name}.service"
        self._host = host
        self._name = name
        self._wait = wait
        self._directory = f"{state}/relay-{name}"
        self._unit_file = f"{units}/{self.unit}"
        self._hold = ""

    # Being there

    def install(
        self,
        listen: Upstream,
        upstreams: Mapping[Side, Upstream],
        accounts: Mapping[str, str],
        side: Side = "old",
    ) -> None:
        config = {"listen": list(listen), "upstreams": {s: list(u) for s, u in upstreams.items()},
                  "accounts": dict(accounts), "side": side}
        wanted = {
            f"{self._directory}/config.json": (json.dumps(config, sort_keys=True).encode(), 0o600),
            f"{self._directory}/relay.pyz": (archive(), 0o600),
            self._unit_file: (self._unit_text(), 0o644),
        }
        stats = {path: self._host.stat(path) for path in wanted}
        differing = [path for path, (content, _) in wanted.items() if _sha(stats[path]) != _digest(content)]
        unit = self._host.unit(self.unit)
        if differing and unit.running:
            self._nobody_is_cut(differing[0])
        if differing:
            # Where its passwords are only root may look; the host's own writer makes directories for all.
            self._run(["mkdir", "-p", "-m", "0700", self._directory])
        for path in differing:
            content, mode = wanted[path]
            self._host.write(path, content, mode=mode, owner="root", group="root",
                             expect=_sha(stats[path]) or None)
        if self._unit_file in differing:
            self._host.systemctl("daemon-reload")
        if not unit.enabled:
            self._host.systemctl("enable", self.unit)
        if differing or not unit.running:
            self._host.systemctl("restart", self.unit)
        self._await_answer(listen)

    def _unit_text(self) -> bytes:
        done = self._host.query(["python3", "-I", "-c", "import sys; print(sys.executable)"])
        python = done.stdout.decode().strip()
        if done.returncode != 0 or not python.startswith("/"):
            raise StepFailed(f"python3 on {self.host} doesn't run", "Mend it there, then: recell resume")
        return _UNIT.format(name=self._name, python=python, directory=self._directory).encode()

    def _nobody_is_cut(self, path: str) -> None:
        state = self._state_or_none()
        if state is not None and (state.connections or state.waiting or state.held):
            raise StalePlan(
                f"the relay on {self.host} runs with another {path.rpartition('/')[2]}, and"
                f" {state.connections} connections go through it",
                "Undo the plan that put it there, or go on with that plan",
            )

    def _await_answer(self, listen: Upstream) -> None:
        for _ in range(int(_START_S / 0.1)):
            state = self._state_or_none()
            if state is not None and state.listen == listen:
                return
            self._wait(0.1)
        raise StepFailed(
            f"the relay on {self.host} does not answer after its start",
            f"See journalctl -u {self.unit} there (port {listen[1]} may be taken), then: recell resume",
        )

    def _state_or_none(self) -> RelayState | None:
        try:
            return self.state()
        except Unreachable:
            return None

    def remove(self) -> None:
        state = self._state_or_none()
        if state is not None and (state.connections or state.waiting):
            raise StepFailed(
                f"{state.connections + state.waiting} connections still go through the relay on {self.host},"
                f" from {', '.join(state.clients)}",
                "Restart what is connected through it, then: recell resume",
            )
        unit = self._host.unit(self.unit)
        if unit.exists:
            if unit.active not in ("inactive", "failed"):
                self._host.systemctl("stop", self.unit)
            if unit.enabled:
                self._host.systemctl("disable", self.unit)
        if stat := self._host.stat(self._unit_file):
            self._host.remove(self._unit_file, expect=stat.sha256)
            self._host.systemctl("daemon-reload")
        self._run(["rm", "-rf", "--", self._directory])

    def _run(self, argv: list[str]) -> None:
        done = self._host.run(argv)
        if done.returncode != 0:
            detail = done.stderr.decode("utf-8", "replace").strip().rstrip(".")
            raise StepFailed(f"{argv[0]} {self._directory} failed on {self.host} ({detail})",
                             "Look at that host, then: recell resume")

    # Questions

    def state(self) -> RelayState | None:
        if self._host.stat(f"{self._directory}/config.json") is None:
            return None
        found = self._ask({"verb": "state"}, 10, changing=False)
        found["listen"] = tuple(found["listen"])
        found["upstreams"] = {side: tuple(where) for side, where in found["upstreams"].items()}
        return RelayState(**{**found, "clients": tuple(found["clients"]), "errors": tuple(found["errors"]),
                             "stateful": _clients(found["stateful"])})

    def try_logins(self) -> tuple[str, ...]:
        return tuple(self._ask({"verb": "try"}, 60, changing=False))

    # Changes

    def hold(self, limit_s: float, lease_s: float) -> Held:
        name = secrets.token_hex(8)
        found = self._ask({"verb": "hold", "hold": name, "limit_s": limit_s, "lease_s": lease_s},
                          limit_s + _PREPARE_S + _SLACK_S)
        held = Held(connections=found["connections"], waited_s=found["waited_s"],
                    prepared_s=found["prepared_s"], busy=_clients(found["busy"]),
                    stateful=_clients(found["stateful"]))
        self._hold = name if held.quiet else ""
        return held

    def renew(self) -> None:
        self._ask({"verb": "renew", "hold": self._hold}, _SLACK_S)

    def switch(self, side: Side) -> Switched:
        found = self._ask({"verb": "switch", "hold": self._hold, "side": side}, _SLACK_S)
        return Switched(found["carried"], found["closed"], tuple(found["reasons"]))

    def release(self) -> None:
        self._hold = ""
        self._ask({"verb": "release"}, _SLACK_S)

    def _ask(self, request: dict[str, Any], limit: float, changing: bool = True) -> Any:
        ask = self._host.unix_run if changing else self._host.unix_query
        data = json.dumps(request).encode() + b"\n"
        try:
            answer = json.loads(ask(f"{self._directory}/control", data, limit))
        except (Denied, Locked):
            raise
        except (RecellError, ValueError) as error:
            why = error.sentence if isinstance(error, RecellError) else "its answer broke off"
            raise Unreachable(f"the relay on {self.host} does not answer: {why}",
                              f"See journalctl -u {self.unit} there") from None
        if answer["ok"]:
            return answer["value"]
        raise self._error(answer["kind"], answer["text"])

    def _error(self, kind: str, text: str) -> RecellError:
        where = f"the relay on {self.host}"
        if kind == "locked":
            return Locked(f"{where} is held already: {text}", "Let the other run end; a hold ends by itself")
        if kind == "refused":
            return StepFailed(f"{where} can't bring its connections over: {text}",
                              "Mend that, then: recell resume")
        if kind == "gone":
            return StepFailed(f"{where} lets connections through again: {text}",
                              "Hold it again: recell resume")
        if kind == "bad":
            return BadInput(f"{where} doesn't understand the request ({text})",
                            "Use the recell that put it there")
        return StepFailed(f"{where} failed: {text}", f"See journalctl -u {self.unit} there")


def _clients(found: list[dict[str, Any]]) -> tuple[Client, ...]:
    return tuple(Client(**one) for one in found)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha(stat: FileStat | None) -> str:
    return stat.sha256 if stat else ""
