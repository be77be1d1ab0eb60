"""A gate, a fence, an ear that would be: HAProxy, firewalls, RabbitMQ are read for real, and nobody waits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal

from recell.adapters.dry_record import Record
from recell.adapters.v1_hold_port import EarPort, FencePort, GatePort
from recell.model.gate import GateServer, GateState
from recell.model.relay import Side


class DryGate:
    """:class:`~recell.adapters.v1_hold_port.GatePort` that changes nothing."""

    def __init__(self, real: GatePort, record: Record) -> None:
        self.host = real.host
        self.backend = real.backend
        self._real = real
        self._record = record
        self._state: GateState | None = None
        self._removed = False

    def trouble(self, *, holds: bool = True) -> str:
        return self._real.trouble(holds=holds)

    def left(self) -> bool:
        return not self._removed and (self._state is not None or self._real.left())

    def install(self, servers: Sequence[GateServer], *, holds: bool = True) -> None:
        if self.state() is None:
            names = ", ".join(s.name for s in servers)
            what = "hold" if holds else "lead"
            self._record.add(self.host, f"teach HAProxy to {what} {self.backend}, with {names} beside it")
            self._state, self._removed = GateState("old"), False

    def remove(self) -> None:
        if self.left():
            self._record.add(self.host, f"take the gate before {self.backend} away")
            self._state, self._removed = None, True

    def conclude(self) -> None:
        if self.left():
            self._record.add(self.host, f"give {self.backend} the new servers, and take the gate away")
            self._state, self._removed = None, True

    def state(self) -> GateState | None:
        if self._removed or self._state is not None:
            return self._state
        return self._real.state()

    def glance(self) -> GateState | None:
        return self.state()

    def hold(self, lease_s: float, longest_s: float) -> None:
        self._note("let requests wait", held=True)

    def arm(self, toward: Side) -> None:
        return None

    def commit(self, side: Side) -> None:
        self._note(f"lead requests to the {side} side", side=side)

    def release(self, side: Side | None = None) -> None:
        if side is not None:
            self.commit(side)
        self._note("let requests go on", held=False)

    def _note(self, what: str, *, side: Side | None = None, held: bool | None = None) -> None:
        state = self.state() or GateState("old")
        self._record.add(self.host, f"{what} ({self.backend})")
        self._state = replace(state, side=side or state.side, held=state.held if held is None else held,
                              inside=0, leaving=0)


class DryFence:
    """:class:`~recell.adapters.v1_hold_port.FencePort` that refuses nobody."""

    def __init__(self, real: FencePort, record: Record) -> None:
        self.host = real.host
        self._real = real
        self._record = record
        self._doors: frozenset[tuple[str, int]] | None = None

    def trouble(self) -> str:
        return self._real.trouble()

    def put_up(self, doors: Collection[tuple[str, int]]) -> None:
        self._doors = frozenset(doors)
        named = ", ".join(f"{a}:{p}" for a, p in sorted(doors))
        self._record.add(self.host, f"refuse connections to {named}")

    def take_down(self) -> None:
        if self.standing():
            self._record.add(self.host, "take recell's fence down")
        self._doors = frozenset()

    def standing(self) -> frozenset[tuple[str, int]]:
        return self._real.standing() if self._doors is None else self._doors


class DryEar:
    """:class:`~recell.adapters.v1_hold_port.EarPort` that binds and unbinds nothing."""

    def __init__(self, real: EarPort, broker: str, record: Record) -> None:
        self.base = real.base
        self._real = real
        self._broker = broker
        self._record = record
        self._state: Literal["open", "shut"] | None = None

    def state(self) -> Literal["open", "shut", "none"]:
        return self._real.state() if self._state is None else self._state

    def at_hand(self) -> AbstractContextManager[None]:
        return nullcontext()  # nobody waits for it

    def shut(self) -> None:
        if self._state != "shut":
            self._record.add(self._broker, f"unbind {self.base}.broadcast")
        self._state = "shut"

    def open(self) -> None:
        if self.state() != "open":
            self._record.add(self._broker, f"bind {self.base}.broadcast")
        self._state = "open"
