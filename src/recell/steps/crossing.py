"""Clients of RabbitMQ go from one cluster to another over a bridge, one or several at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import ClassVar

from recell.adapters.together import Once
from recell.errors import RecellError, StepFailed
from recell.model.plan import PlanStep
from recell.model.step import Direction, Finding, Truth
from recell.planning.bridge import Side, other
from recell.steps.base import BaseStep, Context
from recell.steps.beat import Away
from recell.steps.rabbit_bridge import SIDES, Bridge
from recell.steps.repoint import BETWEEN_S, Looks, Repoint
from recell.steps.rising import Queue

AWAY_S = 30.0
"""For what waits where a nova-compute begins to be brought away; it is down meanwhile."""


class Crossing:
    """The bridge for those who cross it at the same time: looked after for all of them at once."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._coming: dict[Queue, Side] = {}
        self._leaving: Counter[tuple[str, str, Side]] = Counter()
        self._counting = Lock()
        self.reconcile = Once(self._reconcile)
        self._stopped = Once(bridge.stopped)
        self._there = {side: Once(partial(bridge.taken_on, side)) for side in SIDES}
        self._looked: float | None = None

    @property
    def is_open(self) -> bool:
        return self._bridge.is_open

    def _reconcile(self) -> bool:
        try:
            return self._bridge.reconcile(dict(self._coming), dict(self._leaving))
        finally:
            self._looked = self._bridge.world.clock()

    def look_after(self) -> None:
        """Where nobody has for a while: those who cross wait for minutes, for a quiet moment or for a start
        with hundreds of guests, and other processes' new queues are to be reached meanwhile."""
        now = self._bridge.world.clock()
        if self._looked is None:
            self._looked = now  # the step before has
        if self.is_open and now - self._looked > BETWEEN_S:
            with suppress(RecellError):  # tried again; whoever needs it to move on is told
                self.reconcile()

    def expect(self, queues: Iterable[Queue], side: Side) -> None:
        """Somebody will take from them there in a moment."""
        for queue in queues:
            self._coming[queue] = side

    def arrived(self, queues: Iterable[Queue]) -> None:
        for queue in queues:
            self._coming.pop(queue, None)

    @contextmanager
    def leaving(self, takers: Counter[Queue], side: Side) -> Iterator[None]:
        """So many of their takers end on this side meanwhile. What others take from, too, is led to them
        before: the bridge takes seconds to be looked after, and nobody is to wait so long."""
        mine: Counter[tuple[str, str, Side]] = Counter()
        for (vhost, name), number in takers.items():
            mine[vhost, name, side] = number
        with self._counting:
            self._leaving += mine
        try:
            if mine:
                self.reconcile()
            yield
        finally:
            with self._counting:
                self._leaving -= mine

    def await_away(self, side: Side, queues: Collection[Queue]) -> None:
        self._bridge.await_away(queues, AWAY_S, self._there[side])

    def with_news(self, proof: str) -> str:
        return self._bridge.with_news(proof)

    def settle(self, limit: float) -> None:
        self._bridge.settle(limit, self.reconcile, self._stopped)


class BridgedRepoint(Repoint):
    """A client moves, over the bridge where one is open. ``bridge``: what :class:`Bridge` is told."""

    kind: ClassVar[str] = "repoint-bridged"

    def __init__(
        self,
        spec: PlanStep,
        context: Context,
        looks: Looks | None = None,
        away: Away | None = None,
        crossing: Crossing | None = None,
    ) -> None:
        super().__init__(spec, context, looks, away)
        self._crossing = crossing or Crossing(Bridge(context, self.param("bridge")))

    def between(self, toward: Direction) -> None:
        """What is sent to it comes over while it starts, and waits for it there; and the answers to what it
        asks others at its start come back. To a nova-compute nothing comes before it serves."""
        if self._crossing.is_open:
            if not self.is_compute():
                self._crossing.expect(self._queues(), self._to(toward))
            self._crossing.reconcile()

    def meanwhile(self) -> tuple[Callable[[], object], ...]:
        return (self._crossing.look_after,)

    def _takers(self, toward: Direction) -> tuple[Counter[Queue], Side]:
        """How often it takes from each of its queues, on the side where it is."""
        side = other(self._to(toward))
        asked, vhost = str(self.param("sides")[side][0][0]), str(self.param("vhost"))
        mine = {c.name for c in self._mine().get(asked, ())}
        wanted = {name for _, name in self._queues()}
        found = self._looks.consumers(asked, vhost) if mine and wanted else ()
        return Counter((vhost, c.queue) for c in found if c.connection in mine and c.queue in wanted), side

    def begin(self, toward: Direction) -> None:
        if self.is_compute() or not self._crossing.is_open:
            super().begin(toward)
            return
        self.start_unit(str(self.param("unit")))
        self.between(toward)  # which takes seconds, in which it starts

    def keeping(self, toward: Direction) -> AbstractContextManager[None]:
        """Where the bridge is open, messages wait at the other cluster."""
        return nullcontext() if self._crossing.is_open else super().keeping(toward)

    def keeps_away(self, toward: Direction) -> bool:
        return self._crossing.is_open or super().keeps_away(toward)

    def keep_away(self, toward: Direction, running: bool) -> None:
        if not self._crossing.is_open:
            super().keep_away(toward, running)
        elif not running:
            # What waits here already would meet its task as soon as it serves: of callers on this side, or
            # of a run that was killed when this nova-compute had been ended, and that is undone now.
            self.between(toward)
            self._crossing.await_away(self._to(toward), self._own_queues())

    def let_come(self, toward: Direction) -> None:
        if self._crossing.is_open:
            self.between(toward)
        else:
            super().let_come(toward)

    def _move(self, toward: Direction) -> None:
        try:
            if self.look(toward).truth.value != "done":
                if self._crossing.is_open and not self.is_compute():
                    with self._crossing.leaving(*self._takers(toward)):
                        super()._move(toward)
                else:
                    super()._move(toward)
        finally:
            self._crossing.arrived(self._queues())
        if self._crossing.is_open:
            self._crossing.settle(self.limit("start_s"))

    def prove(self, toward: Direction) -> str:
        return self._crossing.with_news(super().prove(toward))


