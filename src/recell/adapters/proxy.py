"""HAProxy through its admin socket.

What is set here lives in the running process: HAProxy's next reload or restart forgets it.
"""

from __future__ import annotations

import csv
import shlex
import threading
from collections.abc import Sequence
from typing import Literal, Protocol

from recell.adapters.ports import Contained, ProxyServer, UnitState
from recell.errors import BadInput, Denied, StepFailed, Unreachable, Unsupported

_CONFIG = "/etc/haproxy/haproxy.cfg"
_UNIT = "haproxy.service"
_KOLLA_UNIT = "kolla-haproxy-container"
_CONFIGURED = 0x04  # "disabled" in its configuration
_DRAINING = 0x08  # told so by the socket or the statistics page


class UnixHost(Protocol):
    """What is needed of the proxy's host: :class:`recell.adapters.ssh.SshHost` has it."""

    name: str

    def read(self, path: str) -> bytes | None: ...
    def glob(self, pattern: str) -> tuple[str, ...]: ...
    def unit(self, name: str) -> UnitState: ...
    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes: ...
    def unix_run(self, path: str, data: bytes, timeout: float = 10) -> bytes: ...


class HaproxySocket:
    """:class:`~recell.adapters.proxy_port.ProxyPort`.

    :param config: where its configuration is; empty: what its unit's command line names.
    """

    def __init__(self, host: UnixHost, config: str = "") -> None:
        self.host = host.name
        self._host = host
        self._config = config
        self._lock = threading.Lock()
        self._socket = ""
        self._container: Contained | None = None

    def servers(self) -> tuple[ProxyServer, ...]:
        """Every server of every backend.

        :raises Unreachable: HAProxy does not answer.
        :raises Unsupported: it has no admin socket.
        """
        states = self._states()
        addresses = _addresses(states)
        told = {(row["be_name"], row["srv_name"]): int(row.get("srv_admin_state") or 0) for row in states}
        found = []
        for row in self.stat():
            if row["type"] != "2":  # 0 frontend, 1 backend, 2 server
                continue
            name = (row["pxname"], row["svname"])
            found.append(ProxyServer(
                backend=name[0],
                server=name[1],
                address=addresses.get(name, row.get("addr") or ""),
                state=_state(row["status"]),
                sessions=int(row["scur"] or 0),
                queued=int(row["qcur"] or 0),
                draining=bool(told.get(name, 0) & _DRAINING),
            ))
        return tuple(found)

    def errors(self) -> dict[str, int]:
        """:raises Unreachable, Unsupported: as :meth:`servers`."""
        return {
            row["pxname"]: sum(int(row.get(c) or 0) for c in
                               (("hrsp_5xx",) if row.get("hrsp_5xx") else ("econ", "eresp")))
            for row in self.stat() if row["type"] == "1"
        }

    def set_state(
        self, backend: str, server: str, state: Literal["ready", "drain", "maint"],
    ) -> None:
        for name in (backend, server):
            if not name or any(c in name for c in "/; \n\\"):
                raise BadInput(f"{name!r} is no name of an HAProxy backend or server",
                               "Rename it in HAProxy's configuration, then scan and plan again")
        answer = self._host.unix_run(
            self._path(), f"set server {backend}/{server} state {state}\n".encode()
        ).decode("utf-8", "replace").strip()
        if "ermission denied" in answer:
            raise Denied(f"HAProxy on {self.host} lets its socket change nothing",
                         "Give the socket in its configuration: level admin")
        if answer:
            raise StepFailed(f"HAProxy on {self.host} does not set {backend}/{server} to {state}"
                             f" ({answer.rstrip('.')})", "Look at its configuration")
        for one in self.servers():
            if (one.backend, one.server) == (backend, server):
                reached = {"drain": one.draining, "maint": one.state == "MAINT",
                           "ready": one.state not in ("DRAIN", "MAINT")}
                if not reached[state]:
                    raise StepFailed(f"HAProxy on {self.host} shows {backend}/{server} as"
                                     f" {one.state} after it was set to {state}",
                                     "Look at its log")

    def stat(self) -> list[dict[str, str]]:
        """Rows of ``show stat``; ``type`` is 0 for a frontend, 1 for a backend, 2 for a server."""
        return stat_rows(self.ask("show stat"))

    def forced(self, bits: int) -> list[str]:
        """Servers whose state was set through the socket, which a reload forgets; by the configuration it
        comes again."""
        states = ((row, int(row.get("srv_admin_state") or 0)) for row in self._states())
        return [f"{row['be_name']}/{row['srv_name']}" for row, state in states
                if state & bits and not state & _CONFIGURED]

    def files(self) -> list[str]:
        """Its configuration, in its order."""
        return [self._config] if self._config else self._config_files()

    def program(self) -> str:
        start = self._host.unit(_UNIT).exec_start
        return start[0] if start else "haproxy"

    def unit(self) -> str:
        return _UNIT

    @property
    def contained(self) -> bool:
        return self._container is not None

    def _states(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        columns: list[str] = []
        for line in self.ask("show servers state").splitlines():
            if line.startswith("# "):
                columns = line[2:].split()
            elif columns and line:
                found.append(dict(zip(columns, line.split(" "), strict=False)))
        return found

    def ask(self, command: str) -> str:
        try:
            answer = self._host.unix_query(self._path(), command.encode() + b"\n")
        except Unreachable as error:
            raise Unreachable(f"HAProxy on {self.host} does not answer: {error.sentence}",
                              "Check that haproxy runs there") from None
        text = answer.decode("utf-8", "replace")
        if "ermission denied" in text[:200]:
            raise Denied(f"HAProxy on {self.host} does not answer on its socket",
                         "Give the socket in its configuration: level admin")
        return text

    def _path(self) -> str:
        with self._lock:
            if not self._socket:
                self._socket = self._find()
            return self._socket

    def _find(self) -> str:
        files = self.files()
        seen = False
        for path in files:
            content = self._host.read(path)
            if content is None:
                continue
            seen = True
            found = admin_socket(content.decode("utf-8", "replace"))
            if found and self._container is not None and not self._container.on_host(found):
                raise Unsupported(
                    f"the admin socket of HAProxy on {self.host} ({found}) is inside its container only",
                    "Put it into a directory that the host shares with the container",
                )
            if found:
                return self._container.on_host(found) if self._container else found
        if not seen:
            raise Unsupported(f"there is no HAProxy configuration on {self.host} ({files[0]})",
                              "Name the host that HAProxy runs on")
        raise Unsupported(
            f"HAProxy on {self.host} has no admin socket",
            'Set haproxy_socket_level_admin: "yes" and let kolla-ansible reconfigure the load balancer'
            if self._container
            else "Add to the global section of its configuration: stats socket"
            " /run/haproxy/admin.sock mode 660 level admin, and reload it",
        )

    def _config_files(self) -> list[str]:
        state = self._host.unit(_UNIT)
        if not state.exists:
            self._container = self._host.unit(_KOLLA_UNIT).container
        if self._container is not None:
            return [self._container.on_host(_CONFIG) or _CONFIG]
        variables = dict(word.partition("=")[::2] for word in state.environment)
        words = [variables.get(w[1:].strip("{}"), w) if w.startswith("$") else w
                 for w in state.exec_start]
        named = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "-f"]
        found: list[str] = []
        for path in named or [_CONFIG]:
            found += self._host.glob(f"{path.rstrip('/')}/*.cfg") or (path,)
        return found


