"""Where a conversion stands, out of one look at its files. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recell.drawing.groups import acts, groups_now, topology_groups
from recell.drawing.timeline import Bar, BarState
from recell.drawing.waits import Waits, total
from recell.journal import Entry, Run, newest, position_of
from recell.model.measure import Topology
from recell.model.plan import Plan, PlanStep
from recell.model.step import Direction
from recell.planning.topology import before as deployment_topology
from recell.web.files import Look

StepState = Literal["todo", "acting", "done", "found", "failed", "unknown", "stuck"]
_RECENT_S = 30


@dataclass(frozen=True)
class StepStory:
    """A step of the direction under way. ``stuck``: begun by a process that is gone.

    ``seconds`` None: it has not ended. ``note``: what it proved, or why it failed.
    """

    number: int
    step: PlanStep
    state: StepState
    began: float | None = None
    seconds: float | None = None
    attempts: int = 0
    note: str = ""


@dataclass(frozen=True)
class Story:
    """Everything that the page shows.

    ``eta_at``: when the run is expected to end, seconds since 1970; None when nothing runs.
    ``pace``: how long steps take in relation to their estimates.
    ``progress``: figures of the step under way itself (rows, rows_per_s, lag_s, eta_s), if it has any.
    ``window``: what the pictures of time show.
    """

    position: str
    direction: Direction
    running: bool
    steps: tuple[StepStory, ...]
    silent: tuple[PlanStep, ...]
    runs: tuple[Run, ...]
    began: float | None
    ended: float | None
    eta_at: float | None
    pace: float | None
    progress: dict[str, Any]
    before: Topology
    now: Topology
    wanted: Topology
    window: tuple[float, float]
    users: Waits
    recent: Waits
    recent_s: int
    bars: tuple[Bar, ...]

    @property
    def current(self) -> StepStory | None:
        """The step that runs, or at which the run came to a stand."""
        return next((s for s in self.steps if s.state in ("acting", "failed", "unknown", "stuck")), None)

    @property
    def done(self) -> int:
        return sum(s.state in ("done", "found") for s in self.steps)


def tell(look: Look) -> Story:
    """The story of a look. Whatever is missing yet is empty."""
    plan, journal = look.plan, look.journal
    if journal is not None and (plan is None or journal.plan != plan.digest):
        journal = None  # another plan's
    entries: Sequence[Entry] = journal.entries if journal else ()
    runs = tuple(r for r in (journal.runs if journal else ()) if r.verb != "finish")
    last = newest(entries)
    position = position_of(plan, last, runs, finished=bool(journal and journal.finished)) if plan else "none"
    direction: Direction = runs[-1].direction if runs else "forward"
    campaign = _campaign(runs)
    alive = bool(journal and journal.alive)
    steps, silent = _steps(plan, entries, campaign, direction, alive) if plan else ((), ())
    began = campaign[0].began if campaign else None
    ended = campaign[-1].ended if campaign and not alive else None
    window = _window(look, entries, campaign, alive)
    before = (
        topology_groups(plan.topology_before)
        if plan
        else topology_groups(deployment_topology(look.deployment))
        if look.deployment
        else ()
    )
    current = next((s for s in steps if s.state == "acting"), None)
    progress = dict(journal.progress.get(current.step.id, {})) if journal and current else {}
    pace = _pace(steps)
    recent = int(look.users.last_at or 0)
    by_second = look.users.by_second
    return Story(
        position=position,
        direction=direction,
        running=alive,
        steps=steps,
        silent=silent,
        runs=tuple(journal.runs) if journal else (),
        began=began,
        ended=ended if ended is not None or alive or not campaign else _last_word(entries, campaign),
        eta_at=_eta(steps, pace, progress) if alive else None,
        pace=pace,
        progress=progress,
        before=before,
        now=groups_now(plan, look.deployment, last, position) if plan else before,
        wanted=topology_groups(plan.topology_after) if plan else (),
        window=window,
        users=total(w for s, w in by_second.items() if began is None or _inside(s, began, ended)),
        recent=total(by_second[s] for s in range(recent - _RECENT_S, recent) if s in by_second),
        recent_s=_RECENT_S,
        bars=tuple(_bar(s) for s in steps if s.began is not None and s.state != "found"),
    )


def _inside(second: int, began: float, ended: float | None) -> bool:
    return second >= int(began) and (ended is None or second <= ended)


def _campaign(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs since recell last turned round: an apply and its resumes, or an undo and its."""
    out: list[Run] = []
    for run in reversed(runs):
        if out and run.direction != out[-1].direction:
            break
        out.append(run)
    return tuple(reversed(out))


