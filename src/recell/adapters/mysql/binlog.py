"""A replica that reads only keys: the binlog's row events, reduced to a few columns of each row.

Written for MariaDB 10.5 to 11 and MySQL 5.7 and newer (MySQL's compressed transactions and partial JSON
updates are refused). A position is told only between transactions: newer MariaDBs write none inside.
"""

from __future__ import annotations

import re
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pymysql

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.rowimage import Image, RowDecoder, length_encoded
from recell.adapters.mysql.session import Lost, Session, packets, status_statement, translated
from recell.errors import Locked, RecellError, Unknowable, Unsupported

__all__ = ["BinlogFiltered", "BinlogLost", "BinlogReader", "Commit", "Died", "Event", "Idle", "Rows",
           "SchemaChanged", "Statement", "Torn", "Unseen", "Wanted", "file_begun", "leaves_out"]

Operation = Literal["insert", "update", "delete"]

_QUERY, _STOP, _ROTATE, _FORMAT, _XID, _TABLE_MAP, _INCIDENT = 2, 3, 4, 15, 16, 19, 26
_HEARTBEATS = frozenset({27, 41})
_BETWEEN = frozenset({_FORMAT, 35, 161, 163})
"""What a file begins with: its format, lists of GTIDs, MariaDB's checkpoints."""
_INSERTS, _UPDATES = frozenset({23, 30, 166, 169}), frozenset({24, 31, 167, 170})
_DELETES = frozenset({25, 32, 168, 171})
_ROWS = _INSERTS | _UPDATES | _DELETES
_ROWS_V2 = frozenset({30, 31, 32, 169, 170, 171})
_QUERY_COMPRESSED, _MARIADB_GTID, _XA_PREPARE, _LOAD = 165, 162, 38, 18
_REFUSED = {
    20: "row events of MySQL 5.1", 21: "row events of MySQL 5.1", 22: "row events of MySQL 5.1",
    39: "partial JSON updates (binlog_row_value_options)",
    40: "compressed transactions (binlog_transaction_compression)",
}
_MYSQL_GTIDS = frozenset({33, 34, 42})
"""With a number, without one, with a tag: each begins a transaction."""
_PASSED = frozenset({5, 9, 11, 13, 14, 17, 28, 29, 36, 37, 160, 164})
"""What belongs to statements' text, or tells of the log itself: no row is in it."""
_IGNORABLE = 0x80
_CREATED = 72  # where a file's format tells when the server was started that began it
_DUMP, _REGISTER, _NON_BLOCK = 0x12, 0x15, 1
_ERROR_READING, _SAME_ID = 1236, 4052
_TORN = "truncated in the middle of event"
_BOUNDARY = re.compile(
    rb"\s*(BEGIN|START TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|XA START|XA END|XA\b)", re.IGNORECASE)


class BinlogLost(Unknowable):
    """The binlog no longer has what comes next."""

    word = "binlog-lost"


class BinlogFiltered(Unknowable):
    """The binlog leaves our database out, as nobody has said before."""

    word = "binlog-filtered"


class SchemaChanged(Unknowable):
    """A table is no longer what it was when the move began."""

    word = "schema-changed"


@dataclass(frozen=True)
class Wanted:
    """What to tell of a table's rows. ``columns``: positions, decoded in this order; ``unsigned``:
    those that are; ``width``: how many columns the table has."""

    columns: tuple[int, ...]
    unsigned: frozenset[int]
    width: int


@dataclass(frozen=True)
class Rows:
    """``images``: before and after of each row; an insert has no before, a delete no after."""

    table: str
    operation: Operation
    images: Sequence[tuple[Image | None, Image | None]]


@dataclass(frozen=True)
class Commit:
    """A transaction ended. ``gtid``: MariaDB's, of MySQL what tells its file from another one of this name
    (:func:`file_begun`); ``at``: the server's Unix time."""

    position: Position
    gtid: str
    at: int


@dataclass(frozen=True)
class Statement:
    """A statement that is no row change: DDL, or a write that was logged as text."""

    database: str
    text: str
    position: Position


