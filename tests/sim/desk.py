"""An operator with a plan and a journal, who can be killed and sit down again."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recell.engine import Engine
from recell.engine.run import Observer
from recell.errors import Paused
from recell.journal import Journal
from recell.model.plan import Plan
from recell.planning.split import plan_split
from recell.steps import Context, bind
from tests.sim.cloud import layout, scan
from tests.sim.world import Killed, SimWorld

LIMITS = {"drain_s": 60.0, "quiet_s": 60.0, "stop_s": 60.0, "start_s": 60.0}


class DyingJournal(Journal):
    """Dies around what it writes, too: before "started", and between "acted" and "wrote it"."""

    world: SimWorld

    def append(self, *args: Any, **detail: Any) -> None:
        self.world.point("before the journal")
        super().append(*args, **detail)
        self.world.point("after the journal")


class Desk:
    """For a plan of the split, unless it has another."""

    def __init__(self, world: SimWorld, directory: Path, plan: Plan | None = None) -> None:
        self.world = world
        self.plan = plan or plan_split(scan(world), layout(), 0.0)
        self.path = directory / "journal.sqlite"
        self.pause_before: tuple[str, ...] = ()
        self.observer: Observer = lambda event: None

    def go(self, direction: str, *lost: str) -> None:
        self.world.reborn()
        if not self.path.exists():
            Journal.create(self.path, self.plan.digest).close()
        journal = DyingJournal.open(self.path)
        assert isinstance(journal, DyingJournal)
        journal.world = self.world
        # This kills recell, not the machine, and nobody else writes: nothing need be durable.
        journal._db.executescript(
            "PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE")
        context = Context(self.world, journal, self.plan.id, self.plan.fingerprints, LIMITS, frozenset(lost))
        engine = Engine(
            bind(self.plan, context),
            journal,
            observer=self.observer,
            pause_before=self.pause_before,
            wait=self.world.wait,
            clock=self.world.clock,
        )
        try:
            with journal.writing(direction, direction):  # type: ignore[arg-type]
                engine.forward() if direction == "forward" else engine.backward()
        finally:
            journal.close()

    def die_in(self, step: str, kill: int) -> None:
        """Forward until this step; then killed at that many points from there."""
        self.pause_before = (step,)
        with pytest.raises(Paused):
            self.go("forward")
        self.pause_before = ()
        self.world.kill_at = self.world.points + kill
        with pytest.raises(Killed):
            self.go("forward")

    def finish(self) -> None:
        """Twice, for it may be repeated."""
        self.world.reborn()
        journal = Journal.open(self.path)
        with journal.writing("finish", "forward"):
            for _ in range(2):
                for step in reversed(bind(self.plan, Context(self.world, journal, self.plan.id, (), LIMITS))):
                    step.finish()
        journal.close()


@pytest.fixture
def desks() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as top:
        numbers = itertools.count()

        def make(world: SimWorld, plan: Plan | None = None) -> Desk:
            directory = Path(top) / str(next(numbers))
            directory.mkdir()
            return Desk(world, directory, plan)

        yield make
