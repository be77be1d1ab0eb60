"""From a schema to a scope, or to the reasons why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from recell.errors import BadInput, Unsupported
from recell.model.scope import (
    ByHost,
    ByParent,
    ForeignKey,
    Left,
    Rule,
    Schema,
    Scope,
    Shared,
    Table,
    TableScope,
    Whole,
)
from recell.planning.tables.known import BOOKKEEPING, KNOWN, SHADOW, owner_like

__all__ = ["HOSTS_OWN", "api_cell_scope", "cell_scope", "guests_scope", "hosts_scope", "stranded_children",
           "with_hosts"]

HOSTS_OWN = ("services", "compute_nodes", "pci_devices", "task_log")
"""Rows that only nova-compute of their host writes, parents first."""

_TYPES = frozenset((
    "tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double",
    "date", "time", "datetime", "timestamp", "year", "char", "varchar", "binary", "varbinary",
    "tinytext", "text", "mediumtext", "longtext", "tinyblob", "blob", "mediumblob", "longblob",
    "enum", "set",
))
_HARMLESS = ("RESTRICT", "NO ACTION")
_DECIDE = "Move what isn't Nova's to another database, or drop it, and try again"


def cell_scope(schema: Schema, decided: Mapping[str, Rule] | None = None) -> Scope:
    """A whole cell database, archive included.

    :param decided: the operator's own rules, for tables that recell doesn't know.
    :raises Unsupported: every reason at once why the schema isn't understood.
    """
    return _scope(schema, lambda table: Whole(), decided or {})


def hosts_scope(schema: Schema, hosts: Iterable[str], decided: Mapping[str, Rule] | None = None) -> Scope:
    """The rows of these compute hosts and of the instances on them.

    :raises BadInput: no hosts. :raises Unsupported: as in :func:`cell_scope`, also when a column may
        say whose row it is and isn't known.
    """
    names = frozenset(hosts)
    if not names or "" in names:
        raise BadInput("no hosts were named whose rows should move", "Name them in the layout")
    return _scope(schema, _of_hosts, decided or {}, names)


def api_cell_scope(schema: Schema, decided: Mapping[str, Rule] | None = None) -> Scope:
    """What nova-api, nova-cells and consoleauth of a cells v1 API cell read in their own database.

    :raises Unsupported: as in :func:`cell_scope`.
    """
    return _scope(schema, _of_api_cell, decided or {})


def with_hosts(schema: Schema) -> Schema:
    """Without the tables that hosts never take rows from. These differ between a database that was upgraded
    from release to release and one that is made today: ``migrate_version``, the archive."""
    def stays(table: Table) -> bool:
        known = KNOWN.get(table.name.removeprefix(SHADOW))
        return known is not None and (
            table.name.startswith(SHADOW) or all(isinstance(rule, Left) for rule in known.hosts))

    return Schema(schema.database, tuple(t for t in schema.tables if not stays(t)))


def stranded_children(scope: Scope) -> tuple[tuple[str, ForeignKey], ...]:
    """Tables that stay though they refer to rows that move: they have to be empty of such rows."""
    moving = {t.table.name for t in scope.moving if not isinstance(t.rule, Shared)}
    return tuple(
        (t.table.name, key)
        for t in scope.tables
        if isinstance(t.rule, Left)
        for key in t.table.foreign_keys
        if key.parent in moving
    )


def _of_hosts(table: Table) -> Rule:
    if table.name.startswith(SHADOW):
        return Left("archived rows belong to no host")
    rules = KNOWN[table.name].hosts
    for rule in rules:
        column = getattr(rule, "column", "")
        if not column or any(c.name == column for c in table.columns):
            return rule
    raise _NotUnderstood(f"{table.name} has no column {' or '.join(_owner(r) for r in rules)}"
                         " that says whose rows these are")


def _of_api_cell(table: Table) -> Rule:
    if table.name.startswith(SHADOW):
        return Left("nothing in an API cell reads archived rows")
    known = KNOWN[table.name]
    return Whole() if known.api == "whole" else Left(known.api_why)


def _owner(rule: Rule) -> str:
    return str(getattr(rule, "column", ""))


class _NotUnderstood(Exception):
    pass


def _scope(
    schema: Schema,
    rule_of: Callable[[Table], Rule],
    decided: Mapping[str, Rule],
    hosts: frozenset[str] = frozenset(),
) -> Scope:
    problems: list[str] = []
    rules: dict[str, Rule] = {}
    for table in schema.tables:
        name = table.name
        if name.startswith(BOOKKEEPING):
            rules[name] = Left("recell's own bookkeeping")
        elif name in decided:
            rules[name] = decided[name]
        elif name.removeprefix(SHADOW) not in KNOWN:
            problems.append(f"{name} is none of Nova's tables from Juno to 34")
        else:
            try:
                rules[name] = rule_of(table)
            except _NotUnderstood as missing:
                problems.append(str(missing))
    problems += [f"{name} is decided upon and is not there" for name in decided if name not in schema]
    for table in schema.tables:
        rule = rules.get(table.name)
        if rule is not None and not isinstance(rule, Left):
            problems += _unfit(table)
            problems += _ambiguous(table, rule, table.name in decided)
        if rule is not None:
            problems += _broken_references(schema, table, rules, bool(hosts))
    if not problems:
        order = _order(schema, rules, problems)
    if problems:
        raise Unsupported(f"the database {schema.database} is not understood: {'; '.join(problems)}", _DECIDE)
    return Scope(
        schema.database,
        tuple(TableScope(schema.table(name), rules[name]) for name in order),
        hosts if any(isinstance(r, ByHost) for r in rules.values()) else frozenset(),
    )


def _unfit(table: Table) -> list[str]:
    """Why rows of a table can't be followed by their keys."""
    problems = []
    if not table.key:
        problems.append(f"{table.name} has no primary key")
    for column in table.columns:
        if column.generated:
            problems.append(f"{table.name}.{column.name} is a generated column")
        if column.type not in _TYPES:
            problems.append(f"{table.name}.{column.name} is of the type {column.type}")
    return problems


