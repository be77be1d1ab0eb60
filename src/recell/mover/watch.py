"""Once a second: what the operator wants, how the source fares, how far behind the target is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session, release
from recell.errors import RecellError
from recell.mover.journal import Journal
from recell.mover.throttle import Throttle

__all__ = ["Watch"]

_EVERY_S = 1.0


class Watch:
    """:param direction: the two ends as rows flow now. :param applied: how far the target is, None when
    nothing is being applied. :param replicas: of the source."""

    def __init__(self, throttle: Throttle, direction: Callable[[], tuple[Endpoint, Endpoint]],
                 applied: Callable[[], Position | None], replicas: tuple[Endpoint, ...]) -> None:
        self.lag_s: float | None = None
        self._throttle, self._direction, self._applied = throttle, direction, applied
        self._replicas = replicas
        self._sessions: dict[Endpoint, Session] = {}
        self._journal: Journal | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._ends.wait(_EVERY_S):
            try:
                self._look()
            except (Lost, Busy, RecellError):
                # Whoever works there notices by himself; here it's only measured.
                self._forget()
        self._forget()

    def _look(self) -> None:
        here, there = self._direction()
        if self._journal is None or self._journal.endpoint != there:
            if self._journal is not None:
                self._journal.close()
            self._journal = Journal(there, patience_s=0)
        self._throttle.set(*self._journal.control())
        began = time.monotonic()
        end = self._session(here).binlog_end()
        latency = time.monotonic() - began
        lags = [replica_lag(self._session(r)) for r in self._replicas]
        self._throttle.observe(latency, max(lags, default=0.0))
        if self._applied() is None:
            self.lag_s = None
        else:
            arrived = self._arrives(end)
            self.lag_s = time.monotonic() - began if arrived else (self.lag_s or 0.0) + _EVERY_S

    def _arrives(self, end: Position) -> bool:
        for _ in range(500):
            position = self._applied()
            if position is not None and position >= end:
                return True
            if self._ends.wait(0.01):
                return False
        return False

    def _session(self, endpoint: Endpoint) -> Session:
        if endpoint not in self._sessions:
            self._sessions[endpoint] = Session(endpoint, timeout=30)
        return self._sessions[endpoint]

    def _forget(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        with suppress(Exception):
            if self._journal is not None:
                self._journal.close()
        self._journal = None


def replica_lag(session: Session) -> float:
    """Seconds, of the slowest of its connections; 0 where there is no replication, an hour where one stands
    still."""
    lags = [row.get("Seconds_Behind_Master", row.get("Seconds_Behind_Source"))
            for row in session.named(replica_statement(session.version))]
    return max((3600.0 if lag is None else float(lag) for lag in lags), default=0.0)


def replica_statement(version: str) -> str:
    """MariaDB tells of one connection only unless asked for all; MySQL 8.4 has the new name only."""
    if "mariadb" in version.lower():
        return "SHOW ALL SLAVES STATUS"
    return "SHOW REPLICA STATUS" if release(version) >= (8, 0, 22) else "SHOW SLAVE STATUS"
