"""The bulk copy: chunks by walking the key, or by the members; resumable at each chunk."""

from __future__ import annotations

import queue
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Busy, Lost, Session
from recell.adapters.mysql.sql import Key, KeyPart, after, among, upto
from recell.errors import RecellError, Unreachable, Unsupported
from recell.model.scope import ByHost
from recell.mover.journal import Chunk, Journal, Laid, as_key
from recell.mover.load import Loader
from recell.mover.members import Interest, Link, Members, host_condition
from recell.mover.throttle import Throttle

__all__ = ["Copier", "Writer", "condition"]

CHUNK_BYTES = 2_000_000
HOSTS_A_CHUNK = 25
MEMBERS_A_CHUNK = 800
"""At most. MariaDB plans a list of a thousand values in another way, which reads whole tables."""
_STATEMENT_BYTES = 1_000_000
_SPANS_AT_ONCE = 16
_TABLES_AT_ONCE = 40


def condition(interest: Interest, span: dict[str, Any]) -> tuple[str, list[KeyPart]]:
    """SQL for rows of some owners, or for a stretch of keys; and its values."""
    if "among" in span:
        values: list[KeyPart] = span["among"]
        if isinstance(interest.rule, ByHost):
            return host_condition(interest, [str(v) for v in values])
        return among(interest.owner, [(v,) for v in values])
    low, low_values = after(interest.rows.key, as_key(span["after"]))
    high, high_values = upto(interest.rows.key, as_key(span["upto"]))
    return f"{low} AND {high}", low_values + high_values


