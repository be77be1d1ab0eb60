"""AUTO_INCREMENT: of a new cell's tables raised far above every other cell's before its first row; of a
database that moves whole, carried along.

From then on two cells hand out numbers at the same time, and rows that move between them keep theirs.
Without a gap a row that comes along would meet a stranger under its number.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from recell.adapters.mysql.session import Busy, Session, release
from recell.adapters.mysql.sql import name
from recell.errors import StepFailed, Unsupported
from recell.model.scope import Column, Schema, Table

__all__ = ["GAP", "carry_counters", "keeps_counters", "part_counters", "plan_gap", "raise_counters",
           "read_counters"]

GAP = 100_000_000
"""Ids that the older cells may hand out until they meet the new one's."""

_ATTEMPTS, _PAUSE_S = 10, 0.5
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}


def read_counters(session: Session, schema: Schema) -> dict[str, int]:
    """The number that each table's next row gets, for tables that number their rows."""
    told = {str(t): int(n or 0) for t, n in session.query(
        "SELECT TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s",
        (schema.database,))}
    counters = {}
    for table in schema.tables:
        column = _counted(table)
        if column is not None:
            highest = session.query(f"SELECT MAX({name(column.name)}) FROM {name(table.name)}")[0][0]
            counters[table.name] = max(told.get(table.name, 0), int(highest or 0) + 1)
    session.rollback()
    return counters


def plan_gap(schema: Schema, others: Sequence[Mapping[str, int]], gap: int = GAP) -> dict[str, int]:
    """Where each table of a new cell begins to count.

    :param others: :func:`read_counters` of every cell there is.
    :raises Unsupported: a table has no room for two more gaps.
    """
    starts, full = {}, []
    for table in schema.tables:
        column = _counted(table)
        if column is None:
            continue
        highest = max([o.get(table.name, 1) for o in others], default=1)
        start = -(-(highest + gap) // 1_000_000) * 1_000_000
        if start + gap > _limit(column):
            full.append(f"{table.name} ({highest:,} of {_limit(column):,})")
        starts[table.name] = start
    if full:
        raise Unsupported(
            f"there is no room for {gap:,} more numbers twice in {', '.join(full)}",
            "Choose a smaller gap, at least ten times the rows that the cells will get until finish",
        )
    return starts


def raise_counters(
    session: Session, schema: Schema, starts: Mapping[str, int], seeded: Collection[str] = ()
) -> None:
    """Raise and read back. Does nothing where it is done already.

    :param seeded: tables that `db sync` itself puts rows into.
    :raises StepFailed: a table has rows already, or the server did not do as it was told.
    """
    for table_name, start in starts.items():
        if read_counters(session, _only(schema, table_name))[table_name] >= start:
            continue
        table = name(table_name)
        if table_name not in seeded and session.query(f"SELECT 1 FROM {table} LIMIT 1"):
            raise StepFailed(
                f"{table_name} of {session.endpoint.where} has rows before its numbers were raised",
                "Stop what writes to the new cell and delete its rows, or begin with an empty database",
            )
        session.rollback()
        session.execute(f"ALTER TABLE {table} AUTO_INCREMENT = {int(start)}")
    wrong = [f"{t} ({n:,})" for t, n in read_counters(session, schema).items() if n < starts.get(t, 0)]
    if wrong:
        raise StepFailed(f"{session.endpoint.where} did not raise the numbers of {', '.join(wrong)}",
                         "Look at the server's log")


def part_counters(old: Session, new: Session, schema: Schema, gap: int = GAP) -> dict[str, int]:
    """Raise the old cell's counters above all that the new one will hand out; before the way back is opened.

    A row that flows back has a number of the new cell's, and InnoDB goes on counting from the highest that
    it has seen: the old cell would hand out the very numbers that the new one hands out. Where a database
    moves whole, only one of the two ever counts: :func:`carry_counters`.

    Takes an instant and a table's metadata lock, so not while the writers are held. What was raised, by
    table; none where it is done already.

    :raises Unsupported: a table has no room. :raises Busy: a transaction uses the table; try again.
    """
    mine, theirs = (read_counters(s, Schema(s.endpoint.database, schema.tables)) for s in (old, new))
    raised = {}
    for table in schema.tables:
        column = _counted(table)
        if column is None or mine[table.name] > theirs[table.name]:
            continue
        start = theirs[table.name] + gap
        if start + gap > _limit(column):
            raise Unsupported(f"there is no room for {gap:,} more numbers twice in {table.name}",
                              "Choose a smaller gap, at least ten times the rows that the cells will get")
        raised[table.name] = start
    old.execute("SET SESSION lock_wait_timeout = 1")
    for table_name, start in raised.items():
        old.execute(f"ALTER TABLE {name(table_name)} AUTO_INCREMENT = {int(start)}")
    return raised


def carry_counters(here: Session, there: Session, schema: Schema) -> dict[str, int]:
    """Where the database moves whole: ``there`` goes on counting where ``here`` stands. What was raised.

    A row that was born and archived before anybody looked at it has never been there, and its number would
    be given again; in the shadow table that number is taken.

    Not while the writers are held, as :func:`part_counters`.

    :raises StepFailed: a table of ``there`` is never free.
    """
    mine, theirs = (read_counters(s, Schema(s.endpoint.database, schema.tables)) for s in (here, there))
    raised = {table: number for table, number in mine.items() if number > theirs[table]}
    if raised:
        there.execute("SET SESSION lock_wait_timeout = 1")
    for table, number in raised.items():
        for attempt in range(_ATTEMPTS):
            try:
                there.execute(f"ALTER TABLE {name(table)} AUTO_INCREMENT = {int(number)}")
                break
            except Busy as busy:
                if attempt == _ATTEMPTS - 1:
                    raise StepFailed(
                        f"the next number of {table} of {there.endpoint.where} could not be raised ({busy})",
                        "See which transaction there doesn't end") from None
                time.sleep(_PAUSE_S)
    return raised


def keeps_counters(version: str) -> bool:
    """Whether a restart of the server keeps the counter of a table without rows.

    Before MySQL 8.0 and MariaDB 10.2.4 InnoDB forgets it and goes on after the highest row: there the
    server must not be restarted between the gap and the first row of each table.
    """
    return release(version) >= ((10, 2, 4) if "mariadb" in version.lower() else (8, 0))


def _counted(table: Table) -> Column | None:
    return next((c for c in table.columns if c.auto_increment), None)


def _limit(column: Column) -> int:
    bits = _BITS.get(column.type, 32)
    return (1 << (bits if "unsigned" in column.full_type else bits - 1)) - 1


def _only(schema: Schema, table: str) -> Schema:
    return Schema(schema.database, (schema.table(table),))
