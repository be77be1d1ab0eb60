"""Rows that requests write to a cell after its hosts have left it: brought over, overtaken, or named.

Such a request has read the old mapping, so it writes to the old rows. The binary log says which rows have
changed since both sides were proven equal. What a request may write by itself is given to the new cell, in
the order of Nova's own times where the new cell has changed the same row. The rest is named, never guessed.

What an instance's row said in the moment is kept beside it (:data:`LEFT`), so that each column is known by
what it was: one that changed here and not there is brought over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import Key, among, name
from recell.errors import StepFailed
from recell.model.hosts import Late
from recell.mover import servers
from recell.mover.copy import whole
from recell.mover.journal import PREFIX
from recell.mover.members import Interest, Members, Work

__all__ = ["LEFT", "bring_late", "give_tasks", "keep_left", "late_tasks", "make_left"]

LEFT = PREFIX + "left"
_OURS = frozenset({"hidden", "task_state"})
"""Columns of instances that recell itself writes in the moment. A late task comes with a request, which is
carried to nova-compute; anything else that would begin one has met the fence."""
_BY_REQUEST = frozenset({"display_name", "display_description", "access_ip_v4", "access_ip_v6", "locked",
                         "locked_by"})  # fmt: skip
"""Columns of instances that a request writes by itself."""
_STAMP = "updated_at"
_UPDATED = frozenset({"instance_metadata", "instance_system_metadata", "instance_actions",
                      "instance_actions_events"})  # fmt: skip
"""Tables whose rows a request changes by itself."""
_PAIRS = frozenset({"instance_metadata", "instance_system_metadata"})
"""Tables of keys and values, of which each key lives once."""
_TIMES = ("created_at", "updated_at", "deleted_at")
_NEVER = datetime.min
_SNAPSHOT_S = 60.0
_AT_ONCE = 200

_Row = dict[str, Any]


def make_left(session: Session) -> None:
    """Make room for what instances are in the moment; before it, since it is a change of the schema."""
    session.execute(f"DROP TABLE IF EXISTS {name(LEFT)}")
    session.execute(f"CREATE TABLE {name(LEFT)} LIKE {name('instances')}")
    # So that the copy needs no locks on rows that another session of ours holds.
    session.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def keep_left(session: Session, hosts: Sequence[str]) -> None:
    """In the moment, while writers are held: keep what they are. Committed, so that it outlives recell."""
    session.execute(f"DELETE FROM {name(LEFT)}")
    session.execute(
        f"INSERT INTO {name(LEFT)} SELECT * FROM {name('instances')} WHERE host IN %s", (list(hosts),)
    )
    session.commit()


def late_tasks(session: Session, database: str, hosts: Sequence[str], fence: str) -> list[tuple[str, str]]:
    """(uuid, task) of instances in which one was begun since the moment; locked until the session commits."""
    if LEFT not in servers.table_names(session, database):
        return []
    rows = session.query(
        f"SELECT i.uuid, i.task_state FROM {name('instances')} i JOIN {name(LEFT)} l ON l.id = i.id"
        " WHERE i.host IN %s AND i.task_state <> %s AND NOT i.task_state <=> l.task_state FOR UPDATE",
        (list(hosts), fence),
    )
    return [(str(uuid), str(task)) for uuid, task in rows]


def give_tasks(session: Session, begun: Sequence[tuple[str, str]]) -> None:
    for uuid, task in begun:
        session.execute(
            "UPDATE instances SET task_state = %s WHERE uuid = %s AND task_state IS NULL AND deleted = 0",
            (task, uuid),
        )


def bring_late(left: Session, there: Session, members: Members, work: Work, cell: str) -> Late:
    """Give ``there`` what ``work`` says has changed at ``left``. Can be repeated.

    :param cell: what the cell that was left is called, for what is named.
    """
    _see(left, work)
    found = Late()
    try:
        for table, interest in members.interests.items():  # parents before their children
            keys = sorted(work.keys.get(table, ()), key=str)
            for at in range(0, len(keys), _AT_ONCE):
                one = _Table(left, there, members, interest, cell)
                some = keys[at : at + _AT_ONCE]
                found += one.instances(some) if table == "instances" else one.rows(some)
        there.commit()
        left.commit()
    except BaseException:
        there.rollback()
        left.rollback()
        raise
    return found


def _see(left: Session, work: Work) -> None:
    """Begin a snapshot that has all of the work: the binary log has it a moment before InnoDB shows it."""
    until = time.monotonic() + _SNAPSHOT_S
    while True:
        seen = left.snapshot()
        if work.fence is None or seen >= work.fence:
            return
        left.rollback()
        if time.monotonic() > until:
            raise StepFailed(
                f"{left.endpoint.where} has not shown its last transactions for {_SNAPSHOT_S:.0f} s",
                "See why commits hang there, then: recell resume",
            )
        time.sleep(0.002)


class _Table:
    """Some late rows of one table."""

    def __init__(
        self, left: Session, there: Session, members: Members, interest: Interest, cell: str
    ) -> None:
        self._left, self._there = left, there
        self._members, self._interest, self._cell = members, interest, cell
        self._quoted = interest.rows.quoted
        self._columns = frozenset(c.name for c in interest.rows.table.columns)

    def _read(self, session: Session, keys: Sequence[Key], table: str = "") -> dict[Key, _Row]:
        """The new cell's are locked: nobody changes them between this look and what is made of it."""
        key = self._interest.rows.key
        where, values = among(key, keys)
        lock = " FOR UPDATE" if session is self._there else ""
        rows = session.named(f"SELECT * FROM {table or self._quoted} WHERE {where}{lock}", values)
        return {tuple(r[k] for k in key): r for r in rows}

    # -- children of instances ---------------------------------------------------------------------

    def rows(self, keys: Sequence[Key]) -> Late:
        here, there = self._read(self._left, keys), self._read(self._there, keys)
        found = Late()
        for key in keys:
            mine, theirs = here.get(key), there.get(key)
            if mine != theirs and (mine is None or self._ours(mine)):
                found += self._row(key, mine, theirs)
        return found

    def _ours(self, row: _Row) -> bool:
        interest = self._interest
        if interest.link is None:
            return False
        owner = row[interest.owner[0]]
        return owner is not None and interest.spelled(owner) in self._members.present[interest.link]

    def _row(self, key: Key, mine: _Row | None, theirs: _Row | None) -> Late:
        if mine is None:
            return self._deleted(key, theirs or {})
        if theirs is None:
            return self._born(key, mine)
        if self._interest.name not in _UPDATED:
            return self._lost(key, "changed")
        if _newest(mine) < _newest(theirs):
            return Late(stale=1)
        self._write(key, self._interest.rows.replace, b"")
        return Late(carried=1)

    def _born(self, key: Key, mine: _Row) -> Late:
        if self._interest.name in _PAIRS and not mine["deleted"] and self._there.query(
            f"SELECT 1 FROM {self._quoted} WHERE instance_uuid = %s AND {name('key')} = %s AND deleted = 0",
            (mine["instance_uuid"], mine["key"]),
        ):
            return Late(stale=1)  # set anew in the new cell, by somebody who came later
        end = self._interest.rows.insert_end
        return Late(carried=1) if self._write(key, self._interest.rows.insert, end) else Late(stale=1)

    def _deleted(self, key: Key, theirs: _Row) -> Late:
        """Gone from here. Tags are; where rows are only marked, an archive has taken what was marked."""
        if "deleted" in self._columns:
            return Late() if theirs["deleted"] else self._lost(key, "deleted")
        where, values = among(self._interest.rows.key, [key])
        self._there.execute(f"DELETE FROM {self._quoted} WHERE {where}", values)
        return Late(carried=1)

    def _write(self, key: Key, head: bytes, tail: bytes) -> int:
        """The row as it is here, byte for byte."""
        where, values = among(self._interest.rows.key, [key])
        count = 0
        for row in self._left.column(
            f"SELECT {self._interest.rows.row} FROM {self._quoted} WHERE {where}", values
        ):
            count += self._there.send(head + whole(self._interest, row) + tail)
        return count

    def _lost(self, key: Key, what: str) -> Late:
        told = ", ".join(map(str, key))
        return Late(lost=(f"{self._interest.name} {told}: {what} in {self._cell} after it had moved",))

    # -- instances themselves ----------------------------------------------------------------------

    def instances(self, keys: Sequence[Key]) -> Late:
        here, there = self._read(self._left, keys), self._read(self._there, keys)
        before = self._read(self._left, keys, name(LEFT))
        found = Late()
        for key in keys:
            mine, theirs, was = here.get(key), there.get(key), before.get(key)
            if mine is not None and was is not None and theirs is not None:
                found += self._instance(key, mine, theirs, was)
            elif mine is not None and theirs is None and mine["host"] in self._members.hosts:
                found += Late(lost=(f"instance {mine['uuid']} was born in {self._cell} after the move",))
            elif mine is None and was is not None and not was["deleted"]:
                found += Late(lost=(f"instance {was['uuid']} was deleted in {self._cell} after the move",))
        return found

    def _instance(self, key: Key, mine: _Row, theirs: _Row, was: _Row) -> Late:
        changed = {c for c in mine if c not in _OURS and mine[c] != was[c]}
        if not changed:
            return Late()
        found = Late()
        beyond = sorted(changed - _BY_REQUEST - {_STAMP})
        if beyond:
            words = f"instance {was['uuid']}: {', '.join(beyond)} changed in {self._cell} after it had moved"
            found += Late(lost=(words,))
        mending = {c: mine[c] for c in sorted(changed & _BY_REQUEST) if theirs[c] == was[c]}
        overtaken = [c for c in changed & _BY_REQUEST if theirs[c] not in (was[c], mine[c])]
        where, values = among(self._interest.rows.key, [key])
        if mending:
            self._set(self._there, self._quoted, mending, where, values)
        # From now on this is what it was, or another look would find the same again.
        self._set(self._left, name(LEFT), {c: mine[c] for c in sorted(changed)}, where, values)
        return found + Late(carried=len(mending), stale=len(overtaken))

    @staticmethod
    def _set(session: Session, table: str, said: _Row, where: str, values: Sequence[Any]) -> None:
        sets = ", ".join(f"{name(c)} = %s" for c in said)
        session.execute(f"UPDATE {table} SET {sets} WHERE {where}", (*said.values(), *values))


def _newest(row: _Row) -> datetime:
    return max((row[t] for t in _TIMES if row.get(t) is not None), default=_NEVER)
