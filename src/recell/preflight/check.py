"""`recell check`: what a deployment, a layout and a plan's targets must be before a step is taken.

Rules look at the deployment as data; the few that need the live world (can the broker be used, is
there room) stand in live.py. A rule yields violations and never stops another rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from recell.adapters.ports import World
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout, Layout
from recell.model.layout_v1 import CellsV1Layout
from recell.model.layout_v1_v2 import TreeLayout
from recell.model.plan import Plan
from recell.model.violation import Violation
from recell.planning.hosts import KIND as MOVES_HOSTS
from recell.planning.moves import KIND as MOVES_DATABASE
from recell.planning.split import make_plan
from recell.preflight import cells_v1, cells_v1_child, cells_v1_v2, live, rabbit, rules

Rule = Callable[[Deployment, Layout], Iterator[Violation]]
RULES: tuple[Rule, ...] = (
    rules.versions,
    rules.services_run,
    rules.processes_are_current,
    rules.engines_are_patient,
    rules.one_of_each_is_not_enough,
    rules.proxies,
    rules.templates,
    rules.upcalls,
    rules.console_tokens,
    rules.computes_with_api_database,
    rules.other_writers,
    rules.notifications,
    rules.alarms,
    rules.brokers,
    rules.firewalls,
    rules.clocks,
    rules.records,
    rules.metadata_of_one_cell,
    rules.hosts_are_up_by_their_records,
    rules.conductors_are_as_new,
    rules.strangers,
)


def check(
    deployment: Deployment,
    layout: Layout | BrokerLayout | CellsV1Layout | TreeLayout,
    world: World | None = None,
    plan: Plan | None = None,
) -> tuple[Violation, ...]:
    """All violations, the ones that stop first. With a world, the live ones too."""
    if isinstance(layout, BrokerLayout):
        return rabbit.check(deployment, layout, world, plan)
    if isinstance(layout, CellsV1Layout):
        if deployment.generation == "v1":
            return cells_v1_child.check(deployment, layout, world, plan)
        return cells_v1.check(deployment, layout, world, plan)
    if isinstance(layout, TreeLayout):
        return cells_v1_v2.check(deployment, layout, world, plan)
    found: list[Violation] = []
    for rule in RULES:
        found += rule(deployment, layout)
    try:
        plan = plan or make_plan(deployment, layout, 0.0)
    except RecellError as error:
        found.append(Violation(f"plan:{error.word}", "stop", "layout", error.sentence, error.remedy))
    if world is not None and plan is not None:
        found += live.check(world, deployment, layout, plan)
    if plan is not None and plan.kind == MOVES_DATABASE:
        found = [_restarted_anyway(v, plan) for v in found]
    if plan is not None and plan.kind == MOVES_HOSTS:
        found = [_left_alone(v, plan) for v in found]
    accepted = set(layout.acknowledge)
    found = [
        replace(v, severity="warning", what=f"{v.what} (acknowledged)")
        if v.may_accept and v.id in accepted
        else v
        for v in found
    ]
    known = {v.id for v in found}
    found += [
        Violation(
            f"acknowledge:{name}",
            "warning",
            "layout",
            f"the layout acknowledges {name}, which was not found",
            "Remove it from acknowledge",
        )
        for name in layout.acknowledge
        if name not in known
    ]
    return tuple(sorted(found, key=lambda v: (v.severity != "stop", v.id)))


def _restarted_anyway(found: Violation, plan: Plan) -> Violation:
    """After a split the cell's conductors and console proxies go on as they were begun, and their files
    are younger. A move of the cell's database begins with restarting each of them."""
    kind, _, rest = found.id.partition(":")
    host, _, unit = rest.partition(":")
    renewed = {(s.where, s.params["unit"]) for s in plan.steps if s.kind.startswith("renew-")}
    if kind != "stale" or (host, unit) not in renewed:
        return found
    return replace(found, severity="warning", remedy="Nothing: the plan restarts it before rows are switched")


def _left_alone(found: Violation, plan: Plan) -> Violation:
    """Hosts move without a restart of their cells' conductors and console proxies. A process that the plan
    does restart would come up with settings that nobody has tried."""
    kind, _, rest = found.id.partition(":")
    host, _, unit = rest.partition(":")
    restarted = {(s.where, s.params["unit"]) for s in plan.steps if "unit" in s.params}
    restarted |= {(c["host"], c["unit"]) for s in plan.steps for c in s.params.get("computes", ())}
    if kind != "stale" or (host, unit) in restarted:
        return found
    return replace(found, severity="warning", remedy="Nothing for this plan: it goes on as it is")
