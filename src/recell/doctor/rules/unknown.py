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


RULES = (unanswered,)
