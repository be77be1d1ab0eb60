"""recell apply"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from recell.cli import check as check_command
from recell.cli import completion, measuring, moving
from recell.cli import observe as observe_command
from recell.cli.desk import (
    Desk,
    drive,
    must_be_todays,
    options,
    recalled,
    refuse_if,
    scan_again,
    standing,
    world_of,
)
from recell.cli.output import observer
from recell.errors import BadInput, StalePlan
from recell.journal import OPERATOR, Journal, position
from recell.model.plan import Plan
from recell.preflight import check


@click.command("apply")
@options
@click.option(
    "--dry-run", is_flag=True, help="Read everything for real, change nothing, say what would change."
)
@click.option(
    "--observe",
    is_flag=True,
    help="As --dry-run, and make every check of every step as well: nothing is written, all that would"
    " stand in the way is said at once.",
)
@click.option(
    "--pause-before",
    multiple=True,
    metavar="STEP",
    shell_complete=completion.steps,
    help="Stop before this step (again and again).",
)
@click.option(
    "--backup",
    metavar="WORDS",
    help="Names the restore-tested backup of the databases that the plan writes to; kept in the journal."
    " Asked for on a terminal when it is missing.",
)
@moving.options
@click.option("--no-measure", is_flag=True, help="Take no snapshots of guests and rows for the report.")
def command(
    directory: Path,
    as_json: bool,
    dry_run: bool,
    observe: bool,
    pause_before: tuple[str, ...],
    backup: str | None,
    no_measure: bool,
    waves: int | None,
    **given: Any,
) -> None:
    """Do what plan.json says, while users keep working. Applied twice it changes nothing.

    Refuses a plan that was edited or made for another state than today's, anything that `recell check`
    would stop at, and to begin before you have named a backup that was restored for a test: recell undoes
    what it did, not what a database server does on its own.

    \b
    Examples:
      recell apply --observe
      recell apply --backup "dump of 20 Nov, restored on db9" --pause-before ctl1/drain
      recell apply --waves 1 --window 22:00-05:00 --api-errors 0
    """
    desk = Desk(directory)
    plan = desk.plan()
    if plan.layout != desk.any_layout().digest():
        raise StalePlan("layout.yaml was changed since the plan was made", "Plan again with: recell plan")
    unknown = set(pause_before) - {s.id for s in plan.steps}
    if unknown:
        raise BadInput(
            f"--pause-before names no step of the plan: {', '.join(sorted(unknown))}",
            "See the ids with: recell status",
        )
    asked = moving.words(plan, {"waves": waves, **given})
    fresh = not desk.journal_path.exists()
    said: dict[str, Any] = {}
    known: dict[str, Any] | None = None
    if not fresh:
        where = standing(desk, plan)
        refuse_if(where, ("undoing", "finished"), "apply")
        known = recalled(desk, "backup")
        asked = (recalled(desk, "moving") or {}) | asked
        journal = desk.journal(read_only=True)
        pause_before += moving.pauses(plan, journal, waves)
        journal.close()
        fresh = where == "undone"
    else:
        pause_before += moving.pauses(plan, None, waves)
    asked.pop("waves", None)
    if not (dry_run or observe) and (backup is not None or known is None):
        said["backup"] = backup_words(plan, backup, ask=sys.stdin.isatty() and not as_json)
    if asked:
        said["moving"] = asked
    if observe:
        observe_command.observe(desk, plan, as_json, stale_matters=fresh)
        return
    if fresh or dry_run:
        _ready(desk, plan, stale_matters=fresh)
    if dry_run:
        _rehearse(desk, plan, as_json)
        return
    if not desk.journal_path.exists():
        Journal.create(desk.journal_path, plan.digest).close()
    run(desk, plan, "apply", as_json, pause_before, measure=not no_measure, said=said)


def backup_words(plan: Plan, words: str | None, *, ask: bool) -> dict[str, Any]:
    """What the operator says of a backup, as the journal keeps it.

    recell can't see a backup, and less that it was restored: only a person can say so, and signs for it
    with words that name it. :raises BadInput: nothing was said.
    """
    names = ", ".join(plan.databases)
    if words is None and ask and names:
        words = click.prompt(
            f"Which restore-tested backup is there of {names}? (kept in the journal)", err=True
        )
    if names and not (words or "").strip():
        raise BadInput(
            f"the plan writes to the databases of {names}, and no restore-tested backup of them was named",
            'Restore one for a test, then say which it is: recell apply --backup "WORDS"',
        )
    return {"words": (words or "").strip(), "of": list(plan.databases), "at": time.time()}


def run(
    desk: Desk,
    plan: Plan,
    verb: str,
    as_json: bool,
    pause_before: tuple[str, ...] = (),
    *,
    measure: bool,
    said: dict[str, Any] | None = None,
) -> None:
    """Forward, with measurements around it."""
    journal = desk.journal()
    try:
        signed = "backup" in (said or {}) or journal.recall(OPERATOR, "backup") is not None
        if not signed and position(plan, journal) == "new":
            # Killed after it made its journal and before it wrote there what the operator said.
            backup_words(plan, None, ask=False)
        if measure:
            measuring.before(desk, plan, journal, "forward")
        drive(desk, plan, journal, verb, "forward", observer(as_json), pause_before, said=said)
    finally:
        journal.close()
    if not as_json:
        click.echo(
            "Done. Look at it with: recell verify, recell report. Until recell finish, recell undo goes back."
        )


def _ready(desk: Desk, plan: Plan, *, stale_matters: bool) -> None:
    deployment = desk.deployment()
    today = scan_again(deployment, time.time())
    if stale_matters:
        must_be_todays(plan, today)
    with world_of(deployment) as world:
        found = check(today, desk.any_layout(), world, plan)
    check_command.refuse(check_command.without_our_own(desk, plan, found))


def _rehearse(desk: Desk, plan: Plan, as_json: bool) -> None:
    seen, changes = observe_command.rehearse(desk, plan)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "steps": [{"id": s.id, **{k: str(v) for k, v in asdict(f).items()}} for s, f in seen],
                    "would": [list(c) for c in changes],
                },
                indent=1,
            )
        )
        return
    for where, what in changes:
        click.echo(f"would on {where}: {what}")
    click.echo(f"{len(changes)} changes in {len(seen)} steps; nothing was changed.")