@dataclass(frozen=True)
class Idle:
    """Nothing new for a moment. ``position``: all before it was told; ``gtid``: as of a Commit."""

    position: Position
    gtid: str = ""


@dataclass(frozen=True)
class Torn:
    """The server died while it wrote a transaction, and rolled that back when it came up: what was told of
    it never happened. ``position``: the beginning of the file that comes next."""

    position: Position


@dataclass(frozen=True)
class Died:
    """The server has died here, and doesn't write each commit to disk: it may have kept transactions that its
    binlog has lost with the machine, or lost some that its binlog has kept."""


@dataclass(frozen=True)
class Unseen:
    """The server was started and ended here, and this reader never met it meanwhile: its binlog may have left
    anything out then (binlog_do_db, binlog_ignore_db)."""


Event = Rows | Commit | Statement | Idle | Torn | Died | Unseen


class BinlogReader:
    """Registers as a replica and tells what happens in one database from a position on.

    :param wanted: by table; other tables' rows are not told.
    :param mark: a table; a transaction that writes it before any other is not told, only its commit.
    :param server_id: of this replica; must differ from every server's and other replica's.
    :param begun: by file, what tells it from another one of this name; files that are met are put there.
    """

    def __init__(
        self, endpoint: Endpoint, position: Position, wanted: Mapping[str, Wanted], *, server_id: int,
        mark: str = "", heartbeat_s: float = 0.5, begun: dict[str, str] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._database = endpoint.database.encode()
        self._wanted = wanted
        self._mark = mark
        self._file, self._offset = position.file, position.offset
        self._gtid = ""
        self._files = {} if begun is None else begun
        self._decoders: dict[int, tuple[str, RowDecoder] | None] = {}
        self._signatures: dict[str, tuple[bytes, bytes]] = {}
        self._starts = 0  # of the server, seen in the binlog
        self._closed = False  # the file's end was written: it is no dead server's
        self._open = False  # within a transaction, where no position may be told
        self._written = self._skipping = self._told = False
        self.events = self.bytes = 0
        """What has been read, for statistics."""
        # A server that is alive sends a heartbeat at least that often.
        self._session = Session(endpoint, timeout=max(15.0, heartbeat_s * 10))
        try:
            self._crc = self._register(position, server_id, heartbeat_s)
        except (pymysql.Error, OSError) as error:
            self._session.close()
            raise translated(error, endpoint) from None

    def close(self) -> None:
        """Also from another thread: the reader, which waits for the server, raises Lost at once."""
        self._session.interrupt()
        self._session.close()

    @property
    def position(self) -> Position:
        return Position(self._file, self._offset)

    def read(self) -> Iterator[Event]:
        """Without end. :raises Lost: connect again. :raises BinlogLost, SchemaChanged, Unsupported."""
        try:
            for packet in packets(self._session.connection):
                if packet[0] == 0xFF:
                    yield self._refused(packet)
                    raise Lost("the binlog's file ends within a transaction")
                if packet[0] == 0xFE and len(packet) < 9:
                    raise Lost("the server ended the binlog's stream")
                yield from self._event(packet)
        except RecellError:
            raise
        except (pymysql.Error, OSError, ValueError) as error:
            # ValueError: PyMySQL's file was closed under us by close().
            if isinstance(error, ValueError):
                raise Lost(str(error)) from None
            raise translated(error, self._endpoint) from None
        except (IndexError, struct.error, zlib.error) as error:
            raise Unsupported(
                f"an event in {self._file} after {self._offset} of {self._endpoint.where} can't be read"
                f" ({type(error).__name__}: {error})", "Report this with the server's version",
            ) from None

    # -- protocol --------------------------------------------------------------------------------

    def _register(self, position: Position, server_id: int, heartbeat_s: float) -> int:
        session = self._session
        # Asked of the session that reads: no other start of the server can come between.
        if leaves_out(session, self._endpoint.database):
            raise BinlogFiltered(
                f"the binary log of {self._endpoint.where} leaves this database out since that server was"
                " restarted (binlog_do_db, binlog_ignore_db): changes can't be known",
                "Take these settings out of its configuration, restart it, then go on with the same move: all"
                " rows are compared once more")
        checksum = _announce(session, heartbeat_s)
        connection = session.connection
        name = b"recell"
        connection._execute_command(
            _REGISTER,
            struct.pack("<I", server_id) + bytes([len(name)]) + name + b"\0\0" + struct.pack("<HII", 0, 0, 0),
        )
        connection._read_packet()
        connection._execute_command(
            _DUMP, struct.pack("<IHI", position.offset, 0, server_id) + position.file.encode())
        return 0 if checksum == "NONE" else 4

    def _refused(self, packet: bytes) -> Torn:
        try:
            pymysql.err.raise_mysql_exception(packet)
        except pymysql.Error as error:
            code, text = error.args[0], str(error.args[1])
            if code == _SAME_ID or (code == _ERROR_READING and "same server_uuid/server_id" in text):
                raise Locked(f"another run of recell reads the binlog of {self._endpoint.where}",
                             "Let that one go on, or stop it and start again") from None
            after = self._after_torn() if code == _ERROR_READING and _TORN in text else None
            if after is not None:
                return Torn(after)
            if code == _ERROR_READING:
                raise BinlogLost(
                    f"{self._endpoint.where} can't tell what follows {self._file}:{self._offset}"
                    f" ({text.rstrip('.')})",
                    "Start the move anew. Let the server keep its binlog for longer, and write each commit to"
                    " it (sync_binlog=1, innodb_flush_log_at_trx_commit=1), or a crash may part the two",
                ) from None
            raise
        raise Lost("the server answered with an error that is none")

    def _after_torn(self) -> Position | None:
        """Where a server that died while it wrote goes on. None: it doesn't, or has no proof that every
        transaction that it kept is in the binlog."""
        session = Session(self._endpoint)
        try:
            torn = Position(self._file, 0)
            later = sorted(p for p in (Position(f, 4) for f in session.binlogs())
                           if p.sequence > torn.sequence)
        finally:
            session.close()
        return later[0] if later and self._durable() else None

    def _durable(self) -> bool:
        """Whether each commit is written to disk, in the binlog too."""
        session = Session(self._endpoint)
        try:
            return all(session.variable(v) == "1" for v in ("sync_binlog", "innodb_flush_log_at_trx_commit"))
        finally:
            session.close()

    def _event(self, packet: bytes) -> Iterator[Event]:
        at, kind, _, size, following, flags = struct.unpack_from("<IBIIIH", packet, 1)
        self.events += 1
        self.bytes += size
        end = len(packet) - self._crc
        if kind == _TABLE_MAP:
            self._map(packet)
        elif kind in _ROWS:
            rows = self._rows(packet, kind, end)
            if rows is not None:
                self._told = True
                yield rows
        elif kind == _XID:
            yield self._committed(following, at)
        elif kind == _XA_PREPARE:
            if self._told and not packet[20]:
                # What commits it later doesn't tell which rows were in it.
                raise Unsupported(
                    f"a transaction in two phases (XA) changed rows of {self._endpoint.where}, seen after"
                    f" {self.position}", "Stop what uses XA there, and start the move anew")
            yield self._committed(following, at)
        elif kind == _MARIADB_GTID:
            number, domain = struct.unpack_from("<QI", packet, 20)
            server = struct.unpack_from("<I", packet, 6)[0]
            self._gtid = f"{domain}-{server}-{number}"
            self._begun()
        elif kind in _MYSQL_GTIDS:
            self._begun()
        elif kind in (_QUERY, _QUERY_COMPRESSED, _LOAD):
            yield from self._statement(packet, kind, end, following, at)
        elif kind == _ROTATE:
            file = packet[28:end].decode()
            artificial = bool(flags & 0x20)
            if artificial and file != self._file and not self._closed and not self._durable():
                yield Died()
            self._offset = struct.unpack_from("<Q", packet, 20)[0]
            self._file, self._closed = file, not artificial
            if not artificial:  # an artificial one repeats where we are; table ids stay
                self._decoders.clear()
        elif kind == _STOP:
            self._closed = True
        elif kind in _HEARTBEATS or kind in _BETWEEN:
            if kind == _FORMAT:
                self._crc = 4 if packet[-5] == 1 else 0
                # Of a file that another one was not ended for: the server's first since it was started.
                if struct.unpack_from("<I", packet, _CREATED)[0]:
                    self._starts += 1
                    if self._starts > 1:
                        yield Unseen()
                self._files[self._file] = _begun(self._file, at)
                if not self._session.mariadb:
                    self._gtid = self._files[self._file]
            if not self._open:
                # The head of a new file, or what other replicas' events took: nothing of it matters.
                self._offset = max(self._offset, following)
                yield Idle(self.position, "" if self._session.mariadb else self._gtid)
        elif kind == _INCIDENT:
            raise BinlogLost(f"{self._endpoint.where} has lost events of its own binlog (an incident after"
                             f" {self.position})", "Start the move anew")
        elif kind in _REFUSED:
            raise Unsupported(f"{self._endpoint.where} writes {_REFUSED[kind]} to its binlog",
                              "Switch that off at the server and start the move anew")
        elif kind not in _PASSED and not flags & _IGNORABLE:
            # It may have rows.
            raise Unsupported(f"{self._endpoint.where} writes events of kind {kind} to its binlog, which"
                              f" recell does not know (seen after {self.position})",
                              "Report this with the server's version")

    def _begun(self) -> None:
        self._open, self._written, self._skipping, self._told = True, False, False, False

    def _committed(self, following: int, at: int) -> Commit:
        if following:
            self._offset = following
        self._open = self._written = self._skipping = self._told = False
        return Commit(self.position, self._gtid, at)

    def _statement(self, packet: bytes, kind: int, end: int, following: int, at: int) -> Iterator[Event]:
        length = packet[28]
        status = struct.unpack_from("<H", packet, 31)[0]
        # LOAD DATA that is logged as text tells four things more of its file.
        start = 33 + status + (13 if kind == _LOAD else 0)
        database, text = packet[start:start + length], packet[start + length + 1:end]
        if kind == _QUERY_COMPRESSED:
            text = _inflated(text, 0, len(text))
        boundary = _BOUNDARY.match(text)
        word = boundary.group(1).upper() if boundary else b""
        if word in (b"BEGIN", b"START TRANSACTION"):
            self._begun()
        elif word in (b"SAVEPOINT", b"XA START", b"XA END") or (
                word == b"ROLLBACK" and b" TO " in text.upper()):
            return
        elif word:
            yield self._committed(following, at)
        else:
            before = self.position
            yield Statement(database.decode(errors="replace"), text.decode(errors="replace"), before)
            yield self._committed(following, at)

    def _map(self, packet: bytes) -> None:
        number = int.from_bytes(packet[20:26], "little")
        at = 28
        length = packet[at]
        database = packet[at + 1:at + 1 + length]
        at += length + 2
        length = packet[at]
        table = packet[at + 1:at + 1 + length].decode()
        at += length + 2
        if database == self._database and table == self._mark and not self._written:
            self._skipping = True
        self._written = True
        wanted = self._wanted.get(table) if database == self._database and not self._skipping else None
        if wanted is None:
            self._decoders[number] = None
            return
        width, at = length_encoded(packet, at)
        types = packet[at:at + width]
        size, at = length_encoded(packet, at + width)
        signature = (types, packet[at:at + size])
        known = self._signatures.setdefault(table, signature)
        if known != signature or width != wanted.width:
            raise SchemaChanged(
                f"the table {table} of {self._endpoint.where} was altered while its rows moved (seen after"
                f" {self.position})", "Bring both schemas to the same version and start the move anew",
            )
        decoder = self._decoders.get(number)
        if decoder is None or decoder[0] != table:
            self._decoders[number] = (table, RowDecoder(types, signature[1], wanted.columns, wanted.unsigned))

    def _rows(self, packet: bytes, kind: int, end: int) -> Rows | None:
        found = self._decoders.get(int.from_bytes(packet[20:26], "little"))
        if found is None or self._skipping:
            return None
        table, decoder = found
        at = 28
        if kind in _ROWS_V2:
            at += struct.unpack_from("<H", packet, at)[0]
        width, at = length_encoded(packet, at)
        bitmap = (width + 7) // 8
        present = packet[at:at + bitmap]
        at += bitmap
        update = kind in _UPDATES
        if update:
            present += packet[at:at + bitmap]
            at += bitmap
        full = (1 << width) - 1
        if any(int.from_bytes(present[i:i + bitmap], "little") & full != full
               for i in range(0, len(present), bitmap)):
            raise Unsupported(f"{self._endpoint.where} does not write whole rows to its binlog",
                              "Set binlog_row_image=FULL there, restart its clients, start the move anew")
        if kind > 160:
            packet = _inflated(packet, at, end)
            at, end = 0, len(packet)
        images: list[tuple[Image | None, Image | None]] = []
        decode = decoder.decode
        if update:
            while at < end:
                before, at = decode(packet, at)
                after, at = decode(packet, at)
                images.append((before, after))
            return Rows(table, "update", images)
        inserted = kind in _INSERTS
        while at < end:
            image, at = decode(packet, at)
            images.append((None, image) if inserted else (image, None))
        return Rows(table, "insert" if inserted else "delete", images)


def leaves_out(session: Session, database: str) -> bool:
    """Whether the server's binlog leaves this database out."""
    rows = session.query(status_statement(session.version))
    if not rows:
        return False
    do, ignore = (str(rows[0][i] or "").split(",") for i in (2, 3))
    return database in ignore or (do != [""] and database not in do)


def file_begun(endpoint: Endpoint, file: str) -> str:
    """What tells a binlog's file from another one of this name: when it was begun.

    :raises BinlogLost: there is no such file any more. :raises Lost, Busy: as a session does.
    """
    session = Session(endpoint, timeout=15.0)
    try:
        _announce(session, 1.0)
        number = 0x40000000 + secrets.randbelow(0x3FFFFFFF)
        connection = session.connection
        connection._execute_command(_DUMP, struct.pack("<IHI", 4, _NON_BLOCK, number) + file.encode())
        for packet in packets(connection):
            if packet[0] == 0xFF:
                raise BinlogLost(f"{endpoint.where} has no {file} any more",
                                 "Start the move anew, and let the server keep its binlog for longer")
            at, kind = struct.unpack_from("<IB", packet, 1)
            if kind == _FORMAT:
                return _begun(file, at)
        raise Lost("the server ended the binlog's stream")
    except (pymysql.Error, OSError) as error:
        raise translated(error, endpoint) from None
    finally:
        session.interrupt()
        session.close()


def _begun(file: str, at: int) -> str:
    return f"{file} of {at}"


def _announce(session: Session, heartbeat_s: float) -> str:
    """A replica's words to the server before it asks for the binlog. The checksum's name."""
    checksum = str(session.query("SELECT @@GLOBAL.binlog_checksum")[0][0])
    # 'NONE' is not honoured for what is in files already: the checksum is announced, and cut off.
    session.execute(
        "SET @master_binlog_checksum = %s, @source_binlog_checksum = %s, @mariadb_slave_capability = 4,"
        " @master_heartbeat_period = %s, @source_heartbeat_period = %s",
        (checksum, checksum, int(heartbeat_s * 1e9), int(heartbeat_s * 1e9)),
    )
    return checksum


def _inflated(data: bytes, at: int, end: int) -> bytes:
    """MariaDB's log_bin_compress: a byte that tells how long the length is, the length, zlib."""
    return zlib.decompress(data[at + 1 + (data[at] & 7):end])
