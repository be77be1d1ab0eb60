from __future__ import annotations

import threading
import time

from recell.mover.throttle import Limits, Throttle


def _timed(throttle: Throttle, rows: int) -> float:
    began = time.monotonic()
    throttle.take(rows)
    return time.monotonic() - began


def test_as_fast_as_it_goes() -> None:
    assert _timed(Throttle(), 10**9) < 0.2


def test_a_rate_is_kept() -> None:
    throttle = Throttle(1000)
    began = time.monotonic()
    for _ in range(6):
        throttle.take(50)
    assert time.monotonic() - began >= 0.29
    assert throttle.rows == 300


def test_paused_and_changed_while_somebody_waits() -> None:
    throttle = Throttle(1)
    waited: list[float] = []
    thread = threading.Thread(target=lambda: waited.append(_timed(throttle, 1000)))
    thread.start()
    time.sleep(0.05)
    throttle.set(0, paused=True)
    time.sleep(0.2)
    assert not waited
    throttle.set(0, paused=False)
    thread.join(5)
    assert 0.2 <= waited[0] < 5


def test_stopped_nobody_waits() -> None:
    throttle = Throttle(0.001)
    thread = threading.Thread(target=throttle.take, args=(1000,))
    thread.start()
    throttle.stop()
    thread.join(5)
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
