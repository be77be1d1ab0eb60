"""The mover's memory, in the database that it writes to: it commits with the rows that it speaks of.

Every transaction of the mover's begins by writing its own row of ``recell_mover_mark``. That row holds
the run's epoch, so a run that another has taken over from changes nothing more; and it comes first in
the binlog, so a reader knows whose transaction this is.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.pipeline import Pipeline
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import SEEN, Busy, Lost, Session
from recell.adapters.mysql.sql import Key, KeyPart
from recell.errors import Denied, Locked, RecellError, StalePlan, Unreachable
from recell.model.moving import Pace
from recell.model.scope import Scope
from recell.mover.members import Link

__all__ = ["MARK", "PREFIX", "Chunk", "Journal", "Laid", "Phase", "State", "fingerprint",
           "make_tables", "set_pace", "state_of"]

PREFIX = "recell_mover_"
MARK = PREFIX + "mark"
T = TypeVar("T")

WORKERS = 32
"""Rows of the mark table: as many transactions can be open at once."""

Phase = Literal["preparing", "copying", "following", "drained", "reversed"]

_TABLES = {
    PREFIX + "state": "(id TINYINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, state MEDIUMTEXT NOT NULL)",
    MARK: "(worker INT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, written BIGINT NOT NULL)",
    PREFIX + "chunk": "(id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, tbl VARCHAR(64) NOT NULL,"
    " span MEDIUMTEXT NOT NULL, done TINYINT NOT NULL, row_count BIGINT NOT NULL, KEY (done))",
    PREFIX + "plan": "(tbl VARCHAR(64) NOT NULL PRIMARY KEY, last MEDIUMTEXT NOT NULL)",
    PREFIX + "member": "(tbl VARCHAR(64) NOT NULL, col VARCHAR(64) NOT NULL, val VARCHAR(255) NOT NULL,"
    " present TINYINT NOT NULL, PRIMARY KEY (tbl, col, val))",
    SEEN: "(id TINYINT NOT NULL PRIMARY KEY, written BIGINT NOT NULL)",
    PREFIX + "control": "(id TINYINT NOT NULL PRIMARY KEY, rate DOUBLE NOT NULL, paused TINYINT NOT NULL)",
    PREFIX + "verify": "(tbl VARCHAR(64) NOT NULL PRIMARY KEY, last MEDIUMTEXT NOT NULL,"
    " row_count BIGINT NOT NULL, differences MEDIUMTEXT NOT NULL)",
}


@dataclass(frozen=True)
class State:
    """``generation``: grows with each turn of the direction. ``position``: all before it is applied;
    ``proven``: all before it was also found equal; ``gtid``: of the last transaction before ``proven``.
    ``watched``: the written database's own binlog, looked through for other writers up to here.
    ``source``: identity of the server that rows come from; ``verified``: a full comparison ended well
    since the copy. ``first``: the position at which this generation began; ``begun``, ``watched_begun``: what
    tells the files of ``proven`` and ``watched`` from others of their names. ``guarded``: nobody else may
    write these rows at the target yet."""

    move: str
    generation: int
    phase: Phase
    scope: str
    replica_id: int
    source: dict[str, str]
    position: str
    proven: str
    gtid: str = ""
    target: dict[str, str] | None = None
    watched: str = ""
    verified: bool = False
    first: str = ""
    begun: str = ""
    watched_begun: str = ""
    guarded: bool = False

    @property
    def backward(self) -> bool:
        """Whether rows flow from the target to the source."""
        return self.generation % 2 == 1

    @staticmethod
    def new_ids() -> tuple[str, int]:
        """A move's name, and a replica's server_id, of those that nobody gives by hand."""
        return str(uuid.uuid4()), 0x40000000 + secrets.randbelow(0x3FFFFFFF)


@dataclass(frozen=True)
class Chunk:
    """``span``: {"after": key or None, "upto": key or None}, or {"above": member or None, "last": member}:
    those behind the one up to and with the other, in their order."""

    id: int
    table: str
    span: dict[str, Any]


@dataclass(frozen=True)
class Laid:
    """Chunks of one table, in their order, and how far they go: a key or a member, True to the end."""

    table: str
    spans: Sequence[dict[str, Any]]
    last: Any


class Journal:
    """The bookkeeping tables in ``endpoint``'s database, by a session of their own.

    Not for two threads at once, but for :meth:`mark`, which uses the caller's session.
    """

    def __init__(self, endpoint: Endpoint, patience_s: float = 60.0) -> None:
        self.endpoint = endpoint
        self.epoch = 0
        self._patience_s = patience_s
        self._chunks = 0
        """The highest number of a chunk."""
        self._session: Session | None = Session(endpoint)

    @classmethod
    def there(cls, endpoint: Endpoint) -> Journal | None:
        """None where we have no account, or no database: nothing was begun there."""
        try:
            return cls(endpoint)
        except Denied:
            return None
        except Unreachable as error:
            if "does not exist" in error.sentence:
                return None
            raise

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _run(self, act: Callable[[Session], T], *, marked: bool = True) -> T:
        """``act`` in a transaction of ours, again after a lost session: all that is done here may be
        done twice. :raises Unreachable: the server stays away."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                if self._session is None:
                    self._session = Session(self.endpoint)
                session = self._session
                if marked:
                    self.mark(session, 0)
                found = act(session)
                session.commit()
                return found
            except (Lost, Busy) as error:
                self.close()
                if time.monotonic() > until:
                    raise Unreachable(
                        f"{self.endpoint.where} does not answer ({error})",
                        "Make it reachable, then go on with the same move: what was done is kept") from None
                time.sleep(0.3)
            except RecellError:
                self.close()
                raise

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        return self._run(lambda session: session.query(sql), marked=False)

    def state(self) -> State | None:
        """None when no move has begun here."""
        there = self._run(lambda session: session.query(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            (self.endpoint.database, PREFIX + "state")), marked=False)[0][0]
        rows = self._query(f"SELECT state FROM {PREFIX}state WHERE id = 1") if there else []
        return State(**json.loads(rows[0][0])) if rows else None

    def create(self) -> None:
        def act(session: Session) -> None:
            for table, columns in _TABLES.items():
                session.execute(f"CREATE TABLE IF NOT EXISTS {table} {columns}"
                                " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin")
            session.execute(f"INSERT IGNORE INTO {SEEN} VALUES (1, 0)")

        self._run(act, marked=False)

    def take_over(self) -> None:
        """From here on no other run of this move writes here, whatever it was about to do."""
        def act(session: Session) -> None:
            session.begin()
            session.execute(f"INSERT IGNORE INTO {PREFIX}control VALUES (1, 0, 0)")
            rows = session.query(f"SELECT MAX(epoch) FROM {MARK} FOR UPDATE")
            self.epoch = int(rows[0][0] or 0) + 1
            marks = ", ".join(f"({worker}, {self.epoch:d}, 0)" for worker in range(WORKERS))
            session.execute(f"REPLACE INTO {MARK} VALUES {marks}")

        self._run(act, marked=False)

    def mark(self, session: Session, worker: int) -> None:
        """Begin a transaction that is the mover's. :raises Locked: another run has taken over."""
        both = Pipeline(session, [b"START TRANSACTION", session.text(
            f"UPDATE {MARK} SET written = written + 1 WHERE worker = %s AND epoch = %s",
            (worker, self.epoch))])
        both.answers()
        if both.changed[1] != 1:
            session.rollback()
            raise Locked(f"another run of recell has taken over the move into {self.endpoint.where}",
                         "Let that one go on, or stop it and start again")

    def change(self, session: Session | None = None, **changes: object) -> None:
        """Fields of the state, in the transaction of ``session`` or in one of its own.

        Two threads do so, each with fields of its own: what the other one has written stays.
        """
        def act(writer: Session) -> None:
            rows = writer.query(f"SELECT state FROM {PREFIX}state WHERE id = 1 FOR UPDATE")
            self._put(writer, {**json.loads(rows[0][0]), **changes})

        if session is None:
            self._run(act)
        else:
            act(session)

    def _put(self, session: Session, state: Mapping[str, object]) -> None:
        session.execute(f"REPLACE INTO {PREFIX}state VALUES (1, %s, %s)",
                        (self.epoch, json.dumps(state, sort_keys=True)))

    def begin(self, state: State, members: dict[Link, set[KeyPart]]) -> None:
        """A direction begins: what an earlier one left is forgotten."""
        def act(session: Session) -> None:
            for table in ("chunk", "plan", "member", "verify"):
                session.execute(f"DELETE FROM {PREFIX}{table}")
            for link, values in members.items():
                write_members(session, link, values, present=True)
            self._put(session, asdict(state))

        self._run(act)

    # -- members ---------------------------------------------------------------------------------

    def members(self) -> tuple[dict[Link, set[KeyPart]], dict[Link, set[KeyPart]]]:
        """Members at the journaled position, and all that have ever been."""
        present: dict[Link, set[KeyPart]] = {}
        ever: dict[Link, set[KeyPart]] = {}
        for table, column, text, now in self._query(f"SELECT tbl, col, val, present FROM {PREFIX}member"):
            value: KeyPart = int(text[1:]) if text[0] == "i" else text[1:]
            ever.setdefault((table, column), set()).add(value)
            if now:
                present.setdefault((table, column), set()).add(value)
        return present, ever

    # -- the copy's chunks -----------------------------------------------------------------------

    def planned(self) -> dict[str, Any]:
        """By table: how far chunks were laid out; True when to the end."""
        return {table: _load(last) for table, last in self._query(f"SELECT tbl, last FROM {PREFIX}plan")}

    def plan(self, laid: Sequence[Laid]) -> list[Chunk]:
        """Keep chunks to be copied, and how far they go. In one transaction."""
        def act(session: Session) -> list[Chunk]:
            # Numbered here: only one run writes, and a server may hand out every other number.
            first = 1 + max(self._chunks, int(session.query(
                f"SELECT COALESCE(MAX(id), 0) FROM {PREFIX}chunk")[0][0]))
            spans = [(one.table, span) for one in laid for span in one.spans]
            chunks = [Chunk(first + i, table, span) for i, (table, span) in enumerate(spans)]
            if chunks:
                session.execute(
                    f"INSERT INTO {PREFIX}chunk (id, tbl, span, done, row_count) VALUES "
                    + ", ".join(["(%s, %s, %s, 0, 0)"] * len(chunks)),
                    [value for c in chunks for value in (c.id, c.table, _dump(c.span))])
            ends = {one.table: _dump(one.last) for one in laid}
            session.execute(f"REPLACE INTO {PREFIX}plan VALUES " + ", ".join(["(%s, %s)"] * len(ends)),
                            [text for end in ends.items() for text in end])
            return chunks

        chunks = self._run(act)
        self._chunks = max([self._chunks, *(c.id for c in chunks)])
        return chunks

    def undone(self) -> list[Chunk]:
        rows = self._query(f"SELECT id, tbl, span FROM {PREFIX}chunk WHERE done = 0 ORDER BY id")
        return [Chunk(int(number), table, _load(span)) for number, table, span in rows]

    def done(self, session: Session, chunk: Chunk, rows: int) -> None:
        """In the transaction of ``session``."""
        session.execute(f"UPDATE {PREFIX}chunk SET done = 1, row_count = %s WHERE id = %s", (rows, chunk.id))

    def copied(self) -> int:
        """Rows."""
        return int(self._query(f"SELECT COALESCE(SUM(row_count), 0) FROM {PREFIX}chunk")[0][0])

    # -- a full verification's progress ----------------------------------------------------------

    def verified(self) -> dict[str, tuple[Any, int, list[Any]]]:
        """By table: how far (True: to the end), how many rows, which differ."""
        rows = self._query(f"SELECT tbl, last, row_count, differences FROM {PREFIX}verify")
        return {t: (_load(last), int(count), json.loads(found)) for t, last, count, found in rows}

    def verified_up_to(self, table: str, last: Any, rows: int, differences: Iterable[Any]) -> None:
        found = json.dumps(list(differences))
        self._run(lambda session: session.execute(
            f"REPLACE INTO {PREFIX}verify VALUES (%s, %s, %s, %s)", (table, _dump(last), rows, found)))

    def verify_anew(self) -> None:
        self._run(lambda session: session.execute(f"DELETE FROM {PREFIX}verify"))

    # -- what the operator wants, from another process too ----------------------------------------

    def control(self) -> tuple[float, bool]:
        """Rows per second (0: as fast as it goes), and whether to pause."""
        rows = self._query(f"SELECT rate, paused FROM {PREFIX}control WHERE id = 1")
        return (float(rows[0][0]), bool(rows[0][1])) if rows else (0.0, False)

    def set_control(self, rate: float, paused: bool) -> None:
        self._run(lambda session: session.execute(
            f"REPLACE INTO {PREFIX}control VALUES (1, %s, %s)", (rate, paused)), marked=False)

    def drop(self) -> None:
        """The mover was never here. Where it never wrote, no right to drop is needed."""
        def act(session: Session) -> None:
            there = {str(row[0]) for row in session.query(
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()")}
            for table in _TABLES:
                if table in there:
                    session.execute(f"DROP TABLE IF EXISTS {table}")

        self._run(act, marked=False)


def make_tables(endpoint: Endpoint) -> None:
    """Those that are missing."""
    journal = Journal(endpoint)
    try:
        journal.create()
    finally:
        journal.close()


def state_of(endpoint: Endpoint) -> State | None:
    """What an earlier run left there."""
    journal = Journal(endpoint)
    try:
        return journal.state()
    finally:
        journal.close()


def write_members(session: Session, link: Link, values: Iterable[KeyPart], *, present: bool) -> None:
    ordered = sorted(values, key=str)
    head = session.text("(%s, %s, ", link)
    tail = b", 1)" if present else b", 0)"
    for at in range(0, len(ordered), 1000):
        # There may be a million of them: numbers need no escaping.
        rows = [b"%b'i%d'%b" % (head, value, tail) if isinstance(value, int)
                else b"%b%b%b" % (head, session.text("%s", (f"s{value!s}",)), tail)
                for value in ordered[at:at + 1000]]
        session.send(b"REPLACE INTO " + PREFIX.encode() + b"member VALUES " + b", ".join(rows))


def fingerprint(scope: Scope) -> str:
    """Of what moves: the same move has the same one, whatever the tables' sizes are."""
    tables = [(replace(t.table, rows=0), t.rule, *t.fixed, *t.given) for t in scope.tables]
    text = repr((scope.database, tables, sorted(scope.hosts)))
    return hashlib.sha256(text.encode()).hexdigest()


def same_scope(state: State, scope: Scope) -> None:
    """:raises StalePlan: the journal is of another move."""
    if state.scope != fingerprint(scope):
        raise StalePlan("the journal in the target is of a move with other tables, rules or hosts",
                        "Finish or abandon that move first")


def positions(state: State) -> tuple[Position, Position]:
    return Position.parse(state.position), Position.parse(state.proven)


def _dump(value: Any) -> str:
    return json.dumps(value, default=lambda b: {"bytes": b.hex()})


def _load(text: str) -> Any:
    return json.loads(text, object_hook=lambda o: bytes.fromhex(o["bytes"]) if set(o) == {"bytes"} else o)


def as_key(value: Sequence[KeyPart] | None) -> Key | None:
    """A key as it comes back out of JSON."""
    return None if value is None else tuple(value)


def set_pace(endpoints: Iterable[Endpoint], pace: Pace) -> None:
    """For whichever process moves rows between these: it looks there once a second."""
    for endpoint in endpoints:
        journal = Journal(endpoint)
        try:
            if journal.state() is not None:
                journal.set_control(pace.rate, pace.paused)
        finally:
            journal.close()
