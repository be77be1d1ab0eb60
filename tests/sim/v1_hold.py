"""Gates, fences and who is at work, simulated: where users are led, also when recell dies in it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from recell.adapters.v1_hold_port import FencePort, GatePort, UnderWayPort
from recell.errors import StepFailed
from recell.model.gate import GateServer, GateState
from recell.model.relay import Side, other
from tests.sim.v1_ear import EarWorld
from tests.sim.world import API_START_S, Killed

Door = tuple[str, int]
_one_at_a_time = threading.RLock()
"""Steps do some things side by side."""
DOORS: dict[Side, dict[str, Door]] = {
    "old": {"ctl1": ("10.1.0.2", 8774), "ctl2": ("10.1.0.3", 8774)},
    "new": {"api1": ("10.1.0.4", 8774), "api2": ("10.1.0.5", 8774)},
}
LEASE_S = 8
"""Longer than a lease: what users find when nobody comes back soon."""


class HoldWorld(EarWorld):
    """Users go where each HAProxy's gate leads them, or wait there. ``doors``: of the gate's two sides."""

    doors = DOORS
    before_consoles: tuple[str, ...] = ("ctl1", "ctl2")

    def __init__(self) -> None:
        self.gates: dict[tuple[str, str], SimGate] = {}
        self.fences: dict[str, set[Door]] = {}
        self.busy = 0  # how many looks find something in flight
        self.stuck: tuple[str, ...] = ()
        self.inside = 0
        self.reloaded = 0
        self.leaving = 0
        super().__init__()

    def gate(self, host: str, backend: str) -> GatePort:
        key = (host, backend)
        if key not in self.gates:
            self.gates[key] = SimGate(self, host, backend)
        return self.gates[key]

    def fence(self, host: str) -> FencePort:
        return SimFence(self, host)

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        assert (host, config, broker) == ("ctl1", "/etc/nova/nova.conf", "mq1")
        return SimUnderWay(self)

    # -- where users are ---------------------------------------------------------------------------

    def users_gates(self) -> list[SimGate]:
        """Those before nova-api."""
        return [g for g in self.gates.values() if g.installed and g.holding]

    def consoles_led(self) -> set[Side]:
        """Where consoles are led by those before their proxies; all of these must be there."""
        gates = [g for g in self.gates.values() if g.installed and not g.holding]
        for gate in gates:
            names = gate.beside if gate.side == "new" else self.before_consoles
            units = [u for n in names for u in self.hosts[n].units_.values() if u.role == "novncproxy"]
            if not any(u.active for u in units):
                self._complain(f"consoles are led to {', '.join(names)}, where no proxy runs")
        return {g.side for g in gates}

    @property
    def serving(self) -> Side:
        sides = {g.leads() for g in self.users_gates()}
        if len(sides) > 1 and not self.held:
            self._complain("one HAProxy leads to the child and another to the API cell")
        return "new" if sides == {"new"} else "old"

    @serving.setter
    def serving(self, side: Side) -> None:
        assert side == "old"  # as it begins

    @property
    def held(self) -> bool:
        return any(g.holds() for g in self.users_gates())

    @held.setter
    def held(self, held: bool) -> None:
        assert not held

    def shut(self, side: Side) -> bool:
        return all(door in self.fences.get(host, set()) for host, door in self.doors[side].items())

    def answers(self, side: Side, host: str) -> bool:
        """nova-api of this side."""
        unit = self.hosts[host].api
        return unit.active and self.time >= unit.started_at + API_START_S

    def observe(self) -> None:
        with _one_at_a_time:
            self.consoles_led()
            if not self.held and self.shut(self.serving):
                self._complain(f"users are led to the {self.serving} side, and refused by the fence")
            super().observe()

    def point(self, what: str) -> None:
        with _one_at_a_time:
            try:
                super().point(what)
            except Killed:
                self._lapse()
                raise

    def reborn(self) -> None:
        super().reborn()
        self._lapse()

    def _lapse(self) -> None:
        """Nobody renews leases any more."""
        for gate in self.gates.values():
            if gate.renewed:
                gate.renewed, gate.till = False, min(gate.till, self.time + gate.lease)

    def picture(self) -> dict[str, Any]:
        return super().picture() | {
            "gates": {k: (g.written, g.installed, g.side, g.toward, g.holds()) for k, g in self.gates.items()
                      if g.written or g.installed},
            "fences": {h: sorted(d) for h, d in self.fences.items() if d},
            "paused": sorted(f"{h.name}:{u.name}" for h in self.hosts.values() for u in h.units_.values()
                             if u.paused),
        }  # fmt: skip


class SimGate:
    """:class:`~recell.adapters.v1_hold_port.GatePort`; what is written and what HAProxy has read."""

    def __init__(self, world: HoldWorld, host: str, backend: str) -> None:
        self.world, self.host, self.backend = world, host, backend
        self.written = self.installed = self.renewed = False
        self.holding = True
        self.beside: tuple[str, ...] = ()
        self.side: Side = "old"
        self.toward: Side | None = None
        self.till = self.lease = 0.0
        self.waited = 0

    def holds(self) -> bool:
        return self.world.time < self.till

    def leads(self) -> Side:
        if self.toward is not None and self.world.shut(self.side):
            return self.toward
        return self.side

    def _change(self, what: str) -> None:
        self.world.changes.append(f"{self.host} {what}")
        self.world.point(f"{what} on {self.host}")

    def _before(self, what: str) -> None:
        self.world.point(f"before {what} on {self.host}")

    def trouble(self, *, holds: bool = True) -> str:
        return ""

    def install(self, servers: Sequence[GateServer], *, holds: bool = True) -> None:
        hosts = {a: h for side in DOORS.values() for h, (a, _) in side.items()}
        if holds:
            assert {(s.address, s.port) for s in servers} == set(self.world.doors["new"].values())
        self.holding, self.beside = holds, tuple(hosts[s.address] for s in servers)
        self._before("teaching")
        if not self.written:
            self.written = True
            self._change("gate written")
        if not self.installed:
            self.installed = True
            self._change("gate read")

    def remove(self) -> None:
        self._before("forgetting")
        if self.installed and self.leads() == "new":
            raise StepFailed("requests go to the new side")
        self.installed = False
        self._change("gate forgotten")
        self.written, self.side, self.till = False, "old", 0.0
        self._change("gate removed")

    def conclude(self) -> None:
        assert not self.installed or self.leads() == "new"
        self.written = self.installed = False
        self._change("gate concluded")

    def left(self) -> bool:
        return self.written or self.installed

    def state(self) -> GateState | None:
        if not self.installed:
            return None
        inside, self.world.inside = self.world.inside, max(0, self.world.inside - 1)
        leaving, self.world.leaving = self.world.leaving, max(0, self.world.leaving - 1)
        doors = self.world.doors
        up: list[Side] = [side for side in doors if any(self.world.answers(side, h) for h in doors[side])]
        return GateState(self.side, self.toward, self.holds(), 0, self.waited, 0.0, inside, tuple(up),
                         1 + self.world.reloaded, leaving)  # fmt: skip

    def glance(self) -> GateState | None:
        self.world.time += 0.005
        state = self.state()
        return None if state is None else replace(state, leaving=0)

    def hold(self, lease_s: float, longest_s: float) -> None:
        self._before("holding")
        self.lease, self.till, self.renewed = lease_s, self.world.time + longest_s, True
        self.waited = 3
        self.world.time += 0.02
        self._change("holds")

    def _lives(self) -> None:
        if not self.holds():
            raise StepFailed("the hold has ended by itself")

    def arm(self, toward: Side) -> None:
        self._before("arming")
        self._lives()
        self.side, self.toward = other(toward), toward
        self._change(f"armed {toward}")

    def commit(self, side: Side) -> None:
        self._before("committing")
        assert self.holds() or side == self.leads(), "users would be led over without a hold"
        self.side, self.toward = side, None
        self._change(f"leads to {side}")

    def release(self, side: Side | None = None) -> None:
        self._before("releasing")
        if side is not None:
            assert not self.holding or self.holds() or side == self.leads(), "users led over without a hold"
            self.side, self.toward = side, None
            what = "" if self.holding else "consoles "
            self.world.changes.append(f"{self.host} leads {what}to {side}")
        self.till, self.renewed = 0.0, False
        self._change("released")
        self.world.observe()


class SimFence:
    """:class:`~recell.adapters.v1_hold_port.FencePort`"""

    def __init__(self, world: HoldWorld, host: str) -> None:
        self.world, self.host = world, host

    def trouble(self) -> str:
        return ""

    def put_up(self, doors: Collection[Door]) -> None:
        self.world.point(f"before a fence on {self.host}")
        self.world.fences[self.host] = set(doors)
        self.world.changes.append(f"{self.host} fenced")
        self.world.point(f"fence on {self.host}")

    def take_down(self) -> None:
        self.world.point(f"before the fence goes on {self.host}")
        self.world.fences.pop(self.host, None)
        self.world.changes.append(f"{self.host} open")
        self.world.point(f"no fence on {self.host}")

    def standing(self) -> frozenset[Door]:
        return frozenset(self.world.fences.get(self.host, ()))


class SimUnderWay:
    """:class:`~recell.adapters.v1_hold_port.UnderWayPort`"""

    def __init__(self, world: HoldWorld) -> None:
        self.world = world

    def stuck(self) -> tuple[str, ...]:
        return self.world.stuck

    def make_ready(self) -> None:
        return None

    def in_flight(self) -> tuple[str, ...]:
        self.world.time += 0.05
        if self.world.busy:
            self.world.busy -= 1
            return ("guest-1 is rebooting",)
        return ()


_ports: tuple[type[GatePort], type[FencePort], type[UnderWayPort]] = (SimGate, SimFence, SimUnderWay)
