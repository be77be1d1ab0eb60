"""A thread that reads a server's binlog and turns it into work."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from recell.adapters.mysql.binlog import (
    BinlogReader,
    Commit,
    Died,
    Idle,
    Rows,
    SchemaChanged,
    Statement,
    Torn,
    Unseen,
    file_begun,
)
from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session
from recell.adapters.mysql.sql import Key
from recell.errors import RecellError, Unknowable, Unreachable
from recell.mover.identity import continues, identity
from recell.mover.journal import MARK, PREFIX
from recell.mover.members import Members

__all__ = ["Echo", "Feed", "ForeignWriter", "Sentry", "Start", "known_at", "start_of"]

Echo = Callable[[str, Key], bool]
"""Whether a row of the target, by table and key, that another has written may be made again what it is at
the source."""

# Statements that leave every row as it is and every column where it is.
_HARMLESS = re.compile(
    r"\s*(/\*.*?\*/\s*)*(GRANT|REVOKE|FLUSH|ANALYZE\s+TABLE|OPTIMIZE|CHECK|SET(?!\s+STATEMENT\b)|"
    r"ALTER\s+TABLE\s+\S+\s+AUTO_INCREMENT\s*=\s*\d+(?=\s*$)|"
    r"(CREATE|DROP|ALTER|RENAME)(\s+OR\s+REPLACE)?(\s+DEFINER\s*=\s*\S+)?\s+"
    r"(USER|ROLE|TRIGGER|(SQL\s+SECURITY\s+\w+\s+)?VIEW|PROCEDURE|FUNCTION|EVENT|TEMPORARY|SERVER))\b",
    re.IGNORECASE | re.DOTALL,
)


class ForeignWriter(Unknowable):
    """Somebody else writes rows that are the mover's to write."""

    word = "foreign-writer"


@dataclass(frozen=True)
class Start:
    """Where to begin to read, and what proves that the binlog is still the same one."""

    position: Position
    gtid: str
    identity: dict[str, str]
    begun: str = ""


def known_at(endpoint: Endpoint, position: Position) -> Start:
    """A position between two transactions, and what proves the binlog to be the same later."""
    session = Session(endpoint)
    try:
        return _known(session, position, identity(session))
    finally:
        session.close()


def _known(session: Session, position: Position, known: dict[str, str]) -> Start:
    begun = file_begun(session.endpoint, position.file)
    if not session.mariadb:
        return Start(position, begun, known, begun)
    found = session.query("SELECT BINLOG_GTID_POS(%s, %s)", (position.file, position.offset))
    return Start(position, str(found[0][0] or "").split(",")[0], known, begun)


def start_of(session: Session) -> Start:
    """Begins a snapshot in ``session``; what proves the binlog to be the same later."""
    known = identity(session)
    return _known(session, session.snapshot(), known)


