"""recell rows"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from recell.adapters.mover_port import MoverPort
from recell.cli.desk import Desk, hosts_of, options, refuse_if, world_of
from recell.errors import BadInput, Locked
from recell.journal import Journal, position
from recell.model.moving import Pace
from recell.steps import Context, bind
from recell.steps.database import MEMORY, FollowDatabase

_WHERE = {
    "none": "no row is being moved",
    "copying": "rows are being copied",
    "following": "all rows are there, and changes follow",
    "drained": "both sides were proven equal, and nothing has changed since",
}


@click.command("rows", short_help="How a database's rows move: how far, how fast; compare them.")
@options
@click.option("--rate", type=click.IntRange(min=0), metavar="N",
              help="Read at most N rows a second from now on; 0: as fast as the servers bear.")
@click.option("--pause", "paused", flag_value=True, default=None, type=bool,
              help="Copy and compare nothing for now.")
@click.option("--go-on", "paused", flag_value=False, type=bool, help="After --pause.")
@click.option("--compare", is_flag=True,
              help="Compare every row of both servers, while users go on; ended, it goes on from there.")
def command(directory: Path, as_json: bool, rate: int | None, paused: bool | None, compare: bool) -> None:
    """How far the rows of a database that moves are, and how fast they are read; of plans that move one.

    --rate, --pause and --go-on can be said at any time, also while recell apply copies in another terminal:
    it heeds them within a second or two. Changes that users make go on being applied while it is paused.
    recell slows down by itself when the old server answers late or its replicas lag.

    \b
    --compare exits with 0   every row is the same on both sides
                         11  it can't be known which side's rows are the newer ones; nothing is written
                         12  rows differ; they are named by table and key
    """
    desk = Desk(directory)
    plan = desk.plan()
    if not any(s.kind == FollowDatabase.kind for s in plan.steps):
        raise BadInput("this plan moves no database",
                       "Ask of one whose layout.yaml has database: {host: ...}")
    journal = desk.journal(read_only=not compare)
    try:
        journal.belongs_to(plan.digest)
        where = position(plan, journal)
        refuse_if(where, ("new", "finished"), "rows")
        if journal.recall(MEMORY, "password") is None:
            raise Locked("recell rows can't go on: the run has not come to the rows yet",
                         "recell status says how far it is")
        with ExitStack() as stack:
            world = stack.enter_context(world_of(desk.deployment()))
            if compare:
                direction = journal.runs()[-1].direction
                epoch = stack.enter_context(journal.writing("rows", direction))
                world.claim(desk.fence(journal, epoch, "recell rows"), *hosts_of(plan))
            found = [s for s in bind(plan, Context(world, journal, plan.id, plan.fingerprints, desk.limits()))
                     if isinstance(s, FollowDatabase)]
            said = [_one(step, journal, rate, paused, compare) for step in found]
    finally:
        journal.close()
    if as_json:
        click.echo(json.dumps(said, indent=1))
        return
    for one in said:
        for line in _lines(one):
            click.echo(line)


def _one(step: FollowDatabase, journal: Journal, rate: int | None, paused: bool | None, compare: bool
         ) -> dict[str, Any]:
    mover = step.mover()
    pace = _paced(mover, rate, paused)
    said: dict[str, Any] = {
        "database": step.ends.database, "old": step.ends.old.where, "new": step.ends.new.where,
        **asdict(standing := mover.standing()), "words": _WHERE[standing.phase],
        "pace": None if pace is None else {**asdict(pace), "words": str(pace)},
        "progress": step.recall("progress") if standing.phase == "copying" else None,
    }
    if compare:
        said["compared"] = step.compare(_tell)
    return said


def _paced(mover: MoverPort, rate: int | None, paused: bool | None) -> Pace | None:
    now = mover.pace()
    if rate is None and paused is None:
        return now
    if now is None:
        raise Locked("recell rows can't go on: no row is being moved", "Ask again once the copy has begun")
    wanted = replace(now, rate=now.rate if rate is None else float(rate),
                     paused=now.paused if paused is None else paused)
    mover.set_pace(wanted)
    return wanted


def _tell(figures: dict[str, float]) -> None:
    if sys.stderr.isatty():
        click.echo("\r" + _figures(figures) + "\033[K", nl=False, err=True)


def _figures(figures: dict[str, float]) -> str:
    words = {"rows": "{:,.0f} rows", "rows_per_s": "{:,.0f} rows/s", "lag_s": "{:.1f} s behind",
             "eta_s": "about {:.0f} s left"}
    return ", ".join(words[name].format(figures[name]) for name in words if name in figures)


def _lines(one: dict[str, Any]) -> list[str]:
    ends = [one["old"], one["new"]]
    if one["backward"]:
        ends.reverse()
    lines = [f"{one['database']}: {one['words']} ({ends[0]} -> {ends[1]})"]
    if one["progress"]:
        lines.append(f"  {_figures(one['progress'])}")
    if one["pace"]:
        lines.append(f"  pace: {one['pace']['words']}")
    if "compared" in one:
        lines.append(f"  {one['compared']}")
    return lines
