"""Restart a nova-compute for the sake of its configuration; its guests don't notice."""

from __future__ import annotations

from typing import ClassVar

from recell.errors import StepFailed
from recell.model.step import Direction, Finding
from recell.steps.units import UnitStep

POLL_S = 0.5


TASKS = "SELECT uuid AS what FROM instances WHERE deleted = 0 AND host = %s AND task_state IS NOT NULL"
"""Of a nova-compute by its host: instances that it has something to do with."""
BEGUN = (
    "SELECT e.event AS what FROM instance_actions_events e JOIN instance_actions a ON a.id = e.action_id"
    " LEFT JOIN instances i ON i.uuid = a.instance_uuid"
    " WHERE e.host = %s AND e.finish_time IS NULL"
    " AND e.event LIKE 'compute%%' AND e.start_time >= FROM_UNIXTIME(%s)"
    " AND (i.deleted = 0 OR e.event LIKE '%%terminate%%')"
)
"""By its host and the time it started: what it has begun and not ended. Of an instance that was deleted as
soon as it was there Nova never writes when its build ended; its deletion waited for that."""


class ComputeMoments(UnitStep):
    """When a nova-compute may be ended. ``cell``: uuid; ``nova_host``: what Nova calls its host."""

    def await_quiet(self) -> None:
        """A moment without a task on this host: there is one soon, even on a busy cloud."""
        began = self.world.clock()
        while tasks := self._rows(TASKS):
            if self.world.clock() - began > self.limit("quiet_s"):
                raise StepFailed(
                    f"{self.spec.where} is never without a task: {', '.join(tasks[:3])}",
                    "See what these instances wait for, then: recell resume",
                )
            self.world.wait(POLL_S)

    def begun(self) -> str:
        """What this nova-compute has begun and not ended since it started."""
        since = self.unit().started_at
        return ", ".join(self._rows(BEGUN, since))

    def _rows(self, sql: str, *more: float) -> list[str]:
        rows = self.world.nova().query(str(self.param("cell")), sql, [self.param("nova_host"), *more])
        return [str(r["what"]) for r in rows]


class RecycleCompute(ComputeMoments):
    """Wait until nothing is under way on the host, hold deliveries off, end it, start it.

    What users ask meanwhile waits in the broker and then happens; but for a reboot: Nova itself
    forgets one that was asked for while nova-compute was down (it clears the task state at start).
    """

    kind: ClassVar[str] = "recycle-compute"

    def _serves(self) -> bool:
        return self.consuming(str(self.param("broker")), str(self.param("vhost")), ["compute"])

    def _topic(self) -> str:
        return f"compute.{self.param('nova_host')}"

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        if self.fresh() and self._serves():
            return Finding.done(f"{unit.name} serves {self._topic()}, newer than its configuration")
        return (
            Finding.not_done("older than its configuration")
            if unit.running
            else Finding.partial(f"{unit.name} is {unit.active}")
        )

    def act(self, toward: Direction) -> None:
        name = str(self.param("unit"))
        if not self.fresh() and self.unit().active not in ("inactive", "failed"):
            self.await_quiet()
            held = self.world.stop_rpc_server(
                self.spec.where,
                name,
                str(self.param("broker")),
                str(self.param("vhost")),
                self.limit("stop_s"),
                idle=self.begun,
            )
            self.deliveries_held(toward, held)
        self.host.systemctl("start", name)
        self.await_consuming(str(self.param("broker")), str(self.param("vhost")), ["compute"])
