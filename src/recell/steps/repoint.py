"""Restart a client of RabbitMQ so that it connects to the other side's nodes."""

from __future__ import annotations

from typing import ClassVar

from recell.adapters.ports import ConnectionInfo, processes_of
from recell.errors import StepFailed, Unreachable
from recell.model.step import Direction, Finding
from recell.steps.units import POLL_S, UnitStep


class Repoint(UnitStep):
    """``unit``; ``vhost``; ``queues`` that it took from; ``addresses`` that it connects from; ``sides``:
    ``{"keep": [[host, node], ...], "new": ...}``. Forward it goes to the new side, backward to the kept one.

    An RPC server is ended as everywhere: what is on its way to it stays in the broker for its successor.
    """

    kind: ClassVar[str] = "repoint"

    def _side(self, toward: Direction) -> str:
        return "new" if toward == "forward" else "keep"

    def _mine(self) -> dict[str, tuple[ConnectionInfo, ...]]:
        """Its connections, by the host that was asked."""
        unit = self.unit()
        if not unit.running:
            return {}
        processes = processes_of(unit, self.host.processes())
        pids = {p.told_pid for p in processes}
        words = {w.rsplit("/", 1)[-1] for p in processes for w in p.argv}
        found = {}
        for side in ("keep", "new"):
            asked = str(self.param("sides")[side][0][0])
            try:
                connections = self.world.broker(asked).connections()
            except Unreachable:
                if side == "keep":
                    raise
                continue  # a new node that is blank or restarting: nobody is on it
            found[asked] = tuple(
                c
                for c in connections
                if c.pid in pids and c.program in words and c.peer_host in self.param("addresses")
            )
        return found

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        target = {str(node) for _, node in self.param("sides")[self._side(toward)]}
        if not unit.running:
            return Finding.partial(f"{unit.name} is {unit.active}")
        mine = self._mine()
        nodes = {c.node for found in mine.values() for c in found}
        if not self.fresh() or not nodes or nodes - target:
            return Finding.not_done(f"{unit.name} is on {', '.join(sorted(nodes)) or 'no node'}")
        names = {c.name for found in mine.values() for c in found}
        asked = str(self.param("sides")[self._side(toward)][0][0])
        taken = {
            c.queue
            for c in self.world.broker(asked).consumers(str(self.param("vhost")))
            if c.connection in names
        }
        missing = set(self.param("queues")) - taken
        if missing:
            return Finding.partial(f"{unit.name} does not take from {', '.join(sorted(missing))} yet")
        return Finding.done(f"{unit.name} is on {', '.join(sorted(nodes))}")

    def act(self, toward: Direction) -> None:
        name = str(self.param("unit"))
        unit = self.unit()
        if unit.active not in ("inactive", "failed") and not self._begun_anew():
            for asked, found in (self._mine() or {"": ()}).items():
                if found or not asked:
                    self._end(toward, asked)
            if self.unit().active not in ("inactive", "failed"):
                self._end(toward, str(self.param("sides")["keep"][0][0]))
        self.between(toward)
        self.host.systemctl("start", name)
        began = self.world.clock()
        while self.look(toward).truth.value != "done":
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{name} on {self.spec.where}: {self.look(toward).why}",
                    f"See journalctl -u {name} there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)

    def between(self, toward: Direction) -> None:
        """It has ended on one side and not begun on the other."""
        return

    def _end(self, toward: Direction, asked: str) -> None:
        host = asked or str(self.param("sides")["keep"][0][0])
        self.end(toward, host, str(self.param("vhost")))

    def _begun_anew(self) -> bool:
        """By a run that was killed before it saw the unit connected: it reads the new file already."""
        return self.fresh() and not any(self._mine().values())
