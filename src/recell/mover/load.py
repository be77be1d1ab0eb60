"""Rows by LOAD DATA: the target reads lines with half the work that it has with statements."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from recell.adapters.mysql.session import NoLoads, Session
from recell.mover.members import Interest
from recell.mover.rows import LOADED, LOADED_CHARSETS

__all__ = ["Loader"]

_BYTES = 1_000_000
"""In one statement. While it runs, InnoDB lets nobody else number rows of the same table."""


class Loader:
    """Brings new rows into tables by a session that was made for it (``Session(loads=True)``).

    Servers can forbid it (``local_infile=OFF``), and some columns want to be spoken to in SQL: ask
    :meth:`takes` first.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._allowed = session.variable("local_infile").upper() in ("ON", "1")
        self._packet = min(_BYTES, int(session.variable("max_allowed_packet") or 1 << 24) // 2)
        types, charsets = sorted(LOADED), sorted(LOADED_CHARSETS)
        # The scope knows the source's columns only.
        unfit = session.query(
            "SELECT DISTINCT TABLE_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND"
            f" (DATA_TYPE NOT IN ({', '.join(['%s'] * len(types))})"
            f" OR CHARACTER_SET_NAME NOT IN ({', '.join(['%s'] * len(charsets))}))",
            (session.endpoint.database, *types, *charsets)) if self._allowed else []
        session.commit()
        self._unfit = frozenset(str(table) for table, in unfit)

    def takes(self, interest: Interest) -> bool:
        """Whether rows of this table can be loaded here."""
        return self._allowed and bool(interest.rows.line) and interest.name not in self._unfit

    def load(self, interest: Interest, lines: Iterator[bytes]) -> int | None:
        """Number of rows written, in the session's transaction. None: the server had something to say of
        a row or a value (it is there already, it does not fit), and perhaps changed it. What was written
        must be rolled back then, and goes by statements, which are strict.
        """
        count = 0
        for part in _parts(lines):
            try:
                rows, warnings = self._session.load(interest.rows.load, part, self._packet)
            except NoLoads:
                # A proxy may forbid what the server allows.
                self._allowed, warnings = False, 1
            if warnings:
                # An answer that was begun has to be read to its end.
                deque(lines, maxlen=0)
                return None
            count += rows
        return count


def _parts(lines: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
