"""recell check"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from recell.cli.desk import Desk, options, world_of
from recell.errors import Violations
from recell.model.plan import Plan
from recell.model.violation import Violation
from recell.preflight import check


@click.command("check")
@options
@click.option("--offline", is_flag=True, help="Look at the files only; reach no host.")
def command(directory: Path, as_json: bool, offline: bool) -> None:
    """Name every reason not to begin, at once, each with its remedy. Changes nothing.

    What stops may be acknowledged in layout.yaml where it says so; the rest has to be mended. Afterwards
    scan and plan again: a plan is made for one state of the deployment.

    \b
    Exit code: 0  nothing stops (warnings do not count)
               7  something does
    """
    desk = Desk(directory)
    deployment, layout = desk.deployment(), desk.any_layout()
    plan = desk.plan() if desk.plan_path.exists() else None
    if offline:
        found = check(deployment, layout, None, plan)
    else:
        with world_of(deployment) as world:
            found = check(deployment, layout, world, plan)
    found = without_our_own(desk, plan, found)
    if as_json:
        click.echo(json.dumps([asdict(v) for v in found], indent=1))
    else:
        click.echo(text(found), nl=False)
    refuse(found)


def text(found: Sequence[Violation]) -> str:
    if not found:
        return "Nothing stands in the way.\n"
    return "".join(
        f"{v.severity.upper():8}{v.id}\n        {v.where}: {v.what}\n        -> {v.remedy}\n" for v in found
    )


def without_our_own(desk: Desk, plan: Plan | None, found: Sequence[Violation]) -> tuple[Violation, ...]:
    """Leave out files that an undo put back as their processes had read them, only younger."""
    if plan is None or not desk.journal_path.exists():
        return tuple(found)
    ours = {s.where for s in plan.steps if s.kind == "edit-config"}
    return tuple(v for v in found if not (v.id.startswith("stale:") and v.where in ours))


def refuse(found: Sequence[Violation]) -> None:
    """:raises Violations: at least one of them stops."""
    stops = [v.id for v in found if v.severity == "stop"]
    if stops:
        raise Violations(
            f"{len(stops)} reasons not to begin: {', '.join(stops[:5])}",
            "Mend each as `recell check` says, then scan and plan again",
        )
