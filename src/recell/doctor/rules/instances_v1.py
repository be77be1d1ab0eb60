"""Cells v1: each instance has a row in the API cell and one in the cell that ``cell_name`` says.

Between a change in one cell and its echo in the other lie messages: only what both looks say is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.cells_v1 import path_of
from recell.model.health import Diagnosis, Facts
from recell.planning.homes_v1 import Homes, in_both


def homes(facts: Facts) -> Homes | None:
    return in_both(facts.deployment.cells, facts.first.cells, facts.second.cells)


def cell_unset(facts: Facts) -> Iterator[Diagnosis]:
    found = homes(facts)
    if found is None:
        return
    uuids, failed = found.unset - found.failed, found.failed
    if uuids:
        yield Diagnosis(
            f"instances:cell-unset:{found.top}",
            "error",
            found.top,
            f"{len(uuids)} instances of the API cell have cell_name = NULL: {some(uuids)}",
            "Nova doesn't know where they are: every action on them is answered with 404",
            "Find the cell whose database has them, and write its full path"
            f" ({_example(found)}) into instances.cell_name",
        )
    if failed:
        yield Diagnosis(
            f"instances:cell-failed:{found.top}",
            "note",
            found.top,
            f"{len(failed)} instances of the API cell failed before they reached a cell: {some(failed)}",
            "Their owners see them in ERROR and can only delete them",
            "Nothing, when they are few; else see nova-cells' log in the API cell",
        )


def _example(found: Homes) -> str:
    return next(iter(sorted(found.paths)), "api!cell1")


def cell_unknown(facts: Facts) -> Iterator[Diagnosis]:
    found = homes(facts)
    if found is None:
        return
    for name, uuids in sorted(found.unknown.items()):
        short = found.path.get(name.rpartition("!")[2])
        yield Diagnosis(
            f"instances:cell-unknown:{name}",
            "error",
            found.top,
            f"{len(uuids)} instances of the API cell have cell_name = {name}, and no cell is called so:"
            f" {some(uuids)}",
            "The API takes an action with 202 and nova-cells then drops it (CellRoutingInconsistency)",
            f"Write the full path, {short}, into instances.cell_name"
            if short
            else "Write the full path of the cell whose database has them into instances.cell_name",
        )


def unknown_to_the_api(facts: Facts) -> Iterator[Diagnosis]:
    found = homes(facts)
    for key, uuids in found.above.items() if found else ():
        yield Diagnosis(
            f"instances:unknown-above:{key}",
            "error",
            key,
            f"{len(uuids)} instances of {key} have no row in the API cell: {some(uuids)}",
            "Their owners can neither see nor delete guests that run",
            "Copy their rows into the API cell with cell_name ="
            f" {path_of(facts.deployment.cells, key)}; nova-cells' healing does it by itself in old"
            " releases only, and for what changed within instance_updated_at_threshold",
        )


def missing_below(facts: Facts) -> Iterator[Diagnosis]:
    found = homes(facts)
    for key, uuids in sorted(found.below.items()) if found else ():
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
    found = homes(facts)
    for uuid, keys in found.doubled.items() if found else ():
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
    found = homes(facts)
    for key, told in found.apart.items() if found else ():
        names = sorted({column for columns in told.values() for column in columns})
        yield Diagnosis(
            f"instances:apart:{key}",
            "warning",
            key,
            f"{len(told)} instances have another state in the API cell than in {key}"
            f" ({', '.join(names)}): {some(told)}",
            "Users see what was, and get 409 where it is a task: the cell's update was lost, or nova-cells"
            " turned two round on their way up, which no setting prevents",
            "recell audit --heal writes the child's values into the API cell's rows. Juno's nova-cells does"
            " so when asked (sync_instances); Stein's carries cell_name alone",
        )


def stale(facts: Facts) -> Iterator[Diagnosis]:
    found = homes(facts)
    for key, uuids in found.stale.items() if found else ():
        yield Diagnosis(
            f"instances:stale:{key}",
            "note",
            key,
            f"{len(uuids)} instances were written in {key} after the API cell heard of them last:"
            f" {some(uuids)}",
            "Their states agree; an update of something else (addresses, faults) may have been lost, or"
            " the two servers' clocks differ",
            "Compare the servers' clocks; else see nova-cells' logs of that time",
        )


RULES = (cell_unset, cell_unknown, unknown_to_the_api, missing_below, doubled, apart, stale)
