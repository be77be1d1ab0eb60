"""A record of what took how long while users waited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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

    def note(self, what: str) -> None:
        """Something that took no time of its own, and explains what did."""
        with self.part(what):
            pass

    def parts(self) -> list[dict[str, Any]]:
        """``what``, ``at_s`` after the beginning, ``seconds``."""
        with self._lock:
            return list(self._parts)
