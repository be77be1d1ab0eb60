"""MySQL's protocol, as far as a relay must understand it: who logs in, and when an answer has ended."""

import struct
from typing import NamedTuple, Optional, Tuple

# Capabilities
CONNECT_WITH_DB = 1 << 3
COMPRESS = 1 << 5
LOCAL_FILES = 1 << 7
PROTOCOL_41 = 1 << 9
SSL = 1 << 11
SECURE_CONNECTION = 1 << 15
MULTI_STATEMENTS = 1 << 16
PLUGIN_AUTH = 1 << 19
CONNECT_ATTRS = 1 << 20
LENENC_AUTH = 1 << 21
SESSION_TRACK = 1 << 23
DEPRECATE_EOF = 1 << 24
OPTIONAL_METADATA = 1 << 25
ZSTD = 1 << 26
QUERY_ATTRIBUTES = 1 << 27
PROGRESS_OLD = 1 << 29
MYSQL = 1  # not set: MariaDB's own capabilities follow
# What a relay can't carry, or does not follow: never offered, so no client asks for it.
WITHHELD = COMPRESS | LOCAL_FILES | SSL | OPTIONAL_METADATA | ZSTD | QUERY_ATTRIBUTES | PROGRESS_OLD
# MariaDB's own: progress reports, COM_MULTI, metadata that is left out the second time.
WITHHELD_MARIADB = 1 << 0 | 1 << 1 | 1 << 4
# Shape what the server sends: another server must speak alike.
SHAPING = SESSION_TRACK | DEPRECATE_EOF

# Status
IN_TRANS = 1
AUTOCOMMIT = 2
MORE_RESULTS = 8
CURSOR_EXISTS = 64

LARGEST = 0xFFFFFF  # of a packet's payload; one of this size goes on in the next

QUIT, INIT_DB, QUERY, FIELD_LIST = 0x01, 0x02, 0x03, 0x04
PING, SET_OPTION = 0x0E, 0x1B
PREPARE, EXECUTE, LONG_DATA, CLOSE, RESET, FETCH = 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1C
RESET_CONNECTION, BULK_EXECUTE = 0x1F, 0xFA

NONE, SIMPLE, RESULT, ROWS, PREPARED = "none", "simple", "result", "rows", "prepared"
# How the answer to each command that is carried looks like. Others are refused: COM_CHANGE_USER,
# which logs in anew, what replicas ask, and what nobody uses.
ANSWERS = {
    QUIT: NONE, INIT_DB: SIMPLE, QUERY: RESULT, FIELD_LIST: ROWS, 0x07: SIMPLE, 0x09: SIMPLE, 0x0A: RESULT,
    0x0C: SIMPLE, 0x0D: SIMPLE, PING: SIMPLE, PREPARE: PREPARED, EXECUTE: RESULT, LONG_DATA: NONE,
    CLOSE: NONE, RESET: SIMPLE, SET_OPTION: SIMPLE, FETCH: ROWS, RESET_CONNECTION: SIMPLE,
    BULK_EXECUTE: RESULT,
}


class Broken(Exception):
    """What arrived is not MySQL's protocol, or a part of it that the relay does not carry."""