class Writer:
    """Sends rows, as literals, in statements of about a megabyte."""

    def __init__(self, session: Session) -> None:
        self._session = session
        allowed = int(session.variable("max_allowed_packet") or 1 << 24)
        session.commit()
        self._limit = min(_STATEMENT_BYTES, allowed // 2)

    def write(self, interest: Interest, rows: Iterator[bytes] | list[bytes], *, replace: bool) -> int:
        """Number of rows sent. New rows only, or in place of those that are there."""
        count = 0

        def counted() -> Iterator[bytes]:
            nonlocal count
            for row in rows:
                count += 1
                yield row

        for statement in self.statements(interest, counted(), replace=replace):
            self._session.send(statement)
        return count

    def statements(self, interest: Interest, rows: Iterable[bytes], *, replace: bool) -> Iterator[bytes]:
        begin = interest.rows.replace if replace else interest.rows.insert
        end = b"" if replace else interest.rows.insert_end
        parts: list[bytes] = []
        size = 0
        for row in rows:
            if size + len(row) > self._limit and parts:
                yield begin + b",".join(parts) + end
                parts, size = [], 0
            parts.append(row)
            size += len(row) + 1
        if parts:
            yield begin + b",".join(parts) + end


def whole(interest: Interest, row: bytes | None) -> bytes:
    """:raises Unsupported: the server could not send this row."""
    if row is None:
        raise Unsupported(f"a row of {interest.name} is larger than the source's max_allowed_packet",
                          "Raise max_allowed_packet there, and reconnect")
    return row


class Copier:
    """Copies everything in the scope that is not copied yet. New rows only: none is overwritten.

    :param workers: that many chunks at once, each with a session to either server.
    """

    def __init__(self, source: Endpoint, target: Endpoint, members: Members, journal: Journal,
                 throttle: Throttle, workers: int = 2, patience_s: float = 60.0) -> None:
        self._source, self._target = source, target
        self._members, self._journal, self._throttle = members, journal, throttle
        self._workers = workers
        self._patience_s = patience_s
        self._chunks: queue.Queue[Chunk | None] = queue.Queue(workers * _SPANS_AT_ONCE)
        self._ordering = threading.Lock()
        self._ordered: dict[Link, list[KeyPart]] = {}
        self._failed: list[BaseException] = []
        self._stop = threading.Event()

    def run(self) -> None:
        """:raises RecellError: the copy goes on from here when it is run again."""
        threads = [threading.Thread(target=self._work, args=(i + 1,), name=f"copy-{i + 1}", daemon=True)
                   for i in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            for chunk in self._lay_out():
                self._put(chunk)
        except (Lost, Busy) as error:
            self._failed.append(_unreachable(self._source, error))
        except BaseException:
            self._stop.set()
            raise
        finally:
            if self._failed:
                self._stop.set()
            for _ in threads:
                self._put(None)
            for thread in threads:
                thread.join()
        if self._failed:
            raise self._failed[0]

    def stop(self) -> None:
        self._stop.set()

    def _put(self, chunk: Chunk | None) -> None:
        while not (chunk and self._stop.is_set()):
            try:
                self._chunks.put(chunk, timeout=0.2)
                return
            except queue.Full:
                if self._stop.is_set():
                    return

    # -- laying out ------------------------------------------------------------------------------

    def _lay_out(self) -> Iterator[Chunk]:
        yield from self._journal.undone()
        # Of most tables there is little or nothing: many are noted in one transaction.
        waiting: list[Laid] = []
        for laid in self._spans():
            waiting.append(laid)
            if sum(len(one.spans) for one in waiting) >= _SPANS_AT_ONCE or len(waiting) >= _TABLES_AT_ONCE:
                yield from self._journal.plan(waiting)
                waiting = []
        if waiting and not self._stop.is_set():
            yield from self._journal.plan(waiting)

    def _spans(self) -> Iterator[Laid]:
        planned = self._journal.planned()
        session = Session(self._source)
        try:
            sizes = table_sizes(session)
            for interest in self._members.interests.values():
                if self._stop.is_set():
                    return
                last = planned.get(interest.name)
                if last is True:
                    continue
                if interest.everything:
                    yield from self._by_key(session, interest, as_key(last), chunk_rows(interest, sizes))
                else:
                    yield from self._by_members(interest, last, chunk_members(interest, sizes))
        finally:
            session.close()

    def _by_key(self, session: Session, interest: Interest, last: Key | None, size: int) -> Iterator[Laid]:
        keys, table = interest.rows.keys, interest.rows.quoted
        if last is None and not list(session.raw(f"SELECT 1 FROM {table} LIMIT 1")):
            # Rows that come from now on come by the binlog.
            session.commit()
            yield Laid(interest.name, [], True)
            return
        more = True
        while more and not self._stop.is_set():
            spans: list[dict[str, Any]] = []
            while more and len(spans) < _SPANS_AT_ONCE:
                where, values = after(interest.rows.key, last)
                found = list(session.raw(
                    f"SELECT {keys} FROM {table} FORCE INDEX (PRIMARY) WHERE {where}"
                    f" ORDER BY {keys} LIMIT 1 OFFSET {size - 1:d}", values))
                end = interest.rows.key_of(found[0]) if found else None
                spans.append({"after": last, "upto": end})
                last, more = end, end is not None
            session.commit()
            yield Laid(interest.name, spans, last if more else True)

    def _by_members(self, interest: Interest, last: Any, size: int) -> Iterator[Laid]:
        values = self._values(interest)
        at = 0 if last is None else bisect_right(values, last)
        while True:
            spans: list[dict[str, Any]] = []
            while at < len(values) and len(spans) < _SPANS_AT_ONCE:
                spans.append({"above": last, "last": values[min(at + size, len(values)) - 1]})
                at, last = at + size, spans[-1]["last"]
            yield Laid(interest.name, spans, last if at < len(values) else True)
            if at >= len(values):
                return

    def _values(self, interest: Interest) -> list[KeyPart]:
        """Hosts, or members as they are now, in their order. Those that join or leave while rows are copied
        are looked at again anyway, so a chunk is told by its first and last: the same ones at any time.
        """
        if interest.link is None:
            return sorted(self._members.hosts)
        with self._ordering:
            found = self._ordered.get(interest.link)
            if found is None:
                with self._members.lock:
                    found = sorted(self._members.present[interest.link])
                self._ordered[interest.link] = found
            return found

    # -- working ---------------------------------------------------------------------------------

    def _work(self, worker: int) -> None:
        sessions: tuple[Session, Session] | None = None
        writer: Writer | None = None
        loader: Loader | None = None
        try:
            while True:
                chunk = self._chunks.get()
                if chunk is None:
                    return
                if self._stop.is_set():
                    continue
                tries = max(2, int(self._patience_s / 0.5))
                for attempt in range(1, tries + 1):
                    try:
                        if sessions is None or writer is None or loader is None:
                            sessions = Session(self._source), Session(self._target, loads=True)
                            writer, loader = Writer(sessions[1]), Loader(sessions[1])
                        self._copy(chunk, *sessions, loader, writer, worker)
                        break
                    except (Lost, Busy) as error:
                        _closed(sessions)
                        sessions = writer = loader = None
                        if attempt == tries:
                            raise _unreachable(self._target, error) from None
                        if self._stop.wait(0.5):
                            break
        except BaseException as error:
            self._failed.append(error if isinstance(error, RecellError) else RecellError(
                f"copying failed ({type(error).__name__}: {error})", "Report this"))
            self._stop.set()
        finally:
            _closed(sessions)

    def _copy(self, chunk: Chunk, source: Session, target: Session, loader: Loader, writer: Writer,
              worker: int) -> None:
        interest = self._members.interests[chunk.table]
        self._journal.mark(target, worker)
        count: int | None = None
        if loader.takes(interest):
            count = loader.load(interest, self._rows(chunk, interest, interest.rows.line, source))
            if count is None:
                target.rollback()
                source.rollback()
                self._journal.mark(target, worker)
        if count is None:
            rows = self._rows(chunk, interest, interest.rows.row, source)
            count = writer.write(interest, rows, replace=False)
        self._journal.done(target, chunk, count)
        target.commit()
        source.commit()
        self._throttle.take(count)

    def _rows(self, chunk: Chunk, interest: Interest, text: str, source: Session) -> Iterator[bytes]:
        span, index = chunk.span, " FORCE INDEX (PRIMARY)"
        if "above" in span:
            values, index = self._values(interest), ""
            first = 0 if span["above"] is None else bisect_right(values, span["above"])
            mine = values[first:bisect_right(values, span["last"])]
            if not mine:
                return iter(())
            span = {"among": mine}
        where, args = condition(interest, span)
        rows = source.column(f"SELECT {text} FROM {interest.rows.quoted}{index} WHERE {where}", args)
        return (whole(interest, row) for row in rows)


Sizes = dict[str, tuple[int, int]]
"""By table: the server's estimates of its rows, and of its bytes without the indexes."""


def table_sizes(session: Session) -> Sizes:
    found = session.query("SELECT TABLE_NAME, TABLE_ROWS, DATA_LENGTH FROM information_schema.TABLES"
                          " WHERE TABLE_SCHEMA = %s", (session.endpoint.database,))
    session.commit()
    return {str(table): (int(rows or 0), int(size or 0)) for table, rows, size in found}


def chunk_rows(interest: Interest, sizes: Sizes) -> int:
    """How many rows of this table make a chunk of about CHUNK_BYTES."""
    rows, size = sizes.get(interest.name, (0, 0))
    return max(100, min(5000, CHUNK_BYTES * max(rows, 1) // max(size, 1)))


def chunk_members(interest: Interest, sizes: Sizes) -> int:
    """How many hosts, or rows of the parent's, have rows of this table for a chunk of about CHUNK_BYTES."""
    if interest.link is None:
        return HOSTS_A_CHUNK
    parents, size = sizes.get(interest.link[0], (0, 0))[0], sizes.get(interest.name, (0, 0))[1]
    return max(1, min(MEMBERS_A_CHUNK, max(20, CHUNK_BYTES * max(parents, 1) // max(size, 1))))


def _closed(sessions: tuple[Session, Session] | None) -> None:
    for session in sessions or ():
        session.close()


def _unreachable(endpoint: Endpoint, error: Exception) -> RecellError:
    return Unreachable(f"{endpoint.where} does not answer ({error})",
                       "Make it reachable, then go on: what was copied is kept")