class RepointWave(BaseStep):
    """Several clients move side by side, each as if it moved alone: its own quiet moment, its own start.

    ``moves``: for each what :class:`Repoint` is told of it, and its ``host``; what they have in common stands
    beside it. Where each is, the world tells: a run that was killed goes on with those that haven't moved.
    """

    kind: ClassVar[str] = "repoint-wave"

    def __init__(self, spec: PlanStep, context: Context) -> None:
        super().__init__(spec, context)
        looks, self._away = Looks(context.world), Away(context.world)
        bridge = self.param("bridge")
        self._crossing = crossing = Crossing(Bridge(context, bridge)) if bridge is not None else None
        self._members: list[Repoint] = []
        for own in self.param("moves"):
            end = "-back" if spec.acts == "backward" else ""
            common = {k: v for k, v in spec.params.items() if k not in ("moves", "wave")}
            one = replace(
                spec, id=f"{own['host']}/{own['unit']}{end}", where=own["host"], params={**common, **own}
            )
            if crossing is None:
                self._members.append(Repoint(one, context, looks, self._away))
            else:
                self._members.append(BridgedRepoint(one, context, looks, self._away, crossing))

    def guard(self, toward: Direction) -> None:
        for one in self._members:
            one.guard(toward)

    def _found(self, toward: Direction) -> list[tuple[Repoint, Finding]]:
        found = self.world.together([partial(one.look, toward) for one in self._members])
        return list(zip(self._members, found, strict=True))

    def look(self, toward: Direction) -> Finding:
        found = self._found(toward)
        left = [(one, f) for one, f in found if f.truth is not Truth.DONE]
        if not left:
            return Finding.done(_by_host(found))
        why = f"{len(left)} of {len(found)} have not moved: {_by_host(left)}"
        untouched = all(f.truth is Truth.NOT_DONE for _, f in found)
        return Finding.not_done(why) if untouched else Finding.partial(why)

    def prove(self, toward: Direction) -> str:
        proof = super().prove(toward)
        return self._crossing.with_news(proof) if self._crossing else proof

    def act(self, toward: Direction) -> None:
        left = [one for one, f in self._found(toward) if f.truth is not Truth.DONE]
        # A thread each: nobody's guests wait for another host's quiet moment, or for its longer start.
        moves = [partial(_trouble, partial(one.move, toward)) for one in left]
        meanwhile = (self._crossing.look_after,) if self._crossing else ()
        told = self._away.beside(moves, *meanwhile)
        wrong = [error for error in told if error is not None]
        failed = [error for error in wrong if isinstance(error, StepFailed)]
        if failed:
            total = len(self._members)
            raise StepFailed(
                f"{'; '.join(error.sentence for error in wrong)} ({total - len(wrong)} of the {total} of"
                f" {self.group} have moved)",
                failed[0].remedy,
            )
        if wrong:
            raise wrong[0]


def _trouble(act: Callable[[], None]) -> RecellError | None:
    """One that fails does not keep the others from their end."""
    try:
        act()
    except RecellError as error:
        return error
    return None


def _by_host(found: Iterable[tuple[Repoint, Finding]]) -> str:
    hosts: dict[str, list[str]] = {}
    for one, finding in found:
        hosts.setdefault(finding.why, []).append(one.spec.where)
    return "; ".join(f"{why} ({', '.join(where)})" for why, where in hosts.items())
