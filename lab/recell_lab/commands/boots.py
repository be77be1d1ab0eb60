"""recell-lab boots."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from recell_lab import children


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="All findings.")
@click.option("--spread", is_flag=True, help="By free memory, to both children in turn.")
@click.option("--capability", is_flag=True, help="Past a child whose capabilities don't fit.")
@click.option("--mute", "mute_s", type=click.FloatRange(1), metavar="SECONDS",
              help="Past a child that was not heard of for the API cell's mute_child_interval.")
@click.option("--alone", default="", metavar="CHILD", help="To this child, the only one.")
def command(out: Path, spread: bool, capability: bool, mute_s: float | None, alone: str) -> None:
    """Boot guests in a tree of cells v1 with a second child, and see in both children's databases where they
    went. Ends with 1 when one is not where it belongs."""
    trial = children.Trial(children.RealTree(), click.echo)
    if spread:
        trial.spread()
    if capability:
        trial.capability()
    if mute_s is not None:
        trial.mute(mute_s)
    if alone:
        trial.alone(alone)
    found = children.told(trial)
    out.write_text(json.dumps(found, indent=1))
    live = ", ".join(f"{count} in {child}" for child, count in found["counts"].items())
    click.echo(f"live instances: {live}")
    for line in trial.wrong:
        click.echo(f"BAD  {line}")
    sys.exit(1 if trial.wrong else 0)
