"""A plan against production with nothing written: apply --dry-run and apply --observe."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from recell.adapters.dry import DryWorld
from recell.cli import check as check_command
from recell.cli.desk import Desk, engine_for, must_be_todays, scan_again, world_of
from recell.errors import RecellError, Violations
from recell.journal import Journal
from recell.model.deployment import Deployment
from recell.model.plan import Plan
from recell.model.step import Finding, Step, Truth
from recell.preflight import check, consistency

Seen = Sequence[tuple[Step, Finding]]


def rehearse(desk: Desk, plan: Plan, *, guarded: bool = False) -> tuple[Seen, list[tuple[str, str]]]:
    """What every step finds, and what it would change: (where, what). Reads the real world only; its
    journal is one of its own, thrown away at the end."""
    with tempfile.TemporaryDirectory() as top:
        journal = Journal.create(Path(top) / "journal.sqlite", plan.digest)
        try:
            with journal.writing("rehearse", "forward"), world_of(desk.deployment()) as real:
                world = DryWorld(real)
                seen = engine_for(desk, plan, journal, world).rehearse(guarded=guarded)
        finally:
            journal.close()
    return seen, list(world.record.changes)


def observe(desk: Desk, plan: Plan, as_json: bool, *, stale_matters: bool) -> None:
    """Every read and every check of a plan. Stops at nothing; says all of it at the end.

    :raises Violations: something would stop an apply.
    """
    deployment = desk.deployment()
    trouble: list[tuple[str, str]] = []
    proofs: list[tuple[str, str]] = []

    def prove(name: str, ask: Callable[[], str]) -> None:
        try:
            proofs.append((name, ask()))
        except RecellError as error:
            trouble.append((name, str(error)))

    today = scan_again(deployment, time.time())
    if stale_matters:
        prove("plan", lambda: _todays(plan, today))
    with world_of(deployment) as world:
        found = check_command.without_our_own(desk, plan, check(today, desk.any_layout(), world, plan))
        trouble += [(v.id, f"{v.where}: {v.what}. {v.remedy}") for v in found if v.severity == "stop"]
        for name, proof in consistency.proofs_of(deployment):
            prove(name, lambda p=proof: p(world, deployment))  # type: ignore[misc]
    seen, changes = rehearse(desk, plan, guarded=True)
    trouble += [(s.id, f.why) for s, f in seen if f.truth is Truth.UNKNOWN]
    if as_json:
        content = {
            "steps": [{"id": s.id, "truth": f.truth.value, "why": f.why} for s, f in seen],
            "would": [list(c) for c in changes],
            "proofs": dict(proofs),
            "trouble": [list(t) for t in trouble],
        }
        click.echo(json.dumps(content, indent=1))
    else:
        for step, finding in seen:
            click.echo(f"{step.id}: {finding.truth.value}{f': {finding.why}' if finding.why else ''}")
        for name, said in proofs:
            click.echo(f"ok   {name}: {said}")
        for name, why in trouble:
            click.echo(f"BAD  {name}: {why}")
        click.echo(f"{len(seen)} steps looked at, {len(changes)} changes; nothing was written.")
    if trouble:
        names = ", ".join(name for name, _ in trouble[:5])
        raise Violations(
            f"{len(trouble)} things would stand in the way: {names}", "Mend each, then observe again"
        )


def _todays(plan: Plan, today: Deployment) -> str:
    must_be_todays(plan, today)
    return "made for the state of today"
