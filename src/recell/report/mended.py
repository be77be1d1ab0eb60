"""What a report says of rows that a conversion to cells v1 mended."""

from __future__ import annotations

from recell.journal import Journal
from recell.model.plan import Plan
from recell.steps.v1_mend import MENDED, told

__all__ = ["told_of_mended"]


def told_of_mended(plan: Plan, journal: Journal) -> tuple[str, ...]:
    """A sentence for each step that mended any; none for other plans."""
    found = [told(journal.recall(s.id, MENDED, [])) for s in plan.steps]
    return tuple(f"{said[0].upper()}{said[1:]}." for said in found if said)
