"""Cells v1: which rows could be mended with proof, and what has to be left to a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from recell.model.cells_v1 import CellRecord, CellV1, InstanceRow, NullRow
from recell.model.health import Facts
from recell.model.rowchange import RowChange
from recell.model.v1 import BothSides
from recell.planning.homes_v1 import Homes, differing, in_both, still

CELLS = "cells"
AT_REST_S = 10.0
"""How long the child must not have written a row that a conversion takes its word of."""


@dataclass(frozen=True)
class Heal:
    """What can be done about one finding (a diagnosis' id): rows, and why others are left."""

    finding: str
    changes: tuple[RowChange, ...] = ()
    left: tuple[str, ...] = ()


def heals(facts: Facts, gone: Mapping[str, frozenset[str]], now: datetime) -> dict[str, Heal]:
    """By finding's id. Only what both looks say, and what follows from it.

    :param gone: by child's key, instances with a deleted row there. now: UTC.
    """
    found: dict[str, Heal] = {}
    cells = facts.deployment.cells
    homes = in_both(cells, facts.first.cells, facts.second.cells)
    every = [*_nulls(facts.v1.nulls), *_null_records(cells, facts.v1.nulls), *_records(cells, now)]
    if homes is not None:
        every += [*_names(facts, homes, gone), *_states(facts, homes), *_lost(homes, gone)]
    for heal in every:
        known = found.get(heal.finding, Heal(heal.finding))
        found[heal.finding] = Heal(
            heal.finding, known.changes + heal.changes, tuple(dict.fromkeys((*known.left, *heal.left)))
        )
    return found


# -- instances ---------------------------------------------------------------------------------------


def _names(facts: Facts, homes: Homes, gone: Mapping[str, frozenset[str]]) -> Iterator[Heal]:
    """cell_name: proven where one child alone has the instance, and every child was asked."""
    top = homes.top
    wrong = {f"instances:cell-unset:{top}": homes.unset - homes.failed}
    wrong |= {f"instances:cell-unknown:{name}": uuids for name, uuids in homes.unknown.items()}
    wrong |= {f"instances:missing-below:{key}": uuids for key, uuids in homes.below.items()}
    for finding, uuids in wrong.items():
        changes, left = [], []
        for uuid in sorted(uuids):
            row = facts.second.cells[top][uuid]
            keys = [k for k in homes.path if uuid in facts.second.cells.get(k, {})]
            also = [k for k in homes.path if uuid in facts.first.cells.get(k, {})]
            if not keys and uuid in gone.get(homes.paths.get(row.cell_name, ""), ()):
                continue  # said below, with what it is
            if len(keys) != 1 or keys != also:
                where = " and ".join(keys) or "no cell that was looked at"
                left.append(f"{uuid}: {where} has it")
            elif not homes.whole:
                left.append(f"{uuid}: {keys[0]} has it, and not every cell could be looked at")
            else:
                before = {"cell_name": row.cell_name or None}
                after = {"cell_name": homes.path[keys[0]]}
                changes.append(RowChange(top, "instances", row.id, before, after, uuid, finding))
        yield Heal(finding, tuple(changes), tuple(left))


def _states(facts: Facts, homes: Homes) -> Iterator[Heal]:
    """The child's word, where it stands still."""
    for key, told in homes.apart.items():
        finding = f"instances:apart:{key}"
        changes, left = [], []
        for uuid in sorted(told):
            child, top = facts.second.cells[key][uuid], facts.second.cells[homes.top][uuid]
            was, above = facts.first.cells[key].get(uuid), facts.first.cells[homes.top].get(uuid)
            if not still(child, was) or not still(top, above):
                left.append(f"{uuid}: it changes just now")
            elif child.busy:
                left.append(f"{uuid}: {key} has it in the task {child.states.get('task_state')} for long")
            elif uuid in homes.doubled:
                left.append(f"{uuid}: more than one cell has it")
            elif not child.states or homes.paths.get(top.cell_name) != key:
                left.append(f"{uuid}: the API cell doesn't have it in {key}")
            else:
                changes.append(as_told(homes.top, uuid, child, top, differing(child, top), finding))
        yield Heal(finding, tuple(changes), tuple(left))


def as_told(
    key: str, uuid: str, child: InstanceRow, top: InstanceRow, names: Iterable[str], why: str
) -> RowChange:
    """The child's values of these columns, into the row of the API cell (``key``)."""
    names = tuple(names)
    before = {c: top.states[c] for c in names}
    after = {c: child.states[c] for c in names}
    return RowChange(key, "instances", top.id, before, after, uuid, why)


def overtaken(
    key: str, path: str, first: BothSides, second: BothSides, *, heard: bool = False
) -> tuple[RowChange, ...]:
    """What the API cell (``key``) missed of its one child, proven by two looks some seconds apart: in both,
    the child has the instance at rest and wrote it ``AT_REST_S`` before the second at least, and nobody wrote
    either row between them. A task that nova-api or a user may have begun is not touched, but for those that
    the child has had and is not at: ``heard``, see :func:`~recell.planning.homes_v1.differing`."""
    changes = []
    for uuid, top in sorted(second.api.items()):
        child = second.child.get(uuid)
        if child is None or child.busy or child.quiet_s < AT_REST_S or not child.states:
            continue
        if top.cell_name != path or not still(child, first.child.get(uuid)):
            continue
        if still(top, first.api.get(uuid)) and (
            names := differing(child, top, AT_REST_S, heard=heard)
        ):
            changes.append(as_told(key, uuid, child, top, names, "overtaken on the way up"))
    return tuple(changes)


def _lost(homes: Homes, gone: Mapping[str, frozenset[str]]) -> Iterator[Heal]:
    """What a person has to decide, with what is known of it."""
    for key, uuids in homes.below.items():
        ended = sorted(uuids & gone.get(key, frozenset()))
        left = tuple(
            f"{u}: {key} has deleted it; delete it through the API too, nova-cells then removes the row"
            for u in ended
        )
        yield Heal(f"instances:missing-below:{key}", left=left)
    for key, uuids in homes.above.items():
        ended = sorted(uuids & gone.get(homes.top, frozenset()))
        left = tuple(f"{u}: the API cell has deleted it, and it lives on in {key}" for u in ended)
        yield Heal(f"instances:unknown-above:{key}", left=left)


# -- rows that nobody sees ---------------------------------------------------------------------------


def _nulls(nulls: Mapping[tuple[str, str], tuple[NullRow, ...]]) -> Iterator[Heal]:
    for (cell, table), rows in sorted(nulls.items()):
        if table != CELLS:
            finding = null_finding(cell, table)
            yield Heal(finding, tuple(_seen(cell, table, r, f"row {r.id}", finding) for r in rows))


def _null_records(
    cells: tuple[CellV1, ...], nulls: Mapping[tuple[str, str], tuple[NullRow, ...]]
) -> Iterator[Heal]:
    for cell in cells:
        rows = {r.id: r for r in nulls.get((cell.key, CELLS), ())}
        for r in cell.records:
            finding = f"cells:null-deleted:{cell.key}:{r.name}"
            alike = [x for x in cell.records if x.name == r.name and x.state != "deleted"]
            if r.state == "null" and r.id in rows and len(alike) == 1:
                yield Heal(finding, (_seen(cell.key, CELLS, rows[r.id], r.name, finding),))


def _seen(cell: str, table: str, row: NullRow, label: str, why: str) -> RowChange:
    after = {"deleted": row.id if row.ended else 0}
    return RowChange(cell, table, row.id, {"deleted": None}, after, label, why)


def null_finding(cell: str, table: str) -> str:
    return f"rows:null-deleted:{cell}:{table}"


# -- records of cells --------------------------------------------------------------------------------


def circles(cells: tuple[CellV1, ...]) -> Iterator[tuple[str, ...]]:
    """Names of cells, each the child of the next and the last of the first; one or more than two of them
    (two that call each other a parent are found by their records)."""
    parents = {c.name: [r.name for r in c.live if r.is_parent] for c in cells}
    for c in cells:
        if any(r.name == c.name for r in c.live):
            yield (c.name,)
    seen: set[frozenset[str]] = set()
    for name in sorted(parents):
        for circle in _circles_from(name, (name,), parents):
            if len(circle) > 2 and frozenset(circle) not in seen:
                seen.add(frozenset(circle))
                yield circle


def _circles_from(start: str, path: tuple[str, ...], parents: Mapping[str, list[str]]
                  ) -> Iterator[tuple[str, ...]]:  # fmt: skip
    for parent in parents.get(path[-1], ()):
        if parent == start:
            yield path
        elif parent not in path:
            yield from _circles_from(start, (*path, parent), parents)


def circle_finding(names: tuple[str, ...]) -> str:
    return f"cells:circle:{'!'.join(names)}"


def _records(cells: tuple[CellV1, ...], now: datetime) -> Iterator[Heal]:
    by_name = {c.name: c for c in cells}
    for names in circles(cells):
        finding = circle_finding(names)
        own = [c for c in cells if c.name in names]
        wrong = [
            (c, r) for c in own for r in c.live
            if (r.name == c.name if len(names) == 1 else c.cell_type == "api" and r.is_parent)
        ]  # fmt: skip
        if not wrong:
            yield Heal(finding, left=("which of the records is wrong can't be told from them",))
        for cell, record in wrong:
            yield _ended(finding, cell, record, now)
    for cell in cells:
        for r in cell.live:
            other = by_name.get(r.name)
            back = [x for x in other.live if x.name == cell.name] if other and other is not cell else []
            if other and back and back[0].is_parent == r.is_parent:
                a, b = sorted((cell.key, other.key))
                yield _turned(f"cells:direction:{a}:{b}", cell, other, r)


def _ended(finding: str, cell: CellV1, record: CellRecord, now: datetime) -> Heal:
    if record.source != CELLS or not record.id:
        return Heal(finding, left=(f"{record.name} stands in {record.source}: take it out there",))
    change = RowChange(
        cell.key, CELLS, record.id, {"deleted": 0, "deleted_at": None},
        {"deleted": record.id, "deleted_at": now}, f"{record.name} of {cell.key}", finding,
    )  # fmt: skip
    return Heal(finding, (change,))


def _turned(finding: str, cell: CellV1, other: CellV1, r: CellRecord) -> Heal:
    """The API cell is above all others: that is what tells which of two records is wrong."""
    if (cell.cell_type == "api") == (other.cell_type == "api"):
        return Heal(finding, left=("neither is the API cell: which of them is the parent can't be told",))
    right = other.cell_type == "api"
    if r.is_parent == right:
        return Heal(finding)
    if r.source != CELLS or not r.id:
        return Heal(finding, left=(f"{r.name} stands in {r.source}: correct is_parent there",))
    change = RowChange(
        cell.key, CELLS, r.id, {"is_parent": int(r.is_parent)}, {"is_parent": int(right)},
        f"{r.name} of {cell.key}", finding,
    )  # fmt: skip
    return Heal(finding, (change,))
