"""Rows by LOAD DATA: the target reads lines with half the work that it has with statements."""

from __future__ import annotations

from collections.abc import Iterable

from recell.adapters.mysql.session import NoLoads, Session
from recell.mover.members import Interest
from recell.mover.rows import LOADED, LOADED_CHARSETS

__all__ = ["Loader"]

_LEAST_PACKET = 1 << 20


class Loader:
    """Brings new rows into tables by a session that was made for it (``Session(loads=True)``).

    Servers can forbid it (``local_infile=OFF``), and some columns want to be spoken to in SQL: ask
    :meth:`takes` first.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._allowed = session.variable("local_infile").upper() in ("ON", "1")
        self._size = min(_LEAST_PACKET, int(session.variable("max_allowed_packet") or _LEAST_PACKET) // 2)
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

    def load(self, interest: Interest, lines: Iterable[bytes]) -> int | None:
        """Number of rows written, in the session's transaction. None: the server had something to say of
        a row or a value (it is there already, it does not fit), and perhaps changed it. What was written
        must be rolled back then, and goes by statements, which are strict.
        """
        try:
            rows, warnings = self._session.load(interest.rows.load, lines, self._size)
        except NoLoads:
            # A proxy may forbid what the server allows.
            self._allowed = False
            return None
        return None if warnings else rows
