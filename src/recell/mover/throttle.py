"""How fast rows may be read: what the operator wants, and what the source can bear."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Limits", "Throttle"]

_LEAST = 50.0
_BEGIN = 50_000.0


@dataclass(frozen=True)
class Limits:
    """``latency_s``: how long a trivial read of the source may take; ``replica_lag_s``: how far its
    replicas may be behind."""

    latency_s: float = 0.25
    replica_lag_s: float = 10.0


class Throttle:
    """Rows per second, shared by all threads that read in bulk.

    :param rate: 0 is no limit. It can be changed, and work paused, while others wait in :meth:`take`.
    """

    def __init__(self, rate: float = 0.0, limits: Limits | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or Limits()
        self._clock = clock
        self._changed = threading.Condition()
        self._rate = rate
        self._bearable = 0.0  # 0: the source has shown no strain
        self._paused = self._stopped = False
        self._free_at = clock()
        self._rows = 0

    @property
    def rate(self) -> float:
        """In force now, rows per second; 0 is no limit."""
        limits = [r for r in (self._rate, self._bearable) if r > 0]
        return min(limits, default=0.0)

    @property
    def rows(self) -> int:
        """Taken so far."""
        return self._rows

    @property
    def paused(self) -> bool:
        return self._paused

    def set(self, rate: float, paused: bool) -> None:
        with self._changed:
            if (rate, paused) != (self._rate, self._paused):
                self._rate, self._paused = rate, paused
                self._free_at = self._clock()
                self._changed.notify_all()

    def stop(self) -> None:
        """Nobody waits any longer, whatever the limits."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def observe(self, latency_s: float, replica_lag_s: float = 0.0) -> None:
        """Beyond a limit the rate is halved; below all of them it recovers by a tenth."""
        with self._changed:
            if latency_s > self.limits.latency_s or replica_lag_s > self.limits.replica_lag_s:
                self._bearable = max(_LEAST, (self.rate or _BEGIN) / 2)
            elif self._bearable:
                self._bearable *= 1.1
                if self._bearable > (self._rate or _BEGIN):
                    self._bearable = 0.0
            self._changed.notify_all()

    def take(self, rows: int) -> None:
        """Account for ``rows`` that were read; wait until more may be."""
        with self._changed:
            self._rows += rows
            debt = float(rows)
            while not self._stopped:
                now = self._clock()
                if self._paused:
                    self._changed.wait(1.0)
                    continue
                rate = self.rate
                if rate <= 0:
                    return
                if debt:
                    self._free_at = max(self._free_at, now) + debt / rate
                    debt = 0.0
                if self._free_at <= now:
                    return
                self._changed.wait(min(1.0, self._free_at - now))
