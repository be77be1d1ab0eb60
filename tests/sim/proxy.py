"""A simulated HAProxy: which nova-api it takes for there, and what answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from recell.adapters.ports import ProxyServer

if TYPE_CHECKING:
    from tests.sim.world import SimWorld

API_START_S = 3.0


class SimProxy:
    def __init__(self, world: SimWorld, host: str, backends: Mapping[str, Sequence[str]]) -> None:
        self.world = world
        self.host = host
        self.table = [ProxyServer(b, s, f"{s}:8774", "UP", 0) for b, ss in backends.items() for s in ss]

    def _answers(self, server: ProxyServer) -> bool:
        unit = self.world.hosts[server.server].api
        return unit.active and self.world.time >= unit.started_at + API_START_S

    def takes(self, server: ProxyServer) -> bool:
        return server.state == "UP" and self._answers(server)

    def servers(self) -> tuple[ProxyServer, ...]:
        return tuple(
            replace(s, state="DOWN") if s.state in ("UP", "DRAIN") and not self._answers(s) else s
            for s in self.table
        )

    def errors(self) -> dict[str, int]:
        return dict.fromkeys({s.backend for s in self.table}, self.world.api_errors)

    def set_state(self, backend: str, server: str, state: Literal["ready", "drain", "maint"]) -> None:
        self.world.point(f"before {state} {server}")
        self.world.changes.append(f"{self.host} {state} {server}")
        shown = {"ready": "UP", "drain": "DRAIN", "maint": "MAINT"}[state]
        self.table = [
            replace(s, state=shown, draining=state == "drain")
            if (s.backend, s.server) == (backend, server)
            else s
            for s in self.table
        ]
        self.world.observe()
        self.world.point(f"{state} {server}")
