"""Several things that are waited for, side by side; and one that several wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

from recell.errors import RecellError

__all__ = ["Once", "together"]

T = TypeVar("T")

_AT_ONCE = 17
"""Besides the first. A wave of sixteen hosts has two more beside it, and none waits until another ends."""


def together(acts: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, in their order. All end before an error, the first one's, is raised.

    The first runs in the caller's thread: whoever interrupts that interrupts it.
    """
    if len(acts) < 2:
        return [act() for act in acts]
    with ThreadPoolExecutor(min(_AT_ONCE, len(acts) - 1)) as pool:
        others = [pool.submit(act) for act in acts[1:]]
        first = acts[0]()
    return [first, *(one.result() for one in others)]


class Once(Generic[T]):
    """One answer for all who ask at the same time: of a question that begins after each of them asked.

    Who asks alone asks as ever. An error is told to all of them, too.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._begun = self._ended = 0
        self._answer: list[T] = []
        self._error: RecellError | None = None

    def __call__(self) -> T:
        wanted = self._begun + 1  # one that is under way may have looked before what this one did
        with self._lock:
            if self._ended < wanted:
                self._begun += 1
                self._error = None
                try:
                    self._answer = [self._ask()]
                except RecellError as error:
                    self._error = error
                self._ended = self._begun
            if self._error is not None:
                raise self._error
            return self._answer[0]
