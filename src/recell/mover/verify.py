"""Full comparison of both sides: chunk by chunk, then row by row where a chunk differs.

Under load a chunk differs because its rows change. Rows that differ are looked at again, by key, each
time after the applier has passed the source's position of the look before; what agrees once is proven,
what differs while its source stays the same is a difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session
from recell.adapters.mysql.sql import Key, after
from recell.errors import Unreachable
from recell.mover.apply import batches, hashes
from recell.mover.copy import HOSTS_A_CHUNK, MEMBERS_A_CHUNK, condition
from recell.mover.journal import Journal, as_key
from recell.mover.members import Interest, Members
from recell.mover.throttle import Throttle

__all__ = ["Difference", "Report", "Verifier"]

CHUNK_ROWS = 20_000
_LOOKS = 40
_SAME = 3
"""Looks with the same two rows that make a difference; one may see a row on its way."""
_NAMED = 1000
"""Differing rows that are kept by name, a table; beyond that they are counted by chunk."""


@dataclass(frozen=True)
class Difference:
    """``key``: ``column=value, ...``; ``what``: "missing", "extra" or "different" at the target."""

    table: str
    key: str
    what: str


@dataclass(frozen=True)
class Report:
    """``rows``: compared; ``moving``: keys that changed at every look, so they are not judged here
    (the proof inside the freeze judges them)."""

    rows: int
    differences: tuple[Difference, ...]
    moving: int
    seconds: float

    @property
    def equal(self) -> bool:
        return not self.differences


class Verifier:
    """:param barrier: waits until everything that the source's binlog holds now is applied; does nothing
    where nobody writes. :param suspects: told of differing keys, as table and keys, before each look."""

    def __init__(
        self, source: Endpoint, target: Endpoint, members: Members, journal: Journal, throttle: Throttle,
        barrier: Callable[[], Position | None], keep_going: Callable[[], None] = lambda: None,
        patience_s: float = 60.0,
    ) -> None:
        self._source, self._target = source, target
        self._members, self._journal, self._throttle = members, journal, throttle
        self._barrier, self._keep_going = barrier, keep_going
        self._patience_s = patience_s
        self._sessions: tuple[Session, Session] | None = None
        self.rows = 0

    def run(self) -> Report:
        """Goes on where an earlier run was ended before its time."""
        began = time.monotonic()
        done = self._journal.verified()
        differences: list[Difference] = []
        moving = 0
        lost_at = 0.0
        with ThreadPoolExecutor(2) as pool:
            try:
                for interest in self._members.interests.values():
                    last, rows, known = done.get(interest.name, (None, 0, []))
                    found = [Difference(**d) for d in known]
                    while last is not True:
                        self._keep_going()
                        try:
                            last, count, more, unsettled = self._next(pool, interest, last)
                        except (Lost, Busy) as error:
                            self._close()
                            lost_at = lost_at or time.monotonic()
                            if time.monotonic() - lost_at > self._patience_s:
                                raise Unreachable(
                                    f"{self._source.where} or {self._target.where} does not answer ({error})",
                                    "Make it reachable and verify again: it goes on from here") from None
                            time.sleep(0.5)
                            continue
                        lost_at = 0.0
                        rows += count
                        moving += unsettled
                        self.rows += count
                        found += more[: max(0, _NAMED - len(found))]
                        self._journal.verified_up_to(interest.name, last, rows, [asdict(d) for d in found])
                        self._throttle.take(count)
                    differences += found
            finally:
                self._close()
        total = sum(rows for _, rows, _ in self._journal.verified().values())
        self._journal.verify_anew()
        return Report(total, tuple(differences), moving, time.monotonic() - began)

    def _next(self, pool: ThreadPoolExecutor, interest: Interest, last: Any
              ) -> tuple[Any, int, list[Difference], int]:
        """(how far, rows, differences, moving keys) of the next chunk."""
        sessions = self._sessions = self._sessions or (Session(self._source), Session(self._target))
        span, last = self._span(sessions[0], interest, last)
        if span is None:
            return True, 0, [], 0
        where, values = condition(interest, span)
        index = " FORCE INDEX (PRIMARY)" if "after" in span else ""
        sql = f"SELECT {interest.rows.summary} FROM {interest.rows.quoted}{index} WHERE {where}"
        here, there = pool.map(lambda s: _all(s, sql, values), sessions)
        count = int(here[0][0] or 0)
        if here == there:
            return last, count, [], 0
        told = (f"SELECT {interest.told}, {interest.rows.hash} FROM {interest.rows.quoted}{index}"
                f" WHERE {where}")
        mine, theirs = pool.map(lambda s: _hashes(s, interest, told, values), sessions)
        if not interest.deletes:
            theirs = {k: h for k, h in theirs.items() if k in mine}
        suspects = {k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)}
        found, moving = self._look_again(sessions, interest, suspects)
        return last, count, found, moving

    def _span(self, session: Session, interest: Interest, last: Any) -> tuple[dict[str, Any] | None, Any]:
        """The next chunk, and how far it goes; True: to the end."""
        if interest.everything:
            low = as_key(last)
            where, values = after(interest.rows.key, low)
            keys = interest.rows.keys
            found = _all(
                session,
                f"SELECT {keys} FROM {interest.rows.quoted} FORCE INDEX (PRIMARY) WHERE {where}"
                f" ORDER BY {keys} LIMIT 1 OFFSET {CHUNK_ROWS - 1:d}", values)
            end = interest.rows.key_of(found[0]) if found else None
            return {"after": low, "upto": end}, True if end is None else end
        pool: list[Any]
        if interest.link is None:
            pool, size = sorted(self._members.hosts), HOSTS_A_CHUNK
        else:
            with self._members.lock:
                pool = sorted(self._members.ever[interest.link])
            size = MEMBERS_A_CHUNK
        pool = [v for v in pool if last is None or v > last][: size + 1]
        if not pool:
            return None, True
        return {"among": pool[:size]}, pool[size - 1] if len(pool) > size else True

    def _look_again(self, sessions: tuple[Session, Session], interest: Interest, suspects: set[Key]
                    ) -> tuple[list[Difference], int]:
        source, target = sessions
        before: dict[Key, tuple[bytes | None, bytes | None, int]] = {}
        found: list[Difference] = []
        for look in range(_LOOKS):
            if not suspects:
                break
            self._keep_going()
            self._barrier()
            settled: set[Key] = set()
            for batch in batches(sorted(suspects, key=repr), 500):
                here = hashes(source, interest, batch, self._members)
                there = hashes(target, interest, batch, self._members, ever=True)
                for key in batch:
                    mine, theirs = here.get(key), there.get(key)
                    if mine == theirs or (mine is None and not interest.deletes):
                        settled.add(key)
                        continue
                    was = before.get(key)
                    times = was[2] + 1 if was is not None and was[:2] == (mine, theirs) else 1
                    before[key] = mine, theirs, times
                    if times == _SAME:
                        # The applier has passed this very row, and the target has another.
                        settled.add(key)
                        what = "missing" if theirs is None else "extra" if mine is None else "different"
                        found.append(Difference(interest.name, _text(interest, key), what))
            source.commit()
            target.commit()
            suspects = suspects - settled
            time.sleep(min(0.02 * look, 0.5))
        return found, len(suspects)

    def _close(self) -> None:
        for session in self._sessions or ():
            session.close()
        self._sessions = None


def _all(session: Session, sql: str, values: Any) -> list[tuple[bytes | None, ...]]:
    found = list(session.raw(sql, values))
    session.commit()
    return found


def _hashes(session: Session, interest: Interest, sql: str, values: Any) -> dict[Key, bytes]:
    def rows() -> Iterator[tuple[Key, bytes]]:
        for fields in session.raw(sql, values):
            yield interest.key(interest.parse(fields[:-1])), fields[-1] or b""

    found = dict(rows())
    session.commit()
    return found


def _text(interest: Interest, key: Key) -> str:
    return ", ".join(f"{c}={v!s}" for c, v in zip(interest.rows.key, key, strict=True))
