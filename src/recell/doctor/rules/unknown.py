"""What could not be looked at is said, never passed over."""

from __future__ import annotations

from collections.abc import Iterator

from recell.model.health import Diagnosis, Facts


def unanswered(facts: Facts) -> Iterator[Diagnosis]:
    for u in facts.unknown:
        yield Diagnosis(
            f"unknown:{u.area}",
            "unknown",
            u.area,
            u.because,
            f"Nothing can be said about {u.area}: it may be well or not",
            u.remedy or "Make it answer, then ask again: recell doctor",
        )


def cells_v1(facts: Facts) -> Iterator[Diagnosis]:
    if facts.deployment.generation == "v1":
        yield Diagnosis(
            "unknown:cells-v1",
            "unknown",
            "nova-cells",
            "this deployment runs cells v1, whose own tables and queues were not looked at",
            "What nova-cells holds in its databases may disagree with the child cells",
            "Compare instances.cell_name in the API cell with the children by hand",
        )


RULES = (unanswered, cells_v1)
