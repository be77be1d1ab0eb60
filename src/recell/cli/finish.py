"""recell finish"""

from __future__ import annotations

from pathlib import Path

import click

from recell.cli.desk import Desk, hosts_of, options, world_of
from recell.errors import Locked
from recell.journal import position
from recell.steps import Context, bind


@click.command("finish", short_help="Close the way back and let the hosts go.")
@options
@click.confirmation_option(
    prompt="The way back ends here: old values are removed from the hosts. Finish?",
    help="Finish without being asked.",
)
def command(directory: Path, as_json: bool) -> None:
    """Close the way back: remove the old values that were kept on the hosts, and let the hosts go.

    There is no undo afterwards. Before it, export what your tools must learn (recell export), and let some
    days pass.
    """
    desk = Desk(directory)
    plan = desk.plan()
    journal = desk.journal()
    try:
        journal.belongs_to(plan.digest)
        where = position(plan, journal)
        if where not in ("applied", "undone", "finished"):
            raise Locked(
                f"recell finish can't go on: the conversion is {where}",
                "Bring it to an end first with: recell resume, or recell undo",
            )
        with journal.writing("finish", "forward") as epoch, world_of(desk.deployment()) as world:
            world.claim(desk.fence(journal, epoch, "recell finish"), *hosts_of(plan))
            if where == "applied":
                context = Context(world, journal, plan.id, plan.fingerprints, desk.limits())
                for step in reversed(bind(plan, context)):
                    step.finish()
            journal.finish()
            for name in hosts_of(plan):
                world.host(name).forget(plan.id)
            world.release(*hosts_of(plan))
    finally:
        journal.close()
    click.echo(
        '{"finished": true}'
        if as_json
        else "Finished: nothing of recell's is left on the hosts but what the plan built."
    )
