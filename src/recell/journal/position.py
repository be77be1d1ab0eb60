"""Where a conversion stands, out of its plan and its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recell.journal.journal import Entry, Journal, Run
from recell.model.plan import Plan


def position(plan: Plan, journal: Journal) -> str:
    """new, applying, applied, undoing, undone or finished."""
    return position_of(plan, newest(journal.entries()), journal.runs(), finished=journal.finished)


def newest(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The last entry of each step that has one. ``entries`` in the journal's order."""
    return {e.step: e for e in entries}


def position_of(plan: Plan, last: Mapping[str, Entry], runs: Sequence[Run], *, finished: bool) -> str:
    """The same, of what was read before."""
    if finished:
        return "finished"
    words = [last.get(s.id) for s in plan.steps]
    if all(e is None for e in words):
        return "new"
    settled = {e.direction for e in words if e is not None and e.phase in ("finished", "found")}
    open_ = [e for e in words if e is not None and e.phase not in ("finished", "found")]
    direction = runs[-1].direction if runs else "forward"
    if not open_ and None not in words and settled == {"forward"}:
        return "applied"
    if not open_ and settled == {"backward"}:
        return "undone"
    return "applying" if direction == "forward" else "undoing"
