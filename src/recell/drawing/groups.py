"""Who is where: before, now and after a plan, out of the plan and the journal's last words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from recell.journal import Entry
from recell.model.deployment import Deployment
from recell.model.measure import Topology, TopologyGroup, TopologyService
from recell.model.plan import Plan, PlanStep
from recell.model.step import Direction

SETTLED = ("finished", "found")
_MOVES = ("restart-", "start-unit")  # kinds of step after which a unit is on the other side


def topology_groups(picture: Mapping[str, Any]) -> Topology:
    """A plan's topology, ``{"groups": [{name, broker, database, services: {role: hosts}}]}``."""
    return tuple(
        TopologyGroup(
            name=str(group.get("name", "")),
            broker=str(group.get("broker", "")),
            database=str(group.get("database", "")),
            services=tuple(
                TopologyService(str(role), tuple(hosts))
                for role, hosts in group.get("services", {}).items()
                if role != "compute"
            ),
            computes=tuple(group.get("services", {}).get("compute", ())),
        )
        for group in picture.get("groups", ())
    )


def acts(step: PlanStep, direction: Direction) -> bool:
    """Whether a step does anything on the way there."""
    return step.acts in ("both", direction)


def groups_now(
    plan: Plan, deployment: Deployment | None, last: Mapping[str, Entry], position: str
) -> Topology:
    """Where every service is, as far as the journal says.

    A service is on its new side once the step that restarts it there has ended, and back once the
    one that restarts it on the way back has. Between is ``moving``. A group is known by its broker.

    :param last: the newest entry of each step that has one.
    :param position: new, applying, applied, undoing, undone or finished.
    """
    before, after = topology_groups(plan.topology_before), topology_groups(plan.topology_after)
    if position in ("new", "undone") or not after:
        return before
    if position in ("applied", "finished"):
        return after
    frames = {g.broker: replace(g, services=(), computes=()) for g in (*before, *after)}
    origin = {key: g.broker for g in before for key in _members(g)}
    target = {key: g.broker for g in after for key in _members(g)}
    moved = _moved(plan, deployment, last)
    placed: dict[str, dict[str, list[str]]] = {broker: {} for broker in frames}
    moving: set[tuple[str, str]] = set()
    for role, host in {**origin, **target}:
        here, there = origin.get((role, host)), target.get((role, host))
        state = moved.get((role, host), "origin")
        if state == "moving":
            moving.add((role, host))
        where = there if state == "target" else here or (there if state == "moving" else None)
        if where is not None:
            placed[where].setdefault(role, []).append(host)
    # In the order in which the goal names them, what is only in the beginning last.
    order = [*(g.broker for g in after), *(g.broker for g in before)]
    through = _through(plan, last)
    return tuple(
        replace(
            frames[broker],
            services=tuple(
                TopologyService(role, tuple(hosts), tuple(h for h in hosts if (role, h) in moving))
                for role, hosts in placed[broker].items()
                if role != "compute"
            ),
            computes=tuple(placed[broker].get("compute", ())),
            through=tuple(h for h in placed[broker].get("compute", ()) if h in through),
        )
        for broker in dict.fromkeys(order)
    )


def _members(group: TopologyGroup) -> Iterator[tuple[str, str]]:
    for service in group.services:
        for host in service.hosts:
            yield service.role, host
    for host in group.computes:
        yield "compute", host


def _moved(
    plan: Plan, deployment: Deployment | None, last: Mapping[str, Entry]
) -> dict[tuple[str, str], str]:
    """(role, host) -> origin, moving or target, by the newest word on a step that moves its unit."""
    services = deployment.services if deployment else ()
    known: dict[tuple[str, str], str] = {(s.host, s.unit): s.role for s in services}
    roles = sorted(
        {str(r) for g in plan.topology_after.get("groups", ()) for r in g.get("services", {})},
        key=len,
        reverse=True,
    )
    newest: dict[tuple[str, str], Entry] = {}
    for step in plan.steps:
        entry, unit = last.get(step.id), str(step.params.get("unit", ""))
        if entry is None or not unit or not step.kind.startswith(_MOVES) or not acts(step, entry.direction):
            continue
        role = known.get((step.where, unit)) or next((r for r in roles if unit.endswith(r)), "")
        was = newest.get((role, step.where))
        if was is None or was.id < entry.id:
            newest[role, step.where] = entry
    return {
        key: "moving" if e.phase not in SETTLED else "target" if e.direction == "forward" else "origin"
        for key, e in newest.items()
    }


def _through(plan: Plan, last: Mapping[str, Entry]) -> frozenset[str]:
    """Hosts on which every step of the direction under way has ended."""
    newest = max(last.values(), key=lambda e: e.id, default=None)
    if newest is None:
        return frozenset()
    state: dict[str, bool] = {}
    for step in plan.steps:
        if acts(step, newest.direction):
            entry = last.get(step.id)
            settled = (
                entry is not None and entry.direction == newest.direction and entry.phase in SETTLED
            )
            state[step.where] = state.get(step.where, True) and settled
    return frozenset(host for host, settled in state.items() if settled)
