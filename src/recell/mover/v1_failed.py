"""Failed builds of cell0 come to the API cell, which answers for them as nova-api did before; or they go
from there to cell0.

Their numbers are cell0's own, and the child's rows have the same ones: here they get others, and rows that
refer to a number get the new one. Nobody writes there meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import among, columns, name
from recell.model.scope import Scope, Table

__all__ = ["CHILDREN", "bring"]

_AT_ONCE = 500
_ROWS = 100
"""In one statement; the largest have 64 KiB of user data."""
CHILDREN = {
    "instance_extra": "instance_uuid",
    "instance_info_caches": "instance_uuid",
    "instance_metadata": "instance_uuid",
    "instance_system_metadata": "instance_uuid",
    "instance_faults": "instance_uuid",
    "block_device_mapping": "instance_uuid",
    "virtual_interfaces": "instance_uuid",
    "instance_id_mappings": "uuid",
    "tags": "resource_id",
}
"""Tables with rows of instances, and the column that says of which."""
_ACTIONS, _EVENTS = "instance_actions", "instance_actions_events"


def bring(source: Session, target: Session, scope: Scope, only: Sequence[str] | None = None) -> int:
    """Live instances that the target doesn't have, with all that is theirs, at once. How many.

    Users wait meanwhile: some statements for hundreds of them, and none that looks at all instances.

    :param only: these, which live there; None: all.
    """
    tables = {e.table.name: e.table for e in scope.moving}
    found = source.query("SELECT uuid FROM instances WHERE deleted = 0 ORDER BY id") if only is None else []
    uuids = [str(u) for (u,) in found] if only is None else list(only)
    known: set[str] = set()
    for some in _batches(uuids):
        where, args = among(("uuid",), [(v,) for v in some])
        known |= {str(u) for (u,) in target.query(f"SELECT uuid FROM instances WHERE {where}", args)}
    target.rollback()
    new = [u for u in uuids if u not in known]
    target.begin()
    for some in _batches(new):
        _copy(source, target, tables["instances"], "uuid", some, {"cell_name": None})
        for table, owner in CHILDREN.items():
            if table in tables:
                _copy(source, target, tables[table], owner, some, {})
        if _ACTIONS in tables:
            numbers = _numbered(source, target, tables[_ACTIONS], some)
            for old in _batches(list(numbers)):
                _copy(source, target, tables[_EVENTS], "action_id", old, {"action_id": numbers})
    target.commit()
    source.rollback()
    return len(new)


def _numbered(
    source: Session, target: Session, table: Table, owners: Sequence[Any]
) -> dict[Any, Any]:
    """Actions of these instances; the new number of each."""
    (last,) = target.query(f"SELECT COALESCE(MAX(id), 0) FROM {name(table.name)}")
    before = _copy(source, target, table, "instance_uuid", owners, {})
    where, args = among(("instance_uuid",), [(v,) for v in owners])
    # They were sent in the order of their numbers, and a server counts upwards.
    after = target.query(
        f"SELECT id FROM {name(table.name)} WHERE id > %s AND {where} ORDER BY id", [last[0], *args]
    )
    return dict(zip(before, (n for (n,) in after), strict=True))


def _copy(
    source: Session, target: Session, table: Table, owner: str, values: Sequence[Any],
    changed: Mapping[str, Mapping[Any, Any] | None],
) -> list[Any]:  # fmt: skip
    """Rows whose ``owner`` is one of the values, in the order of their numbers; these, where it has any.

    :param changed: columns that get NULL, or what a mapping makes of them.
    """
    counter = next((c.name for c in table.columns if c.auto_increment), "")
    where, args = among((owner,), [(v,) for v in values])
    wanted = [c.name for c in table.columns if not c.generated]
    sent = [c for c in wanted if c != counter]
    order = f" ORDER BY {name(counter)}" if counter else ""
    rows = source.named(f"SELECT {columns(wanted)} FROM {name(table.name)} WHERE {where}{order}", args)
    marks = f"({', '.join(['%s'] * len(sent))})"
    for row in rows:
        for column, to in changed.items():
            row[column] = None if to is None else to[row[column]]
    for some in _batches(rows, _ROWS):
        target.execute(
            f"INSERT INTO {name(table.name)} ({columns(sent)}) VALUES {', '.join([marks] * len(some))}",
            [row[c] for row in some for c in sent],
        )
    return [row[counter] for row in rows] if counter else []


def _batches(values: Sequence[Any], size: int = _AT_ONCE) -> Iterator[Sequence[Any]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]
