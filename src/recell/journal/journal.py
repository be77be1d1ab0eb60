"""The journal: an append-only SQLite file that outlives every kill.

"started" is durable before a step acts (synchronous=FULL); an outcome is appended after it. A step
with a start and no outcome is the one that a dead recell was in. One writer at a time: an flock on
the file beside it, released by the kernel when the process dies, and an epoch that every new writer
raises, so that a writer that lost the lock without noticing (another machine took over) is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recell.errors import BadInput, Locked, StalePlan, StepFailed
from recell.model.step import Direction

Phase = Literal["started", "finished", "failed", "unknown", "found"]

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (id INTEGER PRIMARY KEY, verb TEXT NOT NULL, direction TEXT NOT NULL,
    began REAL NOT NULL, ended REAL, outcome TEXT, machine TEXT NOT NULL, pid INTEGER NOT NULL);
CREATE TABLE entries (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL, direction TEXT NOT NULL, phase TEXT NOT NULL, at REAL NOT NULL,
    detail TEXT NOT NULL);
CREATE TABLE facts (step TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (step, key));
"""
FORMAT = "1"


@dataclass(frozen=True)
class Entry:
    """A line of the journal. ``at``: seconds since 1970."""

    id: int
    run: int
    step: str
    direction: Direction
    phase: Phase
    at: float
    detail: dict[str, Any]


OPERATOR = "operator"
"""What the facts about the operator's own words stand under."""
BESIDE = ("finish", "rows", "audit", "sync")
"""Verbs whose runs are no part of the way there or back."""


@dataclass(frozen=True)
class Run:
    """One invocation of recell that wrote here. ``outcome`` None: it never said (or still runs)."""

    id: int
    verb: str
    direction: Direction
    began: float
    ended: float | None
    outcome: str | None
    machine: str
    pid: int


