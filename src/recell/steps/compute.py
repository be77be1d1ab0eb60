"""When a nova-compute may be ended: a moment in which it is at nothing."""

from __future__ import annotations

from collections.abc import Callable

from recell.errors import StepFailed
from recell.steps.base import BaseStep
from recell.steps.units import UnitStep

POLL_S = 0.5


TASKS = "SELECT uuid AS what FROM instances WHERE deleted = 0 AND host = %s AND task_state IS NOT NULL"
"""Of a nova-compute by its host: instances that it has something to do with."""
_MOVES_HERE = (
    "EXISTS (SELECT 1 FROM migrations m WHERE m.instance_uuid = a.instance_uuid AND m.deleted = 0"
    " AND %s IN (m.source_compute, m.dest_compute)"
    " AND m.status NOT IN ('confirmed', 'reverted', 'error', 'failed', 'completed', 'done', 'cancelled'))"
)
BEGUN = (
    "SELECT e.event AS what FROM instance_actions_events e"  # noqa: S608  # ours
    " JOIN instance_actions a ON a.id = e.action_id LEFT JOIN instances i ON i.uuid = a.instance_uuid"
    f" WHERE (e.host = %s OR e.host IS NULL AND (i.host = %s OR {_MOVES_HERE}"
    " OR i.host IS NULL AND e.start_time >= UTC_TIMESTAMP() - INTERVAL 60 SECOND))"
    " AND e.finish_time IS NULL"
    " AND e.event LIKE 'compute%%' AND e.start_time >= FROM_UNIXTIME(%s)"
    " AND (i.deleted = 0 OR e.event LIKE '%%terminate%%')"
    " AND NOT EXISTS (SELECT 1 FROM instance_actions_events o WHERE o.action_id = e.action_id"
    " AND o.event = e.event AND o.id <> e.id AND o.finish_time >= e.start_time)"
)
"""By its host (three times) and the time it started: what it has begun and not ended. Of an instance that was
deleted as soon as it was there Nova never writes when its build ended; its deletion waited for that. A
nova-compute that was restarted takes up a task by itself, and once more when its message comes: then an
action has an event twice, and Nova writes the end of both into one of them. Before Rocky no event says its
host: there it is the instance's, or one that it moves to, or not known yet while it is being built."""
NAMES_HOSTS = (
    "SELECT COUNT(host) AS named FROM"
    " (SELECT host FROM instance_actions_events ORDER BY id DESC LIMIT 1000) AS last"
)
SHOWS_NOWHERE_S = 15.0
"""Until Mitaka attaching and detaching have no event and no task: a nova-compute that takes nothing any more
gets the time that they take."""


class Compute:
    """A nova-compute on ``host``, in ``cell`` (a uuid); ``name``: what Nova calls its host."""

    def __init__(self, step: BaseStep, host: str, cell: str, name: str) -> None:
        self._step, self._host, self._cell, self._name = step, host, cell, name

    def await_quiet(self, ways: str, poll_s: float, beat: Callable[[], object] = str) -> None:
        """A moment without a task on this host: there is one soon, even on a busy cloud.

        :param ways: what the operator may do where there is none. beat: done while it waits.
        """
        world = self._step.world
        began = world.clock()
        while tasks := self._rows(TASKS):
            if world.clock() - began > self._step.limit("quiet_s"):
                raise StepFailed(
                    f"{self._host} is never without a task: {', '.join(tasks[:3])}",
                    f"See what these instances wait for, then: {ways}",
                )
            beat()
            world.wait(poll_s)

    def begun(self, since: float) -> str:
        """What this nova-compute has begun and not ended since it started."""
        return ", ".join(self._rows(BEGUN, self._name, self._name, since))

    def at_work(self, since: float) -> Callable[[], str]:
        """:meth:`begun`, of a nova-compute that takes nothing from now on; in a release whose events don't
        say their host it is at something for some seconds in any case."""
        clock = self._step.world.clock
        until: float | None = None

        def ask() -> str:
            nonlocal until
            if until is None:
                until = clock() + self._shows_nowhere_for()
            return self.begun(since) or ("what shows nowhere" if clock() < until else "")

        return ask

    def _shows_nowhere_for(self) -> float:
        found = self._step.world.nova().query(self._cell, NAMES_HOSTS)
        silent = bool(found) and not found[0]["named"]
        return min(SHOWS_NOWHERE_S, self._step.limit("stop_s") / 2) if silent else 0.0

    def _rows(self, sql: str, *more: str | float) -> list[str]:
        rows = self._step.world.nova().query(self._cell, sql, [self._name, *more])
        return [str(r["what"]) for r in rows]


class ComputeMoments(UnitStep):
    """When a nova-compute may be ended. ``cell``: uuid; ``nova_host``: what Nova calls its host."""

    def _compute(self) -> Compute:
        return Compute(self, self.spec.where, str(self.param("cell")), self.param("nova_host"))

    def await_quiet(self) -> None:
        self._compute().await_quiet("recell resume", POLL_S)

    def at_work(self) -> Callable[[], str]:
        """Made right before it is ended."""
        return self._compute().at_work(self.unit().started_at)
