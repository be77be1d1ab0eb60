"""recell undo"""

from __future__ import annotations

from pathlib import Path

import click

from recell.cli import measuring
from recell.cli.desk import Desk, drive, options, refuse_if, standing
from recell.cli.output import observer
from recell.model.plan import Plan


@click.command("undo")
@options
@click.option("--no-measure", is_flag=True, help="Take no snapshots of guests and rows for the report.")
def command(directory: Path, as_json: bool, no_measure: bool) -> None:
    """Go back to the former deployment, last step first, while users keep working.

    From the middle of an apply as well as after its success, until `recell finish`.
    """
    desk = Desk(directory)
    plan = desk.plan()
    refuse_if(standing(desk, plan), ("finished",), "undo")
    run(desk, plan, "undo", as_json, measure=not no_measure)


def run(desk: Desk, plan: Plan, verb: str, as_json: bool, *, measure: bool) -> None:
    """Backward, with measurements around it."""
    journal = desk.journal()
    try:
        if measure:
            measuring.before(desk, plan, journal, "backward")
        drive(desk, plan, journal, verb, "backward", observer(as_json))
    finally:
        journal.close()
    if not as_json:
        click.echo("Undone: the deployment is as it was. recell apply would do it again.")
