"""What the real world offers beside its adapters."""

from __future__ import annotations

import threading

import pytest

from recell.adapters.world import RealWorld
from recell.errors import StepFailed
from tests.sim.cloud import build, scan


def world() -> RealWorld:
    return RealWorld(scan(build()))


def test_together_is_side_by_side_and_in_order() -> None:
    met = threading.Barrier(2, timeout=30)  # neither passes alone

    def act(number: float) -> float:
        met.wait()
        return number

    assert world().together([lambda: act(1.0), lambda: act(2.0)]) == [1.0, 2.0]
    assert world().together([]) == []


def test_together_lets_the_others_end_when_one_fails() -> None:
    ended: list[str] = []

    def fail() -> float:
        raise StepFailed("cmp1 did not end", "See there")

    def end() -> float:
        ended.append("cmp2")
        return 0.0

    with pytest.raises(StepFailed, match="cmp1 did not end"):
        world().together([fail, end])
    assert ended == ["cmp2"]
