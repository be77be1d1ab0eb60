"""Proofs over Nova's databases: what is under way is not taken for what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from recell.errors import VerifyFailed
from recell.preflight import consistency
from recell.preflight.consistency import instances_are_where_they_are_mapped


@dataclass
class Homes:
    rows: dict[str, str]
    wrong: frozenset[str]


class World:
    def __init__(self) -> None:
        self.waited = 0.0

    def nova(self) -> None:
        return None

    def wait(self, seconds: float) -> None:
        self.waited += seconds


def looks(monkeypatch: pytest.MonkeyPatch, *wrong: str) -> Any:
    """One string for each look: letters of instances that seem wrong; the last one holds on."""
    left = list(wrong)

    def read(*_: object) -> Homes:
        return Homes({"a": "cell1", "b": "cell1"}, frozenset(left.pop(0) if len(left) > 1 else left[0]))

    monkeypatch.setattr(consistency, "read_homes", read)
    return World()


def test_a_delete_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = looks(monkeypatch, "a", "a", "ab", "b")
    assert instances_are_where_they_are_mapped(world, None).startswith("2 instances")  # type: ignore[arg-type]
    assert world.waited == 3 * consistency.LOOK_WAIT_S


def test_one_that_stays_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = looks(monkeypatch, "ab", "b")
    with pytest.raises(VerifyFailed, match=r"1 instances .* mapped to: b"):
        instances_are_where_they_are_mapped(world, None)  # type: ignore[arg-type]
    assert world.waited == consistency.LOOKS * consistency.LOOK_WAIT_S
