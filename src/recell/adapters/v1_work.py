"""What a Nova is at: in its database, in columns that all releases with cells v1 have, and on its broker.

Users wait while it is asked, so it must not take longer the more there is. Two of the tables are never
emptied and have no index by time: of these the first young row is found beforehand, and from then on only
rows from its number on are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from recell.adapters.ports import BrokerPort
from recell.adapters.together import together
from recell.errors import Unreachable

__all__ = ["UnderWay"]

STUCK_S = 900
"""What has not moved for so long is not waited for: a build that died, a task that nobody ends."""
RECENT_S = 600
"""An attachment or an event that was begun longer ago and has no end will have none."""
TOPICS = ("conductor", "scheduler", "compute", "consoleauth", "cert", "network", "console")
_MIGRATING = (
    "accepted", "queued", "preparing", "pre-migrating", "running", "migrating", "post-migrating", "reverting",
    "confirming",
)  # fmt: skip
_NAMED = 5
_UNSEEN = 1000
"""Numbers before the first young row that are looked at as well: a transaction that began earlier than a row
that is seen, and has not ended, has a smaller one."""
_EVENTS, _VOLUMES = "instance_actions_events", "block_device_mapping"
_YOUNG = {
    _EVENTS: "SELECT COALESCE((SELECT MIN(id) FROM instance_actions_events"
    " WHERE finish_time IS NULL AND start_time >= UTC_TIMESTAMP() - INTERVAL %s SECOND),"
    " (SELECT MAX(id) FROM instance_actions_events), 0) AS first",
    _VOLUMES: "SELECT COALESCE((SELECT MIN(id) FROM block_device_mapping"
    " WHERE created_at >= UTC_TIMESTAMP() - INTERVAL %s SECOND),"
    " (SELECT MAX(id) FROM block_device_mapping), 0) AS first",
}
_TASKS = (
    "SELECT 'task' AS kind, uuid AS what, task_state AS doing FROM instances"
    " WHERE deleted = 0 AND task_state IS NOT NULL"
    " AND COALESCE(updated_at, created_at) >= UTC_TIMESTAMP() - INTERVAL %s SECOND"
)
_OLD_TASKS = _TASKS.replace(">=", "<")
_KNOWS_BUILDS = (
    "SELECT 1 AS one FROM information_schema.columns WHERE table_schema = DATABASE()"
    " AND table_name = 'build_requests' AND column_name = 'instance_uuid'"
)
"""From Newton on. Before, nova-api itself puts an instance into the cell's database, where its task shows."""
_BUILDS = (
    "SELECT 'build' AS kind, instance_uuid AS what FROM build_requests"
    " WHERE created_at >= UTC_TIMESTAMP() - INTERVAL %s SECOND ORDER BY id"
)
# One statement: each of its parts asked alone would cost users a way to the database and back.
_ROWS = " UNION ALL ".join((
    _TASKS,
    "SELECT 'event', a.instance_uuid, e.event FROM instance_actions_events e"
    " JOIN instance_actions a ON a.id = e.action_id LEFT JOIN instances i ON i.uuid = a.instance_uuid"
    " WHERE e.id >= %s AND e.finish_time IS NULL"
    # Nova never ends the build of an instance that was deleted at once.
    " AND (i.deleted = 0 OR e.event LIKE '%%terminate%%')"
    " AND e.start_time >= UTC_TIMESTAMP() - INTERVAL %s SECOND",
    "SELECT 'volume', b.instance_uuid, NULL FROM block_device_mapping b"
    " JOIN instances i ON i.uuid = b.instance_uuid AND i.deleted = 0 AND i.vm_state <> 'error'"
    " WHERE b.id >= %s AND b.deleted = 0 AND b.volume_id IS NOT NULL AND b.connection_info IS NULL"
    " AND b.created_at >= UTC_TIMESTAMP() - INTERVAL %s SECOND",
    "SELECT 'migration', instance_uuid, NULL FROM migrations WHERE deleted = 0"
    " AND status IN (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " AND COALESCE(updated_at, created_at) >= UTC_TIMESTAMP() - INTERVAL %s SECOND",
))  # fmt: skip
_SAID = {
    "task": "{what} is {doing}", "event": "{doing} of {what}", "migration": "{what} is being migrated",
    "volume": "a volume is being attached to {what}", "build": "{what} is being built",
}  # fmt: skip


class Reader(Protocol):
    """A database: :class:`recell.adapters.nova_session.Database` has it."""

    def read(self, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]: ...


class UnderWay:
    """:class:`~recell.adapters.v1_hold_port.UnderWayPort`.

    :param child: the database of a standard Nova. api: its API database, None in a release without one.
    """

    def __init__(
        self, child: Reader, api: Reader | None, broker: Callable[[], BrokerPort], vhost: str
    ) -> None:
        self._child, self._api, self._broker, self._vhost = child, api, broker, vhost
        self._from: dict[str, int] = {}
        self._knows_builds: bool | None = None

    def stuck(self) -> tuple[str, ...]:
        return tuple(_said(row) for row in self._child.read(_OLD_TASKS, [STUCK_S]))

    def make_ready(self) -> None:
        for table, sql in _YOUNG.items():
            (row,) = self._child.read(sql, [RECENT_S])
            self._from[table] = max(0, int(row["first"]) - _UNSEEN)
        self.in_flight()

    def in_flight(self) -> tuple[str, ...]:
        # Side by side: each takes a way over the network and back, or a second of rabbitmqctl's.
        return tuple(chain(*together([self._rows, self._builds, lambda: tuple(self._messages())])))

    def _rows(self) -> tuple[str, ...]:
        args = [STUCK_S, self._from.get(_EVENTS, 0), RECENT_S, self._from.get(_VOLUMES, 0), RECENT_S,
                *_MIGRATING, RECENT_S]  # fmt: skip
        return tuple(_said(row) for row in self._child.read(_ROWS, args))

    def _builds(self) -> tuple[str, ...]:
        if self._api is None:
            return ()
        if self._knows_builds is None:
            self._knows_builds = self._has_builds(self._api)
        found = self._api.read(_BUILDS, [STUCK_S]) if self._knows_builds else ()
        return tuple(_said(row) for row in found)

    @staticmethod
    def _has_builds(api: Reader) -> bool:
        try:
            return bool(api.read(_KNOWS_BUILDS))
        except Unreachable as error:
            # Named in Kilo to Mitaka, and never made: nothing reads it there.
            if "does not exist" in error.sentence:
                return False
            raise

    def _messages(self) -> Iterator[str]:
        for queue in self._broker().queues(self._vhost):
            count = queue.messages_ready + queue.messages_unacknowledged
            # What waits for a compute that is down waits for it afterwards, too.
            if count and queue.consumers and queue.name.split(".")[0].split("_fanout")[0] in TOPICS:
                yield f"{count} messages in {queue.name}"


def _said(row: dict[str, Any]) -> str:
    return _SAID[str(row["kind"])].format(**row)


def named(found: Sequence[str]) -> str:
    """For a person: the first few, and how many more."""
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + more
