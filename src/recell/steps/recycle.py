"""Restart a nova-compute for the sake of its configuration; its guests don't notice."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from recell.adapters.ports import processes_of
from recell.model.step import Direction, Finding
from recell.planning.queues import queues_of_compute
from recell.steps.rising import Queue, Rises


class RecycleCompute(Rises):
    """Wait until nothing is under way on the host, hold deliveries off, end it, start it. ``broker``,
    ``vhost``, ``cell``, ``nova_host``: where it takes messages, and what Nova calls it.

    What users ask of its instances meanwhile waits until it serves, and then happens.
    """

    kind: ClassVar[str] = "recycle-compute"

    def _own_queues(self) -> list[Queue]:
        return [(str(self.param("vhost")), name) for name in queues_of_compute(self._nova_host())]

    def consuming(self, broker: str, vhost: str, topics: list[str]) -> bool:
        """By its own connections: while it starts recell takes from its queues, too."""
        unit = self.unit()
        if not unit.running or self.is_lost(broker):
            return False
        processes = processes_of(unit, self.host.processes())
        sockets = self.host.sockets(sorted(p.pid for p in processes))
        if not sockets:
            return False  # asking the broker costs seconds
        peers = {(s.local_ip, s.local_port) for s in sockets}
        told = {str(p.told_pid) for p in processes}
        taken = {
            c.queue
            for c in self.world.broker(broker).consumers(vhost)
            if (c.peer_host, c.peer_port) in peers or {*c.client_name.split(":")[1:2]} & told
        }
        return {f"{topic}.{self._nova_host()}" for topic in topics} <= taken

    def _serves(self) -> bool:
        return self.consuming(str(self.param("broker")), str(self.param("vhost")), ["compute"])

    def look(self, toward: Direction) -> Finding:
        unit, topic = self.unit(), f"compute.{self._nova_host()}"
        if self.fresh() and self._serves():
            if self._has_aside():
                return Finding.partial("tasks that were set aside are not put back yet")
            return Finding.done(f"{unit.name} serves {topic}, newer than its configuration")
        if unit.running:
            return Finding.not_done("older than its configuration")
        return Finding.partial(f"{unit.name} is {unit.active}")

    def keeping(self, toward: Direction) -> AbstractContextManager[None]:
        return nullcontext() if self.is_lost(str(self.param("broker"))) else super().keeping(toward)

    def act(self, toward: Direction) -> None:
        with self.keeping(toward):
            if self._is_up():
                self.finish_rising(toward)
            if self._is_up() and not self.fresh():
                self.await_quiet()
                held = self.world.stop_rpc_server(
                    self.spec.where,
                    str(self.param("unit")),
                    str(self.param("broker")),
                    str(self.param("vhost")),
                    self.limit("stop_s"),
                    idle=self.at_work(),
                )
                self.deliveries_held(toward, held)
            self.rise(toward, self._serves)
        self.await_consuming(str(self.param("broker")), str(self.param("vhost")), ["compute"])

    def _is_up(self) -> bool:
        return self.unit().active not in ("inactive", "failed")
