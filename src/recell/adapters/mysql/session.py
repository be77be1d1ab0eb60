"""A session in which every value arrives and leaves exactly as it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import DictCursor

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.errors import Denied, RecellError, StepFailed, Unreachable, Unsupported

__all__ = ["Busy", "Lost", "Session", "packets"]

# Non-strict modes turn 4-byte characters into "?" and cut long values; NO_ZERO_DATE, which oslo sets,
# refuses dates that old rows have; without NO_AUTO_VALUE_ON_ZERO the id 0 becomes another.
_SESSION = (
    "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION',"
    " foreign_key_checks = 0, innodb_lock_wait_timeout = 10"
)
_DENIED = frozenset({
    ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR,
})
_LOST = frozenset({
    0, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR,
    2055, ER.SERVER_SHUTDOWN, ER.NEW_ABORTING_CONNECTION, ER.ABORTING_CONNECTION, 1927, 1077,
    ER.CON_COUNT_ERROR,
})
_BUSY = frozenset({ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, 1180, 1020})  # 1180: Galera's certification
_FULL = frozenset({1114, 1021, 1026, 3, 1030, 28})
_CONNECT_TIMEOUT = 10
_NULL = 251


class Lost(Exception):
    """The session broke: nothing is known of what was not committed. Connect again."""


class Busy(Exception):
    """The server rolled the transaction back for another's sake. Try it again."""


class Session:
    """One connection. Not for two threads at once.

    Every method raises Lost, Busy, or a RecellError for what trying again doesn't mend.

    :param timeout: seconds for one answer of the server.
    """

    def __init__(self, endpoint: Endpoint, timeout: float = 300.0) -> None:
        self.endpoint = endpoint
        try:
            self._connection = pymysql.connect(
                host=endpoint.host, port=endpoint.port, user=endpoint.user, password=endpoint.password,
                unix_socket=endpoint.unix_socket or None, database=endpoint.database, charset="utf8mb4",
                ssl=endpoint.tls(), connect_timeout=_CONNECT_TIMEOUT, read_timeout=timeout,
                write_timeout=timeout, autocommit=False,
            )
        except (pymysql.Error, OSError) as error:
            self._raise(error)
        version = str(self._connection.get_server_info())  # type: ignore[no-untyped-call]
        # What MariaDB says first, for the sake of old replicas.
        self.version = version.removeprefix("5.5.5-")
        self.mariadb = "mariadb" in self.version.lower()
        self.execute(_SESSION)
        # By statement: the variable has another name in every other version.
        self.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.commit()

    @property
    def connection(self) -> Any:
        """PyMySQL's own, for the binlog's reader, which speaks the protocol below it."""
        return self._connection

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, tuple(args))
                return list(cursor.fetchall())
        except (pymysql.Error, OSError) as error:
            self._raise(error)

    def named(self, sql: str) -> dict[str, Any]:
        """The first row by its columns' names, empty without one."""
        try:
            with self._connection.cursor(DictCursor) as cursor:
                cursor.execute(sql)
                return dict(cursor.fetchone() or {})
        except (pymysql.Error, OSError) as error:
            self._raise(error)

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Number of rows changed."""
        try:
            with self._connection.cursor() as cursor:
                return int(cursor.execute(sql, tuple(args)))
        except (pymysql.Error, OSError) as error:
            self._raise(error)

    def send(self, statement: bytes) -> int:
        """A statement whose literals :meth:`raw` brought from a server. Number of rows changed."""
        try:
            return int(self._connection.query(statement))
        except (pymysql.Error, OSError) as error:
            self._raise(error)

    def raw(self, sql: str, args: Sequence[Any] = ()) -> Iterator[tuple[bytes | None, ...]]:
        """Rows as the server sends them: bytes, undecoded. To be read to their end.

        Some five times as fast as a cursor, and exact whatever a column's character set is.
        """
        connection = self._connection
        try:
            with connection.cursor() as cursor:
                text = cursor.mogrify(sql, tuple(args))
            connection._execute_command(0x03, text)  # type: ignore[attr-defined]
            stream = packets(connection)
            head = next(stream)
            if head[0] == 0xFF:
                pymysql.err.raise_mysql_exception(head)
            width = head[0]  # a result of ours never has more than 250 columns
            for _ in range(width + 1):
                next(stream)
            for packet in stream:
                if packet[0] >= 0xFE and (packet[0] == 0xFF or len(packet) < 9):
                    if packet[0] == 0xFF:
                        pymysql.err.raise_mysql_exception(packet)
                    return
                yield _fields(packet, width)
        except (pymysql.Error, OSError) as error:
            self._raise(error)

    def begin(self) -> None:
        self.execute("START TRANSACTION")

    def commit(self) -> None:
        try:
            self._connection.commit()
        except (pymysql.Error, OSError) as error:
            self._raise(error)

    def rollback(self) -> None:
        """Never raises: a session that is lost is rolled back by its server."""
        with suppress(pymysql.Error, OSError):
            self._connection.rollback()

    def close(self) -> None:
        with suppress(pymysql.Error, OSError):
            self._connection.close()

    # -- what a server tells of its binlog -------------------------------------------------------

    def snapshot(self) -> Position:
        """Begin a transaction that sees exactly what the binlog holds up to the position returned.

        The binlog has a transaction before InnoDB shows it; a reader that re-reads rows by keys out of
        the binlog must not see the world before them. MariaDB tells the position of a snapshot.
        """
        self.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        rows = {str(k).lower(): str(v) for k, v in self.query("SHOW STATUS LIKE 'binlog\\_snapshot\\_%%'")}
        file = rows.get("binlog_snapshot_file", "")
        if not file:
            raise Unsupported(
                f"{self.endpoint.where} does not tell its snapshots' binlog positions ({self.version})",
                "Switch its binary log on (log_bin, binlog_format=ROW) and restart it",
            )
        return Position(file, int(rows["binlog_snapshot_position"]))

    def binlog_end(self) -> Position:
        """Where the binlog ends now. :raises Unsupported: there is none."""
        rows = self.query("SHOW MASTER STATUS")
        if not rows:
            raise Unsupported(f"{self.endpoint.where} has no binary log",
                              "Set log_bin and binlog_format=ROW there and restart it")
        return Position(str(rows[0][0]), int(rows[0][1]))

    def binlogs(self) -> dict[str, int]:
        """The binlog's files that are still there, and their sizes in bytes."""
        return {str(row[0]): int(row[1]) for row in self.query("SHOW BINARY LOGS")}

    def variable(self, variable: str) -> str:
        """A global variable, empty where the server has none of this name."""
        rows = self.query("SHOW GLOBAL VARIABLES LIKE %s", (variable.replace("_", "\\_"),))
        return str(rows[0][1]) if rows else ""

    def _raise(self, error: Exception) -> NoReturn:
        raise translated(error, self.endpoint) from None


