"""Makes the rows of dirty keys at the target what they are at the source, and proves it row by row.

A row event only says *which* row to look at. The row is read again, in a snapshot of the source that
is not older than the event, so a thousand updates of a row are one, and nothing depends on order.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import Key, KeyPart, among
from recell.errors import StepFailed
from recell.mover.copy import Writer, whole
from recell.mover.journal import Journal, write_members
from recell.mover.members import Interest, Members, Work

__all__ = ["Applied", "Applier", "hashes"]

BATCH = 500
"""Keys in one statement."""
_TRANSACTION_KEYS = 2000
_SNAPSHOT_WAIT_S = 60.0
_WORKER = 20  # the applier's row of the mark table

T = TypeVar("T")


@dataclass
class Applied:
    """``position``: up to where the source was applied with these keys, not yet proven equal.
    ``gtid``: of the last transaction before it; ``fence``: of the last one that changed such keys."""

    position: Position
    gtid: str
    fence: Position | None = None
    keys: dict[str, set[Key]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.keys.values()))


class Applier:
    """Writes with one session to each side. Raises Lost and Busy as its sessions do: the work is kept
    and the next call, with new sessions, takes it up again.

    :param progress: writes position and proven position into the journal, in the session's transaction.
    """

    def __init__(
        self, source: Session, target: Session, members: Members, journal: Journal,
        progress: Callable[[Session, Position, Position, str], None], proven: tuple[Position, str],
        position: Position, unproven: OrderedDict[int, Applied],
    ) -> None:
        self._source, self._target = source, target
        self._writer = Writer(target)
        self._members, self._journal, self._progress = members, journal, progress
        self.unproven = unproven
        self.proven, self.proven_gtid = proven
        self.position = position
        self.applied_keys = 0
        self._number = max(self.unproven, default=0)

    # -- applying --------------------------------------------------------------------------------

    def flush(self) -> int:
        """Apply all the work there is. Number of keys."""
        work = self._members.take()
        if work.position is None:
            return 0
        if not len(work) and not work.joined and not work.left:
            self._advance(work.position, work.gtid)
            return 0
        try:
            self._see(work.fence)
            self._expand(work)
            self._apply(work, work.position)
            self._source.commit()
        except BaseException:
            self._source.rollback()
            self._target.rollback()
            self._members.put_back(work)
            raise
        self._members.settled()
        self.position = work.position
        return sum(map(len, work.keys.values()))

    def _advance(self, position: Position, gtid: str) -> None:
        """Nothing of ours happened up to here."""
        self.position = position
        last = next(reversed(self.unproven.values()), None)
        if last is not None:
            last.position, last.gtid = position, gtid
        else:
            self.proven, self.proven_gtid = position, gtid

    def _see(self, fence: Position | None) -> None:
        """Begin a snapshot of the source that has everything before ``fence``."""
        until = time.monotonic() + _SNAPSHOT_WAIT_S
        pause = 0.001
        while True:
            seen = self._source.snapshot()
            if fence is None or seen >= fence:
                return
            # The binlog has a transaction a moment before InnoDB shows it.
            self._source.rollback()
            if time.monotonic() > until:
                raise StepFailed(
                    f"{self._source.endpoint.where} has shown no transaction after {seen} for"
                    f" {_SNAPSHOT_WAIT_S:.0f} s, though its binlog is at {fence}",
                    "See why commits hang there (semi-synchronous replicas, a full disk)",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def _expand(self, work: Work) -> None:
        """Rows that refer to values that entered or left: of both sides, as far down as it goes."""
        members = self._members
        while work.touched:
            link, values = work.touched.popitem()
            for child in members.children.get(link, ()):
                here = self._referring(self._source, child, values)
                there = self._referring(self._target, child, values)
                with members.lock:
                    seen = set()
                    for told in here:
                        work.add(child.name, child.key(told))
                        belongs = members.belongs(child, told)
                        for exported, value in child.exported(told):
                            seen.add((exported, value))
                            (members.join if belongs else members.leave)(exported, value, work)
                    for told in there:
                        work.add(child.name, child.key(told))
                        for exported, value in child.exported(told):
                            if (exported, value) not in seen:
                                members.leave(exported, value, work)

    def _referring(
        self, session: Session, child: Interest, values: Iterable[KeyPart]
    ) -> list[tuple[KeyPart | None, ...]]:
        found = []
        for batch in batches(sorted(values, key=str), BATCH):
            where, args = among(child.owner[:1], [(v,) for v in batch])
            sql = f"SELECT {child.told} FROM {child.rows.quoted} WHERE {where}"
            found += [child.parse(fields) for fields in session.raw(sql, args)]
        return found

    def _apply(self, work: Work, position: Position) -> None:
        keys_now = {table: set(keys) for table, keys in work.keys.items() if keys}
        applied = Applied(position, work.gtid, work.fence, keys_now)
        self._journal.mark(self._target, _WORKER)
        since = 0
        for table, keys in work.keys.items():
            interest = self._members.interests[table]
            for batch in batches(sorted(keys, key=_order), BATCH):
                if since >= _TRANSACTION_KEYS:
                    self._target.commit()
                    self._journal.mark(self._target, _WORKER)
                    since = 0
                self._rows(interest, batch)
                since += len(batch)
        for link, values in work.joined.items():
            write_members(self._target, link, values, present=True)
        for link, values in work.left.items():
            write_members(self._target, link, values, present=False)
        self._progress(self._target, position, self.proven, self.proven_gtid)
        self._target.commit()
        # What is proven later needs proof no more now.
        for older in self.unproven.values():
            for table, found in applied.keys.items():
                if table in older.keys:
                    older.keys[table] -= found
        self._number += 1
        self.unproven[self._number] = applied
        self.applied_keys += len(applied)

    def _rows(self, interest: Interest, keys: Sequence[Key]) -> None:
        where, args = among(interest.rows.key, keys)
        sql = f"SELECT {interest.told}, {interest.rows.row} FROM {interest.rows.quoted} WHERE {where}"
        gone = set(keys)
        rows: list[bytes] = []
        for fields in self._source.raw(sql, args):
            told = interest.parse(fields[:-1])
            if self._members.belongs(interest, told):
                rows.append(whole(interest, fields[-1]))
                gone.discard(interest.key(told))
        if gone and interest.deletes:
            self._delete(interest, sorted(gone, key=_order))
        if rows:
            self._writer.write(interest, rows, replace=True)

    def _delete(self, interest: Interest, keys: Sequence[Key]) -> None:
        if not interest.everything:
            # The target may have a row of its own under this key: only what is or was ours goes.
            where, args = among(interest.rows.key, keys)
            sql = f"SELECT {interest.told} FROM {interest.rows.quoted} WHERE {where}"
            told = [interest.parse(fields) for fields in self._target.raw(sql, args)]
            keys = [interest.key(t) for t in told if self._members.belongs(interest, t, ever=True)]
        if keys:
            where, args = among(interest.rows.key, keys)
            self._target.execute(f"DELETE FROM {interest.rows.quoted} WHERE {where}", args)

    # -- proving ---------------------------------------------------------------------------------

    def prove(self, limit: int = 5000) -> int:
        """Compare keys that were applied and not proven yet, oldest first, on both sides.

        Number of keys that still differ; in a running system those are the ones that changed since.
        """
        different = 0
        for number, applied in list(self.unproven.items()):
            if limit <= 0:
                break
            self._see(applied.fence)
            for table, keys in applied.keys.items():
                interest = self._members.interests[table]
                for batch in batches(list(keys), BATCH):
                    differing = self._differing(interest, batch)
                    keys.difference_update(set(batch) - differing)
                    different += len(differing)
                    limit -= len(batch)
            self._source.commit()
            self._target.commit()
            if not len(applied) and number == next(iter(self.unproven)):
                del self.unproven[number]
                self.proven, self.proven_gtid = applied.position, applied.gtid
        return different

    def _differing(self, interest: Interest, keys: Sequence[Key]) -> set[Key]:
        here = hashes(self._source, interest, keys, self._members)
        there = hashes(self._target, interest, keys, self._members, ever=True)
        if not interest.deletes:
            there = {k: h for k, h in there.items() if k in here}
        found = {k for k in here.keys() | there.keys() if here.get(k) != there.get(k)}
        # In a case-insensitive collation another spelling of a key that was asked for may answer.
        return found & set(keys) if found <= set(keys) else set(keys)

    @property
    def unproven_keys(self) -> int:
        return sum(map(len, self.unproven.values()))


def hashes(session: Session, interest: Interest, keys: Sequence[Key], members: Members, *, ever: bool = False
           ) -> dict[Key, bytes]:
    """By key, of those rows that are in the scope; with ``ever``, that are or have been."""
    where, args = among(interest.rows.key, keys)
    sql = f"SELECT {interest.told}, {interest.rows.hash} FROM {interest.rows.quoted} WHERE {where}"
    found = {}
    for fields in session.raw(sql, args):
        told = interest.parse(fields[:-1])
        if members.belongs(interest, told, ever=ever):
            found[interest.key(told)] = fields[-1] or b""
    return found


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), size):
        yield items[at:at + size]


def _order(key: Key) -> tuple[tuple[str, KeyPart], ...]:
    return tuple((type(part).__name__, part) for part in key)
