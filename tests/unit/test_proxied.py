"""Servers are drained and made ready again in a real HAProxy; what an operator took out stays out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from recell.adapters.proxy import HaproxySocket
from recell.errors import StepFailed
from recell.model.plan import PlanStep
from recell.model.step import Direction, Truth
from recell.steps.base import Context
from recell.steps.proxied import Proxied
from tests.unit.test_adapters_proxy import running

SERVERS = [{"proxy": "lb1", "backend": b, "server": "ctl1"} for b in ("nova-api", "nova-metadata")]
BACKENDS = """\
backend nova-api
  server ctl1 127.0.0.1:1
  server ctl2 127.0.0.1:2
backend nova-metadata
  server ctl1 127.0.0.1:3
  server ctl2 127.0.0.1:4
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[HaproxySocket]:
    with running(tmp_path, BACKENDS) as host:
        yield HaproxySocket(host)


def step(proxy: HaproxySocket, forward: str) -> Proxied:
    world = SimpleNamespace(proxy=lambda name: proxy, clock=time.monotonic, wait=time.sleep)
    params = {"forward": forward, "servers": SERVERS}
    spec = PlanStep(f"ctl1/{forward}", "proxied", "ctl1", "", "", "", "finish", "both", 1.0, params)
    return Proxied(spec, cast(Context, SimpleNamespace(world=world, limits={"drain_s": 30.0})))


def states(proxy: HaproxySocket) -> list[str]:
    return [s.state for s in proxy.servers()]


def act(one: Proxied, toward: Direction) -> None:
    one.act(toward)
    assert one.look(toward).truth is Truth.DONE


@pytest.mark.parametrize("ways", [["forward"], ["forward", "backward"]])
def test_who_is_in_maintenance_stays_there_both_ways(proxy: HaproxySocket, ways: list[Direction]) -> None:
    drain, ready = step(proxy, "drain"), step(proxy, "ready")
    proxy.set_state("nova-api", "ctl1", "maint")
    before = states(proxy)
    assert before == ["MAINT", "no check", "no check", "no check"]
    for toward in ways:
        first, second = (drain, ready) if toward == "forward" else (ready, drain)
        act(first, toward)
        assert states(proxy) == ["MAINT", "no check", "DRAIN", "no check"]
        act(second, toward)
        assert states(proxy) == before


def test_one_that_an_operator_takes_out_while_it_is_drained_is_left_to_him(proxy: HaproxySocket) -> None:
    drain, ready = step(proxy, "drain"), step(proxy, "ready")
    act(drain, "forward")
    assert states(proxy) == ["DRAIN", "no check", "DRAIN", "no check"]
    proxy.set_state("nova-metadata", "ctl1", "maint")
    act(ready, "forward")
    assert states(proxy) == ["no check", "no check", "MAINT", "no check"]


def test_the_last_one_that_serves_is_not_drained(proxy: HaproxySocket) -> None:
    proxy.set_state("nova-api", "ctl2", "maint")
    with pytest.raises(StepFailed, match="no server that is up but ctl1"):
        step(proxy, "drain").act("forward")
    assert states(proxy) == ["no check", "MAINT", "no check", "no check"]
