"""Hosts on their way from one cell to another: the two cells, the hosts, how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from recell.model.moving import End, Ends
from recell.model.relay import Side


@dataclass(frozen=True)
class CellEnd:
    """A cell as hosts that move see it.

    ``cell``: its uuid. ``server``, ``address``, ``port``, ``ips``: of its database's server, as in
    :class:`~recell.model.moving.End`. ``broker``: by name; ``broker_node``: a host of it, ``vhost``: as
    RabbitMQ spells it.
    """

    cell: str
    name: str
    server: str
    address: str
    port: int
    database: str
    broker: str
    broker_node: str
    vhost: str
    ips: tuple[str, ...] = ()

    @property
    def end(self) -> End:
        return End(self.server, self.address, self.port, self.ips)

    @property
    def where(self) -> str:
        return f"{self.database} on {self.address}:{self.port}"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CellEnd:
        return cls(**{**content, "ips": tuple(content["ips"])})


@dataclass(frozen=True)
class TwoCells:
    """Each with a database, a server and a broker of its own."""

    old: CellEnd
    new: CellEnd

    def at(self, side: Side) -> CellEnd:
        return self.old if side == "old" else self.new

    @property
    def ends(self) -> Ends:
        """Both servers. Each cell's database has a name of its own; here it is the old one's."""
        return Ends(self.old.end, self.new.end, self.old.database)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class HostsMove(TwoCells):
    """``old``, ``new``: where the plan takes the hosts from, and where to. ``hosts``: their names in Nova."""

    hosts: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> HostsMove:
        old, new = CellEnd.from_json(content["old"]), CellEnd.from_json(content["new"])
        return cls(old, new, tuple(content["hosts"]))


@dataclass(frozen=True)
class Following:
    """How far the rows are. ``toward``: the side that gets them; ``verified``: a full comparison ended well
    since the copy."""

    phase: Literal["none", "copying", "following", "drained"]
    toward: Side = "new"
    verified: bool = False


@dataclass(frozen=True)
class Flipped:
    """Rows of the API database that name another cell now."""

    hosts: int
    instances: int


@dataclass(frozen=True)
class Late:
    """Rows that were written to the cell that was left, after both sides had been proven equal.
    ``carried``: brought to the other cell; ``stale``: overtaken there by something newer; ``lost``: neither,
    each named."""

    carried: int = 0
    stale: int = 0
    lost: tuple[str, ...] = ()

    def __add__(self, other: Late) -> Late:
        return Late(self.carried + other.carried, self.stale + other.stale, self.lost + other.lost)


@dataclass(frozen=True)
class Carried:
    """Requests that waited at one broker and were given to the other. ``calls``: of them, those whose sender
    waits for an answer; ``answers``: brought back."""

    requests: int = 0
    calls: int = 0
    answers: int = 0

    def __add__(self, other: Carried) -> Carried:
        return Carried(self.requests + other.requests, self.calls + other.calls, self.answers + other.answers)
