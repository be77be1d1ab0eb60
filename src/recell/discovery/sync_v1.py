"""Cells v1: both sides of what nova-cells doesn't carry, and where a release keeps it. Read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from recell.adapters.mysql.changes import select
from recell.discovery.cells_v1 import CellDatabases
from recell.errors import Unsupported
from recell.planning.sync_v1 import Row, Side, SyncKind, hosts_of_child

Kept = Literal["cells", "shared", "absent"]


def kept_where(databases: CellDatabases, top: str, kind: SyncKind) -> Kept:
    """``shared``: in the API database, which the API cell and its children read. While a release moves rows
    there (Mitaka, Newton) they count where they are; an API database's empty table counts when the cell has
    nothing either."""
    own = databases.columns_of(top, [kind.tables[0].name])
    above = databases.in_api_database(top, kind.api_table) if kind.api_table else None
    if above:
        return "shared"
    if not own:
        return "absent" if above is None else "shared"
    if above is None:
        return "cells"
    rows = databases.query(top, f"{select(kind.tables[0].name, ['id'], 'deleted = 0')} LIMIT 1")
    return "cells" if rows else "shared"


def fitted(databases: CellDatabases, top: str, child: str, kind: SyncKind) -> SyncKind:
    """Of the kind's tables those that the release has. :raises Unsupported: the two sides' schemas differ."""
    names = [t.name for t in kind.tables]
    ours, theirs = databases.columns_of(top, names), databases.columns_of(child, names)
    there = [t for t in kind.tables if not t.optional or t.name in ours or t.name in theirs]
    for table in there:
        if ours.get(table.name) != theirs.get(table.name) or table.name not in ours:
            raise Unsupported(
                f"the table {table.name} differs between {top} and {child}",
                "Bring both databases to one release (nova-manage db sync), then ask again",
            )
    return replace(kind, tables=tuple(there))


def sides(
    databases: CellDatabases, top: str, child: str, path: str, kind: SyncKind
) -> tuple[Side, Side]:
    """(API cell, child), the API cell first: what is made there meanwhile is found the next time.

    :param kind: as :func:`fitted` gave it. path: the child's full path.
    """
    columns = databases.columns_of(top, [t.name for t in kind.tables])
    live, dead = {}, {}
    for table in kind.tables:
        names = list(columns[table.name])
        live[table.name] = _rows(databases, top, table.name, names, "deleted = 0")
        dead[table.name] = _rows(databases, top, table.name, names, "deleted <> 0")
    if "aggregate_hosts" in live:
        hosts = {
            str(r["host"])
            for r in databases.query(
                child, "SELECT host FROM services WHERE deleted = 0 AND `binary` = 'nova-compute'"
            )
        }
        for rows in (live, dead):
            rows["aggregate_hosts"] = hosts_of_child(rows["aggregate_hosts"], path, hosts)
    taken = {t.name: _ids(databases, child, t.name) for t in kind.tables if t.same_id}
    theirs = {
        t.name: _rows(databases, child, t.name, list(columns[t.name]), "deleted = 0") for t in kind.tables
    }
    return Side(live, dead), Side(theirs, taken=taken)


def _rows(
    databases: CellDatabases, key: str, table: str, columns: Sequence[str], where: str
) -> Sequence[Row]:
    return databases.query(key, select(table, columns, where))


def _ids(databases: CellDatabases, key: str, table: str) -> set[int]:
    """Also of archived rows: an archive can't take two of one number."""
    shadow = f"shadow_{table}"
    found: set[int] = set()
    for one in databases.columns_of(key, [table, shadow]):
        found |= {int(r["id"]) for r in databases.query(key, select(one, ["id"]))}
    return found
