"""The databases of two cells, each with a name of its own: how they are entered, made and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.schema import read_schema
from recell.errors import StepFailed, Unsupported
from recell.model.hosts import TwoCells
from recell.model.moving import Login, Thing
from recell.model.relay import Side, other
from recell.model.scope import Schema
from recell.mover import servers
from recell.mover.cell import CellMove, Host
from recell.mover.journal import PREFIX

__all__ = ["Databases"]


class Databases:
    """Not for two threads at once.

    :param servers_: hosts of both database servers. nova: Nova's account in databases. permit: asked before
        every change.
    """

    def __init__(
        self,
        servers_: Mapping[Side, Host],
        cells: TwoCells,
        ours: Login,
        nova: Login,
        permit: Callable[[], None],
    ) -> None:
        self._both, self.ours, self.nova = cells, ours, nova
        self._doors = CellMove(servers_, cells.ends, ours, nova, permit)
        self._permit = permit

    def close(self) -> None:
        """End threads and sessions; what was done is kept."""
        self._doors.close()

    # -- how servers are entered -------------------------------------------------------------------

    def _database(self, side: Side) -> str:
        return self._both.at(side).database

    @contextmanager
    def _root(self, side: Side, database: str = "") -> Iterator[Connection]:
        with self._doors.entered(side, root=True, database=database) as root:
            yield root

    @contextmanager
    def _entered(self, side: Side, database: str = "") -> Iterator[Connection]:
        with self._doors.entered(side, database=database or self._database(side)) as session:
            yield session

    def _endpoint(self, side: Side) -> Endpoint:
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
        """A database and Nova's account are made like those of the other side."""
        self._permit()
        database, model = self._database(side), self._database(other(side))
        with self._root(side) as root:
            if thing == "recell":
                self._make_ours(root, side)
                return
            with self._root(other(side)) as theirs:
                if thing == "database":
                    servers.make_database(theirs, model, root, database)
                    return
                grants = servers.rights_of(theirs, self.nova.user, model)
                hosts = servers.account_hosts(theirs, self.nova.user)
                plugin = servers.login_plugin(theirs, root, self.nova.user)
            if not grants:
                raise StepFailed(
                    f"{self.nova.user} has no rights on {model} by itself that recell could give it on"
                    f" {database}",
                    "Give it rights on this database, then: recell resume",
                )
            servers.make_account(root, self.nova, hosts, plugin)
            servers.give_rights(root, servers.rights_for(grants, database), database)

    def _from(self, side: Side) -> tuple[str, ...]:
        """Where recell's account comes from, as the server sees it."""
        return ("localhost", "127.0.0.1", *self._both.at(side).ips)

    def _make_ours(self, root: Connection, side: Side) -> None:
        if not root.mariadb:
            raise Unsupported(f"{root.endpoint.where} is MySQL ({root.version})",
                              "recell moves hosts, and makes cells v1, on MariaDB alone")
        servers.make_account(root, self.ours, self._from(side))
        servers.grant_mover(root, self.ours.user, self._from(side), self._database(side))

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
