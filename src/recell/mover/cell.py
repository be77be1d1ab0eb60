"""A cell's whole database moves: :class:`~recell.adapters.mover_port.MoverPort` on real servers.

The servers are entered in two ways: as their root, by the unix socket on their own host, to make and
remove accounts; and by an account of recell's own, from the same host, for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pymysql

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Busy, Lost, translated
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.ports import Finished
from recell.adapters.schema import compare_schemas, read_schema
from recell.errors import Denied, RecellError, StepFailed, Unknowable, Unreachable, VerifyFailed
from recell.model.moving import Ends, Login, Pace, Retention, Session, Standing, Thing
from recell.model.relay import Side
from recell.model.scope import Schema
from recell.model.violation import Violation
from recell.mover import servers
from recell.mover.fence import Hold
from recell.mover.gap import carry_counters
from recell.mover.identity import identity
from recell.mover.journal import PREFIX, Journal, State, make_tables, set_pace
from recell.mover.kept import KeptMove, away, found_equal, told
from recell.mover.move import Move
from recell.mover.shut import Grants, prove_shut, reopen, shut, survey
from recell.mover.survey import troubles
from recell.planning.ini import get
from recell.planning.tables import cell_scope

__all__ = ["SIDES", "CellMove", "Host"]

SIDES: tuple[Side, Side] = ("old", "new")
SOCKETS = (
    "/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/run/mysql/mysql.sock",
    "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock",  # noqa: S108 (where a server may have its socket)
)


class Host(Protocol):
    """A database server's host: :class:`recell.adapters.ssh.SshHost`."""

    name: str

    def query(self, argv: Sequence[str]) -> Finished: ...
    def read(self, path: str) -> bytes | None: ...
    def glob(self, pattern: str) -> tuple[str, ...]: ...
    def forward(self, host: str, port: int) -> Path: ...
    def unforward(self, local: Path, host: str, port: int) -> None: ...
    def forward_socket(self, path: str) -> Path: ...
    def unforward_socket(self, local: Path, path: str) -> None: ...


