"""nova-computes that recell has ended are up in Nova's eyes until they serve again.

Nova takes one that has not reported for a minute for down: nova-api refuses what is asked of its instances,
or deletes them without it, and schedulers go round it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from recell.adapters.ports import World
from recell.errors import RecellError

T = TypeVar("T")
BEAT_S = 5.0
"""Between two words that hosts are up; Nova takes them for down after a minute (service_down_time)."""
POLL_S = 1.0


class Beat:
    """Says so often enough. For threads; one at a time asks the database."""

    def __init__(self, say: Callable[[], object], clock: Callable[[], float]) -> None:
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._last = clock()

    def __call__(self) -> str:
        with self._lock:
            if self._clock() - self._last >= BEAT_S:
                self._say()
                self._last = self._clock()
        return ""


class Away:
    """nova-computes that a step has ended and that don't serve yet. Each is kept up while its step waits for
    it, and no longer: one that does not come back is down. So is one that was down before."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._until: dict[tuple[str, str], tuple[float, float]] = {}
        self._beat = Beat(self._say, world.clock)

    def leave(self, cell: str, host: str, down_s: float, limit_s: float) -> None:
        """``host``, as Nova calls it, does not report for ``limit_s`` at most. ``down_s``: after which time
        Nova takes it for down."""
        with self._lock:
            self._until[cell, host] = (self._world.clock() + limit_s, down_s)

    def back(self, cell: str, host: str) -> None:
        """It serves, or it is not waited for any longer."""
        with self._lock:
            self._until.pop((cell, host), None)

    def beside(self, acts: Sequence[Callable[[], T]], *meanwhile: Callable[[], object]) -> list[T]:
        """Side by side with each other, with the beat, and with what is to be done every second
        ``meanwhile``, each in a thread of its own; both end when the acts have. What each act returns."""
        going = [True] * len(acts)
        told: dict[int, T] = {}

        def run(number: int, act: Callable[[], T]) -> None:
            try:
                told[number] = act()
            finally:
                going[number] = False

        def again(do: Callable[[], object]) -> None:
            while any(going):
                do()
                self._world.wait(POLL_S)

        # The acts come first: a rehearsal does one thing after the other, and waits for none.
        all_: list[Callable[[], None]] = [partial(run, n, act) for n, act in enumerate(acts)]
        kept: tuple[Callable[[], object], ...] = (self._beat, *meanwhile)
        all_ += [partial(again, do) for do in kept]
        self._world.together(all_)
        return [told[number] for number in range(len(acts))]

    def _say(self) -> None:
        now = self._world.clock()
        with self._lock:
            for key in [k for k, (until, _) in self._until.items() if now > until]:
                del self._until[key]
            found: dict[tuple[str, float], list[str]] = {}
            for (cell, host), (_, down_s) in self._until.items():
                found.setdefault((cell, down_s), []).append(host)
        for (cell, down_s), hosts in found.items():
            # A database that can't be asked is said by those who need its answer.
            with suppress(RecellError):
                self._world.nova().keep_up(cell, hosts, down_s)
