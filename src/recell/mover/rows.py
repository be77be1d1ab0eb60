"""How one table's rows are asked for: as SQL literals, as hashes, by key.

The server itself writes a row as ``(1, 'a', NULL)``. The text is exact (FLOAT through DOUBLE, bytes
as they are), goes into the other server's INSERT unread, and its SHA-256 proves two rows equal: NULL and
'NULL', '' and NULL, differ in it. (MySQL 9 has no MD5 of its own any more.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recell.adapters.mysql.sql import Key, KeyPart, columns, name
from recell.errors import Unsupported
from recell.model.scope import Assignment, Column, Table

__all__ = ["INTEGERS", "LOADED", "LOADED_CHARSETS", "ColumnCodec", "TableRows", "spelling"]

INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_NUMBERS = INTEGERS | {"decimal", "double", "year"}
_TEXT = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json"})
_BINARY = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_QUOTED = frozenset({"date", "datetime", "timestamp", "time", "uuid", "inet4", "inet6"})
_UTF8 = frozenset({"utf8", "utf8mb3", "utf8mb4"})
_DATES = frozenset({"date", "datetime", "timestamp", "time"})
LOADED = _NUMBERS | _TEXT | _BINARY | _DATES | {"float"}
"""Types whose values LOAD DATA takes for what they are. A BIT would be its digits' bytes."""
LOADED_CHARSETS = _UTF8 | {"ascii", "binary"}
"""Character sets of columns into which LOAD DATA puts UTF-8 as it is."""
_CODECS = {"utf8": "utf-8", "utf8mb3": "utf-8", "utf8mb4": "utf-8", "latin1": "cp1252", "ascii": "ascii"}


class ColumnCodec:
    """Values of a column that rows are found by: out of the binlog, and out of a result.

    :raises Unsupported: the column is neither an integer nor text nor bytes.
    """

    def __init__(self, table: str, column: Column) -> None:
        self.integer = column.type in INTEGERS
        self.unsigned = self.integer and "unsigned" in column.full_type
        self.spelling = spelling(column)
        self._encoding = ""
        if column.type in ("char", "varchar"):
            encoding = _CODECS.get(column.charset)
            if encoding is None:
                raise Unsupported(f"{table}.{column.name} finds rows and has the character set"
                                  f" {column.charset}", "Convert the column to utf8mb4")
            self._encoding = encoding
        elif not self.integer and column.type not in ("binary", "varbinary"):
            raise Unsupported(f"{table}.{column.name} finds rows and is of type {column.full_type}",
                              "Leave this table out, or move it by other means")

    def from_binlog(self, value: int | bytes | None) -> KeyPart | None:
        if isinstance(value, bytes) and self._encoding:
            return value.decode(self._encoding)
        return value

    def from_result(self, value: bytes | None) -> KeyPart | None:
        if value is None:
            return None
        if self.integer:
            return int(value)
        return value.decode() if self._encoding else value


def spelling(column: Column) -> Callable[[KeyPart], KeyPart]:
    """What makes one of two values that the server takes for the same: small letters, and no blanks at the
    end. (Accents are left: no host's name and no uuid has one.)"""
    if column.type not in ("char", "varchar") or column.collation.endswith(("_bin", "_cs")):
        return _as_is
    return _small if "nopad" in column.collation or "_0900_" in column.collation else _small_and_cut


def _as_is(value: KeyPart) -> KeyPart:
    return value


def _small(value: KeyPart) -> KeyPart:
    return value.lower() if isinstance(value, str) else value


def _small_and_cut(value: KeyPart) -> KeyPart:
    return value.rstrip(" ").lower() if isinstance(value, str) else value


