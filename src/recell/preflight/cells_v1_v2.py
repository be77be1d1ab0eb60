"""Reasons not to take a tree of cells v1 to cells v2."""

from __future__ import annotations

from collections.abc import Iterator

from recell.adapters.ports import World
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.layout_v1_v2 import TreeLayout
from recell.model.plan import Plan
from recell.model.violation import Violation
from recell.planning.draft import CELL0
from recell.planning.v1_v2 import plan_tree
from recell.preflight import cells_v1, live


def check(
    deployment: Deployment, layout: TreeLayout, world: World | None = None, plan: Plan | None = None
) -> tuple[Violation, ...]:
    """Why there is no plan, and what would stop it. With a world, as it is this minute."""
    found: list[Violation] = []
    for rule in cells_v1.ALIKE:
        found += rule(deployment)
    found += cells_v1.firewalls(deployment)
    found += cells_v1.writers(deployment)
    try:
        plan = plan or plan_tree(deployment, layout, 0.0)
    except RecellError as error:
        found.append(Violation(f"plan:{error.word}", "stop", "layout", error.sentence, error.remedy))
    if world is not None and plan is not None:
        found += live.check_files(world, plan)
        found += cells_v1.gates(world, plan)
        found += _taught(world, plan)
        found += cells_v1.databases(world, plan, "v2-switch")  # undo copies to the API cell anew
        found += _hosts(world, deployment)
    return cells_v1.sorted_out(found, layout.acknowledge)


def _taught(world: World, plan: Plan) -> Iterator[Violation]:
    """A gate that is there already is another plan's."""
    for step in plan.steps:
        if step.kind != "v1-servers":
            continue
        backend = str(step.params["backend"])
        try:
            left = world.gate(step.where, backend).left()
        except RecellError:
            continue  # cells_v1.gates says it
        if left:
            yield Violation(
                f"in-the-way:{step.where}:{backend}",
                "stop",
                step.where,
                f"HAProxy has a gate before {backend} already",
                "End the conversion that made it: recell finish (or undo) in its directory, then scan again",
            )


def _hosts(world: World, deployment: Deployment) -> Iterator[Violation]:
    """Cells v2 find a compute by its mapping; cells v1 go on without."""
    names = sorted({s.nova_host for s in deployment.role("compute")})
    child = next((m.uuid for m in deployment.mappings if m.uuid != CELL0), "")
    try:
        mapped = world.nova().host_cells(names)
    except RecellError as error:
        yield Violation(f"{error.word}:mappings", "stop", "live", error.sentence, error.remedy)
        return
    wrong = [name for name in names if mapped.get(name) != child]
    if wrong:
        yield Violation(
            "host-mappings",
            "stop",
            "nova_api",
            f"{', '.join(wrong[:5])} {'is' if len(wrong) == 1 else 'are'} not mapped to the child's cell",
            f"nova-manage cell_v2 discover_hosts --cell_uuid {child}",
        )
