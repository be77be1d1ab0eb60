"""recell killed at points of a way in a simulated world, all of them or some, and resumed or undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from tests.sim.desk import Desk
from tests.sim.world import Killed, SimWorld

W = TypeVar("W", bound=SimWorld)
Picture = Callable[[dict[str, Any]], dict[str, Any]]

WAYS = [
    pytest.param(["forward"], "forward", id="killed-resumed"),
    pytest.param(["forward"], "backward", id="killed-undone"),
    pytest.param(["forward", "backward"], "backward", id="undo-killed-resumed"),
]
"""What was gone before the kill, the last of it being what is killed; and what follows."""
WAYS_AND_ON = [*WAYS, pytest.param(["forward", "backward"], "forward", id="undo-killed-applied")]
"""Also those whose undo can be given up where it stands."""


def whole(picture: dict[str, Any]) -> dict[str, Any]:
    return picture


def complaints(world: SimWorld) -> Sequence[object]:
    return world.complaints


def at_once(world: SimWorld) -> None:
    """Somebody goes on in the moment after the kill."""


def everywhere(told: Sequence[str]) -> Sequence[int]:
    return range(1, len(told) + 1)


def killed_everywhere(
    build: Callable[[], W],
    sit: Callable[[W], Desk],
    seen: Picture,
    first: Sequence[str],
    then: str,
    every: int = 1,
    start: int = 0,
    *,
    wrong: Callable[[W], Sequence[object]] = complaints,
    meanwhile: Callable[[W], None] = at_once,
    within: Callable[[Sequence[str]], Sequence[int]] = everywhere,
) -> int:
    """Points are inside steps, between acting and its outcome, and around each line of the journal.

    :param sit: a desk with a plan for this world. seen: what counts of a picture.
    :param every: only each so manieth point, after ``start`` of them.
    :param wrong: what users of a world suffer. meanwhile: what passes between a kill and what follows.
    :param within: which of a way's points, counted from 1, by what is done at each.
    :returns: how many points there are.
    """
    calm = build()
    desk = sit(calm)
    for direction in first[:-1]:
        desk.go(direction)
    points = within(_told(calm, lambda: desk.go(first[-1])))
    if then != first[-1]:
        desk.go(then)
    assert not wrong(calm)
    ends = [seen(calm.picture())]
    if then == "backward":
        ends.append(seen(build().picture()))
    for point in points[start::every]:
        world = build()
        desk = sit(world)
        for direction in first[:-1]:
            desk.go(direction)
        world.kill_at = world.points + point
        with pytest.raises(Killed) as killed:
            desk.go(first[-1])
        meanwhile(world)
        desk.go(then)
        assert not wrong(world), f"killed at {point}: {killed.value}"
        assert seen(world.picture()) in ends, f"killed at {point}: {killed.value}"
    return len(points)


def _told(world: SimWorld, act: Callable[[], None]) -> list[str]:
    """What is done at each point of ``act``."""
    told: list[str] = []
    point = world.point

    def noted(what: str) -> None:
        told.append(what)
        point(what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "point", noted)
        act()
    return told


def killed_again_and_again(
    build: Callable[[], W], sit: Callable[[W], Desk], seen: Picture, seed: int
) -> None:
    """Some kills on the way there, then some on the way back, and at last to an end of either: as the
    command line lets one go. After undo has begun there is only undo, until it has ended."""
    calm = build()
    desk = sit(calm)
    lengths: dict[str, int] = {}
    ends: dict[str, list[dict[str, Any]]] = {"forward": [], "backward": [seen(calm.picture())]}
    for way in ("forward", "backward"):
        began = calm.points
        desk.go(way)
        lengths[way] = calm.points - began
        ends[way].append(seen(calm.picture()))
    chance = random.Random(seed)  # noqa: S311 -- which points, no secret
    world = build()
    desk = sit(world)
    told: list[tuple[str, str]] = []
    turn = chance.randint(1, 3)
    for number in range(turn + chance.randint(0, 3)):
        way = "forward" if number < turn else "backward"
        world.kill_at = world.points + chance.randint(1, lengths[way] // chance.choice([1, 1, 4, 20]) + 1)
        try:
            desk.go(way)
            told.append((way, "to its end"))
        except Killed as killed:
            told.append((way, str(killed)))
        if way == "backward" and told[-1][1] == "to its end":
            break
    begun = told[-1][0] == "backward"
    last = "backward" if begun else chance.choice(["forward", "backward"])
    world.kill_at = -1
    desk.go(last)
    assert world.complaints == [], told
    assert seen(world.picture()) in ends[last], told
