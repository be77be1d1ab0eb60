"""A session in which every value arrives and leaves exactly as it is stored."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn, TypeVar

import pymysql
from pymysql.constants import CLIENT, CR, ER
from pymysql.cursors import DictCursor
from pymysql.protocol import OKPacketWrapper

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.errors import Denied, RecellError, StepFailed, Unknowable, Unreachable, Unsupported

__all__ = ["COM_QUERY", "SEEN", "Busy", "Fields", "Lost", "NoLoads", "ServerReplaced", "Session",
           "Sessions", "changed", "packets", "release", "result", "status_statement", "translated"]

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
    ER.CON_COUNT_ERROR, 4031,  # MySQL's word to a session that was idle for too long
})
# 1180: Galera's certification. 1317: somebody ended this statement (KILL QUERY).
_BUSY = frozenset({ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, 1180, 1020, 1317})
_FULL = frozenset({1114, 1021, 1026, 3, 1030, 28})
_NO_LOADS = frozenset({ER.NOT_ALLOWED_COMMAND, 3948, 4166})
_CONNECT_TIMEOUT = 10
_NULL = 251
COM_QUERY = 0x03
_LONGEST = 0xFFFFFF
_BUFFER = 1 << 18
SEEN = "recell_mover_seen"
"""A table of one row, in databases of servers that don't tell a snapshot's position."""
_BEGIN = b"START TRANSACTION WITH CONSISTENT SNAPSHOT"
_WHERE = b"SHOW STATUS LIKE 'binlog\\_snapshot\\_%'"

Fields = tuple[bytes | None, ...]
"""A row as the server sends it: undecoded."""

T = TypeVar("T")


class Lost(Exception):
    """The session broke: nothing is known of what was not committed. Connect again."""


class Busy(Exception):
    """The server rolled the transaction back for another's sake. Try it again."""


class NoLoads(Exception):
    """The server, or what stands before it, takes no rows by LOAD DATA LOCAL."""


class ServerReplaced(Unknowable):
    """Another server, or another history, answers at the address."""

    word = "server-replaced"


