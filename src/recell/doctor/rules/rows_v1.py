"""Cells v1: records that go in a circle, rows that Nova can't see."""

from __future__ import annotations

from collections.abc import Iterator

from recell.model.health import Diagnosis, Facts
from recell.planning.heal_v1 import circle_finding, circles, null_finding


def circular(facts: Facts) -> Iterator[Diagnosis]:
    keys = {c.name: c.key for c in facts.deployment.cells}
    for names in circles(facts.deployment.cells):
        alone = len(names) == 1
        yield Diagnosis(
            circle_finding(names),
            "error",
            ", ".join(keys[n] for n in names),
            f"cell {names[0]} has a record of itself"
            if alone
            else f"cell {names[0]} is its own ancestor: {' below '.join((*names, names[0]))}",
            "nova-cells sends itself what is meant for others; listing the cells fails (circular reference)",
            f"nova-manage cell delete, in {keys[names[0]]}"
            if alone
            else "Delete the record that calls a cell a parent that is none; the API cell has no parent",
        )


def null_deleted(facts: Facts) -> Iterator[Diagnosis]:
    servers = {c.key: c.server for c in facts.deployment.cells}
    for (cell, table), rows in sorted(facts.v1.nulls.items()):
        if table == "cells":
            continue  # said of each record by its name
        yield Diagnosis(
            null_finding(cell, table),
            "warning",
            cell,
            f"{len(rows)} rows of {table} in {cell} have deleted = NULL",
            "Nova takes NULL for neither live nor deleted and sees them nowhere; INSERTs by hand leave it so",
            f"Set deleted = 0 there, or = id where deleted_at is set, in {servers.get(cell, cell)}",
        )


RULES = (circular, null_deleted)
