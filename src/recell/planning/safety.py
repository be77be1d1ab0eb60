"""Where a plan can be left for a night: each step's last safe point.

A conversion may be stopped before any step, and users go on being served. But between some steps a
host is half-moved (drained, or its file says something else than its processes run with): one more
failure then costs more than it should. A safe point is a place between two steps where no host is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recell.model.plan import PlanStep

BEGINNING = "the beginning"
RESTARTS = (
    "restart-api", "restart-rpc", "recycle-compute", "repoint", "repoint-bridged",
    "renew-api", "renew-rpc", "renew-console",
)  # fmt: skip

AFTER_SWITCH = ("v1-retire", "v1-child-api", "v1-consoles")
"""Until they are through, a host that starts anew would bring back what the switch has ended."""


def with_safe_points(steps: Sequence[PlanStep]) -> tuple[PlanStep, ...]:
    """The same steps, each naming the last one, at or before itself, after which the plan can be left;
    :data:`BEGINNING` when that is before the first. Steps that act backward only name none."""
    open_: set[tuple[str, str]] = set()
    last = BEGINNING
    forward = [s for s in steps if s.acts != "backward"]
    named: dict[str, str] = {}
    for index, step in enumerate(forward):
        _move(step, forward[index + 1 :], open_)
        if not open_:
            last = step.id
        named[step.id] = last
    return tuple(replace(s, safe_point=named.get(s.id, "")) for s in steps)


def _move(step: PlanStep, later: list[PlanStep], open_: set[tuple[str, str]]) -> None:
    """What this step opens and closes: (kind, host) brackets."""
    if step.kind == "proxied":
        bracket = ("drain", ",".join(sorted(f"{t['backend']}/{t['server']}" for t in step.params["servers"])))
        if step.params["forward"] == "drain":
            open_.add(bracket)
        else:
            open_.discard(bracket)
    if step.kind in ("v1-switch", "v2-switch"):
        open_.add(("retire", ""))
    if not any(s.kind in AFTER_SWITCH for s in later):
        open_.discard(("retire", ""))
    wave = ("wave", str(step.params.get("wave", "")))
    if step.kind == "hosts-computes" and step.params["forward"] == "leave":
        open_.add(wave)
    if step.kind == "follow-hosts" and step.params["toward"] == "old":
        open_.discard(wave)
    if step.kind == "edit-config" and _reader(step, later):
        open_.add(("file", step.where))
    for host in _restarted(step):
        if not any(_reads_edited(s, host, later) for s in later):
            open_.discard(("file", host))


def _restarted(step: PlanStep) -> dict[str, Sequence[str]]:
    """Hosts on which the step restarts something, and which files that reads."""
    if step.kind == "repoint-wave":
        return {str(one["host"]): one["reads"] for one in step.params["moves"]}
    return {step.where: step.params.get("reads", ())} if step.kind in RESTARTS else {}


def _reader(edit: PlanStep, later: list[PlanStep]) -> bool:
    """Whether a later step restarts what reads the edited file."""
    path = str(edit.params.get("path", ""))
    return any(path in _restarted(s).get(edit.where, ()) for s in later)


def _reads_edited(restart: PlanStep, where: str, later: list[PlanStep]) -> bool:
    """Whether this restart on the same host still belongs to the edit: no other edit comes before it."""
    if where not in _restarted(restart):
        return False
    before = later[: later.index(restart)]
    return not any(s.where == where and s.kind == "edit-config" for s in before)
