"""The loop: started, act, verify, finished; and what to make of a start without an outcome."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from recell.errors import Paused, RecellError, StepFailed, Unknowable, Unreachable, VerifyFailed, WouldWait
from recell.journal import Entry, Journal
from recell.model.step import Direction, Finding, Step, Truth

ATTEMPTS = 3
"""How often a step is begun before an unreachable host, broker or database stops the run."""
PAUSE_BETWEEN_ATTEMPTS_S = 5.0

EventKind = Literal["acting", "finished", "found", "skipped", "retrying", "failed"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands. ``eta_s``: what the remaining steps are estimated to take, corrected by
    how the estimates have held so far in this run."""

    index: int
    total: int
    elapsed_s: float
    eta_s: float


@dataclass(frozen=True)
class Event:
    kind: EventKind
    step: Step
    progress: Progress
    text: str = ""
    seconds: float = 0.0


Observer = Callable[[Event], None]


def _silent(_: Event) -> None:
    return None


class Engine:
    """Drives ``steps`` (in forward order) under a journal that is being written.

    :param wait: how to wait between attempts; a simulated world has its own time.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        journal: Journal,
        *,
        observer: Observer = _silent,
        pause_before: Collection[str] = (),
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = tuple(steps)
        self._journal = journal
        self._observer = observer
        self._pause_before = frozenset(pause_before)
        self._wait = wait
        self._clock = clock

    def forward(self) -> None:
        """Apply every step that is not applied yet.

        :raises Paused: before a step of ``pause_before``; StepFailed, Unknowable, StalePlan, ...: the
            world stays as it is, and both ``forward`` and ``backward`` can go on from there.
        """
        todo = [s for s in self._steps if not self._settled(s, "forward")]
        if not todo:
            self.confirm()
            return
        self._drive(todo, "forward")

    def backward(self) -> None:
        """Undo every step that was begun, last first."""
        begun = [s for s in self._steps if self._journal.last(s.id) is not None]
        self._drive([s for s in reversed(begun) if not self._settled(s, "backward")], "backward")

    def confirm(self) -> None:
        """Change nothing; prove that everything applied still holds. :raises VerifyFailed."""
        for step in self._steps:
            finding = step.check("forward") if step.lasting else Finding.done()
            if finding.truth is not Truth.DONE:
                raise VerifyFailed(
                    f"{step.title}: {finding.truth.value}: {finding.why}",
                    "Something changed it since; look there before anything else",
                )

    def _settled(self, step: Step, toward: Direction) -> bool:
        last = self._journal.last(step.id)
        return last is not None and last.direction == toward and last.phase in ("finished", "found")

    def _drive(self, todo: Sequence[Step], toward: Direction) -> None:
        began = self._clock()
        planned = 0.0
        for index, step in enumerate(todo):
            left = sum(s.estimate_s for s in todo[index:])
            elapsed = self._clock() - began
            pace = elapsed / planned if planned >= 5 else 1.0
            progress = Progress(index, len(todo), elapsed, left * pace)
            if step.id in self._pause_before:
                raise Paused(f"paused before {step.id} ({step.title})", "Go on with: recell resume")
            try:
                self._one(step, toward, progress)
            except StepFailed as error:
                if toward == "forward" and (group := step.retreat):
                    self._retreat(group, step, progress, error)
                raise
            planned += step.estimate_s

    def _retreat(self, group: str, failed: Step, progress: Progress, why: StepFailed) -> None:
        """Undo what was begun of a group, last first, and say so.

        :raises StepFailed: always, when that is done; or whatever stopped it.
        """
        self._journal.remember(group, "taken-back", why.sentence)
        begun = [s for s in self._steps if s.group == group and self._journal.last(s.id) is not None]
        for step in reversed(begun):
            if not self._settled(step, "backward"):
                self._one(step, "backward", progress)
        raise StepFailed(
            f"{why.sentence}; {group} was taken back, and all of it is as it was before",
            f"{why.remedy or 'Look there'}. What was done before {group} stays",
        )

    def _one(self, step: Step, toward: Direction, progress: Progress) -> None:
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._attempt(step, toward, progress)
                    return
                except Unreachable as error:
                    if attempt == ATTEMPTS:
                        raise
                    self._journal.append(step.id, toward, "failed", why=str(error))
                    self._observer(Event("retrying", step, progress, str(error)))
                    self._wait(PAUSE_BETWEEN_ATTEMPTS_S)
        except RecellError as error:
            phase: Literal["unknown", "failed"] = "unknown" if isinstance(error, Unknowable) else "failed"
            self._journal.append(step.id, toward, phase, why=str(error), word=error.word)
            self._observer(Event("failed", step, progress, str(error)))
            raise

    def _attempt(self, step: Step, toward: Direction, progress: Progress) -> None:
        step.guard(toward)
        finding = step.check(toward)
        if finding.truth is Truth.UNKNOWN:
            raise Unknowable(
                f"{step.id}: {step.title}: {finding.why}",
                "Look at what is there, mend it by hand, then: recell resume (or undo)",
            )
        if finding.truth is Truth.DONE:
            proof = step.verify(toward)
            self._journal.append(step.id, toward, "found", why=finding.why, verified=proof)
            self._observer(Event("found", step, progress, proof))
            return
        self._journal.append(step.id, toward, "started", finding=finding.truth.value, why=finding.why)
        self._observer(Event("acting", step, progress, finding.why))
        began = self._clock()
        if toward == "forward":
            step.do()
        else:
            step.undo()
        proof = step.verify(toward)
        seconds = self._clock() - began
        self._journal.append(step.id, toward, "finished", seconds=seconds, verified=proof)
        self._observer(Event("finished", step, progress, proof, seconds))

    def rehearse(self, *, guarded: bool = False) -> tuple[tuple[Step, Finding], ...]:
        """Ask and act without a journal and without proofs: for a world that only pretends.

        :param guarded: ask each step's guard too, and go on after what would stop a run: it becomes
            the step's finding, unknown.
        """
        seen: list[tuple[Step, Finding]] = []
        for step in self._steps:
            try:
                seen.append((step, self._pretend(step, guarded)))
            except RecellError as error:
                if not guarded:
                    raise
                seen.append((step, Finding.unknown(str(error))))
        return tuple(seen)

    def _pretend(self, step: Step, guarded: bool) -> Finding:
        if guarded:
            step.guard("forward")
        if self._settled(step, "forward"):
            return Finding.done("applied before")
        finding = step.check("forward")
        if finding.truth in (Truth.NOT_DONE, Truth.PARTIAL):
            with contextlib.suppress(WouldWait):
                step.do()
        return finding


@dataclass(frozen=True)
class StepRecord:
    """What the journal says of one step in one direction. ``seconds`` of acting, all attempts."""

    id: str
    seconds: float
    attempts: int
    began: float
    ended: float
    verified: str


def records(journal: Journal, direction: Direction, since_run: int = 0) -> tuple[StepRecord, ...]:
    """Steps that reached their end, in the order in which they did."""
    starts: dict[str, list[Entry]] = {}
    out: dict[str, StepRecord] = {}
    for entry in journal.entries():
        if entry.direction != direction or entry.run < since_run:
            continue
        if entry.phase == "started":
            starts.setdefault(entry.step, []).append(entry)
        elif entry.phase in ("finished", "found"):
            begun = starts.get(entry.step, [])
            out[entry.step] = StepRecord(
                entry.step,
                float(entry.detail.get("seconds", 0.0)),
                len(begun),
                begun[0].at if begun else entry.at,
                entry.at,
                str(entry.detail.get("verified", "")),
            )
    return tuple(out.values())


__all__ = ["Engine", "Event", "Observer", "Progress", "StepFailed", "StepRecord", "records"]
