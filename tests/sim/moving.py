"""Two database servers, the relay between them and Nova, and the mover, simulated.

A row is a write that somebody was told of. Processes write wherever their address leads them; what
isn't on the server that they use at the end was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recell.adapters.ports import RelayPort
from recell.errors import StepFailed, Unknowable, VerifyFailed
from recell.model.moving import Ends, Login, Pace, Retention, Session, Standing, Thing
from recell.model.relay import Client, Held, RelayState, Side, Switched, Upstream, other
from recell.model.urls import parse_url
from recell.model.violation import Violation

if TYPE_CHECKING:
    from tests.sim.world import SimUnit, SimWorld


@dataclass
class SimServer:
    """``rows``: (write, by the mover?). ``open``: Nova may write there. ``locked``: by a live process."""

    address: Upstream
    accounts: set[str] = field(default_factory=set)
    database: bool = False
    open: bool = False
    locked: bool = False
    rows: list[tuple[int, bool]] = field(default_factory=list)


@dataclass
class SimJournal:
    """What the mover keeps in the databases. ``position`` in the source's rows, ``watched`` in the
    target's."""

    phase: Any
    backward: bool = False
    verified: bool = False
    position: int = 0
    watched: int = 0
    pace: Pace = field(default_factory=Pace)


class SimDatabases:
    """The cell's two servers, and who writes where."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.servers: dict[Side, SimServer] = {
            "old": SimServer(("db1", 3306), {"nova"}, True, True),
            "new": SimServer(("db2", 3306)),
        }
        self.relay = SimRelay(world, self)
        self.journal: SimJournal | None = None
        self.mover: SimMover | None = None
        self.writes = 0

    def reborn(self) -> None:
        """recell's process was killed, or ended: its sessions and leases with it."""
        self.mover = None
        self.relay.held = False
        for server in self.servers.values():
            server.locked = False

    def side_at(self, address: Upstream) -> Side | None:
        """Where an address leads to; None: nowhere."""
        if address == self.relay.listen and self.relay.installed:
            return self.relay.side
        return next((side for side, s in self.servers.items() if s.address == address), None)

    @staticmethod
    def address_of(unit: SimUnit) -> Upstream | None:
        """Of the cell's database, as the process has read it; None: it knows none."""
        if not unit.active or unit.role == "compute":
            return None
        known = unit.config.get("cell1", "|").partition("|")[2]
        own = unit.config["connection"]
        text = own if "/nova_cell0" not in own else known
        if not text:
            return None
        end = parse_url(text).endpoints[0]
        return (end.host, end.port or 3306)

    def users(self) -> list[tuple[str, SimUnit, Upstream]]:
        return [
            (host.name, unit, address)
            for host in self.world.hosts.values()
            for unit in host.units_.values()
            if (address := self.address_of(unit)) is not None
        ]

    def observe(self) -> list[str]:
        """Everybody writes; what users would notice."""
        complaints = []
        for host, unit, address in self.users():
            if address == self.relay.listen and self.relay.held:
                continue  # it waits
            side = self.side_at(address)
            server = self.servers[side] if side else None
            if server is None or not server.open or not server.database:
                complaints.append(f"{unit.name} on {host} can't reach the cell's database at {address}")
            elif not server.locked:
                self.writes += 1
                server.rows.append((self.writes, False))
        return complaints

    def lost(self) -> set[int]:
        """Writes that aren't on the server that Nova uses now."""
        sides = {self.side_at(address) for _, _, address in self.users()}
        assert len(sides) == 1, sides
        side = sides.pop()
        assert side is not None
        return set(range(1, self.writes + 1)) - {row for row, _ in self.servers[side].rows}

    def picture(self) -> dict[str, Any]:
        return {
            **{side: (sorted(s.accounts), s.database, s.open, s.locked) for side, s in self.servers.items()},
            "relay": (self.relay.installed, self.relay.held),
            "journal": (self.journal.phase, self.journal.backward) if self.journal else None,
        }


