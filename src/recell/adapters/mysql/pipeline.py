"""Many short statements on their way to a server at once: it answers them one after the other, in order.

Each question waits for the answer before it otherwise, and while writers are held still, that is most of
what they wait for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pymysql

from recell.adapters.mysql.session import COM_QUERY, Fields, packets, result

if TYPE_CHECKING:
    from recell.adapters.mysql.session import Session

__all__ = ["Answer", "Pipeline", "ask"]

_IN_FLIGHT = 32_000
"""Bytes of statements whose answers have not been read. Beyond what a socket buffers, both sides could wait
for each other to read."""

Answer = list[Fields]
"""Rows as the server sends them; empty for a statement that has none."""


class Pipeline:
    """Sends what it can when made; :meth:`answers` reads, and sends the rest.

    Nothing else may use the session in between. Not for COMMIT beside the writes that it commits: what
    follows a statement that failed is run all the same.
    """

    def __init__(self, session: Session, statements: Sequence[bytes]) -> None:
        self._session = session
        self._left = deque(statements)
        self._flying: deque[int] = deque()
        self.changed: list[int] = []
        """Of each statement: how many rows it changed; 0 for one that returns rows."""
        self._send()

    def answers(self) -> list[Answer]:
        """One for each statement. Raises what the first statement that failed does."""
        found: list[Answer] = []
        failed: pymysql.Error | None = None
        connection = self._session.connection
        try:
            stream = packets(connection)
            while self._flying:
                try:
                    rows, changed = result(stream)
                    found.append(list(rows))
                    self.changed.append(changed)
                except pymysql.Error as error:
                    failed = failed or error
                self._flying.popleft()
                if failed is None:
                    self._send()
        except (pymysql.Error, OSError) as error:
            self._session.fail(error)
        if failed is not None:
            self._session.fail(failed)
        return found

    def _send(self) -> None:
        try:
            while self._left and (not self._flying or sum(self._flying) + len(self._left[0]) <= _IN_FLIGHT):
                statement = self._left.popleft()
                self._session.connection._execute_command(COM_QUERY, statement)
                self._flying.append(len(statement))
        except (pymysql.Error, OSError) as error:
            self._session.fail(error)


def ask(session: Session, statements: Sequence[bytes]) -> list[Answer]:
    return Pipeline(session, statements).answers()
