"""A cell's database on its way from one server to another: where from, where to, how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from recell.model.relay import Side

Thing = Literal["recell", "database", "nova"]
"""What a move makes at a server: recell's own account, the database with its tables, Nova's account."""


@dataclass(frozen=True)
class End:
    """One server. ``host``: its inventory name; ``address`` and ``port``: as Nova's URLs have them;
    ``ips``: of the host, from which recell's own account comes."""

    host: str
    address: str
    port: int
    ips: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Ends:
    """Both servers, and the database that moves; it has the same name on both."""

    old: End
    new: End
    database: str

    def at(self, side: Side) -> End:
        return self.old if side == "old" else self.new

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Ends:
        def end(side: Mapping[str, Any]) -> End:
            return End(str(side["host"]), str(side["address"]), int(side["port"]), tuple(side["ips"]))

        return cls(end(content["old"]), end(content["new"]), str(content["database"]))


@dataclass(frozen=True)
class Login:
    """An account of a database server. Never printed, logged or stored."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Standing:
    """How far the rows are. ``backward``: changes flow from the new server to the old one;
    ``verified``: a full comparison ended well since the copy."""

    phase: Literal["none", "copying", "following", "drained"]
    backward: bool = False
    verified: bool = False


@dataclass(frozen=True)
class Pace:
    """How fast rows are read to be copied or compared. ``rate``: rows per second; 0: as fast as the server
    that is read bears."""

    rate: float = 0.0
    paused: bool = False

    def __str__(self) -> str:
        fast = f"at most {self.rate:,.0f} rows/s" if self.rate else "as fast as the servers bear"
        return f"paused (then: {fast})" if self.paused else fast


@dataclass(frozen=True)
class Session:
    """Somebody who has the database open. ``address``: without the port."""

    id: int
    user: str
    address: str

    def __str__(self) -> str:
        return f"{self.user} from {self.address}"


@dataclass(frozen=True)
class Retention:
    """Of a server's binlog. ``seconds``: how long it is kept, 0.0: until somebody purges it;
    ``needed_from``: the file that the way back begins with; ``there``: it is still there."""

    seconds: float
    needed_from: str = ""
    there: bool = True
