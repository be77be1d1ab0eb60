"""Rows of the API database that say whose hosts and instances are, changed while nobody looks them up."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from recell.adapters.nova_session import Database
from recell.errors import StalePlan, StepFailed
from recell.model.hosts import Flipped

__all__ = ["MappingHold"]

LEASE_S = 15
_BATCH = 1000


class MappingHold(Database):
    """Locks on host_mappings and instance_mappings, in a session of its own: whoever looks one up waits.

    The server lets go when this session ends, and ends it itself when it says nothing for ``LEASE_S``.
    """

    _cells: dict[str, int] | None = None

    def begin(self, limit_s: float) -> float:
        """How long it took to get the locks, in seconds: whoever comes meanwhile waits already.

        :raises StepFailed: a transaction that has read them doesn't end within ``limit_s``."""
        self.end()
        cells = {str(r["uuid"]): int(r["id"]) for r in self.read("SELECT id, uuid FROM cell_mappings")}
        try:
            with self._connected().cursor() as cursor:
                cursor.execute(
                    "SET SESSION lock_wait_timeout = %s, wait_timeout = %s",
                    (max(1, math.ceil(limit_s)), LEASE_S),
                )
                cursor.execute("SET SESSION autocommit = 0")
                began = time.monotonic()
                cursor.execute("LOCK TABLES host_mappings WRITE, instance_mappings WRITE")
                waited = time.monotonic() - began
        except (pymysql.Error, OSError) as error:
            self.close()
            raise StepFailed(
                f"lookups in {self.where} could not be held ({error.args[-1]})", "Nobody waits; try again"
            ) from None
        self._cells = cells
        return waited

    def flip(self, hosts: Sequence[str], instances: Sequence[str], source: str, target: str) -> Flipped:
        if self._cells is None:
            raise StepFailed("lookups of mappings are not held", "Hold them first")
        old, new = (self._cells.get(cell) for cell in (source, target))
        if old is None or new is None:
            raise StalePlan(
                f"{source if old is None else target} is no cell any more",
                "See nova-manage cell_v2 list_cells",
            )
        connection = self._connected()
        try:
            with connection.cursor() as cursor:
                found = self._hosts(cursor, hosts)
                wrong = [h for h in hosts if found.get(h) != old]
                if wrong:
                    raise StalePlan(
                        f"{', '.join(wrong)} do not belong to cell {source}",
                        "See nova-manage cell_v2 list_hosts; then scan and plan again",
                    )
                for at in range(0, len(hosts), _BATCH):
                    some = list(hosts[at : at + _BATCH])
                    cursor.execute(
                        "UPDATE host_mappings SET cell_id = %s, updated_at = UTC_TIMESTAMP()"
                        " WHERE host IN %s",
                        (new, some),
                    )
                count = 0
                for at in range(0, len(instances), _BATCH):
                    some = list(instances[at : at + _BATCH])
                    count += cursor.execute(
                        "UPDATE instance_mappings SET cell_id = %s, updated_at = UTC_TIMESTAMP()"
                        " WHERE instance_uuid IN %s AND cell_id = %s",
                        (new, some, old),
                    )
            connection.commit()
        except (pymysql.Error, OSError) as error:
            self.end()
            raise StepFailed(
                f"the mappings in {self.where} could not be changed ({error.args[-1]})",
                "See what holds it up, then try again",
            ) from None
        except StalePlan:
            self.end()
            raise
        return Flipped(len(hosts), count)

    @staticmethod
    def _hosts(cursor: DictCursor, hosts: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for at in range(0, len(hosts), _BATCH):
            cursor.execute(
                "SELECT host, cell_id FROM host_mappings WHERE host IN %s", (list(hosts[at : at + _BATCH]),)
            )
            rows: Any = cursor.fetchall()
            found |= {str(r["host"]): int(r["cell_id"] or 0) for r in rows}
        return found

    def end(self) -> None:
        """Never raises."""
        self._cells = None
        with suppress(Exception):
            self.close()
