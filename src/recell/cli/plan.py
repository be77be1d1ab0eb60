"""recell plan"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click
from pydantic import ValidationError

from recell.cli.desk import Desk, options
from recell.errors import BadInput
from recell.model.layout import EXAMPLE, RABBIT_EXAMPLE, BrokerLayout, Layout, MovingClients
from recell.model.layout_v1 import CELLS_V1_EXAMPLE, CellsV1Layout
from recell.model.layout_v1_v2 import TREE_EXAMPLE, TreeLayout
from recell.model.plan import Plan, PlanStep, dump_plan
from recell.planning.hosts import wanted
from recell.planning.rabbit import plan_rabbit
from recell.planning.split import make_plan
from recell.planning.v1 import plan_v1
from recell.planning.v1_child import plan_child
from recell.planning.v1_v2 import plan_tree


@click.command("plan", short_help="Make plan.json out of deployment.json and layout.yaml.")
@options
@click.option("--example", is_flag=True, help="Print a layout.yaml to begin with, and stop.")
@click.option("--rabbitmq", is_flag=True, help="With --example: for one RabbitMQ cluster that becomes two.")
@click.option("--cells-v1", is_flag=True, help="With --example: for a standard Nova that gets an API cell.")
@click.option("--from-cells-v1", is_flag=True, help="With --example: for cells v1 that become cells v2.")
@click.option(
    "--hosts", multiple=True, metavar="PATTERN",
    help="Of the hosts that the layout gives to another cell, plan only these. Can be given again.",
)
@click.option(
    "--wave", type=click.IntRange(1, 100), metavar="N",
    help="So many hosts at once, over the layout's word; of RabbitMQ's clients at most 16.",
)
def command(
    directory: Path,
    as_json: bool,
    example: bool,
    rabbitmq: bool,
    cells_v1: bool,
    from_cells_v1: bool,
    hosts: tuple[str, ...],
    wave: int | None,
) -> None:
    """Make plan.json out of deployment.json and layout.yaml, and print it in words.

    For every step: what, where, what users notice, how it is undone, until when. Nothing is touched.

    \b
    Examples:
      recell plan --example > layout.yaml     the cells you want; edit it
      recell plan
      recell plan --hosts cmp3                one host first
    """
    if example:
        asked = ((rabbitmq, RABBIT_EXAMPLE), (cells_v1, CELLS_V1_EXAMPLE), (from_cells_v1, TREE_EXAMPLE))
        click.echo(next((example for flag, example in asked if flag), EXAMPLE), nl=False)
        return
    desk = Desk(directory)
    layout = desk.any_layout()
    if isinstance(layout, BrokerLayout):
        plan = plan_rabbit(desk.deployment(), clients_waves(layout, wave), time.time())
        if wave is not None:
            if not any("wave" in s.params for s in plan.steps) and wave > 1:
                raise BadInput(
                    "--wave is about nova-computes and Neutron agents that move, and the layout moves none",
                    "Leave it out",
                )
            plan = replace(plan, layout=layout.digest()).sealed()
    elif isinstance(layout, CellsV1Layout):
        deployment = desk.deployment()
        make = plan_child if deployment.generation == "v1" else plan_v1
        plan = make(deployment, layout, time.time())
    elif isinstance(layout, TreeLayout):
        plan = plan_tree(desk.deployment(), layout, time.time())
    else:
        plan = make_plan(desk.deployment(), waves_of(layout, wave), time.time(), hosts)
        if wave is not None:
            plan = replace(plan, layout=layout.digest()).sealed()
    desk.save(desk.plan_path, dump_plan(plan))
    click.echo(dump_plan(plan).decode() if as_json else text(plan), nl=False)


def waves_of(layout: Layout, wave: int | None) -> Layout:
    """The layout with so many hosts at once. :raises BadInput: it moves none."""
    if wave is None:
        return layout
    if not wanted(layout):
        raise BadInput("--wave is about hosts that move, and the layout moves none", "Leave it out")
    return layout.model_copy(update={"moving": layout.moving.model_copy(update={"wave": wave})})


def clients_waves(layout: BrokerLayout, wave: int | None) -> BrokerLayout:
    """The layout with so many clients of RabbitMQ at once. :raises BadInput: it is too many."""
    if wave is None:
        return layout
    try:
        return layout.model_copy(update={"moving": MovingClients(wave=wave)})
    except ValidationError:
        raise BadInput(
            f"--wave {wave}: of RabbitMQ's clients at most 16 move at once", "Give a smaller number"
        ) from None


def _leave(step: PlanStep) -> str:
    """Whether the plan may be left for a night after this step."""
    if step.safe_point in ("", step.id):
        return "after this step, as long as you like"
    return f"not here for long; the last safe point is {step.safe_point}"


def text(plan: Plan) -> str:
    """A plan in words."""
    lines = [
        f"Plan {plan.id}: {plan.kind}, {len(plan.steps)} steps,"
        f" about {sum(s.estimate_s for s in plan.steps if s.acts != 'backward') / 60:.0f} min",
        "",
    ]
    number = 0
    for step in plan.steps:
        if step.acts == "backward":
            continue
        number += 1
        lines += [
            f"{number:3}. {step.id}  (on {step.where})",
            f"     what:    {step.title}",
            f"     users:   {step.notice}",
            f"     undone:  {step.undone}, until recell {step.until}",
            f"     leave:   {_leave(step)}",
        ]
    backward = [s for s in plan.steps if s.acts == "backward"]
    if backward:
        lines += ["", "Only on the way back (recell undo walks the list from its end):"]
        lines += [f"     {s.id}: {s.title}" for s in backward]
    lines += ["", "Know before you begin:"] + [f"  - {r}" for r in plan.remarks]
    return "\n".join(lines) + "\n"
