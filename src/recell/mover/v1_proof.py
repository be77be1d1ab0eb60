"""What a conversion to cells v1 is proven by: both sides' instances, what only one side has, quotas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from recell.adapters.mysql.instances import WRITTEN, live_rows, read_live
from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import columns, name
from recell.model.cells_v1 import InstanceRow
from recell.model.rowchange import RowChange
from recell.model.scope import Scope
from recell.model.v1 import Agreement, BothSides

__all__ = ["agreement", "both_sides", "mend", "picture", "recount", "stranded", "tidy_services"]

_COMPARED = ("vm_state", "task_state", "power_state", "host")
_OWN: Mapping[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "instance_types": ("flavor", (("flavorid",),)),
    "key_pairs": ("key pair", (("user_id", "name"),)),
    "instance_groups": ("server group", (("uuid",),)),
    "aggregates": ("aggregate", (("name",),)),
    "security_groups": ("security group", (("project_id", "name"),)),
    "quotas": ("quota", (("project_id", "resource", "hard_limit"),)),
    "project_user_quotas": ("quota of a user", (("project_id", "user_id", "resource", "hard_limit"),)),
}
"""Tables that each cell keeps for itself, what a row is called, and what makes it the same one."""
_NAMED = 20


def agreement(child: Session, api: Session, path: str, failed: frozenset[str]) -> Agreement:
    """One look at live instances. ``failed``: uuids of cell0's, which neither side needs."""
    wanted = ("uuid", "cell_name", *_COMPARED)
    theirs = _by_uuid(child, wanted)
    mine = _by_uuid(api, wanted)
    wrong, alone, both = [], [], 0
    for uuid, row in mine.items():
        other = theirs.get(uuid)
        if uuid in failed:
            continue
        if other is None:
            if row["host"] is None and row["cell_name"] != path:
                alone.append(uuid)
            else:
                wrong.append(f"{uuid} is in the API cell alone")
            continue
        both += 1
        if row["cell_name"] != path:
            wrong.append(f"{uuid} has cell_name {row['cell_name'] or 'NULL'}")
        differing = [c for c in _COMPARED if row[c] != other[c]]
        wrong += [f"{uuid} has {c} {row[c]}, and {other[c]} in the child" for c in differing]
    wrong += [f"{uuid} is in the child alone" for uuid in theirs.keys() - mine.keys()]
    return Agreement(both, tuple(sorted(wrong)), tuple(sorted(alone)))


