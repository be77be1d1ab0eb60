"""What `recell check` asks as well: its own rules, graded for a cloud that nobody is about to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from recell.model.deployment import Deployment
from recell.model.health import Diagnosis, Facts, Severity
from recell.model.violation import Violation
from recell.preflight import rules


def _graded(found: Iterator[Violation], stop: Severity, warning: Severity, why: str) -> Iterator[Diagnosis]:
    for v in found:
        severity = stop if v.severity == "stop" else warning
        yield Diagnosis(v.id, severity, v.where, v.what, why, v.remedy)


def _rule(
    of: Callable[[Deployment], Iterator[Violation]], stop: Severity, warning: Severity, why: str
) -> Callable[[Facts], Iterator[Diagnosis]]:
    def rule(facts: Facts) -> Iterator[Diagnosis]:
        # A host that could not be asked is no stranger.
        silent = {u.area.removeprefix("host ") for u in facts.unknown}
        found = (v for v in of(facts.deployment) if not (v.id.startswith("unseen:") and v.where in silent))
        return _graded(found, stop, warning, why)

    rule.__name__ = of.__name__
    return rule


RULES = (
    _rule(
        rules.services_run,
        "error",
        "warning",
        "What is enabled and does not run is missing now; what runs and is not enabled is missing after"
        " the next reboot",
    ),
    _rule(
        rules.templates,
        "error",
        "note",
        "Every request that needs this cell fails, or skips it without a word",
    ),
    _rule(
        rules.alarms,
        "error",
        "warning",
        "A broker with an alarm blocks everybody who publishes: all of Nova stands still until it ends",
    ),
    _rule(
        rules.clocks,
        "warning",
        "warning",
        "Services are called dead or alive by their clocks, and tokens expire by them",
    ),
    _rule(
        rules.records,
        "warning",
        "warning",
        "The scheduler and `openstack compute service list` go by these records",
    ),
    _rule(
        rules.proxies,
        "warning",
        "note",
        "A restart of one server is an outage for users when no second one takes over",
    ),
)
