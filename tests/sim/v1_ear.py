"""What the child says of its instances, on its way up to the API cell, and whether that hears it.

A conductor that knows its cell tells the child's nova-cells of each change. A message waits in a queue until
nova-cells takes it, is in its hand for a moment, where no queue shows it, and comes up: into the API cell's
queue, or nowhere while that is unbound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from recell.adapters.ports import QueueInfo
from recell.adapters.v1_hold_port import EarPort
from recell.errors import StepFailed
from recell.model.v1 import Conversion
from tests.sim.v1_world import BOUND_S, V1Broker, V1World
from tests.sim.world import SimUnit

IN_HAND_S = 0.35
UPDATES = "cells.intercell.broadcast"


@dataclass
class Update:
    """``taken``: when the child's nova-cells has read it."""

    uuid: str
    value: int
    born: float
    taken: float | None = None


class EarWorld(V1World):
    """``shut_at``: when the API cell's queue was unbound; ``dropped``: how much was said into deaf ears."""

    def __init__(self) -> None:
        super().__init__()
        self.shut_at: float | None = None
        self.said: list[Update] = []
        self.waiting: list[Update] = []  # in the API cell's queue
        self.dropped = 0
        self.pace = 1000  # messages that the child's nova-cells takes between two looks
        self.line = False  # whether a connection is at hand

    def make_broker(self, name: str, hosts: Sequence[str]) -> V1Broker:
        return EarBroker(self, name, hosts)

    def ear(self, conversion: Conversion) -> EarPort:
        assert conversion.new.broker == "mq4"
        return SimEar(self)

    def bound(self) -> list[SimUnit]:
        """The API cell's nova-cells that take from their queues."""
        return [u for u in self.running("cells", "mq4", "api") if self.time >= u.started_at + BOUND_S]

    def shut_now(self) -> bool:
        """A nova-cells that has come up since has bound its queues."""
        return self.shut_at is not None and not any(
            u.started_at + BOUND_S > self.shut_at for u in self.bound()
        )

    def hears(self) -> bool:
        return not self.shut_now()

    def observe(self) -> None:
        super().observe()
        self.pass_on()

    def tell(self, uuid: str) -> None:
        if self.running("conductor", "mq1", "cell1"):
            self.said.append(Update(uuid, self.child.rows[uuid].value, self.time))

    def _serve_old(self) -> None:
        super()._serve_old()
        for uuid, row in self.child.rows.items():
            if row.value == self.requests:
                self.tell(uuid)

    def _serve_new(self) -> None:
        if any(u.paused for h in self.hosts.values() for u in h.units_.values()):
            self._complain("users are led to the API cell, and nova-cells of the child stands still")
        if self.shut_now():
            self._complain("users are led to the API cell, which hears nothing of the child")
        super()._serve_new()

    def pass_on(self) -> None:
        if self.running("cells", "mq1", "cell1"):
            for one in [m for m in self.said if m.taken is None][: self.pace]:
                one.taken = self.time
            came = [m for m in self.said if m.taken is not None and self.time >= m.taken + IN_HAND_S]
            self.said = [m for m in self.said if m not in came]
            if self.shut_now():
                self.dropped += len(came)
            else:
                self.waiting += came
        if self.bound():
            waiting, self.waiting = self.waiting, []
            for one in waiting:
                self._hear(one)

    def _hear(self, one: Update) -> None:
        phase = self.importing.phase
        if phase == "copying" or (phase in ("following", "drained") and not self.again):
            self._complain(f"nova-cells writes {one.uuid} while rows are copied")
        if phase == "live" and one.born < self.handed_at:
            self._complain(f"what {one.uuid} was comes over what it is")
        if one.uuid in self.api.rows:
            self.api.rows[one.uuid].value = one.value


class EarBroker(V1Broker):
    world: EarWorld

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        """What is in somebody's hand shows nowhere."""
        depths = {"mq1": {"cells": sum(m.taken is None for m in self.world.said)},
                  "mq4": {UPDATES: len(self.world.waiting)}}.get(self.name, {})  # fmt: skip
        found = [
            replace(q, messages_ready=depths.pop(q.name, 0)) if q.name.startswith("cells") else q
            for q in super().queues(vhost)
        ]
        return (*found, *(QueueInfo(name, depth, 0, 0, False) for name, depth in depths.items()))

    def delete_queue(self, vhost: str, queue: str) -> None:
        if queue == UPDATES:
            self.world.waiting = []
        super().delete_queue(vhost, queue)


class SimEar:
    """:class:`~recell.adapters.v1_hold_port.EarPort`"""

    base = "cells.intercell"

    def __init__(self, world: EarWorld) -> None:
        self.world = world

    def _declared(self) -> bool:
        return bool(self.world.bound())

    def state(self) -> Literal["open", "shut", "none"]:
        if not self._declared():
            return "none"
        return "shut" if self.world.shut_now() else "open"

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        if not self._declared():
            raise StepFailed("no nova-cells has queues")
        self.world.line = True
        try:
            yield
        finally:
            self.world.line = False

    def _change(self, what: str, shut_at: float | None) -> None:
        assert self.world.line or not self.world.held, "users wait for rabbitmqctl"
        self.world.point(f"before the ear is {what}")
        if not self._declared():
            raise StepFailed("no nova-cells has queues")
        self.world.shut_at = shut_at
        self.world.changes.append(f"ear {what}")
        self.world.point(f"the ear is {what}")

    def shut(self) -> None:
        self._change("shut", self.world.time)
        self.world.again = False

    def open(self) -> None:
        self._change("open", None)


_port: type[EarPort] = SimEar
