"""What a further child of a tree of cells v1 is asked and given in its database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import columns, name
from recell.adapters.v1_port import FlavorRows
from recell.errors import StepFailed
from recell.model.v1 import FLAVORS, Conversion
from recell.model.violation import Violation

__all__ = ["flavors", "live", "set_flavors", "set_weights", "troubles"]

_WEIGHTS = ("weight_offset", "weight_scale")


def live(session: Session) -> tuple[str, ...]:
    rows = session.query("SELECT uuid FROM instances WHERE deleted = 0 ORDER BY uuid")
    session.rollback()
    return tuple(str(u) for (u,) in rows)


def set_weights(session: Session, child: str, weights: Mapping[str, float]) -> None:
    chosen = {c: float(weights[c]) for c in _WEIGHTS if c in weights}
    written = ", ".join(f"{name(c)} = %s" for c in chosen)
    session.execute(
        f"UPDATE cells SET {written} WHERE name = %s AND deleted = 0", (*chosen.values(), child)
    )


def flavors(session: Session) -> FlavorRows:
    there = _columns(session)
    found = {}
    for table in FLAVORS:
        if table in there:
            rows = session.named(f"SELECT {columns(there[table])} FROM {name(table)} ORDER BY id")
            found[table] = [{c: _plain(v) for c, v in row.items()} for row in rows]
    session.rollback()
    return found


def _columns(session: Session) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table, column in session.query(
        "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()"
        " AND TABLE_NAME IN %s ORDER BY TABLE_NAME, ORDINAL_POSITION",
        (FLAVORS,),
    ):
        found.setdefault(str(table), []).append(str(column))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value


def set_flavors(session: Session, rows: FlavorRows) -> None:
    there = _columns(session)
    session.begin()
    if session.query("SELECT 1 FROM instances WHERE deleted = 0 LIMIT 1"):
        session.rollback()
        raise StepFailed(
            "the child has instances, which name flavors by number", "Let their owners delete them first"
        )
    session.execute("SET SESSION foreign_key_checks = 0")
    for table in FLAVORS:
        if table not in there:
            continue
        session.execute(f"DELETE FROM {name(table)}")
        for row in rows.get(table, []):
            own = {c: v for c, v in row.items() if c in there[table]}
            session.execute(
                f"INSERT INTO {name(table)} ({columns(list(own))}) VALUES ({', '.join(['%s'] * len(own))})",
                tuple(own.values()),
            )
    session.commit()


def troubles(child: Session, api: Session, conversion: Conversion) -> Iterator[Violation]:
    """:param child, api: as root, with the database of each open."""
    where = conversion.old.where
    if found := live(child):
        yield Violation(
            "v1-child:instances", "stop", where,
            f"{conversion.old.name} has {len(found)} instances, which the API cell would not know",
            "Add an empty cell: delete them first",
        )  # fmt: skip
    for session, end in ((child, conversion.old), (api, conversion.new)):
        if not session.mariadb:
            yield Violation(
                f"v1-child:mysql:{end.name}", "stop", end.where,
                f"this is MySQL ({session.version}), on which no cells v1 have been made",
                "Leave this cell where it is",
            )  # fmt: skip
        known = {str(n) for (n,) in session.query("SELECT name FROM cells WHERE deleted = 0")}
        wrong = sorted(known if end == conversion.old else known & {conversion.old.name})
        if wrong:
            yield Violation(
                f"v1-child:records:{end.name}", "stop", end.where,
                f"its table cells names {', '.join(wrong)} already",
                "Remove what nobody uses: nova-manage cell delete --name NAME",
            )  # fmt: skip
    theirs, mine = (
        {
            (str(t), str(c))
            for t, c in session.query(
                "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS"
                " WHERE TABLE_SCHEMA = DATABASE()"
                " AND TABLE_NAME IN ('instances', 'instance_extra', 'cells', 'services', 'instance_types')"
            )
        }
        for session in (child, api)
    )
    if differing := sorted(f"{t}.{c}" for t, c in theirs ^ mine):
        yield Violation(
            "v1-child:schema", "stop", where,
            f"its tables are not those of {conversion.new.where}: {', '.join(differing[:5])}",
            "Bring both to one release: nova-manage db sync",
        )  # fmt: skip
