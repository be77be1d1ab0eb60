"""Makes the rows of dirty keys at the target what they are at the source, and proves it row by row.

A row event only says *which* row to look at. The row is read again, in a snapshot of the source that
is not older than the event, so a thousand updates of a row are one, and nothing depends on order.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from recell.adapters.mysql.pipeline import Answer, Pipeline, ask
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Fields, Session
from recell.adapters.mysql.sql import Key, KeyPart, among
from recell.errors import StepFailed
from recell.mover.copy import Writer, whole
from recell.mover.feed import ForeignWriter
from recell.mover.journal import Journal, write_members
from recell.mover.members import Interest, Members, Work

__all__ = ["Applied", "Applier", "hashes"]

BATCH = 500
"""Keys in one statement."""
_TRANSACTION_KEYS = 2000
_SNAPSHOT_WAIT_S = 60.0
_WORKER = 20  # the applier's row of the mark table

T = TypeVar("T")
Lot = Sequence[tuple[Interest, Sequence[Key]]]
"""Tables, and some keys of each."""


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
            seen = bool(work.touched)
            if seen:
                self._see(work.fence)
                self._expand(work)
            self._apply(work, work.position, seen)
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

    def _apply(self, work: Work, position: Position, seen: bool) -> None:
        """:param seen: a snapshot of the source that shows it all has begun."""
        keys_now = {table: set(keys) for table, keys in work.keys.items() if keys}
        applied = Applied(position, work.gtid, work.fence, keys_now)
        since = 0
        open_ = False
        for lot in self._lots(keys_now):
            rows = self._read(lot, work.fence, seen)
            seen = True
            if since >= _TRANSACTION_KEYS:
                self._target.commit()
                since, open_ = 0, False
            if not open_:
                self._journal.mark(self._target, _WORKER)
                open_ = True
            self._write(lot, rows)
            since += sum(len(keys) for _, keys in lot)
        if not open_:
            self._journal.mark(self._target, _WORKER)
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

    def _lots(self, keys: Mapping[str, Iterable[Key]]) -> Iterator[Lot]:
        """Keys of several tables together, so that few questions are asked."""
        lot: list[tuple[Interest, Sequence[Key]]] = []
        size = 0
        for table, found in keys.items():
            for batch in batches(sorted(found, key=_order), BATCH):
                if lot and size + len(batch) > BATCH:
                    yield lot
                    lot, size = [], 0
                lot.append((self._members.interests[table], batch))
                size += len(batch)
        if lot:
            yield lot

    def _read(self, lot: Lot, fence: Position | None, seen: bool) -> list[dict[Key, bytes]]:
        """The source's rows in the scope, by key, for each table of the lot."""
        told = self._answers(self._source, [
            self._by_key(self._source, interest, f"{interest.told}, {interest.rows.row}", keys)
            for interest, keys in lot], fence, seen)
        found = []
        for (interest, _), answer in zip(lot, told, strict=True):
            rows = {}
            for fields in answer:
                values = interest.parse(fields[:-1])
                if self._members.belongs(interest, values):
                    rows[interest.key(values)] = whole(interest, fields[-1])
            found.append(rows)
        return found

    def _answers(self, session: Session, statements: list[bytes], fence: Position | None, seen: bool
                 ) -> list[Answer]:
        """Of the source, in a snapshot that shows all before ``fence``."""
        if not seen:
            begin = session.snapshot_statements()
            told = ask(session, [*begin, *statements])
            position = session.snapshot_position(told[:len(begin)])
            if fence is None or position >= fence:
                return told[len(begin):]
            session.rollback()
            self._see(fence)
        return ask(session, statements)

    def _by_key(self, session: Session, interest: Interest, what: str, keys: Sequence[Key]) -> bytes:
        where, args = among(interest.rows.key, keys)
        return session.text(f"SELECT {what} FROM {interest.rows.quoted} WHERE {where}", args)

    def _write(self, lot: Lot, rows: list[dict[Key, bytes]]) -> None:
        # The target may have rows of its own under these keys: only what is or was ours may change.
        mixed = [(interest, keys) for interest, keys in lot if not interest.everything]
        answers = ask(self._target, [self._by_key(self._target, interest, interest.told, keys)
                                     for interest, keys in mixed])
        theirs = {interest.name: answer for (interest, _), answer in zip(mixed, answers, strict=True)}
        statements: list[bytes] = []
        for (interest, keys), found in zip(lot, rows, strict=True):
            gone = sorted(set(keys) - found.keys(), key=_order)
            if not interest.everything:
                gone = self._ours(interest, theirs[interest.name], found)
            if gone and interest.deletes:
                where, args = among(interest.rows.key, gone)
                statements.append(self._target.text(
                    f"DELETE FROM {interest.rows.quoted} WHERE {where}", args))
            statements += self._writer.statements(interest, found.values(), replace=True)
        ask(self._target, statements)

    def _ours(self, interest: Interest, answer: Answer, rows: Mapping[Key, bytes]) -> list[Key]:
        """Keys under which the target has a row of ours that the source has no more.

        :raises ForeignWriter: a row that moves has a number that the target gave to another.
        """
        gone = []
        for fields in answer:
            values = interest.parse(fields)
            key = interest.key(values)
            if self._members.belongs(interest, values, ever=True):
                if key not in rows:
                    gone.append(key)
            elif key in rows:
                words = ", ".join(f"{c}={v!s}" for c, v in zip(interest.rows.key, key, strict=True))
                raise ForeignWriter(
                    f"{self._target.endpoint.where} has a row of its own under {interest.name} {words}, as a"
                    " row that moves has; nothing was overwritten",
                    "Both databases have handed out the same numbers: move one of the two rows away, and see"
                    " that AUTO_INCREMENT of the two is far apart")
        return gone

    # -- proving ---------------------------------------------------------------------------------

    def prove(self, limit: int = 5000, going: Callable[[], bool] = lambda: True) -> int:
        """Compare keys that were applied and not proven yet, oldest first, on both sides, while ``going``.

        Number of keys that still differ; in a running system those are the ones that changed since.
        """
        keys: dict[str, set[Key]] = {}
        chosen: list[Applied] = []
        for applied in self.unproven.values():
            if limit <= 0:
                break
            chosen.append(applied)
            limit -= len(applied)
            for table, found in applied.keys.items():
                keys.setdefault(table, set()).update(found)
        fence = max((a.fence for a in chosen if a.fence is not None), default=None)
        different, seen = 0, False
        for lot in self._lots(keys):
            if not going():
                break
            for (interest, asked), differing in zip(lot, self._differing(lot, fence, seen), strict=True):
                different += len(differing)
                equal = set(asked) - differing
                for applied in chosen:
                    if interest.name in applied.keys:
                        applied.keys[interest.name] -= equal
            seen = True
        if seen:
            self._source.commit()
            self._target.commit()
        while self.unproven:
            number, applied = next(iter(self.unproven.items()))
            if len(applied):
                break
            del self.unproven[number]
            self.proven, self.proven_gtid = applied.position, applied.gtid
        return different

    def _differing(self, lot: Lot, fence: Position | None, seen: bool) -> list[set[Key]]:
        def statements(session: Session) -> list[bytes]:
            return [self._by_key(session, interest, f"{interest.told}, {interest.rows.hash}", keys)
                    for interest, keys in lot]

        # Both servers at work at the same time.
        asked = Pipeline(self._target, statements(self._target))
        try:
            told = self._answers(self._source, statements(self._source), fence, seen)
        except BaseException:
            # Answers that nobody reads would be taken for the next question's.
            self._target.close()
            raise
        found = []
        for (interest, keys), mine, theirs in zip(lot, told, asked.answers(), strict=True):
            here = _hashes(mine, interest, self._members)
            there = _hashes(theirs, interest, self._members, ever=True)
            if not interest.deletes:
                there = {k: h for k, h in there.items() if k in here}
            differing = {k for k in here.keys() | there.keys() if here.get(k) != there.get(k)}
            # In a case-insensitive collation another spelling of a key that was asked for may answer.
            found.append(differing & set(keys) if differing <= set(keys) else set(keys))
        return found

    @property
    def unproven_keys(self) -> int:
        return sum(map(len, self.unproven.values()))


def hashes(session: Session, interest: Interest, keys: Sequence[Key], members: Members, *, ever: bool = False
           ) -> dict[Key, bytes]:
    """By key, of those rows that are in the scope; with ``ever``, that are or have been."""
    where, args = among(interest.rows.key, keys)
    sql = f"SELECT {interest.told}, {interest.rows.hash} FROM {interest.rows.quoted} WHERE {where}"
    return _hashes(session.raw(sql, args), interest, members, ever=ever)


def _hashes(answer: Iterable[Fields], interest: Interest, members: Members, *, ever: bool = False
            ) -> dict[Key, bytes]:
    found = {}
    for fields in answer:
        told = interest.parse(fields[:-1])
        if members.belongs(interest, told, ever=ever):
            found[interest.key(told)] = fields[-1] or b""
    return found


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), size):
        yield items[at:at + size]


def _order(key: Key) -> tuple[tuple[str, KeyPart], ...]:
    return tuple((type(part).__name__, part) for part in key)
