"""Rows of a populated target that the scope's rows would collide with, found before anything is written.

A collision is a row of the target that isn't exactly the source's own: under a primary key or a
unique key of a row that moves, under its uuid, or already belonging to an instance that moves. Where
a table moves whole, any other row of the target is one. recell never renumbers: the operator is shown
both rows and decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import Key, KeyPart, among, columns, name
from recell.model.scope import ByHost, ByParent, Column, Left, Rule, Scope, TableScope, Whole
from recell.mover.rows import INTEGERS, TableRows

__all__ = ["Conflict", "Conflicts", "find_conflicts"]

_AT_ONCE = 500
_BINARY = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_Value = KeyPart | None
_Row = Sequence[bytes | None]


@dataclass(frozen=True)
class Conflict:
    """``target``: the key of the row in the way. ``source``: that of the row that moves, None for a row
    of the target that a whole table's move would find there and the source doesn't have. ``by``: the
    columns of each key that both share."""

    table: str
    target: Key
    source: Key | None
    by: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        theirs = ", ".join(map(str, self.target))
        if self.source is None:
            return f"{self.table} of the target has the row {theirs}, which the source doesn't have"
        mine = ", ".join(map(str, self.source))
        shared = " and ".join(f"({', '.join(c)})" for c in self.by)
        return f"{self.table}: row {mine} of the source and row {theirs} of the target share {shared}"


@dataclass(frozen=True)
class Conflicts:
    """``counts``: rows of the target in the way, by table; ``named``: the first ones of each."""

    counts: tuple[tuple[str, int], ...]
    named: tuple[Conflict, ...]

    @property
    def total(self) -> int:
        return sum(number for _, number in self.counts)


def find_conflicts(source: Endpoint, target: Endpoint, scope: Scope, named: int = 20) -> Conflicts:
    """Look at every table that moves. Reads only; a target's empty table costs one query.

    :param named: conflicts told of each table.
    :raises Denied, Unreachable, Lost: one of the databases can't be read.
    """
    counts: list[tuple[str, int]] = []
    found: list[Conflict] = []
    with ExitStack() as sessions:
        stream, here, there = (
            sessions.enter_context(closing(Session(e))) for e in (source, source, target))
        for entry in scope.moving:
            if not there.query(f"SELECT 1 FROM {name(entry.table.name)} LIMIT 1"):
                continue
            search = _Search(scope, entry, here, there)
            mine = search.strangers() if isinstance(entry.rule, Whole) else search.collisions(stream)
            if mine:
                counts.append((entry.table.name, len(mine)))
                found += mine[:named]
        for session in (stream, here, there):
            session.rollback()
    return Conflicts(tuple(counts), tuple(found))


class _Search:
    def __init__(self, scope: Scope, entry: TableScope, here: Session, there: Session) -> None:
        self.table = entry.table
        self.rows = TableRows(entry.table, entry.fixed, entry.given)
        self.here, self.there = here, there
        self.condition, self.values = _within(scope, entry)
        self.keys = _keys(entry)

    def collisions(self, stream: Session) -> list[Conflict]:
        told = tuple(dict.fromkeys(c for key in self.keys for c in key))
        typed = [self.table.column(c) for c in told]
        places = [[told.index(c) for c in key] for key in self.keys]
        shared: dict[Key, list[tuple[str, ...]]] = {}
        hashes: dict[Key, bytes | None] = {}
        sql = f"SELECT {columns(told)} FROM {self.rows.quoted} WHERE {self.condition}"
        for chunk in _chunks(stream.raw(sql, self.values)):
            values = [[_value(c, f) for c, f in zip(typed, row, strict=True)] for row in chunk]
            for key, at in zip(self.keys, places, strict=True):
                # NULL is unlike any other: a key with one collides with nothing.
                wanted = {p for row in values if None not in (p := tuple([row[i] for i in at]))}
                for theirs, digest in self._at_target(key, wanted):
                    hashes[theirs] = digest
                    if key not in shared.setdefault(theirs, []):
                        shared[theirs].append(key)
        same = self._equal(hashes)
        conflicts = []
        for theirs, by in shared.items():
            if theirs not in same:
                conflicts.append(Conflict(self.table.name, theirs, self._source_row(theirs, by), tuple(by)))
        return conflicts

    def strangers(self) -> list[Conflict]:
        sql = f"SELECT {self.rows.keys}, {self.rows.hash} FROM {self.rows.quoted}"
        width = len(self.table.key)
        hashes = {self.rows.key_of(row): row[width] for row in self.there.raw(sql)}
        same = self._equal(hashes)
        conflicts = []
        for theirs in hashes:
            if theirs not in same:
                # A row without a match under any key has no business in a target of a whole table.
                shared = [key for key in self.keys if self._source_rows(theirs, key)]
                mine = self._source_row(theirs, shared) if shared else None
                conflicts.append(Conflict(self.table.name, theirs, mine, tuple(shared)))
        return conflicts

    def _at_target(self, key: tuple[str, ...], wanted: set[tuple[_Value, ...]]
                   ) -> Iterator[tuple[Key, bytes | None]]:
        width = len(self.table.key)
        parts: list[Key] = list(wanted)  # type: ignore[arg-type]
        for at in range(0, len(parts), _AT_ONCE):
            where, args = among(key, parts[at:at + _AT_ONCE])
            sql = f"SELECT {self.rows.keys}, {self.rows.hash} FROM {self.rows.quoted} WHERE {where}"
            for row in list(self.there.raw(sql, args)):
                yield self.rows.key_of(row), row[width]

    def _equal(self, hashes: dict[Key, bytes | None]) -> set[Key]:
        """Keys under which the source has exactly the target's row, and it moves."""
        same: set[Key] = set()
        keys = list(hashes)
        width = len(self.table.key)
        for at in range(0, len(keys), _AT_ONCE):
            where, args = among(self.table.key, keys[at:at + _AT_ONCE])
            sql = (f"SELECT {self.rows.keys}, {self.rows.hash} FROM {self.rows.quoted}"
                   f" WHERE {where} AND ({self.condition})")
            for row in self.here.raw(sql, [*args, *self.values]):
                key = self.rows.key_of(row)
                if hashes.get(key) == row[width]:
                    same.add(key)
        return same

    def _source_rows(self, theirs: Key, key: tuple[str, ...]) -> list[Key]:
        """The source's rows that have the same ``key`` as the target's row ``theirs``."""
        where, args = among(self.table.key, [theirs])
        found = self.there.query(f"SELECT {columns(key)} FROM {self.rows.quoted} WHERE {where}", args)
        if not found or None in found[0]:
            return []
        where, args = among(key, [found[0]])
        sql = f"SELECT {self.rows.keys} FROM {self.rows.quoted} WHERE {where} AND ({self.condition})"
        return [self.rows.key_of(row) for row in self.here.raw(sql, [*args, *self.values])]

    def _source_row(self, theirs: Key, by: Sequence[tuple[str, ...]]) -> Key | None:
        for key in by:
            rows = self._source_rows(theirs, key)
            if rows:
                return rows[0]
        return None