def translated(error: Exception, endpoint: Endpoint) -> Exception:
    """Lost, Busy, or what to tell the operator."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__
    reason = text.replace("\n", " ")[:200].rstrip(".")
    if isinstance(error, OSError | pymysql.InterfaceError) or code in _LOST:
        return Lost(reason)
    if code in _BUSY:
        return Busy(reason)
    return _refused(endpoint, code, reason)


def _refused(endpoint: Endpoint, code: int, reason: str) -> RecellError:
    if code in _DENIED:
        return Denied(f"{endpoint.where} refuses the account {endpoint.user} ({reason})",
                      "Correct the password or the grant")
    if code == ER.BAD_DB_ERROR:
        return Unreachable(f"{endpoint.where} does not exist", "Create it, or correct its name")
    if code in _FULL:
        return StepFailed(f"{endpoint.where} has no room left ({reason})",
                          "Make room on its disk, then go on: what was written is kept")
    return StepFailed(f"{endpoint.where} refuses a statement ({code}: {reason})",
                      "Look at the database server's log")


def packets(connection: Any) -> Iterator[bytes]:
    """Payloads of the server's packets, split ones joined. :raises OSError: the connection broke."""
    read = connection._rfile.read
    while True:
        head = read(4)
        if len(head) < 4:
            raise ConnectionResetError("the server closed the connection")
        size = int.from_bytes(head[:3], "little")
        payload = read(size)
        if size == 0xFFFFFF:
            parts = [payload]
            while size == 0xFFFFFF:
                head = read(4)
                size = int.from_bytes(head[:3], "little")
                parts.append(read(size))
            payload = b"".join(parts)
        elif len(payload) < size:
            raise ConnectionResetError("the server closed the connection")
        connection._next_seq_id = (head[3] + 1) & 255
        yield payload


def _fields(packet: bytes, width: int) -> tuple[bytes | None, ...]:
    at = 0
    row: list[bytes | None] = []
    for _ in range(width):
        size = packet[at]
        at += 1
        if size == _NULL:
            row.append(None)
            continue
        if size > _NULL:
            span = (2, 3, 8)[size - 252]
            size = int.from_bytes(packet[at:at + span], "little")
            at += span
        row.append(packet[at:at + size])
        at += size
    return tuple(row)
