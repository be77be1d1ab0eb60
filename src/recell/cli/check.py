"""recell check"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from recell.cli.desk import Desk, options, world_of
from recell.errors import Violations
from recell.model.violation import Violation
from recell.preflight import check


@click.command("check")
@options
@click.option("--offline", is_flag=True, help="Look at the files only; reach no host.")
def command(directory: Path, as_json: bool, offline: bool) -> None:
    """Name every reason not to begin, at once, each with its remedy. Changes nothing."""
    desk = Desk(directory)
    deployment, layout = desk.deployment(), desk.layout()
    plan = desk.plan() if desk.plan_path.exists() else None
    if offline:
        found = check(deployment, layout, None, plan)
    else:
        with world_of(deployment) as world:
            found = check(deployment, layout, world, plan)
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


def refuse(found: Sequence[Violation]) -> None:
    """:raises Violations: at least one of them stops."""
    stops = [v.id for v in found if v.severity == "stop"]
    if stops:
        raise Violations(
            f"{len(stops)} reasons not to begin: {', '.join(stops[:5])}",
            "Mend each as `recell check` says, then scan and plan again",
        )
