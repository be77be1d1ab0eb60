from __future__ import annotations

import threading

import pytest

from recell.mover.throttle import Limits, Throttle


class Clock:
    """Goes on only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _throttle(monkeypatch: pytest.MonkeyPatch, rate: float = 0.0) -> tuple[Throttle, Clock]:
    clock = Clock()
    throttle = Throttle(rate, clock=clock)

    def wait(timeout: float) -> bool:
        clock.now += timeout
        return False

    monkeypatch.setattr(throttle._changed, "wait", wait)
    return throttle, clock


def test_as_fast_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle, clock = _throttle(monkeypatch)
    throttle.take(10**9)
    assert clock.now == 1000


def test_a_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle, clock = _throttle(monkeypatch, 1000)
    for _ in range(6):
        throttle.take(50)
    assert clock.now == pytest.approx(1000.3)
    assert throttle.rows == 300
    clock.now += 100  # what was not taken in time is not saved up
    throttle.take(2000)
    assert clock.now == pytest.approx(1102.3)


def test_paused_and_changed_while_somebody_waits() -> None:
    throttle = Throttle(0.001)
    waiting, done = threading.Event(), threading.Event()
    wait = throttle._changed.wait

    def noticed(timeout: float | None = None) -> bool:
        waiting.set()
        return wait(timeout)

    def take() -> None:
        throttle.take(1000)
        done.set()

    throttle._changed.wait = noticed  # type: ignore[method-assign]
    threading.Thread(target=take, daemon=True).start()
    assert waiting.wait(60)
    waiting.clear()
    throttle.set(0, paused=True)
    assert waiting.wait(60)
    assert not done.is_set()
    throttle.set(0, paused=False)
    assert done.wait(60)


def test_stopped_nobody_waits() -> None:
    throttle = Throttle(0.001)
    thread = threading.Thread(target=throttle.take, args=(1000,))
    thread.start()
    throttle.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_strained_source_is_spared() -> None:
    throttle = Throttle(limits=Limits(latency_s=0.1, replica_lag_s=5))
    throttle.observe(0.05, 0)
    assert throttle.rate == 0
    throttle.observe(0.2, 0)
    first = throttle.rate
    assert first > 0
    throttle.observe(0.05, 6)
    assert throttle.rate == first / 2
    for _ in range(100):
        throttle.observe(9, 9)
    lowest = throttle.rate
    assert 0 < lowest < 100
    throttle.observe(0.01, 0)
    assert lowest < throttle.rate < lowest * 1.2
    for _ in range(200):
        throttle.observe(0.01, 0)
    assert throttle.rate == 0
    throttle.set(400, paused=False)
    throttle.observe(1, 0)
    assert throttle.rate == 200