class SimRelay:
    """:class:`~recell.adapters.relay_port.RelayPort`"""

    host = "db1"

    def __init__(self, world: SimWorld, databases: SimDatabases) -> None:
        self.world = world
        self.databases = databases
        self.installed = False
        self.side: Side = "old"
        self.listen: Upstream = ("db1", 3307)
        self.held = False
        self.busy = 0  # holds that find somebody in a transaction

    def install(
        self, listen: Upstream, upstreams: Mapping[Side, Upstream], accounts: Mapping[str, str],
        side: Side = "old",
    ) -> None:  # fmt: skip
        self.world.point("before the relay is installed")
        assert accounts == {"nova": "dbpw"} and upstreams["new"] == ("db2", 3306)
        if not self.installed:
            self.world.changes.append("relay installed")
            self.installed, self.side = True, side
        self.world.point("the relay is installed")

    def _connections(self) -> list[str]:
        return [host for host, _, address in self.databases.users() if address == self.listen]

    def remove(self) -> None:
        self.world.point("before the relay is removed")
        if self._connections():
            raise StepFailed("somebody is connected through the relay")
        self.world.changes.append("relay removed")
        self.installed = False
        self.world.point("the relay is removed")

    def state(self) -> RelayState | None:
        if not self.installed:
            return None
        found = self._connections()
        return RelayState(self.side, self.listen, {}, self.held, connections=len(found), clients=tuple(found))

    def try_logins(self) -> tuple[str, ...]:
        servers = self.databases.servers
        return tuple(f"{s} refuses nova" for s, v in servers.items() if "nova" not in v.accounts)

    def hold(self, limit_s: float, lease_s: float) -> Held:
        self.world.point("before the relay holds")
        self.world.changes.append("hold")
        self.world.time += 0.05
        if self.busy:
            self.busy -= 1
            busy = Client("ctl1:4711", "nova", limit_s, "has had a transaction open")
            return Held(1, limit_s, busy=(busy,))
        self.held = True
        self.world.observe()
        self.world.point("the relay holds")
        return Held(len(self._connections()), 0.05)

    def renew(self) -> None:
        return None

    def switch(self, side: Side) -> Switched:
        self.world.point("before the switch")
        assert self.held, "a switch without a hold"
        assert self.databases.servers[side].open, "Nova would be refused there"
        self.world.changes.append(f"switch to {side}")
        self.side = side
        self.world.point("switched")
        return Switched(len(self._connections()), 0)

    def release(self) -> None:
        self.world.point("before the release")
        self.held = False
        self.world.observe()
        self.world.point("released")


_relay_port: type[RelayPort] = SimRelay