def _by_uuid(session: Session, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows = session.named(f"SELECT {columns(wanted)} FROM instances WHERE deleted = 0")
    session.rollback()
    return {str(r["uuid"]): r for r in rows}


def both_sides(child: Session, api: Session) -> BothSides:
    """The child first: what it tells the API cell while they are asked is then no difference that lasts."""
    return BothSides(_live(child), _live(api))


def _live(session: Session) -> dict[str, InstanceRow]:
    there = session.query(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'instances'"
    )
    found = session.named(read_live(frozenset(str(c).lower() for (c,) in there)))
    session.rollback()
    return live_rows(found)


def mend(api: Session, changes: Sequence[RowChange], seen: BothSides) -> tuple[RowChange, ...]:
    """One statement each, which says itself what has to be so: a late update of nova-cells, or a user's next
    operation, is not overwritten."""
    done = []
    for change in changes:
        before, after = change.before or {}, change.after or {}
        written = ", ".join(f"{name(c)} = %s" for c in after)
        asked = " AND ".join(f"{name(c)} <=> %s" for c in before)
        count = api.execute(
            f"UPDATE instances SET {written} WHERE id = %s AND uuid = %s AND deleted = 0"
            f" AND {WRITTEN} = %s AND {asked}",
            (*after.values(), change.id, change.label, seen.api[change.label].updated, *before.values()),
        )
        api.commit()
        if count:
            done.append(change)
    return tuple(done)


def stranded(child: Session, api: Session, scope: Scope) -> tuple[str, ...]:
    """What an undo would lose. Tables that this release keeps elsewhere hold no rows, or old ones."""
    out: list[str] = []
    tables = {e.table.name: e.table for e in scope.moving}
    theirs = {str(u) for (u,) in child.query("SELECT uuid FROM instances")}
    child.rollback()
    rows = api.query("SELECT uuid FROM instances WHERE deleted = 0 AND host IS NOT NULL")
    out += [f"instance {uuid}" for (uuid,) in rows if str(uuid) not in theirs]
    for table, (word, keys) in _OWN.items():
        if table not in tables:
            continue
        there = {c.name for c in tables[table].columns}
        for key in keys:
            if set(key) <= there:
                missing = _rows(api, table, key, there) - _rows(child, table, key, there)
                if table == "security_groups":
                    missing -= _made_anew(api)
                out += [f"{word} {' '.join(map(str, row))}" for row in sorted(missing, key=str)]
    api.rollback()
    return tuple(out[:_NAMED])


def _made_anew(session: Session) -> set[tuple[Any, ...]]:
    """Nova makes a project's default group itself, at each first boot in a database, whoever filters: one
    without rules is nobody's loss, and users could not delete it."""
    found = session.query(
        "SELECT g.project_id, g.name FROM security_groups g WHERE g.deleted = 0 AND g.name = 'default'"
        " AND NOT EXISTS (SELECT 1 FROM security_group_rules r"
        " WHERE r.parent_group_id = g.id AND r.deleted = 0)"
    )
    session.rollback()
    return {tuple(r) for r in found}


def _rows(session: Session, table: str, key: Sequence[str], there: Iterable[str]) -> set[tuple[Any, ...]]:
    live = " WHERE deleted = 0" if "deleted" in there else ""
    found = {tuple(r) for r in session.query(f"SELECT {columns(key)} FROM {name(table)}{live}")}
    session.rollback()
    return found


def recount(session: Session) -> int:
    """Of instances, cores and memory here; what else is counted Nova counts anew when it is next asked.

    Rows that were counted are marked for Nova's own recount as well: a boot may be on its way.
    """
    wrong = 0
    session.begin()
    usages = session.named(
        "SELECT id, project_id, user_id, resource, in_use FROM quota_usages WHERE deleted = 0 FOR UPDATE"
    )
    counted: dict[tuple[Any, Any], tuple[int, int, int]] = {}
    for project, user, number, cores, memory in session.query(
        "SELECT project_id, user_id, COUNT(*), SUM(vcpus), SUM(memory_mb) FROM instances WHERE deleted = 0"
        # What was deleted softly was given back then.
        " AND COALESCE(vm_state, '') <> 'soft-delete' GROUP BY project_id, user_id"
    ):
        here = (int(number), int(cores or 0), int(memory or 0))
        for key in ((project, user), (project, None)):
            before = counted.get(key, (0, 0, 0))
            counted[key] = (before[0] + here[0], before[1] + here[1], before[2] + here[2])
    for usage in usages:
        place = _RESOURCES.get(str(usage["resource"]))
        in_use = int(usage["in_use"])
        if place is not None:
            in_use = counted.get((usage["project_id"], usage["user_id"]), (0, 0, 0))[place]
        wrong += in_use != int(usage["in_use"])
        session.execute(
            "UPDATE quota_usages SET in_use = %s, until_refresh = 1 WHERE id = %s", (in_use, usage["id"])
        )
    session.commit()
    return wrong


_RESOURCES = {"instances": 0, "cores": 1, "ram": 2}


def picture(session: Session, tables: Sequence[str]) -> dict[str, Any]:
    """Tables by name, live neighbours, and the numbers of services that report here."""
    found = {
        "tables": sorted(tables),
        "neighbours": sorted(str(n) for (n,) in session.query("SELECT name FROM cells WHERE deleted = 0")),
        "services": [int(i) for i in _services(session)],
    }
    session.rollback()
    return found


def _services(session: Session) -> Iterator[Any]:
    for (number,) in session.query("SELECT id FROM services WHERE deleted = 0 ORDER BY id"):
        yield number


def tidy_services(session: Session, known: Sequence[int]) -> int:
    """Records of nova-cells that began to report since then are deleted as Nova deletes them. How many."""
    count = 0
    for number, binary in session.query("SELECT id, `binary` FROM services WHERE deleted = 0"):
        if binary == "nova-cells" and int(number) not in known:
            count += session.execute(
                "UPDATE services SET deleted = id, deleted_at = UTC_TIMESTAMP() WHERE id = %s", (number,)
            )
    return count