def packet(sequence: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes((sequence & 255,)) + payload


def command(code: int, argument: bytes = b"") -> bytes:
    return packet(0, bytes((code,)) + argument)


def error(sequence: int, number: int, text: str, state: str = "HY000") -> bytes:
    """An error for a client. ``state`` "": before the client has told its capabilities."""
    marked = "#" + state if state else ""
    return packet(sequence, b"\xff" + struct.pack("<H", number) + (marked + text).encode())


def error_text(payload: bytes) -> str:
    """``1045: Access denied``, of an error's packet."""
    number = struct.unpack("<H", payload[1:3])[0] if len(payload) > 2 else 0
    text = payload[9:] if payload[3:4] == b"#" else payload[3:]
    return "{}: {}".format(number, text.decode("utf-8", "replace").rstrip("."))


def integer(data: bytes, at: int) -> Tuple[int, int]:
    """A length-encoded integer, and where it ends."""
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    return int.from_bytes(data[at + 1:at + 1 + size], "little"), at + 1 + size


def encoded(data: bytes) -> bytes:
    """With its length before it."""
    size = len(data)
    if size < 0xFB:
        return bytes((size,)) + data
    return (b"\xfc" + struct.pack("<H", size) if size < 65536 else b"\xfe" + struct.pack("<Q", size)) + data


def _text(data: bytes, at: int) -> Tuple[bytes, int]:
    end = data.find(b"\0", at)
    end = len(data) if end < 0 else end
    return data[at:end], end + 1


class Packets:
    """Whole packets out of a stream, of what is small: logins and answers to the relay itself."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> Optional[Tuple[int, bytes]]:
        """The next one's sequence number and payload, None until it is complete."""
        if len(self._data) < 4:
            return None
        size = int.from_bytes(self._data[:3], "little")
        if size == LARGEST:
            raise Broken("a packet of 16 MiB while logging in")
        if len(self._data) < 4 + size:
            return None
        sequence, payload = self._data[3], self._data[4:4 + size]
        self._data = self._data[4 + size:]
        return sequence, payload

    def rest(self) -> bytes:
        rest, self._data = self._data, b""
        return rest


class Greeting(NamedTuple):
    """A server's first packet. ``extra``: MariaDB's own capabilities."""

    version: bytes
    capabilities: int
    extra: int
    scramble: bytes
    plugin: bytes

    @classmethod
    def parse(cls, payload: bytes) -> "Greeting":
        """:raises Broken: an error instead, or another protocol."""
        if payload[:1] == b"\xff":
            raise Broken(error_text(payload))
        if payload[:1] != b"\x0a":
            raise Broken("no greeting of a MySQL server")
        version, at = _text(payload, 1)
        scramble = payload[at + 4:at + 12]
        at += 13
        low, high = struct.unpack("<H", payload[at:at + 2])[0], struct.unpack("<H", payload[at + 5:at + 7])[0]
        size, extra = payload[at + 7], struct.unpack("<I", payload[at + 14:at + 18])[0]
        capabilities = low | high << 16
        rest = max(13, size - 8)
        scramble += payload[at + 18:at + 18 + rest].rstrip(b"\0")
        plugin = _text(payload, at + 18 + rest)[0]
        return cls(version, capabilities, 0 if capabilities & MYSQL else extra, scramble, plugin)

    @staticmethod
    def masked(payload: bytes) -> bytes:
        """The same greeting without the capabilities that the relay withholds."""
        at = payload.index(b"\0", 1) + 14
        low, high = struct.unpack("<H", payload[at:at + 2])[0], struct.unpack("<H", payload[at + 5:at + 7])[0]
        extra = struct.unpack("<I", payload[at + 14:at + 18])[0]
        if not low & MYSQL:
            extra &= ~WITHHELD_MARIADB
        kept = (low | high << 16) & ~WITHHELD
        return b"".join((
            payload[:at], struct.pack("<H", kept & 0xFFFF), payload[at + 2:at + 5],
            struct.pack("<H", kept >> 16), payload[at + 7:at + 14], struct.pack("<I", extra),
            payload[at + 18:],
        ))


class Hello(NamedTuple):
    """A client's answer to the greeting: what it can, and who it is."""

    capabilities: int
    largest: int
    charset: int
    filler: bytes  # its last four bytes: MariaDB's own capabilities
    user: bytes
    database: bytes
    attributes: bytes

    @classmethod
    def parse(cls, payload: bytes) -> "Hello":
        """:raises Broken: it asks for what the relay can't carry, in words for the client."""
        if len(payload) < 32:
            raise Broken("the login is too short")
        capabilities, largest, charset = struct.unpack("<IIB", payload[:9])
        if capabilities & SSL:
            raise Broken("a relay carries no TLS: connect to the database itself, or without TLS")
        if capabilities & (COMPRESS | ZSTD):
            raise Broken("a relay carries no compressed protocol: connect without compression")
        if not capabilities & PROTOCOL_41:
            raise Broken("the client's protocol is older than MySQL 4.1")
        user, at = _text(payload, 32)
        if capabilities & LENENC_AUTH:
            size, at = integer(payload, at)
            at += size
        elif capabilities & SECURE_CONNECTION:
            at += 1 + payload[at]
        else:
            at = _text(payload, at)[1]
        database = b""
        if capabilities & CONNECT_WITH_DB:
            database, at = _text(payload, at)
        if capabilities & PLUGIN_AUTH:
            at = _text(payload, at)[1]
        attributes = b""
        if capabilities & CONNECT_ATTRS and at < len(payload):
            size, at = integer(payload, at)
            attributes = payload[at:at + size]
        return cls(capabilities, largest, charset, payload[28:32], user, database, attributes)

    @property
    def extra(self) -> int:
        """MariaDB's own capabilities."""
        found = struct.unpack("<I", self.filler)[0]
        return 0 if self.capabilities & MYSQL else int(found)

    def repeated(self, answer: bytes, plugin: bytes) -> bytes:
        """The payload with which a relay logs in as this client, without a default database."""
        capabilities = (self.capabilities & ~CONNECT_WITH_DB) | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH
        sized = encoded(answer) if capabilities & LENENC_AUTH else bytes((len(answer),)) + answer
        attributes = encoded(self.attributes) if capabilities & CONNECT_ATTRS else b""
        head = struct.pack("<IIB", capabilities, self.largest, self.charset) + b"\0" * 19 + self.filler
        return b"".join((head, self.user, b"\0", sized, plugin, b"\0", attributes))


def ok_status(payload: bytes) -> Tuple[int, int]:
    """(status flags, last insert id) of an OK."""
    _, at = integer(payload, 1)
    number, at = integer(payload, at)
    return int(struct.unpack("<H", payload[at:at + 2])[0]), number


class Answer:
    """Follows a server's answers through the stream, without keeping them.

    ``status``: the flags that the server told last. ``failed``: the last answer was an error;
    ``doubtful``: then nothing is known of the transaction. ``insert_id``: the last that was not 0.
    ``opened``: prepared statements since the connection began.
    """

    def __init__(self, deprecate_eof: bool) -> None:
        self._short = deprecate_eof
        self.status = AUTOCOMMIT
        self.insert_id = 0
        self.opened = 0
        self.failed = self.doubtful = False
        self._kind = self._state = NONE
        self._left = self._skip = 0
        self._continued = False
        self._head = b""

    def expect(self, kind: str) -> None:
        self._kind, self.failed = kind, False
        self._state = ROWS if kind == ROWS else "first"

    def feed(self, data: bytes) -> bool:
        """Take note of a part of the stream. True: the answer has ended with it.

        :raises Broken: it ended before the part did.
        """
        at, end = 0, len(data)
        if self._head:
            data, self._head = self._head + data, b""
            end = len(data)
        while True:
            if self._skip:
                step = min(self._skip, end - at)
                at += step
                self._skip -= step
                if self._skip:
                    return False
            if self._state == "last":
                if at < end:
                    raise Broken("the server says more than it was asked")
                self._state = NONE
                return True
            if end - at < 4:
                break
            size = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            seen = size if size < 32 else 32
            if end - at < 4 + seen:
                break
            at += 4
            continued, self._continued = self._continued, size == LARGEST
            self._skip = size
            if continued or (self._state == ROWS and size and data[at] < 0xFE):
                continue
            if self._packet(data, at, size):
                self._state = "last"
        self._head = data[at:]
        return False

    def _packet(self, data: bytes, at: int, size: int) -> bool:
        """One packet begins at ``at``. True when it is the answer's last."""
        first, state = data[at] if size else 0, self._state
        if first == 0xFF and state != "columns":
            if data[at + 1:at + 3] == b"\xff\xff":
                return False  # a report of progress
            self.failed = True
            self.doubtful = self.status & (AUTOCOMMIT | IN_TRANS) != AUTOCOMMIT
            return True
        if state == ROWS:
            if first == 0xFE and (size < LARGEST if self._short else size < 9):
                return self._ended(data, at, size)
            return False
        if state == "columns":
            self._left -= 1
            if not self._left:
                self._state = ROWS if self._short else "columns-end"
            return False
        if state == "columns-end":
            status = struct.unpack("<H", data[at + 3:at + 5])[0]
            if status & CURSOR_EXISTS:
                return self._told(status)
            self._state = ROWS
            return False
        if state == "left":
            self._left -= 1
            return not self._left
        return self._first(data, at, size, first)

    def _first(self, data: bytes, at: int, size: int, first: int) -> bool:
        if self._kind == PREPARED:
            columns, parameters = struct.unpack("<HH", data[at + 5:at + 9])
            ends = 0 if self._short else (columns > 0) + (parameters > 0)
            self._left, self._state = columns + parameters + ends, "left"
            self.opened += 1
            return not self._left
        if self._kind == SIMPLE:
            if first == 0 and size >= 7:
                return self._okay(data[at:at + 32])
            return self._told(struct.unpack("<H", data[at + 3:at + 5])[0]) if first == 0xFE else True
        if first == 0:
            return self._okay(data[at:at + 32])
        if first == 0xFB:
            raise Broken("the server asks for a local file")
        self._left, _ = integer(data, at)
        self._state = "columns"
        return False

    def _ended(self, data: bytes, at: int, size: int) -> bool:
        """A result's end: an EOF, or an OK in its place."""
        if size < 7:
            return self._told(struct.unpack("<H", data[at + 3:at + 5])[0])
        return self._okay(data[at:at + 32])

    def _okay(self, head: bytes) -> bool:
        status, number = ok_status(head)
        self.insert_id = number or self.insert_id
        return self._told(status)

    def _told(self, status: int) -> bool:
        self.status, self.doubtful = status, False
        if status & MORE_RESULTS:
            self._state = "first"
            return False
        return True
