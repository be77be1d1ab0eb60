"""Changes of single rows, each only where the row is what it is thought to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from recell.adapters.mysql.sql import columns, name
from recell.errors import StalePlan, StepFailed
from recell.model.rowchange import RowChange, shown

__all__ = ["select", "stands_as", "write"]


def select(table: str, names: Sequence[str], where: str = "TRUE") -> str:
    """``where``: our own words, parameters as %s."""
    return f"SELECT {columns(names)} FROM {name(table)} WHERE {where} ORDER BY `id`"


def write(cursor: DictCursor, changes: Iterable[RowChange]) -> tuple[RowChange, ...]:
    """All of them, in their order, in the cursor's transaction. Returned with the ids that the server gave;
    those whose row is what it becomes already are left out.

    :raises StalePlan: a row is another. :raises StepFailed: another row stands in its place.
    """
    ids: dict[tuple[str, int], int] = {}
    done = []
    for change in changes:
        ready = change.real(ids)
        try:
            if ready.before is None and ready.id < 0:
                given = _insert(cursor, ready)
                ids[change.table, change.id] = given
                done.append(replace(ready, id=given, refs=()))
            elif _alter(cursor, ready):
                done.append(replace(ready, refs=()))
        except pymysql.IntegrityError as error:
            reason = str(error.args[-1])
            raise StepFailed(
                f"{ready.table} {ready.label or ready.id} of {ready.cell} can't be written ({reason})",
                "Another row has what it needs: see that row, then ask again",
            ) from None
    return tuple(done)


def stands_as(cursor: DictCursor, change: RowChange) -> str:
    """before, after, or other: which of the two the row is now; it is locked."""
    names = list(dict.fromkeys((*(change.before or ()), *(change.after or ()))))
    cursor.execute(f"SELECT {columns(names)} FROM {name(change.table)} WHERE `id` = %s FOR UPDATE",
                   (change.id,))
    row = cursor.fetchone()
    for word, values in (("before", change.before), ("after", change.after)):
        if row is None or values is None:
            if row is None and values is None:
                return word
        elif all(_same(row[c], v) for c, v in values.items()):
            return word
    return "other"


def _insert(cursor: DictCursor, change: RowChange) -> int:
    values: dict[str, Any] = dict(change.after or {})
    if change.id > 0:
        values["id"] = change.id
    places = ", ".join(["%s"] * len(values))
    cursor.execute(f"INSERT INTO {name(change.table)} ({columns(list(values))}) VALUES ({places})",
                   tuple(values.values()))
    return int(cursor.lastrowid or 0)


def _alter(cursor: DictCursor, change: RowChange) -> bool:
    stands = stands_as(cursor, change)
    if stands == "after":
        return False
    if stands == "other":
        raise _stale(change)
    if change.before is None:
        _insert(cursor, change)
    elif change.after is None:
        cursor.execute(f"DELETE FROM {name(change.table)} WHERE `id` = %s", (change.id,))
    else:
        written = ", ".join(f"{name(c)} = %s" for c in change.after)
        cursor.execute(f"UPDATE {name(change.table)} SET {written} WHERE `id` = %s",
                       (*change.after.values(), change.id))
    return True


def _stale(change: RowChange) -> StalePlan:
    row = f"{change.table} {shown(change.label or change.id)} of {change.cell}"
    return StalePlan(
        f"{row} has changed since it was looked at",
        "Ask again: what is still to be done is looked for anew",
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, datetime) and isinstance(other, datetime):
        return one.replace(microsecond=0) == other.replace(microsecond=0)
    return bool(one == other)


