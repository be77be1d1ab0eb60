"""What `recell check` finds: a reason not to begin, or something to know before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["stop", "warning"]


@dataclass(frozen=True)
class Violation:
    """``id`` is stable for the same finding in the same place, so that a layout can acknowledge it.

    ``stop``: apply refuses. A ``stop`` whose ``may_accept`` is set becomes a warning when the layout
    acknowledges its id: the operator knows something that recell can't see.
    """

    id: str
    severity: Severity
    where: str
    what: str
    remedy: str
    may_accept: bool = False