class TableRows:
    """:raises Unsupported: the table has no primary key, or a type that recell can't move exactly."""

    def __init__(
        self, table: Table, fixed: Sequence[tuple[str, str]] = (), given: Sequence[Assignment] = ()
    ) -> None:
        """``fixed``: columns and SQL literals that stand for whatever they have. ``given``: of some rows."""
        if not table.key:
            raise Unsupported(f"the table {table.name} has no primary key",
                              "Give it one, or leave the table out")
        self.table = table
        self.name = table.name
        self.key = table.key
        moved = [c for c in table.columns if not c.generated]
        said = {column: f"'{literal}'" for column, literal in fixed}
        told = {a.column: a for a in given}
        literals = [
            said.get(c.name) or _assigned(told.get(c.name), _literal(table.name, c)) for c in moved
        ]
        self.row = "CONCAT('(', " + ", ',', ".join(literals) + ", ')')"
        """The row as SQL literals."""
        self.hash = f"CAST(CONV(LEFT(SHA2({self.row}, 256), 15), 16, 10) AS UNSIGNED)"
        """60 bits of the row: with 64, MySQL 5.7 may take a number for a signed one, and cut any two of them
        to the same."""
        self.summary = f"COUNT(*), BIT_XOR({self.hash})"
        """Of many rows: their number, and all hashes in one; 0 of none."""
        into = f"INTO {name(table.name)} ({columns([c.name for c in moved])}) VALUES "
        self.insert = _bytes(f"INSERT {into}")
        # Not INSERT IGNORE, which turns values that don't fit into others, with a warning.
        first = name(table.key[0])
        self.insert_end = _bytes(f" ON DUPLICATE KEY UPDATE {first} = {name(table.name)}.{first}")
        self.replace = _bytes(f"REPLACE {into}")
        self.line = ""
        """The row as a line for LOAD DATA. Empty: it has a type that must go another way."""
        if all(c.type in LOADED for c in moved):
            fields = [
                said.get(c.name) or _assigned(told.get(c.name), _field(table.name, c)) for c in moved
            ]
            self.line = "CONCAT(" + ", ',', ".join(fields) + r", '\n')"
        # Bytes in, bytes out: what is UTF-8 needs no look at each character.
        self.load = _bytes(
            f"LOAD DATA LOCAL INFILE 'recell' INTO TABLE {name(table.name)} CHARACTER SET binary FIELDS"
            " TERMINATED BY ',' OPTIONALLY ENCLOSED BY X'27' ESCAPED BY X'5C' LINES TERMINATED BY X'0A'"
            f" ({columns([c.name for c in moved])})")
        self.keys = columns(table.key)
        self.codecs = tuple(ColumnCodec(table.name, table.column(k)) for k in table.key)

    @property
    def quoted(self) -> str:
        return name(self.name)

    def key_of(self, fields: Sequence[bytes | None]) -> Key:
        """The key in the first columns of a raw result."""
        return tuple([c.from_result(f) for c, f in zip(self.codecs, fields, strict=False)])  # type: ignore[misc]


def _assigned(assignment: Assignment | None, literal: str) -> str:
    if assignment is None:
        return literal
    # In hexadecimal a value needs no escaping, neither in SQL nor where a cursor fills in %s.
    value = f"QUOTE(X'{assignment.value.encode().hex()}')"
    return f"IF({name(assignment.where)} = {assignment.equals:d}, {value}, {literal})"


def _bytes(text: str) -> bytes:
    return (text % ()).encode()


def _field(table: str, column: Column) -> str:
    """As :func:`_literal`, for LOAD DATA: what needs no quotes has none, and bytes no introducer."""
    c = name(column.name)
    if column.type in _DATES:
        return f"IFNULL({c}, 'NULL')"
    if column.type in _BINARY:
        return _bytes_quoted(c)
    return _literal(table, column)


def _bytes_quoted(c: str) -> str:
    # Newer MySQLs quote text only, and refuse bytes that are none. As latin1 any byte is a character, and
    # comes back as the same byte.
    return f"CAST(CONVERT(QUOTE(CONVERT({c} USING latin1)) USING latin1) AS BINARY)"


def _literal(table: str, column: Column) -> str:
    c = name(column.name)
    if column.type in _NUMBERS:
        return f"IFNULL({c}, 'NULL')"
    if column.type == "float":
        # As text a FLOAT has six digits; as DOUBLE all that it takes to get the same FLOAT back.
        # (CAST knows DOUBLE from MySQL 8.0.17 on only; the sign of -0 survives a multiplication.)
        return f"IFNULL({c} * 1e0, 'NULL')"
    if column.type in _TEXT:
        if column.charset not in _UTF8 or column.type in ("enum", "set", "json"):
            c = f"CONVERT({c} USING utf8mb4)"
        return f"QUOTE(CAST({c} AS BINARY))"
    if column.type in _BINARY:
        return f"IF({c} IS NULL, 'NULL', CONCAT('_binary', {_bytes_quoted(c)}))"
    if column.type in _QUOTED:
        return f"QUOTE({c})"
    if column.type == "bit":
        return f"IFNULL({c} + 0, 'NULL')"
    raise Unsupported(f"{table}.{column.name} is of type {column.full_type}",
                      "Leave this table out, or move it by other means")
