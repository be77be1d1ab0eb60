"""What cells v2 want of instances that grew up in cells v1: a mapping each, and cell0 for those without.

nova-api of an API cell makes a mapping at each boot, and the child's conductor fills it in when the build
has a host. A build that failed keeps one that names no cell; one that no cell took is in the API cell alone.
The child's, cell0's and the API database are on one server here, entered as its root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import among, name
from recell.errors import StepFailed
from recell.model.scope import Scope
from recell.model.v1 import Settled
from recell.mover import v1_failed

__all__ = ["Places", "map_instances", "settle", "unmapped"]

_AT_ONCE = 500
_CELL0 = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Places:
    """Names of databases on the child's server, and the child's uuid among the mappings."""

    child: str
    cell0: str
    api: str
    cell: str

    @property
    def instances(self) -> str:
        return f"{name(self.child)}.instances"

    @property
    def mappings(self) -> str:
        return f"{name(self.api)}.instance_mappings"

    @property
    def requests(self) -> str:
        return f"{name(self.api)}.build_requests"


def unmapped(root: Session, places: Places) -> tuple[str, ...]:
    """Of live instances of the child. What is being built is left alone: its build request is there."""
    mapped = dict(root.query(f"SELECT instance_uuid, cell_id FROM {places.mappings}"))
    building = _building(root, places)
    rows = root.query(
        f"SELECT uuid, task_state FROM {places.instances} WHERE deleted = 0 ORDER BY id"
    )
    root.rollback()
    return tuple(
        str(uuid)
        for uuid, task in rows
        if uuid not in mapped or (mapped[uuid] is None and task is None and uuid not in building)
    )


def map_instances(root: Session, places: Places) -> int:
    """How many got a mapping, or a cell in theirs."""
    uuids = unmapped(root, places)
    cell, _ = _cells(root, places)
    for some in _batches(uuids):
        where, args = among(("instance_uuid",), [(u,) for u in some])
        root.begin()
        rows = root.query(f"SELECT instance_uuid FROM {places.mappings} WHERE {where} FOR UPDATE", args)
        known = {str(u) for (u,) in rows}
        _name_cell(root, places, some, cell)
        _insert(root, places, [u for u in some if u not in known], cell)
        root.commit()
    return len(uuids)


def _name_cell(root: Session, places: Places, uuids: Sequence[str], cell: int) -> None:
    where, args = among(("instance_uuid",), [(u,) for u in uuids])
    root.execute(
        f"UPDATE {places.mappings} SET cell_id = %s, updated_at = UTC_TIMESTAMP()"
        f" WHERE {where} AND cell_id IS NULL",
        [cell, *args],
    )


def _insert(root: Session, places: Places, uuids: Sequence[str], cell: int) -> None:
    if not uuids:
        return
    there = {
        str(c)
        for (c,) in root.query(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = 'instance_mappings'",
            (places.api,),
        )
    }
    more = [c for c in ("user_id", "queued_for_delete") if c in there]
    chosen = {"user_id": "user_id", "queued_for_delete": "0"}
    where, args = among(("uuid",), [(u,) for u in uuids])
    root.execute(
        f"INSERT INTO {places.mappings} (created_at, instance_uuid, cell_id,"
        f" project_id{''.join(f', {c}' for c in more)}) SELECT UTC_TIMESTAMP(), uuid, %s,"
        f" project_id{''.join(f', {chosen[c]}' for c in more)} FROM"
        f" {places.instances} WHERE {where} AND deleted = 0",
        [cell, *args],
    )


def settle(root: Session, api: Session, places: Places, scope: Scope) -> Settled:
    """With nothing under way.

    :param root: with cell0's database open. api: the API cell's.
    :raises StepFailed: the child's uuid is no mapping.
    """
    cell, zero = _cells(root, places)
    rows = root.query(f"SELECT instance_uuid FROM {places.mappings} WHERE cell_id IS NULL")
    pending = [str(u) for (u,) in rows]
    building = _building(root, places)
    root.rollback()
    here = _among(root, places.instances, [*pending, *building])
    lost = [u for u in pending if u not in here]
    alone = sorted(_among(api, name("instances"), lost, "deleted = 0 AND host IS NULL"))
    _bury(root, api, places)
    v1_failed.bring(api, root, scope, alone)
    root.begin()
    for uuids, to in (([u for u in pending if u in here], cell), (alone, zero)):
        for some in _batches(uuids):
            _name_cell(root, places, some, to)
    for some in _batches(sorted({*here, *alone})):
        where, args = among(("instance_uuid",), [(u,) for u in some])
        root.execute(f"DELETE FROM {places.requests} WHERE {where}", args)
    root.commit()
    return Settled(sum(u in here for u in pending), len(alone))


def _bury(root: Session, api: Session, places: Places) -> None:
    """Failed builds that users have deleted in the API cell are deleted in cell0: nova-cells doesn't."""
    live = [str(u) for (u,) in root.query("SELECT uuid FROM instances WHERE deleted = 0")]
    root.rollback()
    gone = sorted(_among(api, name("instances"), live, "deleted <> 0"))
    for some in _batches(gone):
        where, args = among(("uuid",), [(u,) for u in some])
        root.execute(
            "UPDATE instances SET deleted = id, deleted_at = UTC_TIMESTAMP(), vm_state = 'deleted',"
            f" task_state = NULL WHERE {where} AND deleted = 0",
            args,
        )
    root.commit()


def _building(root: Session, places: Places) -> frozenset[str]:
    rows = root.query(f"SELECT instance_uuid FROM {places.requests}")
    return frozenset(str(u) for (u,) in rows)


def _cells(root: Session, places: Places) -> tuple[int, int]:
    rows = root.query(f"SELECT uuid, id FROM {name(places.api)}.cell_mappings")
    root.rollback()
    found = {str(u): int(i) for u, i in rows}
    missing = [u for u in (places.cell, _CELL0) if u not in found]
    if missing:
        raise StepFailed(
            f"{', '.join(missing)} has no cell mapping in {places.api}", "See nova-manage cell_v2 list_cells"
        )
    return found[places.cell], found[_CELL0]


def _among(session: Session, table: str, uuids: Iterable[str], further: str = "TRUE") -> frozenset[str]:
    found: set[str] = set()
    for some in _batches(sorted(set(uuids))):
        where, args = among(("uuid",), [(u,) for u in some])
        rows = session.query(f"SELECT uuid FROM {table} WHERE {where} AND {further}", args)
        found |= {str(u) for (u,) in rows}
    session.rollback()
    return frozenset(found)


def _batches(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(values), _AT_ONCE):
        yield values[at : at + _AT_ONCE]
