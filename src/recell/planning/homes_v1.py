"""Cells v1: what the cells' rows of instances say about each other, at one look and at both of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from recell.model.cells_v1 import CellV1, InstanceRow, path_of

YOUNG_S = 600.0
"""How long an instance may be on its way to a cell: nova-cells tries ten times, and builds queue up."""
SETTLED_S = 120.0
COMPUTES_OWN = frozenset((
    "block_device_mapping", "networking", "spawning", "reboot_pending", "reboot_started",
    "reboot_pending_hard", "reboot_started_hard", "image_pending_upload", "image_uploading",
    "resize_migrating", "resize_migrated", "resize_finish", "rebuild_block_device_mapping",
    "rebuild_spawning",
))  # fmt: skip
"""Tasks that nova-compute alone sets. Where the child has none for ``SETTLED_S`` and the API cell one of
these, its end was overtaken on the way up; nova-cells may write that row again and again, and never mends it.
"""
HEARD_S = 90.0
"""Where neither row was written for so long and both cells' nova-cells answer each other, the child has had
every message about the instance: nova-cells itself gives up after 60 s. A child that refuses what nova-api
has begun (it shows a state of before) tells nobody, and the task would stand for ever."""
_KEPT = frozenset(("deleting", "soft-deleting"))
"""What ends an instance is for a person to look at."""
STALE_S = 60.0
"""By how much a child's row may be the younger one: clocks differ, messages wait."""

Rows = Mapping[str, Mapping[str, InstanceRow]]
"""cell's key -> uuid -> live row; a cell that did not answer is missing."""


@dataclass(frozen=True)
class Homes:
    """``top``: the API cell's key. ``paths``: full path -> key, of the compute cells. By uuid:

    ``unset``: no cell_name. ``failed``: of these, those that never came to a cell. ``unknown``: a cell_name
    that no cell has, by that name. ``above``: not in the API cell, by the child that has it. ``below``: not
    in the child that the API cell says, by child. ``doubled``: live in several children. ``apart``: by
    child, columns in which rows that stand still differ. ``stale``: by child, written there after the API
    cell heard of it last, and equal all the same. ``whole``: every cell that the tree knows has answered.
    """

    top: str
    paths: Mapping[str, str]
    unset: frozenset[str]
    failed: frozenset[str]
    unknown: Mapping[str, frozenset[str]]
    above: Mapping[str, frozenset[str]]
    below: Mapping[str, frozenset[str]]
    doubled: Mapping[str, tuple[str, ...]]
    apart: Mapping[str, Mapping[str, tuple[str, ...]]]
    stale: Mapping[str, frozenset[str]]
    whole: bool

    @property
    def path(self) -> dict[str, str]:
        """key -> full path."""
        return {key: path for path, key in self.paths.items()}


def compare(cells: tuple[CellV1, ...], rows: Rows) -> Homes | None:
    """None: there is no API cell, more than one, or it did not answer."""
    tops = [c.key for c in cells if c.cell_type == "api"]
    if len(tops) != 1 or tops[0] not in rows:
        return None
    upper = rows[tops[0]]
    children = [c.key for c in cells if c.cell_type != "api"]
    paths = {path_of(cells, key): key for key in children}
    lost = frozenset(u for u, r in upper.items() if not r.cell_name and not under_way(r))
    failed = frozenset(u for u in lost if upper[u].vm_state == "error" and not upper[u].host)
    above, apart, stale = {}, {}, {}
    homes: dict[str, list[str]] = {}
    for key in (k for k in children if k in rows):
        above[key] = frozenset(u for u, r in rows[key].items() if u not in upper and not under_way(r))
        both = {u: (r, upper[u]) for u, r in rows[key].items() if u in upper}
        apart[key] = {u: d for u, (r, top) in both.items() if (d := differing(r, top))}
        stale[key] = frozenset(
            u for u, (r, top) in both.items()
            if u not in apart[key] and not r.busy and top.updated and r.updated > top.updated + STALE_S
        )  # fmt: skip
        for uuid in rows[key]:
            homes.setdefault(uuid, []).append(key)
    below: dict[str, set[str]] = {}
    for uuid, row in upper.items():
        key = paths.get(row.cell_name, "")
        if key in rows and uuid not in rows[key] and not under_way(row):
            below.setdefault(key, set()).add(uuid)
    known = {c.name for c in cells}
    return Homes(
        top=tops[0],
        paths=paths,
        unset=lost,
        failed=failed - homes.keys(),
        unknown=_unknown(cells, paths, upper),
        above={k: u for k, u in above.items() if u},
        below={k: frozenset(u) for k, u in below.items()},
        doubled={u: tuple(keys) for u, keys in sorted(homes.items()) if len(keys) > 1},
        apart={k: u for k, u in apart.items() if u},
        stale={k: u for k, u in stale.items() if u},
        whole=all(k in rows for k in children) and all(r.name in known for c in cells for r in c.live),
    )


