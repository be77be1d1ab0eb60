"""What two cells of hosts that move need at their database servers, and how these are entered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from recell.adapters.mysql.session import Busy
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.sql import name
from recell.adapters.schema import compare_schemas, read_schema
from recell.errors import StepFailed
from recell.model.hosts import HostsMove
from recell.model.moving import Login, Thing
from recell.model.relay import Side, other
from recell.model.scope import Schema
from recell.mover import servers
from recell.mover.cell import CellMove, Host
from recell.mover.gap import part_counters, plan_gap, raise_counters, read_counters
from recell.mover.journal import PREFIX
from recell.planning.tables import SEEDED_BY_SYNC, with_hosts

__all__ = ["CellMaking"]


class CellMaking:
    """As :class:`~recell.mover.hosts.CellHosts`, whose part it is."""

    def __init__(
        self,
        servers_: Mapping[Side, Host],
        move: HostsMove,
        ours: Login,
        nova: Login,
        permit: Callable[[], None],
    ) -> None:
        self.move, self.ours, self.nova = move, ours, nova
        self._doors = CellMove(servers_, move.ends, ours, nova, permit)
        self._permit = permit

    def close(self) -> None:
        """End threads and sessions; what was done is kept."""
        self._doors.close()

    # -- how servers are entered -------------------------------------------------------------------

    def _database(self, side: Side) -> str:
        return self.move.at(side).database

    @contextmanager
    def _root(self, side: Side, *, inside: bool = False) -> Iterator[Connection]:
        with self._doors.entered(side, root=True, database=self._database(side) if inside else "") as root:
            yield root

    @contextmanager
    def _entered(self, side: Side) -> Iterator[Connection]:
        with self._doors.entered(side, database=self._database(side)) as session:
            yield session

    def _endpoint(self, side: Side) -> Any:
        return self._doors.endpoint(side, database=self._database(side))

    def _schema(self, session: Connection, side: Side) -> Schema:
        schema = read_schema(session.connection, self._database(side))
        return Schema(schema.database, tuple(t for t in schema.tables if not t.name.startswith(PREFIX)))

    # -- the servers, as their root ----------------------------------------------------------------

    def there(self, side: Side) -> frozenset[str]:
        found: set[str] = set()
        database = self._database(side)
        with self._root(side) as root:
            if servers.has_database(root, database):
                found.add("database")
                if [t for t in servers.table_names(root, database) if not t.startswith(PREFIX)]:
                    found.add("tables")
            if servers.account_hosts(root, self.nova.user) and servers.rights_of(
                root, self.nova.user, database
            ):
                found.add("nova")
            if servers.rights_of(root, self.ours.user, database) and self._doors.enters(side, root):
                found.add("recell")
        return frozenset(found)

    def make(self, side: Side, thing: Thing) -> None:
        self._permit()
        end, database = self.move.at(side), self._database(side)
        with self._root(side) as root:
            if thing == "recell":
                hosts = ("localhost", "127.0.0.1", *end.ips)
                servers.make_account(root, self.ours, hosts)
                servers.grant_mover(root, self.ours.user, hosts, database)
            elif thing == "database":
                with self._root(other(side)) as model:
                    servers.make_database(model, self._database(other(side)), root, database)
            else:
                with self._root(other(side)) as model:
                    grants = servers.rights_of(model, self.nova.user, self._database(other(side)))
                    hosts = servers.account_hosts(model, self.nova.user)
                if not grants:
                    raise StepFailed(
                        f"{self.nova.user} has no rights on {self._database(other(side))} by itself that"
                        f" recell could give it on {database}",
                        "Give it rights on this database, then: recell resume",
                    )
                servers.make_account(root, self.nova, hosts)
                servers.give_rights(root, servers.rights_for(grants, database), database)

    def drop(self, side: Side, thing: Thing) -> None:
        self._permit()
        database = self._database(side)
        if thing == "recell":
            self.close()
        with self._root(side) as root:
            if thing == "recell":
                servers.drop_account(root, self.ours.user)
            elif thing == "nova":
                servers.take_rights(root, self.nova.user, database)
            else:
                servers.drop_database(root, database)

    def differences(self) -> tuple[str, ...]:
        with self._root("old", inside=True) as old, self._root("new", inside=True) as new:
            both = (with_hosts(self._schema(old, "old")), with_hosts(self._schema(new, "new")))
            return compare_schemas(*both)

    def part(self, toward: Side) -> None:
        self._permit()
        with self._entered(toward) as mine, self._entered(other(toward)) as theirs:
            schema, source = self._schema(mine, toward), self._schema(theirs, other(toward))
            here, there = read_counters(mine, schema), read_counters(theirs, source)
            if all(number > there.get(table, 0) for table, number in here.items()):
                return
            tables = ("instances", "services", "compute_nodes")
            used = any(mine.query(f"SELECT 1 FROM {name(t)} LIMIT 1") for t in tables)
            mine.rollback()
            if used:
                self._apart(mine, theirs, with_hosts(schema))
            else:
                raise_counters(mine, schema, plan_gap(schema, [there]), SEEDED_BY_SYNC)

    def _apart(self, mine: Connection, theirs: Connection, schema: Schema) -> None:
        for attempt in range(10):
            try:
                part_counters(mine, theirs, schema)
                return
            except Busy as busy_:
                if attempt == 9:
                    raise StepFailed(
                        f"the counters of {mine.endpoint.where} could not be raised ({busy_})",
                        "A long transaction uses a table; try again at a calmer hour",
                    ) from None
