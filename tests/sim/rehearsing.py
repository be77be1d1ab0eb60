"""A plan that is observed, or would be carried out by hand: nothing is written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recell.adapters.dry import DryWorld
from recell.engine import Engine
from recell.journal import Journal
from recell.model.plan import Plan
from recell.model.step import Truth
from recell.planning import runbook
from recell.steps import Context, bind
from tests.sim.desk import LIMITS
from tests.sim.world import SimWorld


def rehearsed(world: SimWorld, plan: Plan, directory: Path) -> tuple[Any, DryWorld]:
    journal = Journal.create(directory / "journal.sqlite", plan.digest)
    pretended = DryWorld(world)
    context = Context(pretended, journal, plan.id, plan.fingerprints, LIMITS)
    try:
        with journal.writing("rehearse", "forward"):
            return Engine(bind(plan, context), journal).rehearse(guarded=True), pretended
    finally:
        journal.close()


def observed(world: SimWorld, plan: Plan, directory: Path) -> list[str]:
    """What a run would change. Nothing was, and every step knew what it saw."""
    before, changes = world.picture(), list(world.changes)
    seen, pretended = rehearsed(world, plan, directory)
    assert world.picture() == before and world.changes == changes
    assert not [(s.id, f.why) for s, f in seen if f.truth is Truth.UNKNOWN]
    return [what for _, what in pretended.record.changes]


def by_hand(plan: Plan, known: Callable[[str, str], Any] = lambda step, key: None) -> None:
    """``sh -n`` reads each command of the runbook. ``known``: what the journal remembers."""
    for hand in (*runbook.back(plan, known), *runbook.forth(plan, known)):
        for command in hand.commands:
            ended = subprocess.run(["sh", "-n"], input=command, text=True, capture_output=True, check=False)
            assert ended.returncode == 0, (command, ended.stderr)
