"""A standard Nova becomes the child of an API cell: :class:`~recell.adapters.v1_port.V1Port` on real servers.

Rows are the mover's, whole tables, with ``cell_name`` given on live instances. The copying ends for good in
the moment when users are led to the API cell; whether it has is kept in the API cell's own database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from threading import Thread
from typing import Any

from recell.adapters.amqp import Amqp
from recell.adapters.cells_rpc import CellsClient
from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.session import Busy, Lost
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.sql import name
from recell.adapters.v1_port import FlavorRows
from recell.errors import Denied, RecellError, StalePlan, StepFailed, Unreachable, Unsupported
from recell.model.moving import Login
from recell.model.relay import Side
from recell.model.rowchange import RowChange
from recell.model.scope import Scope
from recell.model.v1 import Agreement, BothSides, Conversion, Importing, Neighbour, Settled
from recell.model.violation import Violation
from recell.mover import servers, v1_child, v1_failed, v1_mapped, v1_proof
from recell.mover.cell import SIDES, Host
from recell.mover.databases import Databases
from recell.mover.journal import PREFIX, Journal, State
from recell.mover.kept import KeptMove, away
from recell.mover.move import Move, Options
from recell.mover.v1_echo import Heard
from recell.mover.v1_mapped import Places
from recell.mover.v1_survey import troubles
from recell.planning.v1_import import Import, import_of

__all__ = ["CellsConversion"]

MARKER = PREFIX + "v1"
_ROWS = 5000

OpenBroker = Callable[[Side], Amqp]


class CellsConversion(Databases):
    """Not for two threads at once.

    :param servers_: hosts of both database servers. nova: Nova's account in databases. broker: connects
        to a side's broker, as Nova does. permit: asked before every change. cell0: where Nova itself reads
        failed builds, when these have a server of their own.
    """

    def __init__(
        self,
        servers_: Mapping[Side, Host],
        conversion: Conversion,
        ours: Login,
        nova: Login,
        broker: OpenBroker,
        permit: Callable[[], None] = lambda: None,
        cell0: Callable[[], Endpoint] | None = None,
    ) -> None:
        super().__init__(servers_, conversion, ours, nova, permit)
        self.conversion = conversion
        self._broker = broker
        self._cell0 = cell0
        self._kept = KeptMove(self._where)
        self._scope: Scope | None = None
        self._heard: Heard | None = None

    @property
    def _where(self) -> str:
        return f"the database of {self.conversion.old.name} or {self.conversion.new.name}"

    # -- the servers, as their root ----------------------------------------------------------------

    def _make_ours(self, root: Connection, side: Side) -> None:
        super()._make_ours(root, side)
        end = self.conversion.at(side)
        if side == "old" and self.conversion.cell0 and self.conversion.cell0_at is None:
            servers.grant_reader(root, self.ours.user, self._from(side), self.conversion.cell0)
        if not self._doors.enters(side, root):
            raise Denied(
                f"{end.where} refuses recell's own account {self.ours.user}",
                f"See mysql.user there; from its own host it comes as localhost or {', '.join(end.ips)}",
            )

    def troubles(self) -> tuple[Violation, ...]:
        with self._root("old", self._database("old")) as old, self._root("new") as new:
            found = list(troubles(old, new, self.conversion, self._schema(old, "old"), self.nova.user))
        if self.conversion.cell0_at is not None:
            try:
                with self._failed() as session:
                    session.query("SELECT 1 FROM instances LIMIT 1")
            except RecellError as error:
                where = self.conversion.cell0_at[0]
                found.append(Violation("v1:cell0", "stop", where, error.sentence, error.remedy))
        return tuple(found)

    @contextmanager
    def _failed(self) -> Iterator[Connection]:
        """cell0, to be read. :raises Unreachable, Denied: it can't be."""
        if self.conversion.cell0_at is None or self._cell0 is None:
            with self._entered("old", self.conversion.cell0) as session:
                yield session
            return
        place = self._cell0()
        try:
            with closing(Connection(place)) as session:
                yield session
                session.rollback()
        except (Lost, Busy) as lost:
            raise away(place.where, lost) from None

    # -- before rows come --------------------------------------------------------------------------

    def _import(self) -> Import:
        with self._entered("old") as source, self._entered("new") as target:
            return import_of(
                self._schema(source, "old"), self._schema(target, "new"), self.conversion.path
            )

    def clear_seeded(self) -> int:
        self._permit()
        found = self._import()
        count = 0
        with self._entered("new") as session:
            if session.query("SELECT 1 FROM instances LIMIT 1"):
                raise StepFailed(
                    f"{self.conversion.new.where} has instances already",
                    "Name another database in the layout, or drop this one if nobody needs it",
                )
            session.rollback()
            moving = [e.table for e in found.scope.moving if e.table.name in found.clear]
            # Rows that db sync puts there may refer to each other.
            session.execute("SET SESSION foreign_key_checks = 0")
            for table in reversed(moving):
                count += session.execute(f"DELETE FROM {name(table.name)}")
        return count

    def neighbours(self, side: Side) -> tuple[Neighbour, ...]:
        with self._entered(side) as session:
            there = self._columns(session, side)
            rows = session.named("SELECT * FROM cells WHERE deleted = 0 ORDER BY id")
        if "transport_url" not in there:
            return ()
        return tuple(
            Neighbour(str(r["name"] or ""), bool(r["is_parent"]), str(r["transport_url"] or ""),
                      float(r.get("weight_offset") or 0), float(r.get("weight_scale") or 0))
            for r in rows
        )  # fmt: skip

    def _columns(self, session: Connection, side: Side) -> dict[str, str]:
        rows = session.query(
            "SELECT COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = 'cells'",
            (self._database(side),),
        )
        return {str(n).lower(): str(full).lower() for n, full in rows}

    def add_neighbour(self, side: Side, neighbour: Neighbour) -> None:
        for known in self.neighbours(side):
            if known == neighbour:
                return
            if known.name == neighbour.name:
                raise StalePlan(
                    f"the table cells of {self.conversion.at(side).where} has another record of"
                    f" {neighbour.name}",
                    f"Remove it (nova-manage cell delete --name {neighbour.name}), then: recell resume",
                )
        self._permit()
        with self._entered(side) as session:
            there = self._columns(session, side)
            self._fits(there, neighbour, side)
            values: dict[str, Any] = {
                "name": neighbour.name,
                "is_parent": int(neighbour.is_parent),
                "transport_url": neighbour.url,
                "weight_offset": neighbour.weight_offset,
                "weight_scale": neighbour.weight_scale,
                # The column has no default, and NULL is taken for deleted.
                "deleted": 0,
            }
            chosen = {c: v for c, v in values.items() if c in there}
            session.execute(
                f"INSERT INTO cells (created_at, {', '.join(map(name, chosen))})"
                f" VALUES (UTC_TIMESTAMP(), {', '.join(['%s'] * len(chosen))})",
                tuple(chosen.values()),
            )

    def _fits(self, there: Mapping[str, str], neighbour: Neighbour, side: Side) -> None:
        where = self.conversion.at(side).where
        if "transport_url" not in there:
            raise Unsupported(
                f"the table cells of {where} has no column transport_url",
                "Upgrade Nova to Havana or newer, or write records: file in the layout",
            )
        width = there["transport_url"].partition("(")[2].rstrip(")")
        if width.isdigit() and len(neighbour.url) > int(width):
            raise Unsupported(
                f"the URL of {neighbour.name}'s broker has {len(neighbour.url)} characters, and"
                f" cells.transport_url of {where} takes {width}",
                "Write records: file in the layout, or name fewer nodes",
            )

    def remove_neighbour(self, side: Side, neighbour: str) -> None:
        self._permit()
        with self._entered(side) as session:
            session.execute("DELETE FROM cells WHERE name = %s AND deleted = 0", (neighbour,))

    # -- a further child ---------------------------------------------------------------------------

    def child_troubles(self) -> tuple[Violation, ...]:
        with self._root("old", self._database("old")) as old, self._root("new", self._database("new")) as new:
            return tuple(v1_child.troubles(old, new, self.conversion))

    def live(self, side: Side) -> tuple[str, ...]:
        with self._entered(side) as session:
            return v1_child.live(session)

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        self._permit()
        with self._entered("new") as session:
            v1_child.set_weights(session, name, weights)

    def flavors(self, side: Side) -> FlavorRows:
        with self._entered(side) as session:
            return v1_child.flavors(session)

    def set_flavors(self, rows: FlavorRows) -> None:
        self._permit()
        with self._entered("old") as session:
            v1_child.set_flavors(session, rows)

    # -- rows --------------------------------------------------------------------------------------

    def importing(self) -> Importing:
        try:
            marked = self._marked()
            state = None if marked else self._state()
        except Denied:
            return Importing("none")
        except Unreachable as error:
            if "does not exist" in error.sentence:
                return Importing("none")
            raise
        if marked:
            return Importing("live" if marked == "live" else "stale", marked == "live")
        if state is None:
            return Importing("none")
        phase: Any = state.phase if state.phase != "preparing" else "copying"
        return Importing(phase, state.verified)

    def _marked(self) -> str:
        with self._entered("new") as session:
            if MARKER not in servers.table_names(session, self._database("new")):
                return ""
            rows = session.query(f"SELECT phase FROM {name(MARKER)} WHERE id = 1")
        return str(rows[0][0]) if rows else ""

    def _mark(self, phase: str) -> None:
        with self._entered("new") as session:
            _make_marker(session)
            _set_marker(session, phase)

    def _state(self) -> State | None:
        try:
            journal = Journal(self._endpoint("new"))
        except (Lost, Busy) as error:
            raise away(self._where, error) from None
        try:
            return journal.state()
        finally:
            journal.close()

    def _begin(self) -> Move:
        self._permit()
        self._scope = self._import().scope
        child, api = self._endpoint("old"), self._endpoint("new")
        self._heard = Heard(child, api, self._scope)
        return Move(child, api, self._scope, Options(echo=self._heard))

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        phase = self.importing().phase
        if phase == "live":
            return "Nova keeps both sides"
        if phase in ("none", "stale"):
            self._clear()
        return self._kept.follow(self._begin, tell)

    def _clear(self) -> None:
        """Nothing is in the API cell that a copy would meet. The mark goes last: a kill finds it again."""
        self._permit()
        self._kept.leave()
        self._drop_journals()
        moving = [e.table.name for e in self._import().scope.moving]
        with self._entered("new") as session:
            session.execute("SET SESSION foreign_key_checks = 0")
            for table in reversed(moving):
                while session.execute(f"DELETE FROM {name(table)} LIMIT {_ROWS:d}") == _ROWS:
                    session.commit()
                session.commit()
            session.execute(f"DROP TABLE IF EXISTS {name(MARKER)}")

    def catch_up(self, limit_s: float) -> float:
        now = self.importing()
        if now.phase in ("none", "copying", "stale") or not now.verified:
            self.follow(lambda figures: None)
        with self._entered("new") as session:
            _make_marker(session)  # what handing over needs, while nobody waits
        if self.conversion.cell0_at is not None:
            with self._failed():
                pass
        return self._kept.catch_up(self._begin, limit_s)

    def drain(self, limit_s: float) -> str:
        said = self._kept.drain(max(limit_s, 0.1))
        if self._heard is not None and self._heard.rows:
            said += f"; {self._heard.rows} times a row that nova-cells had written was put right"
        return said

    def hand_over(self) -> int:
        # Users wait: what this process knows is not asked for again.
        phase = self._kept.move.phase if self._kept.move is not None else self.importing().phase
        if phase not in ("drained", "live"):
            raise StepFailed(
                f"the API cell's rows are {phase}, not proven equal", "Catch up and drain first"
            )
        self._permit()
        count = 0
        if phase == "drained":
            with self._entered("new") as target:
                if self.conversion.cell0:
                    scope = self._scope or self._import().scope
                    with self._failed() as source:
                        count = v1_failed.bring(source, target, scope)
                if self._kept.move is None:
                    _make_marker(target)  # else it was made before users waited
                _set_marker(target, "live")
        # Its threads end by themselves: users don't wait for that.
        Thread(target=self._kept.leave, name="leave", daemon=True).start()
        return count

    def take_back(self) -> None:
        if self.importing().phase == "live":
            self._permit()
            self._mark("stale")

    def forget(self) -> None:
        self._permit()
        self._kept.leave()
        self._drop_journals()
        with suppress(Denied), self._entered("new") as session:
            session.execute(f"DROP TABLE IF EXISTS {name(MARKER)}")

    def _drop_journals(self) -> None:
        for side in SIDES:
            try:
                if (journal := Journal.there(self._endpoint(side))) is None:
                    continue
                try:
                    journal.drop()
                finally:
                    journal.close()
            except (Lost, Busy) as error:
                raise away(self._where, error) from None

    # -- on to cells v2 ----------------------------------------------------------------------------

    def adopt(self) -> None:
        if self.importing().phase == "none":
            self._permit()
            self._mark("live")

    def _places(self) -> Places:
        one = self.conversion
        return Places(one.old.database, one.cell0, one.api_database, one.old.cell)

    def unmapped(self) -> tuple[str, ...]:
        with self._root("old") as root:
            return v1_mapped.unmapped(root, self._places())

    def map_instances(self) -> int:
        self._permit()
        with self._root("old") as root:
            return v1_mapped.map_instances(root, self._places())

    def settle(self) -> Settled:
        self._permit()
        scope = self._scope = self._scope or self._import().scope
        with self._root("old", self.conversion.cell0) as root, self._entered("new") as api:
            return v1_mapped.settle(root, api, self._places(), scope)

    # -- proofs ------------------------------------------------------------------------------------

    def agreement(self) -> Agreement:
        failed: frozenset[str] = frozenset()
        if self.conversion.cell0:
            with self._failed() as session:
                failed = frozenset(str(u) for (u,) in session.query("SELECT uuid FROM instances"))
        with self._entered("old") as child, self._entered("new") as api:
            return v1_proof.agreement(child, api, self.conversion.path, failed)

    def both_sides(self) -> BothSides:
        with self._entered("old") as child, self._entered("new") as api:
            return v1_proof.both_sides(child, api)

    def mend(self, changes: Sequence[RowChange], seen: BothSides) -> tuple[RowChange, ...]:
        self._permit()
        with self._entered("new") as api:
            return v1_proof.mend(api, changes, seen)

    def stranded(self) -> tuple[str, ...]:
        with self._entered("old") as child, self._entered("new") as api:
            return v1_proof.stranded(child, api, self._import().scope)

    def recount(self, side: Side) -> int:
        if not self.conversion.keeps_usage:
            return 0
        self._permit()
        with self._entered(side) as session:
            return v1_proof.recount(session)

    def picture(self) -> dict[str, Any]:
        with self._entered("old") as session:
            tables = servers.table_names(session, self._database("old"))
            return v1_proof.picture(session, [t for t in tables if not t.startswith(PREFIX)])

    def tidy_services(self, known: Sequence[int]) -> int:
        self._permit()
        with self._entered("old") as session:
            return v1_proof.tidy_services(session, known)

    # -- nova-cells --------------------------------------------------------------------------------

    @contextmanager
    def _cells(self) -> Iterator[CellsClient]:
        broker = self._broker("new")
        try:
            yield CellsClient(broker)
        finally:
            broker.close()

    def answering(self, limit_s: float) -> frozenset[str]:
        with self._cells() as cells:
            return cells.services(limit_s)

    def ask_for_instances(self, since: float) -> int:
        with self._entered("old") as session:
            rows = session.query(
                "SELECT DISTINCT project_id FROM instances WHERE deleted = 0 ORDER BY project_id"
            )
        self._permit()
        with self._cells() as cells:
            for (project,) in rows:
                cells.sync(None if project is None else str(project), since)
        return len(rows)

    def room(self, limit_s: float) -> int:
        with self._cells() as cells:
            return cells.free_memory(self.conversion.old.name, limit_s)

    def close(self) -> None:
        self._kept.leave()
        super().close()


def _set_marker(session: Connection, phase: str) -> None:
    session.execute(f"REPLACE INTO {name(MARKER)} VALUES (1, %s)", (phase,))


def _make_marker(session: Connection) -> None:
    session.execute(
        f"CREATE TABLE IF NOT EXISTS {name(MARKER)}"
        " (id TINYINT NOT NULL PRIMARY KEY, phase VARCHAR(16) NOT NULL) ENGINE=InnoDB"
    )
