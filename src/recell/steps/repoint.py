"""Restart a client of RabbitMQ so that it connects to the other side's nodes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

from recell.adapters.ports import ConnectionInfo, Consumer, World, processes_of
from recell.adapters.rpc import runs
from recell.adapters.together import Once
from recell.errors import StepFailed, Unreachable
from recell.model.plan import PlanStep
from recell.model.step import Direction, Finding, Truth
from recell.steps.base import Context
from recell.steps.beat import Away
from recell.steps.rising import Rises
from recell.steps.units import POLL_S, Renewed

BETWEEN_S = 5.0
"""While it starts, the bridge is looked at this often: rabbitmqctl takes seconds for it."""


class Looks:
    """What RabbitMQ says of its clients, asked once for all who look at the same time: it takes seconds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: dict[tuple[str, ...], Once[Any]] = {}

    def connections(self, host: str) -> tuple[ConnectionInfo, ...]:
        found: tuple[ConnectionInfo, ...] = self._of(
            lambda: self._world.broker(host).connections(), "connections", host
        )
        return found

    def consumers(self, host: str, vhost: str) -> tuple[Consumer, ...]:
        found: tuple[Consumer, ...] = self._of(
            lambda: self._world.broker(host).consumers(vhost), "consumers", host, vhost
        )
        return found

    def _of(self, ask: Callable[[], Any], *key: str) -> Any:
        return self._asked.setdefault(key, Once(ask))()