class CellMove:
    """Not for two threads at once.

    :param hosts: the two servers' hosts. permit: asked before every change; raises Locked when this run
        may change nothing any more. A database knows no owner file.
    """

    def __init__(
        self, hosts: Mapping[Side, Host], ends: Ends, ours: Login, nova: Login,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self._hosts = dict(hosts)
        self.ends = ends
        self.ours = ours
        self.nova = nova
        self._permit = permit
        self._doors: dict[tuple[Side, str], Path] = {}
        self._kept = KeptMove(f"a server of {ends.database}")
        self._hold: Hold | None = None

    # -- how servers are entered -------------------------------------------------------------------

    def root(self, side: Side, database: str = "") -> Connection:
        """:raises Denied: root is refused, or has no socket there."""
        host, end = self._hosts[side], self.ends.at(side)
        known = (host.read("/root/.my.cnf") or b"").decode("utf-8", "replace")
        socket = get(known, "client", "socket") or next((s for s in SOCKETS if host.glob(s)), "")
        if not socket:
            raise Denied(f"no database server on {host.name} has a unix socket in a known place",
                         "Name it as socket under [client] in /root/.my.cnf there")
        door = self._door(side, socket, lambda: host.forward_socket(socket))
        user = get(known, "client", "user") or "root"
        password = (get(known, "client", "password") or "").strip("'\"")
        return Connection(Endpoint(end.address, user, password, database, end.port, unix_socket=str(door)))

    def endpoint(self, side: Side, login: Login | None = None, database: str | None = None) -> Endpoint:
        host, end = self._hosts[side], self.ends.at(side)
        door = self._door(side, end.where, lambda: host.forward(end.address, end.port))
        login = login or self.ours
        move = self._kept.move
        known = () if move is None else (move.source if side == "old" else move.target).server
        return Endpoint(end.address, login.user, login.password,
                        self.ends.database if database is None else database, end.port, unix_socket=str(door),
                        server=known, forwarded=True)

    def _door(self, side: Side, name: str, make: Callable[[], Path]) -> Path:
        door = self._doors.get((side, name))
        if door is None or not door.exists():
            door = self._doors[side, name] = make()
        return door

    @contextmanager
    def entered(
        self, side: Side, *, root: bool = False, database: str | None = None
    ) -> Iterator[Connection]:
        """A session, closed at the end. What a server doesn't answer is Unreachable."""
        where = self.ends.at(side).where
        try:
            session = (self.root(side, database or "") if root
                       else Connection(self.endpoint(side, database=database)))
        except (Lost, Busy) as lost:
            raise Unreachable(f"the database server {where} does not answer ({lost})",
                              "Check that it runs and is reachable from its own host") from None
        try:
            yield session
            session.commit()
        except (Lost, Busy) as lost:
            raise _broke_off(where, lost) from None
        except pymysql.Error as error:  # of a schema, which is read by the connection itself
            found = translated(error, session.endpoint)
            raise (found if isinstance(found, RecellError) else _broke_off(where, found)) from None
        finally:
            session.close()

    # -- what is there, made, dropped --------------------------------------------------------------

    def there(self, side: Side) -> frozenset[str]:
        found: set[str] = set()
        with self.entered(side, root=True) as root:
            if servers.has_account(root, self.ours.user) and self.enters(side, root):
                found.add("recell")
            if servers.account_hosts(root, self.nova.user) and servers.rights_of(
                root, self.nova.user, self.ends.database
            ):
                found.add("nova")
            tables = servers.table_names(root, self.ends.database)
            if tables:
                found.add("tables")
            if servers.has_database(root, self.ends.database) and self._alike(side):
                found.add("database")
        return frozenset(found)

    def enters(self, side: Side, root: Connection) -> bool:
        """Whether recell's account leads, by Nova's address, to the server that its root is in.

        :raises Unknowable: the address leads to another server.
        """
        try:
            session = Connection(self.endpoint(side, database=""))
        except Denied:
            return False
        except (Lost, Busy) as lost:
            raise Unreachable(f"{self.ends.at(side).where} does not answer ({lost})",
                              "Check that the server listens there") from None
        try:
            same = identity(session) == identity(root)
        finally:
            session.close()
        if not same:
            raise Unknowable(
                f"{self.ends.at(side).where} leads to another server than the one on"
                f" {self._hosts[side].name}",
                "Write from: in the layout, or the server's own address",
            )
        return True

    def _alike(self, side: Side) -> bool:
        if side == "old":
            return True
        with self.entered("old", root=True) as mine, self.entered("new", root=True) as theirs:
            return not compare_schemas(self._schema(mine), self._schema(theirs))

    def make(self, side: Side, thing: Thing) -> None:
        self._permit()
        end = self.ends.at(side)
        if thing == "recell":
            with self.entered(side, root=True) as root:
                hosts = ("localhost", "127.0.0.1", *end.ips)
                servers.make_account(root, self.ours, hosts)
                servers.grant_mover(root, self.ours.user, hosts, self.ends.database)
                if not self.enters(side, root):
                    raise Denied(f"{end.where} refuses recell's own account {self.ours.user}",
                                 "See mysql.user there; from its own host it comes as localhost or"
                                 f" {', '.join(end.ips)}")
        elif thing == "database":
            with self.entered("old", root=True, database=self.ends.database) as source, \
                    self.entered(side, root=True) as root:
                servers.copy_tables(source, root, self.ends.database, PREFIX)
        else:
            self._make_nova(side)

    def _make_nova(self, side: Side) -> None:
        with self.entered("old", root=True) as old, self.entered(side, root=True) as new:
            grants = servers.rights_of(old, self.nova.user, self.ends.database)
            if not grants:
                raise Denied(f"{self.nova.user} has no rights on {self.ends.database} on"
                             f" {self.ends.old.where} that recell could give it on {self.ends.new.where}",
                             "Give it rights on this database by itself, then scan again")
            hosts = servers.account_hosts(old, self.nova.user)
            servers.make_account(new, self.nova, hosts, servers.login_plugin(old, new, self.nova.user))
            servers.give_rights(new, grants, self.ends.database)
        try:
            Connection(self.endpoint(side, self.nova)).close()
        except Denied as denied:
            raise Denied(denied.sentence, f"Let {self.nova.user} come from {self.ends.new.host} and"
                         f" {self.ends.old.host} with the same password as on the old server") from None
        except (Lost, Busy) as lost:
            raise Unreachable(f"{self.ends.at(side).where} does not answer ({lost})",
                              "Check that the server listens there") from None

    def drop(self, side: Side, thing: Thing) -> None:
        self._permit()
        if thing == "recell":
            self.close()
        with self.entered(side, root=True) as root:
            if thing == "recell":
                servers.drop_account(root, self.ours.user)
            elif thing == "nova":
                servers.take_rights(root, self.nova.user, self.ends.database)
            else:
                servers.drop_database(root, self.ends.database)

    def troubles(self, open_s: float) -> tuple[Violation, ...]:
        with self.entered("old", root=True, database=self.ends.database) as old, \
                self.entered("new", root=True) as new:
            return troubles(old, new, self.ends, self.nova.user, open_s, self._free("new", new))

    def _free(self, side: Side, root: Connection) -> int | None:
        """Bytes free where the server has its data; None when its host doesn't tell."""
        said = self._hosts[side].query(["df", "-B1", "--output=avail", root.variable("datadir")])
        free = [int(word) for word in said.stdout.split() if word.isdigit()]
        return min(free) if said.returncode == 0 and free else None

    # -- rows ----------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        states: list[State] = []
        for side in SIDES:
            try:
                journal = Journal.there(self.endpoint(side))
            except (Lost, Busy) as error:
                raise away(self.ends.at(side).where, error) from None
            if journal is None:
                continue
            try:
                state = journal.state()
            finally:
                journal.close()
            if state is not None and state.phase != "reversed":
                states.append(state)
        if not states:
            return Standing("none")
        state = min(states, key=lambda s: s.generation)
        phase: Any = state.phase
        return Standing(phase, state.generation % 2 == 1, state.verified)

    def _schema(self, session: Connection) -> Schema:
        schema = read_schema(session.connection, self.ends.database)
        return Schema(schema.database, tuple(t for t in schema.tables if not t.name.startswith(PREFIX)))

    def _begin(self) -> Move:
        self._permit()
        with self.entered("old") as session:
            scope = cell_scope(self._schema(session))
        old, new = self.endpoint("old"), self.endpoint("new")
        # Made before the first position is taken: in the moment itself there is no time for it.
        for end in (old, new):
            make_tables(end)
        return Move(old, new, scope)

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        return self._kept.follow(self._begin, tell)

    def compare(self, tell: Callable[[dict[str, float]], None]) -> str:
        if self.standing().phase != "following":
            raise StepFailed("there is nothing to compare: rows are not being followed",
                             "recell status says how far the run is")
        with self._kept.going(self._begin) as move:
            move.follow()
            report = told(move, Move.verify, tell)
            return found_equal(report, "keep writers out, and mend these rows before going on")

    def pace(self) -> Pace | None:
        standing = self.standing()
        if standing.phase == "none":
            return None
        journal = Journal(self.endpoint("old" if standing.backward else "new"))
        try:
            return Pace(*journal.control())
        finally:
            journal.close()

    def set_pace(self, pace: Pace) -> None:
        set_pace([self.endpoint(side) for side in SIDES], pace)

    def catch_up(self, limit_s: float) -> float:
        return self._kept.catch_up(self._begin, limit_s, self._carry_numbers)

    def _carry_numbers(self, move: Move) -> None:
        self._permit()
        here, there = reversed(SIDES) if move.backward else SIDES
        with self.entered(here) as source, self.entered(there) as target:
            carry_counters(source, target, self._schema(source))

    def turn(self) -> None:
        with self._kept.going(self._begin) as move:
            move.reverse()

    def forget(self) -> None:
        self._permit()
        self._kept.leave()
        for side in SIDES:
            if (journal := Journal.there(self.endpoint(side))) is None:
                continue
            try:
                journal.drop()
            finally:
                journal.close()

    def retention(self, side: Side) -> Retention:
        with self.entered(side) as session:
            kept = servers.binlog_kept_s(session)
            files = session.binlogs()
        journal = Journal(self.endpoint("old" if side == "new" else "new"))
        try:
            state = journal.state()
        finally:
            journal.close()
        file = state.proven.partition(":")[0] if state is not None else ""
        return Retention(kept, file, not file or file in files)

    # -- the moment ----------------------------------------------------------------------------------

    def sessions(self, side: Side) -> tuple[Session, ...]:
        with self.entered(side, database="") as session:
            return servers.sessions(session, self.ends.database, self.ours.user)

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        self.let_go()
        hold = Hold(self.endpoint(side), patience_s=limit_s)
        with self._holding(side, hold):
            hold.prepare()

    def hold(self, side: Side) -> float:
        hold = self._hold
        if hold is None:
            raise StepFailed("no hold was prepared", "Prepare it first")
        with self._holding(side, hold):
            return hold.begin()

    @contextmanager
    def _holding(self, side: Side, hold: Hold) -> Iterator[None]:
        try:
            yield
        except (Lost, Busy) as lost:
            hold.end()
            raise StepFailed(f"{self.ends.at(side).where} broke off while it was held ({lost})",
                             "Nobody is held; try again") from None
        self._hold = hold

    def drain(self, limit_s: float) -> str:
        return self._kept.drain(limit_s)

    def prove_held(self) -> None:
        if self._hold is None:
            raise VerifyFailed("nothing is held", "Begin the hold again")
        self._hold.prove()

    def let_go(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.end()

    def rights(self, side: Side) -> dict[str, Any]:
        with self.entered(side) as session:
            return survey(session, self.ends.database, [self.ours.user]).to_json()

    def shut(self, side: Side, rights: Mapping[str, Any]) -> None:
        self._permit()
        grants = Grants.from_json(rights)
        with self.entered(side) as session:
            shut([session], grants)
            prove_shut([session], grants)

    def is_shut(self, side: Side, rights: Mapping[str, Any]) -> bool:
        with self.entered(side) as session:
            try:
                prove_shut([session], Grants.from_json(rights))
            except VerifyFailed:
                return False
            return True

    def reopen(self, side: Side, rights: Mapping[str, Any]) -> None:
        self._permit()
        with self.entered(side) as session:
            reopen(session, Grants.from_json(rights))

    def close(self) -> None:
        self.let_go()
        self._kept.leave()
        doors, self._doors = self._doors, {}
        for (side, name), door in doors.items():
            host, end = self._hosts[side], self.ends.at(side)
            with suppress(RecellError):
                if name == end.where:
                    host.unforward(door, end.address, end.port)
                else:
                    host.unforward_socket(door, name)


def _broke_off(where: str, why: Exception) -> Unreachable:
    return Unreachable(f"the database server {where} broke off ({why})",
                       "Make it reachable, then: recell resume")
