"""What a move is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field

from recell.adapters.mysql.endpoint import Endpoint
from recell.mover.feed import Echo
from recell.mover.journal import Phase
from recell.mover.throttle import Limits

__all__ = ["Drained", "Options", "Status"]


@dataclass(frozen=True)
class Options:
    """``workers``: chunks copied at once. ``patience_s``: how long a server may be away. ``limits``:
    what the source must be spared. ``replicas``: of the source, whose lag counts. ``alone``: nobody else
    writes to these rows at the target; otherwise others may from :meth:`Move.let_in` on, and the move can't
    be turned back. ``echo``: which of another's rows there are put right instead of stopping the move."""

    workers: int = 2
    patience_s: float = 60.0
    limits: Limits = field(default_factory=Limits)
    replicas: tuple[Endpoint, ...] = ()
    alone: bool = True
    echo: Echo = lambda table, key: False


@dataclass(frozen=True)
class Drained:
    """``position``: of the source, at which both sides were proven equal; ``keys``: looked at for
    that since the writers stopped; ``seconds``: it took."""

    position: str
    keys: int
    seconds: float


@dataclass(frozen=True)
class Status:
    """``rows``: copied so far, of about ``rows_total``; ``rate``: rows per second, of the copy or the
    verification; ``eta_s``: to the end of the copy; ``lag_s``: how long ago the source was as the target
    is now (None before rows are applied); ``dirty``: keys to be applied; ``unproven``: applied and not
    compared yet; ``applied``: keys in this run."""

    phase: Phase
    backward: bool
    rows: int
    rows_total: int
    rate: float
    eta_s: float | None
    lag_s: float | None
    dirty: int
    unproven: int
    applied: int
    paused: bool
    position: str