class Repoint(Renewed, Rises):
    """``unit``; ``vhost``; ``queues`` that it took from; ``addresses`` that it connects from; ``sides``:
    ``{"keep": [[host, node], ...], "new": ...}``. Forward it goes to the new side, backward to the kept one.

    ``lazy``: it connects only when it has something to say. ``url``: where it has to answer; ``servers`` of
    load balancers that send it nothing meanwhile. ``cell`` and ``nova_host``: it is a nova-compute, which
    Nova takes for down when it is silent for ``down_s``.
    ``because``: steps that write cells' mappings, which it reads once.

    An RPC server is ended as everywhere: what is on its way to it stays in the broker for its successor. A
    nova-compute gets it when it serves.
    """

    kind: ClassVar[str] = "repoint"

    def __init__(
        self, spec: PlanStep, context: Context, looks: Looks | None = None, away: Away | None = None
    ) -> None:
        super().__init__(spec, context)
        self._looks = looks or Looks(context.world)
        self._away = away or Away(context.world)

    def _turn(self) -> int:
        return sum(int(self.context.journal.recall(s, "turn", 0)) for s in self.param("because", []))

    def _mine(self) -> dict[str, tuple[ConnectionInfo, ...]]:
        """Its connections, by the host that was asked."""
        unit = self.unit()
        if not unit.running:
            return {}
        processes = processes_of(unit, self.host.processes())
        by_pid = {p.told_pid: p for p in processes}
        found = {}
        for side in ("keep", "new"):
            asked = str(self.param("sides")[side][0][0])
            try:
                connections = self._looks.connections(asked)
            except Unreachable:
                if side == "keep":
                    raise
                continue  # a new node that is blank or restarting: nobody is on it
            found[asked] = tuple(
                c
                for c in connections
                if c.pid in by_pid and runs(c.program, by_pid[c.pid])
                if c.peer_host in self.param("addresses")
            )
        return found

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        target = {str(node) for _, node in self.param("sides")[self._to(toward)]}
        if not unit.running:
            return Finding.partial(f"{unit.name} is {unit.active}")
        mine = self._mine()
        nodes = {c.node for found in mine.values() for c in found}
        if not self._reads_its_own(toward, nodes):
            return Finding.not_done(f"{unit.name} is older than what it reads")
        if nodes - target or not (nodes or self.param("lazy")):
            return Finding.not_done(f"{unit.name} is on {', '.join(sorted(nodes)) or 'no node'}")
        missing = self._missing(toward, {c.name for found in mine.values() for c in found})
        if missing:
            return Finding.partial(f"{unit.name} does not take from {', '.join(sorted(missing))} yet")
        if self.param("url") and (said := self.answers()).truth is not Truth.DONE:
            return said
        if self._has_aside():
            return Finding.partial("tasks that were set aside are not put back yet")
        return Finding.done(f"{unit.name} is on {', '.join(sorted(nodes)) or 'no node yet, and is new'}")

    def _missing(self, toward: Direction, connections: set[str]) -> set[str]:
        """Queues that it doesn't take from yet."""
        wanted = set(self.param("queues"))
        if not wanted:
            return wanted
        asked = str(self.param("sides")[self._to(toward)][0][0])
        consumers = self._looks.consumers(asked, str(self.param("vhost")))
        return wanted - {c.queue for c in consumers if c.connection in connections}

    def act(self, toward: Direction) -> None:
        if self.is_compute():
            self._away.beside([partial(self.move, toward)], *self.meanwhile())
        else:
            self.move(toward)

    def meanwhile(self) -> tuple[Callable[[], object], ...]:
        """What is done every second beside a nova-compute's move. Raises no error."""
        return ()

    def move(self, toward: Direction) -> None:
        """:meth:`act`, for whoever keeps nova-computes up meanwhile."""
        try:
            self._move(toward)
        finally:
            self._is_away(0.0)

    def _is_away(self, limit_s: float) -> None:
        """A nova-compute that does not report is up for Nova; for so long at most, 0: no longer."""
        if not self.is_compute():
            return
        cell, host = str(self.param("cell")), str(self.param("nova_host"))
        if limit_s:
            self._away.leave(cell, host, float(self.param("down_s", 60.0)), limit_s)
        else:
            self._away.back(cell, host)

    def _move(self, toward: Direction) -> None:
        name = str(self.param("unit"))
        self.nobody_is_served()
        self.note_old()
        with self.keeping(toward):
            if self.unit().active not in ("inactive", "failed") and not self._begun_anew(toward):
                self._end_all(toward)
            self._is_away(self.limit("start_s"))
            self.begin(toward)
        began = asked = self.world.clock()
        while self.look(toward).truth is not Truth.DONE:
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{name} on {self.spec.where}: {self.look(toward).why}",
                    f"See journalctl -u {name} there, then: recell resume, or recell undo",
                )
            if self.world.clock() - asked > BETWEEN_S:
                self.between(toward)
                asked = self.world.clock()
            self.world.wait(POLL_S)
        self.warm()

    def between(self, toward: Direction) -> None:
        """It has ended on one side and not yet begun to serve on the other; asked again until it does."""
        return

    def begin(self, toward: Direction) -> None:
        """It has ended, or begun anew by a run that was killed."""
        if self.is_compute():
            self.rise(toward, partial(self._serves, toward))
            return
        self.between(toward)
        self.start_unit(str(self.param("unit")))

    def _serves(self, toward: Direction) -> bool:
        mine = {c.name for found in self._mine().values() for c in found}
        return self.unit().running and not self._missing(toward, mine)

    def keeping(self, toward: Direction) -> AbstractContextManager[None]:
        brokers = [str(nodes[0][0]) for nodes in self.param("sides").values()]
        if not self.is_compute() or any(self.is_lost(broker) for broker in brokers):
            return nullcontext()
        return super().keeping(toward)

    def _end_all(self, toward: Direction) -> None:
        if self.param("url") and not self.param("queues"):
            # It serves users alone, and they are led elsewhere, or know; it ends what it is at by itself.
            self.host.systemctl("stop", str(self.param("unit")))
            return
        for asked, found in (self._mine() or {"": ()}).items():
            # While the cluster is one, both sides know its connections. Ended, it gets tasks and no rest.
            if (found or not asked) and self.unit().active not in ("inactive", "failed"):
                self._end(toward, asked)
        if self.unit().active not in ("inactive", "failed"):
            self._end(toward, str(self.param("sides")["keep"][0][0]))

    def _end(self, toward: Direction, asked: str) -> None:
        host = asked or str(self.param("sides")["keep"][0][0])
        if not self.is_compute():
            self.end(toward, host, str(self.param("vhost")))
            return
        self.finish_rising(toward)
        if not self.is_lost(host):
            self.await_quiet()
        self._is_away(self.limit("stop_s"))
        held = self.world.stop_rpc_server(
            self.spec.where,
            str(self.param("unit")),
            host,
            str(self.param("vhost")),
            self.limit("stop_s"),
            idle=self.at_work(),
            lost=self.is_lost(host),
        )
        self.deliveries_held(toward, held)

    def _begun_anew(self, toward: Direction) -> bool:
        """By a run that was killed before it saw the unit connected: it reads the new file already."""
        target = {str(node) for _, node in self.param("sides")[self._to(toward)]}
        nodes = {c.node for f in self._mine().values() for c in f}
        return self._reads_its_own(toward, nodes) and nodes <= target

    def _reads_its_own(self, toward: Direction, nodes: set[str]) -> bool:
        """It is newer than what it reads. Or it has never been away: a file that was put back is younger than
        a process that never read the other one, and where that is connected tells."""
        if toward == "backward" and not self.param("because"):
            kept = {str(node) for _, node in self.param("sides")["keep"]}
            if nodes and nodes <= kept:
                return True
        return self.renewed(toward)
