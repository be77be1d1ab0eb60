"""What Nova's databases say of instances, hosts and themselves. Read-only statements, no row is written.

``trouble`` is told of a cell that can't be read, and the cell is left out; without it the error is
raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from recell.adapters.ports import NovaPort
from recell.discovery.trouble import Trouble
from recell.errors import RecellError
from recell.model.health import ComputeNode, DatabaseFacts, Guest, Homes, MappingTimes


class Asked(Protocol):
    """What answers read-only statements, by cell."""

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]: ...


ENDED = ("completed", "confirmed", "reverted", "failed", "error", "cancelled")
"""Migration states in which a migration holds no allocation any more; a resize that is "finished" still
waits for its owner's word, and holds the room on the host that it left."""
_NOT_HIDDEN = " AND COALESCE(hidden, 0) = 0"
"""NULL in rows that are older than the column, which came with Train: Nova shows those."""
_MAPPED = (
    "SELECT m.instance_uuid, c.uuid AS cell FROM instance_mappings m"
    " LEFT JOIN cell_mappings c ON c.id = m.cell_id"
)
_NOT_QUEUED = " WHERE COALESCE(m.queued_for_delete, 0) = 0"
_VARIABLES = ("version", "log_bin", "binlog_format", "binlog_row_image", "read_only", "max_connections")
_UNMIGRATED_API = {
    "populate_queued_for_delete": (
        "SELECT count(*) AS n FROM instance_mappings WHERE queued_for_delete IS NULL AND cell_id IS NOT NULL"
    ),
    "populate_user_id": (
        "SELECT count(*) AS n FROM instance_mappings WHERE user_id IS NULL AND cell_id IS NOT NULL"
        " AND project_id <> '00000000-0000-0000-0000-000000000000'"
    ),
}
_UNMIGRATED_CELL = {
    "migration_migrate_to_uuid": "SELECT count(*) AS n FROM migrations WHERE uuid IS NULL AND deleted = 0",
    "populate_uuids": "SELECT count(*) AS n FROM block_device_mapping WHERE uuid IS NULL AND deleted = 0",
    "populate_missing_availability_zones": (
        "SELECT count(*) AS n FROM instances WHERE host IS NOT NULL AND availability_zone IS NULL"
        " AND task_state IS NULL AND deleted = 0"
    ),
    "migrate_empty_ratio": (
        "SELECT count(*) AS n FROM compute_nodes WHERE deleted = 0 AND"
        " (COALESCE(cpu_allocation_ratio, 0) = 0 OR COALESCE(ram_allocation_ratio, 0) = 0"
        " OR COALESCE(disk_allocation_ratio, 0) = 0)"
    ),
    "populate_dev_uuids": "SELECT count(*) AS n FROM pci_devices WHERE uuid IS NULL AND deleted = 0",
    "populate_instance_compute_id": (
        "SELECT count(*) AS n FROM instances WHERE compute_id IS NULL AND host IS NOT NULL"
        " AND task_state IS NULL AND deleted = 0"
    ),
    "service_uuids_online_data_migration": (
        "SELECT count(*) AS n FROM services WHERE uuid IS NULL AND deleted = 0"
    ),
}
"""Nova's online migrations, by the name that nova-manage prints, and the rows that each still wants.
A statement that a schema doesn't know (an older or a newer Nova) is passed over."""


def read_homes(nova: NovaPort, trouble: Trouble | None = None) -> Homes:
    """Where every live instance has a row, and where it is mapped."""
    rows: dict[str, set[str]] = {}
    unread: set[str] = set()
    sql = "SELECT uuid FROM instances WHERE deleted = 0 AND COALESCE(hidden, 0) = 0"
    for cell, found in _each(nova, sql, trouble, "instances"):
        if found is None:
            unread.add(cell)
            continue
        for row in found:
            rows.setdefault(str(row["uuid"]), set()).add(cell)
    marked = _has(nova, "", "instance_mappings", "queued_for_delete")
    mapped = {
        str(row["instance_uuid"]): str(row["cell"] or "")
        for row in nova.query("", _MAPPED + _NOT_QUEUED if marked else _MAPPED)
    }
    if not marked:  # before Rocky: a deleted instance stays mapped, unmarked, until its row is archived
        for _, found in _each(nova, "SELECT uuid FROM instances WHERE deleted <> 0", trouble, "instances"):
            for row in found or ():
                if str(row["uuid"]) not in rows:
                    mapped.pop(str(row["uuid"]), None)
    building = frozenset(
        str(r["instance_uuid"]) for r in nova.query("", "SELECT instance_uuid FROM build_requests")
    )
    # Nothing can be said of what belongs into a cell that doesn't answer.
    silent = {u for u, cell in mapped.items() if cell in unread}
    return Homes(
        {u: frozenset(cells) for u, cells in rows.items() if u not in silent},
        {u: cell for u, cell in mapped.items() if u not in silent},
        building,
    )


def read_guests(nova: NovaPort, trouble: Trouble | None = None) -> tuple[Guest, ...]:
    """Instances that hold room on a host now; a shelved, deleted or failed one holds none."""
    sql = (
        "SELECT uuid, host FROM instances WHERE deleted = 0 AND COALESCE(hidden, 0) = 0"
        " AND host IS NOT NULL AND vm_state NOT IN ('building', 'deleted', 'shelved_offloaded')"
        " AND task_state IS NULL"
    )
    return tuple(
        Guest(str(r["uuid"]), cell, str(r["host"]))
        for cell, found in _each(nova, sql, trouble, "guests")
        for r in found or ()
    )