def _ambiguous(table: Table, rule: Rule, decided: bool) -> list[str]:
    names = {c.name for c in table.columns}
    problems = []
    if isinstance(rule, ByHost):
        wanted = {rule.column, *(c for c, _ in rule.also)}
        problems += [f"{table.name} has no column {c}" for c in sorted(wanted - names)]
    if isinstance(rule, ByParent) and rule.column not in names:
        problems.append(f"{table.name} has no column {rule.column}")
    if isinstance(rule, ByHost | ByParent) and not decided:
        owners = KNOWN[table.name].owners
        problems += [
            f"{table.name}.{c} may say whose row it is, and isn't known"
            for c in sorted(names - owners)
            if owner_like(c)
        ]
    return problems


def _broken_references(
    schema: Schema, table: Table, rules: Mapping[str, Rule], of_hosts: bool
) -> list[str]:
    rule = rules[table.name]
    problems = []
    for key in table.foreign_keys:
        words = f"{table.name} ({', '.join(key.columns)}) refers to {key.parent}"
        if key.parent not in schema:
            problems.append(f"{words}, which is not a table of this database")
            continue
        # A cascade changes rows without a word in the binary log.
        acting = [r for r in (key.on_delete, key.on_update) if r.upper() not in _HARMLESS]
        parent = rules.get(key.parent)
        moves = [r for r in (rule, parent) if r is not None and not isinstance(r, Left)]
        if acting and moves:
            problems.append(f"{words} with {' and '.join(sorted(set(acting)))}, which no binary log shows")
        if parent is None or isinstance(rule, Left) or isinstance(parent, Whole | Shared):
            continue
        along = isinstance(rule, ByParent) and rule.parent == key.parent and (rule.column,) == key.columns
        both_by_host = isinstance(rule, ByHost) and isinstance(parent, ByHost)
        if isinstance(parent, Left) or (of_hosts and not along and not both_by_host):
            problems.append(f"{words}, and could move without it")
    if isinstance(rule, ByParent):
        if isinstance(rules.get(rule.parent, Left("")), Left):
            problems.append(f"{table.name} follows {rule.parent}, which does not move")
        elif not any(c.name == rule.parent_column for c in schema.table(rule.parent).columns):
            problems.append(f"{rule.parent} has no column {rule.parent_column} for {table.name} to follow")
    return problems


def _order(schema: Schema, rules: Mapping[str, Rule], problems: list[str]) -> tuple[str, ...]:
    """Parents before children, else by name: the same schema always gives the same order."""
    graph: dict[str, set[str]] = {}
    for table in schema.tables:
        rule = rules[table.name]
        parents = {k.parent for k in table.foreign_keys}
        if isinstance(rule, ByParent):
            parents.add(rule.parent)
        graph[table.name] = parents - {table.name}
    try:
        sorter = TopologicalSorter(graph)
        sorter.prepare()
    except CycleError as error:
        problems.append(f"tables refer to each other in a circle: {', '.join(error.args[1])}")
        return ()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return tuple(order)


def guests_scope(scope: Scope) -> Scope:
    """Of :func:`hosts_scope`, the rows of instances. In the copy instances are hidden, and have no task.

    :raises Unsupported: the schema is of before Train, whose instances can't be hidden.
    """
    instances = next(t.table for t in scope.tables if t.table.name == "instances")
    if not any(c.name == "hidden" for c in instances.columns):
        raise Unsupported(f"instances of {scope.database} have no column hidden",
                          "Upgrade Nova to Train or newer")
    left = Left("the host's own: copied by themselves when nova-compute has ended")
    return Scope(
        scope.database,
        tuple(
            replace(t, rule=left) if t.table.name in HOSTS_OWN
            else replace(t, fixed=(("hidden", "1"), ("task_state", "NULL"))) if t.table == instances
            else t
            for t in scope.tables
        ),
        scope.hosts,
    )
