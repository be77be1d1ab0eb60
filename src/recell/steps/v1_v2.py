"""A tree of cells v1 becomes cells v2: what is noted, what is mapped, and the moment.

The moment is that of the way to cells v1, gone backward: users leave the API cell for a nova-api that reads
the child's own database, and undo brings them to the API cell with rows that were copied anew. Only HAProxy
sees it the other way round, for the API cell's nova-api is what stands there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from recell.adapters.v1_hold_port import GatePort
from recell.adapters.v1_port import V1Port
from recell.model.gate import GateServer, GateState
from recell.model.relay import Side, other
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep
from recell.steps.moment import Moment
from recell.steps.v1 import V1Step
from recell.steps.v1_mend import MENDED, Mender, told
from recell.steps.v1_rows import agreed
from recell.steps.v1_switch import V1Switch

TOPICS = ("conductor", "scheduler")


_TURNED = {
    f"{what}-{one}": f"{what}-{another}"
    for what in ("held", "hold", "proof")
    for one, another in (("forward", "backward"), ("backward", "forward"))
}
"""What is remembered of a direction: by the one that the operator goes."""


def _back(toward: Direction) -> Direction:
    return "backward" if toward == "forward" else "forward"


class V2Adopt(V1Step):
    """Both sides agree on every instance; undo can then bring the API cell back as it is."""

    kind: ClassVar[str] = "v2-adopt"

    @property
    def lasting(self) -> bool:
        return False

    def look(self, toward: Direction) -> Finding:
        phase = self.port().importing().phase
        if toward == "backward":
            if not self.recall("noted"):
                return Finding.done("no note")
            return Finding.not_done("it is noted")
        if self.recall("noted") and phase != "none":
            return Finding.done(str(self.recall("noted")))
        if phase in ("copying", "following", "drained"):
            return Finding.unknown("rows of the API cell are still copied")
        if phase == "stale":
            return Finding.unknown("the API cell's rows were given up: its users are elsewhere")
        return Finding.not_done()

    def act(self, toward: Direction) -> None:
        port = self.port()
        if toward == "backward":
            phase = port.importing().phase
            if phase == "live":
                agreed(self, Mender(self))
            if self.recall("made"):
                port.forget()
            self.remember("noted", "")
            return
        # Two nova-cells of an API cell turn updates round whenever they are busy, also where Nova keeps both.
        found = agreed(self, Mender(self))
        mended = told(self.recall(MENDED, []))
        if self.recall("made") is None:
            # A conversion to cells v1 that was not finished has a mark of its own, which stays.
            self.remember("made", port.importing().phase == "none")
        self.remember(
            "noted",
            f"{found.rows} instances agree, {len(found.alone)} are the API cell's alone"
            + (f"; {mended}" if mended else ""),
        )
        port.adopt()

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        return str(self.recall("noted")) if toward == "forward" else said

    def finish(self) -> None:
        self.port().forget()


class V2Mappings(V1Step):
    """Every live instance of the child has a mapping that names it. What is being built is left alone."""

    kind: ClassVar[str] = "v2-mappings"

    @property
    def lasting(self) -> bool:
        return False

    def look(self, toward: Direction) -> Finding:
        missing = self.port().unmapped()
        if not missing:
            return Finding.done("every instance has a mapping")
        return Finding.not_done(f"{len(missing)} have none ({', '.join(missing[:3])})")

    def act(self, toward: Direction) -> None:
        self.remember("mapped", int(self.recall("mapped", 0)) + self.port().map_instances())

    def prove(self, toward: Direction) -> str:
        # Users go on booting: another one may have failed since.
        for _ in range(3):
            if not self.port().unmapped():
                break
            self.port().map_instances()
        return f"{super().prove(toward)}; {int(self.recall('mapped', 0))} got one"


class Mirrored:
    """:class:`~recell.adapters.v1_hold_port.GatePort` whose ``new`` side is what HAProxy had before."""

    def __init__(self, gate: GatePort) -> None:
        self._gate = gate
        self.host, self.backend = gate.host, gate.backend

    def trouble(self, *, holds: bool = True) -> str:
        return self._gate.trouble(holds=holds)

    def install(self, servers: Sequence[GateServer], *, holds: bool = True) -> None:
        self._gate.install(servers, holds=holds)

    def remove(self) -> None:
        self._gate.remove()

    def conclude(self) -> None:
        self._gate.conclude()

    def left(self) -> bool:
        return self._gate.left()

    def state(self) -> GateState | None:
        return _turned(self._gate.state())

    def glance(self) -> GateState | None:
        return _turned(self._gate.glance())

    def hold(self, lease_s: float, longest_s: float) -> None:
        self._gate.hold(lease_s, longest_s)

    def arm(self, toward: Side) -> None:
        self._gate.arm(other(toward))

    def commit(self, side: Side) -> None:
        self._gate.commit(other(side))

    def release(self, side: Side | None = None) -> None:
        self._gate.release(None if side is None else other(side))


def _turned(state: GateState | None) -> GateState | None:
    if state is None:
        return None
    toward = None if state.toward is None else other(state.toward)
    return replace(state, side=other(state.side), toward=toward, up=tuple(map(other, state.up)))


class V2Switch(V1Switch):
    """Parameters are those of :class:`V1Switch`, as if cells v2 were the standard Nova that undo leads back
    to: ``doors``: ``old`` of cells v2, ``new`` of the API cell; ``stop``: conductors of the child that tell
    nova-cells nothing; ``start``: its conductors and schedulers of cells v1."""

    kind: ClassVar[str] = "v2-switch"

    def gates(self) -> list[GatePort]:
        return [Mirrored(gate) for gate in super().gates()]

    def side(self) -> Side:
        if self._states():
            return super().side()
        known: Side = self.recall("side", "new")
        return known

    def look(self, toward: Direction) -> Finding:
        if toward == "backward" and self.recall("begun") is None:
            return Finding.done("not begun")
        return super().look(_back(toward))

    def act(self, toward: Direction) -> None:
        super().act(_back(toward))

    def recall(self, key: str, default: Any = None) -> Any:
        return super().recall(_TURNED.get(key, key), default)

    def remember(self, key: str, value: Any) -> None:
        super().remember(_TURNED.get(key, key), value)

    def prove(self, toward: Direction) -> str:
        said = BaseStep.prove(self, toward)
        if proof := self.recall(f"proof-{_back(toward)}"):
            said += f"; {proof}"
        return said

    def _ready(self, goal: Side) -> None:
        if goal == "new":
            self._unfence("new")  # up since the way forward, where nova-api was not retired any more
        super()._ready(goal)

    def _rest(self, goal: Side, port: V1Port, moment: Moment, before: list[GateState]) -> str:
        said = super()._rest(goal, port, moment, before)
        if goal == "old":
            with moment.part("failed builds get a cell"):
                settled = port.settle()
            said += f"; {settled.mapped} failed builds are the child's, {settled.brought} went to cell0"
        return said

    def _busy(self, goal: Side, before: list[GateState]) -> list[str]:
        found = super()._busy(goal, before)
        if found or goal == "old":
            return found
        end = self.conversion.new
        return [
            f"{count} messages in {q.name} on {end.broker}"
            for q in self.world.broker(end.broker).queues(end.vhost)
            if q.consumers and q.name.split(".")[0].split("_fanout")[0] in TOPICS
            if (count := q.messages_ready + q.messages_unacknowledged)
        ]

    def _not_as_wanted(self, goal: Side) -> list[str]:
        # The API cell's nova-api runs until it is retired: who asks it by its own address is refused.
        left = {f"{h} is fenced" for h in self._standing("new")} if goal == "old" else set()
        found = [wrong for wrong in super()._not_as_wanted(goal) if wrong not in left]
        if self.recall("begun") is None:
            return found
        off = self._servers("start") + self._servers("cells") if goal == "old" else self._servers("stop")
        found += [f"{s.unit} on {s.host} would start at boot" for s in off if self._unit(s).enabled]
        return found + ([f"{h} is fenced" for h in self._standing("old")] if goal == "new" else [])

    def _settle(self, goal: Side) -> None:
        if goal == "new":
            super()._settle(goal)
            self._end(self._servers("stop"), disable=True)
            self._unfence("old")
            return
        self._fence(self._doors("new"))
        self._start(self._servers("stop"))
        self.port().take_back()
        self._end(self._servers("cells"), disable=True)
        self._go_on_cells()  # of an undo that was given up: nobody heals rows that were being copied
        self._end(self._servers("start"), disable=True)
