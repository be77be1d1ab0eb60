"""What is looked at before a run, so that its report can say what became of it."""

from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path
from typing import Any

from recell.adapters.ports import HostPort
from recell.adapters.world import RealWorld
from recell.cli.desk import Desk, world_of
from recell.drawing.groups import topology_groups
from recell.engine.run import records
from recell.journal import BESIDE, Journal, Run, position
from recell.model.deployment import Deployment
from recell.model.measure import HoldPart, Measurement, StepRecord, UserRequest, Window
from recell.model.plan import Plan
from recell.model.step import Direction
from recell.planning.rabbit import KINDS as RABBIT
from recell.report.figures import api_figures, in_window
from recell.report.hosts import told_of_hosts
from recell.report.measure import load_baseline, take_baseline, take_figures
from recell.report.mended import told_of_mended
from recell.steps.base import DELIVERIES_HELD, HELD


def folder(desk: Desk, direction: Direction) -> Path:
    return desk.measure_path / direction


def before(desk: Desk, plan: Plan, journal: Journal, direction: Direction) -> None:
    """Take the baseline of a run that begins now; one that is resumed keeps the one it has."""
    where = position(plan, journal)
    if where not in (("new", "undone") if direction == "forward" else ("applied", "applying")):
        return
    deployment = desk.deployment()
    if plan.kind in RABBIT and not deployment.services:
        return  # there is no Nova whose guests and rows could be counted
    target = folder(desk, direction)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    with world_of(deployment) as world:
        take_baseline(world.nova(), _computes(world, deployment), target, _nova_names(deployment))


def measure(
    desk: Desk,
    plan: Plan,
    journal: Journal,
    direction: Direction,
    requests: tuple[UserRequest, ...] | None,
) -> Measurement:
    """Look again and count. ``requests`` None: no users were measured."""
    deployment = desk.deployment()
    if plan.kind in RABBIT and not deployment.services:
        runs = _last_runs(journal, direction)
        window = Window(runs[0].began if runs else time.time(), _end(runs))
        # No Nova has to be there; what users got of whatever stands on the brokers can still be counted.
        api = None if requests is None else api_figures(in_window(requests, window))
        found: dict[str, Any] = {"api": api, "operations": None, "guests": None, "rows": None}
    else:
        baseline = load_baseline(folder(desk, direction))
        runs = [
            r
            for r in journal.runs()
            if r.direction == direction and r.verb not in BESIDE and r.began >= baseline.taken - 5
        ]
        window = Window(runs[0].began if runs else baseline.taken, _end(runs))
        with world_of(deployment) as world:
            figures = take_figures(
                baseline,
                requests or (),
                world.nova(),
                _computes(world, deployment),
                window,
                expected=plan.expected_changes,
                nova_names=_nova_names(deployment),
                users=requests is not None,
            )
        found = {k: getattr(figures, k) for k in ("api", "operations", "guests", "rows")}
    first_run = runs[0].id if runs else 0
    titles = {s.id: s.title for s in plan.steps}
    where = position(plan, journal)
    picture = (plan.topology_before, plan.topology_after)
    start, goal = picture if direction == "forward" else picture[::-1]
    return Measurement(
        kind=plan.kind,
        outcome=_outcome(where, runs, direction),
        window=window,
        duration_s=window.end - window.start,
        **found,
        freeze_s=_longest(journal, f"{HELD}-{direction}"),
        deliveries_held_s=_longest(journal, f"{DELIVERIES_HELD}-{direction}"),
        hold=_hold(journal, direction),
        requests=requests or (),
        steps=tuple(
            StepRecord(r.id, titles.get(r.id, r.id), r.seconds, r.attempts, r.verified, r.began)
            for r in records(journal, direction, first_run)
            if r.attempts or r.verified
        ),
        topology_before=topology_groups(start),
        topology_after=topology_groups(goal),
        versions={
            **({"nova": deployment.nova_version} if deployment.nova_version else {}),
            **{f"RabbitMQ on {b.name}": b.version for b in deployment.brokers},
        },
        remarks=(*told_of_hosts(plan, journal), *told_of_mended(plan, journal), *plan.remarks),
    )


def _longest(journal: Journal, key: str) -> float | None:
    """Of what steps remembered under this key, seconds."""
    return max((v for (_, name), v in journal.facts().items() if name == key), default=None)


def _hold(journal: Journal, direction: Direction) -> tuple[HoldPart, ...]:
    """What users' requests waited for, where a step of this run held them."""
    holds = (v["parts"] for (_, key), v in journal.facts().items() if key == f"hold-{direction}")
    return tuple(HoldPart(**part) for parts in holds for part in parts)


def _last_runs(journal: Journal, direction: Direction) -> list[Run]:
    """The last runs of this direction that none of the other one came between."""
    every = (r for r in journal.runs() if r.verb not in BESIDE)
    turns = [list(found) for way, found in groupby(every, key=lambda r: r.direction) if way == direction]
    return turns[-1] if turns else []


def _end(runs: list[Run]) -> float:
    return (runs[-1].ended or time.time()) if runs else time.time()


def _outcome(where: str, runs: list[Run], direction: Direction) -> str:
    """Of this direction's last run, whatever came of the conversion since."""
    last = runs[-1].outcome if runs else None
    if last == "done":
        return "succeeded" if direction == "forward" else "undone"
    if where in ("applied", "finished"):  # its last words were not written
        return "succeeded"
    if where == "undone" and direction == "backward":
        return "undone"
    if last == "paused":
        return "paused"
    return "interrupted" if last is None else "failed"


def _computes(world: RealWorld, deployment: Deployment) -> list[HostPort]:
    return [world.host(name) for name in dict.fromkeys(s.host for s in deployment.role("compute"))]


def _nova_names(deployment: Deployment) -> dict[str, str]:
    return {s.host: s.nova_host for s in deployment.role("compute")}
