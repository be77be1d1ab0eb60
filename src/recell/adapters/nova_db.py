"""Nova's databases, reached from a controller so that grants by host match.

Passwords live in memory only: URLs come from a service's own configuration at run time. Times in
these databases are UTC; sessions are set to it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from recell.adapters.mappings import MappingHold
from recell.adapters.nova_session import Database, Gateway
from recell.adapters.ports import RawMapping, ServiceRow
from recell.errors import Denied, StalePlan, StepFailed, Unreachable, Unsupported
from recell.model.hosts import Flipped
from recell.model.urls import parse_url
from recell.planning.templates import resolve_template

__all__ = ["Database", "Gateway", "NovaDatabases"]

SAY_UP = (
    "UPDATE services SET last_seen_up = UTC_TIMESTAMP()"
    " WHERE deleted = 0 AND `binary` = 'nova-compute' AND host IN %s"
)
"""Nova goes by this time alone. Its count of reports stays: only nova-compute itself counts on."""
_MAPPINGS = "SELECT * FROM cell_mappings"
"""All columns: before Rocky there is none that says whether a cell is disabled."""


class NovaDatabases:
    """:class:`~recell.adapters.nova_port.NovaPort`.

    :param api: URL of the API database, with its password.
    :param own_transport, own_database: the URLs that the mappings' templates are filled from.
    :param permit: asked before every change; raises Locked when this run may change nothing any more.
        A database knows no owner file.
    """

    def __init__(
        self, via: Gateway, api: str, own_transport: str, own_database: str,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self._via = via
        self._permit = permit
        self._own_transport = own_transport
        self._own_database = own_database
        self._lock = threading.RLock()
        self._api = Database(via, parse_url(api))
        self._cells: dict[str, Database] = {}
        self._hold = MappingHold(via, parse_url(api))

    def mappings(self) -> tuple[RawMapping, ...]:
        return tuple(_mapping(row) for row in self._api.read(f"{_MAPPINGS} ORDER BY id"))

    def knows_cells(self) -> bool:
        """Whether the API database is there and has mappings' table: before Newton nothing reads it, so one
        that was named may never have been made."""
        try:
            return bool(self._api.read(
                "SELECT 1 FROM information_schema.tables"
                " WHERE table_schema = DATABASE() AND table_name = 'cell_mappings'"))
        except (Denied, Unreachable) as error:
            if isinstance(error, Unreachable) and "does not exist" not in error.sentence:
                raise
            return False

    def resolved(self, mapping: RawMapping) -> tuple[str, str]:
        """(transport URL, database URL) as the service sees them whose URLs are our own.

        With passwords: not for files or screens.
        """
        return (resolve_template(mapping.transport_url, self._own_transport),
                resolve_template(mapping.database_connection, self._own_database))

    def set_mapping(self, old: RawMapping, new: RawMapping) -> None:
        def act(cursor: DictCursor) -> None:
            cursor.execute(f"{_MAPPINGS} WHERE uuid = %s FOR UPDATE", (old.uuid,))
            row = cursor.fetchone()
            if row is None or _mapping(row) != old:
                raise StalePlan(f"the cell mapping {old.name} is not what the plan was made for",
                                "Make the plan again: recell scan, recell plan")
            values = _columns(new, row)
            # A cell without a name keeps NULL: Nova tells the two apart.
            if not new.name and row["name"] is None:
                del values["name"]
            sets = ", ".join(f"{column} = %s" for column in values)
            cursor.execute(f"UPDATE cell_mappings SET {sets}, updated_at = UTC_TIMESTAMP()"  # noqa: S608
                           " WHERE uuid = %s", (*values.values(), old.uuid))

        self._permit()
        self._api.change(act)
        with self._lock:
            gone = self._cells.pop(old.uuid, None)
        if gone is not None:
            gone.close()

    def add_mapping(self, new: RawMapping) -> None:
        def act(cursor: DictCursor) -> None:
            cursor.execute(f"{_MAPPINGS} LIMIT 0")
            values = _columns(new, [column[0] for column in cursor.description or ()])
            try:
                cursor.execute(
                    f"INSERT INTO cell_mappings (created_at, uuid, {', '.join(values)})"  # noqa: S608 (ours)
                    f" VALUES (UTC_TIMESTAMP(), %s{', %s' * len(values)})", (new.uuid, *values.values()),
                )
            except pymysql.IntegrityError:
                raise StalePlan(f"there is a cell mapping {new.uuid} already",
                                "Make the plan again: recell scan, recell plan") from None

        self._permit()
        self._api.change(act)

    def remove_mapping(self, old: RawMapping) -> None:
        def act(cursor: DictCursor) -> None:
            cursor.execute(f"{_MAPPINGS} WHERE uuid = %s FOR UPDATE", (old.uuid,))
            row = cursor.fetchone()
            if row is None or _mapping(row) != old:
                raise StalePlan(f"the cell mapping {old.name} is not what it was",
                                "See nova-manage cell_v2 list_cells")
            for table in ("host_mappings", "instance_mappings"):
                cursor.execute(f"SELECT COUNT(*) AS n FROM {table} WHERE cell_id = %s",  # noqa: S608 (ours)
                               (row["id"],))
                count = cursor.fetchone()
                if count is not None and count["n"]:
                    raise StepFailed(f"{count['n']} rows of {table} belong to the cell {old.name}",
                                     "Move or delete what is there, then: recell resume")
            cursor.execute("DELETE FROM cell_mappings WHERE id = %s", (row["id"],))

        self._permit()
        self._api.change(act)
        with self._lock:
            gone = self._cells.pop(old.uuid, None)
        if gone is not None:
            gone.close()

    def host_cells(self, hosts: Sequence[str]) -> dict[str, str]:
        if not hosts:
            return {}
        rows = self._api.read(
            "SELECT h.host, c.uuid FROM host_mappings h JOIN cell_mappings c ON c.id = h.cell_id"
            " WHERE h.host IN %s", (list(hosts),))
        return {str(r["host"]): str(r["uuid"]) for r in rows}

    def hold_mappings(self, limit_s: float, settle_s: float) -> float:
        self._permit()
        waited = self._hold.begin(limit_s)
        time.sleep(settle_s)
        return waited + settle_s

    def flip(self, hosts: Sequence[str], instances: Sequence[str], source: str, target: str) -> Flipped:
        return self._hold.flip(hosts, instances, source, target)

    def let_mappings_go(self) -> None:
        self._hold.end()

    def services(self, cell: str) -> tuple[ServiceRow, ...]:
        database = self._cell(cell)
        there = _columns_of(database, "services")
        # A service got its uuid in Pike; cells have mappings since Ocata.
        uuid = "uuid" if "uuid" in there else "NULL AS uuid"
        rows = database.read(
            f"SELECT id, {uuid}, host, `binary`, version, disabled,"  # noqa: S608 (ours)
            " TIMESTAMPDIFF(MICROSECOND, COALESCE(last_seen_up, created_at), UTC_TIMESTAMP(6))"
            " / 1e6 AS age FROM services WHERE deleted = 0 ORDER BY id"
        )
        return tuple(
            ServiceRow(r["id"], r["uuid"] or "", r["host"] or "", r["binary"] or "",
                       r["version"] or 0, bool(r["disabled"]), float(r["age"] or 0))
            for r in rows
        )

    def retire_service(self, cell: str, row: ServiceRow) -> None:
        if row.binary == "nova-compute":
            raise Unsupported(f"the service record of nova-compute on {row.host} has compute nodes",
                              "Delete it with: openstack compute service delete")

        def act(cursor: DictCursor) -> None:
            cursor.execute("SELECT host, `binary`, deleted FROM services WHERE id = %s FOR UPDATE",
                           (row.id,))
            found = cursor.fetchone()
            if found is None or (found["host"], found["binary"]) != (row.host, row.binary):
                raise StalePlan(f"the service record {row.id} is no longer {row.binary} of"
                                f" {row.host}", "Make the plan again: recell scan, recell plan")
            # Nova's own way: updated_at stays, deleted becomes the row's id.
            cursor.execute("UPDATE services SET deleted = id, deleted_at = UTC_TIMESTAMP(),"
                           " updated_at = updated_at WHERE id = %s AND deleted = 0", (row.id,))

        self._permit()
        self._cell(cell).change(act)

    def restore_service(self, cell: str, row_id: int) -> None:
        def act(cursor: DictCursor) -> None:
            try:
                cursor.execute("UPDATE services SET deleted = 0, deleted_at = NULL,"
                               " updated_at = updated_at WHERE id = %s AND deleted = id", (row_id,))
            except pymysql.IntegrityError:
                raise StepFailed(
                    f"the service record {row_id} can't be restored, its service made a new one",
                    "Stop that service and delete its new record, then: recell resume",
                ) from None

        self._permit()
        self._cell(cell).change(act)

    def keep_up(self, cell: str, hosts: Sequence[str], down_s: float) -> None:
        self._permit()
        database = self._cell(cell)
        # Before Liberty Nova goes by the time of the record's last change.
        seen = "last_seen_up" if "last_seen_up" in _columns_of(database, "services") else "updated_at"
        sql = SAY_UP.replace("last_seen_up", seen)
        sql += f" AND {seen} >= UTC_TIMESTAMP() - INTERVAL %s SECOND"
        database.change(lambda cursor: cursor.execute(sql, (list(hosts), math.ceil(down_s))))

    def swap_task(self, cell: str, uuid: str, old: str, new: str | None) -> bool:
        swapped = False

        def act(cursor: DictCursor) -> None:
            nonlocal swapped
            swapped = bool(cursor.execute(
                "UPDATE instances SET task_state = %s WHERE uuid = %s AND task_state = %s AND deleted = 0",
                (new, uuid, old)))

        self._permit()
        self._cell(cell).change(act)
        return swapped

    def busy(self, cell: str, before: float, since: float) -> tuple[str, ...]:
        # Columns of whole seconds, cut by MariaDB and rounded by MySQL: rather one too many.
        window = (_time(math.floor(since)), _time(math.ceil(before)))
        builds = self._api.read("SELECT instance_uuid, created_at FROM build_requests"
                                " WHERE created_at BETWEEN %s AND %s ORDER BY id", window)
        events = self._cell(cell).read(
            "SELECT e.event, e.start_time, a.instance_uuid, a.request_id"
            " FROM instance_actions_events e JOIN instance_actions a ON a.id = e.action_id"
            " WHERE e.event LIKE 'conductor\\_%%' AND e.finish_time IS NULL AND e.deleted = 0"
            " AND e.start_time BETWEEN %s AND %s ORDER BY e.id", window,
        )
        return (
            *(f"instance {r['instance_uuid']} is being built since {r['created_at']}"
              for r in builds),
            *(f"{r['event']} of instance {r['instance_uuid']} ({r['request_id']}) runs since"
              f" {r['start_time']}" for r in events),
        )

    def now(self) -> float:
        return float(self._api.read("SELECT UNIX_TIMESTAMP(NOW(6)) AS now")[0]["now"])

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        return self._cell(cell).read(sql, args)

    def close(self) -> None:
        with self._lock:
            for database in (self._hold, self._api, *self._cells.values()):
                database.close()
            self._cells.clear()

    def _cell(self, cell: str) -> Database:
        if not cell:
            return self._api
        with self._lock:
            if cell not in self._cells:
                found = next((m for m in self.mappings() if m.uuid == cell), None)
                if found is None:
                    raise StalePlan(f"there is no cell mapping {cell}",
                                    "Make the plan again: recell scan, recell plan")
                self._cells[cell] = Database(self._via, parse_url(self.resolved(found)[1]))
            return self._cells[cell]


def _columns_of(database: Database, table: str) -> set[str]:
    return {str(r["name"]).lower() for r in database.read(
        "SELECT column_name AS name FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = %s", (table,))}


def _mapping(row: Mapping[str, Any]) -> RawMapping:
    return RawMapping(row["uuid"], row["name"] or "", row["transport_url"] or "",
                      row["database_connection"] or "", bool(row.get("disabled")))


def _columns(mapping: RawMapping, there: Container[str]) -> dict[str, object]:
    """What a row of cell_mappings says, by column; ``there``: the columns that this release has."""
    values = {"name": mapping.name, "transport_url": mapping.transport_url,
              "database_connection": mapping.database_connection, "disabled": mapping.disabled}
    return {column: value for column, value in values.items() if column in there}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