class _BinlogThread(ABC):
    """Reads one server's binlog from ``start`` on, through lost connections, until stopped."""

    name = "binlog"

    def __init__(self, endpoint: Endpoint, start: Start, members: Members, replica_id: int,
                 patience_s: float) -> None:
        self.endpoint = endpoint
        self.members = members
        self.failed: RecellError | None = None
        self.rows = 0
        """Row changes seen in the scope's tables."""
        self.deaths = 0
        """Of the server, after which its binlog may lack what it has kept, and it what its binlog has; and
        times between two starts in which nobody asked what its binlog leaves out."""
        self._start = start
        self._replica_id = replica_id
        self._patience_s = patience_s
        self._position, self._gtid = start.position, start.gtid
        self._begun = {start.position.file: start.begun} if start.begun else {}
        self._moved = threading.Condition()
        self._stopping = False
        self._reader: BinlogReader | None = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def position(self) -> Position:
        """Everything before it has been taken in."""
        return self._position

    def begun(self, position: Position) -> str:
        """What tells the position's file from another one of this name; empty where that is not known."""
        return self._begun.get(position.file, "")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        reader = self._reader
        if reader is not None:
            reader.close()
        if self._thread.is_alive():
            self._thread.join(20)

    def check(self) -> None:
        """:raises RecellError: what ended the thread."""
        if self.failed is not None:
            raise self.failed

    def reach(self, position: Position, limit_s: float) -> bool:
        """Wait until everything before ``position`` has been taken in. Whether it has."""
        until = time.monotonic() + limit_s
        with self._moved:
            while self._position < position:
                self.check()
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._moved.wait(min(left, 0.2))
        self.check()
        return True

    @abstractmethod
    def _take(self, rows: list[Rows], position: Position, gtid: str) -> None:
        """A transaction of ``rows`` ended."""

    def _run(self) -> None:
        lost_at: float | None = None
        while not self._stopping:
            before = self._position
            try:
                self._read(self._connect())
            except RecellError as error:
                self._fail(error)
                return
            except (Lost, Busy) as error:
                if self._stopping:
                    return
                now = time.monotonic()
                if lost_at is None or self._position != before:
                    lost_at = now
                if now - lost_at > self._patience_s and not self._stopping:
                    self._fail(Unreachable(f"{self.endpoint.where} does not answer ({error})",
                                           "Make it reachable, then go on: nothing is lost"))
                    return
                time.sleep(0.2)
            except Exception as error:  # a thread must not end unseen
                self._fail(RecellError(f"reading the binlog of {self.endpoint.where} failed"
                                       f" ({type(error).__name__}: {error})", "Report this"))
                return
            finally:
                if self._reader is not None:
                    self._reader.close()

    def _fail(self, error: RecellError) -> None:
        if not self._stopping:
            with self._moved:
                self.failed = error
                self._moved.notify_all()

    def _connect(self) -> BinlogReader:
        session = Session(self.endpoint)
        try:
            continues(session, self._start.identity, self._position, self._gtid, self.begun(self._position))
        finally:
            session.close()
        self._reader = BinlogReader(self.endpoint, self._position, self.members.wanted,
                                    server_id=self._replica_id, mark=MARK, begun=self._begun)
        return self._reader

    def _read(self, reader: BinlogReader) -> None:
        pending: list[Rows] = []
        for event in reader.read():
            if self._stopping:
                return
            if isinstance(event, Torn):
                pending = []
                # A file's beginning has no transaction before it to be known by.
                self._took([], event.position, "")
            elif isinstance(event, Died | Unseen):
                self.deaths += 1
            elif isinstance(event, Rows):
                pending.append(event)
                self.rows += len(event.images)
            elif not isinstance(event, Idle) or not pending:
                self._between(event, pending)
                pending = []

    def _between(self, event: Commit | Statement | Idle, pending: list[Rows]) -> None:
        if isinstance(event, Statement):
            self._statement(event)
            return
        self._took(pending, event.position, event.gtid or self._gtid)

    def _took(self, pending: list[Rows], position: Position, gtid: str) -> None:
        self._take(pending, position, gtid)
        with self._moved:
            self._position, self._gtid = position, gtid
            self._moved.notify_all()

    def _statement(self, event: Statement) -> None:
        database = self.endpoint.database.lower()
        text = event.text
        about_us = event.database.lower() == database or re.search(
            rf"(?<!\w){re.escape(database)}(?!\w)", text.lower()) is not None
        if not about_us or PREFIX in text or _HARMLESS.match(text):
            return
        raise SchemaChanged(
            f"a statement that is not a row change ran in {self.endpoint.where} after {event.position}:"
            f" {' '.join(text.split())[:120]}",
            "Bring both schemas to the same version and start the move anew",
        )


class Feed(_BinlogThread):
    """Row changes of the side that is written to, as work for the applier.

    The mover's own transactions are passed over: what it once wrote here is never sent back.
    """

    name = "feed"

    def _take(self, rows: list[Rows], position: Position, gtid: str) -> None:
        members = self.members
        with members.lock:
            matters = [members.note(r) for r in rows]
            if any(matters):
                members.work.fence = position
            members.work.position, members.work.gtid = position, gtid


class Sentry(_BinlogThread):
    """Watches the side that only the mover may write to.

    :param echo: what another has written becomes work where this says so; else it ends the thread.
    """

    name = "sentry"

    def __init__(self, endpoint: Endpoint, start: Start, members: Members, replica_id: int,
                 patience_s: float, echo: Echo) -> None:
        super().__init__(endpoint, start, members, replica_id, patience_s)
        self._echo = echo

    @property
    def safe(self) -> Position:
        """Where a run that comes after a kill must begin to look: what is to be put right is behind it."""
        here = self.position  # asked first: what is noted later is behind it
        with self.members.lock:
            return self.members.work.echoed or here

    def _take(self, rows: list[Rows], position: Position, gtid: str) -> None:
        echoes: dict[tuple[str, Key], None] = {}
        for event in rows:
            interest = self.members.interests[event.table]
            if not interest.deletes:
                continue
            for image in (i for pair in event.images for i in pair if i is not None):
                values = interest.values(image)
                if self.members.belongs(interest, values, ever=True):
                    echoes[event.table, interest.key(values)] = None
        for table, key in echoes:
            if not self._echo(table, key):
                columns = self.members.interests[table].rows.key
                named = ", ".join(f"{c}={v!s}" for c, v in zip(columns, key, strict=True))
                raise ForeignWriter(
                    f"another writer than recell changed {table} {named} in {self.endpoint.where}"
                    f" (before {position}, {gtid or 'no GTID'})",
                    "Find and stop that writer, then start the move anew or verify it in full",
                )
        if echoes:
            with self.members.lock:
                for table, key in echoes:
                    self.members.work.add(table, key)
                self.members.work.echoed = self.members.work.echoed or self.position
