"""Nova's writers of one database are held still, and nobody else's (docs/fence.md).

Two fences, used one after the other. A :class:`Hold` lets writers wait: read locks on every table of
the database, which the server itself lets go when recell dies. It lasts for the last few keys. Then
the database is shut for good (:mod:`recell.mover.shut`): the old accounts lose their rights on it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session
from recell.adapters.mysql.sql import name
from recell.errors import RecellError, StepFailed, Unsupported, VerifyFailed

__all__ = ["Hold", "Proof", "events_since", "open_writers"]

LEASE_S = 10.0
PATIENCE_S = 1.0
_BOOKKEEPING = "recell_mover_"
_AGAIN = "Nothing was switched; begin the hold again"
_PAUSE_S = 0.0005
_STALE_S = 0.12  # InnoDB tells what it told whoever asked less than 0.1 s before
_PAGE = 1000
_OPEN_WRITERS = """
SELECT p.ID, p.USER, p.HOST, t.trx_rows_modified, TIMESTAMPDIFF(SECOND, t.trx_started, NOW())
  FROM information_schema.INNODB_TRX t JOIN information_schema.PROCESSLIST p
    ON p.ID = t.trx_mysql_thread_id
 WHERE p.DB = %s AND t.trx_rows_modified > 0 ORDER BY t.trx_started"""


@dataclass(frozen=True)
class Proof:
    """``position``: of the binlog, behind which the database has no change. ``refused``: a writer's lock
    was asked for and refused. ``seconds``: it took. ``others``: row events of other databases meanwhile,
    which go on."""

    position: Position
    refused: bool
    others: int
    seconds: float


class Hold:
    """Read locks on every table of one database, in a session of their own.

    Whoever writes there waits, whatever the account, also a SUPER one; readers and other databases go
    on. Locks are granted only after every transaction that wrote has ended, so nothing is half done.

    A lease: the session ends by itself when recell hasn't been heard for ``lease_s``, and the writers
    go on where they were. So a switch needs the fence of :mod:`recell.mover.shut` before this one ends.

    Not for Galera: locks are a node's own, and what other nodes write waits in its applier.

    :param patience_s: how long to look for a moment in which no transaction has changed rows. On MySQL,
        whose locks wait for at least a second, writers stand in the queue meanwhile, and one may be ended
        as a deadlock's victim, which Nova tries again.
    """

    def __init__(self, endpoint: Endpoint, lease_s: float = LEASE_S, patience_s: float = PATIENCE_S) -> None:
        self._endpoint = endpoint
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._session: Session | None = None
        self._witness: Session | None = None
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self._tables: tuple[str, ...] = ()
        self.since: Position | None = None
        """Where the binlog stood when the last writer had ended."""

    def __enter__(self) -> Hold:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.end()

    def prepare(self) -> None:
        """What takes time, and can be done before anybody waits: sessions, and the tables' names.

        :raises Unsupported: a Galera node, or no tables.
        """
        self.end()
        self.since = None
        session = Session(self._endpoint, timeout=self._lease_s + self._patience_s)
        # Made before, so that the proof doesn't wait for a connection while the writers wait for it.
        witness = Session(self._endpoint, timeout=self._lease_s + self._patience_s)
        try:
            if session.variable("wsrep_on").upper() in ("ON", "1"):
                raise Unsupported(f"{self._endpoint.where} is a node of a Galera cluster, where table locks"
                                  " don't hold the other nodes", "Use the fence by accounts there")
            tables = _tables(session, self._endpoint.database)
            if not tables:
                raise Unsupported(f"{self._endpoint.where} has no tables", "Look at the URL")
            # MySQL can't wait less than a second.
            session.execute("SET SESSION lock_wait_timeout = %s",
                            (0 if session.mariadb else max(1, round(self._patience_s)),))
            session.commit()
            if witness.mariadb:
                witness.execute("SET SESSION lock_wait_timeout = 0")
        except BaseException:
            session.close()
            witness.close()
            raise
        self._session, self._witness, self._tables = session, witness, tables

    def begin(self) -> float:
        """Seconds until all writers waited. Nothing is held when it raises.

        :raises StepFailed: a transaction didn't end in time; it is named.
        :raises Unsupported: a Galera node, or a server without binlog.
        """
        if self._session is None or self._witness is None or not self._lives():
            self.prepare()
        session, witness = self._session, self._witness
        if session is None or witness is None:
            raise StepFailed(f"{self._endpoint.where} broke off", _AGAIN)
        try:
            session.execute("SET SESSION wait_timeout = %s", (max(1, round(self._lease_s)),))
            began = time.monotonic()
            self._lock(session, witness, self._tables, began)
            seconds = time.monotonic() - began
            self.since = session.binlog_end()
        except BaseException:
            self.end()
            raise
        self._stop.clear()
        self._renewer = threading.Thread(target=self._renew, name="hold", daemon=True)
        self._renewer.start()
        return seconds

    def _lock(self, session: Session, witness: Session, tables: tuple[str, ...], began: float) -> None:
        """All tables at once or none. Where the server can, without ever waiting for one while others are
        held: a writer that wants two tables would come upon a deadlock, and the server ends the writer.
        """
        statement = "LOCK TABLES " + ", ".join(f"{name(t)} READ" for t in tables)
        while True:
            try:
                session.execute(statement)
                return
            except Busy:
                if time.monotonic() - began < self._patience_s:
                    time.sleep(_PAUSE_S)
                    continue
                writers = open_writers(witness, self._endpoint.database)
                raise StepFailed(
                    f"writers of {self._endpoint.where} did not pause within {self._patience_s:g} s"
                    + (f": {'; '.join(writers)}" if writers else ""),
                    "Let these transactions end, or end them; then try again",
                ) from None

    def held(self) -> bool:
        """Asked of the server, not remembered."""
        return self.since is not None and self._lives()

    def _lives(self) -> bool:
        with self._guard:
            if self._session is None:
                return False
            try:
                self._session.query("SELECT 1")
            except (Lost, RecellError):
                self._session.close()
                self._session = None
                return False
            return True

    def prove(self) -> Proof:
        """That no session slipped through since the hold began.

        Four ways: the lock's session lives; a lock for writing is refused to another session (MariaDB;
        MySQL can't be asked without waiting a second); no transaction has changed rows; and the binlog
        has nothing of this database since.

        :raises VerifyFailed: one of them doesn't hold.
        """
        began = time.monotonic()
        where = self._endpoint.where
        if self.since is None or not self.held():
            raise VerifyFailed(f"{where} is not held any more: recell was not heard for {self._lease_s:g} s",
                               _AGAIN)
        witness = self._witness
        if witness is None:
            raise VerifyFailed(f"{where} is not held any more", _AGAIN)
        try:
            refused = self._refused(witness)
            writers = open_writers(witness, self._endpoint.database)
            if writers:
                time.sleep(_STALE_S)
                writers = open_writers(witness, self._endpoint.database)
            end = witness.binlog_end()
            mine, others = events_since(witness, self._endpoint.database, self.since, end)
        except (Lost, Busy) as lost:
            raise VerifyFailed(f"{where} did not let itself be looked at ({lost})", _AGAIN) from None
        if writers:
            raise VerifyFailed(f"{where} has writers in spite of its locks: {'; '.join(writers)}",
                               "End the hold; look at what these sessions are")
        if mine:
            raise VerifyFailed(f"{where} was written to while it was held (at {mine[0]})",
                               "End the hold, catch up, and hold again")
        if not self.held():
            raise VerifyFailed(f"{where} is not held any more", _AGAIN)
        return Proof(end, refused, others, time.monotonic() - began)

    def _refused(self, session: Session) -> bool:
        if not session.mariadb:
            return False
        try:
            session.execute(f"LOCK TABLES {name(self._tables[0])} WRITE")
        except Busy:
            return True
        session.execute("UNLOCK TABLES")
        raise VerifyFailed(f"{self._endpoint.where} let a writer in while it was held",
                           "End the hold; look at the server's version")

    def end(self) -> None:
        """Let the writers go on. Never raises: closing the session does it too."""
        self._stop.set()
        with self._guard:
            session, self._session = self._session, None
            if session is not None:
                with suppress(Lost, Busy, RecellError):
                    session.execute("UNLOCK TABLES")
                session.close()
        if self._witness is not None:
            self._witness.close()
            self._witness = None
        if self._renewer is not None:
            self._renewer.join()
            self._renewer = None

    def _renew(self) -> None:
        while not self._stop.wait(self._lease_s / 4):
            if not self.held():
                return


def open_writers(session: Session, database: str) -> list[str]:
    """Sessions of this database whose transaction has changed rows, each in words. Needs PROCESS."""
    rows = session.query(_OPEN_WRITERS, (database,))
    session.rollback()
    return [f"session {number} of {user} from {host}, {changed} rows changed in {seconds} s"
            for number, user, host, changed, seconds in rows]


def events_since(session: Session, database: str, since: Position, until: Position
                 ) -> tuple[list[Position], int]:
    """(positions of row events of this database, number of other databases') between two positions."""
    mine: list[Position] = []
    others = 0
    files = [f for f in session.binlogs() if _number(since) <= _number(Position(f, 0)) <= _number(until)]
    for file in files:
        at = since.offset if file == since.file else 4
        while not (file == until.file and at >= until.offset):
            rows = session.query(f"SHOW BINLOG EVENTS IN %s FROM {int(at)} LIMIT {_PAGE}", (file,))
            for row in rows:
                if str(row[2]) == "Table_map" and (file, int(row[1])) < (until.file, until.offset):
                    # "table_id: 19 (nova.instances)"
                    table = str(row[5]).partition("(")[2]
                    if table.startswith(f"{database}.{_BOOKKEEPING}"):
                        continue  # recell's own, whose snapshots may write there
                    if table.startswith(f"{database}."):
                        mine.append(Position(file, int(row[1])))
                    else:
                        others += 1
            if len(rows) < _PAGE:
                break
            at = int(rows[-1][4])
    return mine, others


def _number(position: Position) -> int:
    return position.sequence


def _tables(session: Session, database: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in session.query(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
        " AND TABLE_TYPE = 'BASE TABLE' ORDER BY TABLE_NAME", (database,))
        if not str(row[0]).startswith(_BOOKKEEPING))
