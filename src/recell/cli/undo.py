"""recell undo"""

from __future__ import annotations

from pathlib import Path

import click

from recell.cli import measuring
from recell.cli.desk import Desk, drive, lost_option, new_brokers, options, refuse_if, standing
from recell.cli.output import observer
from recell.errors import BadInput, Unreachable
from recell.model.plan import Plan


@click.command("undo", short_help="Go back to the former deployment while users keep working.")
@options
@lost_option
@click.option("--no-measure", is_flag=True, help="Take no snapshots of guests and rows for the report.")
def command(directory: Path, as_json: bool, lost: tuple[str, ...], no_measure: bool) -> None:
    """Go back to the former deployment, last step first, while users keep working.

    From the middle of an apply as well as after its success, until `recell finish`. Interrupted, it goes on
    with: recell resume.

    \b
    Examples:
      recell undo
      recell undo --lost mq4                  the new broker burnt down
    """
    desk = Desk(directory)
    plan = desk.plan()
    refuse_if(standing(desk, plan), ("finished",), "undo")
    run(desk, plan, "undo", as_json, measure=not no_measure, lost=lost)


def run(
    desk: Desk, plan: Plan, verb: str, as_json: bool, *, measure: bool, lost: tuple[str, ...] = ()
) -> None:
    """Backward, with measurements around it."""
    unknown = set(lost) - new_brokers(plan)
    if unknown:
        raise BadInput(
            f"--lost names no broker that this plan moves services to: {', '.join(sorted(unknown))}",
            f"It can be: {', '.join(sorted(new_brokers(plan))) or 'none, this plan moves no broker'}",
        )
    journal = desk.journal()
    try:
        if measure:
            measuring.before(desk, plan, journal, "backward")
        drive(desk, plan, journal, verb, "backward", observer(as_json), lost=frozenset(lost))
    except Unreachable as error:
        if lost or not new_brokers(plan):
            raise
        hint = f"or, when the new broker is dead for good: recell undo --lost {' '.join(new_brokers(plan))}"
        raise Unreachable(error.sentence, f"{error.remedy}; {hint}") from None
    finally:
        journal.close()
    if not as_json:
        click.echo("Undone: the deployment is as it was. recell apply would do it again.")
