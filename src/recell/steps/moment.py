"""What is done side by side, and a record of what took how long while users waited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_AT_ONCE = 16


def side_by_side(acts: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, in order. After all have ended, the first error in their order is raised."""
    if len(acts) < 2:
        return [act() for act in acts]
    with ThreadPoolExecutor(min(_AT_ONCE, len(acts))) as pool:
        begun = [pool.submit(act) for act in acts]
    return [one.result() for one in begun]


class Moment:
    """Begins now. Parts may overlap; they are in the order in which they ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._parts: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        began = self.seconds
        try:
            yield
        finally:
            with self._lock:
                self._parts.append({"what": what, "at_s": round(began, 3),
                                    "seconds": round(self.seconds - began, 3)})

    def parts(self) -> list[dict[str, Any]]:
        """``what``, ``at_s`` after the beginning, ``seconds``."""
        with self._lock:
            return list(self._parts)