class Session:
    """One connection. Not for two threads at once.

    Every method raises Lost, Busy, or a RecellError for what trying again doesn't mend.

    :param timeout: seconds for one answer of the server.
    :param loads: :meth:`load` will be called.
    """

    def __init__(self, endpoint: Endpoint, timeout: float = 300.0, *, loads: bool = False) -> None:
        self.endpoint = endpoint
        try:
            tls = endpoint.tls()
            self._connection = pymysql.connect(
                host=endpoint.host, port=endpoint.port, user=endpoint.user, password=endpoint.password,
                unix_socket=None if endpoint.forwarded else endpoint.unix_socket or None,
                database=endpoint.database, charset="utf8mb4",
                ssl=tls, ssl_disabled=tls is None, connect_timeout=_CONNECT_TIMEOUT, read_timeout=timeout,
                write_timeout=timeout, autocommit=False, defer_connect=True,
                # The flag alone: PyMySQL goes on refusing to read a file for a server that asks for one.
                client_flag=CLIENT.LOCAL_FILES if loads else 0,
            )
            if tls is None and not endpoint.unix_socket:
                _encrypt_if_offered(self._connection)
            self._connection.connect(_through(endpoint) if endpoint.forwarded else None)
        except (pymysql.Error, OSError) as error:
            self.fail(error)
        _read_much(self._connection)
        version = str(self._connection.get_server_info())  # type: ignore[no-untyped-call]
        # What MariaDB says first, for the sake of old replicas.
        self.version = version.removeprefix("5.5.5-")
        self.mariadb = "mariadb" in self.version.lower()
        self.execute(_SESSION + self._more_settings())
        # By statement: the variable has another name in every other version.
        self.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        if endpoint.server:
            self._prove_server(dict(endpoint.server))

    def _more_settings(self) -> str:
        # A server may end whatever takes long; comparing a table does.
        if self.mariadb:
            return ", max_statement_time = 0"
        numbers = release(self.version)
        limit = ", max_execution_time = 0" if numbers >= (5, 7, 8) else ""
        # MySQL 8 shows tables' sizes and next numbers as old as a day otherwise.
        return limit + (", information_schema_stats_expiry = 0" if numbers >= (8,) else "")

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
            self.fail(error)

    def named(self, sql: str, args: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows by their columns' names."""
        try:
            with self._connection.cursor(DictCursor) as cursor:
                cursor.execute(sql, tuple(args) or None)
                return [dict(row) for row in cursor.fetchall()]
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Number of rows changed."""
        try:
            with self._connection.cursor() as cursor:
                return int(cursor.execute(sql, tuple(args)))
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def send(self, statement: bytes) -> int:
        """A statement whose literals :meth:`raw` brought from a server. Number of rows changed."""
        try:
            return int(self._connection.query(statement))
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def load(self, statement: bytes, lines: bytes, size: int = 1 << 20) -> tuple[int, int]:
        """LOAD DATA LOCAL: how many rows were written, and of how many things the server warned.

        It gets ``lines``, whatever file it asks for.

        :param size: bytes sent in one packet.
        :raises NoLoads: it takes none.
        """
        connection: Any = self._connection
        try:
            connection._execute_command(COM_QUERY, statement)
            if not connection._read_packet().is_load_local_packet():
                raise pymysql.InterfaceError(0, "the server wants no rows")
            for at in range(0, len(lines), size):
                connection.write_packet(lines[at:at + size])
            connection.write_packet(b"")
            answer = OKPacketWrapper(connection._read_packet())
            return answer.affected_rows, answer.warning_count
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def raw(self, sql: str, args: Sequence[Any] = ()) -> Iterator[Fields]:
        """Rows as the server sends them: bytes, undecoded. To be read to their end.

        Some five times as fast as a cursor, and exact whatever a column's character set is.
        """
        return self._rows(self.text(sql, args))

    def column(self, sql: str, args: Sequence[Any] = ()) -> Iterator[bytes | None]:
        """As :meth:`raw`, of a statement with one column; for millions of rows."""
        try:
            self._connection._execute_command(COM_QUERY, self.text(sql, args))  # type: ignore[attr-defined]
            stream = packets(self._connection)
            head = next(stream)
            if head[0] == 0xFF:
                pymysql.err.raise_mysql_exception(head)
            next(stream)
            next(stream)
            yield from _column(self._connection)
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def _rows(self, statement: bytes) -> Iterator[Fields]:
        try:
            self._connection._execute_command(COM_QUERY, statement)  # type: ignore[attr-defined]
            yield from result(packets(self._connection))[0]
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def text(self, sql: str, args: Sequence[Any] = ()) -> bytes:
        """A statement with its parameters in it, as it is sent."""
        with self._connection.cursor() as cursor:
            return cursor.mogrify(sql, tuple(args)).encode(errors="surrogateescape")

    def begin(self) -> None:
        self.execute("START TRANSACTION")

    def commit(self) -> None:
        try:
            self._connection.commit()
        except (pymysql.Error, OSError) as error:
            self.fail(error)

    def rollback(self) -> None:
        """Never raises: a session that is lost is rolled back by its server."""
        with suppress(pymysql.Error, OSError):
            self._connection.rollback()

    def interrupt(self) -> None:
        """Whatever another thread waits for in this session ends: closing alone would not wake it."""
        stream = getattr(self._connection, "_sock", None)
        if stream is not None:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(pymysql.Error, OSError):
            self._connection.close()

    # -- what a server tells of its binlog -------------------------------------------------------

    @property
    def tells_snapshots(self) -> bool:
        """Whether the server says which position of its binlog a snapshot is of; others need SEEN."""
        return self.mariadb

    def snapshot(self) -> Position:
        """Begin a transaction that sees all that the binlog holds before the position returned, or more.

        The binlog has a transaction before InnoDB shows it; a reader that re-reads rows by keys out of
        the binlog must not see the world before them.

        MariaDB tells the position of a snapshot. MySQL doesn't, but it shows transactions in the order in
        which its binlog has them: once a transaction of ours has ended, all that the binlog had before it
        is shown. So SEEN is written between the question for the position and the snapshot.
        """
        return self.snapshot_position([list(self._rows(s)) for s in self.snapshot_statements()])

    def snapshot_statements(self) -> tuple[bytes, ...]:
        """What :meth:`snapshot` does. Their answers are for :meth:`snapshot_position`."""
        if self.tells_snapshots:
            return _BEGIN, _WHERE
        return (
            status_statement(self.version).encode(), b"SHOW GLOBAL VARIABLES LIKE 'binlog\\_order\\_commits'",
            b"UPDATE " + SEEN.encode() + b" SET written = written + 1 WHERE id = 1", b"SELECT ROW_COUNT()",
            b"COMMIT", _BEGIN,
        )

    def snapshot_position(self, answers: Sequence[Sequence[Fields]]) -> Position:
        """:raises Unsupported: the server can't tell, or doesn't keep the order."""
        return self._told_position(answers[1]) if self.tells_snapshots else self._seen_position(answers)

    def _seen_position(self, answers: Sequence[Sequence[Fields]]) -> Position:
        if not answers[0]:
            raise self._no_binlog()
        if any(value != b"ON" for _, value in answers[1]):
            raise Unsupported(f"{self.endpoint.where} shows transactions in another order than its binary log"
                              " has them", "SET GLOBAL binlog_order_commits = ON there")
        if answers[3] != [(b"1",)]:
            raise StepFailed(f"{SEEN} of {self.endpoint.where} has no row",
                             "Drop this table, which is recell's, and start the move anew")
        file, offset = answers[0][0][:2]
        return Position((file or b"").decode(), int(offset or 0))

    def consistent(self) -> None:
        """Begin a transaction that sees one state of all tables, whatever the binlog's position."""
        self.send(_BEGIN)

    def _told_position(self, answer: Sequence[Fields]) -> Position:
        rows = {(k or b"").decode().lower(): (v or b"").decode() for k, v in answer}
        file = rows.get("binlog_snapshot_file", "")
        if not file:
            raise Unsupported(
                f"{self.endpoint.where} does not tell its snapshots' binlog positions ({self.version})",
                "Switch its binary log on (log_bin, binlog_format=ROW) and restart it",
            )
        return Position(file, int(rows["binlog_snapshot_position"]))

    def binlog_end(self) -> Position:
        """Where the binlog ends now. :raises Unsupported: there is none."""
        rows = self.query(status_statement(self.version))
        if not rows:
            raise self._no_binlog()
        return Position(str(rows[0][0]), int(rows[0][1]))

    def _no_binlog(self) -> Unsupported:
        return Unsupported(f"{self.endpoint.where} has no binary log",
                           "Set log_bin and binlog_format=ROW there and restart it")

    def binlogs(self) -> dict[str, int]:
        """The binlog's files that are still there, and their sizes in bytes."""
        return {str(row[0]): int(row[1]) for row in self.query("SHOW BINARY LOGS")}

    def variable(self, variable: str) -> str:
        """A global variable, empty where the server has none of this name."""
        rows = self.query("SHOW GLOBAL VARIABLES LIKE %s", (variable.replace("_", "\\_"),))
        return str(rows[0][1]) if rows else ""

    def identity(self) -> dict[str, str]:
        """What tells this server from any other."""
        rows = self.query("SHOW GLOBAL VARIABLES WHERE Variable_name IN"
                          " ('server_id', 'server_uuid', 'server_uid')")
        self.commit()
        return {str(name).lower(): str(value) for name, value in rows if str(value)}

    def _prove_server(self, known: dict[str, str]) -> None:
        try:
            words = changed(known, self.identity())
            if words:
                raise ServerReplaced(
                    f"{self.endpoint.where} is another server than before ({words})",
                    "When a virtual address or a proxy has moved, lead it back to the first server and go on;"
                    " otherwise start the move anew: recell can't know which changes it has missed")
        except BaseException:
            self.close()
            raise

    def fail(self, error: Exception) -> NoReturn:
        """Raises Lost, Busy, or what to tell the operator."""
        raise translated(error, self.endpoint) from None


def changed(known: dict[str, str], now: dict[str, str]) -> str:
    """How a server's identity differs from the one that was known, in words; empty when it doesn't. A newer
    release may tell more of itself."""
    return ", ".join(f"{k} was {known[k]}, is {now[k]}" for k in sorted(known.keys() & now.keys())
                     if known[k] != now[k])


def release(version: str) -> tuple[int, ...]:
    """Of ``8.0.36-28`` or ``10.11.19-MariaDB``: its first numbers, to be compared."""
    return tuple(int(p) for p in version.split("-")[0].split(".")[:3] if p.isdigit())


def status_statement(version: str) -> str:
    """What asks a server of this version where its binlog ends. MySQL 8.4 knows the old name no more."""
    new = "mariadb" not in version.lower() and release(version) >= (8, 2)
    return "SHOW BINARY LOG STATUS" if new else "SHOW MASTER STATUS"


def translated(error: Exception, endpoint: Endpoint) -> Exception:
    """Lost, Busy, NoLoads, or what to tell the operator."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__
    reason = text.replace("\n", " ")[:200].rstrip(".")
    if code in _NO_LOADS:
        return NoLoads(reason)
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


class Sessions:
    """Sessions that stay open, one to a database, for short questions: nobody waits for a connection to be
    made. Not for two threads at once."""

    def __init__(self) -> None:
        self._open: dict[Endpoint, Session] = {}

    def ask(self, endpoint: Endpoint, question: Callable[[Session], T]) -> T:
        """Raises what the session does; a session that was lost is made anew once, since an idle one may
        have been ended long ago."""
        kept = self._open.pop(endpoint, None)
        if kept is not None:
            try:
                answer = question(kept)
                self._open[endpoint] = kept
                return answer
            except Lost:
                kept.close()
            except BaseException:
                kept.close()
                raise
        fresh = Session(endpoint)
        try:
            answer = question(fresh)
        except BaseException:
            fresh.close()
            raise
        self._open[endpoint] = fresh
        return answer

    def close(self) -> None:
        for session in self._open.values():
            session.close()
        self._open.clear()


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


def result(stream: Iterator[bytes]) -> tuple[Iterator[Fields], int]:
    """The next statement's answer: its rows, to be read to their end, and how many it changed.

    :raises pymysql.Error: the server refused the statement; raised by the rows, when it gave up later.
    """
    head = next(stream)
    if head[0] == 0xFF:
        pymysql.err.raise_mysql_exception(head)
    if head[0] == 0:
        return iter(()), _length(head, 1)[0]
    width = head[0]  # a result of ours never has more than 250 columns
    for _ in range(width + 1):
        next(stream)
    return _result_rows(stream, width), 0


def _result_rows(stream: Iterator[bytes], width: int) -> Iterator[Fields]:
    for packet in stream:
        if packet[0] >= 0xFE and (packet[0] == 0xFF or len(packet) < 9):
            if packet[0] == 0xFF:
                pymysql.err.raise_mysql_exception(packet)
            return
        yield _fields(packet, width)


def _length(packet: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer, and where what follows begins."""
    size = packet[at]
    if size < _NULL:
        return size, at + 1
    span = (2, 3, 8)[size - 252]
    return int.from_bytes(packet[at + 1:at + 1 + span], "little"), at + 1 + span


def _through(endpoint: Endpoint) -> socket.socket:
    """For a socket that it opened itself PyMySQL would send some passwords in clear, and the server, to which
    they come by TCP, would take them for something else."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(_CONNECT_TIMEOUT)
        client.connect(endpoint.unix_socket)
    except BaseException:
        client.close()
        raise
    return client


@cache
def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _encrypt_if_offered(connection: Any) -> None:
    """What PyMySQL does by itself since 1.2. But it reads all of the machine's certificates for each
    connection, to compare the server's with none of them."""
    if hasattr(connection, "_ssl_required"):
        connection.ssl, connection.ctx = True, _unchecked()


def _read_much(connection: Any) -> None:
    """PyMySQL reads eight KiB at a time. Right after the connection was made nothing is on its way."""
    small = connection._rfile
    connection._rfile = connection._sock.makefile("rb", _BUFFER)
    small.close()


def _column(connection: Any) -> Iterator[bytes | None]:
    read = connection._rfile.read
    while True:
        head = read(4)
        size = int.from_bytes(head[:3], "little")
        packet = read(size)
        if len(head) < 4 or len(packet) < size:
            raise ConnectionResetError("the server closed the connection")
        while size == _LONGEST:
            head = read(4)
            size = int.from_bytes(head[:3], "little")
            more = read(size)
            if len(head) < 4 or len(more) < size:
                raise ConnectionResetError("the server closed the connection")
            packet += more
        first = packet[0]
        if first < _NULL:
            yield packet[1:]
        elif first == 252:
            yield packet[3:]
        elif first == 253:
            yield packet[4:]
        elif first == _NULL:
            yield None
        elif first == 0xFF:
            pymysql.err.raise_mysql_exception(packet)
        elif len(packet) < 9:
            return
        else:
            yield packet[9:]


def _fields(packet: bytes, width: int) -> Fields:
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
