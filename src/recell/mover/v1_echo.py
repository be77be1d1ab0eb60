"""Rows of the API cell that its nova-cells has written while they are copied.

It should be deaf meanwhile, but binds its queues again whenever it connects again. What it writes then is
what the child has said of its own instances, so the child's row is the truth: it is read and written again.
"""

from __future__ import annotations

from contextlib import closing

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import Key, among, name
from recell.model.scope import Scope
from recell.mover.v1_failed import CHILDREN

__all__ = ["Heard"]

_OWNER = {
    **CHILDREN,
    "instances": "uuid",
    "bw_usage_cache": "uuid",
    "migrations": "instance_uuid",
    "security_group_instance_association": "instance_uuid",
}
"""Tables that updates from below are written to, and the column that says whose a row is."""


class Heard:
    """:data:`~recell.mover.feed.Echo`. ``rows``: how many were."""

    def __init__(self, child: Endpoint, api: Endpoint, scope: Scope) -> None:
        self._child, self._api = child, api
        self._keys = {e.table.name: e.table.key for e in scope.moving}
        self.rows = 0

    def __call__(self, table: str, key: Key) -> bool:
        """An instance that the API cell alone has was made there by somebody: nothing of it is touched."""
        column = _OWNER.get(table)
        if column is None:
            return False
        where, args = among(self._keys[table], [key])
        with closing(Session(self._api)) as session:
            found = session.query(f"SELECT {name(column)} FROM {name(table)} WHERE {where}", args)
        if found and not self._known(found[0][0]):
            return False
        self.rows += 1
        return True

    def _known(self, uuid: object) -> bool:
        with closing(Session(self._child)) as session:
            return bool(session.query("SELECT 1 FROM instances WHERE uuid = %s LIMIT 1", (uuid,)))