def in_both(cells: tuple[CellV1, ...], first: Rows, second: Rows) -> Homes | None:
    """What both looks say of the same instance: between a change in one cell and its echo in the other lie
    messages. Columns are the second's."""
    a, b = compare(cells, first), compare(cells, second)
    if a is None or b is None:
        return None
    return replace(
        b,
        unset=a.unset & b.unset,
        failed=a.failed & b.failed,
        unknown=_shared(a.unknown, b.unknown),
        above=_shared(a.above, b.above),
        below=_shared(a.below, b.below),
        doubled={u: keys for u, keys in b.doubled.items() if a.doubled.get(u) == keys},
        apart={
            key: same
            for key, told in b.apart.items()
            if (same := {u: c for u, c in told.items() if u in a.apart.get(key, {})})
        },
        stale=_shared(a.stale, b.stale),
        whole=a.whole and b.whole,
    )


def _shared(
    a: Mapping[str, frozenset[str]], b: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    return {key: same for key, uuids in b.items() if (same := uuids & a.get(key, frozenset()))}


def _unknown(
    cells: tuple[CellV1, ...], paths: Mapping[str, str], upper: Mapping[str, InstanceRow]
) -> dict[str, frozenset[str]]:
    # A cell that the API cell has a record of, and whose hosts were not looked at, is no wrong name.
    recorded = {r.name for c in cells for r in c.live}
    keys = set(paths.values())
    by_name: dict[str, set[str]] = {}
    for uuid, row in upper.items():
        last = row.cell_name.rpartition("!")[2]
        stranger = "!" in row.cell_name and last in recorded and last not in keys
        if row.cell_name and row.cell_name not in paths and not stranger:
            by_name.setdefault(row.cell_name, set()).add(uuid)
    return {name: frozenset(uuids) for name, uuids in by_name.items()}


def under_way(row: InstanceRow) -> bool:
    return (row.busy or row.vm_state == "building") and row.age_s < YOUNG_S


def still(now: InstanceRow, before: InstanceRow | None) -> bool:
    """Whether nobody wrote the row between two looks."""
    return before is not None and dict(before.states) == dict(now.states) and before.updated == now.updated


def differing(
    child: InstanceRow, top: InstanceRow, settled_s: float = SETTLED_S, *, heard: bool = False
) -> tuple[str, ...]:
    """Columns in which rows that stand still differ. A task that nothing was heard of for long is no task:
    what ended it in the child never reached the API cell, or never came to the child. ``heard``: both sides'
    nova-cells have answered each other, see :data:`HEARD_S`."""
    task = top.states.get("task_state")
    overtaken = not child.busy and task in COMPUTES_OWN and child.quiet_s >= settled_s
    young = HEARD_S if heard and not child.busy and task not in _KEPT else YOUNG_S
    if (child.busy or top.busy) and min(child.quiet_s, top.quiet_s) < young and not overtaken:
        return ()
    if child.vm_state != top.vm_state and not child.states:
        return ("vm_state",)
    return tuple(c for c, v in child.states.items() if c in top.states and not _equal(v, top.states[c]))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, datetime) and isinstance(other, datetime):
        # Cut by one server and rounded by the other.
        return abs((one - other).total_seconds()) <= 1
    return bool(one == other)
