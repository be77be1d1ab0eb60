"""What can't be looked at: it ends a scan, or is noted and left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from recell.errors import RecellError

__all__ = ["Trouble", "stop_at", "unless"]

P = ParamSpec("P")
T = TypeVar("T")

Trouble = Callable[[str, RecellError], None]
"""(what could not be looked at, why)"""


def stop_at(area: str, error: RecellError) -> None:
    raise error


def unless(note: Trouble, area: str, ask: Callable[P, T], *args: P.args, **more: P.kwargs) -> T | None:
    """What ``ask`` answers; None, and a note, when it can't."""
    try:
        return ask(*args, **more)
    except RecellError as error:
        note(area, error)
        return None
