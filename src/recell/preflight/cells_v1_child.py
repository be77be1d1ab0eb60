"""Reasons not to add a further child to a tree of cells v1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from recell.adapters.ports import World
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout_v1 import CellsV1Layout
from recell.model.moving import Login
from recell.model.plan import Plan
from recell.model.v1 import Conversion
from recell.model.violation import Violation
from recell.planning.v1_child import plan_child
from recell.planning.v1_child_facts import decide
from recell.preflight import cells_v1, live


def check(
    deployment: Deployment, layout: CellsV1Layout, world: World | None = None, plan: Plan | None = None
) -> tuple[Violation, ...]:
    """Why there is no plan, and what would stop it. With a world, as it is this minute."""
    found: list[Violation] = []
    for rule in cells_v1.ALIKE:
        found += rule(_without_its_cells(deployment, layout))
    found += cells_v1.firewalls(deployment)
    found += cells_v1.writers(deployment)
    try:
        plan = plan or plan_child(deployment, layout, 0.0)
    except RecellError as error:
        found.append(Violation(f"plan:{error.word}", "stop", "layout", error.sentence, error.remedy))
    if world is not None and plan is not None:
        found += live.check_files(world, plan)
        found += _databases(world, plan)
        found += _hosts(world, deployment, layout)
    return cells_v1.sorted_out(found, layout.acknowledge)


def _without_its_cells(deployment: Deployment, layout: CellsV1Layout) -> Deployment:
    """nova-cells of the new child is off, as it has to be."""
    hosts = {h for cell in layout.cells.values() for h in cell.hosts}
    services = tuple(
        s for s in deployment.services if s.host not in hosts or s.role != "cells" or s.active
    )
    return replace(deployment, services=services)


def _databases(world: World, plan: Plan) -> Iterator[Violation]:
    for step in plan.steps:
        if step.kind != "v1-account":
            continue
        try:
            port = world.v1(Conversion.from_json(step.params["conversion"]), Login("recell_check", ""))
            yield from port.child_troubles()
        except RecellError as error:
            yield Violation(f"{error.word}:databases", "stop", "live", error.sentence, error.remedy)


def _hosts(world: World, deployment: Deployment, layout: CellsV1Layout) -> Iterator[Violation]:
    """Where the tree's API database maps the child, nova-conductor wants its hosts there too: it takes the
    mapping of what it builds on any other away."""
    facts = decide(deployment, layout)
    if facts.mapping is None:
        return
    names = sorted({s.nova_host for s in facts.computes})
    try:
        mapped = world.nova().host_cells(names)
    except RecellError as error:
        yield Violation(f"{error.word}:mappings", "stop", "live", error.sentence, error.remedy)
        return
    cell = facts.mapping.uuid
    wrong = [name for name in names if mapped.get(name) != cell]
    if wrong:
        yield Violation(
            "host-mappings",
            "stop",
            "nova_api",
            f"the tree's API database does not map {', '.join(wrong[:5])} to {facts.child}",
            f"With the tree's nova.conf: nova-manage cell_v2 discover_hosts --by-service --cell_uuid {cell}",
        )
