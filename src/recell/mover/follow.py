"""The applier at work: in a thread of its own until stopped, through lost sessions."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session
from recell.errors import RecellError, Unreachable
from recell.mover.apply import Applied, Applier
from recell.mover.journal import Journal
from recell.mover.members import Members

__all__ = ["Follower", "Note"]

Note = Callable[[Session, Position, Position, str], None]
"""Writes (applied position, proven position, its GTID) into the journal, in the session's transaction."""

_PAUSE_S = 0.02
_NOTE_EVERY_S = 2.0
_NOTE_WORKER = 21


class Follower:
    """Applies the members' work from ``here`` to ``there``, and proves it."""

    def __init__(self, here: Endpoint, there: Endpoint, members: Members, journal: Journal, note: Note,
                 proven: tuple[Position, str], patience_s: float) -> None:
        self._here, self._there = here, there
        self._members, self._journal, self._note = members, journal, note
        self._patience_s = patience_s
        self._position, self._proven = proven[0], proven
        self._unproven: OrderedDict[int, Applied] = OrderedDict()
        self._applier: Applier | None = None
        self._sessions: tuple[Session, Session] | None = None
        self._applied_before = 0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self.failed: RecellError | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def position(self) -> Position:
        """Everything of the source before it is applied."""
        applier = self._applier
        return applier.position if applier is not None else self._position

    @property
    def proven_gtid(self) -> str:
        applier = self._applier
        return applier.proven_gtid if applier is not None else self._proven[1]

    @property
    def applied_keys(self) -> int:
        applier = self._applier
        return self._applied_before + (applier.applied_keys if applier is not None else 0)

    @property
    def unproven(self) -> list[tuple[str, str]]:
        """Table and key of rows that were applied and not found equal yet."""
        return [(table, ", ".join(map(str, key))) for applied in list(self._unproven.values())
                for table, keys in list(applied.keys.items()) for key in sorted(keys, key=str)]

    @property
    def unproven_keys(self) -> int:
        return sum(map(len, list(self._unproven.values())))

    def start(self) -> None:
        if not self.running:
            self._ending.clear()
            self._thread = threading.Thread(target=self._run, name="apply", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """The thread ends when what it is doing is done."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def close(self) -> None:
        self.stop()
        self._drop()

    def settle(self) -> int | None:
        """With the thread stopped: apply and prove all there is. Keys applied; None when a session was
        lost on the way."""
        try:
            applier = self._applying()
            count = applier.flush()
            applier.prove(limit=1 << 62)
            return count
        except (Lost, Busy):
            self._drop()
            return None
        except BaseException:
            self._drop()
            raise

    def _run(self) -> None:
        noted = time.monotonic()
        lost_at: float | None = None
        while not self._ending.is_set():
            try:
                applier = self._applying()
                count = applier.flush()
                # Whoever waits for the end of this thread proves what is left.
                applier.prove(going=lambda: not self._ending.is_set())
                lost_at = None
                if time.monotonic() - noted > _NOTE_EVERY_S:
                    self._note_down(applier)
                    noted = time.monotonic()
                if not count:
                    self._ending.wait(_PAUSE_S)
            except (Lost, Busy) as error:
                self._drop()
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > self._patience_s:
                    self.failed = self._away(error)
                    return
                self._ending.wait(0.3)
            except RecellError as error:
                self._drop()
                self.failed = error
                return
            except Exception as error:  # a thread must not end unseen
                self._drop()
                self.failed = RecellError(f"applying changes failed ({type(error).__name__}: {error})",
                                          "Report this")
                return

    def _note_down(self, applier: Applier) -> None:
        """Positions move on while nothing of ours changes: keep that, or old binlogs are needed."""
        if self._sessions is not None:
            target = self._sessions[1]
            self._journal.mark(target, _NOTE_WORKER)
            self._note(target, applier.position, applier.proven, applier.proven_gtid)
            target.commit()

    def _applying(self) -> Applier:
        if self._applier is None:
            self._sessions = Session(self._here), Session(self._there)
            self._applier = Applier(*self._sessions, self._members, self._journal, self._note, self._proven,
                                    self._position, self._unproven)
        return self._applier

    def _drop(self) -> None:
        applier, self._applier = self._applier, None
        if applier is not None:
            self._applied_before += applier.applied_keys
            self._position = applier.position
            self._proven = applier.proven, applier.proven_gtid
        for session in self._sessions or ():
            session.close()
        self._sessions = None

    def _away(self, error: Exception) -> RecellError:
        return Unreachable(f"{self._here.where} or {self._there.where} does not answer ({error})",
                           "Make it reachable, then go on with the same move: what was done is kept")