class Journal:
    """Open with :meth:`create` or :meth:`open`; write only inside :meth:`writing`.

    Lines and facts may be written and recalled from several threads: a step may act on hosts side by side.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._run: int | None = None
        self._epoch: int | None = None
        self._one = threading.RLock()

    @classmethod
    def create(cls, path: Path, plan_digest: str) -> Journal:
        """A new journal for a plan. :raises BadInput: the file is there already."""
        if path.exists():
            raise BadInput(f"{path} is there already", "Use recell resume or recell undo, or move it away")
        # Whole or not at all: a journal without its tables would be nobody's.
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        try:
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise BadInput(f"{path} can't be made: {error.strerror}", "Choose another --dir") from None
        db = _connect(new)
        with _full_disk(path), db:
            db.executescript(_SCHEMA)
            db.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [
                    ("format", FORMAT),
                    ("id", str(uuid.uuid4())),
                    ("plan", plan_digest),
                    ("epoch", "0"),
                ],
            )
        db.close()
        new.rename(path)
        return cls(path, _connect(path))

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """:raises BadInput: there is none, or the file is no journal of this format."""
        if not path.exists():
            raise BadInput(f"there is no journal at {path}", "Begin with: recell apply")
        try:
            db = _connect(path, read_only=read_only)
            row = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.DatabaseError:
            row = None
        if row is None or row[0] != FORMAT:
            raise BadInput(f"{path} is not a journal that this recell reads", "Name another with --dir")
        return cls(path, db)

    def close(self) -> None:
        self._db.close()

    # -- identity ---------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._meta("id")

    @property
    def plan(self) -> str:
        """The digest of the plan that this journal belongs to."""
        return self._meta("plan")

    @property
    def epoch(self) -> int:
        """How many writers this journal has had, this one included."""
        return int(self._meta("epoch"))

    @property
    def finished(self) -> bool:
        """Whether the operator said ``finish``: there is no way back from then on."""
        return self._db.execute("SELECT 1 FROM meta WHERE key = 'finished'").fetchone() is not None

    def _meta(self, key: str) -> str:
        value = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(value[0])

    # -- writing ----------------------------------------------------------------------------------

    @contextmanager
    def writing(self, verb: str, direction: Direction) -> Iterator[int]:
        """Be the one writer, for one run. Yields the epoch.

        The run's outcome is "done", or the word of the error that left the block, or nothing when
        the process dies. :raises Locked: another recell has the journal.
        """
        with self._locked(verb):
            with _full_disk(self.path), self._db:
                self._epoch = self.epoch + 1
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(self._epoch),))
                cursor = self._db.execute(
                    "INSERT INTO runs (verb, direction, began, machine, pid) VALUES (?, ?, ?, ?, ?)",
                    (verb, direction, time.time(), os.uname().nodename, os.getpid()),
                )
                self._run = cursor.lastrowid
            outcome = "interrupted"
            try:
                yield self._epoch
                outcome = "done"
            except Exception as error:
                outcome = getattr(error, "word", "internal")
                raise
            finally:
                self._end_run(outcome)
                self._run = self._epoch = None

    @contextmanager
    def _locked(self, verb: str) -> Iterator[None]:
        """Hold the lock beside the file; the kernel gives it back when the process dies."""
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another recell"
                raise Locked(
                    f"{holder} is writing {self.path}", "Wait for it, or look at it with: recell status"
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"recell {verb} (pid {os.getpid()} on {os.uname().nodename})".encode(), 0)
            yield
        finally:
            os.close(lock)

    def _end_run(self, outcome: str) -> None:
        try:
            with self._db:
                self._db.execute(
                    "UPDATE runs SET ended = ?, outcome = ? WHERE id = ?", (time.time(), outcome, self._run)
                )
        except sqlite3.OperationalError:
            # The disk may be full: a run without an end is what a killed one leaves, too.
            return

    def raise_epoch(self, epoch: int) -> None:
        """Another machine's runs of this journal end here: the next writer's epoch is beyond ``epoch``.

        Only between runs. :raises Locked: another recell writes this file now.
        """
        with self._locked("takeover"), _full_disk(self.path), self._db:
            if epoch > self.epoch:
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(epoch),))

    def append(self, step: str, direction: Direction, phase: Phase, **detail: Any) -> None:
        """Durable when it returns. :raises Locked: a newer writer took over; StepFailed: disk full."""
        with self._one, _full_disk(self.path), self._db:
            self._fence()
            self._db.execute(
                "INSERT INTO entries (run, step, direction, phase, at, detail) VALUES (?, ?, ?, ?, ?, ?)",
                (self._run, step, direction, phase, time.time(), json.dumps(detail)),
            )

    def remember(self, step: str, key: str, value: Any) -> None:
        """A fact that a step needs later (an old value's hash). Durable when it returns."""
        with self._one, _full_disk(self.path), self._db:
            self._fence()
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (step, key, json.dumps(value)))

    def finish(self) -> None:
        """The operator closed the way back."""
        with _full_disk(self.path), self._db:
            self._fence()
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('finished', ?)", (str(time.time()),))

    def _fence(self) -> None:
        if self._run is None:
            raise RuntimeError("the journal is written outside of writing()")
        if self.epoch != self._epoch:
            raise Locked(f"another recell took over {self.path}", "Leave this one; look with: recell status")

    # -- reading ----------------------------------------------------------------------------------

    def recall(self, step: str, key: str, default: Any = None) -> Any:
        sql = "SELECT value FROM facts WHERE step = ? AND key = ?"
        with self._one:
            row = self._db.execute(sql, (step, key)).fetchone()
        return default if row is None else json.loads(row[0])

    def entries(self, after: int = 0) -> tuple[Entry, ...]:
        rows = self._db.execute(
            "SELECT id, run, step, direction, phase, at, detail FROM entries WHERE id > ? ORDER BY id",
            (after,),
        )
        return tuple(_entry(row) for row in rows)

    def facts(self) -> dict[tuple[str, str], Any]:
        """Everything that was remembered: (step, key) -> value."""
        rows = self._db.execute("SELECT step, key, value FROM facts")
        return {(step, key): json.loads(value) for step, key, value in rows}

    def runs(self) -> tuple[Run, ...]:
        rows = self._db.execute(
            "SELECT id, verb, direction, began, ended, outcome, machine, pid FROM runs ORDER BY id"
        )
        return tuple(Run(*row) for row in rows)

    def last(self, step: str) -> Entry | None:
        """The newest entry of a step."""
        row = self._db.execute(
            "SELECT id, run, step, direction, phase, at, detail FROM entries WHERE step = ?"
            " ORDER BY id DESC LIMIT 1",
            (step,),
        ).fetchone()
        return None if row is None else _entry(row)

    def attempts(self, step: str, direction: Direction) -> int:
        row = self._db.execute(
            "SELECT count(*) FROM entries WHERE step = ? AND direction = ? AND phase = 'started'",
            (step, direction),
        ).fetchone()
        return int(row[0])

    def belongs_to(self, digest: str) -> None:
        """:raises StalePlan: this journal is of another plan."""
        if self.plan != digest:
            raise StalePlan(
                f"{self.path} is the journal of another plan",
                "Use the plan that it belongs to, or another --dir",
            )


def _entry(row: tuple[Any, ...]) -> Entry:
    number, run, step, direction, phase, at, detail = row
    return Entry(number, run, step, direction, phase, at, json.loads(detail))


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rw"
    db = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=10, check_same_thread=False)
    if not read_only:
        db.execute("PRAGMA synchronous = FULL")
    return db


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StepFailed(
            f"the journal {path} can't be written ({error})",
            "Make room or mend the disk, then: recell resume",
        ) from None
