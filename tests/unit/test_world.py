"""What the real world offers beside its adapters."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from recell.adapters import world as real
from recell.adapters.world import RealWorld, Secrets
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


def test_where_no_cell_is_mapped_nova_s_one_database_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Newton an API database may be there, and has no instances."""
    opened: list[str] = []

    def database(via: Any, url: str, *more: Any) -> Any:
        opened.append(url)
        return SimpleNamespace(now=lambda: 0.0, close=lambda: None)

    secrets = Secrets("rabbit://mq1/", "", "mysql://db1/nova", "mysql://db1/nova_api")
    monkeypatch.setattr(real, "service_secrets", lambda host, service: secrets)
    monkeypatch.setattr(real, "NovaDatabases", database)
    mapped = scan(build())
    for deployment in (mapped, replace(mapped, generation="none")):
        RealWorld(deployment).nova()
    assert opened == ["mysql://db1/nova_api", "mysql://db1/nova"]
