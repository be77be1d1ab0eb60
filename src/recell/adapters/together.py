"""Several things that are waited for, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["together"]

T = TypeVar("T")

_AT_ONCE = 16


def together(acts: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, in their order. All end before an error, the first one's, is raised."""
    if len(acts) < 2:
        return [act() for act in acts]
    with ThreadPoolExecutor(min(_AT_ONCE, len(acts))) as pool:
        running = [pool.submit(act) for act in acts]
    return [one.result() for one in running]
