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
    rows_v1,
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
    *rows_v1.RULES,
    *instances_v1.RULES,
    versions.service_versions,
    versions.packages,
    *databases.RULES,
    *services.RULES,
    *brokers.RULES,
    *unknown.RULES,
)
"""Where cells are v1: what knows of mappings and placement is left out. Its rules over instances compare
the two looks themselves, instance by instance."""
AUDIT_V1: tuple[Rule, ...] = (
    cells_v1.no_api_cell,
    cells_v1.records,
    *rows_v1.RULES,
    *instances_v1.RULES,
    *unknown.RULES,
)
"""What `recell audit` asks: of rows alone."""


def examine(facts: Facts) -> tuple[Diagnosis, ...]:
    """Every finding, the gravest first; none on a healthy cloud."""
    v1 = facts.deployment.generation == "v1"
    return _examined(facts, STANDING_V1 if v1 else STANDING, () if v1 else MOVING)


def audit(facts: Facts) -> tuple[Diagnosis, ...]:
    """As :func:`examine`, of what cells v1 keep twice and of their records."""
    return _examined(facts, AUDIT_V1, ())


def _examined(facts: Facts, standing: tuple[Rule, ...], moving: tuple[Rule, ...]) -> tuple[Diagnosis, ...]:
    found = [d for rule in standing for d in rule(facts)]
    again = replace(facts, first=facts.second)
    for rule in moving:
        before = {d.id for d in rule(facts)}
        found += [d for d in rule(again) if d.id in before]
    once = {d.id: d for d in found}
    return tuple(sorted(once.values(), key=lambda d: (SEVERITIES.index(d.severity), d.id)))
