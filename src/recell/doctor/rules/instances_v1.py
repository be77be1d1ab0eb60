"""Cells v1: each instance has a row in the API cell and one in the cell that ``cell_name`` says.

Between a change in one cell and its echo in the other lie messages: only what both looks say is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.cells_v1 import compute_cells
from recell.doctor.rules.words import some
from recell.model.cells_v1 import InstanceRow, path_of
from recell.model.health import Diagnosis, Facts

YOUNG_S = 600.0
"""How long an instance may be on its way to a cell: nova-cells tries ten times, and builds queue up."""


def _api(facts: Facts) -> tuple[str, dict[str, InstanceRow]] | None:
    """The API cell and its rows; None when there is no such cell, more than one, or no answer."""
    tops = [c.key for c in facts.deployment.cells if c.cell_type == "api"]
    if len(tops) != 1 or tops[0] not in facts.first.cells:
        return None
    return tops[0], facts.first.cells[tops[0]]


def _paths(facts: Facts) -> dict[str, str]:
    """full path -> key, of the compute cells."""
    cells = facts.deployment.cells
    return {path_of(cells, c.key): c.key for c in compute_cells(facts)}


def cell_unset(facts: Facts) -> Iterator[Diagnosis]:
    top = _api(facts)
    if top is None:
        return
    lost = {u: r for u, r in top[1].items() if not r.cell_name and not _under_way(r)}
    failed = {u for u, r in lost.items() if r.vm_state == "error" and not r.host}
    if lost.keys() - failed:
        uuids = lost.keys() - failed
        yield Diagnosis(
            f"instances:cell-unset:{top[0]}",
            "error",
            top[0],
            f"{len(uuids)} instances of the API cell have cell_name = NULL: {some(uuids)}",
            "Nova doesn't know where they are: every action on them is answered with 404",
            "Find the cell whose database has them, and write its full path"
            f" ({_example(facts)}) into instances.cell_name",
        )
    if failed:
        yield Diagnosis(
            f"instances:cell-failed:{top[0]}",
            "note",
            top[0],
            f"{len(failed)} instances of the API cell failed before they reached a cell: {some(failed)}",
            "Their owners see them in ERROR and can only delete them",
            "Nothing, when they are few; else see nova-cells' log in the API cell",
        )


def _under_way(r: InstanceRow) -> bool:
    return (r.busy or r.vm_state == "building") and r.age_s < YOUNG_S


def _example(facts: Facts) -> str:
    return next(iter(sorted(_paths(facts))), "api!cell1")


def cell_unknown(facts: Facts) -> Iterator[Diagnosis]:
    top = _api(facts)
    if top is None:
        return
    paths = _paths(facts)
    # A cell that the API cell has a record of, and whose hosts were not looked at, is no wrong name.
    known = {r.name for c in facts.deployment.cells for r in c.live}
    by_name: dict[str, list[str]] = {}
    for uuid, row in top[1].items():
        if row.cell_name and row.cell_name not in paths:
            by_name.setdefault(row.cell_name, []).append(uuid)
    names = {key: path for path, key in paths.items()}
    for name, uuids in sorted(by_name.items()):
        last = name.rpartition("!")[2]
        if "!" in name and last in known and last not in names:
            continue
        short = names.get(last)
        yield Diagnosis(
            f"instances:cell-unknown:{name}",
            "error",
            top[0],
            f"{len(uuids)} instances of the API cell have cell_name = {name}, and no cell is called so:"
            f" {some(uuids)}",
            "The API takes an action with 202 and nova-cells then drops it (CellRoutingInconsistency)",
            f"Write the full path, {short}, into instances.cell_name"
            if short
            else "Write the full path of the cell whose database has them into instances.cell_name",
        )


def unknown_to_the_api(facts: Facts) -> Iterator[Diagnosis]:
    top = _api(facts)
    if top is None:
        return
    for cell in compute_cells(facts):
        lost = [u for u, r in _rows(facts, cell.key).items() if u not in top[1] and not _under_way(r)]
        if lost:
            yield Diagnosis(
                f"instances:unknown-above:{cell.key}",
                "error",
                cell.key,
                f"{len(lost)} instances of {cell.key} have no row in the API cell: {some(lost)}",
                "Their owners can neither see nor delete guests that run",
                "Copy their rows into the API cell with cell_name ="
                f" {path_of(facts.deployment.cells, cell.key)}; nova-cells' healing does it by itself in old"
                " releases only, and for what changed within instance_updated_at_threshold",
            )


def missing_below(facts: Facts) -> Iterator[Diagnosis]:
    top = _api(facts)
    if top is None:
        return
    paths = _paths(facts)
    by_cell: dict[str, list[str]] = {}
    for uuid, row in top[1].items():
        key = paths.get(row.cell_name, "")
        if key in facts.first.cells and uuid not in facts.first.cells[key] and not _under_way(row):
            by_cell.setdefault(key, []).append(uuid)
    for key, uuids in sorted(by_cell.items()):
        yield Diagnosis(
            f"instances:missing-below:{key}",
            "error",
            key,
            f"{len(uuids)} instances of the API cell are said to be in {key} and have no row there:"
            f" {some(uuids)}",
            "Users see an instance on which every action fails, and quota counts it",
            "Look for them in the other cells' databases; what is nowhere: delete it through the API",
        )


def doubled(facts: Facts) -> Iterator[Diagnosis]:
    homes: dict[str, list[str]] = {}
    for cell in compute_cells(facts):
        for uuid in _rows(facts, cell.key):
            homes.setdefault(uuid, []).append(cell.key)
    for uuid, keys in sorted(homes.items()):
        if len(keys) > 1:
            yield Diagnosis(
                f"instances:doubled:{uuid}",
                "error",
                some(keys),
                f"instance {uuid} has a live row in each of {some(keys)}",
                "Both cells tell the API cell about it: what users see changes from one to the other",
                "Find out where the guest runs (instances.host in each row), and delete the other row",
            )


def apart(facts: Facts) -> Iterator[Diagnosis]:
    """Rows that stand still on both sides and don't agree."""
    top = _api(facts)
    if top is None:
        return
    for cell in compute_cells(facts):
        told = [
            u
            for u, row in _rows(facts, cell.key).items()
            if (above := top[1].get(u))
            and not row.busy
            and not above.busy
            and above.vm_state != row.vm_state
        ]
        if told:
            yield Diagnosis(
                f"instances:apart:{cell.key}",
                "warning",
                cell.key,
                f"{len(told)} instances have another state in the API cell than in {cell.key}: {some(told)}",
                "Users see what was: the cell's update was lost",
                "nova-cells sends again what changed within [cells] instance_updated_at_threshold: raise that"
                " in the cell for some hours and restart its nova-cells",
            )


def _rows(facts: Facts, key: str) -> dict[str, InstanceRow]:
    return facts.first.cells.get(key, {})


RULES = (cell_unset, cell_unknown, unknown_to_the_api, missing_below, doubled, apart)
