"""What tables a database has, from information_schema; what makes two of them differ.

Never from SHOW CREATE: `db sync` run on two servers writes the same indexes in another order, and
MySQL 8 and MariaDB spell the same column differently.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pymysql.cursors import Cursor

from recell.errors import Unreachable, Unsupported
from recell.model.scope import Column, ForeignKey, Schema, Table

if TYPE_CHECKING:
    import pymysql

    Connection = pymysql.Connection[Any]

_WIDTH = re.compile(r"\b((?:tiny|small|medium|big)?int(?:eger)?)\(\d+\)")
_COLUMNS = """
SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, CHARACTER_SET_NAME, EXTRA,
       COLLATION_NAME
  FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s ORDER BY TABLE_NAME, ORDINAL_POSITION"""
_INDEXES = """
SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART
  FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND NON_UNIQUE = 0
 ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"""
_FOREIGN = """
SELECT k.TABLE_NAME, k.CONSTRAINT_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA,
       k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE
  FROM information_schema.KEY_COLUMN_USAGE k
  JOIN information_schema.REFERENTIAL_CONSTRAINTS r
    ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME
   AND r.TABLE_NAME = k.TABLE_NAME
 WHERE k.TABLE_SCHEMA = %s AND k.REFERENCED_TABLE_NAME IS NOT NULL
 ORDER BY k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"""


def read_schema(connection: Connection, database: str) -> Schema:
    """The tables of ``database``. Views have no rows of their own and are left out.

    The account needs SELECT on the database: information_schema hides from it what it may not read.

    :raises Unreachable: no such database, or none that this account may see.
    :raises Unsupported: a table that isn't a plain one (system-versioned, a sequence), or a unique
        key over a part of a column, for which no conflict can be found by value.
    """
    named = _rows(connection, "SELECT TABLE_NAME, TABLE_TYPE, TABLE_ROWS FROM information_schema.TABLES"
                              " WHERE TABLE_SCHEMA = %s ORDER BY TABLE_NAME", (database,))
    if not named and not _rows(connection, "SELECT 1 FROM information_schema.SCHEMATA"
                                           " WHERE SCHEMA_NAME = %s", (database,)):
        raise Unreachable(f"there is no database {database}, or the account may not see it",
                          "Correct the URL, or grant SELECT on it")
    columns: dict[str, list[Column]] = defaultdict(list)
    for table, name, kind, full, nullable, charset, extra, collation in _rows(
            connection, _COLUMNS, (database,)):
        extra = extra.upper()
        columns[table].append(Column(
            name, kind.lower(), full, nullable.upper() == "YES", charset or "",
            auto_increment="AUTO_INCREMENT" in extra,
            # MySQL says DEFAULT_GENERATED of a mere default.
            generated=bool({"VIRTUAL", "STORED", "PERSISTENT"} & set(extra.split())),
            collation=collation or "",
        ))
    unique: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for table, index, column, part in _rows(connection, _INDEXES, (database,)):
        if part is not None or column is None:
            raise Unsupported(f"the unique key {index} of {database}.{table} covers a part of a column"
                              " or an expression", "Drop it, or make it cover whole columns")
        unique[table][index].append(column)
    foreign: dict[str, dict[str, list[Sequence[Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(connection, _FOREIGN, (database,)):
        foreign[row[0]][row[1]].append(row)
    tables = []
    for table, kind, estimate in named:
        if kind.upper() in ("VIEW", "SYSTEM VIEW"):
            continue
        if kind.upper() != "BASE TABLE":
            raise Unsupported(f"{database}.{table} is a {kind.lower()} table",
                              "Nova makes none; move it out of this database")
        keys = unique[table]
        tables.append(Table(
            table, tuple(columns[table]), tuple(keys.get("PRIMARY", ())),
            tuple((n, tuple(c)) for n, c in keys.items() if n != "PRIMARY"),
            tuple(_foreign_key(n, rows, database) for n, rows in foreign[table].items()),
            int(estimate or 0),
        ))
    return Schema(database, tuple(tables))


def compare_schemas(source: Schema, target: Schema) -> tuple[str, ...]:
    """What differs, a sentence each; empty when rows of one fit the other.

    Not differences: the order of columns and keys, names of keys, the display width of integers,
    utf8 or utf8mb3, NO ACTION or RESTRICT, and keys that aren't unique.
    """
    return tuple(_differences(source, target))


def _differences(source: Schema, target: Schema) -> Iterator[str]:
    theirs = {t.name: t for t in target.tables}
    for mine in source.tables:
        other = theirs.pop(mine.name, None)
        if other is None:
            yield f"{mine.name} is missing in the target"
        else:
            yield from _table_differences(mine, other)
    for name in theirs:
        yield f"{name} is only in the target"


def _table_differences(mine: Table, other: Table) -> Iterator[str]:
    theirs = {c.name: c for c in other.columns}
    for column in mine.columns:
        twin = theirs.pop(column.name, None)
        if twin is None:
            yield f"{mine.name}.{column.name} is missing in the target"
            continue
        a, b = _column_words(column), _column_words(twin)
        if a != b:
            yield f"{mine.name}.{column.name} is {a} in the source and {b} in the target"
    for name in theirs:
        yield f"{mine.name}.{name} is only in the target"
    if mine.key != other.key:
        yield (f"the primary key of {mine.name} is ({', '.join(mine.key)}) in the source and"
               f" ({', '.join(other.key)}) in the target")
    for what, here, there in (
        ("unique key", {f"({', '.join(c)})" for _, c in mine.unique},
         {f"({', '.join(c)})" for _, c in other.unique}),
        ("foreign key", {_foreign_words(f) for f in mine.foreign_keys},
         {_foreign_words(f) for f in other.foreign_keys}),
    ):
        for words in sorted(here - there):
            yield f"{mine.name} has the {what} {words} only in the source"
        for words in sorted(there - here):
            yield f"{mine.name} has the {what} {words} only in the target"


def _column_words(column: Column) -> str:
    charset = {"utf8": "utf8mb3"}.get(column.charset, column.charset)
    return " ".join(word for word in (
        _WIDTH.sub(r"\1", column.full_type.lower()), charset, "" if column.nullable else "NOT NULL",
        "AUTO_INCREMENT" if column.auto_increment else "", "generated" if column.generated else "",
    ) if word)


def _foreign_words(key: ForeignKey) -> str:
    rules = ["RESTRICT" if r.upper() == "NO ACTION" else r.upper() for r in (key.on_delete, key.on_update)]
    return (f"({', '.join(key.columns)}) to {key.parent} ({', '.join(key.parent_columns)})"
            f" on delete {rules[0]} on update {rules[1]}")


def _foreign_key(name: str, rows: Sequence[Sequence[Any]], database: str) -> ForeignKey:
    first = rows[0]
    # A parent elsewhere keeps its database's name, so that no table of this one is taken for it.
    parent = first[4] if first[3] == database else f"{first[3]}.{first[4]}"
    return ForeignKey(name, tuple(r[2] for r in rows), parent, tuple(r[5] for r in rows),
                      first[6].upper(), first[7].upper())


def _rows(connection: Connection, sql: str, args: tuple[str, ...]) -> list[list[Any]]:
    # A plain cursor whatever the connection's own is; text as str even where it hands out bytes.
    with connection.cursor(Cursor) as cursor:
        cursor.execute(sql, args)
        return [[v.decode() if isinstance(v, bytes) else v for v in row] for row in cursor.fetchall()]