class SimMover:
    """:class:`~recell.adapters.mover_port.MoverPort`; one for each process of recell's."""

    def __init__(self, databases: SimDatabases, ends: Ends, ours: Login, nova: Login) -> None:
        self.databases = databases
        self.world = databases.world
        self.ends, self.ours, self.nova = ends, ours, nova
        assert nova.user == "nova" and (len(ours.password) > 16 or ours.user == "recell_check")

    def _change(self, what: str) -> None:
        self.world.changes.append(what)
        self.world.point(what)

    def _server(self, side: Side) -> SimServer:
        return self.databases.servers[side]

    def _entered(self, side: Side) -> SimServer:
        server = self._server(side)
        assert self.ours.user in server.accounts, f"recell has no account on the {side} server"
        return server

    # the servers

    def there(self, side: Side) -> frozenset[str]:
        server = self._server(side)
        return frozenset(
            (["recell"] if self.ours.user in server.accounts else [])
            + (["nova"] if "nova" in server.accounts else [])
            + (["database", "tables"] if server.database else [])
        )

    def make(self, side: Side, thing: Thing) -> None:
        self.world.point(f"before {thing} is made on {side}")
        server = self._server(side)
        if thing == "database":
            server.database = True
        else:
            server.accounts.add(self.ours.user if thing == "recell" else "nova")
            server.open = server.open or thing == "nova"
        self._change(f"{thing} made on {side}")

    def drop(self, side: Side, thing: Thing) -> None:
        self.world.point(f"before {thing} is dropped on {side}")
        server = self._server(side)
        if thing == "database":
            assert side == "new" and self.databases.relay.side == "old", "that was the database in use"
            server.database, server.rows = False, []
        else:
            server.accounts.discard(self.ours.user if thing == "recell" else "nova")
            server.open = server.open and thing != "nova"
        self._change(f"{thing} dropped on {side}")

    def troubles(self, open_s: float) -> tuple[Violation, ...]:
        return ()

    # rows

    def standing(self) -> Standing:
        journal = self.databases.journal
        if journal is None or self.ours.user not in self._server("new").accounts:
            return Standing("none")
        return Standing(journal.phase, journal.backward, journal.verified)

    def _ends(self) -> tuple[SimServer, SimServer]:
        journal = self.databases.journal
        source: Side = "new" if journal and journal.backward else "old"
        return self._entered(source), self._entered(other(source))

    def _apply(self) -> None:
        journal = self.databases.journal
        assert journal is not None
        source, target = self._ends()
        if any(not mine for _, mine in target.rows[journal.watched :]):
            raise Unknowable("another writer at the target")
        have = {row for row, _ in target.rows}
        target.rows += [(row, True) for row, _ in source.rows if row not in have]
        journal.position, journal.watched = len(source.rows), len(target.rows)

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        self.world.point("before the copy")
        tell({"rows": 1.0})
        if self.databases.journal is None:
            self.databases.journal = SimJournal("copying")
            self._change("copy begun")
        self._apply()
        journal = self.databases.journal
        journal.phase = "following"
        self._change("copied")
        journal.verified = True
        self._change("verified")
        return "all compared"

    def compare(self, tell: Callable[[dict[str, float]], None]) -> str:
        self._apply()
        return "all compared"

    def pace(self) -> Pace | None:
        return self.databases.journal.pace if self.databases.journal else None

    def set_pace(self, pace: Pace) -> None:
        assert self.databases.journal is not None
        self.databases.journal.pace = pace

    def catch_up(self, limit_s: float) -> float:
        assert self.databases.journal is not None
        self._apply()
        self.databases.journal.phase = "following"
        self.world.time += 0.1
        self.world.observe()
        return 0.1

    def turn(self) -> None:
        self.world.point("before the rows turn")
        journal = self.databases.journal
        assert journal is not None
        if journal.phase != "drained":
            raise StepFailed("not drained")
        source, _ = self._ends()
        if len(source.rows) > journal.position:
            raise Unknowable("rows changed after they were proven equal")
        journal.backward, journal.phase = not journal.backward, "following"
        journal.position, journal.watched = journal.watched, journal.position
        self._change("the rows turned")

    def forget(self) -> None:
        self.world.point("before the mover forgets")
        self.databases.journal = None
        self._change("the mover forgot")

    def retention(self, side: Side) -> Retention:
        return Retention(3 * 86400.0)

    # the moment

    def sessions(self, side: Side) -> tuple[Session, ...]:
        self._entered(side)
        direct = self._server(side).address
        relay = self.databases.relay
        found = []
        for number, (host, _, address) in enumerate(self.databases.users()):
            if address == direct:
                found.append(Session(number, "nova", host))
            elif address == relay.listen and relay.installed and relay.side == side:
                found.append(Session(number, "nova", "db1"))
        return tuple(found)

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        self._entered(side)

    def hold(self, side: Side) -> float:
        self.world.point("before the server holds")
        self._entered(side).locked = True
        self.world.point("the server holds")
        return 0.01

    def drain(self, limit_s: float) -> str:
        journal = self.databases.journal
        assert journal is not None and journal.verified
        source, _ = self._ends()
        assert source.locked and self.databases.relay.held, "drained while somebody could write"
        self._apply()
        journal.phase = "drained"
        self.world.point("drained")
        return "proven equal"

    def prove_held(self) -> None:
        if not any(s.locked for s in self.databases.servers.values()):
            raise VerifyFailed("nothing is held")

    def let_go(self) -> None:
        if not self.world.killed:
            for server in self.databases.servers.values():
                server.locked = False

    def rights(self, side: Side) -> dict[str, Any]:
        assert self._entered(side).open
        return {"of": side}

    def shut(self, side: Side, rights: Mapping[str, Any]) -> None:
        assert rights == {"of": side}
        self.world.point(f"before {side} is shut")
        self._entered(side).open = False
        self._change(f"{side} shut")

    def is_shut(self, side: Side, rights: Mapping[str, Any]) -> bool:
        return not self._entered(side).open

    def reopen(self, side: Side, rights: Mapping[str, Any]) -> None:
        self._entered(side).open = True
        self._change(f"{side} opened")

    def close(self) -> None:
        return None
