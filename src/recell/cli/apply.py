"""recell apply"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from recell.adapters.dry import DryWorld
from recell.cli import check as check_command
from recell.cli import measuring
from recell.cli.desk import (
    Desk,
    drive,
    engine_for,
    must_be_todays,
    options,
    refuse_if,
    standing,
    world_of,
)
from recell.cli.output import observer
from recell.discovery import scan
from recell.engine import Engine
from recell.errors import BadInput, StalePlan
from recell.journal import Journal
from recell.model.plan import Plan
from recell.preflight import check


@click.command("apply")
@options
@click.option(
    "--dry-run", is_flag=True, help="Read everything for real, change nothing, say what would change."
)
@click.option(
    "--pause-before", multiple=True, metavar="STEP", help="Stop before this step (again and again)."
)
@click.option("--no-measure", is_flag=True, help="Take no snapshots of guests and rows for the report.")
def command(
    directory: Path,
    as_json: bool,
    dry_run: bool,
    pause_before: tuple[str, ...],
    no_measure: bool,
) -> None:
    """Do what plan.json says, while users keep working. Applied twice it changes nothing.

    Refuses a plan that was edited or made for another state than today's, and anything that
    `recell check` would stop at.
    """
    desk = Desk(directory)
    plan = desk.plan()
    if plan.layout != desk.layout().digest():
        raise StalePlan("layout.yaml was changed since the plan was made", "Plan again with: recell plan")
    unknown = set(pause_before) - {s.id for s in plan.steps}
    if unknown:
        raise BadInput(
            f"--pause-before names no step of the plan: {', '.join(sorted(unknown))}",
            "See the ids with: recell status",
        )
    fresh = not desk.journal_path.exists()
    if not fresh:
        where = standing(desk, plan)
        refuse_if(where, ("undoing", "finished"), "apply")
        fresh = where == "undone"
    if fresh or dry_run:
        _ready(desk, plan, stale_matters=fresh)
    if dry_run:
        _rehearse(desk, plan, as_json)
        return
    if not desk.journal_path.exists():
        Journal.create(desk.journal_path, plan.digest).close()
    run(desk, plan, "apply", as_json, pause_before, measure=not no_measure)


def run(
    desk: Desk,
    plan: Plan,
    verb: str,
    as_json: bool,
    pause_before: tuple[str, ...] = (),
    *,
    measure: bool,
) -> None:
    """Forward, with measurements around it."""
    journal = desk.journal()
    try:
        if measure:
            measuring.before(desk, plan, journal, "forward")
        drive(desk, plan, journal, verb, "forward", observer(as_json), pause_before)
    finally:
        journal.close()
    if not as_json:
        click.echo(
            "Done. Look at it with: recell verify, recell report. Until recell finish, recell undo goes back."
        )


def _ready(desk: Desk, plan: Plan, *, stale_matters: bool) -> None:
    deployment = desk.deployment()
    today = scan([(h.name, h.address) for h in deployment.hosts], time.time())
    if stale_matters:
        must_be_todays(plan, today)
    with world_of(deployment) as world:
        found = check(today, desk.layout(), world, plan)
    check_command.refuse(check_command.without_our_own(desk, plan, found))


def _rehearse(desk: Desk, plan: Plan, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as top:
        journal = Journal.create(Path(top) / "journal.sqlite", plan.digest)
        with journal.writing("rehearse", "forward"), world_of(desk.deployment()) as real:
            world = DryWorld(real)
            engine: Engine = engine_for(desk, plan, journal, world)
            seen = engine.rehearse()
        journal.close()
    changes = [(c.where, c.what) if not isinstance(c, tuple) else c for c in world.record.changes]
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
