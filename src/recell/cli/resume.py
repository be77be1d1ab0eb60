"""recell resume"""

from __future__ import annotations

from pathlib import Path

import click

from recell.cli import apply, completion, undo
from recell.cli.desk import Desk, lost_option, options, refuse_if, standing
from recell.errors import BadInput


@click.command("resume", short_help="Go on where an apply or an undo stopped or was killed.")
@options
@lost_option
@click.option(
    "--pause-before",
    multiple=True,
    metavar="STEP",
    shell_complete=completion.steps,
    help="Stop before this step.",
)
def command(directory: Path, as_json: bool, lost: tuple[str, ...], pause_before: tuple[str, ...]) -> None:
    """Go on where an apply or an undo stopped, was paused or was killed, in its direction.

    A step without an outcome is looked at first: not done, done, partial; or unknown, then recell
    stops and says what to look at.

    \b
    Examples:
      recell resume
      recell resume --pause-before ctl2/drain
    """
    desk = Desk(directory)
    plan = desk.plan()
    where = standing(desk, plan)
    refuse_if(where, ("finished",), "resume")
    if where in ("undoing", "undone"):
        undo.run(desk, plan, "resume", as_json, measure=True, lost=lost)
    else:
        if lost:
            raise BadInput("there is no way forward with a lost broker", "Go back with: recell undo --lost")
        apply.run(desk, plan, "resume", as_json, pause_before, measure=True)