def _last_word(entries: Sequence[Entry], campaign: Sequence[Run]) -> float:
    """When a run that never said its end was last heard of."""
    return max([campaign[-1].began, *(e.at for e in entries if e.run == campaign[-1].id)])


def _steps(
    plan: Plan, entries: Sequence[Entry], campaign: Sequence[Run], direction: Direction, alive: bool
) -> tuple[tuple[StepStory, ...], tuple[PlanStep, ...]]:
    """The steps that act in this direction in the order in which they come, and those that don't."""
    first = campaign[0].id if campaign else 0
    of: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.run >= first and entry.direction == direction:
            of.setdefault(entry.step, []).append(entry)
    everything = newest(entries)
    wanted = [s for s in plan.steps if acts(s, direction)]
    if direction == "backward":
        # Undo walks back from where apply came to.
        wanted = [s for s in reversed(wanted) if s.id in everything]
    stories = tuple(
        _step(number, step, of.get(step.id, []), alive) for number, step in enumerate(wanted, 1)
    )
    return stories, tuple(s for s in plan.steps if not acts(s, direction))


def _step(number: int, step: PlanStep, entries: list[Entry], alive: bool) -> StepStory:
    if not entries:
        return StepStory(number, step, "todo")
    starts = [e for e in entries if e.phase == "started"]
    last = entries[-1]
    began = starts[0].at if starts else last.at
    note = str(last.detail.get("verified") or last.detail.get("why") or "")
    if last.phase == "started":
        return StepStory(number, step, "acting" if alive else "stuck", began, None, len(starts))
    if last.phase == "finished":
        took = float(last.detail.get("seconds", last.at - began))
        return StepStory(number, step, "done", began, took, len(starts), note)
    if last.phase == "found":
        return StepStory(number, step, "found", began, 0.0, len(starts), note)
    if last.phase == "failed" and alive:
        # Something didn't answer; the same run tries it again.
        return StepStory(number, step, "acting", began, None, len(starts), note)
    state: StepState = "unknown" if last.phase == "unknown" else "failed"
    return StepStory(number, step, state, began, last.at - began, len(starts), note)


def _pace(steps: Sequence[StepStory]) -> float | None:
    """None until five estimated seconds have passed: less says nothing."""
    ended = [s for s in steps if s.state == "done" and s.seconds is not None]
    estimated = sum(s.step.estimate_s for s in ended)
    return sum(s.seconds or 0.0 for s in ended) / estimated if estimated >= 5 else None


def _eta(steps: Sequence[StepStory], pace: float | None, progress: dict[str, Any]) -> float | None:
    current = next((s for s in steps if s.state == "acting"), None)
    if current is None or current.began is None:
        return None
    factor = pace if pace is not None else 1.0
    rest = sum(s.step.estimate_s for s in steps if s.state == "todo") * factor
    own = progress.get("eta_s")
    if isinstance(own, int | float) and isinstance(progress.get("at"), int | float):
        return float(progress["at"]) + own + rest
    return current.began + current.step.estimate_s * factor + rest


def _window(
    look: Look, entries: Sequence[Entry], campaign: Sequence[Run], alive: bool
) -> tuple[float, float]:
    """The run with a little before and after it; without one, the users' last five minutes."""
    seen = look.users.last_at
    if not campaign:
        end = seen or 0.0
        return max(end - 300, min(look.users.by_second, default=0)), end
    start = campaign[0].began
    ended = campaign[-1].ended
    last = _last_word(entries, campaign)
    if alive or ended is None:
        return start - 15, max(last, seen or 0.0 if alive else last, start + 30)
    return start - 15, max(ended, min(seen or ended, ended + 15))


def _bar(s: StepStory) -> Bar:
    state: BarState
    if s.state == "acting":
        state = "acting"
    elif s.state in ("failed", "stuck"):
        state = "failed"
    elif s.state == "unknown":
        state = "unknown"
    else:
        state = "again" if s.attempts > 1 else "done"
    began = s.began or 0.0
    end = None if s.state in ("acting", "stuck") else began + (s.seconds or 0.0)
    return Bar(s.number, f"{s.step.id}: {s.step.title}", began, end, state)


