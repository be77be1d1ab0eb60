"""recell killed at points of a way in a simulated world, all of them or some, and resumed or undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from tests.sim.test_split import Desk
from tests.sim.world import Killed, SimWorld

W = TypeVar("W", bound=SimWorld)
Picture = Callable[[dict[str, Any]], dict[str, Any]]

WAYS = [
    pytest.param(["forward"], "forward", id="killed-resumed"),
    pytest.param(["forward"], "backward", id="killed-undone"),
    pytest.param(["forward", "backward"], "backward", id="undo-killed-resumed"),
]
"""What was gone before the kill, the last of it being what is killed; and what follows."""


def killed_everywhere(
    build: Callable[[], W],
    sit: Callable[[W], Desk],
    seen: Picture,
    first: Sequence[str],
    then: str,
    every: int = 1,
) -> None:
    """Points are inside steps, between acting and its outcome, and around each line of the journal.

    :param sit: a desk with a plan for this world. seen: what counts of a picture.
    :param every: only each so manieth point.
    """
    calm = build()
    desk = sit(calm)
    for direction in first[:-1]:
        desk.go(direction)
    before = calm.points
    desk.go(first[-1])
    points = calm.points - before
    if then != first[-1]:
        desk.go(then)
    ends = [seen(calm.picture())]
    if then == "backward":
        ends.append(seen(build().picture()))
    for point in range(1, points + 1, every):
        world = build()
        desk = sit(world)
        for direction in first[:-1]:
            desk.go(direction)
        world.kill_at = world.points + point
        with pytest.raises(Killed) as killed:
            desk.go(first[-1])
        desk.go(then)
        assert world.complaints == [], f"killed at {point}: {killed.value}"
        assert seen(world.picture()) in ends, f"killed at {point}: {killed.value}"


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
