"""Which rows of which tables move: a schema as it is read, and a rule for each of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Assignment",
    "ByHost",
    "ByParent",
    "Column",
    "ForeignKey",
    "Left",
    "Rule",
    "Schema",
    "Scope",
    "Shared",
    "Table",
    "TableScope",
    "Whole",
]


@dataclass(frozen=True)
class Column:
    """A column as information_schema.COLUMNS tells it.

    ``type``: DATA_TYPE (``int``, ``varchar``...); ``full_type``: COLUMN_TYPE (``varchar(255)``).
    ``charset`` is empty for what has none. ``generated``: its value can't be written. ``collation``: empty
    where it isn't known, and taken for one that knows no case, as all of Nova's are.
    """

    name: str
    type: str
    full_type: str
    nullable: bool
    charset: str = ""
    auto_increment: bool = False
    generated: bool = False
    collation: str = ""


@dataclass(frozen=True)
class ForeignKey:
    """``columns`` of this table refer to ``parent_columns`` of ``parent``. ``on_delete``,
    ``on_update``: RESTRICT, CASCADE, SET NULL, NO ACTION."""

    name: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str = "RESTRICT"
    on_update: str = "RESTRICT"


@dataclass(frozen=True)
class Table:
    """``columns`` in the table's own order; ``key``: the primary key's columns, empty without one.

    ``unique``: name and columns of every other unique key. ``rows``: the server's own estimate.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, tuple[str, ...]], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    rows: int = 0

    def column(self, name: str) -> Column:
        """:raises KeyError: no such column."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True)
class Schema:
    """One database's tables by name."""

    database: str
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table:
        """:raises KeyError: no such table."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(table.name == name for table in self.tables)


@dataclass(frozen=True)
class Whole:
    """Every row moves."""


@dataclass(frozen=True)
class ByHost:
    """Rows move whose ``column`` is one of the scope's hosts, and whose ``also`` columns have these
    values (``services``: binary nova-compute)."""

    column: str = "host"
    also: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ByParent:
    """Rows move whose ``column`` is the ``parent_column`` of a row of ``parent`` that moves."""

    column: str
    parent: str
    parent_column: str


@dataclass(frozen=True)
class Shared:
    """Every row is copied and kept equal; none is ever deleted at the source."""


@dataclass(frozen=True)
class Left:
    """No row moves, and ``why``."""

    why: str


Rule = Whole | ByHost | ByParent | Shared | Left


@dataclass(frozen=True)
class Assignment:
    """``column`` of ``table`` gets ``value`` where ``where`` has ``equals``; other rows keep theirs."""

    table: str
    column: str
    value: str
    where: str
    equals: int

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as the copy has it."""
        return {**row, self.column: self.value} if row.get(self.where) == self.equals else dict(row)


@dataclass(frozen=True)
class TableScope:
    """``fixed``: columns that have this SQL literal in the copy, whatever the source says; not compared.
    ``given``: the same for some of the rows, which are not compared in this column."""

    table: Table
    rule: Rule
    fixed: tuple[tuple[str, str], ...] = ()
    given: tuple[Assignment, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What moves. ``tables``: every table of the schema, parents before their children.

    ``hosts``: those whose rows move; empty when no rule asks for hosts.
    """

    database: str
    tables: tuple[TableScope, ...]
    hosts: frozenset[str] = frozenset()

    @property
    def moving(self) -> tuple[TableScope, ...]:
        return tuple(t for t in self.tables if not isinstance(t.rule, Left))
