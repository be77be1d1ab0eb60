"""recell report"""

from __future__ import annotations

import json
from pathlib import Path

import click

from recell.cli import measuring
from recell.cli.desk import Desk, options
from recell.errors import BadInput
from recell.journal import BESIDE
from recell.model.step import Direction
from recell.probe.record import read_requests
from recell.report.write import document, write_report


@click.command("report", short_help="Measure what became of it: report.json and report.html.")
@options
@click.option(
    "--requests",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="What users got: the file that the probe wrote. Let it end first. Repeat it for each probe that ran:"
    " a guest that its user has deleted is missing only to who doesn't know.",
)
@click.option("--of", type=click.Choice(["apply", "undo"]), help="Which run; the last one by default.")
def command(directory: Path, as_json: bool, requests: tuple[Path, ...], of: str | None) -> None:
    """Measure what became of everything and write report.json and report.html.

    An undo's report goes into undo/ beside them. Read-only on the cloud. Open report.html in a browser, or
    attach it to the change's ticket: it is one file and needs no network.
    """
    desk = Desk(directory)
    plan = desk.plan()
    journal = desk.journal(read_only=True)
    try:
        journal.belongs_to(plan.digest)
        runs = [r for r in journal.runs() if r.verb not in BESIDE]
        if not runs:
            raise BadInput(f"{desk.journal_path} has no run", "Begin with: recell apply")
        direction: Direction = {"apply": "forward", "undo": "backward"}.get(of or "", runs[-1].direction)  # type: ignore[assignment]
        read = [request for path in requests for request in read_requests(path)]
        users = tuple(sorted(read, key=lambda r: r.t0)) if requests else None
        measurement = measuring.measure(desk, plan, journal, direction, users)
    finally:
        journal.close()
    target = directory if direction == "forward" else directory / "undo"
    _, page = write_report(target, measurement)
    content = document(measurement)
    if as_json:
        click.echo(json.dumps(content, indent=1))
        return
    click.echo(
        f"outcome     {content['outcome']} in {content['duration_s']:.0f} s, {len(content['steps'])} steps"
    )
    for name in ("api", "operations", "guests", "rows"):
        part = content[name] or {}
        figures = ", ".join(f"{k} {v}" for k, v in part.items() if isinstance(v, int | float))
        click.echo(f"{name:<11} {figures or 'not measured'}")
    click.echo(f"report      {page}")
