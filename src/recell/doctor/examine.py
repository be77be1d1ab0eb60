"""All rules over all facts.

What users change every second is looked at twice: a boot or a delete under way stands in one place
before the other, so only what both looks say is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from recell.doctor.rules import (
    brokers,
    cells_v1,
    databases,
    hosts,
    instances,
    instances_v1,
    mappings,
    placement,
    services,
    settings,
    shared,
    unknown,
    versions,
)
from recell.model.health import SEVERITIES, Diagnosis, Facts

Rule = Callable[[Facts], Iterator[Diagnosis]]
STANDING: tuple[Rule, ...] = (
    *shared.RULES,
    *mappings.RULES,
    *settings.RULES,
    *versions.RULES,
    *databases.RULES,
    *services.RULES,
    *brokers.RULES,
    *unknown.RULES,
)
"""Rules over what stands still; queues' rules compare the two looks themselves."""
MOVING: tuple[Rule, ...] = (*instances.RULES, *hosts.RULES, *placement.RULES)
"""Rules over ``facts.first``: asked again of the second look."""
STANDING_V1: tuple[Rule, ...] = (
    *shared.RULES,
    *cells_v1.RULES,
    versions.service_versions,
    versions.packages,
    *databases.RULES,
    *services.RULES,
    *brokers.RULES,
    *unknown.RULES,
)
"""Where cells are v1: what knows of mappings and placement is left out."""
MOVING_V1: tuple[Rule, ...] = instances_v1.RULES


def examine(facts: Facts) -> tuple[Diagnosis, ...]:
    """Every finding, the gravest first; none on a healthy cloud."""
    v1 = facts.deployment.generation == "v1"
    found = [d for rule in (STANDING_V1 if v1 else STANDING) for d in rule(facts)]
    again = replace(facts, first=facts.second)
    for rule in MOVING_V1 if v1 else MOVING:
        before = {d.id for d in rule(facts)}
        found += [d for d in rule(again) if d.id in before]
    once = {d.id: d for d in found}
    return tuple(sorted(once.values(), key=lambda d: (SEVERITIES.index(d.severity), d.id)))
