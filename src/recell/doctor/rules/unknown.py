"""What could not be looked at is said, never passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from recell.model.health import Diagnosis, Facts, Unknown


def unanswered(unknown: Iterable[Unknown]) -> tuple[Diagnosis, ...]:
    return tuple(
        Diagnosis(
            f"unknown:{u.area}",
            "unknown",
            u.area,
            u.because,
            f"Nothing can be said about {u.area}: it may be well or not",
            u.remedy or "Make it answer, then ask again: recell doctor",
        )
        for u in unknown
    )


def not_looked_at(facts: Facts) -> Iterator[Diagnosis]:
    yield from unanswered(facts.unknown)


RULES = (not_looked_at,)