def stat_rows(text: str) -> list[dict[str, str]]:
    """What ``show stat`` answers."""
    return list(csv.DictReader(line for line in text.removeprefix("# ").splitlines() if line))


def admin_socket(config: str) -> str:
    """The path of the admin-level unix socket in an HAProxy configuration, or an empty text."""
    for raw in config.splitlines():
        try:
            words = shlex.split(raw, comments=True)
        except ValueError:
            continue
        if words[:2] != ["stats", "socket"] or len(words) < 3:
            continue
        path = words[2].removeprefix("unix@")
        level = words[words.index("level") + 1 :][:1] if "level" in words else []
        if level == ["admin"] and path.startswith("/"):
            return path
    return ""


def _addresses(states: Sequence[dict[str, str]]) -> dict[tuple[str, str], str]:
    """From ``show servers state``: there since HAProxy 1.6, while ``show stat`` names
    addresses to admins only, and since 1.7."""
    found: dict[tuple[str, str], str] = {}
    for row in states:
        address, port = row.get("srv_addr", ""), row.get("srv_port", "")
        if address and address != "-" and port.isdigit():
            host = f"[{address}]" if ":" in address else address
            found[row["be_name"], row["srv_name"]] = f"{host}:{port}"
    return found


def _state(status: str) -> str:
    """``UP 1/3`` is UP, ``MAINT (via a/b)`` is MAINT; ``no check`` stays."""
    return status if status == "no check" else status.split(" ")[0]
