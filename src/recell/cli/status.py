"""recell status"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from recell.cli.desk import Desk, options
from recell.journal import OPERATOR, Entry, Journal, position
from recell.model.plan import Plan


@click.command("status", short_help="Say where a conversion stands; reaches no host.")
@options
def command(directory: Path, as_json: bool) -> None:
    """Where a conversion stands, out of plan.json and the journal. Reaches no host.

    Can be asked at any time, also while another recell is at work. Lists every step with its id, which is
    what --pause-before takes.
    """
    desk = Desk(directory)
    plan = desk.plan()
    if not desk.journal_path.exists():
        state: dict[str, Any] = {"position": "new", "steps": _steps(plan, {}), "runs": []}
    else:
        journal = desk.journal(read_only=True)
        journal.belongs_to(plan.digest)
        entries = {s.id: journal.last(s.id) for s in plan.steps}
        state = {
            "position": position(plan, journal),
            "backup": journal.recall(OPERATOR, "backup"),
            "way_back": _way_back(plan, journal),
            "steps": _steps(plan, entries),
            "runs": [
                {
                    "verb": r.verb,
                    "began": r.began,
                    "ended": r.ended,
                    "outcome": r.outcome,
                    "machine": r.machine,
                    "pid": r.pid,
                }
                for r in journal.runs()
            ],
        }
    if as_json:
        click.echo(json.dumps(state, indent=1))
        return
    click.echo(f"{plan.kind} {plan.id}: {state['position']}")
    if state.get("backup"):
        click.echo(f"  backup: {state['backup']['words']}")
    if state.get("way_back"):
        click.echo(f"  way back: {state['way_back']['words']}")
    for step in state["steps"]:
        when = time.strftime("%H:%M:%S", time.localtime(step["at"])) if step["at"] else ""
        phase = f"{step['direction']} {step['phase']}" if step["phase"] else "not begun"
        click.echo(f"  {step['id']:<40} {phase:<20} {when}  {step['detail'].get('why', '')}".rstrip())
    for run in state["runs"][-3:]:
        click.echo(
            f"  run: recell {run['verb']} by pid {run['pid']} on {run['machine']}:"
            f" {run['outcome'] or 'no end written (running, or killed)'}"
        )


def _way_back(plan: Plan, journal: Journal) -> dict[str, Any] | None:
    """Until when a database that moved can be brought back; ``until`` None: nothing limits it."""
    for step in plan.steps:
        if step.kind != "switch-database" or journal.finished:
            continue
        last, known = journal.last(step.id), journal.recall(step.id, "way-back")
        if known is None or last is None or (last.direction == "backward" and last.phase != "started"):
            continue
        server = f"{step.params['ends']['new']['address']}:{step.params['ends']['new']['port']}"
        if not known["kept_s"]:
            words = f"undo works as long as nobody purges the binary log of {server}"
            return {"until": None, "words": words}
        until = known["at"] + known["kept_s"]
        when = time.strftime("%d %b %H:%M", time.localtime(until))
        said = "has purged" if until < time.time() else "purges"
        return {
            "until": until,
            "words": f"{server} {said} its binary log of the switch at {when}; undo the database's move"
            " before then, or let that server keep it longer",
        }
    return None


def _steps(plan: Plan, entries: Mapping[str, Entry | None]) -> list[dict[str, Any]]:
    """Every step with the newest word on it."""
    return [
        {
            "id": s.id,
            "title": s.title,
            "where": s.where,
            "direction": e.direction if e else None,
            "phase": e.phase if e else None,
            "at": e.at if e else None,
            "detail": e.detail if e else {},
        }
        for s in plan.steps
        for e in [entries.get(s.id)]
    ]
