"""What the relay in front of a moving database tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Side = Literal["old", "new"]
"""``old``: where the database is when the move begins; ``new``: where it shall be."""

Upstream = tuple[str, int]
"""A database server's host (name or address) and TCP port."""


def other(side: Side) -> Side:
    return "new" if side == "old" else "old"


@dataclass(frozen=True)
class Client:
    """A connection of the relay's. ``address``: ``ip:port`` of the client; ``account``: its user, ""
    before it has logged in; ``seconds``: since ``what`` is so; ``what``: a clause for a sentence, such as
    "has had a transaction open"."""

    address: str
    account: str
    seconds: float
    what: str

    def __str__(self) -> str:
        return f"{self.account or 'somebody'} at {self.address} {self.what} for {self.seconds:.1f} s"


@dataclass(frozen=True)
class Held:
    """What came of a hold.

    ``busy`` is empty: all are quiet and stay so. Otherwise nobody is held any more, and these are why.
    ``waited_s``: how long the first client had been waiting when this was known, in seconds.
    ``prepared_s``: before that, for logins at the other side, with nobody waiting.
    ``stateful``: connections that can't be carried over, each with why: a switch closes them.
    """

    connections: int
    waited_s: float
    prepared_s: float = 0.0
    busy: tuple[Client, ...] = ()
    stateful: tuple[Client, ...] = ()

    @property
    def quiet(self) -> bool:
        return not self.busy


@dataclass(frozen=True)
class Switched:
    """A switch that was made: how many connections went over, and were closed, with why."""

    carried: int
    closed: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class RelayState:
    """The relay's own account of itself, since its process began.

    ``side``: where new connections go; committed to disk. ``held``: connections wait now.
    ``lease_s``: seconds until a hold ends by itself, 0.0 without one. ``in_transaction``: connections that a
    hold would have to wait for. ``waiting``: new ones that a hold keeps at the door. ``longest_hold_s``: the
    longest hold, ``last_hold_s``: the latest, from its first moment to its end; ``longest_wait_s``: the
    longest that a client with something to say waited. ``carried``, ``closed``: connections, over all
    switches. ``clients``: addresses without ports.
    ``stateful``: connections that a switch would close now. ``errors``: the last ones, newest last, a
    sentence each; what clients were refused is among them.
    """

    side: Side
    listen: Upstream
    upstreams: dict[Side, Upstream]
    held: bool = False
    lease_s: float = 0.0
    connections: int = 0
    in_transaction: int = 0
    waiting: int = 0
    longest_hold_s: float = 0.0
    last_hold_s: float = 0.0
    longest_wait_s: float = 0.0
    holds: int = 0
    carried: int = 0
    closed: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    started_at: float = 0.0
    clients: tuple[str, ...] = ()
    stateful: tuple[Client, ...] = field(default=())
    errors: tuple[str, ...] = ()
