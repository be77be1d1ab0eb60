"""Which rows an API cell of cells v1 gets from a standard Nova's database, and what is changed in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from recell.errors import Unsupported
from recell.model.scope import Assignment, Rule, Schema, Scope
from recell.planning.tables import SEEDED_BY_SYNC, api_cell_scope


@dataclass(frozen=True)
class Import:
    """``scope``: with the assignments in it. ``clear``: tables that the target's own `db sync` fills,
    emptied first."""

    scope: Scope
    assignments: tuple[Assignment, ...]
    clear: tuple[str, ...]


def full_path_assignment(path: str) -> dict[str, Any]:
    """As a plan holds it: ``cell1`` alone would be accepted and lead nowhere, NULL answers 404."""
    return {"table": "instances", "column": "cell_name", "value": path, "where": "deleted", "equals": 0}


def import_of(source: Schema, target: Schema, path: str, decided: Mapping[str, Rule] | None = None) -> Import:
    """What goes from the child's database to the API cell's, both schemas read where they are.

    :param path: of the child, from the API cell down (``api!cell1``).
    :raises Unsupported: a schema that isn't understood, or two that differ in what has to move.
    """
    scope = api_cell_scope(source, decided)
    problems = []
    for entry in scope.moving:
        name = entry.table.name
        if name not in target:
            problems.append(f"{target.database} has no table {name}")
            continue
        there = {c.name: c.full_type for c in target.table(name).columns}
        for column in entry.table.columns:
            if column.name not in there:
                problems.append(f"{target.database} has no column {name}.{column.name}")
            elif there[column.name] != column.full_type:
                problems.append(f"{name}.{column.name} is {column.full_type}, and there {there[column.name]}")
    cells = {c.name for c in source.table("instances").columns} if "instances" in source else set()
    if "cell_name" not in cells:
        problems.append(f"{source.database} has no instances.cell_name, which cells v1 route by")
    if problems:
        raise Unsupported(
            f"the API cell's database can't take {source.database}'s rows: {'; '.join(problems)}",
            "Make its schema with the release that the child's database has (nova-manage db sync)",
        )
    moving = [e.table.name for e in scope.moving]
    assignment = Assignment(**full_path_assignment(path))
    return Import(
        replace(
            scope,
            tables=tuple(
                replace(t, given=(assignment,)) if t.table.name == assignment.table else t
                for t in scope.tables
            ),
        ),
        (assignment,),
        tuple(n for n in moving if n in SEEDED_BY_SYNC),
    )