def read_moves(nova: NovaPort, trouble: Trouble | None = None) -> frozenset[str]:
    """Migrations that have not ended: they hold the allocations of the side that an instance left."""
    marks = ", ".join(["%s"] * len(ENDED))
    # Before Queens a migration has no uuid, and holds no allocation of its own.
    sql = f"SELECT * FROM migrations WHERE deleted = 0 AND status NOT IN ({marks})"  # noqa: S608
    return frozenset(
        str(r["uuid"])
        for _, found in _each(nova, sql, trouble, "migrations", ENDED)
        for r in found or ()
        if r.get("uuid")
    )


def read_nodes(nova: NovaPort, trouble: Trouble | None = None) -> tuple[ComputeNode, ...]:
    sql = "SELECT uuid, host, hypervisor_hostname FROM compute_nodes WHERE deleted = 0"
    return tuple(
        ComputeNode(cell, str(r["uuid"] or ""), str(r["host"] or ""), str(r["hypervisor_hostname"] or ""))
        for cell, found in _each(nova, sql, trouble, "compute nodes")
        for r in found or ()
    )


def read_host_mappings(nova: NovaPort) -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {}
    for row in nova.query(
        "", "SELECT h.host, c.uuid AS cell FROM host_mappings h JOIN cell_mappings c ON c.id = h.cell_id"
    ):
        out[str(row["host"])] = (*out.get(str(row["host"]), ()), str(row["cell"]))
    return out


def read_mapping_times(nova: NovaPort, ahead_s: float) -> tuple[MappingTimes, ...]:
    """``ahead_s``: how far the database's clock is ahead of ours."""
    return tuple(
        MappingTimes(str(r["uuid"]), *(float(r[k]) - ahead_s if r[k] else 0.0 for k in ("made", "changed")))
        for r in nova.query(
            "",
            "SELECT uuid, UNIX_TIMESTAMP(created_at) AS made, UNIX_TIMESTAMP(updated_at) AS changed"
            " FROM cell_mappings",
        )
    )


def read_database(nova: NovaPort, cell: str, name: str, server: str) -> DatabaseFacts:
    """Of the API database (``cell`` "") or a cell's."""
    variables = read_variables(nova, cell)
    schema = _first(nova, cell, "SELECT version_num AS n FROM alembic_version")
    # Before Yoga another program counted a schema's steps.
    schema = schema or _first(nova, cell, "SELECT version AS n FROM migrate_version")
    unmigrated: dict[str, int] = {}
    for migration, sql in (_UNMIGRATED_CELL if cell else _UNMIGRATED_API).items():
        rows = int(_first(nova, cell, sql) or 0)
        if rows:
            unmigrated[migration] = rows
    return DatabaseFacts(name, server, schema, variables, unmigrated)


def read_variables(nova: Asked, cell: str) -> dict[str, str]:
    """Of the server that a cell's database is on."""
    marks = ", ".join(["%s"] * len(_VARIABLES))
    return {
        str(r["Variable_name"]): str(r["Value"])
        for sql, args in (
            (f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({marks})", _VARIABLES),
            ("SHOW GLOBAL STATUS WHERE Variable_name = %s", ("Max_used_connections",)),
        )
        for r in nova.query(cell, sql, args)
    }


def _first(nova: NovaPort, cell: str, sql: str) -> str:
    """The one value; "" when this schema doesn't know the table or the column."""
    names = {
        str(r["name"])
        for r in nova.query(
            cell,
            "SELECT CONCAT(table_name, '.', column_name) AS name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s",
            (sql.partition(" FROM ")[2].split()[0],),
        )
    }
    columns = {n.partition(".")[2] for n in names}
    words = set(sql.replace("(", " ").replace(",", " ").replace(")", " ").split())
    wanted = words & _COLUMNS
    if not names or wanted - columns:
        return ""
    found = nova.query(cell, sql)
    return str(found[0]["n"]) if found else ""


_COLUMNS = {
    "queued_for_delete", "user_id", "uuid", "availability_zone", "cpu_allocation_ratio",
    "ram_allocation_ratio", "disk_allocation_ratio", "compute_id", "deleted", "version_num",
}  # fmt: skip


def _known(nova: NovaPort, cell: str, sql: str) -> str:
    """Without the condition on ``hidden``, where instances have no such column: before Train."""
    if _NOT_HIDDEN not in sql or _has(nova, cell, "instances", "hidden"):
        return sql
    return sql.replace(_NOT_HIDDEN, "")


def _has(nova: NovaPort, cell: str, table: str, column: str) -> bool:
    return bool(
        nova.query(
            cell,
            "SELECT column_name AS name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s AND column_name = %s",
            (table, column),
        )
    )


def _each(
    nova: NovaPort, sql: str, trouble: Trouble | None, what: str, args: tuple[Any, ...] = ()
) -> Iterator[tuple[str, tuple[dict[str, Any], ...] | None]]:
    """(cell, rows) of every cell; None for one that could not be read."""
    for m in nova.mappings():
        try:
            yield m.uuid, nova.query(m.uuid, _known(nova, m.uuid, sql), args)
        except RecellError as error:
            if trouble is None:
                raise
            trouble(f"{what} of {m.name or m.uuid}", error)
            yield m.uuid, None
