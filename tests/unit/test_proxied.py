"""Servers are drained and made ready again in a real HAProxy; what an operator took out stays out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recell.adapters.proxy import HaproxySocket
from recell.errors import StepFailed
from recell.journal import Journal
from recell.model.plan import PlanStep
from recell.model.step import Direction, Truth
from recell.steps.base import Context
from recell.steps.proxied import Proxied
from tests.unit.test_adapters_proxy import running

SERVERS = [{"proxy": "lb1", "backend": b, "server": "ctl1"} for b in ("nova-api", "nova-metadata")]
CHECKED = "127.0.0.1:1 check inter 20ms fall 1"  # nobody answers there
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


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(tmp_path / "journal.sqlite", "a plan")
    with made.writing("apply", "forward"):
        yield made
    made.close()


def step(proxy: HaproxySocket, journal: Journal, forward: str) -> Proxied:
    world = SimpleNamespace(proxy=lambda name: proxy, clock=time.monotonic, wait=time.sleep)
    params = {"forward": forward, "servers": SERVERS}
    spec = PlanStep(f"ctl1/{forward}", "proxied", "ctl1", "", "", "", "finish", "both", 1.0, params)
    context = SimpleNamespace(world=world, limits={"drain_s": 30.0}, journal=journal)
    return Proxied(spec, cast(Context, context))


def states(proxy: HaproxySocket) -> list[str]:
    return [s.state for s in proxy.servers()]


def act(one: Proxied, toward: Direction) -> None:
    one.act(toward)
    assert one.look(toward).truth is Truth.DONE
    one.prove(toward)


@pytest.mark.parametrize("ways", [["forward"], ["forward", "backward"]])
@pytest.mark.parametrize(("told", "shown"), [("maint", "MAINT"), ("drain", "DRAIN")])
def test_who_was_taken_out_stays_so_both_ways(
    proxy: HaproxySocket, journal: Journal, told: Any, shown: str, ways: list[Direction]
) -> None:
    drain, ready = step(proxy, journal, "drain"), step(proxy, journal, "ready")
    proxy.set_state("nova-api", "ctl1", told)
    before = states(proxy)
    assert before == [shown, "no check", "no check", "no check"]
    for toward in ways:
        first, second = (drain, ready) if toward == "forward" else (ready, drain)
        act(first, toward)
        assert states(proxy) == [shown, "no check", "DRAIN", "no check"]
        act(second, toward)
        assert states(proxy) == before


def test_one_that_an_operator_takes_out_while_it_is_drained_is_left_to_him(
    proxy: HaproxySocket, journal: Journal
) -> None:
    drain, ready = step(proxy, journal, "drain"), step(proxy, journal, "ready")
    act(drain, "forward")
    assert states(proxy) == ["DRAIN", "no check", "DRAIN", "no check"]
    proxy.set_state("nova-metadata", "ctl1", "maint")
    act(ready, "forward")
    assert states(proxy) == ["no check", "no check", "MAINT", "no check"]


def test_a_drain_of_an_operators_is_kept_after_a_kill_and_while_the_server_is_down(
    tmp_path: Path, journal: Journal
) -> None:
    with running(tmp_path, BACKENDS.replace("127.0.0.1:1\n", f"{CHECKED}\n")) as host:
        proxy = HaproxySocket(host)
        while states(proxy)[0] != "DOWN":
            time.sleep(0.01)
        proxy.set_state("nova-api", "ctl1", "drain")
        before = proxy.servers()
        assert (before[0].state, before[0].draining) == ("DOWN", True)
        step(proxy, journal, "drain").act("forward")  # killed before the proof
        act(step(proxy, journal, "drain"), "forward")
        assert states(proxy)[2] == "DRAIN"
        step(proxy, journal, "ready").act("forward")
        act(step(proxy, journal, "drain"), "backward")
        assert proxy.servers() == before


def test_who_drains_a_server_after_recell_made_it_ready_is_an_operator(
    proxy: HaproxySocket, journal: Journal
) -> None:
    before = states(proxy)
    act(step(proxy, journal, "drain"), "forward")
    step(proxy, journal, "ready").act("forward")
    assert states(proxy) == before
    step(proxy, journal, "ready").prove("forward")  # the killed run's step is found done
    proxy.set_state("nova-api", "ctl1", "drain")
    for forward, toward in (("ready", "backward"), ("drain", "backward")):
        act(step(proxy, journal, forward), cast(Direction, toward))
    assert states(proxy) == ["DRAIN", *before[1:]]


def test_the_last_one_that_serves_is_not_drained(proxy: HaproxySocket, journal: Journal) -> None:
    proxy.set_state("nova-api", "ctl2", "maint")
    with pytest.raises(StepFailed, match="no server that is up but ctl1"):
        step(proxy, journal, "drain").act("forward")
    assert states(proxy) == ["no check", "MAINT", "no check", "no check"]
