"""Tasks that wait for a nova-compute which is being restarted, kept from it until it serves.

nova-compute looks at its instances' tasks when it starts: it forgets a reboot whose message still waits, and
does a stop or start at once, so that the message behind it fails. While a bridge stands between two brokers,
messages wait at the one that it left until a shovel brings them. So their tasks are set aside before it
looks, and put back before the shovel is there. Meanwhile these instances refuse another task, as they do
anyway.
"""

from __future__ import annotations

from typing import Any

from recell.steps.base import Context

FENCE = "updating_password"
"""A task that nova-compute's start leaves alone, and that nobody's request waits for."""
AT_START = (
    "powering-off", "powering-on", "rebooting", "rebooting_hard", "pausing", "unpausing", "suspending",
    "resuming",
)  # fmt: skip
"""Tasks that nova-api sends to nova-compute itself, and that nova-compute tidies up when it starts."""
_MEMORY = "tasks"


class Aside:
    """The journal knows them, by host: ``{"cell": uuid, "tasks": {instance: task}}``. A step that is killed
    leaves them to whoever next looks after the bridge."""

    def __init__(self, context: Context) -> None:
        self._journal = context.journal
        self._nova = context.world.nova

    def known(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self._journal.recall(_MEMORY, "aside", {})
        return found

    def take(self, cell: str, host: str) -> None:
        """What waits for this host now. Noted before it is changed."""
        rows = self._nova().query(
            cell,
            "SELECT uuid, task_state FROM instances WHERE deleted = 0 AND host = %s AND task_state IN %s",
            [host, AT_START],
        )
        if not rows:
            return
        known = self.known()
        tasks = dict(known.get(host, {}).get("tasks", {}))
        tasks |= {str(r["uuid"]): str(r["task_state"]) for r in rows}
        self._journal.remember(_MEMORY, "aside", {**known, host: {"cell": cell, "tasks": tasks}})
        for row in rows:
            self._nova().swap_task(cell, str(row["uuid"]), str(row["task_state"]), FENCE)

    def put_back(self) -> int:
        """All of them, of every host; an instance that was deleted meanwhile is left alone. How many."""
        known = self.known()
        if not known:
            return 0
        done = 0
        for one in known.values():
            for uuid, task in one["tasks"].items():
                done += self._nova().swap_task(str(one["cell"]), uuid, FENCE, task)
        self._journal.remember(_MEMORY, "aside", {})
        return done

    def last_report(self, cell: str, host: str) -> str | None:
        """When nova-compute there last said that it serves, which it does after its start; None: unknown."""
        rows = self._nova().query(
            cell,
            "SELECT CAST(last_seen_up AS CHAR) AS seen FROM services"
            " WHERE deleted = 0 AND host = %s AND `binary` = 'nova-compute'",
            [host],
        )
        return str(rows[0]["seen"]) if rows else None
