"""Reasons not to convert a standard Nova to cells v1."""

from __future__ import annotations

from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout_v1 import CellsV1Layout
from recell.model.violation import Violation
from recell.planning.v1 import plan_v1


def check(deployment: Deployment, layout: CellsV1Layout) -> tuple[Violation, ...]:
    """Why there is no plan; and that this recell runs none."""
    found = [
        Violation(
            "v1:plan-only",
            "stop",
            "layout",
            "recell plans a conversion to cells v1, and can't carry it out yet",
            "Read the plan as a list of what to do by hand; on Stein, cells v2 need no nova-cells at all",
        )
    ]
    try:
        plan_v1(deployment, layout, 0.0)
    except RecellError as error:
        found.append(Violation(f"plan:{error.word}", "stop", "layout", error.sentence, error.remedy))
    return tuple(found)