def _keys(entry: TableScope) -> tuple[tuple[str, ...], ...]:
    """What must not be there twice: the table's keys, its uuid, and the instance that owns the row."""
    table = entry.table
    keys = [table.key, *(c for _, c in table.unique)]
    if any(c.name == "uuid" for c in table.columns):
        keys.append(("uuid",))
    rule = entry.rule
    # Numbers of parents collide where the parents do; a uuid's children may be there without it.
    if isinstance(rule, ByParent) and table.column(rule.column).type not in INTEGERS:
        keys.append((rule.column,))
    return tuple(dict.fromkeys(keys))


def _within(scope: Scope, entry: TableScope) -> tuple[str, list[KeyPart]]:
    """A condition for the scope's rows of this table, alone in a statement."""
    rule: Rule = entry.rule
    if isinstance(rule, ByHost):
        hosts = sorted(scope.hosts)
        text = f"{name(rule.column)} IN ({', '.join(['%s'] * len(hosts))})"
        args: list[KeyPart] = [*hosts]
        for column, value in rule.also:
            text += f" AND {name(column)} = %s"
            args.append(value)
        return text, args
    if isinstance(rule, ByParent):
        parent = next(t for t in scope.tables if t.table.name == rule.parent)
        inner, args = _within(scope, parent)
        return (f"{name(rule.column)} IN (SELECT {name(rule.parent_column)} FROM {name(rule.parent)}"
                f" WHERE {inner})"), args
    return ("FALSE" if isinstance(rule, Left) else "TRUE"), []


def _value(column: Column, field: bytes | None) -> _Value:
    if field is None or column.type in _BINARY:
        return field
    return int(field) if column.type in INTEGERS else field.decode()


def _chunks(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
