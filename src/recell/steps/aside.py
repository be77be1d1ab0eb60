"""Tasks that wait for a nova-compute which is being restarted, kept from it until it serves.

nova-compute looks at its instances' tasks when it starts: it forgets a reboot whose message still waits, and
does a stop or start at once, so that the message behind it fails. While a bridge stands between two brokers,
messages wait at the other one until a shovel brings them: those that are sent to the one on which it begins
are brought away from there meanwhile. So their tasks are set aside before it looks, and put back before that
shovel is there. Meanwhile these instances refuse another task, as they do anyway.

Without a bridge messages wait in recell's own room (:mod:`recell.steps.rising`), and come to it when recell
dies. One that finds its task aside fails, and Nova leaves the task as it is; such a task is let go.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from recell.planning.bridge import Side
from recell.steps.base import Context

FENCE = "updating_password"
"""A task that nova-compute's start leaves alone, and that nobody's request waits for."""
AT_START = (
    "powering-off", "powering-on", "rebooting", "rebooting_hard", "pausing", "unpausing", "suspending",
    "resuming",
)  # fmt: skip
"""Tasks that nova-api sends to nova-compute itself, and that nova-compute tidies up when it starts."""
_MEMORY = "tasks"
_ONE = threading.RLock()
"""Several nova-computes may start at once, and the journal has one record of all of them."""


class Aside:
    """The journal knows them, by host: ``{"cell": uuid, "tasks": {instance: task}, "ended": {instance:
    number}, "before": report, "side": side, "queues": [[vhost, name], ...]}``. A step that is killed leaves
    them to whoever next looks after the bridge, or moves this nova-compute.

    ``ended``: how many events of nova-computes had ended in an instance's history. One more, and its message
    has come to an end, too: nobody waits for this task any longer.

    ``before``: what nova-compute's service record said last when it was started on ``side``. Until it says
    something else it *rises*: it may not have looked at its tasks yet, so they stay aside, and what is sent
    to its own ``queues`` on the other side, whoever looks after the bridge.
    """

    def __init__(self, context: Context) -> None:
        self._journal = context.journal
        self._nova = context.world.nova

    def known(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self._journal.recall(_MEMORY, "aside", {})
        return found

    def begin(self, cell: str, host: str, side: Side, queues: Iterable[tuple[str, str]]) -> None:
        """Its nova-compute is to start there. Noted before it does."""
        own = [list(queue) for queue in queues]
        self._note(host, cell=cell, before=self._last_report(cell, host), side=side, queues=own)

    def end(self, host: str) -> None:
        """It has risen, or is not waited for any longer."""
        with _ONE:
            if host in self.known():
                self._note(host, before=None)

    def take(self, host: str) -> bool:
        """What waits for this host now, as long as it rises. Noted before it is changed. Whether it rises."""
        with _ONE:
            one = self.known().get(host, {})
            if not self._rises(host, one):
                return False
            cell = str(one["cell"])
            rows = self._nova().query(
                cell,
                "SELECT uuid, task_state FROM instances WHERE deleted = 0 AND host = %s AND task_state IN %s",
                [host, AT_START],
            )
            if rows:
                found = {str(r["uuid"]): str(r["task_state"]) for r in rows}
                ended = {**one.get("ended", {}), **self._ended(cell, list(found))}
                self._note(host, tasks={**one["tasks"], **found}, ended=ended)
            for row in rows:
                self._nova().swap_task(cell, str(row["uuid"]), str(row["task_state"]), FENCE)
            return True

    def put_back(self) -> dict[tuple[str, str], Side]:
        """All of them, of every host that does not rise; an instance that was deleted meanwhile is left
        alone, and a task whose message has come already is let go. Queues of those that rise, and on which
        side."""
        with _ONE:
            known = self.known()
            stay = {host: one for host, one in known.items() if self._rises(host, one)}
            for host, one in known.items():
                tasks = one["tasks"] if host not in stay else {}
                now = self._ended(str(one["cell"]), list(tasks)) if tasks else {}
                for uuid, task in tasks.items():
                    came = now[uuid] > one.get("ended", {}).get(uuid, now[uuid])
                    self._nova().swap_task(str(one["cell"]), uuid, FENCE, None if came else task)
            if stay != known:
                self._journal.remember(_MEMORY, "aside", stay)
            return {
                (str(vhost), str(name)): "keep" if one["side"] == "keep" else "new"
                for one in stay.values()
                for vhost, name in one.get("queues", [])
            }

    def _note(self, host: str, **said: Any) -> None:
        with _ONE:
            known = self.known()
            one = {"tasks": {}, **known.get(host, {}), **said}
            self._journal.remember(_MEMORY, "aside", {**known, host: one})

    def _ended(self, cell: str, instances: list[str]) -> dict[str, int]:
        """Of each: how many events of nova-computes have ended."""
        rows = self._nova().query(
            cell,
            "SELECT a.instance_uuid AS uuid, COUNT(*) AS ended FROM instance_actions a"
            " JOIN instance_actions_events e ON e.action_id = a.id"
            " WHERE a.instance_uuid IN %s AND e.event LIKE 'compute%%' AND e.finish_time IS NOT NULL"
            " GROUP BY a.instance_uuid",
            [instances],
        )
        return {**dict.fromkeys(instances, 0), **{str(r["uuid"]): int(r["ended"]) for r in rows}}

    def _rises(self, host: str, one: dict[str, Any]) -> bool:
        before = one.get("before")
        return before is not None and self._last_report(str(one["cell"]), host) == before

    def _last_report(self, cell: str, host: str) -> str | None:
        """How often nova-compute there has said that it serves, which it does after its start; None: unknown.
        When it last did so tells nothing: recell keeps it up meanwhile."""
        rows = self._nova().query(
            cell,
            "SELECT report_count AS seen FROM services"
            " WHERE deleted = 0 AND host = %s AND `binary` = 'nova-compute'",
            [host],
        )
        return str(rows[0]["seen"]) if rows else None
